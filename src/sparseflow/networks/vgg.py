"""VGG16 of the paper: thirteen plain convolutions, without biases, norms or wide linear layers."""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

from sparseflow._checks import check_choice
from sparseflow.networks.size import STEMS, channels

#: Convolutions in each group, and their channels at width 1.
_GROUPS = ((2, 64), (2, 128), (3, 256), (3, 512), (3, 512))
#: Stem -> how many groups end with a max-pool.
_POOLED = {"imagenet": 4, "cifar": 3}


def vgg16(num_classes: int = 1000, *, width: float = 1.0, stem: str = "imagenet") -> nn.Sequential:
    """VGG16 as in the authors' code, a chain of named layers; 15222464 weights and nothing else.

    Five groups of 3x3 convolutions (2x64, 2x128, 3x256, 3x512, 3x512 channels, one pixel of zeros around, ReLU after
    each), 2x2 max-pooling after the first four groups, the mean over each map, and ``fc8``, a 1x1 convolution to the
    logits. It is not the VGG16 of 138 million parameters: there are no biases, no linear layers of 4096 units and no
    dropout, and there is no batch norm either, so the start alone decides whether the signal survives.

    Maps of 224x224 images end at 14x14. Those of 32x32 images would end at 2x2, where more than half of what a 3x3
    kernel sees is padding; ``stem="cifar"`` leaves out the fourth pool, and they end at 4x4, as those of
    :func:`~sparseflow.networks.resnet50` do. The weights are the same. Without that stem images of any other
    size work too.

    Args:
        num_classes: Number of logits; never scaled.
        width: Factor of all channels, see :func:`~sparseflow.networks.channels`; 0.44 is the Small Dense twin
            of an 80 % sparse network (3062313 weights).
        stem: ``"imagenet"`` or ``"cifar"``.

    Returns: ``(N, 3, height, width)`` in, ``(N, num_classes)`` logits out. Its parameters are drawn by torch's default;
    :func:`~sparseflow.networks.build_network` draws the paper's start.

    Raises:
        ValueError: if the stem is unknown or the width leaves no channel.

    Note:
        With the stem of ImageNet ``global_pool`` takes maps of any size. :func:`sparseflow.engine.plan` wants to know
        theirs: write ``model.global_pool = nn.AvgPool2d(14)`` first, for images of 224x224.

    Reference: Simonyan and Zisserman (2015), *Very Deep Convolutional Networks for Large-Scale Image Recognition*;
    protocol G.3.

    >>> import torch
    >>> with torch.device("meta"):
    ...     [sum(p.numel() for p in vgg16(width=width).parameters()) for width in (1.0, 0.44)]
    [15222464, 3062313]
    """
    check_choice(stem, STEMS, name="stem")
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    inputs = 3
    for group, (depth, base) in enumerate(_GROUPS, start=1):
        outputs = channels(base, width)
        for place in range(1, depth + 1):
            layers[f"conv{group}_{place}"] = nn.Conv2d(inputs, outputs, kernel_size=3, padding=1, bias=False)
            layers[f"relu{group}_{place}"] = nn.ReLU()
            inputs = outputs
        if group <= _POOLED[stem]:
            layers[f"pool{group}"] = nn.MaxPool2d(2)
    # The sparse engine must know the size of the maps, which that of CIFAR's images settles.
    layers["global_pool"] = nn.AvgPool2d(4) if stem == "cifar" else nn.AdaptiveAvgPool2d(1)
    layers["fc8"] = nn.Conv2d(inputs, num_classes, kernel_size=1, bias=False)
    layers["flatten"] = nn.Flatten()
    return nn.Sequential(layers)
