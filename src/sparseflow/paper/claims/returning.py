"""What claims about the ends of lottery tickets take for granted: that they end near the network they were pruned from.

A ticket that ends farther from the pruned network than it starts has not returned to a solution, it has left one; what
it still shares with that network is then its start, however far away others are. On networks that had not learned, this
made four claims hold.
"""

from __future__ import annotations

from dataclasses import replace
from functools import wraps
from typing import Protocol

from sparseflow.lab.page.evidence import Evidence
from sparseflow.paper.claims.pruning_runs import distances_by_pruning_run
from sparseflow.paper.claims.sites import Site
from sparseflow.paper.claims.statistics import paired_greater
from sparseflow.paper.claims.verdict import Verdict

UNMET = "Lottery tickets are not shown to end nearer to the pruned network than they start, so this tells nothing."


class SiteJudge(Protocol):
    """A claim that is judged on any site."""

    def __call__(self, evidence: Evidence, site: Site) -> Verdict:
        """The verdict on one of them."""


def if_tickets_return(judge: SiteJudge) -> SiteJudge:
    """The same claim, open where tickets are not shown to end nearer to the pruning solution than they start.

    Distance at the start above that at the end: one-sided t paired by pruning run, p < 0.05. Sites say whether it is
    asked for.
    """

    @wraps(judge)
    def judged(evidence: Evidence, site: Site) -> Verdict:
        verdict = judge(evidence, site)
        if not site.returns:
            return verdict
        start, end = (distances_by_pruning_run(evidence, site, moment).lottery for moment in ("init", "final"))
        part = paired_greater(start, end, alpha=0.05)
        statistic = f"{verdict.statistic}; tickets end nearer than they start: {part.text}"
        if part.outcome == "held":
            p_values = [p for p in (verdict.p_value, part.p_value) if p is not None]
            return replace(verdict, statistic=statistic, p_value=max(p_values))
        note = f"{site.tickets.phrase}: {UNMET[0].lower()}{UNMET[1:]}"
        return replace(verdict, verdict="inconclusive", statistic=statistic, p_value=None, note=note)

    return judged
