"""Values of tickets and of other runs on pruned masks: the mean of each pruning run.

Tickets of one pruning run share their start bit for bit, so the pruning run is the independent thing, and what tickets
and other runs have on its masks is a pair.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from sparseflow.lab.page.evidence import Evidence
from sparseflow.paper.claims.intervals import Values
from sparseflow.paper.claims.run_statistics import labelled_means
from sparseflow.paper.claims.sites import Site
from sparseflow.paper.claims.tables import rows
from sparseflow.paper.claims.verdict import FEWEST, need
from sparseflow.paper.matrix.cells import REPEATS
from sparseflow.training.runs import Run


def lottery_and_scratch(site: Site, setting: str) -> tuple[str, str]:
    """Names of the groups of tickets, and of Scratch on the same masks."""
    return f"{setting}/{site.ticket_kinds['lottery']}", f"{setting}/{site.random_kind}"


class TicketsAndScratch(NamedTuple):
    """Values of tickets, and of Scratch on the same masks."""

    lottery: Values
    scratch: Values

    @property
    def ratio(self) -> float:
        """Mean of Scratch over that of tickets."""
        return float(self.scratch.mean() / self.lottery.mean())

    def text(self, *, digits: int = 2) -> str:
        """Mean and standard deviation of both."""
        return labelled_means(self._asdict(), digits=digits)


def of_tickets(evidence: Evidence, site: Site, setting: str, table: str, name: str, **labels: Any) -> TicketsAndScratch:
    """A measured column of tickets, and of Scratch on the same masks.

    Args:
        evidence: What was measured.
        site: The names of their groups.
        setting: Such as ``tickets``.
        table: Its name.
        name: Of the column.
        labels: Value of other columns.
    """
    return TicketsAndScratch(*measured(evidence, lottery_and_scratch(site, setting), table, name, **labels))


def measured(evidence: Evidence, groups: Sequence[str], table: str, name: str, **labels: Any) -> list[Values]:
    """Means of a measured column for each pruning run, of several kinds of runs on its masks.

    Args:
        evidence: What was measured.
        groups: Such as ``tickets/lottery``, which has the runs on all masks.
        table: Its name.
        name: Of the column.
        labels: Value of other columns.
    """
    found = []
    for group in groups:
        own = on_all_masks(rows(evidence, table, **labels), group)
        found.append(_means(own["seed"].tolist(), own[name].tolist()))
    return of_same_masks(found, of=f"pruning runs with {' and '.join(groups)} in {table}", make=table)


def on_all_masks(table: pd.DataFrame, group: str) -> pd.DataFrame:
    """The rows of a kind of runs, on the masks of the first pruning run and of all others.

    >>> on_all_masks(pd.DataFrame({"group": ["a/b", "a/b/mask1", "a/b-same"]}), "a/b")["group"].tolist()
    ['a/b', 'a/b/mask1']
    """
    names = table["group"].astype(str)
    found: pd.DataFrame = table[(names == group) | names.str.startswith(f"{group}/mask")]
    return found


def mask_of(group: str) -> int:
    """The number of the pruning run whose masks a group has.

    >>> mask_of("tickets/lottery"), mask_of("tickets/lottery/mask12")
    (0, 12)
    """
    _, found, number = group.partition("/mask")
    return int(number) if found else 0


def distances_by_pruning_run(evidence: Evidence, site: Site, name: str) -> TicketsAndScratch:
    """Means of a column of ``distances`` for each pruning run, of its tickets and of Scratch on its masks."""
    groups = lottery_and_scratch(site, site.main_tickets)
    found = [rows(evidence, "distances", group=group).groupby("prune_seed")[name].mean() for group in groups]
    same = of_same_masks(found, of="pruning runs with distances of tickets and scratch runs", make="distances")
    return TicketsAndScratch(*same)


def of_runs(evidence: Evidence, setting: str, kinds: Sequence[str], statistic: Callable[[Run], float]) -> list[Values]:
    """A number of runs on pruned masks, for each kind in the same order.

    Args:
        evidence: The runs; in groups such as ``resnet14/lottery/mask0``.
        setting: Such as ``resnet14``.
        kinds: Such as ``lottery``.
        statistic: Of a run.
    """
    found = []
    for kind in kinds:
        name = f"{setting}/{kind}"
        groups = [group for group in evidence.groups if group == name or group.startswith(f"{name}/mask")]
        values = [(run.config.seed, statistic(run)) for group in groups for run in evidence.groups[group]]
        found.append(_means([seed for seed, _ in values], [value for _, value in values]))
    return of_same_masks(
        found, of=f"pruning runs of {setting} with {' and '.join(kinds)}", make=f"{setting}/{kinds[0]}"
    )


def _means(seeds: list[int], values: list[float]) -> pd.Series[float]:
    # Seeds of runs on pruned masks say which: REPEATS times one more than the number of the pruning run, and up.
    return pd.Series(values, index=[seed // REPEATS for seed in seeds], dtype="float64").groupby(level=0).mean()


def of_same_masks(found: list[pd.Series[float]], *, of: str = "pruning runs", make: str) -> list[Values]:
    """Values by pruning run, of the pruning runs that all have, in one order."""
    both = sorted(set.intersection(*(set(values.index) for values in found)))
    need(both, FEWEST, of=of, make=make)
    return [np.asarray(values[both], dtype=np.float64) for values in found]
