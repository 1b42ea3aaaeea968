"""ResNet-50 of the paper (version 1.5): bottleneck blocks that halve the maps in their 3x3 convolution."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from torch import nn

from sparseflow._checks import check_choice
from sparseflow.networks.residual import EXPANSION, batch_norm, bottleneck, convolution
from sparseflow.networks.size import STEMS, channels


def resnet50(
    num_classes: int = 1000, *, width: float = 1.0, stem: str = "imagenet", blocks: Sequence[int] = (3, 4, 6, 3)
) -> nn.Sequential:
    """ResNet-50 as in the authors' code, version 1.5: 25502912 weights in 54 kernels, 25557032 parameters in all.

    A 7x7 convolution of stride 2 with batch norm and ReLU, 3x3 max-pooling of stride 2, four groups of
    bottleneck blocks with 64, 128, 256 and 512 filters, the mean over each map, and a linear layer with bias.
    The first block of each group projects its shortcut, that of the first group too; the first blocks of the later
    groups halve the maps, in their 3x3 convolution. Convolutions have no bias. Norms: epsilon 1e-5, and running
    statistics keep 0.9 of their past (TensorFlow's momentum 0.9, torch's 0.1).

    Padding is TensorFlow's of the authors' code: ``kernel // 2`` zeros on either side of every convolution, with stride
    too (SAME would pad a strided one by less in front); after the first convolution SAME pooling, which puts one row
    and column behind maps of even size and none in front (torchvision pads in front).

    ``stem="cifar"`` is for 32x32 images: the first convolution is 3x3 of stride 1 and there is no max-pool, so the maps
    end at 4x4.

    Args:
        num_classes: Number of logits; never scaled.
        width: Factor of all channels, see :func:`~sparseflow.networks.channels`; 0.465 is the Small Dense twin
            of an 80 % sparse network (6013905 weights).
        stem: ``"imagenet"`` or ``"cifar"``.
        blocks: How many blocks each group has; the filters double from group to group.

    Returns: ``(N, 3, height, width)`` in, ``(N, num_classes)`` logits out. Its parameters are drawn by torch's default;
    :func:`~sparseflow.networks.build_network` draws the paper's start.

    Raises:
        ValueError: if the stem is unknown, the width leaves no channel, or a group has no block.

    Note:
        On maps of odd size (an image of 226x226, say) TensorFlow would pool with a row on either side; this pool still
        puts none in front.

    Reference: He et al. (2016), *Deep Residual Learning for Image Recognition*; protocol G.4.

    >>> import torch
    >>> with torch.device("meta"):
    ...     sum(p.numel() for p in resnet50().parameters())
    25557032
    """
    check_choice(stem, STEMS, name="stem")
    if not blocks or min(blocks) < 1:
        raise ValueError(f"blocks must give every group at least one block, got {blocks!r}. ResNet-50: (3, 4, 6, 3).")
    inputs = channels(64, width)
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    layers["conv1"] = (
        convolution(3, inputs, kernel_size=7, stride=2) if stem == "imagenet" else convolution(3, inputs, kernel_size=3)
    )
    layers["norm1"] = batch_norm(inputs)
    layers["relu1"] = nn.ReLU()
    if stem == "imagenet":
        # The last window may hang over the edge: SAME padding of maps of even size, without a padded copy.
        layers["pool1"] = nn.MaxPool2d(kernel_size=3, stride=2, ceil_mode=True)
    for group, depth in enumerate(blocks, start=1):
        filters = channels(64 * 2 ** (group - 1), width)
        members: OrderedDict[str, nn.Module] = OrderedDict()
        for place in range(1, depth + 1):
            first = place == 1
            members[f"block{place}"] = bottleneck(
                inputs, filters, stride=2 if first and group > 1 else 1, projects=first
            )
            inputs = EXPANSION * filters
        layers[f"group{group}"] = nn.Sequential(members)
    layers["global_pool"] = nn.AdaptiveAvgPool2d(1)
    layers["flatten"] = nn.Flatten()
    layers["fc"] = nn.Linear(inputs, num_classes)
    return nn.Sequential(layers)


def resnet14(num_classes: int = 1000, *, width: float = 1.0, stem: str = "imagenet") -> nn.Sequential:
    """:func:`resnet50` with one block per group: fourteen layers with weights on the longest path, for small machines.

    Arguments as there.

    Reference: none; the paper has no such network.

    >>> import torch
    >>> with torch.device("meta"):
    ...     sum(p.numel() for p in resnet14(10, width=1 / 8, stem="cifar").parameters())
    130002
    """
    return resnet50(num_classes, width=width, stem=stem, blocks=(1, 1, 1, 1))
