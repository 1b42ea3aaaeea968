"""Runs that begin alike, as pairs; and all starts of a cell.

At a seed methods and initialisations share the masks, the draw that is scaled, and the order of the data. Compared pair
by pair, what these do to both sides cancels; counted together, one bad start would be counted once a method.
"""

from __future__ import annotations

from collections.abc import Callable

from sparseflow.lab.page.evidence import Evidence
from sparseflow.paper.claims.intervals import Values
from sparseflow.paper.claims.run_statistics import accuracy, of_each
from sparseflow.paper.claims.verdict import FEWEST, need
from sparseflow.training.runs import Run

#: Why claims were judged anew by pairs.
SHARED = "At a seed the runs share masks, draw and order of the data, so they are pairs and not independent."


def start_of(run: Run) -> tuple[int, int | None]:
    """Seed of a run, and of the pruning run whose masks it has.

    >>> from pathlib import Path
    >>> import pandas as pd
    >>> from sparseflow.training.digits import DigitRun
    >>> config = DigitRun(seed=103, mask_from=DigitRun(method="prune", seed=3))
    >>> start_of(Run(config, Path("run"), pd.DataFrame(), {}, {}, 1.0))
    (103, 3)
    """
    parent = run.config.mask_from
    return run.config.seed, None if parent is None else parent.seed


def same_starts(
    evidence: Evidence, *groups: str, at_least: int = FEWEST, learned_above: float | None = None
) -> list[list[Run]]:
    """The runs of several groups that begin alike, group by group in one order.

    Args:
        evidence: The runs.
        groups: Names of groups.
        at_least: Pairs that are needed.
        learned_above: Leave out pairs in which a run ends below this accuracy, in percent; default none.

    Raises:
        NotEnoughRunsError: if there are fewer.
    """
    found = [{start_of(run): run for run in evidence.runs(group, at_least=at_least)} for group in groups]
    shared = [start for start in found[0] if all(start in runs for runs in found)]
    if learned_above is not None:
        shared = [start for start in shared if all(accuracy(runs[start]) >= learned_above for runs in found)]
    need(shared, at_least, of=f"starts that {' and '.join(groups)} share", make=groups[0])
    return [[runs[start] for start in shared] for runs in found]


def paired_values(
    evidence: Evidence,
    statistic: Callable[[Run], float],
    *groups: str,
    at_least: int = FEWEST,
    learned_above: float | None = None,
) -> list[Values]:
    """A number of the runs of :func:`same_starts`."""
    runs = same_starts(evidence, *groups, at_least=at_least, learned_above=learned_above)
    return [of_each(members, statistic) for members in runs]


def all_starts(evidence: Evidence, group: str, *, at_least: int) -> list[Run]:
    """The runs of a cell and of its further starts: ``more`` on masks of their own, ``again`` on those of the cell."""
    further = [run for name in ("more", "again") for run in evidence.groups.get(f"{group}/{name}", ())]
    return [*evidence.runs(group, at_least=at_least), *further]
