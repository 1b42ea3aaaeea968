"""Tables 1 and 5: final test accuracy by method and initialisation, ours beside the paper's."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import pandas as pd

from sparseflow.lab.page.estimates import Estimate, estimate
from sparseflow.lab.page.evidence import Evidence
from sparseflow.lab.page.exhibit import Cell, Content, Table, available, cell
from sparseflow.lab.page.summary import accuracy_percent, records
from sparseflow.lab.page.words import count, interval, listed, plus_minus, yes_no
from sparseflow.paper.exhibits.accuracy_plot import accuracy_drawing
from sparseflow.paper.exhibits.shortfalls import shortfalls
from sparseflow.paper.matrix.mnist import groups
from sparseflow.paper.matrix.scales import Scale
from sparseflow.paper.published import Reported, reported
from sparseflow.training.runs import Run


class Row(NamedTuple):
    """One row: a group of ours and the paper's name for it."""

    label: str
    group: str
    method: str
    init: str


def _rows(network: str) -> tuple[Row, ...]:
    dense = (
        Row("Dense", f"{network}/dense", "Baseline (dense)", ""),
        Row("Lottery", f"{network}/lottery", "Lottery", ""),
        Row("Small Dense", f"{network}/small_dense", "Small Dense", ""),
    )
    methods = {"Scratch": "scratch", "SET": "set", "RigL": "rigl"}
    inits = {"Original": "dense", "Liu": "liu", "Ours": "sparse"}
    return dense + tuple(
        Row(f"{method}, {init}", f"{network}/{key}/{scheme}", method, init)
        for method, key in methods.items()
        for init, scheme in inits.items()
    )


TABLE1 = (*_rows("lenet5"), Row("RigL-Inverted, Ours", "lenet5/rigl_inverted/sparse", "RigL-Inverted", "Ours"))
TABLE5 = _rows("mlp")


#: Table -> where it is looked into.
_MORE = {"table1": " Whether masks or chance make the runs that end low: see Masks twice, below."}


def accuracy_table(rows: Sequence[Row], name: str, evidence: Evidence, scale: Scale) -> Content:
    """Every row with mean, spread, interval, runs that did not learn, and the paper's cell.

    Args:
        rows: what to show.
        name: ``table1`` or ``table5``.
        evidence: the runs.
        scale: how many runs are planned.

    Raises:
        NotEnoughRunsError: if no row has a run.
    """
    found, missing = available(evidence, [row.group for row in rows])
    planned = {group: len(configs) for group, configs in groups(scale).items()}
    records, cells = [], []
    for row in rows:
        ours = Accuracies.of(found.get(row.group, []), evidence.collapse_percent)
        paper = reported(name, method=row.method, init=row.init)
        records.append(_record(row, ours, planned[row.group], paper))
        cells.append(_cells(row, ours, planned[row.group], paper))
    data = pd.DataFrame(records)
    table = Table(
        name=name,
        caption="Final test accuracy in percent, mean ± population standard deviation.",
        head=[
            "Network", "Runs", "Ours, %", "95 % interval", "Did not learn", "Learned, %", "Paper, %", "In interval",
            "Within 3 std",
        ],
        rows=cells,
        data=data,
        note=f"A run did not learn if it ends below {evidence.collapse_percent:g} %; \"learned\" is the mean of the "
        "others. \"In interval\": the paper's mean lies in the 95 % interval of ours. \"Within 3 std\": our mean lies "
        "within three of the paper's standard deviations of its mean. Where some runs learn and some do not, "
        "accuracies fall into two heaps and mean, standard deviation and interval describe them badly; read the "
        f"counts.{_paper_runs(data)}{_MORE.get(name, '')}",
    )  # fmt: skip
    return Content(
        shows=_findings(data),
        drawings=[accuracy_drawing(name, data, found, collapse_percent=evidence.collapse_percent)],
        tables=[table],
        missing=[*missing, *shortfalls(evidence, scale, [row.group for row in rows])],
    )


