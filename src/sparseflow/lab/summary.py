"""Tables over finished runs: accuracy, spread, how many did not learn, and when learning began."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import fields
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from rich import box
from rich.table import Table
from scipy import stats

from sparseflow.lab.config import SPARSE_METHODS, RunConfig
from sparseflow.lab.store import Run

#: Methods in the order of every table and legend; ``small_dense`` is ``dense`` on a ``*-small`` model.
METHOD_LABELS = {
    "dense": "Dense",
    "small_dense": "Small Dense",
    "prune": "Pruned",
    "scratch": "Scratch",
    "set": "SET",
    "rigl": "RigL",
    "rigl_inverted": "RigL-Inverted",
    "snfs": "SNFS",
}
#: Initialisations of masked layers, by the paper's names; "" is for networks without a mask at step 0.
INIT_LABELS = {"": "", "dense": "Original", "liu": "Liu", "sparse": "Ours", "live": "Live"}
#: A run that ends below this test accuracy (percent) did not learn: ten classes, guessing gives about 10.
COLLAPSE_PERCENT = 12.0
#: Learning has begun once the mini-batch loss is below this; guessing among ten classes costs ln 10 = 2.303.
ONSET_LOSS = 2.2


class Group(NamedTuple):
    """Runs that differ in the seed alone: what one row, bar or curve stands for."""

    method: str
    """Key of ``METHOD_LABELS``."""
    init: str
    """Key of ``INIT_LABELS``."""

    @property
    def label(self) -> str:
        """For people.

        >>> Group("rigl", "sparse").label, Group("small_dense", "").label
        ('RigL, Ours', 'Small Dense')
        """
        return ", ".join(part for part in (METHOD_LABELS[self.method], INIT_LABELS[self.init]) if part)

    @property
    def order(self) -> tuple[int, int]:
        """Sort key: methods as in ``METHOD_LABELS``, then initialisations as in ``INIT_LABELS``."""
        return list(METHOD_LABELS).index(self.method), list(INIT_LABELS).index(self.init)


def group_of(config: RunConfig) -> Group:
    """The group that a run belongs to.

    >>> group_of(RunConfig(method="dense", model="lenet5-small", init="liu"))
    Group(method='small_dense', init='')
    """
    if config.method == "dense" and config.model.endswith("-small"):
        return Group("small_dense", "")
    return Group(config.method, config.init if config.method in SPARSE_METHODS else "")


def grouped(runs: Sequence[Run]) -> dict[Group, list[Run]]:
    """Runs by group, both in a fixed order that does not depend on the order of ``runs``."""
    members: defaultdict[Group, list[Run]] = defaultdict(list)
    for run in runs:
        members[group_of(run.config)].append(run)
    return {
        group: sorted(members[group], key=lambda run: run.config.seed)
        for group in sorted(members, key=lambda group: group.order)
    }


def check_comparable(runs: Sequence[Run]) -> None:
    """Refuse runs that must not stand in one table.

    All runs share data set, model family, steps and batch size; all sparse ones share the sparsity; within a group only
    the seed differs.

    Raises:
        ValueError: names the fields that differ, their values, and what to type.
    """
    if not runs:
        raise ValueError(
            "there is no finished run here. Make some: sparseflow demo, or sparseflow train --method rigl."
        )
    named: dict[str, set[str]] = {
        "dataset": {run.config.dataset for run in runs},
        "model": {run.config.model.removesuffix("-small") for run in runs},
        "steps": {str(run.config.steps) for run in runs},
        "batch_size": {str(run.config.batch_size) for run in runs},
        "sparsity": {str(run.config.sparsity) for run in runs if run.config.method != "dense"},
    }
    differing = [f"{name} ({' and '.join(sorted(values))})" for name, values in named.items() if len(values) > 1]
    for group, members in grouped(runs).items():
        configs = [_without_seed(run.config) for run in members]
        for field in fields(RunConfig):
            if field.name in named or field.name == "mask_from":
                continue
            if len(values := {str(getattr(config, field.name)) for config in configs}) > 1:
                differing.append(f"{field.name} within {group.label} ({' and '.join(sorted(values))})")
        if len({config.mask_from for config in configs}) > 1:
            differing.append(f"mask_from within {group.label}")
    if differing:
        raise ValueError(
            f"these {len(runs)} runs cannot be compared; they differ in {', '.join(differing)}. "
            "Move the runs of one setting to a folder of their own, then type: sparseflow report THAT_FOLDER"
        )


def _without_seed(config: RunConfig) -> RunConfig:
    parent = config.mask_from
    return config.with_(seed=0, mask_from=None if parent is None else parent.with_(seed=0))


def accuracy_percent(run: Run) -> float:
    """Final test accuracy in percent."""
    return 100.0 * run.final["test/accuracy"]


def onset_step(metrics: pd.DataFrame, *, below: float = ONSET_LOSS) -> float:
    """First logged step with ``train/loss`` under ``below``; infinity where the run never got there.

    >>> metrics = pd.DataFrame({"step": [0, 50, 100], "name": "train/loss", "value": [2.3, 2.1, 0.4]})
    >>> onset_step(metrics), onset_step(metrics, below=0.1)
    (50.0, inf)
    """
    reached = metrics.loc[(metrics["name"] == "train/loss") & (metrics["value"] < below), "step"]
    return float(reached.min()) if len(reached) else float("inf")


def summarize(runs: Sequence[Run]) -> pd.DataFrame:
    r"""One row a group; accuracies in percent.

    ``accuracy_std`` is the *population* standard deviation, as in the paper; ``accuracy_low`` and ``accuracy_high``
    bound the 95 % confidence interval of the mean,

    .. math:: \bar a \pm t_{0.975,\,n-1}\, s / \sqrt{n},

    with the *sample* standard deviation :math:`s`. All three are NaN for a single run. ``collapsed`` counts runs below
    ``COLLAPSE_PERCENT``, ``learned_mean`` is the mean of the others. ``onset_median`` counts a run that never reached
    ``ONSET_LOSS`` as infinity; ``onset_censored`` is how many did not.

    Raises:
        ValueError: where :func:`check_comparable` refuses.
    """
    check_comparable(runs)
    rows = []
    for group, members in grouped(runs).items():
        accuracy = np.array([accuracy_percent(run) for run in members])
        collapsed = accuracy < COLLAPSE_PERCENT
        onset = np.array([onset_step(run.metrics) for run in members])
        n = len(accuracy)
        several = n > 1
        margin = stats.t.ppf(0.975, n - 1) * accuracy.std(ddof=1) / n**0.5 if several else np.nan
        rows.append(
            {
                "label": group.label,
                "method": group.method,
                "init": group.init,
                "n": n,
                "accuracy_mean": accuracy.mean(),
                "accuracy_std": accuracy.std(ddof=0) if several else np.nan,
                "accuracy_low": accuracy.mean() - margin,
                "accuracy_high": accuracy.mean() + margin,
                "collapsed": int(collapsed.sum()),
                "collapse_rate": collapsed.mean(),
                "learned_mean": accuracy[~collapsed].mean() if not collapsed.all() else np.nan,
                "onset_median": float(np.median(onset)),
                "onset_censored": int(np.isinf(onset).sum()),
                "steps": members[0].config.steps,
                "sparsity": np.mean([run.final["sparsity"] for run in members]),
                "seconds": np.mean([run.seconds for run in members]),
            }
        )
    return pd.DataFrame(rows)


def records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of a table, each a dict from column to value."""
    return [{str(column): value for column, value in row.items()} for row in table.to_dict("records")]


