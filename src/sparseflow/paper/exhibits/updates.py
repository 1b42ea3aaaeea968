"""Figures 3b, 8b and 9b: what a mask update does to the gradient norm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from sparseflow.lab.page.estimates import Estimate, estimate
from sparseflow.lab.page.evidence import Evidence
from sparseflow.lab.page.exhibit import Content, Drawing, Table, available, cell
from sparseflow.lab.page.plots import Curve, curve_legend, draw_band, row_of_panels, steps_axis
from sparseflow.lab.page.summary import records
from sparseflow.lab.page.svg import INK, STYLE
from sparseflow.lab.page.words import signed
from sparseflow.paper.exhibits.curves import curve_of, over_seeds, update_change
from sparseflow.paper.exhibits.shortfalls import shortfalls
from sparseflow.paper.matrix.image_scales import ImageScale
from sparseflow.paper.matrix.scales import Scale
from sparseflow.training.runs import Run

#: Panel title -> its curves.
Panels = Mapping[str, Sequence[Curve]]
_OURS = "Ours (+)"
#: Changes up to here are drawn on a linear axis where larger ones are not.
LINEAR = 0.1
FIG3B: Panels = {
    _OURS: [curve_of(f"lenet5/{name}/sparse/f100") for name in ("rigl", "set", "rigl_inverted")],
}
FIG8B: Panels = {
    title: [curve_of(f"lenet5/{name}/{init}/f100") for name in ("rigl", "set")]
    for title, init in (("Original", "dense"), ("Liu", "liu"), (_OURS, "sparse"))
}
FIG9B: Panels = {_OURS: [curve_of(f"mlp/{name}/sparse") for name in ("rigl", "set")]}

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


def groups_of(panels: Panels) -> tuple[str, ...]:
    """Every group of a figure."""
    return tuple(dict.fromkeys(curve.group for curves in panels.values() for curve in curves))


def update_exhibit(
    name: str,
    panels: Panels,
    evidence: Evidence,
    scale: Scale | ImageScale,
    *,
    how: str = _AS_BEFORE,
    stretched: bool = False,
) -> Content:
    """A panel an initialisation, a curve a method; ``stretched`` draws large changes on a logarithmic axis.

    Raises:
        NotEnoughRunsError: if no group has a run.
    """
    found, missing = available(evidence, groups_of(panels))
    shown = {
        title: [curve for curve in curves if curve.group in found]
        for title, curves in panels.items()
        if any(curve.group in found for curve in curves)
    }
    curves = [curve for panel in shown.values() for curve in panel]
    data = over_seeds([(curve, found[curve.group]) for curve in curves], update_change, phase="change at an update")
    changes = pd.DataFrame([_change(curve, found[curve.group]) for curve in curves])
    spoken = ", ".join(f"{row['network']} {signed(row['first_half'])}" for row in records(changes))
    sentence = f"In the first half of training an update changes the gradient norm, on average, by: {spoken}."
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
        tables=[_table(name, changes)],
        missing=[*missing, *shortfalls(evidence, scale, found)],
    )


@rc_context(STYLE)
def draw_updates(panels: Panels, data: pd.DataFrame, *, narrow: bool = False, stretched: bool = False) -> Figure:
    """Change over steps, zero marked."""
    figure, axes = row_of_panels(len(panels), narrow=narrow, sharey=True)
    for panel, (title, curves) in zip(axes, panels.items(), strict=True):
        panel.axhline(0, color=INK, linewidth=1)
        for index, curve in enumerate(curves):
            rows = data[data["group"] == curve.group]
            every = max(1, len(rows) // 6)
            draw_band(panel, curve, rows, mark=(index % every, every))
        panel.set_title(title)
        steps_axis(panel)
        if stretched:
            panel.set_yscale("symlog", linthresh=LINEAR, linscale=0.5)
            panel.yaxis.set_major_formatter(FuncFormatter(lambda change, _: f"{change:g}"))
    for panel in axes if narrow else axes[:1]:
        panel.set_ylabel("Change of ‖g‖ at an update")
    drawn = {curve.label: curve for curves in panels.values() for curve in curves}
    curve_legend(figure, list(drawn.values()), narrow=narrow)
    return figure


def halves(runs: Sequence[Run]) -> tuple[Estimate, Estimate, float]:
    """Mean change over both halves of training, over seeds, and the share of updates that raise the norm."""
    first, second, raised = [], [], []
    for run in runs:
        change = update_change(run)
        early = change["step"] <= run.config.steps / 2
        first.append(change.loc[early, "value"].mean())
        second.append(change.loc[~early, "value"].mean())
        raised.append((change["value"] > 0).mean())
    return estimate(first), estimate(second), float(np.mean(raised))


def _change(curve: Curve, runs: Sequence[Run]) -> dict[str, object]:
    first, second, raised = halves(runs)
    return {
        "network": curve.label,
        "group": curve.group,
        "runs": len(runs),
        "first_half": first.mean,
        "low": first.low,
        "high": first.high,
        "second_half": second.mean,
        "raised": raised,
    }


def _table(name: str, changes: pd.DataFrame) -> Table:
    return Table(
        name=f"{name}-changes",
        caption="Mean change of the gradient norm at a mask update.",
        head=["Network", "Runs", "First half of training", "95 % interval", "Second half", "Updates that raise it"],
        rows=[
            [
                cell(row["network"]),
                cell(str(row["runs"])),
                cell(signed(row["first_half"])),
                cell("-" if np.isnan(row["low"]) else f"{signed(row['low'])} to {signed(row['high'])}"),
                cell(signed(row["second_half"])),
                cell(f"{100 * row['raised']:.0f} %"),
            ]
            for row in records(changes)
        ],
        data=changes,
    )


fig3b = partial(update_exhibit, "fig3b", FIG3B, how=HOW)
fig8b = partial(update_exhibit, "fig8b", FIG8B)
fig9b = partial(update_exhibit, "fig9b", FIG9B)
