"""Logged quantities of runs, condensed over seeds: the tidy tables behind figures."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pandas as pd

from sparseflow.lab.page.groups import Group, grouped
from sparseflow.lab.page.summary import COLLAPSE_PERCENT, accuracy_percent
from sparseflow.training.runs import Run

#: How seeds (or networks) are condensed to one point; ``std`` is the population standard deviation.
STATISTICS = ("n", "mean", "std", "min", "max")


def condensed(values: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """Mean, population std, minimum and maximum of the column ``value`` over all rows that agree in ``by``.

    >>> values = pd.DataFrame({"step": [0, 0, 50], "value": [1.0, 3.0, 7.0]})
    >>> condensed(values, ["step"]).to_dict("list") == {
    ...     "step": [0, 50], "n": [2, 1], "mean": [2.0, 7.0], "std": [1.0, 0.0], "min": [1.0, 7.0], "max": [3.0, 7.0]}
    True
    """
    cells = values.groupby(by, sort=False)["value"]
    table = cells.agg(n="count", mean="mean", min="min", max="max")
    table["std"] = cells.std(ddof=0)
    return table[list(STATISTICS)].reset_index()


def logged(run: Run, name: str) -> pd.DataFrame:
    """One metric of a run: columns ``step``, ``value``."""
    return run.metrics.loc[run.metrics["name"] == name, ["step", "value"]]


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


def accuracy_points(runs: Sequence[Run]) -> pd.DataFrame:
    """Final test accuracy (percent) of every run: ``label, method, init, seed, accuracy, collapsed``.

    >>> from pathlib import Path
    >>> from sparseflow.training.digits import DigitRun
    >>> run = Run(DigitRun(seed=4), Path("run"), pd.DataFrame(), {"test/accuracy": 0.125}, {}, 1.0)
    >>> accuracy_points([run]).loc[0, ["label", "seed", "accuracy", "collapsed"]].to_list() == [
    ...     "Scratch, Ours", 4, 12.5, False]
    True
    """
    rows = [
        (group.label, *group, run.config.seed, accuracy_percent(run), accuracy_percent(run) < COLLAPSE_PERCENT)
        for group, members in grouped(runs).items()
        for run in members
    ]
    return pd.DataFrame(rows, columns=["label", "method", "init", "seed", "accuracy", "collapsed"])


def training_curves(runs: Sequence[Run], metric: str) -> pd.DataFrame:
    """One row per group and logged step of ``metric``: ``label, method, init, step`` and ``STATISTICS`` over seeds.

    ``test/accuracy`` is given in percent, everything else as logged. Empty where no run has the metric.

    >>> from pathlib import Path
    >>> from sparseflow.training.digits import DigitRun
    >>> metrics = pd.DataFrame({"step": [0, 50], "name": "flow/norm", "value": [0.5, 2.0]})
    >>> curves = training_curves([Run(DigitRun(), Path("run"), metrics, {}, {}, 1.0)], "flow/norm")
    >>> curves["step"].to_list() == [0, 50] and curves["mean"].to_list() == [0.5, 2.0]
    True
    """
    scale = 100.0 if metric == "test/accuracy" else 1.0

    def points(run: Run) -> pd.DataFrame:
        return logged(run, metric).assign(value=lambda of: of["value"] * scale)

    return _by_step(runs, points)


def update_changes(runs: Sequence[Run]) -> pd.DataFrame:
    """Change of the gradient norm at each mask update, after minus before, over seeds.

    Columns ``label, method, init, step``, ``STATISTICS`` and ``raised``: the fraction of seeds whose norm rose.

    >>> from pathlib import Path
    >>> from sparseflow.training.digits import DigitRun
    >>> metrics = pd.DataFrame({"step": 100, "name": ["update/before", "update/after"], "value": [1.0, 1.5]})
    >>> changes = update_changes([Run(DigitRun(method="set"), Path("run"), metrics, {}, {}, 1.0)])
    >>> changes.loc[0, ["step", "mean", "raised"]].to_list() == [100, 0.5, 1.0]
    True
    """
    table = _by_step(runs, update_change)
    raised = _by_step(runs, lambda run: update_change(run).assign(value=lambda of: (of["value"] > 0).astype(float)))
    return table.assign(raised=raised["mean"])


def _by_step(runs: Sequence[Run], points: Callable[[Run], pd.DataFrame]) -> pd.DataFrame:
    tables = [
        condensed(pd.concat([points(run) for run in members]).sort_values("step", kind="stable"), ["step"]).assign(
            label=group.label, method=group.method, init=group.init
        )
        for group, members in grouped(runs).items()
    ]
    return pd.concat(tables, ignore_index=True)[["label", *Group._fields, "step", *STATISTICS]]
