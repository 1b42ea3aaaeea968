"""Figures 11a and 11b: eigenvalues of the Hessian over training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import pandas as pd
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.typing import LineStyleType

from sparseflow.lab.demo.findings import number
from sparseflow.lab.page.evidence import Evidence, NotEnoughRunsError
from sparseflow.lab.page.exhibit import Content, Drawing, Row, Table, cell
from sparseflow.lab.page.figure_data import condensed
from sparseflow.lab.page.panels import NARROW, WIDE
from sparseflow.lab.page.plots import Curve, curve_legend, draw_band, log_norm_axis, steps_axis
from sparseflow.lab.page.summary import records
from sparseflow.lab.page.svg import STYLE
from sparseflow.lab.page.words import listed
from sparseflow.paper.exhibits.curves import curve_of, geometric_mean
from sparseflow.paper.exhibits.densities import (
    WHAT,
    Floats,
    Moment,
    chosen_steps,
    density_table,
    draw_densities,
    ends,
    first_seed,
    negative_ends,
    stored_spectra,
)
from sparseflow.paper.matrix.scales import Scale

#: Over training: group -> kind of line. A density has no room for marks.
_LINES: dict[str, LineStyleType] = {
    "lenet5/rigl/sparse/f100": "-",
    "lenet5/scratch/sparse": "--",
    "lenet5/small_dense": ":",
}
TRAINED = {
    group: curve._replace(look=curve.look._replace(line=line))
    for group, line in _LINES.items()
    for curve in (curve_of(group),)
}


def shows(row: Row, scale: Scale) -> bool:
    """Whether a spectrum is one of those over training."""
    checkpoints = {scale.often * k for k in scale.checkpoints}
    return row["group"] in TRAINED and row["moment"] == "at" and row["step"] in checkpoints


def shows_at_four(row: Row, scale: Scale) -> bool:
    """Whether a spectrum is one of those at the four steps of Figure 11b."""
    steps = chosen_steps([scale.often * k for k in scale.checkpoints], often=scale.often)
    return shows(row, scale) and row["step"] in steps


def fig11a(evidence: Evidence, scale: Scale) -> Content:
    """Magnitude of the most negative eigenvalue over training.

    Raises:
        NotEnoughRunsError: if no spectrum over training was measured.
    """
    table = evidence.table("spectra")
    steps = {scale.often * k for k in scale.checkpoints}
    rows = table[table["group"].isin(TRAINED) & (table["moment"] == "at") & table["step"].isin(steps)]
    if rows.empty:
        raise NotEnoughRunsError("spectra has nothing over training. Make it:\nsparseflow reproduce spectra")
    values = rows.assign(value=rows["smallest"].abs()).sort_values("step", kind="stable")
    present = [curve for group, curve in TRAINED.items() if group in set(rows["group"])]
    data = pd.concat(
        [
            condensed(values[values["group"] == curve.group], ["step"]).assign(label=curve.label, group=curve.group)
            for curve in present
        ],
        ignore_index=True,
    )
    means = {curve.label: geometric_mean(data[data["group"] == curve.group]) for curve in present}
    ranked = sorted(means.items(), key=lambda pair: -pair[1])
    seeds = listed([f"{curve.label} {int(data.loc[data['group'] == curve.group, 'n'].max())}" for curve in present])
    sentence = (
        "Magnitude of the most negative eigenvalue, geometric mean over training: "
        f"{', '.join(f'{label} {number(value)}' for label, value in ranked)}. Runs: {seeds}."
    )
    drawing = Drawing(
        name="fig11a",
        how="The more negative the smallest eigenvalue, the steeper the steepest way down that a step along the "
        "gradient may miss. The vertical axis is logarithmic. A line is the mean over runs, its band one population "
        "standard deviation to either side.",
        alt=f"Line chart of the magnitude of the most negative Hessian eigenvalue over optimizer steps. {sentence}",
        draw=partial(draw_smallest, present, data),
        data=data,
    )
    return Content(shows=[sentence], drawings=[drawing])


@rc_context(STYLE)
def draw_smallest(curves: Sequence[Curve], data: pd.DataFrame, *, narrow: bool = False) -> Figure:
    """One panel, a curve a kind of network."""
    figure = Figure(figsize=(NARROW, 3.2) if narrow else (7.2, 3.6), layout="constrained")
    axes = figure.subplots()
    for index, curve in enumerate(curves):
        draw_band(axes, curve, data[data["group"] == curve.group], mark=(index, 6))
    log_norm_axis(axes, [data])
    steps_axis(axes)
    axes.set_ylabel("|smallest eigenvalue|")
    curve_legend(figure, curves, narrow=narrow)
    return figure


def fig11b(evidence: Evidence, scale: Scale) -> Content:
    """Densities at four steps of training.

    Raises:
        NotEnoughRunsError: if no spectrum over training was stored.
    """
    stored = stored_spectra(evidence, list(TRAINED), ("at",))
    seed = first_seed(stored)
    checkpoints = {scale.often * k for k in scale.checkpoints}
    measured = {key.step for key in stored if key.seed == seed}
    steps = chosen_steps(sorted(measured & checkpoints or measured), often=scale.often)
    panels: dict[int, list[tuple[Curve, Floats]]] = {}
    tables = []
    for step in steps:
        for group, curve in TRAINED.items():
            key = Moment(group, seed, step, "at")
            if key in stored:
                panels.setdefault(step, []).append((curve, stored[key]))
                tables.append(density_table(curve.label, key, stored[key]))
    table = _ends_table(panels)
    widest = max(records(table.data), key=lambda row: float(row["largest"]))
    deepest = min(records(table.data), key=lambda row: float(row["smallest"]))
    sentence = (
        f"The largest eigenvalue is {number(widest['largest'])} ({widest['network']}, step {widest['step']}), the most "
        f"negative {number(deepest['smallest'])} ({deepest['network']}, step {deepest['step']})."
    )
    drawing = Drawing(
        name="fig11b",
        how=f"{WHAT}Above the whole spectrum, below its negative side; seed {seed}.",
        alt=f"Densities of Hessian eigenvalues at {len(steps)} steps of training. {sentence}",
        draw=partial(draw_steps, panels),
        data=pd.concat(tables, ignore_index=True),
    )
    return Content(shows=[sentence], drawings=[drawing], tables=[table])


def _ends_table(panels: Mapping[int, Sequence[tuple[Curve, Floats]]]) -> Table:
    """Smallest and largest eigenvalue, a row a network, a column a step."""
    data = pd.DataFrame(
        [
            {"network": curve.label, "step": step, "smallest": float(values[0]), "largest": float(values[-1])}
            for step, spectra in panels.items()
            for curve, values in spectra
        ]
    )
    found = {(row["network"], row["step"]): row for row in records(data)}
    return Table(
        name="fig11b-ends",
        caption="Smallest and largest eigenvalue by step.",
        head=["Network", *(f"Step {step}" for step in panels)],
        rows=[
            [
                cell(str(network)),
                *(
                    cell(
                        f"{number(found[network, step]['smallest'], 2)} to {number(found[network, step]['largest'], 3)}"
                    )
                    if (network, step) in found
                    else cell("-")
                    for step in panels
                ),
            ]
            for network in data["network"].unique()
        ],
        data=data,
    )


@rc_context(STYLE)
def draw_steps(panels: Mapping[int, Sequence[tuple[Curve, Floats]]], *, narrow: bool = False) -> Figure:
    """A column a step (a row on a phone): the whole spectrum and its negative side."""
    count = len(panels)
    figure = Figure(figsize=(NARROW, 0.6 + 1.7 * count) if narrow else (WIDE, 5.2), layout="constrained")
    grid = figure.subplots(*((count, 2) if narrow else (2, count)), squeeze=False)
    for index, (step, spectra) in enumerate(panels.items()):
        every = [values for _, values in spectra]
        for side, limits in enumerate((ends(every), negative_ends(every))):
            axes = grid[index, side] if narrow else grid[side, index]
            draw_densities(axes, spectra, limits)
            axes.set_title(f"Step {step}" if side == 0 else "Negative side")
            if (side if narrow else index) == 0:
                axes.set_ylabel("Density")
    for axes in grid[-1]:
        axes.set_xlabel("Eigenvalue")
    curves = {curve.label: curve for spectra in panels.values() for curve, _ in spectra}
    curve_legend(figure, [_plain(curve) for curve in curves.values()], narrow=narrow)
    return figure


def _plain(curve: Curve) -> Curve:
    """A density has no marks."""
    return curve._replace(look=curve.look._replace(marker=""))