def readable(table: pd.DataFrame) -> pd.DataFrame:
    """The table of :func:`summarize` as text, with column heads for people; "-" where one run cannot tell."""

    def text(value: float, form: str) -> str:
        return "-" if np.isnan(value) else format(value, form)

    rows = [
        {
            "Network": row["label"],
            "Runs": str(row["n"]),
            "Test accuracy, %": text(row["accuracy_mean"], ".2f"),
            "Std": text(row["accuracy_std"], ".2f"),
            "95 % interval": "-"
            if np.isnan(row["accuracy_low"])
            else f"{row['accuracy_low']:.1f} to {row['accuracy_high']:.1f}",
            "Did not learn": f"{row['collapsed']} of {row['n']}",
            "Those that learned, %": text(row["learned_mean"], ".2f"),
            "Learning starts, step": _onset_text(row["onset_median"], row["onset_censored"], row["steps"]),
            "Sparsity": text(row["sparsity"], ".3f"),
            "Seconds a run": text(row["seconds"], ".1f"),
        }
        for row in records(table)
    ]
    return pd.DataFrame(rows)


def _onset_text(median: float, censored: int, steps: int) -> str:
    if np.isinf(median):
        return f"> {steps}"
    return f"{median:.0f} ({censored} never)" if censored else f"{median:.0f}"


def terminal_table(table: pd.DataFrame, *, title: str = "Final test accuracy, %") -> Table:
    """The table of :func:`summarize` for a terminal of 80 columns; groups with runs that did not learn are red."""
    texts = readable(table)
    rendered = Table(
        title=title,
        caption=f"Population std over seeds; 95 % t interval of the mean. Did not learn: below {COLLAPSE_PERCENT:.0f} %. "
        f"Starts: median first step with loss < {ONSET_LOSS}.",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
    for head in ("Network", "mean ± std", "95 % interval", "did not\nlearn", "starts\nat step", "s/run"):
        rendered.add_column(head, justify="left" if head == "Network" else "right", no_wrap=True)
    for failed, row in zip(table["collapsed"] > 0, records(texts), strict=True):
        rendered.add_row(
            row["Network"],
            f"{row['Test accuracy, %']} ± {row['Std']:>5}",
            row["95 % interval"],
            row["Did not learn"],
            row["Learning starts, step"],
            row["Seconds a run"],
            style="red" if failed else None,
        )
    return rendered
