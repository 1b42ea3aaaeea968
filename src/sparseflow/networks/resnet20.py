"""ResNet-20 for images of 32x32: nine blocks of two 3x3 convolutions with batch norm."""

from __future__ import annotations

from torch import nn

from sparseflow.networks.residual import basic_block, batch_norm, chain, convolution
from sparseflow.networks.size import channels

#: Blocks in each group, and the filters of each group at width 1.
_DEPTH, _FILTERS = 3, (16, 32, 64)
#: The weights of its two projections, by name.
PROJECTIONS = ("group2.block1.shortcut.conv.weight", "group3.block1.shortcut.conv.weight")


def resnet20(num_classes: int = 10, *, width: float = 1.0, stem: str = "cifar") -> nn.Sequential:
    """ResNet-20, the smallest of the networks for CIFAR: 270896 weights in 22 kernels, 272474 parameters in all.

    A 3x3 convolution with batch norm and ReLU, three groups of three basic blocks with 16, 32 and 64 filters, of which
    the second and the third halve the maps, the mean over each map of 8x8, and a linear layer with bias. Convolutions
    have no bias.

    Where the number of channels changes the shortcut is a 1x1 convolution with batch norm (He's B), as in the paper's
    ResNet-50; He et al. pad with zeros on CIFAR (A), and have 2752 parameters less. Masks leave these two kernels dense
    in :data:`~sparseflow.networks.NETWORKS`: at 90 % zeros a unit of 16 inputs would have none in every fifth case
    (0.9^16 = 0.19), and behind it batch norm divides by the root of its epsilon. All other units have 144 inputs or
    more, or 64 in the last layer.

    Args:
        num_classes: Number of logits; never scaled.
        width: Factor of all channels, see :func:`~sparseflow.networks.channels`.
        stem: ``"cifar"``; there is no other.

    Returns: ``(N, 3, 32, 32)`` in, ``(N, num_classes)`` logits out. Its parameters are drawn by torch's default;
    :func:`~sparseflow.networks.build_network` draws the paper's start.

    Raises:
        ValueError: if the stem is another, or the width leaves no channel.

    Reference: He et al. (2016), *Deep Residual Learning for Image Recognition*, section 4.2, with shortcut B.

    >>> sum(p.numel() for p in resnet20().parameters())
    272474
    """
    if stem != "cifar":
        raise ValueError(f"resnet20 is for images of 32x32, got stem={stem!r}. Give stem='cifar', or take resnet50.")
    inputs = channels(_FILTERS[0], width)
    layers: dict[str, nn.Module] = {
        "conv1": convolution(3, inputs, kernel_size=3),
        "norm1": batch_norm(inputs),
        "relu1": nn.ReLU(),
    }
    for group, base in enumerate(_FILTERS, start=1):
        filters = channels(base, width)
        members: dict[str, nn.Module] = {}
        for place in range(1, _DEPTH + 1):
            members[f"block{place}"] = basic_block(inputs, filters, stride=2 if group > 1 and place == 1 else 1)
            inputs = filters
        layers[f"group{group}"] = chain(**members)
    layers["global_pool"] = nn.AdaptiveAvgPool2d(1)
    layers["flatten"] = nn.Flatten()
    layers["fc"] = nn.Linear(inputs, num_classes)
    return chain(**layers)
