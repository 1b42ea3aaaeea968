r"""Second derivatives by a dense layer's weight and an earlier parameter, beyond the Gauss-Newton part.

.. math:: R_{(i, j), q} = \sum_n \delta^n_i \frac{\partial h^n_j}{\partial \theta_q}

for the weight from input ``j`` to unit ``i``: :math:`\delta` is the derivative of the loss by the unit, ``h`` the input
and ``q`` a parameter of an earlier layer. Inside one layer there is nothing: the logits are linear in its weights.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sparseflow.analysis.closed_form.columns import Columns
from sparseflow.analysis.closed_form.tangents import Tangents


class MixedBlock:
    """Rows are the weights of one dense layer, by input; columns are the parameters of all earlier layers."""

    def __init__(self, columns: Columns, number: int, like: Tensor) -> None:
        layer = columns.dense[number]
        self._ends = [0, *columns.ends]
        self._first_unit = columns.units[number - 1].start if number else 0
        self._unit, source = layer.unit[layer.weights], layer.source[layer.weights]
        self._rows = columns.parts[number].start + layer.weights
        # Dense columns in front stay where they are; those of the convolutions follow them without a gap.
        self._before = columns.parts[number].start
        self._gap = columns.num_dense - self._before
        device = self._rows.device
        self._columns = torch.cat(
            [torch.arange(self._before, device=device), torch.arange(columns.num_dense, columns.size, device=device)]
        )
        inputs, counts = torch.unique_consecutive(source, return_counts=True)
        ends = counts.cumsum(0).tolist()
        self._inputs = list(zip(inputs.tolist(), [0, *ends], ends, strict=False))
        self._sums = like.new_zeros(len(self._rows), self._before + columns.num_tail)

    def add(self, delta: Tensor, tangents: Tangents) -> None:
        """Add some examples; ``delta``, ``(units, B)``, is the derivative of the loss by the layer's units."""
        left = delta[self._unit]
        for number, start, end in self._inputs:
            part, right = tangents.of_input(number)
            shift = self._gap if part.start >= self._before else 0
            self._sums[start:end, part.start - shift : part.stop - shift].addmm_(left[start:end], right.T)

    def add_adjacent(self, delta: Tensor, features: Tensor) -> None:
        """Add some examples for the dense layer right in front: each of its units moves one input only.

        ``features``, ``(num_dense, B)``, are the factor of each column's weight, times the slope behind its unit.
        """
        left = delta[self._unit]
        for number, start, end in self._inputs:
            unit = self._first_unit + number
            part = slice(self._ends[unit], self._ends[unit + 1])
            self._sums[start:end, part].addmm_(left[start:end], features[part].T)

    def merge(self, other: MixedBlock) -> None:
        """Add the sums of another one."""
        self._sums += other._sums

    def add_to(self, hessian: Tensor) -> None:
        """Put both triangles into a matrix in the order of the columns."""
        hessian[self._rows[:, None], self._columns] += self._sums
        hessian[self._columns[:, None], self._rows] += self._sums.T
