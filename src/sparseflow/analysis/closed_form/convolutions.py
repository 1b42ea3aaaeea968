"""Tangents of convolution parameters on their way to the dense layers, and the second derivatives they meet there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from sparseflow.analysis.closed_form.columns import Columns
from sparseflow.analysis.closed_form.layers import Layer, own_tangents
from sparseflow.analysis.closed_form.segments import Operation
from sparseflow.analysis.closed_form.tangents import Tangents

#: Bytes of the windows that tangents are pushed through at a time.
BLOCK_BYTES = 2**26


class ConvolutionBlocks:
    """Second derivatives by a convolution's weight and an earlier one's parameter, beyond the Gauss-Newton part."""

    def __init__(self, columns: Columns, like: Tensor) -> None:
        self._columns = columns
        self._sums = [
            like.new_zeros(part.start, len(layer.weights))
            for layer, part in zip(columns.convolutions, columns.tails, strict=True)
        ]

    def tangents(
        self, values: Sequence[Tensor], segments: Sequence[Sequence[Operation]], cotangent: Tensor
    ) -> list[Tangents]:
        """Push tangents to the end of the convolutions and add the second derivatives that they meet.

        The input of each convolution is ``(C, H, W, B)``, the cotangent ``(inputs, B)``: derivative of the loss by the
        inputs of the dense layers.
        """
        layers = self._columns.convolutions
        deltas = _deltas(layers, values, segments, cotangent)
        pushed = [
            [self._pushed(number, part, values, segments, deltas) for part in _blocks(layers, number, values)]
            for number in range(len(layers))
        ]
        first, found = self._columns.num_dense, []
        if full := [tangents for blocks in pushed[:-1] for tangents in blocks]:
            found.append(Tangents(slice(first, first + self._columns.tails[-1].start), torch.cat(full)))
        if own := [tangents for blocks in pushed[-1:] for tangents in blocks]:
            part, layer = self._columns.tails[-1], layers[-1]
            ends = torch.bincount(layer.unit, minlength=len(layer.weight)).cumsum(0).tolist()
            found.append(Tangents(slice(first + part.start, first + part.stop), torch.cat(own), ends))
        return found

    def _pushed(
        self,
        number: int,
        part: slice,
        values: Sequence[Tensor],
        segments: Sequence[Sequence[Operation]],
        deltas: Sequence[Tensor],
    ) -> Tensor:
        """Tangents of a part of a convolution's parameters at the end; *own* ones if it is the last."""
        layers, first = self._columns.convolutions, self._columns.tails[number].start
        rows = slice(first + part.start, first + part.stop)
        found = own_tangents(layers[number], values[number], segments[number], part)
        channels: Tensor | None = layers[number].unit[part]
        for later in range(number + 1, len(layers)):
            found = _windows(layers[later], found, channels)
            self._sums[later][rows] += _met(layers[later], found, deltas[later], channels)
            found, channels = _through(layers[later], found, channels), None
            for operation in segments[later]:
                found = operation.push(found, None)
        return found

    def merge(self, other: ConvolutionBlocks) -> None:
        """Add the sums of another one."""
        for sums, others in zip(self._sums, other._sums, strict=True):
            sums += others

    def add_to(self, hessian: Tensor) -> None:
        """Put both triangles into a matrix in the order of the columns."""
        first = self._columns.num_dense
        for layer, part, sums in zip(self._columns.convolutions, self._columns.tails, self._sums, strict=True):
            earlier, weights = slice(first, first + part.start), first + part.start + layer.weights
            hessian[earlier, weights] += sums
            hessian[weights, earlier] += sums.T


def _deltas(
    layers: Sequence[Layer], values: Sequence[Tensor], segments: Sequence[Sequence[Operation]], cotangent: Tensor
) -> list[Tensor]:
    """Derivative of the loss by the output of each convolution; the first's, which is not needed, is left out."""
    found = []
    for number in reversed(range(1, len(layers))):
        for operation in reversed(segments[number]):
            cotangent = operation.pull(cotangent)
        found.append(cotangent)
        layer, value = layers[number], values[number]
        assert layer.geometry is not None
        if number > 1:
            parts = (layer.weight.T @ cotangent.flatten(1)).view(-1, *cotangent.shape[1:])
            cotangent = layer.geometry.from_windows(parts, (value.shape[1], value.shape[2]))
    return [cotangent, *reversed(found)]


def _blocks(layers: Sequence[Layer], number: int, values: Sequence[Tensor]) -> Iterator[slice]:
    """Parts of a convolution's parameters whose tangents, and their windows in later ones, fit in ``BLOCK_BYTES``."""
    sizes = []
    for later in range(number, len(layers)):
        geometry, value = layers[later].geometry, values[later]
        assert geometry is not None
        height, width = geometry.positions((value.shape[1], value.shape[2]))
        # Of its own: value, place and what both are made of. Then one input channel, then all of them.
        inputs = 4 if later == number else geometry.area * (1 if later == number + 1 else len(value))
        sizes.append(inputs * height * width * value.shape[3] * value.element_size())
    total, step = len(layers[number].unit), max(1, BLOCK_BYTES // max(sizes))
    return (slice(start, min(start + step, total)) for start in range(0, total, step))


def _windows(layer: Layer, tangents: Tensor, channels: Tensor | None) -> Tensor:
    """Windows ``(Q, weights of a unit, H', W', B)``; of own tangents, those of its input channel."""
    assert layer.geometry is not None
    return layer.geometry.windows(tangents if channels is None else tangents[:, None])


def _through(layer: Layer, windows: Tensor, channels: Tensor | None) -> Tensor:
    """Full tangents behind the convolution."""
    weight = layer.weight
    if channels is not None:
        weight = weight.view(len(weight), -1, layer.area).transpose(0, 1)[channels]
    found = torch.matmul(weight, windows.flatten(2))
    return found.view(*found.shape[:2], *windows.shape[2:])


def _met(layer: Layer, windows: Tensor, delta: Tensor, channels: Tensor | None) -> Tensor:
    """Second derivatives by each of the tangents' parameters and each of the layer's weights, ``(Q, weights)``."""
    sums = (windows.flatten(2).flatten(0, 1) @ delta.flatten(1).T).view(*windows.shape[:2], -1)
    unit, source = layer.unit[layer.weights], layer.source[layer.weights]
    if channels is None:
        return sums[:, source, unit]
    return sums[:, source % layer.area, unit] * (source // layer.area == channels[:, None])