class Accuracies(NamedTuple):
    """Final accuracies of a group, in percent."""

    all: Estimate
    learned: Estimate
    collapsed: int

    @classmethod
    def of(cls, runs: Sequence[Run], collapse_percent: float) -> Accuracies:
        """From finished runs; those that end below ``collapse_percent`` did not learn."""
        accuracy = np.array([accuracy_percent(run) for run in runs])
        stuck = accuracy < collapse_percent
        return cls(estimate(accuracy), estimate(accuracy[~stuck]), int(stuck.sum()))


def _record(row: Row, ours: Accuracies, planned: int, paper: Reported) -> dict[str, object]:
    return {
        "network": row.label,
        "group": row.group,
        "runs": ours.all.n,
        "planned": planned,
        "mean": ours.all.mean,
        "std": ours.all.std,
        "low": ours.all.low,
        "high": ours.all.high,
        "collapsed": ours.collapsed,
        "collapse_rate": ours.collapsed / ours.all.n if ours.all.n else np.nan,
        "learned_mean": ours.learned.mean,
        "learned_std": ours.learned.std,
        "paper_mean": paper.mean,
        "paper_std": paper.std,
        "paper_n": paper.n,
        "paper_in_interval": paper.holds(ours.all),
        "ours_within_3_std": paper.reaches(ours.all),
        "note": paper.note,
    }


def _cells(row: Row, ours: Accuracies, planned: int, paper: Reported) -> list[Cell]:
    n = ours.all.n
    runs = str(n) if n >= planned else f"{n} of {planned}"
    return [
        cell(row.label),
        cell(runs, tone="" if n >= planned else "bad"),
        cell(plus_minus(ours.all.mean, ours.all.std, 2)),
        cell(interval(ours.all.low, ours.all.high, 2) or "-"),
        cell(f"{ours.collapsed} of {n}" if n else "-", tone="bad" if ours.collapsed else ""),
        cell(plus_minus(ours.learned.mean, ours.learned.std, 2)),
        cell(plus_minus(paper.mean, paper.std, 2)),
        verdict_cell(paper.holds(ours.all)),
        verdict_cell(paper.reaches(ours.all)),
    ]


def verdict_cell(answer: bool | None) -> Cell:
    """Yes, no, or nothing to say.

    >>> verdict_cell(None).lines
    ('-',)
    """
    return cell(yes_no(answer), tone={True: "good", False: "bad", None: "soft"}[answer])


def _paper_runs(data: pd.DataFrame) -> str:
    counts = sorted({int(n) for n in data["paper_n"].dropna()})
    return (
        f" The paper's cells are means of {listed([str(n) for n in counts])} runs, as its spreads tell."
        if counts
        else ""
    )


def _findings(data: pd.DataFrame) -> list[str]:
    shown = data[data["runs"] > 0]
    best = max(records(shown), key=lambda row: float(row["mean"]))
    sentences = [f"{best['network']} ends highest, at {best['mean']:.2f} %."]
    sparse = [row for row in records(shown) if "dense" not in str(row["group"]).split("/")[1]]
    if sparse and best not in sparse:
        top = max(sparse, key=lambda row: float(row["mean"]))
        sentences[0] += f" Of the sparse networks it is {top['network']}, at {top['mean']:.2f} %."
    stuck = [f"{row['network']} ({row['collapsed']} of {row['runs']})" for row in records(shown) if row["collapsed"]]
    sentences.append(f"Some runs did not learn: {listed(stuck)}." if stuck else "Every run learned.")
    for column, what in (
        ("paper_in_interval", "the paper's mean lies in the 95 % interval of ours"),
        ("ours_within_3_std", "our mean lies within three of the paper's standard deviations of its mean"),
    ):
        judged = shown[column].dropna()
        if len(judged):
            sentences.append(f"In {int(judged.sum())} of {count(len(judged), 'row')} {what}.")
    return sentences


table1 = partial(accuracy_table, TABLE1, "table1")
table5 = partial(accuracy_table, TABLE5, "table5")
