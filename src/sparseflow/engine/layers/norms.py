"""Batch normalisation that stays in the engine's layout, with the addition and the ReLU that follow it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparseflow.engine.kernels.compiling import said_aloud
from sparseflow.engine.kernels.passes import share_batch_norm, share_batch_norm_backward
from sparseflow.engine.layers.functions import check_first_order, to_images, to_storage
from sparseflow.engine.layers.geometry import Frame
from sparseflow.engine.layers.memory import shared_pool
from sparseflow.engine.layers.pools import is_ours
from sparseflow.engine.layers.threads import evenly, over_ranges


class _BatchNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, other: Tensor | None, weight: Tensor | None, bias: Tensor | None,
        moments: Tensor, measures: bool, epsilon: float, rectifies: bool,
    ) -> Tensor:  # fmt: skip
        """``moments`` are mean and biased variance, float64 ``(2, channels)``; with ``measures`` written."""
        channels = x.shape[1]
        frame = Frame((x.shape[2], x.shape[3]), x.shape[0])
        source = to_storage(x, frame)
        out = shared_pool().empty(source.numel(), x.dtype)
        given, numbers, nothing = source.numpy(), out.numpy(), np.zeros(0, source.numpy().dtype)
        more = nothing if other is None else to_storage(other, frame).numpy()
        scale, start = (nothing if p is None else p.detach().numpy() for p in (weight, bias))
        mean, variance = moments.numpy()
        place = 0, frame.pitch, 0

        over_ranges(
            share_batch_norm, evenly(channels, len(given), unit=1), len(given), given, *place, more, *place,
            other is not None, numbers, *place, 1, frame.pitch, scale, start, epsilon, mean, variance, measures,
            rectifies,
        )  # fmt: skip
        y = to_images(out, channels, frame)
        ctx.frame, ctx.options, ctx.moments = frame, (epsilon, measures, rectifies), moments
        ctx.save_for_backward(source, y if rectifies and other is not None else None, weight, bias)
        return y

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        check_first_order()
        source, y, weight, bias = ctx.saved_tensors
        frame, (epsilon, measured, rectified) = ctx.frame, ctx.options
        channels = len(source) // frame.pitch
        wants_x, wants_other = ctx.needs_input_grad[:2]
        pool = shared_pool()
        g, given = to_storage(gradient, frame).numpy(), source.numpy()
        nothing = given[:0]
        gx = pool.empty(len(source) if wants_x else 0, source.dtype)
        gated = pool.empty(len(source) if wants_other and rectified else 0, source.dtype)
        gradients = torch.zeros(2, channels, dtype=source.dtype)
        scale, start = (nothing if p is None else p.detach().numpy() for p in (weight, bias))
        result = nothing if y is None else to_storage(y, frame).numpy()
        mean, variance = ctx.moments.numpy()
        place, gxs, cut = (0, frame.pitch, 0), gx.numpy(), gated.numpy()
        bounds = evenly(channels, 2 * len(given), unit=1)
        over_ranges(
            share_batch_norm_backward, bounds, 2 * len(given), g, *place, given, *place, result, *place, y is not None,
            gxs, *place, wants_x, cut, *place, len(cut) > 0, 1, frame.pitch, scale, start, epsilon, mean, variance,
            measured, rectified, *gradients.numpy(),
        )  # fmt: skip
        parameters = [
            gradients[i] if p is not None and ctx.needs_input_grad[2 + i] else None
            for i, p in enumerate((weight, bias))
        ]
        return (
            to_images(gx, channels, frame) if wants_x else None,
            (to_images(gated, channels, frame) if rectified else gradient) if wants_other else None,
            *parameters, None, None, None, None,
        )  # fmt: skip


class BatchNorm2d(nn.BatchNorm2d):
    """``nn.BatchNorm2d`` in the engine's layout.

    >>> images = torch.randn(4, 5, 5, 2).permute(3, 0, 1, 2)
    >>> torch.allclose(BatchNorm2d(4)(images), nn.BatchNorm2d(4)(images), atol=1e-6)
    True
    """

    def forward(self, x: Tensor, *, plus: Tensor | None = None, floor: float = -math.inf) -> Tensor:
        """``(batch, channels, height, width)``; with ``plus`` a sum, with a ``floor`` of 0 a ReLU behind it."""
        if not self._takes(x, plus):
            plain: Tensor = super().forward(x)
            plain = plain if plus is None else plain + plus
            return F.relu(plain) if floor == 0 else plain
        moments = torch.empty(2, x.shape[1], dtype=torch.float64)
        measures = self.training or self.running_mean is None or self.running_var is None
        if self.running_mean is not None and self.running_var is not None:
            torch.stack((self.running_mean, self.running_var), out=moments)
        arguments = (x, plus, self.weight, self.bias, moments, measures, self.eps, floor == 0)
        with said_aloud():
            out: Tensor = _BatchNorm.apply(*arguments)  # type: ignore[no-untyped-call]
        if self.training and self.track_running_stats:
            track_(dict(self.named_buffers()), moments, momentum=self.momentum, count=x.numel() // x.shape[1])
        return out

    def _takes(self, x: Tensor, plus: Tensor | None) -> bool:
        own = [t for t in (self.weight, self.bias, self.running_mean, self.running_var) if t is not None]
        return (
            is_ours(x)
            and x.shape[1] == self.num_features
            and all(t.dtype == x.dtype and t.device == x.device for t in own)
            and (plus is None or (plus.shape == x.shape and plus.dtype == x.dtype and plus.device == x.device))
            # One number a channel has no variance: torch says so.
            and x.numel() > x.shape[1]
        )


@torch.no_grad()
def track_(buffers: Mapping[str, Tensor | None], moments: Tensor, *, momentum: float | None, count: int) -> None:
    """Move running statistics towards those of a batch, as ``nn.BatchNorm2d`` does.

    Args:
        buffers: ``running_mean``, ``running_var`` and ``num_batches_tracked``, or nothing.
        moments: ``(2, channels)``: mean and biased variance.
        momentum: Share of the batch; ``None`` for the mean over all batches.
        count: Numbers of a channel.

    >>> norm = nn.BatchNorm2d(1)
    >>> track_(dict(norm.named_buffers()), torch.tensor([[1.0], [3.0]]), momentum=0.5, count=4)
    >>> norm.running_mean.item(), norm.running_var.item(), norm.num_batches_tracked.item()
    (0.5, 2.5, 1)
    """
    running_mean, running_var = buffers.get("running_mean"), buffers.get("running_var")
    if running_mean is None or running_var is None:
        return
    if (tracked := buffers.get("num_batches_tracked")) is not None:
        tracked.add_(1)
        if momentum is None:
            momentum = 1.0 / float(tracked)
    share = 0.0 if momentum is None else momentum
    mean, variance = moments.to(running_mean.dtype)
    running_mean.mul_(1 - share).add_(mean, alpha=share)
    running_var.mul_(1 - share).add_(variance, alpha=share * count / (count - 1))
