"""The inputs that each weight of a convolution meets at each position; the example is the last dimension."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Geometry:
    """Kernel, strides and zeros of a 2-d convolution; pairs are down and across."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    dilation: tuple[int, int]
    padding: tuple[int, int, int, int]
    """Left, right, top, bottom."""

    @classmethod
    def of(cls, convolution: nn.Conv2d) -> Geometry:
        """The geometry of a layer that pads with zeros."""
        kernel, stride, dilation = (_pair(getattr(convolution, name)) for name in ("kernel_size", "stride", "dilation"))
        if convolution.padding == "same":
            down, across = (d * (k - 1) for d, k in zip(dilation, kernel, strict=True))
            return cls(kernel, stride, dilation, (across // 2, across - across // 2, down // 2, down - down // 2))
        down, across = (0, 0) if isinstance(convolution.padding, str) else _pair(convolution.padding)
        return cls(kernel, stride, dilation, (across, across, down, down))

    @property
    def area(self) -> int:
        """Weights of one kernel."""
        return self.kernel[0] * self.kernel[1]

    def padded(self, value: Tensor) -> Tensor:
        """``(..., H, W, B)`` with zeros around it."""
        return F.pad(value, (0, 0, *self.padding)) if any(self.padding) else value.contiguous()

    def positions(self, before: tuple[int, int]) -> tuple[int, int]:
        """Size of the output, ``(H', W')``, from ``(H, W)`` of the input."""
        left, right, top, bottom = self.padding
        sizes = (before[0] + top + bottom, before[1] + left + right)
        height, width = (
            (sizes[axis] - self.dilation[axis] * (self.kernel[axis] - 1) - 1) // self.stride[axis] + 1
            for axis in (0, 1)
        )
        return height, width

    def windows(self, value: Tensor) -> Tensor:
        """The windows of images, ``(Q, C, H, W, B)`` to ``(Q, C * area, H', W', B)``."""
        height, width = self.positions((value.shape[2], value.shape[3]))
        padded = self.padded(value)
        q, c, y, x, b = padded.stride()
        (down, across), (step_down, step_across) = self.dilation, self.stride
        view = padded.as_strided(
            (*padded.shape[:2], *self.kernel, height, width, padded.shape[4]),
            (q, c, y * down, x * across, y * step_down, x * step_across, b),
        )
        return view.reshape(padded.shape[0], -1, height, width, padded.shape[4])

    def from_windows(self, cotangent: Tensor, before: tuple[int, int]) -> Tensor:
        """The transpose of :meth:`windows` for one image: ``(C * area, H', W', B)`` to ``(C, H, W, B)``."""
        _, height, width, examples = cotangent.shape
        left, right, top, bottom = self.padding
        parts = cotangent.view(-1, *self.kernel, height, width, examples)
        found = cotangent.new_zeros(len(parts), before[0] + top + bottom, before[1] + left + right, examples)
        for y in range(self.kernel[0]):
            for x in range(self.kernel[1]):
                rows, columns = self._met(y, 0, height), self._met(x, 1, width)
                found[:, rows, columns] += parts[:, y, x]
        return found[:, top : top + before[0], left : left + before[1]]

    def sparse_convolution(self, value: Tensor, weights: Iterable[tuple[int, int, float]], outputs: int) -> Tensor:
        """The convolution, weight by weight, each given as output, source and value.

        Returns: ``(outputs, H', W', B)``.
        """
        height, width = self.positions((value.shape[1], value.shape[2]))
        padded = self.padded(value)
        found = value.new_zeros(outputs, height, width, value.shape[3])
        for output, source, weight in weights:
            channel, inside = divmod(source, self.area)
            y, x = divmod(inside, self.kernel[1])
            found[output].add_(padded[channel, self._met(y, 0, height), self._met(x, 1, width)], alpha=weight)
        return found

    def corners(self, before: tuple[int, int], device: torch.device) -> Tensor:
        """``(H' W',)``: the place of the first weight of each window in the flattened padded input."""
        (height, width), row = self.positions(before), before[1] + self.padding[0] + self.padding[1]
        down = torch.arange(height, device=device) * (self.stride[0] * row)
        return (down[:, None] + torch.arange(width, device=device) * self.stride[1]).flatten()

    def offsets(self, source: Tensor, before: tuple[int, int]) -> Tensor:
        """Distance of each weight of a window, numbered by channel, down and across, from the first."""
        left, right, top, bottom = self.padding
        rows, columns = before[0] + top + bottom, before[1] + left + right
        channel, inside = source // self.area, source % self.area
        down, across = inside // self.kernel[1] * self.dilation[0], inside % self.kernel[1] * self.dilation[1]
        return (channel * rows + down) * columns + across

    def _met(self, weight: int, axis: int, positions: int) -> slice:
        """Rows or columns that one row or column of weights meets."""
        first = weight * self.dilation[axis]
        return slice(first, first + (positions - 1) * self.stride[axis] + 1, self.stride[axis])


def _pair(value: int | tuple[int, ...]) -> tuple[int, int]:
    first, second = (value, value) if isinstance(value, int) else value
    return first, second
