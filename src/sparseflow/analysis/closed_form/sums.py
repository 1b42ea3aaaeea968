"""The sums over examples: a forward pass, a backward pass for each class, and their contributions to the Hessian."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sparseflow.analysis.closed_form.columns import Columns
from sparseflow.analysis.closed_form.convolutions import ConvolutionBlocks
from sparseflow.analysis.closed_form.gauss_newton import PANEL, add_gauss_newton, softmax_rows
from sparseflow.analysis.closed_form.layers import Layer
from sparseflow.analysis.closed_form.mixed import MixedBlock
from sparseflow.analysis.closed_form.segments import Operation, Scale, linearise
from sparseflow.analysis.closed_form.tangents import Tangents, joined

#: Examples at a time, at most: enough for long runs in the innermost loop, few enough for the caches.
CHUNK = 128
#: Fewer where tangents take more memory than this.
CHUNK_BYTES = 2**28


class Sums:
    """Sums over examples, and the Hessian that they make."""

    def __init__(self, convolutions: Sequence[Layer], dense: Sequence[Layer], like: Tensor) -> None:
        self.columns = Columns(convolutions, dense)
        self.gauss_newton = like.new_zeros(self.columns.size, self.columns.size)
        self.between_convolutions = ConvolutionBlocks(self.columns, like)
        self.mixed = [MixedBlock(self.columns, number, like) for number in range(len(dense))]

    def chunk_size(self) -> int:
        """The number of examples to add at a time."""
        columns = self.columns
        layers, num_units = columns.dense or columns.convolutions, columns.num_units + columns.num_tail
        widest, classes = max(layer.weight.shape[1] for layer in layers), len(layers[-1].weight)
        values = num_units * (2 * classes + widest) + 2 * classes**2 + 3 * columns.size
        return max(1, min(CHUNK, CHUNK_BYTES // (values * self.gauss_newton.element_size())))

    def add(self, value: Tensor, targets: Tensor, total: int) -> None:
        """Add some of ``total`` examples."""
        columns = self.columns
        inside = len(columns.convolutions)
        values, segments, logits = forward([*columns.convolutions, *columns.dense], value)
        slopes = [_slope(segment) for segment in segments[inside:]]
        by_unit, rows = _backward(columns.dense, slopes, _cotangents(logits, targets, total))
        tangents = self.between_convolutions.tangents(values[:inside], segments[:inside], rows[-1])
        jacobian = torch.cat([*(each[:-1] for each in by_unit), *(each.of_outputs(rows[:-1]) for each in tangents)], 1)
        features = columns.features(values[inside:]) if columns.dense else logits[:0]
        add_gauss_newton(self.gauss_newton, columns, jacobian, features)
        for part, layer, slope in zip(columns.parts, columns.dense, slopes, strict=True):
            if slope is not None:
                features[part] *= slope[layer.unit]
        self._add_mixed(tangents, features, slopes, [each[-1] for each in by_unit])

    def _add_mixed(
        self, tangents: list[Tangents], moved: Tensor, slopes: Sequence[Tensor | None], deltas: Sequence[Tensor]
    ) -> None:
        columns = self.columns
        for number, (layer, slope, delta) in enumerate(zip(columns.dense, slopes, deltas, strict=True)):
            for each in tangents:
                self.mixed[number].add(delta, each)
            if number:
                self.mixed[number].add_adjacent(delta, moved)
            if layer is columns.dense[-1]:
                return
            tangents = joined([each.through(layer.weight, slope) for each in tangents])
            if number:
                part, unit = columns.parts[number - 1], columns.dense[number - 1].unit
                values = layer.weight.T[:, :, None] * (torch.ones_like(delta) if slope is None else slope)
                tangents.append(Tangents(part, values, unit=unit, features=moved[part]))

    def merge(self, other: Sums) -> None:
        """Add the sums of another one."""
        self.gauss_newton += other.gauss_newton
        self.between_convolutions.merge(other.between_convolutions)
        for block, another in zip(self.mixed, other.mixed, strict=True):
            block.merge(another)

    def hessian(self, size: int) -> Tensor:
        """The Hessian, ``(size, size)``, in float64 and in the order of the layout."""
        whole, place = self.gauss_newton, self.columns.place
        # In place and by panels: this may be as large as memory allows.
        panels = [slice(start, min(start + PANEL, len(whole))) for start in range(0, len(whole), PANEL)]
        for part in panels:
            corner = whole[part, part].triu()
            whole[part, part] = corner + corner.triu(1).T
            whole[part.stop :, part] = whole[part, part.stop :].T
        self.between_convolutions.add_to(whole)
        for block in self.mixed:
            block.add_to(whole)
        found = torch.zeros(size, size, dtype=torch.float64, device=whole.device)
        for part in panels:
            found[place[part, None], place] = whole[part].double()
        return found


def forward(layers: Sequence[Layer], value: Tensor) -> tuple[list[Tensor], list[list[Operation]], Tensor]:
    """The input of each layer, the linearised operations behind it, and the logits ``(C, B)``."""
    values, segments = [], []
    for layer in layers:
        values.append(value)
        value, operations = linearise(layer.after, layer(value))
        segments.append(operations)
    return values, segments, value


def _slope(segment: Sequence[Operation]) -> Tensor | None:
    """Behind a dense layer there are pointwise functions at most, which have become one."""
    return next((operation.slope for operation in segment if isinstance(operation, Scale)), None)


def _cotangents(logits: Tensor, targets: Tensor, total: int) -> Tensor:
    """``(C, C, B)``: rows that make the Gauss-Newton part of the mean loss, and last its gradient by the logits."""
    probabilities = logits.softmax(0)
    residual = probabilities.clone()
    residual[targets, torch.arange(len(targets), device=targets.device)] -= 1
    return torch.cat([softmax_rows(probabilities) / total**0.5, residual[None] / total])


def _backward(layers: Sequence[Layer], slopes: Sequence[Tensor | None], rows: Tensor) -> tuple[list[Tensor], Tensor]:
    """Rows, which are derivatives, at each dense layer's units ``(C, units, B)``, and where the first begins."""
    found = []
    for layer, slope in zip(reversed(layers), reversed(slopes), strict=True):
        rows = rows if slope is None else rows * slope
        found.append(rows)
        rows = torch.matmul(layer.weight.T, rows)
    return found[::-1], rows
