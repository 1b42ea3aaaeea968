"""Tables 1 and 5: final test accuracy by method and initialisation, ours beside the paper's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from sparseflow.init.schemes import SCHEMES
from sparseflow.lab.page.estimates import Estimate, estimate
from sparseflow.lab.page.evidence import Evidence
from sparseflow.lab.page.exhibit import Content, Drawing
from sparseflow.lab.page.figure_data import logged
from sparseflow.lab.page.summary import accuracy_percent
from sparseflow.lab.page.table import (
    Cell,
    Column,
    Record,
    Table,
    cell,
    low_and_high,
    mean_and_std,
    records,
    verdict_column,
)  # fmt: skip
from sparseflow.lab.page.words import count, fixed, listed
from sparseflow.paper.exhibits.accuracy_plot import accuracy_drawing, draw_settings
from sparseflow.paper.exhibits.networks import LONGER, SETTINGS, Setting, rows_of
from sparseflow.paper.exhibits.shortfalls import found_and_missing
from sparseflow.paper.matrix import cells
from sparseflow.paper.matrix.cells import INITS, METHODS
from sparseflow.paper.matrix.scale import Scale
from sparseflow.paper.matrix.scales import PAPER
from sparseflow.paper.published import Reported, imagenet, reported
from sparseflow.training.names import shown_methods
from sparseflow.training.runs import Run

#: Methods whose masks move.
MOVING = (*cells.MOVING, "rigl_inverted")
#: End of the labels of rows at the period that Table 4 prints.
SELDOM = ", every 500 steps"
#: Percent of MNIST's test images that are the most frequent digit, a one.
MOST_FREQUENT = 11.35
NONE = Reported(np.nan, np.nan, np.nan)


class Row(NamedTuple):
    """One row: a group of ours and the paper's name for it."""

    label: str
    group: str
    method: str
    init: str


def _row(network: str, method: str, init: str = "") -> Row:
    of_method = shown_methods()[method]
    if not init:
        return Row(of_method.label, f"{network}/{method}", of_method.paper, "")
    scheme = SCHEMES[init].label
    return Row(f"{of_method.label}, {scheme}", f"{network}/{method}/{init}", of_method.paper, scheme)


def _rows(network: str) -> tuple[Row, ...]:
    dense = tuple(_row(network, method) for method in ("dense", "lottery", "small_dense"))
    return dense + tuple(_row(network, method, init) for method in METHODS for init in INITS)


def _every_100_steps(row: Row) -> Row:
    return row._replace(group=f"{row.group}/f100") if row.group.split("/")[1] in MOVING else row


def _every_500_steps(rows: Sequence[Row]) -> tuple[Row, ...]:
    moving = [row for row in rows if row.group.split("/")[1] in MOVING]
    return tuple(row._replace(label=row.label + SELDOM) for row in moving)


#: Masks move every 100 steps; below these rows, every 500, as Table 4 prints.
TABLE1 = (
    *map(_every_100_steps, _rows("lenet5")),
    _row("lenet5", "rigl_inverted", "sparse")._replace(group="lenet5/rigl_inverted/sparse/f100"),
    *_every_500_steps((*_rows("lenet5"), _row("lenet5", "rigl_inverted", "sparse"))),
)
TABLE5 = _rows("mlp")


#: Table -> a sentence at the end of its note.
_MORE = {
    "table1": " Masks move every 100 steps, as in the authors' configs and Figures 8b and 10; in rows that say 500, as "
    "Table 4 prints. Whether masks or chance make the runs that end low: see Masks twice, below."
}


