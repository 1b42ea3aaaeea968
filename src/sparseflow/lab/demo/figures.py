"""The figures of the demo's page; each function draws one of the tables of :mod:`sparseflow.lab.page.figure_data`.

``narrow=True`` draws for a phone: the panels stand below each other.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from sparseflow.init.schemes import SCHEMES
from sparseflow.lab.page import panels
from sparseflow.lab.page.panels import NARROW, WIDE, Curve
from sparseflow.lab.page.summary import COLLAPSE_PERCENT
from sparseflow.lab.page.svg import INK, PALETTE
from sparseflow.training.names import shown_methods


def draw_accuracy(points: pd.DataFrame, *, narrow: bool = False) -> Figure:
    """Mean final test accuracy: one bar per group, one ring per seed, whiskers of one population std to either side."""
    figure = Figure(figsize=(NARROW if narrow else WIDE, 1), layout="constrained")
    axes = figure.subplots()
    position, middles = 0.0, []
    for method, of_method in points.groupby("method", sort=False):
        first = position
        for init, of_group in of_method.groupby("init", sort=False):
            colour = SCHEMES[str(init)].look.colour if init else "grey"
            _bar(axes, position, of_group["accuracy"].to_numpy(), colour=PALETTE[colour])
            position += 1
        middles.append(((first + position - 1) / 2, shown_methods()[str(method)].label))
        position += 0.55
    axes.axvline(COLLAPSE_PERCENT, color=INK, linewidth=0.9, linestyle=":")
    axes.set_yticks([place for place, _ in middles], [label for _, label in middles])
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False, axis="y")
    axes.set_ylim(position - 0.8, -0.75)
    axes.set_xlim(0, max(102.0, axes.dataLim.x1 + 1))
    axes.set_xticks(range(0, 101, 20))
    axes.set_xlabel("Final test accuracy (%)")
    keys: list[Artist] = [
        Patch(color=PALETTE[scheme.look.colour], alpha=0.75, label=scheme.label)
        for init, scheme in SCHEMES.items()
        if init in set(points["init"])
    ]
    keys.append(panels.marker_key("o", "one seed", filled=False))
    rows = panels.legend(figure, keys, columns=3 if narrow else 5)
    figure.set_figheight(0.65 + 0.2 * rows + (0.21 if narrow else 0.25) * position)
    return figure


def _bar(axes: Axes, position: float, accuracy: np.ndarray[tuple[int], np.dtype[np.float64]], *, colour: str) -> None:
    axes.barh(position, accuracy.mean(), 0.8, color=colour, alpha=0.75, linewidth=0)
    if len(accuracy) > 1:
        axes.errorbar(accuracy.mean(), position, xerr=accuracy.std(), color=INK, linewidth=1.2, capsize=3)
    # Seeds side by side across the bar, so that equal accuracies do not hide each other.
    across = 0.4 * (np.arange(len(accuracy)) - (len(accuracy) - 1) / 2) / max(len(accuracy), 3)
    axes.plot(accuracy, position + across, "o", markersize=4, color="none", markeredgecolor=INK, markeredgewidth=0.9)
    axes.text(1.01, position, f"{accuracy.mean():.1f}", transform=axes.get_yaxis_transform(), va="center")


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
