"""Figures 2, 7 and 9a: the gradient norm during training, on images with the loss."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from sparseflow.lab.page import panels
from sparseflow.lab.page.evidence import Evidence, NotEnoughRunsError
from sparseflow.lab.page.exhibit import Content, Drawing
from sparseflow.lab.page.figure_data import logged
from sparseflow.lab.page.panels import Curve
from sparseflow.lab.page.table import Column, Record, Table, records
from sparseflow.lab.page.words import listed, number, times
from sparseflow.paper.claims.run_statistics import at_paper_step, mean_log_norm, norm_at, of_each
from sparseflow.paper.claims.sites import MNIST
from sparseflow.paper.exhibits.curves import curve_of, geometric_mean, off_cycle, over_seeds, right_after
from sparseflow.paper.exhibits.networks import Setting
from sparseflow.paper.exhibits.shortfalls import found_and_missing
from sparseflow.paper.matrix.cells import METHODS
from sparseflow.paper.matrix.scale import Scale
from sparseflow.training.runs import Run
from sparseflow.types import Look

#: What counts as the start: the first thousand of the paper's steps (section 4.1).
START = 1000


def _cells(network: str, *cells: tuple[str, str]) -> tuple[Curve, ...]:
    """Curves of methods and initialisations, at the update period at which claims are judged."""
    return tuple(curve_of(MNIST.cell(network, method, init)) for method, init in cells)


FIG2A = (
    *_cells("lenet5", *((method, init) for method in ("scratch", "rigl") for init in ("dense", "sparse"))),
    curve_of("lenet5/lottery"),
    curve_of("lenet5/small_dense"),
)
FIG7A = _cells("lenet5", *((method, init) for method in METHODS for init in ("dense", "sparse")))
FIG7B = _cells("lenet5", *((method, "liu") for method in METHODS))
FIG7C = (
    curve_of("lenet5/scratch/dense"),
    curve_of("lenet5/scratch/sparse"),
    Curve("Scratch He", "lenet5/scratch/dense/he", Look("vermillion", ":", "D")),
    Curve("Scratch+ He", "lenet5/scratch/sparse/he", Look("vermillion", "-", "D")),
    Curve("Scratch Liu He", "lenet5/scratch/liu/he", Look("vermillion", "--", "s")),
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
    """The norm over training, over the start, and right after mask updates."""
    found, missing = found_and_missing(evidence, scale, [curve.group for curve in curves])
    shown = [curve for curve in curves if curve.group in found]
    pairs = [(curve, found[curve.group]) for curve in shown]
    between = over_seeds(pairs, off_cycle, phase="between updates")
    after = over_seeds(pairs, right_after, phase="right after an update")
    first = min(run.config.log_every for runs in found.values() for run in runs)
    start = at_paper_step(scale.base, START)
    drawing = Drawing(
        name=name,
        how=_HOW + (_AFTER if len(after) else "") if name == "fig2a" else _AS_BEFORE,
        alt=f"Line charts of the gradient norm over optimizer steps. {_ends(between)}",
        draw=partial(draw_flow, shown, between, after, first=first),
        data=pd.concat([table for table in (between, after) if len(table)], ignore_index=True),
    )
    means = _table(name, pairs, after, start, period=_period(curves, scale))
    return Content(
        shows=[*_gains(means.data, start), *_artefact(means.data)],
        drawings=[drawing],
        tables=[means],
        missing=missing,
    )


def draw_flow(
    curves: Sequence[Curve], between: pd.DataFrame, after: pd.DataFrame, *, first: int, narrow: bool = False
) -> Figure:
    """Two panels, or three where masks move."""
    moving = [curve for curve in curves if curve.group in set(after["group"])]
    if moving:
        figure, axes = panels.layout(3, narrow=narrow, columns=2, height=2.55, share=True, leads=True)
    else:
        figure, axes = panels.layout(2, narrow=narrow, share=True)
    last = int(between["step"].max())
    shown = [(curve.look, between[between["group"] == curve.group]) for curve in curves]
    panels.draw_curves(axes[0], shown)
    for look, rows in shown:
        panels.draw_curve(axes[1], look, rows, mark=(0, len(rows)))
    for curve in moving:
        rows, updates = (panels.thinned(table[table["group"] == curve.group]) for table in (between, after))
        style = panels.line_style(curve.look)
        axes[2].plot(rows["step"], rows["mean"], **{**style, "marker": ""})
        axes[2].plot(updates["step"], updates["mean"], linewidth=0.7, markersize=2.5, alpha=0.9, **style)
    titles = ("The whole training", "The start, stretched", "Thin, with marks: right after an update")
    for panel, title in zip(axes, titles, strict=False):
        panel.set_title(title)
        panels.log_norm_axis(panel, [between, after] if moving else [between])
    for panel in (axes[0], *axes[2:]):
        panels.steps_axis(panel, last=last)
    panels.log_steps_axis(axes[1], first=first, last=last)
    panels.label_left(axes, "Gradient norm ‖g‖")
    panels.curve_legend(figure, curves, narrow=narrow)
    return figure


def _ends(between: pd.DataFrame) -> str:
    parts = [
        f"{label} from {number(rows['mean'].iloc[0])} at step {rows['step'].iloc[0]} to "
        f"{number(rows['mean'].iloc[-1])} at step {rows['step'].iloc[-1]}, highest {number(rows['mean'].max())}"
        for label, rows in between.groupby("label", sort=False)
    ]
    return "; ".join(parts) + "."


class Norms(NamedTuple):
    """Gradient norms of one curve, over seeds."""

    curve: Curve
    runs: Sequence[Run]
    after: pd.DataFrame
    """Right after mask updates."""
    period: int
    """Between the updates of masks that move."""

    def jump(self) -> float:
        """Ratio of the norm right after an update to that between updates; NaN without updates."""
        if self.after.empty:
            return np.nan
        between = over_seeds([(self.curve, self.runs)], off_cycle, phase="")
        near = np.interp(self.after["step"].to_numpy(dtype=float), between["step"], between["mean"])
        return geometric_mean(self.after) / float(np.exp(np.log(near).mean()))

    def first(self) -> float:
        """Mean before the first step, as C05 has it."""
        return float(of_each(self.runs, lambda run: norm_at(run, 0)).mean())

    def early(self) -> float:
        """Over the start between a run's own updates, as C29 has it: geometric means over steps, and over runs."""
        own = self.period if self.runs[0].config.row.moves == "swap" else None
        return self._mean(lambda run: mean_log_norm(run, 0, START, off_cycle=own))

    def late(self) -> float:
        """From there on, as C21 has it: all curves at the steps between mask updates."""
        return self._mean(lambda run: mean_log_norm(run, START, off_cycle=self.period))

    def _mean(self, log_norm: Callable[[Run], float]) -> float:
        try:
            return float(np.exp(of_each(self.runs, log_norm).mean()))
        except NotEnoughRunsError:  # too short for that part of training
            return np.nan


