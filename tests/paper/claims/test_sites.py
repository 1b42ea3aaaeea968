"""Claims about networks that MNIST does not need: each can hold, fail, and stay open."""

from __future__ import annotations

from typing import Any

import pytest

from sparseflow.lab.page.evidence import Evidence
from sparseflow.paper.claims import IMAGENET_CLAIMS, judge
from sparseflow.paper.claims.verdict import Verdict
from sparseflow.training.runs import Run
from synthetic_runs import runs_like

METHODS, INITS = ("scratch", "set", "rigl"), ("dense", "liu", "sparse")
Groups = dict[str, list[Run]]


def verdict_on(claim: str, groups: Groups) -> Verdict:
    """What is made of a claim on ImageNet if this is all that was run."""
    (verdict,) = judge(Evidence(groups, {}), {claim: IMAGENET_CLAIMS[claim]})
    return verdict


def c09(*, count: int = 5, spread: float = 0.1, **settings: Any) -> Groups:
    """All alike but Ours of RigL, if said."""
    found = {f"resnet50/{method}/{init}": runs_like(count, std=spread) for method in METHODS for init in INITS}
    return found | {"resnet50/rigl/sparse": runs_like(count, **{"std": spread, **settings})}


def c10(*, count: int = 5, start: float, later: float = 1.0) -> Groups:
    """Norms of Ours, relative to those of Original."""
    return {
        "resnet50/scratch/dense": runs_like(count, norm=1.0, spread=0.01),
        "resnet50/scratch/sparse": runs_like(count, norm=lambda share: start if share < 0.05 else later, spread=0.01),
    }


def c13(*, count: int = 5, small: float) -> Groups:
    return {f"resnet50/scratch/{init}": runs_like(count, accuracy=70.0) for init in INITS} | {
        "resnet50/small_dense": runs_like(count, method="dense", accuracy=small)
    }


def c52(*, count: int = 5, erk: float) -> Groups:
    return {
        "vgg16/scratch/sparse": runs_like(count, accuracy=erk),
        "vgg16/scratch/sparse/uniform": runs_like(count, accuracy=60.0),
    }


@pytest.mark.parametrize(
    ("claim", "groups", "verdict"),
    [
        ("C09", c09(), "held"),
        ("C09", c09(accuracy=92.0), "failed"),
        ("C09", c09(std=8.0), "inconclusive"),
        ("C10", c10(start=2.0), "held"),
        ("C10", c10(start=0.5), "failed"),
        ("C10", c10(start=2.0, later=1.5), "failed"),
        ("C13", c13(small=72.0), "held"),
        ("C13", c13(small=69.0), "failed"),
        ("C52", c52(erk=62.0), "held"),
        ("C52", c52(erk=58.0), "failed"),
    ],
)
def test_verdicts(claim: str, groups: Groups, verdict: str) -> None:
    found = verdict_on(claim, groups)
    assert found.verdict == verdict, found


@pytest.mark.parametrize(
    ("claim", "groups"), [("C09", c09(count=2)), ("C10", c10(count=2, start=2.0)), ("C52", c52(count=2, erk=62.0))]
)
def test_too_few_runs_give_no_p_value(claim: str, groups: Groups) -> None:
    found = verdict_on(claim, groups)
    assert (found.verdict, found.p_value) == ("inconclusive", None)
    assert "2 finished runs of at least 3 needed" in found.note
