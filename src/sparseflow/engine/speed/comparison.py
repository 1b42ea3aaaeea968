"""The table of :func:`sparseflow.engine.benchmark`, for people and for programs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from sparseflow.engine.speed.table import SpeedTable
from sparseflow.engine.speed.text import aligned, milliseconds, threads
from sparseflow.engine.speed.timing import Ratio, short


@dataclass(frozen=True, kw_only=True)
class BatchSpeed:
    """Steps at one batch size, dense and sparse."""

    batch: int
    training: bool
    seconds: Mapping[str, float]
    """Form -> median seconds of a step: the dense model in ``float32`` (or ``float64``), ``bfloat16`` and ``int8``,
    ``sparse`` as :func:`sparseflow.engine.convert` makes it, and ``chosen``, the mix of ``compile_sparse``, where that
    is another."""
    speedups: Mapping[str, Ratio]
    """Dense form -> how many times as fast the sparse model is: ``chosen`` where there is one, else ``sparse``."""
    reasons: Mapping[str, str]
    """Form -> why there is no time."""
    choice: SpeedTable | None
    """What ``compile_sparse`` chooses here, and why; ``None`` where the model does not run."""

    @property
    def step(self) -> str:
        """What is timed, in a word."""
        return "training" if self.training else "inference"

    def sentence(self) -> str:
        """The result in words."""
        if not self.speedups or self.choice is None:
            return f"At batch {self.batch} {self.step} does not run."
        own = next(iter(self.speedups))
        named = [(f"dense {name}" if name == own else name, r.median) for name, r in self.speedups.items()]
        ahead = _listed([f"{short(ratio)} times as fast as {name}" for name, ratio in named if ratio >= 1])
        behind = _listed([f"{name} is {short(1 / ratio)} times as fast" for name, ratio in named if ratio < 1])
        who = f"At batch {self.batch} the sparse model {'trains' if self.training else 'infers'}"
        if self.speedups[own].median >= 1:
            return f"{who} {ahead}{f'; {behind} as it' if behind else ''}."
        rest = f"; it is {ahead}" if ahead else ""
        return f"{who} slower than dense: {behind}{rest}{'' if self.choice.chosen else '. compile_sparse stays dense'}."


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Dense against sparse at several batch sizes: ``print(comparison)`` for people, :meth:`to_dict` for programs.

    A step is a forward pass in eval mode, or for training forward and the gradients of all parameters in train mode,
    without loss and optimizer.
    """

    rows: tuple[BatchSpeed, ...]
    num_convertible: int
    """Number of weights that can be sparse."""
    num_active: int
    """Active weights in all masks."""
    num_weights: int
    """Weights under all masks."""
    threads: int
    dtype: str

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return asdict(self)

    def headline(self) -> str:
        """The result at the largest batch, in a sentence each for training and inference."""
        last = {row.training: row for row in sorted(self.rows, key=lambda row: row.batch)}
        return " ".join(last[training].sentence() for training in (True, False) if training in last)

    def cells(self) -> list[tuple[str, ...]]:
        """The cells of the table as text: a head, and a row for each batch."""
        dense = [name for name in (self.dtype, "bfloat16", "int8") if any(name in row.speedups for row in self.rows)]
        forms = [*dense, "sparse", *(["chosen"] if self._has_mixes() else [])]
        head = ("step", "batch", *(f"{form} ms" for form in forms), *(f"over {name}" for name in dense))
        return [head, *(self._row(row, forms, dense) for row in self.rows)]

    def _row(self, row: BatchSpeed, forms: list[str], dense: list[str]) -> tuple[str, ...]:
        times = [milliseconds(row.seconds[form]) if form in row.seconds else "-" for form in forms]
        if forms[-1] == "chosen" and row.choice is not None and "chosen" not in row.seconds:
            times[-1] = "sparse" if row.choice.chosen else "dense"
        ratios = [f"{short(row.speedups[name].median)}x" if name in row.speedups else "-" for name in dense]
        return row.step, str(row.batch), *times, *ratios

    def _has_mixes(self) -> bool:
        """Whether a choice is another than to make all layers sparse."""
        return any(row.choice is not None and len(row.choice.chosen) < self.num_convertible for row in self.rows)

    def notes(self) -> list[str]:
        """Lines below the table: the conditions, and why cells are empty."""
        zeros = 100 * (1 - self.num_active / max(1, self.num_weights))
        lines = [f"{zeros:.1f} % of {self.num_weights} masked weights are zero; {threads(self.threads)}, {self.dtype}"]
        if self._has_mixes():
            lines.append(
                f"sparse: all {self.num_convertible} weights that can be, by engine.convert; chosen: by compile_sparse."
            )
        said: dict[str, list[str]] = {}
        for row in self.rows:
            for form, reason in row.reasons.items():
                said.setdefault(f"No {form} ({reason})", []).append(f"{row.step} at batch {row.batch}")
        return [*lines, *(f"{reason}: {', '.join(where)}." for reason, where in said.items())]

    def __str__(self) -> str:
        """The result in words, the table, and the notes."""
        return "\n".join([self.headline(), "", aligned(self.cells(), left={0}), "", *self.notes()])


def _listed(parts: list[str]) -> str:
    return " and ".join(parts) if len(parts) < 3 else f"{', '.join(parts[:-1])} and {parts[-1]}"
