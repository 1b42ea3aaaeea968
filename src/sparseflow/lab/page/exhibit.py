"""What the page is made of: an exhibit says what it needs and builds its words, tables and drawings."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from sparseflow.lab.page.evidence import Evidence, NotEnoughRunsError, Option
from sparseflow.training.runs import Run

Row = Mapping[str, Option]


@dataclass(frozen=True)
class Cell:
    """One cell of a table on the page."""

    lines: tuple[str, ...]
    """Text; the lines after the first are set smaller."""
    tone: str = ""
    """"" or a class of the page: "good", "bad", "soft" (colour that only repeats the text), "remark" (prose)."""


def cell(*lines: str, tone: str = "") -> Cell:
    """A cell without its empty lines.

    >>> cell("97.70", "", tone="good")
    Cell(lines=('97.70',), tone='good')
    """
    return Cell(tuple(line for line in lines if line), tone)


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table as it is read, and the tidy one that is written as CSV."""

    name: str
    """File name without ending."""
    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    data: pd.DataFrame
    note: str = ""
    paired: bool = False
    """Whether rows come in pairs: ours, and the paper's."""


def unaltered(svg: str, _: Figure) -> str:
    """Leave a drawing as it is."""
    return svg


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """A figure in its two widths, in words, and as a table."""

    name: str
    """File name without ending."""
    how: str
    """How to read it."""
    alt: str
    """The figure in words and numbers, for those who do not see it."""
    draw: Callable[..., Figure]
    """Takes ``narrow=``."""
    data: pd.DataFrame
    """What is drawn, tidy."""
    finish: Callable[[str, Figure], str] = unaltered
    """Takes the SVG and the figure that it shows, gives the SVG of the page."""
    animated: bool = False
    """Whether it moves: the page then offers to halt it."""


@dataclass(frozen=True, kw_only=True)
class Content:
    """What an exhibit puts on the page."""

    shows: Sequence[str]
    """What it shows, computed: a sentence each."""
    drawings: Sequence[Drawing] = ()
    tables: Sequence[Table] = ()
    missing: Sequence[str] = ()
    """What is not there and the command that makes it, as :class:`NotEnoughRunsError` says it."""


def every_row(row: Row, scale: Any) -> bool:
    """Show all that was measured."""
    return True


@dataclass(frozen=True, kw_only=True)
class Exhibit:
    """A table or figure of the paper, or one of ours: what it needs and how it is built."""

    title: str
    """As the paper calls it, with what it is about."""
    question: str
    """Heading on the page."""
    groups: tuple[str, ...] = ()
    """Groups of the run matrix that it shows; ``*`` stands for anything."""
    tables: tuple[str, ...] = ()
    """Measurements that it shows."""
    shows: Callable[[Row, Any], bool] = every_row
    """Whether it shows a row of them, by the row's labels and options."""
    claims: tuple[str, ...] = ()
    """Claims that are about it."""
    build: Callable[[Evidence, Any], Content] | None
    """Takes evidence and scale, raises :class:`NotEnoughRunsError` where nothing of it can be shown; None for what the
    page itself writes."""


def available(evidence: Evidence, names: Iterable[str]) -> tuple[dict[str, list[Run]], list[str]]:
    """The groups that have runs, and for each other one what is missing.

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