@dataclass(frozen=True, kw_only=True)
class Line:
    """One row of a table of accuracies, complete: ours, in percent, and the paper's."""

    label: str
    place: str
    """The group on digits, the setting on images, or the masks."""
    accuracy: npt.NDArray[np.float64]
    collapse_percent: float
    paper: Reported
    planned: int = 0

    @property
    def stuck(self) -> npt.NDArray[np.bool_]:
        """Whether a run ended below ``collapse_percent``: it did not learn."""
        return self.accuracy < self.collapse_percent

    @property
    def all(self) -> Estimate:
        """Over every run."""
        return estimate(self.accuracy)

    @property
    def learned(self) -> Estimate:
        """Over the runs that learned."""
        return estimate(self.accuracy[~self.stuck])


def percents(runs: Sequence[Run]) -> npt.NDArray[np.float64]:
    """Final test accuracies in percent."""
    return np.array([accuracy_percent(run) for run in runs])


def _runs_cell(row: Record) -> Cell:
    enough = row["runs"] >= row["planned"]
    return cell(str(row["runs"]) if enough else f"{row['runs']} of {row['planned']}", tone="" if enough else "bad")


def _stuck_cell(row: Record) -> Cell:
    return cell(f"{row['collapsed']} of {row['runs']}" if row["runs"] else "-", tone="bad" if row["collapsed"] else "")


_OURS = (
    Column("runs", lambda line: line.all.n, "Runs", _runs_cell),
    Column("planned", lambda line: line.planned),
    *mean_and_std(lambda line: line.all, "Ours, %"),
    *low_and_high(lambda line: line.all, text=lambda value: fixed(value, 2)),
    Column("collapsed", lambda line: int(line.stuck.sum()), "Did not learn", _stuck_cell),
)
COLUMNS = (
    Column("network", lambda line: line.label, "Network"),
    Column("group", lambda line: line.place),
    *_OURS,
    Column("collapse_rate", lambda line: line.stuck.mean() if len(line.stuck) else np.nan),
    *mean_and_std(lambda line: line.learned, "Learned, %", prefix="learned_"),
    *mean_and_std(lambda line: line.paper, "Paper, %", prefix="paper_"),
    Column("paper_n", lambda line: line.paper.n),
    verdict_column("paper_in_interval", lambda line: line.paper.holds(line.all), "In interval"),
    verdict_column("ours_within_3_std", lambda line: line.paper.reaches(line.all), "Within 3 std"),
    Column("note", lambda line: line.paper.note),
)


def accuracy_table(rows: Sequence[Row], name: str, evidence: Evidence, scale: Scale) -> Content:
    """Every row with mean, spread, interval, runs that did not learn, and the paper's cell.

    Args:
        rows: The rows to show.
        name: ``table1`` or ``table5``.
        evidence: The runs.
        scale: How many runs are planned.
    """
    found, missing = found_and_missing(evidence, scale, [row.group for row in rows])
    table = Table.of(
        COLUMNS,
        [
            Line(
                label=row.label,
                place=row.group,
                accuracy=percents(found.get(row.group, [])),
                collapse_percent=evidence.collapse_percent,
                planned=len(scale.groups[row.group]),
                paper=reported(name, method=row.method, init=row.init),
            )
            for row in rows
        ],
        name=name,
        caption="Final test accuracy in percent, mean ± population standard deviation.",
        note=f"A run did not learn if it ends below {evidence.collapse_percent:g} %; \"learned\" is the mean of the "
        "others. \"In interval\": the paper's mean lies in the 95 % interval of ours. \"Within 3 std\": our mean lies "
        "within three of the paper's standard deviations of its mean. Where some runs learn and some do not, "
        "accuracies fall into two heaps and mean, standard deviation and interval describe them badly; read the "
        f"counts.{_paper_runs(rows, name)}{_MORE.get(name, '')}",
    )  # fmt: skip
    return Content(
        shows=_findings(table.data),
        drawings=[accuracy_drawing(name, table.data, found, collapse_percent=evidence.collapse_percent)],
        tables=[table],
        missing=missing,
        # Beside the paper's numbers only runs as long as its own tell anything.
        beyond=by_period(table.data) if scale.name == PAPER.name else [],
    )


