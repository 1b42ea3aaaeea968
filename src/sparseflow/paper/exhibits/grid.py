"""The grid search: settings chosen by held-out images, and settings chosen by the test images, as the paper did."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from sparseflow.lab.page.evidence import Evidence
from sparseflow.lab.page.exhibit import Content
from sparseflow.lab.page.table import Cell, Record, Table, cell, records
from sparseflow.paper.exhibits.shortfalls import shortfalls
from sparseflow.paper.matrix.mnist import groups
from sparseflow.paper.matrix.scale import Scale
from sparseflow.training.digits import DigitRun
from sparseflow.training.runs import Run

_FIELDS = ("learning_rate", "weight_decay", "update_every", "drop_fraction")


def grid(evidence: Evidence, scale: Scale) -> Content:
    """Accuracy of RigL at every point, and the choices by held-out and by test images."""
    runs = evidence.runs("grid")
    data = pd.DataFrame([_record(run) for run in runs])
    planned = [_point(config) for config in groups(scale)["grid"]]
    held, tested = (max(records(data), key=lambda row: float(row[column])) for column in ("holdout", "test"))
    chosen = {"held-out": _key(held), "test": _key(tested)}
    published = _point(scale.base.with_(method="rigl"))
    tables = [
        _table("grid-rates", "Learning rate (down) by weight decay (across)", ("learning_rate", "weight_decay"),
               planned, data, chosen, published),
        _table("grid-updates", "Steps between mask updates (down) by drop fraction (across)",
               ("update_every", "drop_fraction"), planned, data, chosen, published),
    ]  # fmt: skip
    return Content(
        shows=_sentences(data, held, tested, published),
        tables=tables,
        missing=shortfalls(evidence, scale, ["grid"]),
    )


Point = tuple[float, ...]


def _point(config: DigitRun) -> Point:
    return tuple(float(getattr(config, name)) for name in _FIELDS)


def _key(row: Record) -> Point:
    return tuple(float(row[name]) for name in _FIELDS)


def _record(run: Run) -> dict[str, float]:
    values = dict(zip(_FIELDS, _point(run.config), strict=True))
    return {
        **values,
        "holdout": 100 * run.final["holdout/accuracy"],
        "test": 100 * run.final["test/accuracy"],
    }


def _table(
    name: str,
    caption: str,
    axes: tuple[str, str],
    planned: Sequence[Point],
    data: pd.DataFrame,
    chosen: dict[str, Point],
    published: Point,
) -> Table:
    """One plane of the grid through the published point."""
    places = [_FIELDS.index(axis) for axis in axes]
    fixed = [place for place in range(len(_FIELDS)) if place not in places]
    plane = [point for point in planned if all(point[place] == published[place] for place in fixed)]
    found = {_key(row): row for row in records(data)}
    down, across = (sorted({point[place] for point in plane}) for place in places)
    rows = []
    for first in down:
        line = [cell(f"{first:g}")]
        for second in across:
            point = list(published)
            point[places[0]], point[places[1]] = first, second
            line.append(_cell(tuple(point), found, chosen, published))
        rows.append(line)
    return Table(
        name=name,
        caption=f"{caption}. Held-out accuracy, below it test accuracy, in percent.",
        head=["", *(f"{value:g}" for value in across)],
        rows=rows,
        data=data[[_key(row) in plane for row in records(data)]],
    )


def _cell(point: Point, found: dict[Point, Record], chosen: dict[str, Point], published: Point) -> Cell:
    marks = [f"best {by}" for by, best in chosen.items() if best == point]
    if point == published:
        marks.append("published")
    if point not in found:
        return cell("-", "not run", *marks, tone="soft")
    row = found[point]
    return cell(f"{row['holdout']:.2f}", f"test {row['test']:.2f}", *marks, tone="good" if marks else "")


def _named(point: Point) -> str:
    rate, decay, period, drop = point
    return f"learning rate {rate:g}, weight decay {decay:g}, updates every {period:g} steps, drop fraction {drop:g}"


def _sentences(data: pd.DataFrame, held: Record, tested: Record, published: Point) -> list[str]:
    gain = tested["test"] - held["test"]
    sentences = [
        f"The held-out images choose {_named(_key(held))}: {held['holdout']:.2f} % on them, {held['test']:.2f} % on "
        "the test images.",
        f"The test images choose {_named(_key(tested))}: {tested['test']:.2f} % on themselves."
        if _key(held) != _key(tested)
        else "The test images choose the same.",
        f"Choosing by test images, as the paper did, reports {gain:.2f} points more than choosing by held-out images; "
        f"over all {len(data)} points the two accuracies have a rank correlation of {_rank_correlation(data):.2f}.",
    ]
    if len(mine := data[[_key(row) == published for row in records(data)]]):
        row = records(mine)[0]
        better = int((data["holdout"] > row["holdout"]).sum())
        sentences.append(
            f"The published settings reach {row['holdout']:.2f} % on the held-out images; {better} of {len(data)} "
            "points are above that."
        )
    return sentences


def _rank_correlation(data: pd.DataFrame) -> float:
    if len(data) < 3 or data["holdout"].nunique() < 2 or data["test"].nunique() < 2:
        return float(np.nan)
    return float(data["holdout"].corr(data["test"], method="spearman"))
