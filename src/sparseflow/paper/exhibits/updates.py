"""Figures 3, 8 and 9b: the change of the gradient norm at mask updates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from sparseflow.init.schemes import SCHEMES
from sparseflow.lab.page import panels
from sparseflow.lab.page.estimates import Estimate, estimate
from sparseflow.lab.page.evidence import Evidence
from sparseflow.lab.page.exhibit import Content, Drawing
from sparseflow.lab.page.figure_data import update_change
from sparseflow.lab.page.panels import Curve
from sparseflow.lab.page.svg import INK
from sparseflow.lab.page.table import Column, Table, low_and_high, records
from sparseflow.lab.page.words import signed
from sparseflow.paper.claims.updates import halves_of
from sparseflow.paper.exhibits.curves import curve_of, over_seeds
from sparseflow.paper.exhibits.networks import Setting, site_of
from sparseflow.paper.exhibits.shortfalls import found_and_missing
from sparseflow.paper.matrix.cells import INITS
from sparseflow.paper.matrix.scale import Scale
from sparseflow.training.runs import Run

#: Panel title -> its curves.
Panels = Mapping[str, Sequence[Curve]]
_TITLES = {init: SCHEMES[init].label for init in INITS} | {"sparse": f"{SCHEMES['sparse'].label} (+)"}
#: Changes up to here are drawn on a linear axis where larger ones are not.
LINEAR = 0.1
FIG3B: Panels = {
    _TITLES["sparse"]: [curve_of(f"lenet5/{name}/sparse/f100") for name in ("rigl", "set", "rigl_inverted")],
}
FIG8B: Panels = {_TITLES[init]: [curve_of(f"lenet5/{name}/{init}/f100") for name in ("rigl", "set")] for init in INITS}
FIG9B: Panels = {_TITLES["sparse"]: [curve_of(f"mlp/{name}/sparse") for name in ("rigl", "set")]}

HOW = (
    "At an update a method drops its smallest weights and grows as many new connections: SET at random, RigL where the "
    "gradient is largest, RigL-Inverted where it is smallest. The gradient norm is measured right before and right "
    "after, on the same images and with the same remaining weights; a point above the line at zero is an update that "
    "raised it. A line is the mean over runs, its band one population standard deviation to either side."
)
_AS_BEFORE = (
    "To be read like figure 3b: a point above zero is an update that raised the gradient norm. A line is the mean over "
    "runs, its band one population standard deviation to either side."
)


def groups_of(curves: Panels) -> tuple[str, ...]:
    """Every group of a figure."""
    return tuple(dict.fromkeys(curve.group for of_panel in curves.values() for curve in of_panel))


def update_exhibit(
    name: str,
    of_figure: Panels,
    evidence: Evidence,
    scale: Scale,
    *,
    how: str = _AS_BEFORE,
    stretched: bool = False,
) -> Content:
    """One panel per initialisation, one curve per method; ``stretched`` draws large changes on a logarithmic axis."""
    found, missing = found_and_missing(evidence, scale, groups_of(of_figure))
    shown = {
        title: [curve for curve in curves if curve.group in found]
        for title, curves in of_figure.items()
        if any(curve.group in found for curve in curves)
    }
    curves = [curve for of_panel in shown.values() for curve in of_panel]
    data = over_seeds([(curve, found[curve.group]) for curve in curves], update_change, phase="change at an update")
    changes = Table.of(
        COLUMNS,
        [changes_of(curve, found[curve.group], scale) for curve in curves],
        name=f"{name}-changes",
        caption="Mean change of the gradient norm at a mask update."
        + (" Halves are those of the time in which masks move." if site_of(scale).halves_of_updates else ""),
    )
    spoken = ", ".join(f"{row['network']} {signed(row['first_half'])}" for row in records(changes.data))
    sentence = f"In the first half an update changes the gradient norm, on average, by: {spoken}."
    drawing = Drawing(
        name=name,
        how=how,
        alt=f"Line chart: change of the gradient norm at each mask update over optimizer steps. {sentence}",
        draw=partial(draw_updates, shown, data, stretched=stretched),
        data=data,
    )
    return Content(
        shows=[sentence],
        drawings=[drawing],
        tables=[changes],
        missing=missing,
    )


def draw_updates(shown: Panels, data: pd.DataFrame, *, narrow: bool = False, stretched: bool = False) -> Figure:
    """Change over steps, zero marked."""
    figure, axes = panels.layout(len(shown), narrow=narrow, share=True)
    for panel, (title, curves) in zip(axes, shown.items(), strict=True):
        panel.axhline(0, color=INK, linewidth=1)
        panels.draw_curves(panel, [(curve.look, data[data["group"] == curve.group]) for curve in curves])
        panel.set_title(title)
        panels.steps_axis(panel)
        if stretched:
            panel.set_yscale("symlog", linthresh=LINEAR, linscale=0.5)
            panel.yaxis.set_major_formatter(FuncFormatter(lambda change, _: f"{change:g}"))
    panels.label_left(axes, "Change of ‖g‖ at an update")
    panels.curve_legend(figure, [curve for curves in shown.values() for curve in curves], narrow=narrow)
    return figure


class Changes(NamedTuple):
    """Changes of the gradient norm of one curve, over seeds."""

    curve: Curve
    runs: Sequence[Run]
    first: Estimate
    """In the first half, as C17 has it."""
    second: Estimate
    raised: float
    """Share of updates that raise the norm."""


def changes_of(curve: Curve, runs: Sequence[Run], scale: Scale) -> Changes:
    """Mean changes in both halves, over seeds, and the share of updates that raise the norm."""
    first, second = halves_of(runs, site_of(scale))
    raised = float(np.mean([(update_change(run)["value"] > 0).mean() for run in runs]))
    return Changes(curve, runs, estimate(first.tolist()), estimate(second.tolist()), raised)


COLUMNS = (
    Column("network", lambda of: of.curve.label, "Network"),
    Column("group", lambda of: of.curve.group),
    Column("runs", lambda of: len(of.runs), "Runs"),
    Column("first_half", lambda of: of.first.mean, "First half", lambda row: signed(row["first_half"])),
    *low_and_high(lambda of: of.first, text=signed),
    Column("second_half", lambda of: of.second.mean, "Second half", lambda row: signed(row["second_half"])),
    Column("raised", lambda of: of.raised, "Updates that raise it", lambda row: f"{100 * row['raised']:.0f} %"),
)


def image_update_exhibit(name: str, setting: Setting, evidence: Evidence, scale: Scale) -> Content:
    """Changes of the gradient norm at mask updates on images, one panel per start."""
    shown: Panels = {
        f"{setting.label}, {_TITLES[init]}": [
            curve_of(group)
            for method in ("rigl", "set", "rigl_inverted")
            if (group := f"{setting.name}/{method}/{init}") in scale.groups
        ]
        for init in ("dense", "sparse")
    }
    how = f"{HOW} The vertical axis is linear from −{LINEAR:g} to {LINEAR:g} and logarithmic beyond."
    if setting.paper == "ResNet50":
        how += (
            " Behind a unit that has lost all its connections batch norm divides by next to nothing, so that a "
            "connection which grows there has a gradient hundreds of times the usual; narrow networks have such units."
        )
    return update_exhibit(name, shown, evidence, scale, how=how, stretched=True)
