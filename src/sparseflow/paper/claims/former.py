"""What claims were judged by before; those about tickets by the runs of one pruning run, or by means without pairs.

Runs on the masks of the first pruning run are in groups of the plain name, such as ``tickets/lottery``; those on the
masks of the others in ``tickets/lottery/mask1`` and on. On CIFAR-10 there always were several pruning runs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sparseflow.lab.page.evidence import Evidence, NotEnoughRunsError
from sparseflow.paper.claims.contrasts import pair_spread
from sparseflow.paper.claims.intervals import Spread, Values
from sparseflow.paper.claims.pruning_runs import TicketsAndScratch, lottery_and_scratch, of_tickets
from sparseflow.paper.claims.sites import MNIST, Site
from sparseflow.paper.claims.tables import column, rows
from sparseflow.paper.claims.verdict import FEWEST, Former, Part, all_of, need

#: Why claims about tickets were judged anew on MNIST.
ONE_PRUNING_RUN = (
    "It rested on the masks of one pruning run, and tickets of one start alike: they are not independent. An audit "
    "found other pruning runs that contradict."
)
#: Why they were where there were several pruning runs before.
UNPAIRED = "Tickets and the runs beside them have the masks of the same pruning run, so they are pairs."


def formerly(criterion: str, judge: Callable[[], Part], reason: str) -> Former | None:
    """The former criterion on the same evidence; None where what it needs is not there.

    Args:
        criterion: In few words.
        judge: Computes its parts.
        reason: Why it was changed.

    >>> formerly("below 1", lambda: Part("failed", "2", "5"), "It is about 2.")
    Former(criterion='below 1', verdict='failed', reason='It is about 2.')
    >>> formerly("below 1", lambda: Part("held", str(Evidence({}, {}).runs("tickets/lottery")), "5"), "") is None
    True
    """
    try:
        return Former(criterion, judge().outcome, reason)
    except NotEnoughRunsError:
        return None


def former_if_whole(criterion: str, old: Mapping[str, Part], reason: str, *, of: Mapping[str, Part]) -> Former | None:
    """The former criterion from its parts; None where the runs of some part are not there.

    Args:
        criterion: In few words.
        old: Its parts, those whose runs are there.
        reason: Why it was changed.
        of: The parts of the new criterion, as many as the old one has.

    >>> part = Part("held", "2", "5")
    >>> former_if_whole("above 1", {"LeNet5": part}, "It is about 3.", of={"LeNet5": part})
    Former(criterion='above 1', verdict='held', reason='It is about 3.')
    >>> former_if_whole("above 1", {"LeNet5": part}, "It is about 3.", of={"LeNet5": part, "MLP": part}) is None
    True
    """
    return Former(criterion, all_of(old).outcome, reason) if len(old) == len(of) else None


def on_first_masks(test: str, judge: Callable[[], Part], *, site: Site = MNIST) -> Former | None:
    """:func:`formerly` of a claim that is judged over all pruning runs now.

    Args:
        test: The former test, which took runs for independent.
        judge: Computes its parts from :func:`tickets_before`, :func:`runs_before` or the plain groups.
        site: Decides what it was about: runs of the first pruning run, or means of all pruning runs.
    """
    if site.one_pruning_run:
        return formerly(f"{test}, runs on the masks of the first pruning run", judge, ONE_PRUNING_RUN)
    return formerly(f"{test}, means of pruning runs", judge, UNPAIRED)


def tickets_before(
    evidence: Evidence, site: Site, setting: str, table: str, name: str, **labels: Any
) -> TicketsAndScratch:
    """As :func:`.of_tickets`, but on MNIST one value a run, on the masks of the first pruning run alone."""
    if not site.one_pruning_run:
        return of_tickets(evidence, site, setting, table, name, **labels)
    return TicketsAndScratch(*runs_before(evidence, lottery_and_scratch(site, setting), table, name, **labels))


def runs_before(
    evidence: Evidence, groups: Sequence[str], table: str, name: str, *, at_least: int = FEWEST, **labels: Any
) -> list[Values]:
    """A measured column of several groups: one value a run, and none of the groups on other masks.

    >>> import pandas as pd
    >>> table = pd.DataFrame({"group": ["a", "a", "a", "a/mask1"], "barrier": [1.0, 2.0, 3.0, 9.0]})
    >>> [values.tolist() for values in runs_before(Evidence({}, {"barriers": table}), ["a"], "barriers", "barrier")]
    [[1.0, 2.0, 3.0]]
    """
    return [column(evidence, table, name, at_least=at_least, group=group, **labels) for group in groups]


def pairs_before(evidence: Evidence, group: str) -> Spread:
    """Mean disagreement of two runs on the masks of the first pruning run, with the jackknife's error over runs."""
    pairs = rows(evidence, "function_pairs", group=group)
    need({*pairs["a"], *pairs["b"]}, FEWEST, of=f"compared runs of {group}", make="function_pairs")
    return pair_spread(pairs, "disagreement")
