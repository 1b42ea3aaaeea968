"""The order of rows and columns in the sums of the closed form, and their places in the Hessian."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise

import torch
from torch import Tensor

from sparseflow.analysis.closed_form.layers import Layer


@dataclass(frozen=True, eq=False)
class Columns:
    """Parameters of the dense layers, layer by layer and unit by unit, then those of the convolutions.

    A *unit* is an output of a dense layer or a parameter of a convolution: each has one derivative of the logits. Units
    come in the same order.
    """

    convolutions: Sequence[Layer]
    dense: Sequence[Layer]

    @cached_property
    def parts(self) -> list[slice]:
        """Columns of each dense layer."""
        return _parts(len(layer.unit) for layer in self.dense)

    @cached_property
    def units(self) -> list[slice]:
        """Units of each dense layer."""
        return _parts(len(layer.weight) for layer in self.dense)

    @cached_property
    def tails(self) -> list[slice]:
        """Each convolution's parameters among those of all convolutions."""
        return _parts(len(layer.unit) for layer in self.convolutions)

    @property
    def num_dense(self) -> int:
        """Number of columns of dense layers."""
        return self.parts[-1].stop if self.parts else 0

    @property
    def size(self) -> int:
        """Number of all columns."""
        return self.num_dense + self.num_tail

    @property
    def num_units(self) -> int:
        """Number of units of dense layers."""
        return self.units[-1].stop if self.units else 0

    @property
    def num_tail(self) -> int:
        """Number of columns of convolutions, each of which is a unit."""
        return self.tails[-1].stop if self.tails else 0

    @cached_property
    def unit(self) -> Tensor:
        """``(P,)``: the unit of each column."""
        found = [layer.unit + part.start for layer, part in zip(self.dense, self.units, strict=True)]
        tail = torch.arange(self.num_units, self.num_units + self.num_tail, device=self.place.device)
        return torch.cat([*found, tail])

    @cached_property
    def ends(self) -> list[int]:
        """End of the columns of each unit of the dense layers."""
        counts = torch.bincount(self.unit[: self.num_dense], minlength=self.num_units)
        return [int(end) for end in counts.cumsum(0)]

    @cached_property
    def place(self) -> Tensor:
        """``(P,)``: the column of the Hessian that each column becomes."""
        return torch.cat([layer.place for layer in (*self.dense, *self.convolutions)])

    def features(self, inputs: Sequence[Tensor]) -> Tensor:
        """The factors of the parameters of dense layers: inputs, and ones for biases; ``(num_dense, B)``."""
        found = [
            torch.cat([value, value.new_ones(1, value.shape[1])])[layer.source]
            for layer, value in zip(self.dense, inputs, strict=True)
        ]
        return torch.cat(found)


def _parts(sizes: Iterable[int]) -> list[slice]:
    return [slice(*ends) for ends in pairwise(accumulate(sizes, initial=0))]
