"""Figures 11a and 11b: eigenvalues of the Hessian over training."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from sparseflow.lab.page import panels
from sparseflow.lab.page.evidence import Evidence, NotEnoughRunsError
from sparseflow.lab.page.exhibit import Content, Drawing, Row
from sparseflow.lab.page.figure_data import condensed
from sparseflow.lab.page.panels import NARROW, Curve
from sparseflow.lab.page.table import Cell, Table, cell, records
from sparseflow.lab.page.words import listed, number
from sparseflow.paper.claims.spectra import mean_log_smallest
from sparseflow.paper.exhibits import densities
from sparseflow.paper.exhibits.curves import curve_of
from sparseflow.paper.exhibits.densities import Moment, Spectra
from sparseflow.paper.matrix.scale import Scale

#: Over training: group -> kind of line. A density has no room for marks.
_LINES = {
    "lenet5/rigl/sparse/f100": "-",
    "lenet5/scratch/sparse": "--",
    "lenet5/small_dense": ":",
}
TRAINED = {
    group: curve._replace(look=curve.look._replace(line=line))
    for group, line in _LINES.items()
    for curve in (curve_of(group),)
}


def checkpoints(scale: Scale) -> list[int]:
    """Steps at which spectra are computed over training."""
    return [scale.often * k for k in scale.checkpoints]


def shows(row: Row, scale: Scale) -> bool:
    """Whether a spectrum is one of those over training."""
    return row["group"] in TRAINED and row["moment"] == "at" and row["step"] in checkpoints(scale)


def shows_at_four(row: Row, scale: Scale) -> bool:
    """Whether a spectrum is one of those at the four steps of Figure 11b."""
    steps = densities.chosen_steps(checkpoints(scale), often=scale.often)
    return shows(row, scale) and row["step"] in steps


def over_training(seed: int, steps: Iterable[int]) -> Iterator[tuple[int, str, Curve, Moment]]:
    """Every network at every step."""
    for step in steps:
        for group, curve in TRAINED.items():
            yield step, curve.label, curve, Moment(group, seed, step, "at")


def fig11a(evidence: Evidence, scale: Scale) -> Content:
    """Magnitude of the most negative eigenvalue over training."""
    table = evidence.table("spectra")
    rows = table[table["group"].isin(TRAINED) & (table["moment"] == "at") & table["step"].isin(checkpoints(scale))]
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
    sentence = _over_training(evidence, present, scale)
    drawing = Drawing(
        name="fig11a",
        how="The more negative the smallest eigenvalue, the steeper the steepest way down that a step along the "
        "gradient may miss. The vertical axis is logarithmic. A line is the mean over runs, its band one population "
        "standard deviation to either side.",
        alt=f"Line chart of the magnitude of the most negative Hessian eigenvalue over optimizer steps. {sentence}",
        draw=partial(draw_smallest, present, data),
        data=data,
    )
    steps = densities.chosen_steps(sorted(rows["step"].unique()), often=scale.often)
    return Content(shows=[sentence], drawings=[drawing], tables=[curvature_table(present, rows, steps)])


def _over_training(evidence: Evidence, curves: Sequence[Curve], scale: Scale) -> str:
    """The mean over training as C27 has it, of runs measured at every step."""
    logs = {
        curve.label: mean_log_smallest(evidence, curve.group, "at", checkpoints(scale), examples=scale.all_examples)
        for curve in curves
    }
    logs = {label: found for label, found in logs.items() if len(found)}
    if not logs:
        return "No run was measured at every step yet, so there is no mean over training."
    ranked = sorted(logs.items(), key=lambda pair: -pair[1].mean())
    return (
        "Magnitude of the most negative eigenvalue, geometric mean over training: "
        f"{', '.join(f'{label} {np.exp(found.mean()):.3g}' for label, found in ranked)}. Runs: "
        f"{listed([f'{label} {len(found)}' for label, found in ranked])}."
    )


def curvature_table(curves: Sequence[Curve], rows: pd.DataFrame, steps: Sequence[int]) -> Table:
    r"""The second-order term of the loss's change along the gradient (Eq. 28), and all downward curvature together.

    .. math:: L(w - \eta g) - L(w) \approx -\eta \lVert g \rVert^2 + \tfrac{1}{2} \eta^2\, g^\top H g

    Shown is :math:`g^\top H g / g^\top g`: a step along the gradient gains nothing once the learning rate is above two
    over it.
    """
    data = (
        rows[rows["step"].isin(steps)]
        .groupby(["group", "step"], sort=False)[["rayleigh", "negative_sum"]]
        .mean()
        .reset_index()
    )
    found = {(str(row["group"]), int(row["step"])): row for row in records(data)}

    def shown(group: str, step: int) -> Cell:
        row = found.get((group, step))
        return cell("-") if row is None else cell(number(row["rayleigh"], 2), f"sum {number(row['negative_sum'], 2)}")

    return Table(
        name="fig11a-curvature",
        caption="Curvature along the gradient, g'Hg / g'g, by step; below it the sum of all negative eigenvalues. "
        "Means over runs.",
        head=["Network", *(f"Step {step}" for step in steps)],
        rows=[[cell(curve.label), *(shown(curve.group, step) for step in steps)] for curve in curves],
        data=data,
    )


def draw_smallest(curves: Sequence[Curve], data: pd.DataFrame, *, narrow: bool = False) -> Figure:
    """One panel, one curve per kind of network."""
    figure = Figure(figsize=(NARROW, 3.2) if narrow else (7.2, 3.6), layout="constrained")
    axes = figure.subplots()
    for index, curve in enumerate(curves):
        panels.draw_curve(axes, curve.look, data[data["group"] == curve.group], mark=(index, 6))
    panels.log_norm_axis(axes, [data])
    panels.steps_axis(axes)
    axes.set_ylabel("|smallest eigenvalue|")
    panels.curve_legend(figure, curves, narrow=narrow)
    return figure


def fig11b(evidence: Evidence, scale: Scale) -> Content:
    """Densities at four steps of training."""
    stored = densities.stored_spectra(evidence, list(TRAINED), ("at",))
    seed = densities.first_seed(stored)
    measured = {key.step for key in stored if key.seed == seed}
    steps = densities.chosen_steps(sorted(measured & {*checkpoints(scale)} or measured), often=scale.often)
    shown, data = densities.chosen(stored, over_training(seed, steps))
    table = _ends_table(shown)
    widest = max(records(table.data), key=lambda row: float(row["largest"]))
    deepest = min(records(table.data), key=lambda row: float(row["smallest"]))
    sentence = (
        f"The largest eigenvalue is {number(widest['largest'])} ({widest['network']}, step {widest['step']}), the most "
        f"negative {number(deepest['smallest'])} ({deepest['network']}, step {deepest['step']})."
    )
    drawing = Drawing(
        name="fig11b",
        how=f"{densities.WHAT}Above the whole spectrum, below its negative side; seed {seed}.",
        alt=f"Densities of Hessian eigenvalues at {len(steps)} steps of training. {sentence}",
        draw=partial(draw_steps, shown),
        data=data,
    )
    return Content(shows=[sentence], drawings=[drawing], tables=[table])


def _ends_table(shown: Mapping[int, Spectra]) -> Table:
    """Smallest and largest eigenvalue, one row per network and one column per step."""
    data = pd.DataFrame(
        [
            {"network": curve.label, "step": step, "smallest": float(values[0]), "largest": float(values[-1])}
            for step, spectra in shown.items()
            for curve, values in spectra
        ]
    )
    spans = {
        (row["network"], row["step"]): f"{number(row['smallest'], 2)} to {number(row['largest'], 3)}"
        for row in records(data)
    }
    return Table(
        name="fig11b-ends",
        caption="Smallest and largest eigenvalue by step.",
        head=["Network", *(f"Step {step}" for step in shown)],
        rows=[
            [cell(str(network)), *(cell(spans.get((network, step), "-")) for step in shown)]
            for network in data["network"].unique()
        ],
        data=data,
    )


def draw_steps(shown: Mapping[int, Spectra], *, narrow: bool = False) -> Figure:
    """One column per step (one row on a phone): the whole spectrum and its negative side."""
    places = [(step, side) for step in shown for side in (0, 1)]
    if not narrow:
        places.sort(key=lambda place: place[1])
    figure, axes = panels.layout(
        len(places), narrow=narrow, columns=len(shown), narrow_columns=2, height=2.4, narrow_height=1.75
    )
    for panel, (step, side) in zip(axes, places, strict=True):
        every = [values for _, values in shown[step]]
        densities.draw(panel, shown[step], (densities.negative_ends if side else densities.ends)(every))
        panel.set_title("Negative side" if side else f"Step {step}")
    panels.label_left(axes, "Density")
    for panel in axes[-2 if narrow else -len(shown) :]:
        panel.set_xlabel("Eigenvalue")
    densities.legend(figure, shown.values(), narrow=narrow)
    return figure
