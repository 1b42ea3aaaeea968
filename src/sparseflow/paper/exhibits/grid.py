"""The grid search: settings chosen by held-out images, and settings chosen by the test images, as the paper did."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from sparseflow.lab.page.evidence import Evidence
from sparseflow.lab.page.exhibit import Content
from sparseflow.lab.page.table import Cell, Column, Record, Table, cell, records
from sparseflow.lab.page.words import count
from sparseflow.paper.exhibits.shortfalls import found_and_missing
from sparseflow.paper.matrix.cells import METHODS, MOVING
from sparseflow.paper.matrix.scale import Scale
from sparseflow.training.digits import DigitRun
from sparseflow.training.names import shown_methods
from sparseflow.training.runs import Run

_FIELDS = ("learning_rate", "weight_decay", "update_every", "drop_fraction")
_NETWORKS = {"lenet5": "LeNet5", "mlp": "MLP"}
#: Group -> what is searched: the network's and the method's part of names of groups.
SEARCHES = {
    "grid" if (network, method) == ("lenet5", "rigl") else f"grid/{network}/{method}": (network, method)
    for network in _NETWORKS
    for method in METHODS
}
Point = tuple[float, ...]


def grid(evidence: Evidence, scale: Scale) -> Content:
    """The choices by held-out and by test images in every search, and the accuracies at every point."""
    found, missing = found_and_missing(evidence, scale, list(SEARCHES))
    searches = [Search.of(group, found[group], scale) for group in SEARCHES if group in found]
    summary = Table.of(
        COLUMNS,
        searches,
        name="grid",
        caption="Settings chosen by held-out images, by test images as in the paper, and as published. Accuracy in "
        "percent.",
        note=f"{scale.holdout} training images are held out; each point is one run. A gain is what the test accuracy "
        "rises by when the test images choose.",
    )
    return Content(
        shows=_sentences(searches),
        tables=[summary, *(plane for search in searches for plane in search.planes(scale))],
        missing=missing,
        beyond=[_beyond(searches)],
    )


class Search(NamedTuple):
    """The points of one search."""

    group: str
    data: pd.DataFrame
    """A row per point: the settings, ``holdout`` and ``test`` accuracy in percent."""
    published: Point

    @classmethod
    def of(cls, group: str, runs: Sequence[Run], scale: Scale) -> Search:
        """A search from its runs."""
        network, method = SEARCHES[group]
        published = _point(scale.groups[f"{network}/{method}/sparse"][0])
        return cls(group, pd.DataFrame([_record(run) for run in runs]), published)

    @property
    def label(self) -> str:
        """Network and method."""
        network, method = SEARCHES[self.group]
        return f"{_NETWORKS[network]}, {shown_methods()[method].label}"

    def best(self, by: str) -> Record:
        """The point that these images choose."""
        return max(records(self.data), key=lambda row: float(row[by]))

    def gain(self) -> float:
        """Points of test accuracy that choosing by test images adds."""
        return float(self.best("test")["test"] - self.best("holdout")["test"])

    def at_published(self, column: str) -> float:
        """Accuracy with the published settings; NaN where that point was not run."""
        mine = [float(row[column]) for row in records(self.data) if _key(row) == self.published]
        return mine[0] if mine else np.nan

    def named(self, point: Point) -> str:
        """The settings of a point."""
        rate, decay, period, drop = point
        said = f"learning rate {rate:g}, weight decay {decay:g}"
        moves = SEARCHES[self.group][1] in MOVING
        return said + (f", updates every {period:g} steps, drop fraction {drop:g}" if moves else "")

    def planes(self, scale: Scale) -> list[Table]:
        """Accuracies by learning rate and weight decay, and where masks move by update period and drop fraction."""
        planned = [_point(config) for config in scale.groups[self.group]]
        name = "-".join(SEARCHES[self.group])
        axes = {"rates": ("Learning rate (down) by weight decay (across)", ("learning_rate", "weight_decay"))}
        if SEARCHES[self.group][1] in MOVING:
            said = "Steps between mask updates (down) by drop fraction (across)"
            axes["updates"] = (said, ("update_every", "drop_fraction"))
        return [
            _plane(f"grid-{name}-{end}", f"{self.label}. {caption}", of_axes, planned, self)
            for end, (caption, of_axes) in axes.items()
        ]


COLUMNS = (
    Column("search", lambda of: of.label, "Search"),
    Column("points", lambda of: len(of.data), "Points"),
    Column("by_holdout", lambda of: of.named(_key(of.best("holdout"))), "Held-out images choose"),
    Column("by_holdout_test", lambda of: of.best("holdout")["test"], "Its test accuracy", ".2f"),
    Column("by_test", lambda of: of.named(_key(of.best("test")))),
    Column("by_test_test", lambda of: of.best("test")["test"], "Chosen by test images", ".2f"),
    Column("gain", Search.gain, "Gain, points", "+.2f"),
    Column("published_test", lambda of: of.at_published("test"), "As published", ".2f"),
    Column("rank_correlation", lambda of: _rank_correlation(of.data), "Rank correlation", ".2f"),
)


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


def _plane(name: str, caption: str, axes: tuple[str, str], planned: Sequence[Point], search: Search) -> Table:
    """One plane of the grid through the published point."""
    data, published = search.data, search.published
    places = [_FIELDS.index(axis) for axis in axes]
    fixed = [place for place in range(len(_FIELDS)) if place not in places]
    plane = [point for point in planned if all(point[place] == published[place] for place in fixed)]
    found = {_key(row): row for row in records(data)}
    chosen = {"held-out": _key(search.best("holdout")), "test": _key(search.best("test"))}
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


def _sentences(searches: Sequence[Search]) -> list[str]:
    sentences = [_beyond(searches)]
    for search in searches:
        held, tested = search.best("holdout"), search.best("test")
        same = "the test images choose the same"
        if _key(held) != _key(tested):
            same = f"the test images {search.named(_key(tested))}, {tested['test']:.2f} %"
        sentence = (
            f"{search.label}: held-out images choose {search.named(_key(held))}, {held['test']:.2f} % on the test "
            f"images; {same}"
        )
        if not np.isnan(published := search.at_published("holdout")):
            better = int((search.data["holdout"] > published).sum())
            sentence += (
                f". {better} of {len(search.data)} points are above the published settings on the held-out images"
            )
        sentences.append(f"{sentence}.")
    return sentences


def _beyond(searches: Sequence[Search]) -> str:
    gains = [search.gain() for search in searches]
    return (
        "Choosing settings by test images, as the paper did, reports between "
        f"{min(gains):.2f} and {max(gains):.2f} points more than choosing by held-out images, in "
        f"{count(len(gains), 'search', 'searches')} of one run a point."
    )


def _rank_correlation(data: pd.DataFrame) -> float:
    if len(data) < 3 or data["holdout"].nunique() < 2 or data["test"].nunique() < 2:
        return float(np.nan)
    return float(data["holdout"].corr(data["test"], method="spearman"))
