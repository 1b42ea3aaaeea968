"""Figure 10: eigenvalues of the Hessian right before a mask update, right after it, and later."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from functools import partial

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from sparseflow.lab.page import panels
from sparseflow.lab.page.evidence import Evidence, NotEnoughRunsError
from sparseflow.lab.page.exhibit import Content, Drawing, Row
from sparseflow.lab.page.figure_data import condensed
from sparseflow.lab.page.panels import Curve
from sparseflow.lab.page.words import number
from sparseflow.paper.claims.spectra import log_change
from sparseflow.paper.exhibits import densities
from sparseflow.paper.exhibits.curves import curve_of
from sparseflow.paper.exhibits.densities import Moment, Spectra
from sparseflow.paper.matrix.mnist import MOVES, after_update, settling
from sparseflow.paper.matrix.scale import Scale
from sparseflow.types import Look

#: Around an update: SET left, RigL right, as in the paper.
MOVING = ("lenet5/set/sparse/f100", "lenet5/rigl/sparse/f100")
MOMENTS = {"before": Look("ink", ":", ""), "after": Look("vermillion", "-", "")}


def shows(row: Row, scale: Scale) -> bool:
    """Whether a spectrum is from around a mask update."""
    later = (*after_update(scale), *settling(scale))
    moments = row["moment"] in MOMENTS and row["step"] in [scale.often * hundreds for hundreds in MOVES]
    return row["group"] in MOVING and (moments or row["step"] in later)


def fig10(evidence: Evidence, scale: Scale) -> Content:
    """Densities right before and right after one mask update, and the largest and smallest eigenvalue from then on."""
    stored = densities.stored_spectra(evidence, MOVING, tuple(MOMENTS))
    seed, step = densities.first_seed(stored), min(key.step for key in stored)
    names = {group: curve_of(group).label for group in MOVING}
    wanted = [
        (name, name, Curve(f"right {moment}", group, look), Moment(group, seed, step, moment))
        for group, name in names.items()
        for moment, look in MOMENTS.items()
    ]
    shown, data = densities.chosen(stored, wanted)
    sentences, missing = _around(evidence, scale, step)
    drawings = [
        Drawing(
            name="fig10",
            how=f"{densities.WHAT}Left the whole spectrum, right its negative side; seed {seed}, step {step}.",
            alt=f"Densities of Hessian eigenvalues right before and right after a mask update. {' '.join(sentences)}",
            draw=partial(draw_pairs, shown),
            data=data,
        )
    ]
    try:
        drawings.append(_aftermath(evidence, step, last=max(settling(scale), default=max(after_update(scale)))))
    except NotEnoughRunsError as error:
        missing.append(str(error))
    return Content(shows=sentences, drawings=drawings, missing=missing)


def _around(evidence: Evidence, scale: Scale, step: int) -> tuple[list[str], list[str]]:
    """Change of the extreme eigenvalues at an update as C25 and C26 have it, over all seeds, and what is missing."""
    try:
        table = evidence.table("spectra")
    except NotEnoughRunsError as error:
        return [f"The densities are those of step {step}."], [str(error)]
    sentences = []
    for group in MOVING:
        low, high = (
            log_change(evidence, group, name, step, examples=scale.spectrum_examples)
            for name in ("smallest", "largest")
        )
        rows = table[(table["group"] == group) & (table["step"] == step)]
        rows = rows[(rows["examples"] == scale.spectrum_examples) & rows["seed"].isin(low.index)]
        counts = [rows.loc[rows["moment"] == moment, "num_negative"].mean() for moment in MOMENTS]
        if len(low):
            sentences.append(
                f"The {curve_of(group).label} update at step {step} multiplies the most negative eigenvalue by "
                f"{np.exp(low.mean()):.2f} and the largest by {np.exp(high.mean()):.2f} (geometric means of {len(low)} "
                f"runs); negative eigenvalues go from {number(counts[0])} to {number(counts[1])}."
            )
    return sentences or [f"The densities are those of step {step}."], []


def _of_most_seeds(rows: pd.DataFrame) -> pd.DataFrame:
    """The spectra from the number of training images that most seeds have."""
    seeds = rows.groupby("examples")["seed"].nunique()
    return rows if seeds.empty else rows[rows["examples"] == seeds.idxmax()]


def draw_pairs(shown: Mapping[str, Spectra], *, narrow: bool = False) -> Figure:
    """One row per method: the whole spectrum, and its negative side."""
    figure, axes = panels.layout(2 * len(shown), narrow=narrow, height=2.5, columns=2)
    every = [values for spectra in shown.values() for _, values in spectra]
    sides = {"all": densities.ends(every), "negative side": densities.negative_ends(every)}
    for panel, (title, side) in zip(axes, itertools.product(shown, sides), strict=True):
        densities.draw(panel, shown[title], sides[side])
        panel.set_title(f"{title}, {side}")
    for panel in axes if narrow else axes[-2:]:
        panel.set_xlabel("Eigenvalue (nats per squared unit of weight)")
    panels.label_left(axes, "Density (share per unit)")
    densities.legend(figure, shown.values(), narrow=narrow)
    return figure


def _aftermath(evidence: Evidence, step: int, *, last: int) -> Drawing:
    """The extreme eigenvalues right before, right after, and in the steps that follow."""
    rows = evidence.table("spectra")
    rows = rows[rows["group"].isin(MOVING) & rows["step"].between(step, last)]
    rows = _of_most_seeds(rows[(rows["moment"] != "at") | (rows["step"] != step)])
    if not (rows["step"] > step).any():
        raise NotEnoughRunsError(f"spectra has nothing after step {step}. Make it:\nsparseflow reproduce spectra")
    # Right before an update stands half a step to the left of right after it.
    rows = rows.assign(place=rows["step"] - step - np.where(rows["moment"] == "before", 0.5, 0.0))
    tables = []
    for kind, column in (("largest", "largest"), ("most negative", "smallest")):
        values = rows.assign(value=rows[column].abs())
        for group, of_group in values.groupby("group"):
            table = condensed(of_group.sort_values("place", kind="stable"), ["place"])
            tables.append(table.assign(kind=kind, group=group))
    data = pd.concat(tables, ignore_index=True)
    return Drawing(
        name="fig10-after",
        how="What becomes of the extreme eigenvalues after that update. The first point is right before, the second "
        "(0) right after, the others that many steps later. A line is the mean over runs, its band one population "
        "standard deviation to either side.",
        alt="Line charts of the largest eigenvalue and of the magnitude of the most negative one. "
        + " ".join(
            f"{curve_of(str(group)).label}, {kind}: "
            f"{', '.join(number(value) for value in table['mean'].iloc[[0, 1, -1]])} right before, right after and at "
            "the end."
            for (kind, group), table in data.groupby(["kind", "group"])
            if len(table) > 2
        ),
        draw=partial(draw_aftermath, data),
        data=data,
    )


def draw_aftermath(data: pd.DataFrame, *, narrow: bool = False) -> Figure:
    """A panel for the largest, one for the most negative eigenvalue."""
    figure, axes = panels.layout(2, narrow=narrow, columns=2, height=2.6)
    for panel, (kind, rows) in zip(axes, data.groupby("kind", sort=False), strict=True):
        for group in MOVING:
            of_group = rows[rows["group"] == group]
            if len(of_group):
                panels.draw_curve(panel, curve_of(group).look, of_group, x="place")
        panels.log_norm_axis(panel, [rows])
        panel.set_title(f"The {kind} eigenvalue" + (", magnitude" if kind != "largest" else ""))
        panel.set_xlabel("Steps after the update")
    panels.curve_legend(figure, [curve_of(group) for group in MOVING], narrow=narrow)
    return figure
