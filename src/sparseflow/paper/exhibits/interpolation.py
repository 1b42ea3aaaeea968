"""Figures 5c, 5f and 9c: the loss on straight lines to the pruned network."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from sparseflow.analysis.landscape import barrier
from sparseflow.lab.page import panels
from sparseflow.lab.page.estimates import Estimate, estimate, interval_margin
from sparseflow.lab.page.evidence import Evidence, NotEnoughRunsError
from sparseflow.lab.page.exhibit import Content, Drawing, Row
from sparseflow.lab.page.panels import NARROW, Curve
from sparseflow.lab.page.svg import INK
from sparseflow.lab.page.words import interval, listed
from sparseflow.paper.claims.landscape import NO_BARRIER
from sparseflow.paper.claims.landscape import barriers as barriers_of
from sparseflow.paper.claims.tables import rows
from sparseflow.paper.exhibits.landscape import NAMES, SCRATCH, TICKET
from sparseflow.paper.exhibits.networks import kind_labels, site_of
from sparseflow.paper.matrix.scale import Scale
from sparseflow.types import Look

#: Level of the paper's bands of loss along a line.
BAND_LEVEL = 0.8

#: (kind of run, start) -> curve of the loss along a line.
LINES = {
    ("lottery", "init"): Look(TICKET, ":", "v"),
    ("lottery", "solution"): Look(TICKET, "-", "o"),
    ("scratch", "init"): Look(SCRATCH, ":", "s"),
    ("scratch", "solution"): Look(SCRATCH, "--", "D"),
}
#: The same of runs on images.
IMAGE_LINES = {
    ("lottery", "init"): LINES["lottery", "init"],
    ("lottery", "solution"): LINES["lottery", "solution"],
    ("lottery-k0", "solution"): Look("sky", "-.", "^"),
    ("ticket-scratch", "init"): LINES["scratch", "init"],
    ("ticket-scratch", "solution"): LINES["scratch", "solution"],
}
_STARTS = {"init": "start", "solution": "end"}
Looks = Mapping[tuple[str, str], Look]
#: Curves with the loss along each.
Lines = list[tuple[Curve, pd.DataFrame]]


def shows(setting: str) -> Callable[[Row, Scale], bool]:
    """Whether a path is one of a setting's tickets or scratch runs."""
    return lambda row, _: row["group"] in (f"{setting}/lottery", f"{setting}/scratch")


def _lines(
    paths: pd.DataFrame, setting: str, looks: Looks, labels: Mapping[str, str]
) -> tuple[Lines, dict[str, Estimate]]:
    """The curves of a figure, and by kind of run the barriers between the ends of training and the pruned network."""
    curves: Lines = []
    barriers = {}
    for (kind, start), look in looks.items():
        of_line = paths[(paths["group"] == f"{setting}/{kind}") & (paths["start"] == start)]
        if of_line.empty:
            continue
        curve = Curve(f"{labels[kind]}, {_STARTS[start]}", f"{setting}/{kind}", look)
        curves.append((curve, with_band(of_line).assign(label=curve.label)))
        if start == "solution":
            runs = of_line.groupby([name for name in ("mask", "seed") if name in of_line])
            barriers[kind] = estimate([barrier(path["alpha"].to_list(), path["loss"].to_list()) for _, path in runs])
    if not curves:
        raise NotEnoughRunsError(f"paths has nothing of {setting}. Make it:\nsparseflow reproduce paths")
    return curves, barriers


def _content(name: str, how: str, curves: Lines, sentences: Sequence[str]) -> Content:
    sentences = sentences or ["Only starts were measured, no ends."]
    drawing = Drawing(
        name=name,
        how=how,
        alt=f"Line chart: training loss over the interpolation coefficient. {' '.join(sentences)}",
        draw=partial(draw_lines, curves),
        data=pd.concat([table for _, table in curves], ignore_index=True),
    )
    return Content(shows=sentences, drawings=[drawing])


def _over_pruning_runs(evidence: Evidence, setting: str, scale: Scale) -> list[str]:
    """The barriers as C34 and C35 have them; none where there are too few pruning runs."""
    try:
        lottery, scratch = barriers_of(evidence, setting, site_of(scale))
    except NotEnoughRunsError:
        return []
    return [
        f"Over {len(lottery)} pruning runs, each the mean of its runs, the barrier is {lottery.mean():.4f} nats high "
        f"from lottery tickets and {scratch.mean():.4f} from scratch runs; it is at most {NO_BARRIER:g} for the "
        f"tickets of {int((lottery <= NO_BARRIER).sum())} of them."
    ]


