"""Claims about final accuracy: each can hold, fail, and stay open."""

from __future__ import annotations

from typing import Any

import pytest

from sparseflow.paper.claims.sites import MNIST
from synthetic_runs import runs_like, verdict_on

METHODS = ("scratch", "set", "rigl")
Settings = dict[str, Any]


def collapses(*, count: int = 20, ours: int = 0, liu: int = 0, **original: int) -> dict[str, Any]:
    """Three methods; 8, 8 and 6 of Original's runs never learn, or as said."""
    stuck = {"scratch": 8, "set": 8, "rigl": 6} | original
    found = {}
    for method in METHODS:
        found[MNIST.cell("lenet5", method, "dense")] = runs_like(count, stuck=stuck[method])
        found[MNIST.cell("lenet5", method, "sparse")] = runs_like(20, stuck=ours)
        found[MNIST.cell("lenet5", method, "liu")] = runs_like(20, stuck=liu)
    return found


def c08(*, count: int = 10, **mlp_rigl_liu: float) -> dict[str, Any]:
    found = {
        MNIST.cell(network, method, init): runs_like(count)
        for network in ("lenet5", "mlp")
        for method in METHODS
        for init in ("liu", "sparse")
    }
    return found | {"mlp/rigl/liu": runs_like(count, **mlp_rigl_liu)}  # type: ignore[arg-type]


def c20(*, count: int = 10, **inverted: float) -> dict[str, Any]:
    return {
        f"lenet5/{method}/sparse{suffix}": runs_like(count, method=method, **settings)
        for suffix in ("", "/f100")
        for method, settings in (("rigl", {"accuracy": 98.0}), ("rigl_inverted", inverted))
    }


def c23(*, count: int = 5, **mlp_rigl: float) -> dict[str, Any]:
    found = {
        MNIST.cell(network, method, "sparse"): runs_like(count) for network in ("lenet5", "mlp") for method in METHODS
    }
    found["lenet5/rigl/sparse/f100"] = runs_like(count, accuracy=98.0)
    return found | {"mlp/rigl/sparse": runs_like(count, **{"accuracy": 98.0, **mlp_rigl})}  # type: ignore[arg-type]


def c24(*, count: int = 5, small: Settings | None = None, rigl: Settings | None = None) -> dict[str, Any]:
    return {
        "lenet5/small_dense": runs_like(
            count, **{"method": "dense", "model": "lenet5-small", "accuracy": 98.2, "norm": 0.2, **(small or {})}
        ),
        "lenet5/rigl/sparse/f100": runs_like(
            count, **{"method": "rigl", "accuracy": 97.0, "norm": 0.5, **(rigl or {})}
        ),
    }


#: A norm that is high at mask updates alone, which are the multiples of 100.
ON_CYCLE = {"norm": lambda share: 9.0 if round(1000 * share) % 100 == 0 else 0.1}


@pytest.mark.parametrize(
    ("claim", "groups", "expected"),
    [
        ("C06", collapses(), "held"),
        ("C06", collapses(rigl=4), "inconclusive"),  # 4 of 20 pairs differ, all one way: p = 1/16
        ("C06", collapses(rigl=0), "inconclusive"),
        ("C06", collapses(rigl=0, ours=8), "failed"),  # Ours fails where Original does not
        ("C06", collapses(count=19), "inconclusive"),
        ("C07", collapses(), "held"),
        ("C07", collapses(count=80, scratch=0), "failed"),  # upper bound 4.5 %
        ("C07", collapses(scratch=1), "inconclusive"),  # exactly 5 %
        ("C07", collapses(scratch=2), "inconclusive"),  # 10 %, lower bound 1.2 %
        ("C07", collapses(ours=1), "failed"),
        ("C07", collapses(liu=1), "failed"),
        ("C07", collapses(count=19), "inconclusive"),
        ("C08", c08(), "held"),
        ("C08", c08(accuracy=96.0), "failed"),
        ("C08", c08(accuracy=96.6, std=1.0), "inconclusive"),
        ("C08", c08(count=9), "inconclusive"),
        ("C20", c20(accuracy=97.0), "held"),
        ("C20", c20(accuracy=98.2), "failed"),
        ("C20", c20(accuracy=98.0), "inconclusive"),
        ("C20", c20(accuracy=97.9, std=0.6), "inconclusive"),
        ("C20", c20(accuracy=97.0, count=9), "inconclusive"),
        ("C23", c23(), "held"),
        ("C23", c23(accuracy=96.9), "failed"),
        ("C23", c23(accuracy=97.1, std=1.0), "inconclusive"),
        ("C23", c23(count=2), "inconclusive"),
        ("C24", c24(), "held"),
        ("C24", c24(small={"accuracy": 96.9}), "failed"),
        ("C24", c24(rigl={"norm": 0.1}), "failed"),
        ("C24", c24(rigl=ON_CYCLE), "failed"),
        ("C24", c24(small={"accuracy": 97.1, "std": 1.0}), "inconclusive"),
        ("C24", c24(count=2), "inconclusive"),
    ],
)
def test_accuracy(claim: str, groups: dict[str, Any], expected: str) -> None:
    verdict = verdict_on(claim, groups)
    assert verdict.verdict == expected, verdict


