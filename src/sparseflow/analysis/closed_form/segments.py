"""The functions between two affine layers, linearised at one chunk of examples; the example is the last dimension.

A value is ``(C, H, W, B)`` or, once flat, ``(D, B)``: each weight then meets contiguous runs of ``B`` examples. A
tangent has one more dimension in front, over parameters, and is *full* ``(Q, C, H, W, B)``, or *own* ``(Q, H, W, B)``:
that of a convolution's parameter, which touches one channel only.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparseflow.analysis.closed_form.chain import POINTWISE


@dataclass(frozen=True, eq=False)
class Scale:
    """Pointwise functions: multiply by their slope."""

    slope: Tensor

    def push(self, tangent: Tensor, channels: Tensor | None) -> Tensor:
        """Map tangents from before to behind.

        Own tangents come with their ``channels``, ``(Q,)``; full ones have ``None``.
        """
        return tangent * (self.slope if channels is None else self.slope[channels])

    def pull(self, cotangent: Tensor) -> Tensor:
        """The transpose."""
        return cotangent * self.slope


@dataclass(frozen=True, eq=False)
class Take:
    """Max-pooling: take the entries that were largest."""

    index: Tensor
    """``(C, H' W', B)``, into ``H W``."""
    before: tuple[int, int]
    after: tuple[int, int]

    def push(self, tangent: Tensor, channels: Tensor | None) -> Tensor:
        """As :meth:`Scale.push`."""
        index = self.index if channels is None else self.index[channels]
        flat = tangent.flatten(-3, -2)
        taken = flat.gather(-2, index.expand(*flat.shape[:-2], *index.shape[-2:]))
        return taken.view(*tangent.shape[:-3], *self.after, tangent.shape[-1])

    def pull(self, cotangent: Tensor) -> Tensor:
        """The transpose; windows may overlap."""
        channels, _, examples = self.index.shape
        zeros = cotangent.new_zeros(channels, self.before[0] * self.before[1], examples)
        return zeros.scatter_add_(1, self.index, cotangent.flatten(1, 2)).view(channels, *self.before, examples)


@dataclass(frozen=True, eq=False)
class Average:
    """Average-pooling, which is linear as it is."""

    pool: nn.Module
    before: tuple[int, int]

    def push(self, tangent: Tensor, channels: Tensor | None) -> Tensor:
        """As :meth:`Scale.push`."""
        return _examples_last(self.pool(_examples_as_channels(tangent)), tangent)

    def pull(self, cotangent: Tensor) -> Tensor:
        """The transpose."""
        zeros = cotangent.new_zeros(cotangent.shape[0], *self.before, cotangent.shape[-1])
        with torch.enable_grad():
            pooled = self.push(zeros.requires_grad_(), None)
            (found,) = torch.autograd.grad(pooled, zeros, cotangent)
        return found


@dataclass(frozen=True, eq=False)
class Flat:
    """Flattening of images to features."""

    before: tuple[int, ...]

    def push(self, tangent: Tensor, channels: Tensor | None) -> Tensor:
        """As :meth:`Scale.push`; an own tangent keeps the positions of its channel."""
        return tangent.flatten(1, -2)

    def pull(self, cotangent: Tensor) -> Tensor:
        """The transpose."""
        return cotangent.view(*self.before, -1)


Operation = Scale | Take | Average | Flat


def linearise(modules: Iterable[nn.Module], value: Tensor) -> tuple[Tensor, list[Operation]]:
    """The output of the modules for a value, and the linear maps that equal them near it."""
    found: list[Operation] = []
    for module in _pooled_first(modules):
        if isinstance(module, POINTWISE):
            value, slope = _slope(module, value)
            if found and isinstance(found[-1], Scale):
                slope *= found.pop().slope  # type: ignore[union-attr]
            found.append(Scale(slope))
        elif isinstance(module, nn.MaxPool2d):
            before = (value.shape[1], value.shape[2])
            value, index = _max_pooled(module, value)
            found.append(Take(index.flatten(1, 2), before, (value.shape[1], value.shape[2])))
        elif isinstance(module, nn.Flatten):
            if value.dim() > 2:
                found.append(Flat(tuple(value.shape[:-1])))
                value = value.flatten(0, -2)
        else:
            average = Average(module, (value.shape[1], value.shape[2]))
            value = average.push(value, None)
            found.append(average)
    return value, found


def _pooled_first(modules: Iterable[nn.Module]) -> list[nn.Module]:
    """The same function with fewer entries to go through: what never falls may as well follow the maximum.

    Where a pointwise function makes several entries of a window equal, its slope there is zero.
    """
    found: list[nn.Module] = []
    for module in modules:
        rises = not isinstance(found[-1], nn.LeakyReLU) or found[-1].negative_slope >= 0 if found else False
        if isinstance(module, nn.MaxPool2d) and rises and isinstance(found[-1], POINTWISE):
            found.insert(-1, module)
        else:
            found.append(module)
    return found


def _slope(module: nn.Module, value: Tensor) -> tuple[Tensor, Tensor]:
    """Value and derivative, that of torch at a kink."""
    with torch.enable_grad():
        leaf = value.detach().requires_grad_()
        output = module(leaf.clone())  # some work in place
        (slope,) = torch.autograd.grad(output.sum(), leaf)
    return output.detach(), slope


def _max_pooled(pool: nn.MaxPool2d, value: Tensor) -> tuple[Tensor, Tensor]:
    found = F.max_pool2d(
        _examples_as_channels(value),
        pool.kernel_size,
        pool.stride,
        pool.padding,
        pool.dilation,
        ceil_mode=pool.ceil_mode,
        return_indices=True,
    )
    output, index = (_examples_last(tensor, value) for tensor in found)
    return output, index


def _examples_as_channels(value: Tensor) -> Tensor:
    """``(..., H, W, B)`` as ``(Q, B, H, W)`` without a copy: torch's channels-last format."""
    return value.flatten(0, -4).permute(0, 3, 1, 2)


def _examples_last(pooled: Tensor, like: Tensor) -> Tensor:
    found = pooled.permute(0, 2, 3, 1).contiguous()
    return found.view(*like.shape[:-3], *found.shape[1:])
