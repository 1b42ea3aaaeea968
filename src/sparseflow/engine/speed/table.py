"""The table of :func:`sparseflow.engine.compile_sparse`, for people and for programs."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from sparseflow.engine.speed.text import aligned, milliseconds, threads
from sparseflow.engine.speed.timing import Ratio, short


@dataclass(frozen=True, kw_only=True)
class LayerSpeed:
    """One masked weight, dense and sparse."""

    name: str
    """Name of the weight."""
    shape: tuple[int, ...]
    num_active: int
    dense_seconds: float | None = None
    """Seconds of one step; ``None`` where it was not timed."""
    sparse_seconds: float | None = None
    """Seconds of one step, with the changes of layout that its neighbours in the returned model make necessary."""
    is_sparse: bool = False
    """Whether the returned model computes it sparse."""
    reason: str | None = None
    """Why it has this form, or how it is computed; ``None`` where it is sparse because it is faster so."""

    @property
    def is_faster(self) -> bool:
        """Whether sparse is faster, where both were timed."""
        return (
            self.dense_seconds is not None
            and self.sparse_seconds is not None
            and self.sparse_seconds < self.dense_seconds
        )


@dataclass(frozen=True, kw_only=True)
class LastComparison:
    """The best mix of dense and sparse layers against the dense model, timed in turns after it was chosen.

    All ``None`` where no layer can be sparse.
    """

    sparse_seconds: float | None = None
    """Median seconds of a step with the mix."""
    dense_seconds: float | None = None
    """Of the dense model in the precision of its weights."""
    speedup: Ratio | None = None
    """How many times as fast the mix is as the dense model."""
    bfloat16_seconds: float | None = None
    """Of the dense model in bfloat16; ``None`` where it does not run in it."""
    bfloat16_speedup: Ratio | None = None
    """How many times as fast the mix is as that."""
    bfloat16_reason: str | None = None
    """Why there is no time in bfloat16."""

    def is_faster(self, *, bfloat16: bool) -> bool:
        """Whether the mix is faster by more than the noise, with ``bfloat16`` than both dense forms."""
        ratios = [self.speedup, *([self.bfloat16_speedup] if bfloat16 and self.bfloat16_speedup else [])]
        return all(ratio is not None and ratio.low > 1 for ratio in ratios)


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """The conditions of a measurement."""

    batch: int
    threads: int
    training: bool
    dtype: str

    def __str__(self) -> str:
        """One line."""
        what = "training" if self.training else "inference"
        return f"{what}, batch {self.batch}, {threads(self.threads)}, {self.dtype}"


@dataclass(frozen=True, kw_only=True)
class SpeedTable:
    """Dense against sparse, measured: ``print(table)`` for people, :meth:`to_dict` for programs.

    A step is a forward pass in eval mode, or with ``training`` forward and the gradients of all parameters in train
    mode, without loss and optimizer.
    """

    layers: tuple[LayerSpeed, ...]
    last: LastComparison
    bfloat16_counts: bool
    """Whether the mix had to beat the dense model in bfloat16 too."""
    conditions: Conditions

    @property
    def chosen(self) -> list[str]:
        """The weights that the returned model computes sparse; none where it stays dense."""
        return [layer.name for layer in self.layers if layer.is_sparse]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return asdict(self)

    def cells(self) -> list[tuple[str, ...]]:
        """The cells of the table as text: a head, a row for each layer, and the whole model last."""
        head = ("layer", "weight", "density", "dense ms", "sparse ms", "speed-up", "")
        rows = [
            (
                layer.name.removesuffix(".weight"),
                "x".join(map(str, layer.shape)),
                *_numbers(layer.num_active, math.prod(layer.shape), layer.dense_seconds, layer.sparse_seconds),
                ("sparse" if layer.is_sparse else "dense") + (f": {layer.reason}" if layer.reason else ""),
            )
            for layer in self.layers
        ]
        active, size = sum(layer.num_active for layer in self.layers), sum(math.prod(x.shape) for x in self.layers)
        whole = ("whole model", "", *_numbers(active, size, self.last.dense_seconds, self.last.sparse_seconds), "")
        return [head, *rows, whole]

    def verdict(self) -> str:
        """The result, in sentences."""
        over, over_bfloat16 = self.last.speedup, self.last.bfloat16_speedup
        if over is None:
            return "No layer can be sparse here; the model stays dense."
        if self.chosen:
            return f"Sparse is {over} times as fast as dense, over the whole model."
        if over.low > 1 and over_bfloat16 is not None:
            return (
                f"Sparse is {over} times as fast as dense {self.conditions.dtype}, but only {over_bfloat16} times as "
                "fast as dense bfloat16; the model stays dense."
            )
        if not any(layer.is_faster for layer in self.layers):
            return "Dense is faster in every layer; the model stays dense."
        return (
            f"Sparse is {over} times as fast as dense over the whole model, no gain beyond the noise; it stays dense."
        )

    def notes(self) -> list[str]:
        """Lines below the table: the conditions, the result, and bfloat16."""
        lines = [str(self.conditions), self.verdict()]
        if self.last.bfloat16_seconds is not None:
            lines.append(
                f"Dense in bfloat16: {milliseconds(self.last.bfloat16_seconds)} ms; the best mix is "
                f"{self.last.bfloat16_speedup} times as fast."
            )
        elif self.last.bfloat16_reason is not None:
            lines.append(f"Dense in bfloat16: not timed ({self.last.bfloat16_reason}).")
        return lines

    def __str__(self) -> str:
        """The table and the notes."""
        cells = self.cells()
        return "\n".join([aligned(cells, left={0, 1, len(cells[0]) - 1}), "", *self.notes()])


def _numbers(active: int, size: int, dense: float | None, sparse: float | None) -> tuple[str, ...]:
    density = f"{active / max(1, size):.3f}"
    if dense is None or sparse is None:
        return density, "-", "-", "-"
    return density, milliseconds(dense), milliseconds(sparse), f"{short(dense / sparse)}x"