def learned_mean(paper: Reported) -> float:
    """Mean of the paper's runs that learned, where those that did not name the most frequent digit for every image.

    Of ``n`` runs the number that learned is the one whose spread is nearest to the printed one.

    >>> round(learned_mean(Reported(62.99, 42.16, 5)), 2), learned_mean(Reported(98.16, 0.06, 5))  # 3 of 5, and all
    (97.42, 98.16)
    """
    if np.isnan(paper.mean) or np.isnan(paper.n):
        return paper.mean
    means = {stuck: (paper.n * paper.mean - stuck * MOST_FREQUENT) / (paper.n - stuck) for stuck in range(int(paper.n))}
    spreads = {
        stuck: (stuck * (paper.n - stuck)) ** 0.5 / paper.n * (mean - MOST_FREQUENT) for stuck, mean in means.items()
    }
    return means[min(spreads, key=lambda stuck: abs(spreads[stuck] - paper.std))]


def by_period(data: pd.DataFrame) -> list[str]:
    """How far the cells whose masks move are from the paper's, by update period; nothing where one has not all of them.

    Runs that learned, ours and the paper's, as the paper's means of all runs are mostly means of failures.
    """
    far: dict[int, list[float]] = {100: [], 500: []}
    for row in records(data):
        _, method, *rest = str(row["group"]).split("/")
        paper = learned_mean(Reported(row["paper_mean"], row["paper_std"], row["paper_n"]))
        if method in cells.MOVING and not np.isnan(gap := abs(row["learned_mean"] - paper)):
            far[100 if "f100" in rest else 500].append(gap)
    if any(len(gaps) < len(cells.MOVING) * len(cells.INITS) for gaps in far.values()):
        return []
    return [
        f"With mask updates every 100 steps the {len(far[100])} cells of SET and RigL in Table 1 end within "
        f"{max(far[100]):.2f} points of the paper's, counting the runs that learned; every 500 steps, as its Table 4 "
        f"prints, within {max(far[500]):.2f}."
    ]


def _paper_runs(rows: Sequence[Row], name: str) -> str:
    counts = {reported(name, method=row.method, init=row.init).n for row in rows}
    known = [str(int(n)) for n in sorted(counts) if not np.isnan(n)]
    return f" The paper's cells are means of {listed(known)} runs, as its spreads tell." if known else ""


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
        # A cell of the paper's stands beside both update periods, and is counted for each by itself.
        seldom = shown["network"].str.endswith(SELDOM)
        here, there = (shown.loc[rows, column].dropna() for rows in (~seldom, seldom))
        if len(here):
            also = f"; with updates{SELDOM.lstrip(',')}, in {int(there.sum())} of {len(there)}" if len(there) else ""
            sentences.append(f"In {int(here.sum())} of {count(len(here), 'row')} {what}{also}.")
    return sentences


# --- images -----------------------------------------------------------------------------------------------------------


def accuracy_exhibit(evidence: Evidence, scale: Scale) -> Content:
    """Final test accuracy of every kind of run on images, one table per setting."""
    settings = SETTINGS[scale.name] + LONGER.get(scale.name, ())
    rows = {setting: rows_of(setting, scale) for setting in settings}
    names = [group for of_setting in rows.values() for row in of_setting for group in row.groups]
    found, missing = found_and_missing(evidence, scale, names)
    tables: dict[Setting, Table] = {}
    points = []
    for setting, of_setting in rows.items():
        runs = {row: [run for group in row.groups for run in found.get(group, [])] for row in of_setting}
        lines = [
            Line(
                label=row.label,
                place=setting.name,
                accuracy=percents(of_row),
                collapse_percent=evidence.collapse_percent,
                planned=sum(len(scale.groups[group]) for group in row.groups),
                paper=imagenet("table1", model=setting.paper, method=row.method, init=row.init) or NONE,
            )
            for row, of_row in runs.items()
        ]
        points += [
            {"setting": setting.name, "network": row.label, "seed": run.config.seed, "accuracy": accuracy_percent(run)}
            for row, of_row in runs.items()
            for run in of_row
        ]
        if any(runs.values()):
            tables[setting] = _table_of(setting, lines, scale)
    sentences = [_best(table.data, setting) for setting, table in tables.items()]
    data = pd.DataFrame(points)
    drawing = Drawing(
        name="accuracy",
        how="A ring is one run, the thick mark the mean.",
        alt=f"Final test accuracy by network. {' '.join(sentences)}",
        draw=partial(draw_settings, {setting.label: data[data["setting"] == setting.name] for setting in tables}),
        data=data,
    )
    return Content(
        shows=sentences,
        drawings=[drawing],
        tables=list(tables.values()),
        missing=missing,
    )


