"""Panels, bands and axes that the figures of the page share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from sparseflow.lab.demo.findings import number
from sparseflow.lab.page.panels import NARROW, WIDE, Look, legend, log_scale

#: Points that a curve is drawn with; its CSV has all.
POINTS = 250


class Curve(NamedTuple):
    """One curve: what it is called in the paper, whose runs it condenses, how it looks."""

    label: str
    group: str
    look: Look


def thinned(table: pd.DataFrame, *, points: int = POINTS) -> pd.DataFrame:
    """At most so many rows, evenly chosen, first and last among them.

    >>> thinned(pd.DataFrame({"step": range(1000)}), points=3)["step"].to_list()
    [0, 500, 999]
    """
    if len(table) <= points:
        return table
    return table.iloc[np.unique(np.linspace(0, len(table) - 1, points).round().astype(int))]


def row_of_panels(
    count: int, *, narrow: bool, height: float = 2.9, sharey: bool = False, columns: int = 3
) -> tuple[Figure, list[Axes]]:
    """Panels side by side, at most ``columns`` in a row, or, for a phone, one below the other.

    >>> [len(row_of_panels(4, narrow=narrow)[1]) for narrow in (False, True)]
    [4, 4]
    """
    across = 1 if narrow else min(count, columns)
    rows = -(-count // across)
    figure = Figure(figsize=(NARROW if narrow else WIDE, 0.5 + (2.3 if narrow else height) * rows))
    figure.set_layout_engine("constrained", h_pad=0.09)
    axes = list(figure.subplots(rows, across, sharey=sharey, squeeze=False).flat)
    for spare in axes[count:]:
        spare.remove()
    return figure, axes[:count]


def draw_band(axes: Axes, curve: Curve, rows: pd.DataFrame, *, x: str = "step", mark: tuple[int, int] = (0, 1)) -> None:
    """Line through ``mean``, band of one ``std`` to either side."""
    rows = thinned(rows)
    place = rows[x].to_numpy()
    fill_between(axes, place, rows["mean"] - rows["std"], rows["mean"] + rows["std"], colour=curve.look.colour)
    axes.plot(
        place,
        rows["mean"],
        color=curve.look.colour,
        linestyle=curve.look.line,
        marker=curve.look.marker,
        markevery=mark,
    )


def fill_between(
    axes: Axes, x: npt.NDArray[np.generic], low: pd.Series[float], high: pd.Series[float], *, colour: str
) -> None:
    """A band between two curves."""
    axes.fill_between(x, low.to_numpy(), high.to_numpy(), color=colour, alpha=0.1, linewidth=0)


def steps_axis(axes: Axes, *, last: float | None = None) -> None:
    """Optimizer steps, evenly spaced."""
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.set_xlabel("Optimizer steps")
    if last is not None:
        axes.set_xlim(-0.02 * last, 1.02 * last)


def log_steps_axis(axes: Axes, *, first: float, last: float) -> None:
    """Optimizer steps on a logarithmic axis that begins with 0: linear up to ``first``."""
    axes.set_xscale("symlog", linthresh=first, linscale=0.4)
    axes.set_xlim(-0.05 * first, 1.1 * last)
    decades = [10.0**k for k in range(1, 9) if first < 10.0**k <= last]
    axes.set_xticks([0, *decades], ["0", *(f"{step:.0f}" for step in decades)])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("Optimizer steps (log scale)")


def log_norm_axis(axes: Axes, tables: Sequence[pd.DataFrame]) -> None:
    """A logarithmic y axis that shows every mean; a band that reaches zero leaves through the bottom."""
    log_scale(axes)
    means = np.concatenate([table["mean"].to_numpy(dtype=float) for table in tables])
    means = means[means > 0]
    tops = np.concatenate([(table["mean"] + table["std"].fillna(0)).to_numpy(dtype=float) for table in tables])
    if not len(means):
        return
    low, high = means.min() / 1.6, tops.max() * 1.3
    log_limits(axes, low, high)


def log_limits(axes: Axes, low: float, high: float) -> None:
    """Limits of a logarithmic y axis, and enough ticks between them: a tick a decade may be one number, or none."""
    axes.set_ylim(low, high)
    if high / low < 60:
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high / low > 6 else (1, 1.4, 2, 2.8, 4, 5.6, 8)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: number(value, 1 if high / low > 6 else 2)))


def curve_legend(figure: Figure, curves: Sequence[Curve], *, narrow: bool) -> None:
    """What each line is, on top of the figure."""
    keys = [
        Line2D([], [], color=curve.look.colour, linestyle=curve.look.line, marker=curve.look.marker, label=curve.label)
        for curve in curves
    ]
    longest = max((len(curve.label) for curve in curves), default=0)
    fitting = int(figure.get_figwidth() / (0.6 + 0.075 * longest))  # inches of a key and of a letter
    legend(figure, keys, columns=(2 if longest > 11 else 3) if narrow else fitting)
