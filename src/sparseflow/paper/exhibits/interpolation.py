"""Figures 5c and 9c: the loss on straight lines to the pruned network."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.figure import Figure

from sparseflow.analysis.landscape import barrier
from sparseflow.lab.page.estimates import estimate, interval_margin
from sparseflow.lab.page.evidence import Evidence, NotEnoughRunsError
from sparseflow.lab.page.exhibit import Content, Drawing, Row
from sparseflow.lab.page.panels import NARROW, Look, log_scale
from sparseflow.lab.page.plots import Curve, curve_legend, fill_between, log_limits
from sparseflow.lab.page.svg import INK, STYLE
from sparseflow.lab.page.words import interval
from sparseflow.paper.exhibits.landscape import NAMES, SCRATCH, TICKET, of_setting
from sparseflow.paper.matrix.scales import Scale

#: Of the paper's bands of loss along a line.
BAND_LEVEL = 0.8
#: A barrier up to here is none (protocol I.2).
NO_BARRIER = 0.01

#: (kind of run, start) -> curve of the loss along a line.
LINES = {
    ("lottery", "init"): Look(TICKET, ":", "v"),
    ("lottery", "solution"): Look(TICKET, "-", "o"),
    ("scratch", "init"): Look(SCRATCH, ":", "s"),
    ("scratch", "solution"): Look(SCRATCH, "--", "D"),
}
_STARTS = {"init": "start", "solution": "end"}


def shows(setting: str) -> Callable[[Row, Scale], bool]:
    """Whether a path is one of a setting's tickets or scratch runs."""
    return lambda row, _: row["group"] in (f"{setting}/lottery", f"{setting}/scratch")


def interpolation(name: str, setting: str, evidence: Evidence, _: Scale) -> Content:
    """Loss along straight lines to the pruned network.

    Raises:
        NotEnoughRunsError: if the lines were not measured.
    """
    rows = of_setting(evidence, "paths", setting)
    curves: list[tuple[Curve, pd.DataFrame]] = []
    sentences = []
    for (kind, start), look in LINES.items():
        of_line = rows[(rows["group"] == f"{setting}/{kind}") & (rows["start"] == start)]
        if of_line.empty:
            continue
        curve = Curve(f"{NAMES[kind]}, {_STARTS[start]}", f"{setting}/{kind}", look)
        curves.append((curve, with_band(of_line).assign(label=curve.label)))
        if start == "solution":
            heights = estimate(
                [barrier(path["alpha"].to_list(), path["loss"].to_list()) for _, path in of_line.groupby("seed")]
            )
            spread = f", 95 % interval {interval(heights.low, heights.high, 3)}" if heights.n > 1 else ""
            sentences.append(
                f"From the end of {NAMES[kind].lower()} training to the pruned network the barrier is "
                f"{heights.mean:.3f} nats high (mean of {heights.n} runs{spread}): "
                + ("no barrier." if heights.mean <= NO_BARRIER else "a barrier.")
            )
    if not curves:
        raise NotEnoughRunsError(f"paths has nothing of {setting}. Make it:\nsparseflow reproduce paths")
    data = pd.concat([table for _, table in curves], ignore_index=True)
    drawing = Drawing(
        name=name,
        how="Weights are moved in a straight line from a network (0) to the pruned network (1), and the loss on the "
        "whole training set is measured on the way. A line that stays low connects two networks of one valley; a hump "
        "is a barrier between two valleys. The vertical axis is logarithmic. A line is the mean over runs, its band "
        f"the {100 * BAND_LEVEL:.0f} % confidence interval of the mean, as in the paper.",
        alt=f"Line chart: training loss over the interpolation coefficient. {' '.join(sentences)}",
        draw=partial(draw_lines, curves),
        data=data,
    )
    return Content(shows=sentences or ["Only starts were measured, no ends."], drawings=[drawing])


def with_band(of_line: pd.DataFrame) -> pd.DataFrame:
    """Mean loss by place on the line with the interval of the mean: ``alpha, n, mean, low, high``."""
    cells = of_line.groupby("alpha")["loss"]
    table = cells.agg(n="count", mean="mean", spread="std").reset_index()
    margin = [
        interval_margin(spread / n**0.5, n, level=BAND_LEVEL) if n > 1 else 0.0
        for n, spread in zip(table["n"], table["spread"], strict=True)
    ]
    table["low"], table["high"] = table["mean"] - margin, table["mean"] + margin
    return table.drop(columns="spread")


@rc_context(STYLE)
def draw_lines(curves: list[tuple[Curve, pd.DataFrame]], *, narrow: bool = False) -> Figure:
    """Loss over alpha, on a logarithmic axis."""
    figure = Figure(figsize=(NARROW, 3.4) if narrow else (7.2, 3.8), layout="constrained")
    axes = figure.subplots()
    log_scale(axes)
    for curve, rows in curves:
        fill_between(axes, rows["alpha"].to_numpy(), rows["low"], rows["high"], colour=curve.look.colour)
        axes.plot(
            rows["alpha"], rows["mean"], color=curve.look.colour, linestyle=curve.look.line, marker=curve.look.marker,
            markevery=4,
        )  # fmt: skip
    means = np.concatenate([rows["mean"].to_numpy() for _, rows in curves])
    margin = min(1.6, 1.1 * (means.max() / means.min()) ** 0.1)
    log_limits(axes, means.min() / margin, means.max() * margin)
    for end in (0, 1):
        axes.axvline(end, color=INK, linewidth=0.8, linestyle=":")
    axes.set_xlabel("Interpolation coefficient α (0: the network, 1: the pruned network)")
    axes.set_ylabel("Training loss (nats)")
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1])
    if narrow:
        axes.set_xlabel("Interpolation coefficient α")
    curve_legend(figure, [curve for curve, _ in curves], narrow=narrow)
    return figure


fig5c = partial(interpolation, "fig5c", "tickets")
fig9c = partial(interpolation, "fig9c", "mlp-tickets")
