"""Evidence by name: the finished runs of each group of the run matrix, and the tables computed from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from sparseflow.lab.page.summary import COLLAPSE_PERCENT
from sparseflow.training.runs import Run

#: Value of an option or a label of a measurement.
Option = str | int | float


class NotEnoughRunsError(LookupError):
    """Something a claim or figure needs was not run, or not often enough; the text says what to type.

    Whatever reads evidence raises it: every claim, every exhibit's ``build``, and the functions that these share. Those
    that judge all claims or draw all exhibits catch it, and say the text in place of a verdict or a figure.
    """


@dataclass(frozen=True)
class Evidence:
    """Runs by group and tables by name; to ask for one that is not there is an error.

    >>> Evidence({}, {}).runs("lenet5/dense")
    Traceback (most recent call last):
    sparseflow.lab.page.evidence.NotEnoughRunsError: lenet5/dense has 0 finished runs of at least 1 needed. Make them:
    sparseflow reproduce lenet5/dense
    """

    groups: Mapping[str, Sequence[Run]]
    """Name of a group, see :mod:`sparseflow.paper.matrix.mnist` -> its finished runs, by seed."""
    tables: Mapping[str, pd.DataFrame]
    """Name of a measurement, see :mod:`sparseflow.paper.measures.measurement` -> its table."""
    scale: str = "paper"
    """demo or paper."""
    collapse_percent: float = COLLAPSE_PERCENT
    """A run that ends below this test accuracy did not learn."""

    def runs(self, group: str, *, at_least: int = 1) -> list[Run]:
        """The finished runs of a group, by seed.

        Raises:
            NotEnoughRunsError: if there are fewer than ``at_least``.
        """
        found = list(self.groups.get(group, ()))
        if len(found) < at_least:
            raise NotEnoughRunsError(
                f"{group} has {len(found)} finished runs of at least {at_least} needed. Make them:\n"
                f"sparseflow reproduce {group}"
            )
        return found

    def table(self, name: str) -> pd.DataFrame:
        """A table of measurements.

        Raises:
            NotEnoughRunsError: if it was not measured, or has no rows.
        """
        found = self.tables.get(name)
        if found is None or found.empty:
            raise NotEnoughRunsError(f"{name} was not measured. Make it:\nsparseflow reproduce {name}")
        return found
