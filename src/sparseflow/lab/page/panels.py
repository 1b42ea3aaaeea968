"""Panels, curves, axes and legends that all figures share."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

from sparseflow.lab.page.svg import INK, PALETTE
from sparseflow.lab.page.words import number, power_of_ten
from sparseflow.types import Look

#: Widths of figures in inches, on a screen and on a phone.
WIDE, NARROW = 9.6, 4.0
#: Points that a curve is drawn with; its CSV has all.
POINTS = 250


class Curve(NamedTuple):
    """One curve: its name in the legend, the group of runs that it condenses, its look."""

    label: str
    group: str
    look: Look


def layout(
    count: int,
    *,
    narrow: bool,
    columns: int = 3,
    narrow_columns: int = 1,
    height: float = 2.9,
    narrow_height: float = 2.3,
    share: bool = False,
    leads: bool = False,
) -> tuple[Figure, list[Axes]]:
    """A figure of panels, row by row.

    Args:
        count: How many.
        narrow: For a phone.
        columns, narrow_columns: The most in a row, on a screen and on a phone.
        height, narrow_height: Of a row, in inches.
        share: One vertical axis for all.
        leads: On a screen, the first panel has a row of its own.

    >>> [layout(3, narrow=narrow)[1][0].get_gridspec().nrows for narrow in (False, True)]
    [1, 3]
    """
    across = narrow_columns if narrow else min(count, columns)
    names = [str(index) for index in range(count)]
    if leads and not narrow:
        names = ["0"] * (across - 1) + names
    names += ["."] * (-len(names) % across)
    rows = [names[first : first + across] for first in range(0, len(names), across)]
    size = (NARROW, 0.5 + narrow_height * len(rows)) if narrow else (WIDE, 0.5 + height * len(rows))
    figure = Figure(figsize=size)
    figure.set_layout_engine("constrained", h_pad=0.09)
    placed: dict[Any, Axes] = figure.subplot_mosaic(cast("Any", rows), sharey=share)
    return figure, [placed[str(index)] for index in range(count)]


def label_left(axes: Sequence[Axes], text: str) -> None:
    """The y label, once per row of panels."""
    for panel in axes:
        spec = panel.get_subplotspec()
        if spec is not None and spec.is_first_col():
            panel.set_ylabel(text)


# --- curves -----------------------------------------------------------------------------------------------------------

Band = Callable[[pd.DataFrame], tuple[Any, Any]]


def within_std(rows: pd.DataFrame) -> tuple[Any, Any]:
    """A band of one ``std`` to either side of ``mean``."""
    return rows["mean"] - rows["std"], rows["mean"] + rows["std"]


def min_to_max(rows: pd.DataFrame) -> tuple[Any, Any]:
    """A band from the lowest to the highest run."""
    return rows["min"], rows["max"]


def line_style(look: Look) -> dict[str, Any]:
    """A look as Matplotlib's arguments."""
    return {"color": PALETTE[look.colour], "linestyle": look.line, "marker": look.marker}


def draw_curve(
    axes: Axes,
    look: Look,
    rows: pd.DataFrame,
    *,
    x: str = "step",
    band: Band = within_std,
    mark: tuple[int, int] = (0, 1),
) -> None:
    """A line through ``mean`` with its band, and a marker every ``mark[1]`` points from ``mark[0]`` on."""
    rows = thinned(rows)
    places = rows[x].to_numpy()
    low, high = (edge.to_numpy() for edge in band(rows))
    axes.fill_between(places, low, high, color=PALETTE[look.colour], alpha=0.14, linewidth=0)
    axes.plot(places, rows["mean"], markevery=mark, **line_style(look))


def draw_curves(axes: Axes, curves: Sequence[tuple[Look, pd.DataFrame]], *, band: Band = within_std) -> None:
    """Curves whose markers start at different points, so that of two on top of each other both are seen."""
    for index, (look, rows) in enumerate(curves):
        every = max(1, len(thinned(rows)) // 6)
        draw_curve(axes, look, rows, band=band, mark=(index % every, every))


def thinned(table: pd.DataFrame, *, points: int = POINTS) -> pd.DataFrame:
    """At most ``points`` rows, evenly chosen, first and last among them.

    >>> thinned(pd.DataFrame({"step": range(1000)}), points=3)["step"].to_list()
    [0, 500, 999]
    """
    if len(table) <= points:
        return table
    return table.iloc[np.unique(np.linspace(0, len(table) - 1, points).round().astype(int))]


# --- axes -------------------------------------------------------------------------------------------------------------


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


def log_scale(axes: Axes) -> None:
    """A logarithmic y axis with one tick per decade; a line or band that reaches zero leaves through the bottom."""
    axes.set_yscale("log", nonpositive="clip")
    axes.yaxis.set_major_locator(LogLocator(numticks=8))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: decade(value)))
    axes.yaxis.set_minor_formatter(NullFormatter())


def decade(value: float) -> str:
    """The label of a tick at a power of ten.

    >>> decade(0.001), decade(10.0), decade(1e-12)
    ('0.001', '10', '10⁻¹²')
    """
    exponent = round(math.log10(value))
    return f"{10.0**exponent:g}" if -3 <= exponent <= 3 else power_of_ten(exponent)


def log_norm_axis(axes: Axes, tables: Sequence[pd.DataFrame]) -> None:
    """A logarithmic y axis that shows every mean; a band that reaches zero leaves through the bottom."""
    log_scale(axes)
    means = np.concatenate([table["mean"].to_numpy(dtype=float) for table in tables])
    means = means[means > 0]
    tops = np.concatenate([(table["mean"] + table["std"].fillna(0)).to_numpy(dtype=float) for table in tables])
    if len(means):
        log_limits(axes, means.min() / 1.6, tops.max() * 1.3)


def log_limits(axes: Axes, low: float, high: float) -> None:
    """Limits of a logarithmic y axis, and enough ticks between them: one per decade may be a single number, or none."""
    axes.set_ylim(low, high)
    if high / low < 60:
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high / low > 6 else (1, 1.4, 2, 2.8, 4, 5.6, 8)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: number(value, 1 if high / low > 6 else 2)))


# --- legends ----------------------------------------------------------------------------------------------------------


def curve_legend(figure: Figure, curves: Sequence[Curve], *, narrow: bool) -> None:
    """The name of each line, on top of the figure."""
    named = {curve.label: curve.look for curve in curves}
    longest = max(map(len, named), default=0)
    fitting = int(figure.get_figwidth() / (0.6 + 0.075 * longest))  # inches of a key and of a letter
    keys = [Line2D([], [], label=label, **line_style(look)) for label, look in named.items()]
    legend(figure, keys, columns=(2 if longest > 11 else 3) if narrow else fitting)


def marker_key(marker: str, label: str, *, colour: str = INK, filled: bool = True) -> Line2D:
    """The key of a kind of point; ``colour`` is drawn as it is."""
    fill = colour if filled else "none"
    return Line2D([], [], linestyle="", marker=marker, color=fill, markeredgecolor=colour, label=label)


def legend(figure: Figure, keys: Sequence[Artist], *, columns: int) -> int:
    """A legend on top of the figure; returns its number of rows."""
    figure.legend(handles=list(keys), loc="outside upper left", ncols=min(columns, len(keys)), columnspacing=1.2)
    return -(-len(keys) // columns)
