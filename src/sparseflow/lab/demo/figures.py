"""The figures of the report: each function returns the drawing and the table that it draws.

``narrow=True`` draws for a phone: the panels stand below each other.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from sparseflow.lab.demo.findings import panel_label
from sparseflow.lab.page.figure_data import accuracy_points, signal_levels, training_curves, update_changes
from sparseflow.lab.page.groups import INIT_LABELS, METHOD_LABELS
from sparseflow.lab.page.panels import (
    INIT_LOOKS,
    NARROW,
    WIDE,
    curve,
    draw_methods,
    grid,
    init_panels,
    label_left,
    legend,
    log_scale,
    look_legend,
    method_legend,
)
from sparseflow.lab.page.summary import COLLAPSE_PERCENT
from sparseflow.lab.page.svg import INK, STYLE
from sparseflow.training.store import Run


@dataclass(frozen=True, kw_only=True)
class Metric:
    """How a logged quantity is drawn over training."""

    axis: str
    """Label of the y axis, with its unit."""
    log: bool = False
    """Whether the y axis is logarithmic."""
    chance: float | None = None
    """Level of a network that guesses; a dotted line."""
    limits: tuple[float, float] | None = None
    """Ends of the y axis; None fits the data."""


METRICS = {
    "flow/norm": Metric(axis="Gradient norm ‖g‖", log=True),
    "test/accuracy": Metric(axis="Test accuracy (%)", chance=10.0, limits=(0, 102)),
    "train/loss": Metric(axis="Training loss (nats)", chance=math.log(10)),
}


@rc_context(STYLE)
def accuracy_figure(runs: Sequence[Run], *, narrow: bool = False) -> tuple[Figure, pd.DataFrame]:
    """Mean final test accuracy: a bar a group, a ring a seed, a whisker of one population std to either side."""
    data = accuracy_points(runs)
    figure = Figure(figsize=(NARROW if narrow else WIDE, 1), layout="constrained")
    axes = figure.subplots()
    position, middles = 0.0, []
    for method, of_method in data.groupby("method", sort=False):
        first = position
        for init, of_group in of_method.groupby("init", sort=False):
            _bar(axes, position, of_group["accuracy"].to_numpy(), colour=INIT_LOOKS[str(init)].colour)
            position += 1
        middles.append(((first + position - 1) / 2, METHOD_LABELS[str(method)]))
        position += 0.55
    axes.axvline(COLLAPSE_PERCENT, color=INK, linewidth=0.9, linestyle=":")
    axes.set_yticks([place for place, _ in middles], [label for _, label in middles])
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False, axis="y")
    axes.set_ylim(position - 0.8, -0.75)
    axes.set_xlim(0, max(102.0, axes.dataLim.x1 + 1))
    axes.set_xticks(range(0, 101, 20))
    axes.set_xlabel("Final test accuracy (%)")
    inits = [init for init in INIT_LABELS if init and init in set(data["init"])]
    keys: list[Artist] = [Patch(color=INIT_LOOKS[init].colour, alpha=0.75, label=INIT_LABELS[init]) for init in inits]
    keys.append(Line2D([], [], linestyle="", marker="o", color="none", markeredgecolor=INK, label="one seed"))
    rows = legend(figure, keys, columns=3 if narrow else 5)
    figure.set_figheight(0.65 + 0.2 * rows + (0.21 if narrow else 0.25) * position)
    return figure, data


def _bar(axes: Axes, position: float, accuracy: np.ndarray[tuple[int], np.dtype[np.float64]], *, colour: str) -> None:
    axes.barh(position, accuracy.mean(), 0.8, color=colour, alpha=0.75, linewidth=0)
    if len(accuracy) > 1:
        axes.errorbar(accuracy.mean(), position, xerr=accuracy.std(), color=INK, linewidth=1.2, capsize=3)
    # Seeds side by side across the bar, so that equal accuracies do not hide each other.
    across = 0.4 * (np.arange(len(accuracy)) - (len(accuracy) - 1) / 2) / max(len(accuracy), 3)
    axes.plot(accuracy, position + across, "o", markersize=4, color="none", markeredgecolor=INK, markeredgewidth=0.9)
    axes.text(1.01, position, f"{accuracy.mean():.1f}", transform=axes.get_yaxis_transform(), va="center")


@rc_context(STYLE)
def curves_figure(runs: Sequence[Run], metric: str, *, narrow: bool = False) -> tuple[Figure, pd.DataFrame]:
    """A logged metric over training: line = mean over seeds, band = lowest to highest seed.

    Args:
        runs: comparable runs that logged it.
        metric: key of ``METRICS``.
        narrow: one panel a row.
    """
    data, look = training_curves(runs, metric), METRICS[metric]
    figure, panels = init_panels(data, narrow=narrow)
    for axes, curves in panels:
        if look.log:
            log_scale(axes)
        if look.chance is not None:
            axes.axhline(look.chance, color=INK, linewidth=0.9, linestyle=":")
        draw_methods(axes, curves)
        if look.limits is not None:
            axes.set_ylim(look.limits)
    label_left([axes for axes, _ in panels], look.axis, narrow=narrow)
    method_legend(figure, data, narrow=narrow)
    return figure, data


@rc_context(STYLE)
def update_figure(runs: Sequence[Run], *, narrow: bool = False) -> tuple[Figure, pd.DataFrame]:
    """Change of the gradient norm at each mask update: line = mean over seeds, band = lowest to highest seed."""
    data = update_changes(runs)
    figure, panels = init_panels(data, narrow=narrow)
    for axes, curves in panels:
        axes.axhline(0, color=INK, linewidth=1)
        draw_methods(axes, curves)
    label_left([axes for axes, _ in panels], "Change of ‖g‖ at an update", narrow=narrow)
    method_legend(figure, data, narrow=narrow)
    return figure, data


@rc_context(STYLE)
def signal_figure(signal: pd.DataFrame, *, narrow: bool = False) -> tuple[Figure, pd.DataFrame]:
    """Logit std at initialisation over sparsity: line = mean over networks, band = lowest to highest network.

    A panel a kind of mask and base initialiser; the sparsity axis is ``-log10(1 - S)``, so that .9, .95 and .98 stand
    apart.
    """
    data = signal_levels(signal)
    kinds = list(data[["mask", "base"]].drop_duplicates().itertuples(index=False, name=None))
    figure, panels = grid(len(kinds), narrow=narrow)
    levels = sorted(data["sparsity"].unique())
    for (mask, base), axes in zip(kinds, panels, strict=True):
        log_scale(axes)
        panel = data[(data["mask"] == mask) & (data["base"] == base)]
        for scheme, look in INIT_LOOKS.items():
            rows = panel[panel["scheme"] == scheme]
            if len(rows):
                curve(axes, -np.log10(1 - rows["sparsity"].to_numpy()), rows, look)
        axes.set_xticks([-math.log10(1 - level) for level in levels], [f"{level:g}" for level in levels])
        axes.set_xlabel("Sparsity (fraction of zeros)")
        axes.set_title(panel_label(mask, base))
    label_left(panels, "Standard deviation of logits", narrow=narrow)
    looks = {scheme: look for scheme, look in INIT_LOOKS.items() if scheme in set(data["scheme"])}
    look_legend(figure, looks, INIT_LABELS, columns=4)
    return figure, data