@pytest.mark.parametrize(
    ("claim", "groups", "missing"),
    [
        ("C06", collapses(count=19), "lenet5/scratch/dense has 19 finished runs of at least 20 needed"),
        ("C07", collapses(count=19), "lenet5/scratch/dense has 19 finished runs of at least 20 needed"),
        ("C08", c08(count=9), "lenet5/scratch/liu has 9 finished runs of at least 10 needed"),
        ("C13", {}, "lenet5/small_dense has 0 finished runs of at least 3 needed"),
        ("C20", c20(count=9), "lenet5/rigl/sparse has 9 finished runs of at least 10 needed"),
        ("C23", c23(count=2), "lenet5/scratch/sparse has 2 finished runs of at least 3 needed"),
        ("C24", c24(count=2), "lenet5/rigl/sparse/f100 has 2 finished runs of at least 3 needed"),
    ],
)
def test_too_few_runs_say_so_and_give_no_p_value(claim: str, groups: dict[str, Any], missing: str) -> None:
    verdict = verdict_on(claim, groups)
    assert (verdict.verdict, verdict.p_value) == ("inconclusive", None)
    assert missing in verdict.note


def test_p_value_is_that_of_the_weakest_part() -> None:
    """McNemar's exact test by hand: of 4 pairs in which one fails it is Original in all, (1/2)^4."""
    assert verdict_on("C06", collapses(rigl=4)).p_value == pytest.approx(1 / 16)


def test_old_criterion_and_verdict_stand_beside_the_new() -> None:
    """By Fisher's test 4/20 against 0/20 is not significant either: C(20, 4) / C(40, 4) = 0.053; 8/20 is."""
    every500 = {
        f"lenet5/{method}/{init}": runs_like(20, stuck=8 if init == "dense" else 0)
        for method in METHODS
        for init in ("dense", "sparse")
    }
    former = verdict_on("C06", {**every500, **collapses(rigl=4)}).former
    assert former is not None
    assert former.verdict == "held"
    assert "500" in former.criterion
    assert "pairs" in former.reason
    assert verdict_on("C06", collapses()).former is None


def test_starts_beyond_table_1_are_counted() -> None:
    """Of 20 and 60 starts again one of Liu fails; the same start under SET and RigL is not counted again."""
    groups = collapses() | {"lenet5/scratch/liu/again": runs_like(60, stuck=1)}
    verdict = verdict_on("C07", groups)
    assert "Original 8/20, Liu 1/80, Ours 0/20" in verdict.ours
    assert "of Original's, SET rescues 0 of 8, RigL rescues 2 of 8" in verdict.ours
    assert verdict.design == "starts of Scratch"


def test_runs_that_did_not_learn_are_left_out_of_what_the_others_reach() -> None:
    verdict = verdict_on("C06", collapses(scratch=20))
    assert "Scratch none vs 97.00±0.06 (20)" in verdict.ours
    assert "SET: McNemar's exact, 8 of 20 vs 0 of 20" in verdict.statistic


def test_collapses_without_weight_decay_are_reported() -> None:
    groups = collapses() | {"lenet5/set/dense/wd0": runs_like(10, stuck=1)}
    assert verdict_on("C07", groups).ours.endswith("; runs of Original without weight decay 1/10")


def test_c13_reports_and_does_not_judge() -> None:
    groups = {
        "lenet5/small_dense": runs_like(3, method="dense", model="lenet5-small", accuracy=98.0),
        "lenet5/scratch/sparse": runs_like(3, accuracy=97.5),
        "mlp/small_dense": runs_like(3, accuracy=91.0),
        "mlp/scratch/sparse": runs_like(3, accuracy=96.0),
    }
    verdict = verdict_on("C13", groups)
    assert (verdict.verdict, verdict.p_value) == ("inconclusive", None)
    assert verdict.ours == (
        "LeNet5: Small Dense 98.00±0.08 (3), Scratch+ 97.50±0.08 (3); "
        "MLP: Small Dense 91.00±0.08 (3), Scratch+ 96.00±0.08 (3)"
    )
