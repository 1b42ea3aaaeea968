"""The table of dense against sparse times, for people and for programs."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class LayerSpeed:
    """One masked weight, dense and sparse."""

    name: str
    """Name of the weight."""
    shape: tuple[int, ...]
    num_active: int
    dense_seconds: float | None = None
    """Seconds of one step; ``None`` where the layer has no sparse form here."""
    sparse_seconds: float | None = None
    """Seconds of one step, with the changes of layout that its neighbours in the returned model make necessary."""
    is_sparse: bool = False
    """Whether the returned model computes it sparse."""
    reason: str | None = None
    """The reason why it was not timed."""

    @property
    def is_faster(self) -> bool:
        """Whether sparse is faster, where both were timed."""
        return (
            self.dense_seconds is not None
            and self.sparse_seconds is not None
            and self.sparse_seconds < self.dense_seconds
        )


@dataclass(frozen=True, kw_only=True)
class SpeedTable:
    """Dense against sparse, measured: ``print(table)`` for people, :meth:`to_dict` for programs.

    Times are medians of steps in turns; a step is a forward pass, and with ``backward`` the gradients of all
    parameters, without loss and optimizer.
    """

    layers: tuple[LayerSpeed, ...]
    dense_seconds: float | None
    """Seconds of a step of the whole dense model; ``None`` where no layer can be sparse."""
    sparse_seconds: float | None
    """Seconds of the best mix of dense and sparse layers that was tried."""
    batch: int
    threads: int
    backward: bool
    dtype: str

    @property
    def speedup(self) -> float | None:
        """Dense over sparse seconds of the whole model."""
        if self.dense_seconds is None or self.sparse_seconds is None:
            return None
        return self.dense_seconds / self.sparse_seconds

    @property
    def _fell_back(self) -> bool:
        return self.speedup is not None and self.speedup <= 1

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return asdict(self) | {"speedup": self.speedup}

    def cells(self) -> list[tuple[str, ...]]:
        """The cells of the table as text: a head, a row for each layer, and the whole model last."""
        head = ("layer", "weight", "active", "density", "dense ms", "sparse ms", "speed-up", "")
        rows = [
            (
                layer.name.removesuffix(".weight"),
                "x".join(map(str, layer.shape)),
                *_numbers(layer.num_active, math.prod(layer.shape), layer.dense_seconds, layer.sparse_seconds),
                self._form(layer),
            )
            for layer in self.layers
        ]
        active, size = sum(layer.num_active for layer in self.layers), sum(math.prod(x.shape) for x in self.layers)
        whole = ("whole model", "", *_numbers(active, size, self.dense_seconds, self.sparse_seconds), "")
        return [head, *rows, whole]

    def _form(self, layer: LayerSpeed) -> str:
        return ("sparse" if layer.is_sparse else "dense") + ("*" if self._is_led(layer) else "")

    def _is_led(self, layer: LayerSpeed) -> bool:
        """Whether the layers around it decided against its own times."""
        return layer.reason is None and not self._fell_back and layer.is_sparse != layer.is_faster

    def conditions(self) -> str:
        """The conditions of the measurement, in one line."""
        threads = "1 thread" if self.threads == 1 else f"{self.threads} threads"
        return f"{'forward + backward' if self.backward else 'forward'}, batch {self.batch}, {threads}, {self.dtype}"

    def verdict(self) -> str:
        """The result, in sentences."""
        if self.speedup is None:
            return "No layer can be sparse here; the model stays dense."
        timed = [layer for layer in self.layers if layer.dense_seconds is not None]
        if self._fell_back and not any(layer.is_faster for layer in timed):
            return "Dense is faster in every layer; the model stays dense."
        if self._fell_back:
            return "Some layers are faster sparse, but not the model with them as a whole; it stays dense."
        lost = [layer.name.removesuffix(".weight") for layer in timed if not (layer.is_sparse or layer.is_faster)]
        whole = f"Sparse is {_ratio(self.speedup)} times as fast as dense, over the whole model."
        return f"{whole} Faster dense, and left so: {', '.join(lost)}." if lost else whole

    def notes(self) -> list[str]:
        """Lines below the table: the conditions, the result, and remarks on single layers."""
        lines = [self.conditions(), self.verdict()]
        if any(self._is_led(layer) for layer in self.layers):
            lines.append("* Against its own times: in the other form, the layers around it would lose more.")
        if untimed := [f"{x.name.removesuffix('.weight')} ({x.reason})" for x in self.layers if x.reason is not None]:
            lines.append(f"Not timed, dense: {', '.join(untimed)}.")
        return lines

    def __str__(self) -> str:
        """The table and the notes."""
        return "\n".join([_aligned(self.cells()), "", *self.notes()])


def _numbers(active: int, size: int, dense: float | None, sparse: float | None) -> tuple[str, ...]:
    shared = f"{active}", f"{active / max(1, size):.3f}"
    if dense is None or sparse is None:
        return *shared, "-", "-", "-"
    return *shared, _milliseconds(dense), _milliseconds(sparse), f"{_ratio(dense / sparse)}x"


def _milliseconds(seconds: float) -> str:
    """Milliseconds to three digits.

    >>> [_milliseconds(seconds) for seconds in (0.0, 12.3456e-6, 1.23456e-3, 1.23456)]
    ['0.000', '0.0123', '1.23', '1235']
    """
    decimals = 3 if seconds <= 0 else min(4, max(0, 2 - math.floor(math.log10(seconds * 1e3))))
    return f"{seconds * 1e3:.{decimals}f}"


def _ratio(number: float) -> str:
    return f"{number:.2f}" if number < 10 else f"{number:.1f}"


def _aligned(rows: Iterable[tuple[str, ...]]) -> str:
    """Align columns: the first two and the last to the left, numbers to the right."""
    columns = list(zip(*rows, strict=True))
    widths = [max(map(len, column)) for column in columns]
    left = {0, 1, len(columns) - 1}
    padded = [
        [text.ljust(width) if index in left else text.rjust(width) for text in column]
        for index, (column, width) in enumerate(zip(columns, widths, strict=True))
    ]
    return "\n".join("  ".join(row).rstrip() for row in zip(*padded, strict=True))
