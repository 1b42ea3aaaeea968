"""First derivatives of the inputs of a dense layer by parameters in front of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Tangents:
    """The derivatives of the inputs of a dense layer by some earlier units."""

    columns: slice
    """Columns of the parameters that belong to these units."""
    values: Tensor
    """``(units, inputs, B)``; with ``ends``, only those inputs that are the positions of the unit's own channel."""
    ends: Sequence[int] | None = None
    """For a convolution's parameters: the end of the units of each channel."""
    unit: Tensor | None = None
    """``(columns,)``: the unit of each column; ``None`` where each is one."""
    features: Tensor | None = None
    """``(columns, B)``: the factor of the column's weight, times the slope behind the unit."""

    def by_channel(self) -> list[tuple[slice, slice]]:
        """Pairs of units and the inputs that depend on them."""
        positions = self.values.shape[1]
        if self.ends is None:
            return [(slice(0, len(self.values)), slice(0, positions))]
        starts = [0, *self.ends]
        return [
            (slice(start, end), slice(number * positions, (number + 1) * positions))
            for number, (start, end) in enumerate(zip(starts, self.ends, strict=False))
            if end > start
        ]

    def of_input(self, number: int) -> tuple[slice, Tensor]:
        """The columns on which an input depends, and its derivatives by them, ``(columns, B)``."""
        if self.ends is not None:
            channel, position = divmod(number, self.values.shape[1])
            start, end = self.ends[channel - 1] if channel else 0, self.ends[channel]
            return slice(self.columns.start + start, self.columns.start + end), self.values[start:end, position]
        found = self.values[:, number]
        if self.unit is not None and self.features is not None:
            found = found.index_select(0, self.unit).mul_(self.features)
        return self.columns, found

    def of_outputs(self, cotangents: Tensor) -> Tensor:
        """The products of rows ``(K, inputs, B)`` with the tangents, ``(K, units, B)``."""
        found = cotangents.new_empty(len(cotangents), len(self.values), cotangents.shape[-1])
        for units, inputs in self.by_channel():
            for row, cotangent in zip(found, cotangents, strict=True):
                torch.sum(cotangent[inputs] * self.values[units], 1, out=row[units])
        return found

    def through(self, weight: Tensor, slope: Tensor | None) -> Tangents:
        """The tangents behind a dense layer and its pointwise functions.

        ``weight`` is ``(out, inputs)``; ``slope``, that of the functions, ``(out, B)``, or ``None`` where there are
        none.
        """
        found = torch.cat([torch.matmul(weight[:, inputs], self.values[units]) for units, inputs in self.by_channel()])
        return replace(self, values=found if slope is None else found.mul_(slope), ends=None)


def joined(several: Sequence[Tangents]) -> list[Tangents]:
    """Join those of all convolutions, which come first and in order, into one."""
    together = [each for each in several if each.unit is None]
    if len(together) < 2:
        return list(several)
    part = slice(together[0].columns.start, together[-1].columns.stop)
    return [Tangents(part, torch.cat([each.values for each in together])), *several[len(together) :]]
