"""What a sparse training does while it runs: gradient flow, swaps and sparsity; as rows, table and figure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Self

import torch
from torch import Tensor

from sparseflow._fast import zero_inactive_
from sparseflow.boundary import checked
from sparseflow.gradients import norm_of
from sparseflow.ranges import Range
from sparseflow.sharded import local, num_true
from sparseflow.sparsifier.part import Part
from sparseflow.sparsifier.sparsifier import Sparsifier
from sparseflow.types import Masks, MaskUpdate

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Name in a row -> what it is, in the unit of the figure; the rows hold fractions.
LABELS = {
    "gradient_norm": "Gradient norm",
    "swapped": "Connections swapped (%)",
    "sparsity": "Sparsity (%)",
}
#: One colour each, of Okabe and Ito's, which are told apart under the common colour vision deficiencies; and an ink
#: that reads on white and on black.
_COLOURS = {"gradient_norm": "#D55E00", "swapped": "#009E73", "sparsity": "#3D8FC9"}
_INK = "#808080"

#: A recorded step: its numbers by name.
Row = dict[str, float]


@checked(every=Range(1), most_rows=Range(2))
def record(sparsifier: Sparsifier, *, every: int = 1, most_rows: int = 1000) -> Record:
    r"""Record gradient flow, swaps and sparsity of a training from now on; the run itself stays as it is, bit for bit.

    A row has, of an optimizer step :math:`t` (``"step"``):

    * ``"gradient_norm"``: :math:`\|g\|_2` over active weights and all other parameters of the optimizers, of the
      gradients as the step left them: accumulated, unscaled, clipped. NaN where there were none.
    * ``"swapped"``: connections that mask updates have moved since the row before, as a fraction of those active; of an
      update that only prunes, the fraction that left.
    * ``"sparsity"``: fraction of zeros over all masks together, after the step and its update.

    Args:
        sparsifier: The one that keeps the model sparse; any loop, or trainer, steps its optimizers.
        every: Optimizer steps between rows. A row reads each gradient once.
        most_rows: Beyond this, pairs of rows become one and ``every`` doubles, so that a record of any length is small.

    Raises:
        TypeError, ValueError: naming the argument.

    >>> import sparseflow as sf
    >>> model = torch.nn.Linear(100, 10)
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    >>> method = sf.SET(update_every=2, total_steps=6, schedule="constant", regrow=False)
    >>> sparsifier = sf.Sparsifier(model, optimizer, sf.random_masks(model, 0.9, seed=0), method, seed=0)
    >>> with sf.record(sparsifier) as record:
    ...     for _ in range(5):
    ...         optimizer.zero_grad()
    ...         model(torch.ones(8, 100)).square().mean().backward()
    ...         optimizer.step()
    >>> [(row["step"], row["swapped"]) for row in record.rows]
    [(1, 0.0), (2, 0.3), (3, 0.0), (4, 0.3), (5, 0.0)]
    >>> print(record.table(most_rows=2))
    step  gradient norm  connections swapped (%)  sparsity (%)
       2         ...                         30            90
       5         ...                         30            90
    """
    if not isinstance(sparsifier, Sparsifier):
        raise TypeError(
            f"record() takes the Sparsifier of a training, got {type(sparsifier).__name__}. Write "
            "sf.record(sf.Sparsifier(model, optimizer, masks, method, seed=0))."
        )
    return Record(sparsifier, every=every, most_rows=most_rows)


class Record:
    """Rows that grow while a training runs; made by :func:`record`. As ``with record(...) as rows:`` it ends there."""

    def __init__(self, sparsifier: Sparsifier, *, every: int, most_rows: int) -> None:
        self.rows: list[Row] = []
        """One dict for each recorded step: ``step``, ``gradient_norm``, ``swapped``, ``sparsity``."""
        self.every = every
        """Optimizer steps between rows, by now."""
        self._sparsifier, self._most_rows = sparsifier, most_rows
        self._norms: list[float] = []
        self._swapped = 0.0
        sparsifier.observers.append(self)

    @property
    def latest(self) -> dict[str, float]:
        """The last row without its step, for a logger; empty before there is one."""
        return {name: value for name, value in self.rows[-1].items() if name != "step"} if self.rows else {}

    def stop(self) -> None:
        """Record no more; the rows stay."""
        if self in self._sparsifier.observers:
            self._sparsifier.observers.remove(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    # -- what the Sparsifier tells ---------------------------------------------------------------------------------

    def part_stepped(self, part: Part) -> None:
        """Measure the gradients of an optimizer that has stepped."""
        if (self._sparsifier.step_count + 1) % self.every == 0:
            dense = part.weights if part.ran_dense else {}
            self._norms += gradient_norms(part.held, dense, self._sparsifier.masks)

    def masks_changed(self, changes: Mapping[str, MaskUpdate]) -> None:
        """Count the connections that an update moved."""
        self._swapped += swapped(changes)

    def step_done(self, step: int) -> None:
        """Add a row, if it is time."""
        if step % self.every == 0 and (not self.rows or step > self.rows[-1]["step"]):
            norm = math.hypot(*self._norms) if self._norms else math.nan
            sparsity = self._sparsifier.sparsity
            self.rows.append({"step": step, "gradient_norm": norm, "swapped": self._swapped, "sparsity": sparsity})
            self._swapped = 0.0
            if len(self.rows) > self._most_rows:
                self._thin()
        self._norms = []

    def _thin(self) -> None:
        """Double ``every``, and keep the rows that are at its multiples."""
        self.every *= 2
        waiting: list[Row] = []
        kept = []
        for row in self.rows:
            waiting.append(row)
            if row["step"] % self.every == 0:
                kept.append(merged(waiting))
                waiting = []
        self.rows[:] = kept
        self._swapped = math.fsum(row["swapped"] for row in waiting)

    # -- what a person reads ---------------------------------------------------------------------------------------

    def table(self, *, most_rows: int = 20) -> str:
        """The rows as text; of more than ``most_rows``, evenly many become one, which has all their swaps.

        Raises:
            ValueError: if nothing was recorded.
        """
        Range(1).check(most_rows, name="most_rows", whole=True)
        self._check_rows()
        shown = condensed(self.rows, most_rows)
        cells = [["step", *(label.lower() for label in LABELS.values())]]
        cells += [[f"{int(row['step'])}", *(f"{_in_unit(name, row):.4g}" for name in LABELS)] for row in shown]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        return "\n".join("  ".join(map(str.rjust, line, widths)) for line in cells)

    def plot(self) -> Figure:
        """The rows as a figure: gradient norm (logarithmic), swaps and sparsity over the steps; needs matplotlib.

        Its background is transparent and its ink grey, so that it reads on light and on dark. ``figure.savefig(path)``
        writes it.

        Raises:
            ModuleNotFoundError: if matplotlib is not installed.
            ValueError: if nothing was recorded.
        """
        self._check_rows()
        try:
            return _figure(self.rows)
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                "the figure of a record is drawn by matplotlib, which is not installed: pip install matplotlib. "
                "print(record.table()) needs nothing."
            ) from error

    def _check_rows(self) -> None:
        if not self.rows:
            raise ValueError(
                f"nothing is recorded yet: a row is made every {self.every} optimizer steps, and "
                f"{self._sparsifier.step_count} are done. Train longer, or lower every=."
            )


@torch.no_grad()
def gradient_norms(parameters: Iterable[Tensor], dense: Mapping[str, Tensor], masks: Masks) -> Iterator[float]:
    r""":math:`\|g_l\|_2` of each parameter that has a gradient, over active weights.

    Args:
        parameters: Those that an optimizer steps.
        dense: Name -> masked weight, of those whose gradient is not zero off the mask.
        masks: Name -> mask.

    >>> weight = torch.zeros(2, requires_grad=True)
    >>> weight.grad = torch.tensor([3.0, 4.0])
    >>> list(gradient_norms([weight], {"weight": weight}, {"weight": torch.tensor([True, False])}))
    [3.0]
    """
    names = {id(weight): name for name, weight in dense.items()}
    for parameter in parameters:
        if (gradient := parameter.grad) is None:
            continue
        if gradient.is_sparse:
            gradient = gradient.coalesce().values()
        elif (name := names.get(id(parameter))) is not None:
            gradient = gradient.clone()  # on an update step growth still reads what is off the mask
            zero_inactive_(local(gradient), local(masks[name]))
        yield norm_of(gradient)


def swapped(changes: Mapping[str, MaskUpdate]) -> float:
    """Connections that a mask update moved, as a fraction of those that were active.

    Of each layer as many as were dropped, or grown where more came than went.

    >>> from sparseflow.methods.drop_grow import changed
    >>> swapped({"weight": changed(torch.tensor([True, True, False]), torch.tensor([True, False, True]))})
    0.5
    """
    moved = active = 0
    for change in changes.values():
        grown, dropped = num_true(change.grown), num_true(change.dropped)
        moved += max(grown, dropped)
        active += num_true(change.mask) - grown + dropped
    return moved / active if active else 0.0


def merged(rows: Sequence[Row]) -> Row:
    """The last of some rows that follow each other, with the swaps of all.

    >>> merged([{"step": 1, "swapped": 0.25}, {"step": 2, "swapped": 0.5}])
    {'step': 2, 'swapped': 0.75}
    """
    return {**rows[-1], "swapped": math.fsum(row["swapped"] for row in rows)}


def condensed(rows: Sequence[Row], most: int) -> list[Row]:
    """At most so many rows, each of equally many that follow each other; the last is among them.

    >>> [row["step"] for row in condensed([{"step": step, "swapped": 0.0} for step in range(1, 6)], 3)]
    [1, 3, 5]
    """
    size = -(-len(rows) // most)
    first = len(rows) % size
    groups = [rows[:first]] if first else []
    groups += [rows[start : start + size] for start in range(first, len(rows), size)]
    return [merged(group) for group in groups]


def _in_unit(name: str, row: Row) -> float:
    return row[name] * 100 if LABELS[name].endswith("(%)") else row[name]


def _figure(rows: Sequence[Row]) -> Figure:
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator, StrMethodFormatter

    shown = [name for name in LABELS if name != "swapped" or any(row["swapped"] for row in rows)]
    figure = Figure(figsize=(6.4, 0.6 + 1.7 * len(shown)), layout="constrained", facecolor="none")
    steps = [row["step"] for row in rows]
    for axes, name in zip(figure.subplots(len(shown), sharex=True), shown, strict=True):
        values = [_in_unit(name, row) for row in rows]
        if name == "swapped":  # an update is a moment, not a level
            moved = [(step, value) for step, value in zip(steps, values, strict=True) if value]
            axes.vlines(
                [step for step, _ in moved], 0, [value for _, value in moved], color=_COLOURS[name], linewidth=2
            )
            axes.set_ylim(bottom=0)
        else:
            axes.plot(steps, values, color=_COLOURS[name], linewidth=1.7, marker="o" if len(rows) == 1 else None)
        if name == "gradient_norm" and any(value > 0 for value in values):
            axes.set_yscale("log")
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
            axes.yaxis.set_minor_locator(NullLocator())
        if name == "sparsity":
            low = min(values)
            axes.set_ylim(max(0.0, low - 5) if max(values) - low < 1 else 0, 100)
        axes.set_title(LABELS[name], loc="left", fontsize=10, color=_INK)
        axes.set_facecolor("none")
        axes.grid(color=_INK, alpha=0.25, linewidth=0.6)
        axes.tick_params(which="both", colors=_INK, labelsize=9)
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color(_INK)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("Optimizer step", color=_INK)
    return figure
