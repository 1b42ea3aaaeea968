"""Tables as they are read on a page, and as they are written beside it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import pandas as pd

from sparseflow.lab.page.words import plus_minus, yes_no

#: One row of a table: its values by the names of columns.
Record = dict[str, Any]


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


class Column(NamedTuple):
    """One column of a table: how its value is computed from an item, and how it is shown."""

    name: str
    """In the CSV; "" for a column of the page alone."""
    value: Callable[[Any], Any]
    """Takes the item that the row is about."""
    head: str = ""
    """On the page; "" for a column of the CSV alone."""
    show: str | Callable[[Record], Cell | str] = ""
    """A format of the value, or a function of all values of the row (one without a name is under its head)."""

    def cell(self, record: Record) -> Cell:
        """The cell on the page; "-" for no number."""
        if callable(self.show):
            shown = self.show(record)
            return shown if isinstance(shown, Cell) else cell(shown)
        value = record[self.name or self.head]
        return cell("-" if value != value else format(value, self.show).replace("-", "−") if self.show else str(value))


Columns = tuple[Column, ...]


def mean_and_std(get: Callable[[Any], Any], head: str, *, prefix: str = "", tone: str = "") -> Columns:
    """The columns ``{prefix}mean`` and ``{prefix}std`` of an :class:`Estimate`, which are one on the page.

    >>> columns = mean_and_std(lambda item: item, "Paper, %", prefix="paper_")
    >>> [column.name for column in columns], columns[0].cell({"paper_mean": 97.7, "paper_std": 0.09}).lines
    (['paper_mean', 'paper_std'], ('97.70 ± 0.09',))
    """
    mean, std = f"{prefix}mean", f"{prefix}std"
    return (
        Column(mean, lambda of: get(of).mean, head, lambda row: cell(plus_minus(row[mean], row[std], 2), tone=tone)),
        Column(std, lambda of: get(of).std),
    )


def low_and_high(get: Callable[[Any], Any], *, text: Callable[[float], str]) -> Columns:
    """The columns ``low`` and ``high`` of an :class:`Estimate`: its 95 % interval, "-" where there is none."""

    def show(row: Record) -> str:
        return "-" if row["low"] != row["low"] else f"{text(row['low'])} to {text(row['high'])}"

    return Column("low", lambda of: get(of).low, "95 % interval", show), Column("high", lambda of: get(of).high)


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

    @classmethod
    def of(cls, columns: Sequence[Column], items: Iterable[Any], *, name: str, caption: str, note: str = "") -> Table:
        """One row per item.

        >>> columns = [Column("n", len, "Runs"), Column("first", min), Column("", max, "Last")]
        >>> table = Table.of(columns, [[1, 2, 3]], name="made-up", caption="")
        >>> table.head, table.rows[0][1].lines, table.data.to_dict("list")
        (['Runs', 'Last'], ('3',), {'n': [3], 'first': [1]})
        """
        rows = [{column.name or column.head: column.value(item) for column in columns} for item in items]
        shown = [column for column in columns if column.head]
        return cls(
            name=name,
            caption=caption,
            head=[column.head for column in shown],
            rows=[[column.cell(row) for column in shown] for row in rows],
            data=pd.DataFrame(rows, columns=[column.name for column in columns if column.name]),
            note=note,
        )


def verdict_cell(answer: bool | None) -> Cell:
    """Yes, no, or nothing to say.

    >>> verdict_cell(None).lines
    ('-',)
    """
    return cell(yes_no(answer), tone={True: "good", False: "bad", None: "soft"}[answer])


def verdict_column(name: str, value: Callable[[Any], bool | None], head: str) -> Column:
    """A column of answers."""
    return Column(name, value, head, lambda row: verdict_cell(row[name]))


def records(table: pd.DataFrame) -> list[Record]:
    """The rows of a table, each a dict from column to value.

    >>> records(pd.DataFrame({"n": [3], "label": ["Dense"]}))
    [{'n': 3, 'label': 'Dense'}]
    """
    return [{str(column): value for column, value in row.items()} for row in table.to_dict("records")]
