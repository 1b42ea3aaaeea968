"""The pictures beside Tables 1 and 5: how many runs did not learn, and how well the others end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from sparseflow.lab.page.exhibit import Drawing
from sparseflow.lab.page.panels import NARROW, WIDE, legend, marker_key
from sparseflow.lab.page.summary import accuracy_percent
from sparseflow.lab.page.svg import INK, PALETTE
from sparseflow.lab.page.table import records
from sparseflow.training.runs import Run

_OURS, _PAPER, _STUCK = PALETTE["blue"], PALETTE["vermillion"], PALETTE["vermillion"]
#: Points of accuracy: how far left of the lowest median the axis begins, and how far below the highest it ends at most.
MARGIN, RANGE = 1.2, 10.0

Accuracies = Mapping[str, np.ndarray[tuple[int], np.dtype[np.float64]]]


def accuracy_drawing(
    name: str, table: pd.DataFrame, runs: Mapping[str, Sequence[Run]], *, collapse_percent: float
) -> Drawing:
    """One row per network of the table that has runs.

    Args:
        name: of the table.
        table: columns ``network, group, runs, collapsed, learned_mean, paper_mean, paper_std``.
        runs: by group.
        collapse_percent: runs that end below it did not learn.
    """
    shown = table[table["runs"] > 0]
    points = pd.DataFrame(
        [
            {
                "network": row["network"],
                "group": row["group"],
                "seed": run.config.seed,
                "accuracy": accuracy_percent(run),
            }
            for row in records(shown)
            for run in runs[row["group"]]
        ]
    )
    points["learned"] = points["accuracy"] >= collapse_percent
    learned = {
        group: points.loc[(points["group"] == group) & points["learned"], "accuracy"].to_numpy(dtype=float)
        for group in shown["group"]
    }
    words = "; ".join(
        f"{row['network']} {row['collapsed']} of {row['runs']} did not learn, the others end at "
        f"{row['learned_mean']:.2f} %, paper {row['paper_mean']:.2f} %"
        for row in records(shown)
    )
    return Drawing(
        name=f"{name}-accuracy",
        how="Left: the share of runs that did not learn. Right: where the others end; a ring is one run, the thick "
        "mark their mean. The diamond with its whisker is the paper's mean and standard deviation over all its runs. A "
        "triangle at the edge stands for what lies further left, at the number beside it.",
        alt=f"Share of runs that did not learn, and final accuracy of the others. {words}.",
        draw=partial(draw_accuracy, shown, learned),
        data=points,
    )


def draw_accuracy(shown: pd.DataFrame, learned: Accuracies, *, narrow: bool = False) -> Figure:
    """Two panels that share their rows."""
    figure = Figure(figsize=(NARROW if narrow else WIDE, 1.0 + 0.29 * len(shown)), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(1, 2) if narrow else (1, 3))
    rows = records(shown)
    medians = [float(np.median(values)) for values in learned.values() if len(values)] or [0.0]
    low = max(min(medians), max(medians) - RANGE) - MARGIN
    high = max([*shown["paper_mean"].dropna(), *(values.max() for values in learned.values() if len(values))])
    for place, row in enumerate(rows):
        left.barh(place, 100 * row["collapsed"] / row["runs"], 0.6, color=_STUCK, linewidth=0)
        left.text(3, place, f"{row['collapsed']} of {row['runs']}", va="center", fontsize=8)
        _ours(right, place, learned[row["group"]], low=low)
        _papers(right, place, row["paper_mean"], row["paper_std"], low=low)
    right.set_xlim(low, high + MARGIN / 2)
    left.set_xlim(0, 100)
    left.set_xticks([0, 50, 100])
    left.set_xlabel("Did not learn (%)")
    right.set_xlabel("Accuracy (%)" if narrow else "Final test accuracy of those that learned (%)")
    _name_rows(left, [str(row["network"]) for row in rows])
    right.grid(visible=False, axis="y")
    right.tick_params(axis="y", length=0)
    keys = [
        marker_key("o", "one run of ours", colour=_OURS, filled=False),
        Line2D([], [], linestyle="", marker="|", markersize=10, markeredgewidth=2.2, color=INK, label="mean of ours"),
        Line2D([], [], marker="D", color=_PAPER, label="paper, mean ± std"),
    ]
    legend(figure, keys, columns=2 if narrow else 3)
    return figure


def _ours(axes: Axes, place: float, learned: np.ndarray[tuple[int], np.dtype[np.float64]], *, low: float) -> None:
    inside, outside = learned[learned >= low], np.sort(learned[learned < low])
    _rings(axes, place - 0.12, inside)
    if len(learned) and learned.mean() >= low:
        axes.plot(learned.mean(), place - 0.12, "|", markersize=12, markeredgewidth=2.2, color=INK)
    if len(outside):
        _at_edge(axes, place - 0.16, ", ".join(f"{value:.1f}" for value in outside), colour=_OURS)


def _rings(axes: Axes, place: float, values: np.ndarray[tuple[int], np.dtype[np.float64]]) -> None:
    """One ring per run, side by side across the row, so that equal accuracies do not hide each other."""
    across = 0.3 * (np.arange(len(values)) / max(len(values) - 1, 1) - 0.5)
    axes.plot(values, place + across, "o", markersize=3.5, color="none", markeredgecolor=_OURS, markeredgewidth=0.8)


def _name_rows(axes: Axes, names: Sequence[str]) -> None:
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)


def _papers(axes: Axes, place: float, mean: float, std: float, *, low: float) -> None:
    if mean < low:
        _at_edge(axes, place + 0.28, f"{mean:.1f}", colour=_PAPER)
    elif mean >= low:
        axes.errorbar(mean, place + 0.28, xerr=std, fmt="D", markersize=3.5, color=_PAPER, linewidth=1, capsize=2)


def _at_edge(axes: Axes, place: float, text: str, *, colour: str) -> None:
    axes.plot(0.015, place, "<", markersize=4.5, color=colour, transform=axes.get_yaxis_transform())
    axes.annotate(
        text, (0.015, place), (5, 0), xycoords=axes.get_yaxis_transform(), textcoords="offset points", va="center",
        fontsize=7, color=INK,
    )  # fmt: skip


def draw_settings(points: Mapping[str, pd.DataFrame], *, narrow: bool = False) -> Figure:
    """One panel per setting, one row per kind of run.

    Args:
        points: Title of a panel -> columns ``network`` and ``accuracy``, one row per run.
        narrow: For a phone.
    """
    columns = 1 if narrow else 2
    kinds = [len(rows["network"].unique()) + 3 for rows in points.values()]
    heights = [max(kinds[first : first + columns]) for first in range(0, len(kinds), columns)]
    figure = Figure(figsize=(NARROW if narrow else WIDE, 0.23 * sum(heights)), layout="constrained")
    axes = list(figure.subplots(len(heights), columns, squeeze=False, height_ratios=heights).flat)
    for spare in axes[len(points) :]:
        spare.remove()
    for panel, (title, rows) in zip(axes, points.items(), strict=False):
        names = list(rows["network"].unique())
        for place, name in enumerate(names):
            values = rows.loc[rows["network"] == name, "accuracy"].to_numpy(dtype=float)
            _rings(panel, place, values)
            panel.plot(values.mean(), place, "|", markersize=11, markeredgewidth=2.2, color=INK)
        _name_rows(panel, names)
        panel.set_title(title)
        panel.set_xlabel("Final test accuracy (%)")
    return figure
