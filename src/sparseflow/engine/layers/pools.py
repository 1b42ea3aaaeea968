"""Pools that stay in the engine's layout, and are torch's own in any other."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from sparseflow.engine.kernels.pooling import average_pool, average_pool_backward, max_pool, max_pool_backward
from sparseflow.engine.layers.functions import to_images, to_storage
from sparseflow.engine.layers.geometry import Frame, Window, pool_divisor, pool_window
from sparseflow.engine.layers.memory import shared_pool

_FLOATS = (torch.float32, torch.float64)


def is_batch_innermost(images: Tensor) -> bool:
    """Whether ``(batch, channels, height, width)`` is stored as ``(channels, height, width, batch)``.

    >>> is_batch_innermost(torch.zeros(3, 4, 4, 2).permute(3, 0, 1, 2)), is_batch_innermost(torch.zeros(2, 3, 4, 4))
    (True, False)
    """
    return images.dim() == 4 and images.permute(1, 2, 3, 0).is_contiguous()


def is_ours(images: Tensor) -> bool:
    """Whether the engine's kernels take images as they are.

    >>> is_ours(torch.zeros(3, 4, 4, 2).permute(3, 0, 1, 2)), is_ours(torch.zeros(2, 3, 4, 4))
    (True, False)
    """
    return is_batch_innermost(images) and images.dtype in _FLOATS and images.device.type == "cpu"


def _size(x: Frame) -> tuple[int, ...]:
    return x.pitch, x.width * x.batch, *x.size


def _frames(images: Tensor, window: Window) -> tuple[Frame, Frame]:
    x = Frame((images.shape[2], images.shape[3]), images.shape[0])
    return x, Frame(window.outputs(x.size), x.batch)


class _MaxPool(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, images: Tensor, window: Window, floor: float) -> Tensor:
        x, y = _frames(images, window)
        channels = images.shape[1]
        out = shared_pool().empty(channels * y.pitch, images.dtype)
        where = torch.empty(out.numel(), dtype=torch.int8)
        max_pool(
            to_storage(images, x).numpy(), 0, *_size(x), out.numpy(), 0, y.pitch,
            y.width * y.batch, where.numpy(), 0, 0, channels, *y.size, *window.kernel, *window.stride, *window.dilation,
            window.padding[0][0], window.padding[1][0], x.batch, floor,
        )  # fmt: skip
        ctx.window, ctx.frames, ctx.channels = window, (x, y), channels
        ctx.save_for_backward(where)
        return to_images(out, channels, y)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (where,) = ctx.saved_tensors
        window, (x, y) = ctx.window, ctx.frames
        g = to_storage(gradient, y)
        out = shared_pool().empty(ctx.channels * x.pitch, g.dtype)
        max_pool_backward(
            g.numpy(), 0, y.pitch, y.width * y.batch, where.numpy(), 0, out.numpy(), 0, *_size(x),
            0, ctx.channels, *y.size, *window.kernel, *window.stride, *window.dilation,
            window.padding[0][0], window.padding[1][0], x.batch,
        )  # fmt: skip
        return to_images(out, ctx.channels, x), None, None


class _AveragePool(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, images: Tensor, window: Window, divisor: int) -> Tensor:
        x, y = _frames(images, window)
        channels = images.shape[1]
        out = shared_pool().empty(channels * y.pitch, images.dtype)
        average_pool(
            to_storage(images, x).numpy(), 0, *_size(x), out.numpy(), 0, y.pitch,
            y.width * y.batch, 0, channels, *y.size, *window.kernel, *window.stride,
            window.padding[0][0], window.padding[1][0], x.batch, divisor,
        )  # fmt: skip
        ctx.window, ctx.frames, ctx.divisor, ctx.channels = window, (x, y), divisor, channels
        return to_images(out, channels, y)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        window, (x, y) = ctx.window, ctx.frames
        g = to_storage(gradient, y)
        out = shared_pool().empty(ctx.channels * x.pitch, g.dtype)
        average_pool_backward(
            g.numpy(), 0, y.pitch, y.width * y.batch, out.numpy(), 0, *_size(x), 0, ctx.channels,
            *y.size, *window.kernel, *window.stride, window.padding[0][0], window.padding[1][0], x.batch, ctx.divisor,
        )  # fmt: skip
        return to_images(out, ctx.channels, x), None, None


class MaxPool2d(nn.MaxPool2d):
    """``nn.MaxPool2d`` in the engine's layout.

    >>> pool = MaxPool2d(2)
    >>> pool(torch.arange(16.0).view(1, 1, 4, 4)).flatten()
    tensor([ 5.,  7., 13., 15.])
    """

    def forward(self, x: Tensor, *, floor: float = -math.inf) -> Tensor:
        """``(batch, channels, height, width)``; with a ``floor`` of 0, a ReLU and then the pool."""
        if is_ours(x):
            out: Tensor = _MaxPool.apply(x, pool_window(self), floor)  # type: ignore[no-untyped-call]
            return out
        plain: Tensor = super().forward(x if floor else F.relu(x))
        return plain


class AvgPool2d(nn.AvgPool2d):
    """``nn.AvgPool2d`` in the engine's layout.

    >>> AvgPool2d(2)(torch.ones(1, 1, 4, 4)).shape
    torch.Size([1, 1, 2, 2])
    """

    def forward(self, x: Tensor) -> Tensor:
        """``(batch, channels, height, width)``."""
        if is_ours(x):
            out: Tensor = _AveragePool.apply(x, pool_window(self), pool_divisor(self))  # type: ignore[no-untyped-call]
            return out
        return super().forward(x)
