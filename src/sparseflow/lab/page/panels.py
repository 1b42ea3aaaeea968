"""Panels, curves and legends that all figures share: one look a method, one look an initialisation."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter
from matplotlib.typing import LineStyleType

from sparseflow.lab.page.groups import INIT_LABELS, METHOD_LABELS
from sparseflow.lab.page.svg import INK, PALETTE

WIDE, NARROW = 9.6, 4.0
"""Figure widths in inches."""


class Look(NamedTuple):
    """How one curve is told from the others, with and without colour."""

    colour: str
    line: LineStyleType
    marker: str


#: Key of ``INIT_LABELS`` to look.
INIT_LOOKS = {
    "": Look(PALETTE["grey"], "-", ""),
    "dense": Look(PALETTE["vermillion"], "-", "o"),
    "liu": Look(PALETTE["sky"], "--", "s"),
    "sparse": Look(PALETTE["blue"], "-.", "^"),
    "live": Look(INK, ":", "D"),
}
#: Key of ``METHOD_LABELS`` to look; the grey ones need no mask and are drawn in every panel.
METHOD_LOOKS = {
    "dense": Look(PALETTE["grey"], "-", ""),
    "small_dense": Look(PALETTE["grey"], "--", ""),
    "prune": Look(PALETTE["grey"], ":", ""),
    "scratch": Look(PALETTE["green"], "-", "o"),
    "set": Look(PALETTE["purple"], "--", "s"),
    "rigl": Look(PALETTE["orange"], "-.", "^"),
    "rigl_inverted": Look(INK, ":", "v"),
    "snfs": Look(PALETTE["vermillion"], "-", "D"),
}


def grid(panels: int, *, narrow: bool) -> tuple[Figure, list[Axes]]:
    """A figure of panels that share their axes; ``narrow`` puts each in a row of its own.

    >>> [grid(3, narrow=narrow)[1][0].get_gridspec().nrows for narrow in (False, True)]
    [1, 3]
    """
    columns = 1 if narrow else _columns(panels)
    rows = -(-panels // columns)
    size = (NARROW, 0.5 + 2.2 * rows) if narrow else (WIDE, 0.5 + 2.9 * rows)
    figure = Figure(figsize=size)
    figure.set_layout_engine("constrained", h_pad=0.09)
    axes = list(figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).flat)
    for spare in axes[panels:]:
        spare.remove()
    for panel in axes[:panels]:
        panel.tick_params(labelbottom=True)
    return figure, axes[:panels]


def _columns(panels: int) -> int:
    return 2 if panels in (2, 4) else min(panels, 3)


def init_panels(data: pd.DataFrame, *, narrow: bool) -> tuple[Figure, list[tuple[Axes, pd.DataFrame]]]:
    """A panel an initialisation, each with the rows of the unmasked networks too."""
    inits = [init for init in INIT_LABELS if init and init in set(data["init"])] or [""]
    figure, axes = grid(len(inits), narrow=narrow)
    for init, panel in zip(inits, axes, strict=True):
        panel.set_title(INIT_LABELS[init] or "No mask at the start")
    return figure, [(panel, data[data["init"].isin(["", init])]) for init, panel in zip(inits, axes, strict=True)]


def draw_methods(axes: Axes, curves: pd.DataFrame) -> None:
    """One curve a method over optimizer steps."""
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.set_xlabel("Optimizer steps")
    for index, (method, rows) in enumerate(curves.groupby("method", sort=False)):
        every = max(1, len(rows) // 6)
        # Markers of neighbouring curves start at different points, so that curves on top of each other are both seen.
        curve(axes, rows["step"].to_numpy(), rows, METHOD_LOOKS[str(method)], mark=(index % every, every))


def curve(
    axes: Axes, x: npt.NDArray[np.generic], rows: pd.DataFrame, look: Look, *, mark: tuple[int, int] = (0, 1)
) -> None:
    """Line through ``mean``, band from ``min`` to ``max``, a marker every ``mark[1]`` points from ``mark[0]`` on."""
    axes.fill_between(x, rows["min"], rows["max"], color=look.colour, alpha=0.18, linewidth=0)
    axes.plot(x, rows["mean"], color=look.colour, linestyle=look.line, marker=look.marker, markevery=mark)


def log_scale(axes: Axes) -> None:
    """A logarithmic y axis with a tick a decade; a line or band that reaches zero leaves through the bottom."""
    axes.set_yscale("log", nonpositive="clip")
    axes.yaxis.set_major_locator(LogLocator(numticks=8))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: power_of_ten(value)))
    axes.yaxis.set_minor_formatter(NullFormatter())


def power_of_ten(value: float) -> str:
    """A tick label in plain text, which unlike mathematical layout takes any font.

    >>> power_of_ten(0.001), power_of_ten(10.0), power_of_ten(1e-12)
    ('0.001', '10', '10⁻¹²')
    """
    exponent = round(math.log10(value))
    if -3 <= exponent <= 3:
        return f"{10.0**exponent:g}"
    return "10" + str(exponent).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


def label_left(axes: Sequence[Axes], text: str, *, narrow: bool) -> None:
    """The y label, once a row."""
    for panel in axes if narrow else axes[:: _columns(len(axes))]:
        panel.set_ylabel(text)


def look_legend(figure: Figure, looks: Mapping[str, Look], labels: Mapping[str, str], *, columns: int) -> None:
    """A legend of curves on top of the figure."""
    legend(figure, [_key(looks[name], labels[name]) for name in looks], columns=columns)


def _key(look: Look, label: str) -> Line2D:
    return Line2D([], [], color=look.colour, linestyle=look.line, marker=look.marker, label=label)


def legend(figure: Figure, keys: Sequence[Artist], *, columns: int) -> int:
    """A legend on top of the figure; returns its number of rows."""
    figure.legend(handles=list(keys), loc="outside upper left", ncols=min(columns, len(keys)), columnspacing=1.2)
    return -(-len(keys) // columns)


def method_legend(figure: Figure, data: pd.DataFrame, *, narrow: bool) -> None:
    """A legend of the methods in ``data``."""
    present = set(data["method"])
    looks = {method: look for method, look in METHOD_LOOKS.items() if method in present}
    look_legend(figure, looks, METHOD_LABELS, columns=3 if narrow else 8)