def _norm(name: str) -> Callable[[Record], str]:
    return lambda row: _text(row[name])


def _columns(start: int) -> tuple[Column, ...]:
    return (
        Column("network", lambda of: of.curve.label, "Network"),
        Column("group", lambda of: of.curve.group),
        Column("runs", lambda of: len(of.runs), "Runs"),
        Column("first", Norms.first, "Before the first step", _norm("first")),
        Column("early", Norms.early, f"To step {start}", _norm("early")),
        Column("late", Norms.late, "Later", _norm("late")),
        Column(
            "after_over_between",
            Norms.jump,
            "Right after an update, times",
            lambda row: "-" if np.isnan(row["after_over_between"]) else f"{row['after_over_between']:.2f}",
        ),
    )


def _period(curves: Sequence[Curve], scale: Scale) -> int:
    """Between updates of the masks that move in a figure; in one without, those of figures with the same curves."""
    planned = [scale.groups[curve.group][0] for curve in curves]
    return next((run.update_every for run in planned if run.row.moves == "swap"), scale.often)


def _table(
    name: str, pairs: Sequence[tuple[Curve, Sequence[Run]]], after: pd.DataFrame, start: int, *, period: int
) -> Table:
    note = "The last column says how many times larger the norm is right after a mask update than between updates."
    return Table.of(
        _columns(start),
        [Norms(curve, runs, after[after["group"] == curve.group], period) for curve, runs in pairs],
        name=f"{name}-means",
        caption="Gradient norm between mask updates, geometric mean over steps and runs.",
        note=note if len(after) else "",
    )


