"""Figures 2a, 7 and 9a: the gradient norm during training."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sparseflow.lab.demo.findings import number
from sparseflow.lab.page.evidence import Evidence
from sparseflow.lab.page.exhibit import Content, Drawing, Table, available, cell
from sparseflow.lab.page.panels import WIDE, Look
from sparseflow.lab.page.plots import (
    Curve,
    curve_legend,
    draw_band,
    log_norm_axis,
    log_steps_axis,
    row_of_panels,
    steps_axis,
    thinned,
)
from sparseflow.lab.page.summary import records
from sparseflow.lab.page.svg import PALETTE, STYLE
from sparseflow.lab.page.words import listed, times
from sparseflow.paper.exhibits.curves import curve_of, geometric_mean, off_cycle, over_seeds, right_after
from sparseflow.paper.exhibits.shortfalls import shortfalls
from sparseflow.paper.matrix.scales import Scale
from sparseflow.training.runs import Run

#: What counts as the start, in units of ``often``: the first thousand steps, as in the paper (section 4.1).
START = 10

FIG2A = tuple(
    curve_of(f"lenet5/{name}")
    for name in ("scratch/dense", "scratch/sparse", "rigl/dense", "rigl/sparse", "lottery", "small_dense")
)
FIG7A = tuple(curve_of(f"lenet5/{name}/{init}") for name in ("scratch", "set", "rigl") for init in ("dense", "sparse"))
FIG7B = tuple(curve_of(f"lenet5/{name}/liu") for name in ("scratch", "set", "rigl"))
FIG7C = (
    curve_of("lenet5/scratch/dense"),
    curve_of("lenet5/scratch/sparse"),
    Curve("Scratch He", "lenet5/scratch/dense/he", Look(PALETTE["vermillion"], ":", "D")),
    Curve("Scratch+ He", "lenet5/scratch/sparse/he", Look(PALETTE["vermillion"], "-", "D")),
    Curve("Scratch Liu He", "lenet5/scratch/liu/he", Look(PALETTE["vermillion"], "--", "s")),
)
FIG9A = tuple(curve_of(f"mlp/{name}") for name in ("scratch/dense", "scratch/sparse", "rigl/sparse", "lottery"))

_BAND = "A line is the mean over runs, its band one population standard deviation to either side"
#: How to read the first of these figures, and the others.
_HOW = (
    "The length of the loss gradient over the weights that exist, always on the same training images, without the "
    "weight penalty. The first two panels show the same curves; the second stretches the start. The vertical axis is "
    f"logarithmic: one grid line up is ten times more. {_BAND} (it leaves through the bottom where it reaches zero)."
)
_AS_BEFORE = f"To be read like figure 2a. {_BAND}."
_AFTER = (
    " Norms measured right after a mask update are left out of these two panels. The third shows them as a thin line "
    "with marks beside the same method's norms between updates: the gap is what one would add by measuring there."
)


def flow_exhibit(name: str, curves: Sequence[Curve], evidence: Evidence, scale: Scale) -> Content:
    """The norm over training, over the start, and right after mask updates.

    Raises:
        NotEnoughRunsError: if no curve has a run.
    """
    found, missing = available(evidence, [curve.group for curve in curves])
    shown = [curve for curve in curves if curve.group in found]
    pairs = [(curve, found[curve.group]) for curve in shown]
    between = over_seeds(pairs, off_cycle, phase="between updates")
    after = over_seeds(pairs, right_after, phase="right after an update")
    first = min(run.config.log_every for runs in found.values() for run in runs)
    start = START * scale.often
    drawing = Drawing(
        name=name,
        how=_HOW + (_AFTER if len(after) else "") if name == "fig2a" else _AS_BEFORE,
        alt=f"Line charts of the gradient norm over optimizer steps. {_ends(between)}",
        draw=partial(draw_flow, shown, between, after, first=first),
        data=pd.concat([table for table in (between, after) if len(table)], ignore_index=True),
    )
    means = _means(pairs, between, after, start)
    return Content(
        shows=[*_gains(means, start), *_artefact(means)],
        drawings=[drawing],
        tables=[_table(name, means, start)],
        missing=[*missing, *shortfalls(evidence, scale, found)],
    )


@rc_context(STYLE)
def draw_flow(
    curves: Sequence[Curve], between: pd.DataFrame, after: pd.DataFrame, *, first: int, narrow: bool = False
) -> Figure:
    """Two panels, or three where masks move."""
    moving = [curve for curve in curves if curve.group in set(after["group"])]
    figure, panels = _panels(3 if moving else 2, narrow=narrow)
    last = int(between["step"].max())
    for index, curve in enumerate(curves):
        rows = between[between["group"] == curve.group]
        every = max(1, len(thinned(rows)) // 6)
        draw_band(panels[0], curve, rows, mark=(index % every, every))
        draw_band(panels[1], curve, rows, mark=(0, len(rows)))
    for curve in moving:
        rows, updates = (thinned(table[table["group"] == curve.group]) for table in (between, after))
        colour, line, marker = curve.look
        panels[2].plot(rows["step"], rows["mean"], color=colour, linestyle=line)
        panels[2].plot(
            updates["step"], updates["mean"], color=colour, linewidth=0.7, marker=marker, markersize=2.5, alpha=0.9,
            linestyle=line,
        )  # fmt: skip
    titles = ("The whole training", "The start, stretched", "Thin, with marks: right after an update")
    for panel, title in zip(panels, titles, strict=False):
        panel.set_title(title)
        log_norm_axis(panel, [between, after] if moving else [between])
    for panel in (panels[0], *panels[2:]):
        steps_axis(panel, last=last)
    log_steps_axis(panels[1], first=first, last=last)
    for panel in panels if narrow else panels[: len(panels) - 1]:
        panel.set_ylabel("Gradient norm ‖g‖")
    curve_legend(figure, curves, narrow=narrow)
    return figure


def _panels(count: int, *, narrow: bool) -> tuple[Figure, list[Axes]]:
    """Where there are three and room, the first takes a row of its own."""
    if narrow or count < 3:
        return row_of_panels(count, narrow=narrow, sharey=True)
    figure = Figure(figsize=(WIDE, 5.6))
    figure.set_layout_engine("constrained", h_pad=0.09)
    panels = figure.subplot_mosaic([["whole", "whole"], ["start", "after"]], sharey=True)
    return figure, list(panels.values())


def _ends(between: pd.DataFrame) -> str:
    parts = [
        f"{label} from {number(rows['mean'].iloc[0])} at step {rows['step'].iloc[0]} to "
        f"{number(rows['mean'].iloc[-1])} at step {rows['step'].iloc[-1]}, highest {number(rows['mean'].max())}"
        for label, rows in between.groupby("label", sort=False)
    ]
    return "; ".join(parts) + "."


def _means(
    pairs: Sequence[tuple[Curve, Sequence[Run]]], between: pd.DataFrame, after: pd.DataFrame, start: int
) -> pd.DataFrame:
    """Geometric means over steps, a row a curve."""
    rows = []
    for curve, runs in pairs:
        of_curve, updates = (table[table["group"] == curve.group] for table in (between, after))
        near = np.interp(updates["step"].to_numpy(dtype=float), of_curve["step"], of_curve["mean"])
        step = of_curve["step"]
        rows.append(
            {
                "network": curve.label,
                "group": curve.group,
                "runs": len(runs),
                "first": geometric_mean(of_curve[step == 0]),
                "early": geometric_mean(of_curve[step <= start]),
                "late": geometric_mean(of_curve[step > start]),
                "after_over_between": geometric_mean(updates) / float(np.exp(np.log(near).mean()))
                if len(near)
                else np.nan,
            }
        )
    return pd.DataFrame(rows)


def _table(name: str, means: pd.DataFrame, start: int) -> Table:
    columns = ("first", "early", "late")
    return Table(
        name=f"{name}-means",
        caption="Gradient norm between mask updates, geometric mean over steps.",
        head=["Network", "Runs", "Before the first step", f"To step {start}", "Later", "Right after an update, times"],
        rows=[
            [
                cell(str(row["network"])),
                cell(str(row["runs"])),
                *(cell(_text(float(row[column]))) for column in columns),
                cell("-" if np.isnan(row["after_over_between"]) else f"{row['after_over_between']:.2f}"),
            ]
            for row in records(means)
        ],
        data=means,
        note="The last column says how many times larger the norm is right after a mask update than between updates."
        if means["after_over_between"].notna().any()
        else "",
    )


def _text(value: float) -> str:
    return "-" if np.isnan(value) else number(value, 3)


def _gains(means: pd.DataFrame, start: int) -> list[str]:
    """What the sparsity-aware initialisation adds, and who is on top later."""
    sentences = []
    by_name = {str(row["network"]): row for row in records(means)}
    if {"Scratch", "Scratch+"} <= by_name.keys():
        first, early = (by_name["Scratch+"][name] / by_name["Scratch"][name] for name in ("first", "early"))
        sentences.append(
            f"Before the first step Scratch+ has {times(first)} the gradient norm of Scratch; over the first {start} "
            f"steps {times(early)}."
        )
    late = means.dropna(subset="late").sort_values("late", ascending=False)
    if len(late) > 1:
        top, bottom = late.iloc[0], late.iloc[-1]
        sentences.append(
            f"After that the norm of {top['network']} is highest ({number(top['late'])}), that of {bottom['network']} "
            f"lowest ({number(bottom['late'])})."
        )
    return sentences or [f"{row['network']} starts at {_text(row['first'])}." for row in records(means)]


def _artefact(means: pd.DataFrame) -> list[str]:
    rows = means.dropna(subset="after_over_between")
    if rows.empty:
        return []
    parts = [f"{row['network']} {row['after_over_between']:.2f}" for row in records(rows)]
    return [f"Measured right after mask updates, norms are this many times larger: {listed(parts)}."]


fig2a, fig7a, fig7b, fig7c, fig9a = (
    partial(flow_exhibit, name, curves)
    for name, curves in (("fig2a", FIG2A), ("fig7a", FIG7A), ("fig7b", FIG7B), ("fig7c", FIG7C), ("fig9a", FIG9A))
)
