"""The paper's 53 claims, each a function from the evidence to a verdict; published/claims.csv says what they are."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from sparseflow.lab.page.evidence import Evidence, NotEnoughRunsError
from sparseflow.paper.claims import (
    accuracy,
    batch_norm,
    curvature,
    ensembles,
    flow,
    landscape,
    mlp,
    overall,
    signal,
    similarity,
    start,
    tickets,
    updates,
)
from sparseflow.paper.claims.images import IMAGE_CLAIMS
from sparseflow.paper.claims.verdict import Verdict, undecided

Judge = Callable[[Evidence], Verdict]

#: Id -> what judges it, in the order of the paper.
CLAIMS: Mapping[str, Judge] = dict(
    sorted(
        {
            **signal.CLAIMS,
            **start.CLAIMS,
            **accuracy.CLAIMS,
            **batch_norm.CLAIMS,
            **flow.CLAIMS,
            **updates.CLAIMS,
            **curvature.CLAIMS,
            **landscape.CLAIMS,
            **similarity.CLAIMS,
            **ensembles.CLAIMS,
            **tickets.CLAIMS,
            **mlp.CLAIMS,
            **overall.CLAIMS,
        }.items()
    )
)


def judge(evidence: Evidence, claims: Mapping[str, Judge] | None = None) -> list[Verdict]:
    """The verdict on each claim, in order; one that lacks runs is inconclusive, and its note says what to type.

    Args:
        evidence: Runs and measurements.
        claims: Which to judge; default all.

    >>> verdicts = judge(Evidence({}, {}))
    >>> {verdict.verdict for verdict in verdicts}, {verdict.p_value for verdict in verdicts}
    ({'inconclusive'}, {None})
    """
    return [_judge(id, judged, evidence) for id, judged in (CLAIMS if claims is None else claims).items()]


def judge_images(evidence: Evidence) -> list[Verdict]:
    """As :func:`judge`, the claims about ImageNet by the runs on CIFAR-10.

    >>> {verdict.verdict for verdict in judge_images(Evidence({}, {}))}
    {'inconclusive'}
    """
    return judge(evidence, IMAGE_CLAIMS)


def _judge(id: str, judged: Judge, evidence: Evidence) -> Verdict:
    try:
        return judged(evidence)
    except NotEnoughRunsError as error:
        return undecided(id, " ".join(str(error).split()))
