"""Rows of measured tables, with an error where a test needs more of them."""

from __future__ import annotations

import numpy as np
import pandas as pd

from sparseflow.lab.page.evidence import Evidence
from sparseflow.paper.claims.intervals import Values
from sparseflow.paper.claims.verdict import FEWEST, need


def rows(evidence: Evidence, table: str, *, at_least: int = 1, **labels: str | int) -> pd.DataFrame:
    """The rows of a table with these labels.

    Args:
        evidence: What was measured.
        table: Its name.
        at_least: The number of rows that are needed.
        labels: Value by column.

    >>> table = pd.DataFrame({"group": ["a", "a", "b"], "seed": [0, 1, 0]})
    >>> len(rows(Evidence({}, {"spectra": table}), "spectra", group="a"))
    2

    Raises:
        NotEnoughRunsError: if there are fewer.
    """
    found = evidence.table(table)
    for column, label in labels.items():
        found = found[found[column] == label]
    said = "".join(f", {column} {label}" for column, label in labels.items())
    return need(found, at_least, of=f"rows of {table}{said}", make=table)


def column(evidence: Evidence, table: str, name: str, *, at_least: int = FEWEST, **labels: str | int) -> Values:
    """The numbers in one column of :func:`rows`, by default as many as a t test needs."""
    return np.asarray(rows(evidence, table, at_least=at_least, **labels)[name], dtype=np.float64)