def _table_of(setting: Setting, lines: Sequence[Line], scale: Scale) -> Table:
    columns = (
        Column("setting", lambda line: line.place),
        Column("network", lambda line: line.label, "Network"),
        *_OURS,
        *mean_and_std(lambda line: line.paper, f"Paper: {setting.paper}, ImageNet, %", prefix="paper_", tone="soft"),
    )
    other = "" if scale.name == "imagenet" else " The paper's numbers are of another task: compare orders, not numbers."
    return Table.of(
        columns,
        lines,
        name=f"accuracy-{setting.name}",
        caption=f"{setting.label}: final test accuracy in percent, mean ± population standard deviation.",
        note=f"A run did not learn if it ends below {scale.collapse_percent:g} %.{other}",
    )


def _best(data: pd.DataFrame, setting: Setting) -> str:
    rows = data[data["runs"] > 0]
    top = rows.sort_values("mean", kind="stable").iloc[-1]
    starts = [_row(setting.name, "scratch", init).label for init in INITS]
    spoken = ", ".join(f"{row['network']} {row['mean']:.2f} %" for row in records(rows) if row["network"] in starts)
    stuck = int(rows["collapsed"].sum())
    return (
        f"{setting.label}: {top['network']} ends highest, at {top['mean']:.2f} %"
        + (f"; {spoken}" if spoken else "")
        + (f". {stuck} of {int(rows['runs'].sum())} runs did not learn." if stuck else ". Every run learned.")
    )


#: Whether a run went well, and how long it took; the item is a group's name and a run.
SMOKE = (
    Column("group", lambda of: of[0], "Run"),
    Column("seed", lambda of: of[1].config.seed),
    Column("steps", lambda of: of[1].config.steps, "Steps"),
    Column("first_loss", lambda of: _losses(of[1])[0], "First loss", ".3f"),
    Column("last_loss", lambda of: _losses(of[1])[-1], "Last loss", ".3f"),
    verdict_column("finite", lambda of: bool(np.isfinite(of[1].metrics["value"]).all()), "All finite"),
    Column("sparsity", lambda of: of[1].final["sparsity"], "Zeros", lambda row: f"{100 * row['sparsity']:.1f} %"),
    Column("seconds", lambda of: of[1].seconds, "Seconds", ".1f"),
)


def smoke_exhibit(evidence: Evidence, scale: Scale) -> Content:
    """Every run: whether all its losses stayed finite, and how long it took."""
    found, missing = found_and_missing(evidence, scale, list(scale.groups))
    items = [(group, run) for group, runs in found.items() for run in runs]
    table = Table.of(SMOKE, items, name="smoke", caption="Every run.")
    good, absent = int(table.data["finite"].sum()), len(scale.groups) - len(found)
    return Content(
        shows=[f"{good} of {len(items)} runs have finite losses and norms throughout; {absent} are not there."],
        tables=[table],
        missing=missing,
    )


def _losses(run: Run) -> npt.NDArray[np.float64]:
    return logged(run, "train/loss")["value"].to_numpy(dtype=float)
