"""Tables over finished runs: accuracy, spread, how many did not learn, and when learning began."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from rich import box
from rich.table import Table
from scipy import stats

from sparseflow.lab.page.groups import check_comparable, grouped
from sparseflow.training.store import Run

#: A run that ends below this test accuracy (percent) did not learn: ten classes, guessing gives about 10.
COLLAPSE_PERCENT = 12.0
#: Learning has begun once the mini-batch loss is below this; guessing among ten classes costs ln 10 = 2.303.
ONSET_LOSS = 2.2


def accuracy_percent(run: Run) -> float:
    """Final test accuracy in percent.

    >>> from pathlib import Path
    >>> from sparseflow.training.digits import DigitRun
    >>> accuracy_percent(Run(DigitRun(), Path("run"), pd.DataFrame(), {"test/accuracy": 0.75}, {}, 1.0))
    75.0
    """
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

    >>> from pathlib import Path
    >>> from sparseflow.training.digits import DigitRun
    >>> silent = pd.DataFrame({"step": [], "name": [], "value": []})
    >>> finals = [{"test/accuracy": accuracy, "sparsity": 0.95} for accuracy in (0.75, 0.25)]
    >>> runs = [Run(DigitRun(seed=seed), Path("run"), silent, final, {}, 1.0) for seed, final in enumerate(finals)]
    >>> table = summarize(runs)
    >>> table.loc[0, ["accuracy_mean", "accuracy_std", "collapsed"]].to_list() == [50, 25, 0]
    True
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
    """The rows of a table, each a dict from column to value.

    >>> records(pd.DataFrame({"n": [3], "label": ["Dense"]}))
    [{'n': 3, 'label': 'Dense'}]
    """
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
        caption="Population std over seeds; 95 % t interval of the mean. "
        f"Failed: did not learn, below {COLLAPSE_PERCENT:.0f} %. Learns: median first step with loss < {ONSET_LOSS}.",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
        show_edge=False,
    )
    for head in ("Network", "mean ± std", "95 % interval", "failed", "learns at step", "s/run"):
        rendered.add_column(head, justify="left" if head == "Network" else "right", no_wrap=True)
    for failed, row in zip(table["collapsed"] > 0, records(texts), strict=True):
        rendered.add_row(
            row["Network"],
            f"{row['Test accuracy, %']} ± {row['Std']}",
            row["95 % interval"],
            row["Did not learn"],
            row["Learning starts, step"],
            row["Seconds a run"],
            style="red" if failed else None,
        )
    return rendered
