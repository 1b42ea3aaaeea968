"""The crops and flips of ImageNet and of CIFAR: functions from a decoded image and its draws to pixels of one size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from sparseflow.data.augment import Box, centre_crop_box, random_resized_crop_box
from sparseflow.data.optional import optional


def resized_crop(image: Any, box: Box, size: int, *, flip: bool = False) -> NDArray[np.uint8]:
    """Cut a box out of a Pillow image and resize it with an antialiased bicubic filter.

    The image is cut first: pixels outside of the box have no part in the result.

    Args:
        image: A Pillow image in mode RGB.
        box: What to cut out.
        size: Side of the result, in pixels.
        flip: Whether left becomes right.

    Returns: ``(size, size, 3)``.

    Note: TensorFlow's bicubic resize, which the authors used, does not antialias where an image shrinks.
    """
    pillow = optional("PIL.Image")
    resized = image.crop(box).resize((size, size), pillow.Resampling.BICUBIC)
    if flip:  # here and not in NumPy, which would copy three bytes at a time
        resized = resized.transpose(pillow.Transpose.FLIP_LEFT_RIGHT)
    pixels: NDArray[np.uint8] = np.asarray(resized)
    return pixels


class Transform(Protocol):
    """A function from a decoded image and its draws to pixels of one size; it pickles, so that workers can have it."""

    @property
    def size(self) -> int:
        """Side of the result, in pixels."""

    @property
    def num_draws(self) -> int:
        """Number of uniform numbers that an image takes."""

    def __call__(self, image: Any, draws: NDArray[np.float64]) -> NDArray[np.uint8]:
        """A Pillow image in mode RGB -> ``(size, size, 3)``."""


@dataclass(frozen=True, kw_only=True)
class RandomResizedCrop:
    """ImageNet's training pixels: :func:`random_resized_crop_box`, bicubic to ``size``, a flip every second time.

    >>> image = optional("PIL.Image").new("RGB", (40, 30), (1, 2, 3))
    >>> crop = RandomResizedCrop(size=8)
    >>> crop(image, np.full(crop.num_draws, 0.5))[0, 0].tolist()
    [1, 2, 3]
    """

    size: int = 224
    area: tuple[float, float] = (0.08, 1.0)
    aspect: tuple[float, float] = (3 / 4, 4 / 3)
    attempts: int = 10

    @property
    def num_draws(self) -> int:
        """One for the flip, two for the place, two for each attempt."""
        return 3 + 2 * self.attempts

    def __call__(self, image: Any, draws: NDArray[np.float64]) -> NDArray[np.uint8]:
        """A Pillow image in mode RGB -> ``(size, size, 3)``."""
        width, height = image.size
        box = random_resized_crop_box(width, height, draws[1:], area=self.area, aspect=self.aspect)
        return resized_crop(image, box, self.size, flip=bool(draws[0] < 0.5))


@dataclass(frozen=True, kw_only=True)
class CentreCrop:
    """ImageNet's test pixels: :func:`centre_crop_box`, bicubic to ``size``; nothing is drawn."""

    size: int = 224
    num_draws: int = 0

    def __call__(self, image: Any, draws: NDArray[np.float64]) -> NDArray[np.uint8]:
        """A Pillow image in mode RGB -> ``(size, size, 3)``."""
        del draws
        return resized_crop(image, centre_crop_box(*image.size), self.size)


@dataclass(frozen=True, kw_only=True)
class Unchanged:
    """CIFAR's test pixels: the image as it is.

    Raises:
        ValueError: if an image has another size.
    """

    size: int = 32
    num_draws: int = 0

    def __call__(self, image: Any, draws: NDArray[np.float64]) -> NDArray[np.uint8]:
        """A Pillow image in mode RGB -> ``(size, size, 3)``."""
        del draws
        if image.size != (self.size, self.size):
            raise ValueError(
                f"the image has {image.size[0]} x {image.size[1]} pixels, not {self.size} x {self.size}. "
                "For images of several sizes write RandomResizedCrop() and CentreCrop()."
            )
        pixels: NDArray[np.uint8] = np.asarray(image)
        return pixels


@dataclass(frozen=True, kw_only=True)
class PadCropFlip:
    """CIFAR's training pixels: pad with black, crop at random, flip every second time.

    Reference: He et al. (2016), *Deep Residual Learning for Image Recognition*, section 4.2: 4 pixels on each side.

    >>> white = torch.full((1, 3, 32, 32), 255, dtype=torch.uint8)
    >>> PadCropFlip().batch(white, np.array([[0.9, 0.0, 0.5]]))[0, 0].ne(0).sum(dim=0)[:6].tolist()
    [0, 0, 0, 0, 32, 32]
    """

    size: int = 32
    padding: int = 4
    num_draws: int = 3

    def __call__(self, image: Any, draws: NDArray[np.float64]) -> NDArray[np.uint8]:
        """A Pillow image in mode RGB -> ``(size, size, 3)``."""
        pixels = Unchanged(size=self.size)(image, draws)
        flip, left, top = self._choices(draws[None])
        padded = np.pad(pixels, ((self.padding, self.padding), (self.padding, self.padding), (0, 0)))
        cut: NDArray[np.uint8] = padded[top[0] : top[0] + self.size, left[0] : left[0] + self.size]
        return cut[:, ::-1] if flip[0] else cut

    def batch(self, images: Tensor, draws: NDArray[np.float64]) -> Tensor:
        """The same for a batch in memory.

        Args:
            images: uint8 ``(N, 3, size, size)``.
            draws: ``(N, 3)``, for flip, left and top.

        Returns: uint8, the same shape, channels last in memory.
        """
        flip, left, top = (torch.from_numpy(choice) for choice in self._choices(draws))
        padded = F.pad(images, (self.padding,) * 4)
        along = torch.arange(self.size)
        columns = left[:, None] + torch.where(flip[:, None], along.flip(0), along)
        rows = top[:, None] + along
        which = torch.arange(len(images))[:, None, None]
        # An index beside two others puts the channels last.
        return padded[which, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)

    def _choices(self, draws: NDArray[np.float64]) -> tuple[NDArray[np.bool_], NDArray[np.int64], NDArray[np.int64]]:
        places = 2 * self.padding + 1
        flip, left, top = draws.T
        return flip < 0.5, (left * places).astype(np.int64), (top * places).astype(np.int64)
