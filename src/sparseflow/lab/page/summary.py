"""Tables over finished runs: accuracy, spread, how many did not learn, and when learning began."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
from rich import box
from rich.table import Table as TerminalTable
from scipy import stats

from sparseflow.lab.page.groups import Group, check_comparable, grouped
from sparseflow.lab.page.table import Cell, Column, Record, Table, cell, records
from sparseflow.lab.page.words import interval
from sparseflow.training.runs import Run

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


class Outcome(NamedTuple):
    """The ends of the runs of one group; accuracies in percent."""

    group: Group
    runs: Sequence[Run]
    accuracy: npt.NDArray[np.float64]
    collapsed: npt.NDArray[np.bool_]
    """Whether a run ended below ``COLLAPSE_PERCENT``."""
    onset: npt.NDArray[np.float64]
    """Steps at which learning began, infinity for never."""

    @classmethod
    def of(cls, group: Group, runs: Sequence[Run]) -> Outcome:
        """From finished runs."""
        accuracy = np.array([accuracy_percent(run) for run in runs])
        onset = np.array([onset_step(run.metrics) for run in runs])
        return cls(group, runs, accuracy, accuracy < COLLAPSE_PERCENT, onset)

    @property
    def margin(self) -> float:
        """Half the width of the 95 % interval of the mean accuracy; NaN for a single run."""
        n = len(self.runs)
        return float(stats.t.ppf(0.975, n - 1) * self.accuracy.std(ddof=1) / n**0.5) if n > 1 else np.nan

    @property
    def learned_mean(self) -> float:
        """Mean accuracy of the runs that learned; NaN where none did."""
        return float(self.accuracy[~self.collapsed].mean()) if not self.collapsed.all() else np.nan


def _interval(row: Record) -> str:
    return interval(row["accuracy_low"], row["accuracy_high"], 1) or "-"


def _onset(row: Record) -> str:
    if np.isinf(row["onset_median"]):
        return f"> {row['steps']}"
    never = f" ({row['onset_censored']} never)" if row["onset_censored"] else ""
    return f"{row['onset_median']:.0f}{never}"


def _failures(row: Record) -> Cell:
    return cell(f"{row['collapsed']} of {row['n']}", tone="bad" if row["collapsed"] else "")


COLUMNS = (
    Column("label", lambda of: of.group.label, "Network"),
    Column("method", lambda of: of.group.method),
    Column("init", lambda of: of.group.init),
    Column("n", lambda of: len(of.runs), "Runs"),
    Column("accuracy_mean", lambda of: of.accuracy.mean(), "Test accuracy, %", ".2f"),
    Column("accuracy_std", lambda of: of.accuracy.std(ddof=0) if len(of.runs) > 1 else np.nan, "Std", ".2f"),
    Column("accuracy_low", lambda of: of.accuracy.mean() - of.margin, "95 % interval", _interval),
    Column("accuracy_high", lambda of: of.accuracy.mean() + of.margin),
    Column("collapsed", lambda of: int(of.collapsed.sum()), "Did not learn", _failures),
    Column("collapse_rate", lambda of: of.collapsed.mean()),
    Column("learned_mean", lambda of: of.learned_mean, "Those that learned, %", ".2f"),
    Column("onset_median", lambda of: float(np.median(of.onset)), "Learning starts, step", _onset),
    Column("onset_censored", lambda of: int(np.isinf(of.onset).sum())),
    Column("steps", lambda of: of.runs[0].config.steps),
    Column("sparsity", lambda of: np.mean([run.final["sparsity"] for run in of.runs]), "Sparsity", ".3f"),
    Column("seconds", lambda of: np.mean([run.seconds for run in of.runs]), "Seconds per run", ".1f"),
)


def summarize(runs: Sequence[Run]) -> pd.DataFrame:
    r"""One row per group; accuracies in percent.

    ``accuracy_std`` is the *population* standard deviation, as in the paper; ``accuracy_low`` and ``accuracy_high``
    bound the 95 % confidence interval of the mean,

    .. math:: \bar a \pm t_{0.975,\,n-1}\, s / \sqrt{n},

    with the *sample* standard deviation :math:`s`. All three are NaN for a single run. ``collapsed`` counts runs below
    ``COLLAPSE_PERCENT``, ``learned_mean`` is the mean of the others. ``onset_median`` counts a run that never reached
    ``ONSET_LOSS`` as infinity; ``onset_censored`` is how many did not.

    Raises:
        ValueError: Where :func:`check_comparable` refuses.

    >>> from pathlib import Path
    >>> from sparseflow.training.digits import DigitRun
    >>> silent = pd.DataFrame({"step": [], "name": [], "value": []})
    >>> finals = [{"test/accuracy": accuracy, "sparsity": 0.95} for accuracy in (0.75, 0.25)]
    >>> runs = [Run(DigitRun(seed=seed), Path("run"), silent, final, {}, 1.0) for seed, final in enumerate(finals)]
    >>> table = summarize(runs)
    >>> table.loc[0, ["accuracy_mean", "accuracy_std", "collapsed"]].to_list() == [50, 25, 0]
    True
    """
    return summary_table(runs).data


def summary_table(runs: Sequence[Run]) -> Table:
    """The table of :func:`summarize` as it stands on a page."""
    check_comparable(runs)
    return Table.of(
        COLUMNS,
        [Outcome.of(group, members) for group, members in grouped(runs).items()],
        name="summary",
        caption="",
        note="Std is the population standard deviation over seeds, the interval a 95 % t interval of the mean. A run "
        f"did not learn if it ends below {COLLAPSE_PERCENT:g} % test accuracy. Learning starts at the first step with "
        f"a loss below {ONSET_LOSS:g} (median over seeds).",
    )


def readable(table: pd.DataFrame) -> pd.DataFrame:
    """The table of :func:`summarize` as text, with column heads for people; "-" where one run cannot tell."""
    shown = [column for column in COLUMNS if column.head]
    return pd.DataFrame([{column.head: column.cell(row).lines[0] for column in shown} for row in records(table)])


def terminal_table(table: pd.DataFrame) -> TerminalTable:
    """The table of :func:`summarize` for a terminal of 80 columns; groups with runs that did not learn are red."""
    texts = readable(table)
    rendered = TerminalTable(
        title="Final test accuracy, %",
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
            row["Seconds per run"],
            style="red" if failed else None,
        )
    return rendered