def interpolation(name: str, setting: str, evidence: Evidence, scale: Scale) -> Content:
    """Loss along straight lines to the pruned network."""
    curves, barriers = _lines(rows(evidence, "paths", setting=setting), setting, LINES, NAMES)
    sentences = _over_pruning_runs(evidence, setting, scale)
    for kind, heights in barriers.items():
        spread = f", 95 % interval {interval(heights.low, heights.high, 3)}" if heights.n > 1 else ""
        sentences.append(
            f"On the masks of the first pruning run the barrier from the end of {NAMES[kind].lower()} training is "
            f"{heights.mean:.3f} nats high (mean of {heights.n} runs{spread}): "
            + ("no barrier." if heights.mean <= NO_BARRIER else "a barrier.")
        )
    how = (
        "Weights are moved in a straight line from a network (0) to the pruned network (1), and the loss on the whole "
        "training set is measured on the way. A line that stays low connects two networks of one valley; a hump is a "
        "barrier between two valleys. The vertical axis is logarithmic. A line is the mean over runs, its band the "
        f"{100 * BAND_LEVEL:.0f} % confidence interval of the mean, as in the paper."
    )
    return replace(_content(name, how, curves, sentences), beyond=_not_everywhere(evidence, setting, scale))


def _not_everywhere(evidence: Evidence, setting: str, scale: Scale) -> list[str]:
    """Where the tickets of some pruning runs have a barrier: the paper's are of one."""
    try:
        lottery, _ = barriers_of(evidence, setting, site_of(scale))
    except NotEnoughRunsError:
        return []
    apart = int((lottery > NO_BARRIER).sum())
    said = (
        f"Whether tickets stay in the valley of their pruned network hangs on the mask: of {len(lottery)} pruning runs "
        f"the tickets of {apart} have a barrier above {NO_BARRIER:g} nats, up to {lottery.max():.2f}."
    )
    return [said] if apart and setting == "tickets" else []


def path_exhibit(setting: str, evidence: Evidence, scale: Scale) -> Content:
    """Loss along straight lines to the pruned network, on images."""
    paths = evidence.table("paths")
    curves, barriers = _lines(paths, setting, IMAGE_LINES, kind_labels())
    heights = [f"{kind_labels()[kind]} {found.mean:.3f} nats ({found.n} runs)" for kind, found in barriers.items()]
    between = "Barrier between the end of training and the pruned network"
    how = (
        "Weights are moved in a straight line from a network (0) to the pruned network whose masks it has (1), and the "
        f"loss on {int(paths['examples'].iloc[0])} training images is measured on the way; batch norms estimate their "
        "statistics anew at every point. A line that stays low connects two networks of one valley; a hump is a "
        "barrier between two. A line is the mean over runs on the masks of all pruning runs, its band the "
        f"{100 * BAND_LEVEL:.0f} % confidence interval of the mean. The vertical axis is logarithmic."
    )
    of_runs = [f"{between}, mean over runs: {listed(heights)}."] if heights else []
    return _content("paths", how, curves, [*_over_pruning_runs(evidence, setting, scale), *of_runs])


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


def low_to_high(rows: pd.DataFrame) -> tuple[Any, Any]:
    """A band of the interval of the mean."""
    return rows["low"], rows["high"]


def draw_lines(curves: Lines, *, narrow: bool = False) -> Figure:
    """Loss over alpha, on a logarithmic axis."""
    figure = Figure(figsize=(NARROW, 3.4) if narrow else (7.2, 3.8), layout="constrained")
    axes = figure.subplots()
    panels.log_scale(axes)
    for curve, line in curves:
        panels.draw_curve(axes, curve.look, line, x="alpha", band=low_to_high, mark=(0, 4))
    means = np.concatenate([line["mean"].to_numpy() for _, line in curves])
    margin = min(1.6, 1.1 * (means.max() / means.min()) ** 0.1)
    panels.log_limits(axes, means.min() / margin, means.max() * margin)
    for end in (0, 1):
        axes.axvline(end, color=INK, linewidth=0.8, linestyle=":")
    axes.set_xlabel("Interpolation coefficient α (0: the network, 1: the pruned network)")
    axes.set_ylabel("Training loss (nats)")
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1])
    if narrow:
        axes.set_xlabel("Interpolation coefficient α")
    panels.curve_legend(figure, [curve for curve, _ in curves], narrow=narrow)
    return figure
