"""Pools and batch normalisation that stay in the engine's layout, and are torch's own in any other."""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from sparseflow.engine.kernels.pooling import average_pool, average_pool_backward, max_pool, max_pool_backward
from sparseflow.engine.layers.functions import to_images, to_storage
from sparseflow.engine.layers.geometry import MOST_TAPS, Frame, Window, pair, pool_divisor, pool_window

_FLOATS = (torch.float32, torch.float64)


def is_batch_innermost(images: Tensor) -> bool:
    """Whether ``(batch, channels, height, width)`` is stored as ``(channels, height, width, batch)``.

    >>> is_batch_innermost(torch.zeros(3, 4, 4, 2).permute(3, 0, 1, 2)), is_batch_innermost(torch.zeros(2, 3, 4, 4))
    (True, False)
    """
    return images.dim() == 4 and images.permute(1, 2, 3, 0).is_contiguous()


def _is_ours(images: Tensor) -> bool:
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
        out = torch.empty(channels * y.pitch, dtype=images.dtype)
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
        out = torch.empty(ctx.channels * x.pitch, dtype=g.dtype)
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
        out = torch.empty(channels * y.pitch, dtype=images.dtype)
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
        out = torch.empty(ctx.channels * x.pitch, dtype=g.dtype)
        average_pool_backward(
            g.numpy(), 0, y.pitch, y.width * y.batch, out.numpy(), 0, *_size(x), 0, ctx.channels,
            *y.size, *window.kernel, *window.stride, window.padding[0][0], window.padding[1][0], x.batch, ctx.divisor,
        )  # fmt: skip
        return to_images(out, ctx.channels, x), None, None


class MaxPool2d(nn.MaxPool2d):
    """``nn.MaxPool2d`` in the engine's layout, with the ReLU before it where there was one.

    >>> pool = MaxPool2d(2)
    >>> pool(torch.arange(16.0).view(1, 1, 4, 4)).flatten()
    tensor([ 5.,  7., 13., 15.])
    """

    floor = -math.inf
    """0 if it computes the ReLU that stood before it."""

    def forward(self, x: Tensor) -> Tensor:
        """``(batch, channels, height, width)``."""
        if _is_ours(x):
            out: Tensor = _MaxPool.apply(x, pool_window(self), self.floor)  # type: ignore[no-untyped-call]
            return out
        plain: Tensor = super().forward(x if self.floor else F.relu(x))
        return plain


class AvgPool2d(nn.AvgPool2d):
    """``nn.AvgPool2d`` in the engine's layout.

    >>> AvgPool2d(2)(torch.ones(1, 1, 4, 4)).shape
    torch.Size([1, 1, 2, 2])
    """

    def forward(self, x: Tensor) -> Tensor:
        """``(batch, channels, height, width)``."""
        if _is_ours(x):
            out: Tensor = _AveragePool.apply(x, pool_window(self), pool_divisor(self))  # type: ignore[no-untyped-call]
            return out
        return super().forward(x)


class BatchNorm2d(nn.BatchNorm2d):
    """``nn.BatchNorm2d`` in the engine's layout: to torch it is one example, whose pixels are all pixels of the batch.

    >>> images = torch.randn(4, 5, 5, 2).permute(3, 0, 1, 2)
    >>> torch.allclose(BatchNorm2d(4)(images), nn.BatchNorm2d(4)(images), atol=1e-6)
    True
    """

    def forward(self, x: Tensor) -> Tensor:
        """``(batch, channels, height, width)``."""
        if not _is_ours(x):
            plain: Tensor = super().forward(x)
            return plain
        batch, channels, height, width = x.shape
        pixels = x.permute(1, 2, 3, 0).reshape(1, channels, -1, 1)
        out: Tensor = super().forward(pixels)
        return out.view(channels, height, width, batch).permute(3, 0, 1, 2)


def inner_form(module: nn.Module) -> nn.Module | None:
    """The layer that stays in the engine's layout, or ``None`` if there is none for these options."""
    if type(module) is nn.MaxPool2d:
        fits = not module.ceil_mode and not module.return_indices and math.prod(pair(module.kernel_size)) <= MOST_TAPS
        return _max_pool(MaxPool2d, module) if fits else None
    if type(module) is nn.AvgPool2d:
        return None if module.ceil_mode else _average_pool(AvgPool2d, module)
    return _batch_norm(BatchNorm2d, module) if type(module) is nn.BatchNorm2d else None


def plain_form(module: nn.Module) -> nn.Module | None:
    """The layer of torch of which :func:`inner_form` made this one, or ``None`` if it made no such layer."""
    if isinstance(module, MaxPool2d):
        return _max_pool(nn.MaxPool2d, module)
    if isinstance(module, AvgPool2d):
        return _average_pool(nn.AvgPool2d, module)
    return _batch_norm(nn.BatchNorm2d, module) if isinstance(module, BatchNorm2d) else None


def _max_pool(kind: type[nn.MaxPool2d], pool: nn.MaxPool2d) -> nn.Module:
    return kind(pool.kernel_size, pool.stride, pool.padding, pool.dilation).train(pool.training)


def _average_pool(kind: type[nn.AvgPool2d], pool: nn.AvgPool2d) -> nn.Module:
    made = kind(
        pool.kernel_size, pool.stride, pool.padding,
        count_include_pad=pool.count_include_pad, divisor_override=pool.divisor_override,
    )  # fmt: skip
    return made.train(pool.training)


def _batch_norm(kind: type[nn.BatchNorm2d], norm: nn.BatchNorm2d) -> nn.Module:
    same = copy.deepcopy(norm)
    same.__class__ = kind
    return same