def _text(value: float) -> str:
    return "-" if np.isnan(value) else number(value, 3)


def _gains(means: pd.DataFrame, start: int) -> list[str]:
    """The gain from the sparsity-aware initialisation, and the networks with the highest and lowest norm later."""
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


# --- images -----------------------------------------------------------------------------------------------------------

#: What is drawn over training on images, by the rest of the group's name.
FOLLOWED = ("scratch/dense", "scratch/liu", "scratch/sparse", "rigl/dense", "rigl/sparse", "lottery/mask0")
_NORM, _LOSS = "gradient norm", "training loss"


def image_flow_exhibit(name: str, settings: Sequence[Setting], evidence: Evidence, scale: Scale) -> Content:
    """Gradient norm and loss over training on images, one row of panels per setting."""
    curves = {
        setting: [curve_of(group) for kind in FOLLOWED if (group := f"{setting.name}/{kind}") in scale.groups]
        for setting in settings
    }
    found, missing = found_and_missing(evidence, scale, [curve.group for some in curves.values() for curve in some])
    shown = {setting: kept for setting, some in curves.items() if (kept := [c for c in some if c.group in found])}
    pairs = [(curve, found[curve.group]) for some in shown.values() for curve in some]
    data = pd.concat(
        [over_seeds(pairs, off_cycle, phase=_NORM), over_seeds(pairs, _losses, phase=_LOSS)], ignore_index=True
    )
    sentences = [sentence for setting in shown for sentence in _starts(setting, data)]
    drawing = Drawing(
        name=name,
        how="Left: the length of the loss gradient over the weights that exist, always on the same training images, on "
        "a logarithmic axis; norms right after a mask update are left out. Right: the loss on the same images. A line "
        "is the mean over runs, its band one population standard deviation to either side. A plus stands for Ours, "
        "dotted lines are Original.",
        alt=f"Line charts of gradient norm and training loss over optimizer steps. {' '.join(sentences)}",
        draw=partial(draw_image_flow, shown, data),
        data=data,
    )
    return Content(shows=sentences, drawings=[drawing], missing=missing)


def _losses(run: Run) -> pd.DataFrame:
    return logged(run, "flow/loss")


def _starts(setting: Setting, data: pd.DataFrame) -> list[str]:
    groups = {init: f"{setting.name}/scratch/{init}" for init in ("dense", "sparse")}
    first, last = {}, {}
    for init, group in groups.items():
        norms = data[(data["group"] == group) & (data["phase"] == _NORM)]
        losses = data[(data["group"] == group) & (data["phase"] == _LOSS)]
        if len(norms):
            first[init], last[init] = norms["mean"].iloc[0], losses["mean"].iloc[-1]
    if len(first) < 2:
        return [f"{setting.label}: Scratch was not trained both with Original and with Ours yet."]
    return [
        f"{setting.label}: before the first step Scratch with Ours has {times(first['sparse'] / first['dense'])} the "
        f"gradient norm of Original; at the end its loss is {number(last['sparse'], 3)}, that of Original "
        f"{number(last['dense'], 3)}."
    ]


def draw_image_flow(shown: Mapping[Setting, Sequence[Curve]], data: pd.DataFrame, *, narrow: bool = False) -> Figure:
    """Two panels per setting."""
    figure, axes = panels.layout(2 * len(shown), narrow=narrow, columns=2, height=2.5)
    places = [(setting, phase) for setting in shown for phase in (_NORM, _LOSS)]
    for panel, (setting, phase) in zip(axes, places, strict=True):
        of_phase = data[data["phase"] == phase]
        curves = [(curve.look, of_phase[of_phase["group"] == curve.group]) for curve in shown[setting]]
        panels.draw_curves(panel, curves)
        panel.set_title(f"{setting.label}: {phase}")
        panel.set_ylabel("Gradient norm ‖g‖" if phase == _NORM else "Loss (nats)")
        panels.steps_axis(panel)
        if phase == _NORM:
            panels.log_norm_axis(panel, [rows for _, rows in curves])
    panels.curve_legend(figure, [curve for curves in shown.values() for curve in curves], narrow=narrow)
    return figure
