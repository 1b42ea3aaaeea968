"""Tables over finished runs: how many learned, how accurate those are, and when learning began."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
from rich import box
from rich.table import Table as TerminalTable

from sparseflow.lab.page.estimates import share_interval
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
    def learned(self) -> npt.NDArray[np.float64]:
        """Accuracies of the runs that learned."""
        return self.accuracy[~self.collapsed]

    def of_learned(self, statistic: Callable[[npt.NDArray[np.float64]], Any]) -> float:
        """A statistic of the accuracies of the runs that learned; NaN where none did."""
        return float(statistic(self.learned)) if len(self.learned) else np.nan

    @property
    def share(self) -> tuple[float, float]:
        """Ends of the 95 % interval of the share of runs that learn, in percent."""
        low, high = share_interval(len(self.learned), len(self.runs))
        return 100 * low, 100 * high


def _onset(row: Record) -> str:
    if np.isinf(row["onset_median"]):
        return f"> {row['steps']}"
    never = f" ({row['onset_censored']} never)" if row["onset_censored"] else ""
    return f"{row['onset_median']:.0f}{never}"


def _learned(row: Record) -> Cell:
    return cell(f"{row['learned']} of {row['n']}", tone="" if row["learned"] == row["n"] else "bad")


def _range(row: Record) -> str:
    return interval(row["learned_lowest"], row["learned_highest"], 1) or "-"


COLUMNS = (
    Column("label", lambda of: of.group.label, "Network"),
    Column("method", lambda of: of.group.method),
    Column("init", lambda of: of.group.init),
    Column("n", lambda of: len(of.runs)),
    Column("learned", lambda of: len(of.learned), "Learned", _learned),
    Column("share_low", lambda of: of.share[0], "95 % interval of the share, %", lambda row: share_in_words(row)),
    Column("share_high", lambda of: of.share[1]),
    Column("learned_median", lambda of: of.of_learned(np.median), "Median accuracy of those, %", ".1f"),
    Column("learned_lowest", lambda of: of.of_learned(np.min), "Lowest to highest", _range),
    Column("learned_highest", lambda of: of.of_learned(np.max)),
    Column("onset_median", lambda of: float(np.median(of.onset)), "Learning starts, step", _onset),
    Column("onset_censored", lambda of: int(np.isinf(of.onset).sum())),
    Column("steps", lambda of: of.runs[0].config.steps),
    Column("sparsity", lambda of: np.mean([run.final["sparsity"] for run in of.runs]), "Sparsity", ".3f"),
    Column("seconds", lambda of: np.mean([run.seconds for run in of.runs]), "Seconds per run", ".1f"),
)


def share_in_words(row: Record) -> str:
    """The interval of the share of runs that learn.

    >>> share_in_words({"share_low": 69.15, "share_high": 100.0})
    '69 to 100'
    """
    return f"{row['share_low']:.0f} to {row['share_high']:.0f}"


def summarize(runs: Sequence[Run]) -> pd.DataFrame:
    """One row per group; accuracies and shares in percent.

    A run *learned* if it ends at ``COLLAPSE_PERCENT`` or above. Where some do and some do not, accuracies fall into two
    heaps that a mean describes badly: ``learned`` is how many of the ``n`` runs did, ``share_low`` and ``share_high``
    bound the 95 % interval of Clopper and Pearson of that share, and ``learned_median``, ``learned_lowest`` and
    ``learned_highest`` are about their accuracies (NaN where none did). ``onset_median`` counts a run that never
    reached ``ONSET_LOSS`` as infinity; ``onset_censored`` is how many did not.

    Raises:
        ValueError: Where :func:`check_comparable` refuses.

    >>> from pathlib import Path
    >>> from sparseflow.training.digits import DigitRun
    >>> silent = pd.DataFrame({"step": [], "name": [], "value": []})
    >>> finals = [{"test/accuracy": accuracy, "sparsity": 0.95} for accuracy in (0.75, 0.25)]
    >>> runs = [Run(DigitRun(seed=seed), Path("run"), silent, final, {}, 1.0) for seed, final in enumerate(finals)]
    >>> table = summarize(runs)
    >>> table.loc[0, ["n", "learned", "learned_median"]].to_list() == [2, 2, 50]
    True
    """
    return summary_table(runs).data


def summary_table(runs: Sequence[Run], *, name: str = "summary", caption: str = "") -> Table:
    """The table of :func:`summarize` as it stands on a page; ``name`` is that of its CSV."""
    check_comparable(runs)
    return Table.of(
        COLUMNS,
        [Outcome.of(group, members) for group, members in grouped(runs).items()],
        name=name,
        caption=caption,
        note=f"A run learned unless it ends below {COLLAPSE_PERCENT:g} % test accuracy. The interval is that of "
        "Clopper and Pearson, for the share of runs that learn. Learning starts at the first step with a loss below "
        f"{ONSET_LOSS:g} (median over seeds).",
    )


def terminal_table(table: pd.DataFrame, *, title: str = "") -> TerminalTable:
    """The table of :func:`summarize` for a terminal of 80 columns; groups with runs that did not learn are red."""
    rendered = TerminalTable(
        title=title,
        caption=f"Learned: did not end below {COLLAPSE_PERCENT:.0f} % test accuracy; the interval is Clopper and "
        f"Pearson's. Starts: median first step with loss < {ONSET_LOSS}.",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
        show_edge=False,
    )
    shown = ("label", "learned", "share_low", "learned_median", "learned_lowest", "onset_median")
    heads = ("Network", "learned", "95 % interval", "median", "low to high", "starts at")
    columns = {column.name: column for column in COLUMNS}
    for head in heads:
        rendered.add_column(head, justify="left" if head == "Network" else "right", no_wrap=True)
    for row in records(table):
        cells = [columns[name].cell(row).lines[0] for name in shown]
        rendered.add_row(*cells, style=None if row["learned"] == row["n"] else "red")
    return rendered
