"""The two sizes of a network: how many channels it has, and how large its images are."""

from __future__ import annotations

#: Images of 224x224 as on ImageNet, or of 32x32 as on CIFAR.
STEMS = ("imagenet", "cifar")


def channels(base: int, width: float) -> int:
    r"""Channels of a layer in a wider or narrower network: :math:`\lfloor b\, w \rfloor`.

    Args:
        base: ``b``, the layer's channels at width 1.
        width: ``w``; the paper's Small Dense twins have 0.465 (ResNet-50) and 0.44 (VGG16).

    Raises:
        ValueError: if no channel is left.

    Reference: protocol E.

    >>> [channels(base, 0.465) for base in (64, 128, 256, 512)]
    [29, 59, 119, 238]
    """
    if base * width < 1:
        raise ValueError(f"width {width!r} leaves no channel of {base}. The narrowest network has width=1/{base}.")
    return int(base * width)
