"""Values of tickets and of other runs on pruned masks: one of each run, or the mean of each pruning run.

Tickets of one pruning run share their start bit for bit, so the pruning run is the independent thing where there are
several.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from sparseflow.lab.page.evidence import Evidence
from sparseflow.paper.claims.intervals import Values
from sparseflow.paper.claims.run_statistics import labelled_means, of_each
from sparseflow.paper.claims.sites import Site
from sparseflow.paper.claims.tables import column, rows
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
        site: Whether a value is that of a run or the mean of a pruning run.
        setting: Such as ``tickets``.
        table: Its name.
        name: Of the column.
        labels: Value of other columns.
    """
    groups = lottery_and_scratch(site, setting)
    if not site.by_pruning_run:
        return TicketsAndScratch(*(column(evidence, table, name, group=group, **labels) for group in groups))
    found = []
    for group in groups:
        measured = rows(evidence, table, group=group, **labels)
        found.append(_means(measured["seed"].tolist(), measured[name].tolist()))
    return TicketsAndScratch(
        *_of_same_masks(found, of=f"pruning runs with {' and '.join(groups)} in {table}", make=table)
    )


def distances_by_pruning_run(evidence: Evidence, site: Site, name: str) -> TicketsAndScratch:
    """Means of a column of ``distances`` for each pruning run, of its tickets and of Scratch on its masks."""
    groups = lottery_and_scratch(site, site.main_tickets)
    found = [rows(evidence, "distances", group=group).groupby("prune_seed")[name].mean() for group in groups]
    same = _of_same_masks(found, of="pruning runs with distances of tickets and scratch runs", make="distances")
    return TicketsAndScratch(*same)


def of_runs(
    evidence: Evidence, site: Site, setting: str, kinds: Sequence[str], statistic: Callable[[Run], float]
) -> list[Values]:
    """A number of runs on pruned masks, for each kind in the same order.

    Args:
        evidence: The runs; in groups such as ``resnet14/lottery/mask0`` where values are means of pruning runs.
        site: Whether they are.
        setting: Such as ``resnet14``.
        kinds: Such as ``lottery``.
        statistic: Of a run.
    """
    if not site.by_pruning_run:
        runs = [evidence.runs(f"{setting}/{kind}", at_least=FEWEST) for kind in kinds]
        return [of_each(members, statistic) for members in runs]
    found = []
    for kind in kinds:
        groups = [group for group in evidence.groups if group.startswith(f"{setting}/{kind}/mask")]
        values = [(run.config.seed, statistic(run)) for group in groups for run in evidence.groups[group]]
        found.append(_means([seed for seed, _ in values], [value for _, value in values]))
    return _of_same_masks(
        found, of=f"pruning runs of {setting} with {' and '.join(kinds)}", make=f"{setting}/{kinds[0]}"
    )


def _means(seeds: list[int], values: list[float]) -> pd.Series[float]:
    # Seeds of runs on pruned masks say which: REPEATS times one more than the number of the pruning run, and up.
    return pd.Series(values, index=[seed // REPEATS for seed in seeds], dtype="float64").groupby(level=0).mean()


def _of_same_masks(found: list[pd.Series[float]], *, of: str, make: str) -> list[Values]:
    both = sorted(set.intersection(*(set(values.index) for values in found)))
    need(both, FEWEST, of=of, make=make)
    return [np.asarray(values[both], dtype=np.float64) for values in found]
