"""The figures of the demo's page; each function draws one of the tables of :mod:`sparseflow.lab.page.figure_data`.

``narrow=True`` draws for a phone: the panels stand below each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sparseflow.init.schemes import SCHEMES
from sparseflow.lab.page import panels
from sparseflow.lab.page.panels import NARROW, WIDE, Curve
from sparseflow.lab.page.summary import COLLAPSE_PERCENT
from sparseflow.lab.page.svg import INK, PALETTE
from sparseflow.training.names import shown_methods


def draw_accuracy(points: pd.DataFrame, *, narrow: bool = False) -> Figure:
    """Final test accuracy: a row per group, a dot per run, a line at the median of the runs that learned.

    Args:
        points: The table of :func:`~sparseflow.lab.page.figure_data.accuracy_points`.
        narrow: For a phone.
    """
    figure = Figure(figsize=(NARROW if narrow else WIDE, 1), layout="constrained")
    axes = figure.subplots()
    axes.axvspan(0, COLLAPSE_PERCENT, color=INK, alpha=0.07, linewidth=0)
    places: list[float] = []
    labels: list[str] = []
    before = None
    for (label, method, init), runs in points.groupby(["label", "method", "init"], sort=False):
        places.append(places[-1] + (1 if method == before else 1.5) if places else 0.0)
        labels.append(str(label))
        before = method
        _dots(axes, places[-1], runs, colour=PALETTE[SCHEMES[str(init)].look.colour if init else "grey"])
    axes.set_yticks(places, labels)
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False, axis="y")
    axes.set_ylim(places[-1] + 0.7, -1.6)
    axes.set_xlim(0, 101)
    axes.set_xticks(range(0, 101, 20))
    axes.set_xlabel("Final test accuracy (%)")
    axes.text(1.01, -1.1, "learned", transform=axes.get_yaxis_transform(), va="center", weight="bold")
    axes.text(COLLAPSE_PERCENT + 1, -1.1, "left of this: did not learn", va="center", alpha=0.75)
    figure.set_figheight(0.55 + (0.21 if narrow else 0.25) * (places[-1] + 2.3))
    return figure


def _dots(axes: Axes, position: float, runs: pd.DataFrame, *, colour: str) -> None:
    accuracy, learned = runs["accuracy"].to_numpy(), ~runs["collapsed"].to_numpy()
    # Seeds side by side across the row, so that equal accuracies do not hide each other.
    across = 0.7 * (np.arange(len(accuracy)) - (len(accuracy) - 1) / 2) / max(len(accuracy), 3)
    edge: dict[str, Any] = {"markeredgecolor": INK, "markeredgewidth": 0.4}
    axes.plot(accuracy, position + across, "o", markersize=4.2, color=colour, alpha=0.8, **edge)
    if learned.any():
        axes.plot(np.median(accuracy[learned]), position, "|", markersize=15, markeredgewidth=1.6, color=INK)
    weight = "normal" if learned.any() else "bold"
    count = f"{learned.sum()} of {len(learned)}"
    axes.text(1.01, position, count, transform=axes.get_yaxis_transform(), va="center", weight=weight)


def draw_training(
    data: pd.DataFrame,
    axis: str,
    *,
    log: bool = False,
    chance: float | None = None,
    limits: tuple[float, float] | None = None,
    narrow: bool = False,
) -> Figure:
    """A logged metric over training: line = mean over seeds, band = lowest to highest seed.

    Args:
        data: The table of :func:`~sparseflow.lab.page.figure_data.training_curves`.
        axis: Label of the y axis, with its unit.
        log: Whether the y axis is logarithmic.
        chance: Level of a network that guesses; a dotted line.
        limits: Ends of the y axis; None fits the data.
        narrow: One panel per row.
    """
    figure, axes = _by_init(data, axis, narrow=narrow)
    for panel in axes:
        if log:
            panels.log_scale(panel)
            panels.log_limits(panel, *panel.get_ylim())
        if chance is not None:
            panel.axhline(chance, color=INK, linewidth=0.9, linestyle=":")
        if limits is not None:
            panel.set_ylim(limits)
    return figure


def draw_updates(data: pd.DataFrame, *, narrow: bool = False) -> Figure:
    """Change of the gradient norm at each mask update: line = mean over seeds, band = lowest to highest seed."""
    figure, axes = _by_init(data, "Change of ‖g‖ at an update", narrow=narrow)
    for panel in axes:
        panel.axhline(0, color=INK, linewidth=1)
    return figure


def _by_init(data: pd.DataFrame, label: str, *, narrow: bool) -> tuple[Figure, Sequence[Axes]]:
    """One panel per initialisation with one curve per method, and those of the unmasked networks in all."""
    inits = [init for init in SCHEMES if init in set(data["init"])] or [""]
    columns = 2 if len(inits) in (2, 4) else 3
    figure, axes = panels.layout(len(inits), narrow=narrow, columns=columns, share=True)
    methods = shown_methods()
    for init, panel in zip(inits, axes, strict=True):
        panel.set_title(SCHEMES[init].label if init else "No mask at the start")
        curves = data[data["init"].isin(["", init])].groupby("method", sort=False)
        panels.draw_curves(
            panel, [(methods[str(method)].look, rows) for method, rows in curves], band=panels.min_to_max
        )
        panels.steps_axis(panel)
    panels.label_left(axes, label)
    drawn = set(data["method"])
    panels.curve_legend(
        figure, [Curve(row.label, key, row.look) for key, row in methods.items() if key in drawn], narrow=narrow
    )
    return figure, axes
