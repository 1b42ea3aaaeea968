"""An exhibit of a page: what it needs, and how its words, tables and drawings are built."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from sparseflow.lab.page.evidence import Evidence, NotEnoughRunsError, Option
from sparseflow.lab.page.table import Table
from sparseflow.training.runs import Run

Row = Mapping[str, Option]


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """A figure in its two widths, in words, and as a table."""

    name: str
    """File name without ending."""
    how: str
    """Instructions for reading it."""
    alt: str
    """The figure in words and numbers, for those who do not see it."""
    draw: Callable[..., Figure]
    """Takes ``narrow=``; it is called under the style of all figures."""
    data: pd.DataFrame
    """The numbers behind it, tidy."""
    finish: Callable[[str, Figure], str] | None = None
    """Takes the SVG and the figure that it shows, gives the SVG of the page."""
    animated: bool = False
    """Whether it moves: the page then offers a pause."""


@dataclass(frozen=True, kw_only=True)
class Content:
    """The words, tables and drawings of an exhibit."""

    shows: Sequence[str]
    """Findings, computed: one sentence each."""
    drawings: Sequence[Drawing] = ()
    tables: Sequence[Table] = ()
    missing: Sequence[str] = ()
    """Texts of :class:`NotEnoughRunsError` about the parts that are not there."""
    beyond: Sequence[str] = ()
    """Findings that the paper has not, for the page's first screen."""


def every_row(row: Row, scale: Any) -> bool:
    """Show every row."""
    return True


@dataclass(frozen=True, kw_only=True)
class Exhibit:
    """One question of a page with its answer in figures and tables."""

    question: str
    """Heading on the page."""
    title: str = ""
    """As the paper calls it, with what it is about; "" for what is not the paper's."""
    groups: tuple[str, ...] = ()
    """Groups of the run matrix that it shows; ``*`` stands for anything."""
    tables: tuple[str, ...] = ()
    """Measurements that it shows."""
    shows: Callable[[Row, Any], bool] = every_row
    """Whether it shows a row of them, by the row's labels and options."""
    claims: tuple[str, ...] = ()
    """Claims that are about it."""
    build: Callable[[Evidence, Any], Content] | None
    """Takes evidence and scale, raises :class:`NotEnoughRunsError` where nothing of it can be shown; None for a part
    that the page's template writes."""


def available(evidence: Evidence, names: Iterable[str]) -> tuple[dict[str, list[Run]], list[str]]:
    """The runs of each group that has some, and one message per group that has none.

    Raises:
        NotEnoughRunsError: if no group has any; names them all.

    >>> available(Evidence({}, {}), ["lenet5/dense"])
    Traceback (most recent call last):
    sparseflow.lab.page.evidence.NotEnoughRunsError: lenet5/dense has 0 finished runs of at least 1 needed. Make them:
    sparseflow reproduce lenet5/dense
    """
    found: dict[str, list[Run]] = {}
    missing: list[str] = []
    for name in dict.fromkeys(names):
        try:
            found[name] = evidence.runs(name)
        except NotEnoughRunsError as error:
            missing.append(str(error))
    if not found:
        raise NotEnoughRunsError("\n".join(missing))
    return found, missing
