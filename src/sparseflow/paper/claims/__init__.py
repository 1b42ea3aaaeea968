"""The paper's 53 claims, one function per claim from the evidence to a verdict; printed/claims.csv states them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

from scipy import stats

from sparseflow.lab.page.evidence import Evidence, NotEnoughRunsError
from sparseflow.paper.claims import (
    accuracy,
    batch_norm,
    curvature,
    ensembles,
    flow,
    landscape,
    learning,
    mlp,
    overall,
    signal,
    similarity,
    start,
    tickets,
    updates,
)
from sparseflow.paper.claims.returning import SiteJudge
from sparseflow.paper.claims.sites import CIFAR, CIFAR_LONG, IMAGENET, MNIST, Site
from sparseflow.paper.claims.verdict import Verdict, undecided
from sparseflow.paper.claims.withdrawn import REASONS, withdrawn

Judge = Callable[[Evidence], Verdict]


#: Id -> the function that judges the claim on any site.
_ON_SITES: Mapping[str, SiteJudge] = {
    **start.ON_SITES,
    **learning.ON_SITES,
    **accuracy.ON_SITES,
    **batch_norm.ON_SITES,
    **flow.ON_SITES,
    **updates.ON_SITES,
    **landscape.ON_SITES,
    **similarity.ON_SITES,
    **tickets.ON_SITES,
}


#: Those that the narrow networks were not made for.
_OF_RUNS_THAT_LEARN: Mapping[str, SiteJudge] = {"C13": accuracy.c13, "C52": overall.c52}
#: Those whose half about large networks is another function.
_OF_IMAGES: Mapping[str, SiteJudge] = {"C06": learning.c06_gain, "C44": tickets.c44_late}


def _on(site: Site, *more: Mapping[str, SiteJudge]) -> dict[str, Judge]:
    claims = {id: judged for found in (_ON_SITES, *more) for id, judged in found.items()}
    return {id: partial(claims[id], site=site) for id in sorted(claims)}


#: Id -> the function that judges the claim by the runs on MNIST, in the order of the paper.
CLAIMS: Mapping[str, Judge] = dict(
    sorted(
        {
            **signal.CLAIMS,
            **start.CLAIMS,
            **learning.CLAIMS,
            **accuracy.CLAIMS,
            **flow.CLAIMS,
            **curvature.CLAIMS,
            **similarity.CLAIMS,
            **ensembles.CLAIMS,
            **tickets.CLAIMS,
            **mlp.CLAIMS,
            **overall.CLAIMS,
            **_on(MNIST, _OF_RUNS_THAT_LEARN),
        }.items()
    )
)
#: The claims about ImageNet by the runs on CIFAR-10, on the groups of :mod:`sparseflow.paper.matrix.cifar`.
CIFAR_CLAIMS: Mapping[str, Judge] = {
    id: withdrawn(id, judged) if id in REASONS else judged for id, judged in _on(CIFAR, _OF_IMAGES).items()
}
#: The same by networks that learn, on the groups of :mod:`sparseflow.paper.matrix.cifar_long`.
CIFAR_LONG_CLAIMS: Mapping[str, Judge] = _on(CIFAR_LONG, _OF_IMAGES, _OF_RUNS_THAT_LEARN)
#: The claims that read groups of the paper's own networks, which are trained on ImageNet.
IMAGENET_CLAIMS: Mapping[str, Judge] = {
    id: judged for id, judged in _on(IMAGENET, _OF_RUNS_THAT_LEARN).items() if id in ("C09", "C10", "C13", "C52")
}


def judge(evidence: Evidence, claims: Mapping[str, Judge] = CLAIMS) -> list[Verdict]:
    """The verdicts on the claims, in order; a claim that lacks runs is inconclusive, and its note says what to type.

    Claims share runs, so their p-values are corrected together by Benjamini and Yekutieli, which holds whatever their
    dependence; within a claim every part must be shown, and no correction is due. What holds by itself and is not below
    0.05 after correction is inconclusive.

    Args:
        evidence: Runs and measurements.
        claims: Id -> the function that judges it; default all claims on MNIST.

    >>> verdicts = judge(Evidence({}, {}))
    >>> {verdict.verdict for verdict in verdicts}, {verdict.p_value for verdict in verdicts}
    ({'inconclusive'}, {None})
    """
    return corrected([_judge(id, judged, evidence) for id, judged in claims.items()])


def corrected(verdicts: Sequence[Verdict], *, rate: float = 0.05) -> list[Verdict]:
    """The verdicts with p-values corrected for their number.

    Args:
        verdicts: All that are judged together.
        rate: Of false discoveries.

    Reference: Benjamini and Yekutieli (2001).
    """
    tested = [verdict for verdict in verdicts if verdict.p_value is not None]
    if not tested:
        return list(verdicts)
    found = stats.false_discovery_control([verdict.p_value for verdict in tested], method="by")
    by_id = {verdict.id: float(p) for verdict, p in zip(tested, found, strict=True)}
    return [_corrected(verdict, by_id.get(verdict.id), len(tested), rate) for verdict in verdicts]


def _corrected(verdict: Verdict, p: float | None, tests: int, rate: float) -> Verdict:
    if p is None or verdict.verdict != "held" or p < rate:
        return replace(verdict, p_corrected=p)
    note = f"{verdict.note} By itself this is shown; corrected for {tests} tests (p = {p:.2g}) it is not."
    return replace(verdict, p_corrected=p, verdict="inconclusive", note=note)


def _judge(id: str, judged: Judge, evidence: Evidence) -> Verdict:
    try:
        return judged(evidence)
    except NotEnoughRunsError as error:
        return undecided(id, " ".join(str(error).split()))
