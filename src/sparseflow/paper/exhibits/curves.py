"""Logged quantities over training, condensed over seeds, with mask updates told apart from the steps between them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import pandas as pd
from matplotlib.typing import LineStyleType

from sparseflow.lab.page.figure_data import STATISTICS, condensed
from sparseflow.lab.page.panels import Look
from sparseflow.lab.page.plots import Curve
from sparseflow.lab.page.svg import INK, PALETTE
from sparseflow.training.runs import Run

#: Methods whose masks move while they train.
MOVING = frozenset({"set", "rigl", "rigl_inverted", "snfs"})
_METHODS = {
    "scratch": ("Scratch", PALETTE["green"], "o"),
    "set": ("SET", PALETTE["purple"], "s"),
    "rigl": ("RigL", PALETTE["orange"], "^"),
    "rigl_inverted": ("RigL-Inverted", INK, "v"),
    "lottery": ("Lottery", PALETTE["blue"], "D"),
    "small_dense": ("Small Dense", PALETTE["grey"], ""),
}
_INITS: dict[str, tuple[str, LineStyleType]] = {
    "": ("", "-"),
    "dense": ("", ":"),
    "liu": (" Liu", "--"),
    "sparse": ("+", "-"),
}


def curve_of(group: str) -> Curve:
    """The curve of a group; its method gives colour and marker, its initialisation the kind of line.

    >>> curve_of("lenet5/rigl/sparse/f100").label, curve_of("lenet5/scratch/dense").look.line
    ('RigL+', ':')
    """
    _, method, *rest = group.split("/")
    init = rest[0] if rest and rest[0] in _INITS else ""
    (name, colour, marker), (suffix, line) = _METHODS[method], _INITS[init]
    return Curve(name + suffix, group, Look(colour, line, marker))


def logged(run: Run, name: str) -> pd.DataFrame:
    """One metric of a run: columns ``step``, ``value``."""
    return run.metrics.loc[run.metrics["name"] == name, ["step", "value"]]


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
    if run.config.method not in MOVING:
        return norms
    period: int = run.config.update_every
    return norms[(norms["step"] % period != 0) | (norms["step"] == 0)]


def right_after(run: Run) -> pd.DataFrame:
    """Gradient norms right after each mask update."""
    return logged(run, "update/after")


def update_change(run: Run) -> pd.DataFrame:
    """Gradient norm right after minus right before each mask update.

    >>> from pathlib import Path
    >>> from sparseflow.training.digits import DigitRun
    >>> metrics = pd.DataFrame({"step": 100, "name": ["update/before", "update/after"], "value": [1.0, 1.5]})
    >>> update_change(Run(DigitRun(method="set"), Path("run"), metrics, {}, {}, 1.0)).to_dict("list")
    {'step': [100], 'value': [0.5]}
    """
    before, after = (logged(run, name).set_index("step")["value"] for name in ("update/before", "update/after"))
    return (after - before).dropna().rename("value").reset_index()


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
