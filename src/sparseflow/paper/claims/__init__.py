"""The paper's 53 claims, one function per claim from the evidence to a verdict; printed/claims.csv states them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Protocol

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
from sparseflow.paper.claims.sites import CIFAR, IMAGENET, MNIST, Site
from sparseflow.paper.claims.verdict import Verdict, undecided

Judge = Callable[[Evidence], Verdict]


class _SiteJudge(Protocol):
    def __call__(self, evidence: Evidence, site: Site) -> Verdict: ...


#: Id -> the function that judges the claim on any site.
_ON_SITES: Mapping[str, _SiteJudge] = {
    **start.ON_SITES,
    **accuracy.ON_SITES,
    **batch_norm.ON_SITES,
    **flow.ON_SITES,
    **updates.ON_SITES,
    **landscape.ON_SITES,
    **similarity.ON_SITES,
    **tickets.ON_SITES,
}


def _on(site: Site) -> dict[str, Judge]:
    return {id: partial(judged, site=site) for id, judged in _ON_SITES.items()}


#: Id -> the function that judges the claim by the runs on MNIST, in the order of the paper.
CLAIMS: Mapping[str, Judge] = dict(
    sorted(
        {
            **signal.CLAIMS,
            **start.CLAIMS,
            **accuracy.CLAIMS,
            **flow.CLAIMS,
            **curvature.CLAIMS,
            **similarity.CLAIMS,
            **ensembles.CLAIMS,
            **tickets.CLAIMS,
            **mlp.CLAIMS,
            **overall.CLAIMS,
            **_on(MNIST),
        }.items()
    )
)
#: The claims about ImageNet by the runs on CIFAR-10, on the groups of :mod:`sparseflow.paper.matrix.cifar`.
CIFAR_CLAIMS: Mapping[str, Judge] = dict(
    sorted({**_on(CIFAR), "C06": accuracy.c06_gain, "C44": tickets.c44_late}.items())
)
#: The claims that read groups of the paper's own networks, which are trained on ImageNet.
IMAGENET_CLAIMS: Mapping[str, Judge] = {
    "C09": _on(IMAGENET)["C09"],
    "C10": _on(IMAGENET)["C10"],
    "C13": CLAIMS["C13"],
    "C52": CLAIMS["C52"],
}


def judge(evidence: Evidence, claims: Mapping[str, Judge] = CLAIMS) -> list[Verdict]:
    """The verdicts on the claims, in order; a claim that lacks runs is inconclusive, and its note says what to type.

    Args:
        evidence: Runs and measurements.
        claims: Id -> the function that judges it; default all claims on MNIST.

    >>> verdicts = judge(Evidence({}, {}))
    >>> {verdict.verdict for verdict in verdicts}, {verdict.p_value for verdict in verdicts}
    ({'inconclusive'}, {None})
    """
    return [_judge(id, judged, evidence) for id, judged in claims.items()]


def _judge(id: str, judged: Judge, evidence: Evidence) -> Verdict:
    try:
        return judged(evidence)
    except NotEnoughRunsError as error:
        return undecided(id, " ".join(str(error).split()))
