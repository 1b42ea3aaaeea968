"""Accuracy against the live filters of the first layer; what waking dead ones, and silencing live ones, changes."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sparseflow.init.schemes import SCHEMES
from sparseflow.lab.page.evidence import Evidence, NotEnoughRunsError
from sparseflow.lab.page.exhibit import Content, Drawing
from sparseflow.lab.page.panels import label_left, layout, legend, marker_key
from sparseflow.lab.page.svg import INK, PALETTE
from sparseflow.lab.page.table import Column, Table, records
from sparseflow.lab.page.words import fixed
from sparseflow.paper.claims.dead_filters import changed, dead_filters, filters, group_of
from sparseflow.paper.matrix.cells import INITS, METHODS
from sparseflow.paper.matrix.scale import Scale

GROUPS = (
    *(group_of(method, init, variant) for method in METHODS for init in INITS for variant in ("drawn", "repaired")),
    *(group_of(method, "sparse", "killed") for method in METHODS),
    *(group_of("scratch", init, "avoid_dead") for init in INITS),
)
LABELS = {"scratch": "Scratch", "set": "SET", "rigl": "RigL"}
MARKERS = {"scratch": "o", "set": "s", "rigl": "^"}
OUTCOMES = {"held": "shown", "failed": "contradicted", "inconclusive": "not decided"}
#: Points of accuracy below the best run that are shown; runs further down stand at the edge.
SHOWN = 6.0


def dead_filter_exhibit(evidence: Evidence, scale: Scale) -> Content:
    """Runs of Table 1's cells by the live filters of their start, with both controls and ``avoid_dead``."""
    table = filters(evidence)
    unknown = "Whether dead first filters make a run end lower is not judged: there are too few starts."
    outcome = _judged(evidence)
    sentences = [outcome.sentence if outcome else unknown, _correlation(table), *_changes(table)]
    best = float(table["accuracy"].max())
    drawing = Drawing(
        name="dead-filters",
        how="A point is a run. First panel: as drawn, by the filters of the first layer that are alive at the start. "
        "The others: each arrow is one start of Scratch, Ours, from its end as drawn to its end with its dead filters "
        "woken (their signs turned), or with one more silenced (its weights made negative); a start that this leaves "
        "as it was, or without any live filter, has no arrow. Points at the bottom are further down.",
        alt=" ".join(sentences),
        draw=partial(draw_filters, table, best=best),
        data=table,
    )
    missing = [
        f"{group}: {have} of {planned} runs counted their units. Make the others:\nsparseflow reproduce {group}"
        for group in GROUPS
        if (have := _counted(table, group)) < (planned := len(scale.groups.get(group, ())))
    ]
    return Content(
        shows=sentences,
        drawings=[drawing],
        tables=[
            found for found in (_pairs_table(table), _avoiding_table(table, evidence.collapse_percent)) if found.rows
        ],
        missing=missing,
        beyond=[
            "A first filter whose weights are all negative never fires; that runs end lower for it is "
            f"{outcome.word}. {' '.join(_changes(table))}"
        ]
        if outcome
        else [],
    )


class _Outcome(NamedTuple):
    """Whether dead first filters make a run end lower."""

    word: str
    text: str

    @property
    def sentence(self) -> str:
        return f"That dead first filters make a run end lower is {self.word}: {self.text}."


def _judged(evidence: Evidence) -> _Outcome | None:
    """The outcome; None where there are too few starts."""
    try:
        part = dead_filters(evidence)
    except NotEnoughRunsError:
        return None
    return _Outcome(OUTCOMES[part.outcome], part.text)


def _counted(table: pd.DataFrame, group: str) -> int:
    names = [group_of(*row) for row in table[["method", "init", "variant"]].itertuples(index=False, name=None)]
    return names.count(group)


def _correlation(table: pd.DataFrame) -> str:
    drawn = table[(table["variant"] == "drawn") & (table["method"] == "scratch") & (table["init"] == "sparse")]
    medians = drawn.groupby("live")["accuracy"].agg(["median", "size"])
    parts = [f"{live} live: {fixed(row['median'], 2)} % ({int(row['size'])})" for live, row in medians.iterrows()]
    return f"Scratch, Ours, as drawn, median accuracy by live first filters (starts): {'; '.join(parts)}."


def _changes(table: pd.DataFrame) -> Iterator[str]:
    for variant, verb in (("repaired", "waking the dead filters"), ("killed", "silencing one more filter")):
        pairs = changed(table, variant)
        if len(pairs):
            difference = pairs["accuracy"] - pairs["accuracy_before"]
            yield (
                f"In {len(pairs)} starts of Scratch, Ours, {verb} changes accuracy by {fixed(difference.median(), 2)} "
                f"points in the median; it rises in {int((difference > 0).sum())} and falls in "
                f"{int((difference < 0).sum())}."
            )


class _Pairs(NamedTuple):
    method: str
    init: str
    variant: str
    pairs: pd.DataFrame

    @property
    def change(self) -> pd.Series[float]:
        return self.pairs["accuracy"] - self.pairs["accuracy_before"]


