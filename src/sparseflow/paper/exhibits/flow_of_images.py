"""Figures 2b, 2c, 3a, 8a and 5d to 5f: gradient norm and loss over training, mask updates, where tickets lie."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import pandas as pd
from matplotlib import rc_context
from matplotlib.figure import Figure

from sparseflow.analysis.landscape import barrier
from sparseflow.lab.demo.findings import number
from sparseflow.lab.page.estimates import estimate
from sparseflow.lab.page.evidence import Evidence, NotEnoughRunsError
from sparseflow.lab.page.exhibit import Content, Drawing, available
from sparseflow.lab.page.panels import Look
from sparseflow.lab.page.plots import Curve, curve_legend, draw_band, log_norm_axis, row_of_panels, steps_axis, thinned
from sparseflow.lab.page.svg import PALETTE, STYLE
from sparseflow.lab.page.words import listed, times
from sparseflow.paper.exhibits.curves import curve_of, logged, off_cycle, over_seeds
from sparseflow.paper.exhibits.image_settings import NAMES, Setting
from sparseflow.paper.exhibits.interpolation import BAND_LEVEL, draw_lines, with_band
from sparseflow.paper.exhibits.landscape import SCRATCH, TICKET, draw_map
from sparseflow.paper.exhibits.shortfalls import shortfalls
from sparseflow.paper.exhibits.updates import HOW, LINEAR, Panels, update_exhibit
from sparseflow.paper.matrix.image_scales import ImageScale
from sparseflow.training.runs import Run

#: What is drawn over training, by the rest of the group's name.
FOLLOWED = ("scratch/dense", "scratch/liu", "scratch/sparse", "rigl/dense", "rigl/sparse", "lottery/mask0")
#: (logged as, title of the panel, is its axis logarithmic).
_NORM, _LOSS = "gradient norm", "training loss"


def flow_exhibit(name: str, settings: Sequence[Setting], evidence: Evidence, scale: ImageScale) -> Content:
    """Gradient norm and loss over training, a row of panels a setting.

    Raises:
        NotEnoughRunsError: if no curve has a run.
    """
    curves = {
        setting: [curve_of(group) for kind in FOLLOWED if (group := f"{setting.name}/{kind}") in scale.groups]
        for setting in settings
    }
    found, missing = available(evidence, [curve.group for some in curves.values() for curve in some])
    shown = {setting: kept for setting, some in curves.items() if (kept := [c for c in some if c.group in found])}
    pairs = [(curve, found[curve.group]) for some in shown.values() for curve in some]
    data = pd.concat(
        [over_seeds(pairs, off_cycle, phase=_NORM), over_seeds(pairs, _losses, phase=_LOSS)], ignore_index=True
    )
    sentences = [sentence for setting in shown for sentence in _told(setting, data)]
    drawing = Drawing(
        name=name,
        how="Left: the length of the loss gradient over the weights that exist, always on the same training images, on "
        "a logarithmic axis; norms right after a mask update are left out. Right: the loss on the same images. A line "
        "is the mean over runs, its band one population standard deviation to either side. A plus stands for Ours, "
        "dotted lines are Original.",
        alt=f"Line charts of gradient norm and training loss over optimizer steps. {' '.join(sentences)}",
        draw=partial(draw_flow, shown, data),
        data=data,
    )
    return Content(shows=sentences, drawings=[drawing], missing=[*missing, *shortfalls(evidence, scale, found)])


def _losses(run: Run) -> pd.DataFrame:
    return logged(run, "flow/loss")


def _told(setting: Setting, data: pd.DataFrame) -> list[str]:
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


@rc_context(STYLE)
def draw_flow(shown: dict[Setting, list[Curve]], data: pd.DataFrame, *, narrow: bool = False) -> Figure:
    """Two panels a setting."""
    figure, panels = row_of_panels(2 * len(shown), narrow=narrow, columns=2, height=2.5)
    for row, (setting, curves) in enumerate(shown.items()):
        of_setting = data[data["group"].isin([curve.group for curve in curves])]
        for panel, phase in zip(panels[2 * row : 2 * row + 2], (_NORM, _LOSS), strict=True):
            of_phase = of_setting[of_setting["phase"] == phase]
            for index, curve in enumerate(curves):
                rows = of_phase[of_phase["group"] == curve.group]
                every = max(1, len(thinned(rows)) // 6)
                draw_band(panel, curve, rows, mark=(index % every, every))
            panel.set_title(f"{setting.label}: {phase}")
            panel.set_ylabel("Gradient norm ‖g‖" if phase == _NORM else "Loss (nats)")
            steps_axis(panel)
            if phase == _NORM:
                log_norm_axis(panel, [of_phase])
    drawn = {curve.label: curve for curves in shown.values() for curve in curves}
    curve_legend(figure, list(drawn.values()), narrow=narrow)
    return figure


def updates_exhibit(name: str, setting: Setting, evidence: Evidence, scale: ImageScale) -> Content:
    """What a mask update does to the gradient norm, a panel a start.

    Raises:
        NotEnoughRunsError: if no group has a run.
    """
    panels: Panels = {
        f"{setting.label}, {start}": [
            curve_of(group)
            for method in ("rigl", "set", "rigl_inverted")
            if (group := f"{setting.name}/{method}/{init}") in scale.groups
        ]
        for start, init in (("Original", "dense"), ("Ours (+)", "sparse"))
    }
    how = f"{HOW} The vertical axis is linear from −{LINEAR:g} to {LINEAR:g} and logarithmic beyond."
    if setting.paper == "ResNet50":
        how += (
            " Behind a unit that has lost all its connections batch norm divides by next to nothing, so that a "
            "connection which grows there has a gradient hundreds of times the usual; narrow networks have such units."
        )
    return update_exhibit(name, panels, evidence, scale, how=how, stretched=True)


def map_exhibit(evidence: Evidence, scale: ImageScale) -> Content:
    """A map of starts and ends.

    Raises:
        NotEnoughRunsError: if it was not computed.
    """
    rows = evidence.table("mds")
    sentence = f"Stress {number(float(rows['stress'].iloc[0]), 2)}, of {len(rows)} networks."
    drawing = Drawing(
        name="map",
        how="Each point is a network: all its weights, laid out on a plane so that distances between points are as "
        "near as possible to distances between weights (multi-dimensional scaling). Directions mean nothing, closeness "
        "does. Stress is the sum of squared errors of these distances.",
        alt=f"Scatter plot of starts and ends of tickets and scratch runs around the pruned network. {sentence}",
        draw=partial(draw_map, rows),
        data=rows,
    )
    return Content(shows=[sentence], drawings=[drawing])


#: (kind of run, start) -> look of the loss along a line.
_LINES = {
    ("lottery", "init"): Look(TICKET, ":", "v"),
    ("lottery", "solution"): Look(TICKET, "-", "o"),
    ("lottery-k0", "solution"): Look(PALETTE["sky"], "-.", "^"),
    ("ticket-scratch", "init"): Look(SCRATCH, ":", "s"),
    ("ticket-scratch", "solution"): Look(SCRATCH, "--", "D"),
}


def path_exhibit(setting: str, evidence: Evidence, scale: ImageScale) -> Content:
    """Loss along straight lines to the pruned network.

    Raises:
        NotEnoughRunsError: if the lines were not measured.
    """
    rows = evidence.table("paths")
    curves, sentences = [], []
    for (kind, start), look in _LINES.items():
        of_line = rows[(rows["group"] == f"{setting}/{kind}") & (rows["start"] == start)]
        if of_line.empty:
            continue
        label = f"{NAMES[kind]}, {'start' if start == 'init' else 'end'}"
        curves.append((Curve(label, f"{setting}/{kind}", look), with_band(of_line).assign(label=label)))
        if start == "solution":
            lines = [line for _, line in of_line.groupby(["mask", "seed"])]
            heights = estimate([barrier(line["alpha"].to_list(), line["loss"].to_list()) for line in lines])
            sentences.append(f"{NAMES[kind]} {heights.mean:.3f} nats ({heights.n} runs)")
    if not curves:
        raise NotEnoughRunsError("paths has nothing of tickets. Make it:\nsparseflow reproduce paths")
    sentence = (
        f"Barrier between the end of training and the pruned network: {listed(sentences)}."
        if sentences
        else ("Only starts were measured, no ends.")
    )
    images = int(rows["examples"].iloc[0])
    drawing = Drawing(
        name="paths",
        how="Weights are moved in a straight line from a network (0) to the pruned network whose masks it has (1), and "
        f"the loss on {images} training images is measured on the way; batch norms estimate their statistics anew at "
        "every point. A line that stays low connects two networks of one valley; a hump is a barrier between two. A "
        "line is the mean over runs on the masks of all pruning runs, its band the "
        f"{100 * BAND_LEVEL:.0f} % confidence interval of the mean. The vertical axis is logarithmic.",
        alt=f"Line chart: training loss over the interpolation coefficient. {sentence}",
        draw=partial(draw_lines, curves),
        data=pd.concat([table for _, table in curves], ignore_index=True),
    )
    return Content(shows=[sentence], drawings=[drawing])
