"""Logged quantities over training, condensed over seeds, with mask updates told apart from the steps between them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import pandas as pd

from sparseflow.init.schemes import SCHEMES
from sparseflow.lab.page.figure_data import STATISTICS, condensed, logged
from sparseflow.lab.page.panels import Curve
from sparseflow.training.names import shown_methods
from sparseflow.training.runs import Run


def curve_of(group: str) -> Curve:
    """The curve of a group; its method gives colour and marker, its initialisation the kind of line.

    >>> curve_of("lenet5/rigl/sparse/f100").label, curve_of("lenet5/scratch/dense").look.line
    ('RigL+', ':')
    """
    _, method, *rest = group.split("/")
    row = shown_methods()[method]
    if not rest or rest[0] not in SCHEMES:
        return Curve(row.label, group, row.look)
    scheme = SCHEMES[rest[0]]
    return Curve(row.label + scheme.suffix, group, row.look._replace(line=scheme.look.line))


def off_cycle(run: Run) -> pd.DataFrame:
    """Gradient norms that are not measured right after a mask update.

    A log at a step of an update shows the new mask before any step was taken with it, so it belongs to the update.

    >>> from pathlib import Path
    >>> from sparseflow.training.digits import DigitRun
    >>> metrics = pd.DataFrame({"step": [0, 50, 100], "name": "flow/norm", "value": [1.0, 2.0, 3.0]})
    >>> runs = [Run(DigitRun(method=method, update_every=100), Path("run"), metrics, {}, {}, 1.0)
    ...         for method in ("set", "scratch")]
    >>> [off_cycle(run)["step"].to_list() for run in runs]
    [[0, 50], [0, 50, 100]]
    """
    norms = logged(run, "flow/norm")
    if run.config.row.moves != "swap":
        return norms
    period: int = run.config.update_every
    return norms[(norms["step"] % period != 0) | (norms["step"] == 0)]


def right_after(run: Run) -> pd.DataFrame:
    """Gradient norms right after each mask update."""
    return logged(run, "update/after")


def over_seeds(
    curves: Iterable[tuple[Curve, Sequence[Run]]], points: Callable[[Run], pd.DataFrame], *, phase: str
) -> pd.DataFrame:
    """``label, group, phase, step, n, mean, std, min, max`` of every curve; ``std`` is the population's."""
    tables = []
    for curve, runs in curves:
        values = pd.concat([points(run) for run in runs], ignore_index=True)
        if len(values):
            table = condensed(values.sort_values("step", kind="stable"), ["step"])
            tables.append(table.assign(label=curve.label, group=curve.group, phase=phase))
    columns = ["label", "group", "phase", "step", *STATISTICS]
    return pd.concat(tables, ignore_index=True)[columns] if tables else pd.DataFrame(columns=columns)


def geometric_mean(rows: pd.DataFrame) -> float:
    """Geometric mean over steps of the mean over seeds; NaN without rows.

    >>> geometric_mean(pd.DataFrame({"mean": [1.0, 4.0]}))
    2.0
    """
    return float(np.exp(np.log(rows["mean"]).mean())) if len(rows) else np.nan