def _pairs_table(table: pd.DataFrame) -> Table:
    found = [
        _Pairs(method, init, variant, changed(table, variant, method=method, init=init))
        for variant in ("repaired", "killed")
        for method in METHODS
        for init in INITS
    ]
    columns = (
        Column("variant", lambda of: of.variant, "Start"),
        Column("method", lambda of: LABELS[of.method], "Method"),
        Column("init", lambda of: SCHEMES[of.init].label, "Initialisation"),
        Column("starts", lambda of: len(of.pairs), "Starts changed"),
        Column("rises", lambda of: int((of.change > 0).sum()), "Ends higher"),
        Column("falls", lambda of: int((of.change < 0).sum()), "Ends lower"),
        Column("median_change", lambda of: of.change.median(), "Median change, points", "+.2f"),
    )
    return Table.of(
        columns,
        [pairs for pairs in found if len(pairs.pairs)],
        name="dead-filters-pairs",
        caption="The same start as drawn and changed; only starts whose live filters changed.",
        note="A start is a mask with its first weights. Without a collapse the change is small; with one it is large, "
        "so the median is of both.",
    )


class _Cell(NamedTuple):
    init: str
    variant: str
    accuracy: pd.Series[float]
    collapse_percent: float


def _avoiding_table(table: pd.DataFrame, collapse_percent: float) -> Table:
    """Cells of Scratch as drawn and with ``avoid_dead``, on the starts that have both."""
    cells = []
    for init in INITS:
        of = table[(table["method"] == "scratch") & (table["init"] == init)]
        wide = of.pivot_table(index="start", columns="variant", values="accuracy")
        if {"drawn", "avoid_dead"} <= set(wide):
            both = wide[["drawn", "avoid_dead"]].dropna()
            cells += [_Cell(init, variant, both[variant], collapse_percent) for variant in ("drawn", "avoid_dead")]
    columns = (
        Column("init", lambda of: SCHEMES[of.init].label, "Initialisation"),
        Column("start", lambda of: of.variant, "Start"),
        Column("starts", lambda of: len(of.accuracy), "Starts"),
        Column("collapsed", lambda of: int((of.accuracy < of.collapse_percent).sum()), "Did not learn"),
        Column("mean", lambda of: of.accuracy.mean(), "Mean", ".2f"),
        Column("median", lambda of: of.accuracy.median(), "Median", ".2f"),
        Column("std", lambda of: float(np.std(of.accuracy)), "Std", ".2f"),
    )
    return Table.of(
        columns,
        cells,
        name="dead-filters-avoided",
        caption="Scratch with and without avoid_dead, which leaves no unit that fires for no training image. Accuracy "
        "in percent.",
        note="Both rows are of the same starts; standard deviations are of the population.",
    )


def draw_filters(table: pd.DataFrame, *, best: float, narrow: bool = False) -> Figure:
    """Accuracy by live filters, and arrows for both controls."""
    figure, axes = layout(3, narrow=narrow, share=True)
    low = best - SHOWN
    _draw_drawn(axes[0], table[table["variant"] == "drawn"], low=low)
    axes[0].set_title("As drawn")
    for panel, (variant, title) in zip(
        axes[1:], {"repaired": "Dead ones woken", "killed": "One silenced"}.items(), strict=True
    ):
        _draw_arrows(panel, changed(table, variant), low=low)
        panel.set_title(title)
    for panel in axes:
        panel.set_ylim(low - 0.6, best + 0.4)
        panel.set_xlabel("Live first filters at the start")
        panel.set_xticks(range(int(table["live"].max()) + 1))
    label_left(axes, "Final test accuracy (%)")
    keys = [marker_key(MARKERS[method], LABELS[method], filled=False) for method in METHODS]
    keys += [marker_key("o", SCHEMES[init].label, colour=PALETTE[SCHEMES[init].look.colour]) for init in INITS]
    legend(figure, keys, columns=3)
    return figure


def _draw_drawn(axes: Axes, table: pd.DataFrame, *, low: float) -> None:
    cells = [(method, init) for method in METHODS for init in INITS]
    for row in records(table):
        place = cells.index((row["method"], row["init"]))
        axes.plot(
            row["live"] + 0.08 * (place - 4), max(row["accuracy"], low - 0.3), MARKERS[row["method"]], markersize=3.5,
            markeredgecolor=PALETTE[SCHEMES[row["init"]].look.colour], color="none",
        )  # fmt: skip


def _draw_arrows(axes: Axes, pairs: pd.DataFrame, *, low: float) -> None:
    for number, row in enumerate(records(pairs)):
        across = 0.04 * (number % 5 - 2)
        begin = row["live_before"] + across, max(row["accuracy_before"], low - 0.3)
        end = row["live"] + across, max(row["accuracy"], low - 0.3)
        axes.annotate("", xy=end, xytext=begin, arrowprops={"arrowstyle": "->", "color": INK, "linewidth": 0.8})
        axes.plot(*begin, "o", markersize=3.5, markeredgecolor=PALETTE["blue"], color="none")
        axes.plot(*end, "o", markersize=3.5, color=PALETTE["blue"])
