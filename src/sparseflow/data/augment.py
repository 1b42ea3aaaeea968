"""The place of a crop as a function of uniform draws, and the mean and deviation that images are normalised by."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


class Statistics(NamedTuple):
    """Mean and standard deviation (not variance) of red, green and blue over a training set, of pixel / 255."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]


#: Protocol G.5; the numbers that all of ImageNet's literature subtracts and divides by.
IMAGENET = Statistics((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
#: Over all pixels of CIFAR-10's 50,000 training images. (A std of 0.20 that is often seen is the mean over images of
#: the std within one.)
CIFAR10 = Statistics((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))

#: Left, top, right, bottom in pixels, as Pillow has it: right and bottom are the first that are outside.
Box = tuple[int, int, int, int]


def normalise(images: Tensor, statistics: Statistics, *, dtype: torch.dtype = torch.float32) -> Tensor:
    r"""Normalised pixels: :math:`(x / 255 - \mu_c) / \sigma_c`, for a whole batch on its device.

    Args:
        images: uint8 ``(N, 3, H, W)``; the memory format is kept.
        statistics: :data:`IMAGENET` or :data:`CIFAR10`.
        dtype: Of the result and of the arithmetic.

    Raises:
        TypeError: if the pixels are not uint8.

    >>> normalise(torch.full((1, 3, 1, 1), 255, dtype=torch.uint8), IMAGENET).flatten().tolist()
    [2.24..., 2.42..., 2.64...]
    """
    if images.dtype != torch.uint8:
        raise TypeError(f"images must be uint8 pixels of 0 to 255, got {images.dtype}. Normalise them once only.")
    mean, std = (torch.tensor(values, dtype=dtype, device=images.device).view(3, 1, 1) for values in statistics)
    return images.to(dtype).div_(255).sub_(mean).div_(std)


def centre_crop_box(width: int, height: int) -> Box:
    r"""The central square of :math:`\lfloor 224/256 \cdot \min(w, h) \rfloor` pixels a side.

    Where it cannot be central to the pixel it lies nearer to the right and the bottom.

    Args:
        width: Of the image, in pixels.
        height: Of the image, in pixels.

    Reference: protocol G.5; offsets and rounding as in the TPU ResNet code that the paper's program builds on.

    >>> centre_crop_box(256, 256), centre_crop_box(500, 375)
    ((16, 16, 240, 240), (86, 24, 414, 352))
    """
    side = max(min(width, height) * 224 // 256, 1)
    left, top = (width - side + 1) // 2, (height - side + 1) // 2
    return left, top, left + side, top + side


def random_resized_crop_box(
    width: int,
    height: int,
    draws: NDArray[np.float64],
    *,
    area: tuple[float, float] = (0.08, 1.0),
    aspect: tuple[float, float] = (3 / 4, 4 / 3),
) -> Box:
    r"""A rectangle of random area, aspect ratio and place.

    .. math:: A \sim U(a_0, a_1)\, w h,\quad \ln r \sim U(\ln r_0, \ln r_1),\quad
        w' = [\sqrt{A r}],\ h' = [\sqrt{A / r}],\quad x \sim U\{0..w - w'\},\ y \sim U\{0..h - h'\}

    The first attempt whose rectangle fits the image is taken; if none does, :func:`centre_crop_box`.

    Args:
        width: Of the image, in pixels.
        height: Of the image, in pixels.
        draws: Uniform in [0, 1): first for ``x`` and ``y``, then a pair for area and aspect of each attempt (the
            protocol: 10 attempts, so 22 numbers).
        area: Smallest and largest fraction of the image; protocol G.5.
        aspect: Smallest and largest width / height; protocol G.5.

    Returns: the box, inside the image and not empty.

    Note: The authors' TensorFlow op has the same ranges and attempts but draws the aspect uniformly, then the height
    uniformly among those whose area is allowed. Here area and log aspect are uniform, as the method was published and
    as most PyTorch results are trained. The fallback is that of the authors' code.

    Reference: Szegedy et al. (2015), *Going deeper with convolutions*, section 6; protocol G.5.

    >>> random_resized_crop_box(100, 100, np.array([0.5, 0.0, 0.5, 0.5]), area=(0.25, 0.25))
    (25, 0, 75, 50)
    >>> random_resized_crop_box(1000, 10, np.full(22, 0.99)) == centre_crop_box(1000, 10)
    True
    """
    low, high = math.log(aspect[0]), math.log(aspect[1])
    u_left, u_top, *attempts = draws.tolist()
    for u_area, u_aspect in zip(attempts[::2], attempts[1::2], strict=True):
        target = (area[0] + (area[1] - area[0]) * u_area) * width * height
        ratio = math.exp(low + (high - low) * u_aspect)
        crop_width, crop_height = round(math.sqrt(target * ratio)), round(math.sqrt(target / ratio))
        if 0 < crop_width <= width and 0 < crop_height <= height:
            left = int(u_left * (width - crop_width + 1))
            top = int(u_top * (height - crop_height + 1))
            return left, top, left + crop_width, top + crop_height
    return centre_crop_box(width, height)
