"""Claims about how training starts: each can hold, fail, and stay open."""

from __future__ import annotations

from typing import Any

import pytest

from sparseflow.training.runs import Run
from synthetic_runs import runs_like, verdict_on

Settings = dict[str, Any]


def c04(*, late: Settings, early: Settings, count: int = 20) -> dict[str, Any]:
    return {"lenet5/scratch/dense": runs_like(count, **late), "lenet5/scratch/sparse": runs_like(count, **early)}


def c05(*, network: str = "lenet5", count: int = 5, **changed: Settings) -> dict[str, Any]:
    """Ours and Liu start at 10 times the norm of Original; ``changed`` are the settings of one init of one network."""
    norms = {"dense": 0.034, "liu": 0.34, "sparse": 0.34}
    found = {}
    for name in ("lenet5", "mlp"):
        for init, norm in norms.items():
            settings = {"norm": norm} | (changed.get(init, {}) if name == network else {})
            found[f"{name}/scratch/{init}"] = runs_like(count, **settings)
    return found


def c14(*, count: int = 10, he: Settings | None = None, ours_he: Settings | None = None) -> dict[str, Any]:
    return {
        "lenet5/scratch/dense": runs_like(20, onset=100),
        "lenet5/scratch/dense/he": runs_like(count, **{"onset": 50, **(he or {})}),
        "lenet5/scratch/sparse": runs_like(20),
        "lenet5/scratch/sparse/he": runs_like(count, **(ours_he or {})),
    }


def c22(*, count: int = 20, scratch: int = 100, rigl: int = 50, moved: int = 100, stuck: int = 0) -> dict[str, Any]:
    return {
        "lenet5/scratch/dense": runs_like(20, onset=scratch, stuck=stuck),
        "lenet5/rigl/dense/f100": runs_like(count, method="rigl", onset=rigl, stuck=stuck),
        "lenet5/set/dense/f100": runs_like(20, method="set", onset=moved, stuck=stuck),
    }


LATER_ONLY = {"norm": lambda share: 0.34 if share > 0 else 0.05}
AT_ONCE_ONLY = {"norm": lambda share: 0.02 if share > 0 else 0.34}


@pytest.mark.parametrize(
    ("claim", "groups", "expected"),
    [
        # 500 of 11719 steps are 43 of the 1000 of these runs.
        ("C04", c04(late={"onset": 200}, early={"onset": 20}), "held"),
        ("C04", c04(late={"onset": 200, "stuck": 19}, early={"onset": 20}), "held"),
        ("C04", c04(late={"onset": 40}, early={"onset": 0}), "failed"),
        ("C04", c04(late={"onset": 190}, early={"onset": 20}), "failed"),  # 9.5 times later
        ("C04", c04(late={"stuck": 20}, early={"stuck": 20}), "failed"),
        ("C04", c04(late={"onset": 200}, early={"onset": 20}, count=19), "inconclusive"),
        ("C05", c05(), "held"),
        ("C05", c05(sparse=LATER_ONLY), "failed"),  # less than 3 times at step 0
        ("C05", c05(network="mlp", liu=AT_ONCE_ONLY), "failed"),  # lower until step 1000
        ("C05", c05(liu={"norm": 0.034 * 3.2, "spread": 1.0}), "inconclusive"),
        ("C05", c05(count=2), "inconclusive"),
        ("C14", c14(), "held"),
        ("C14", c14(he={"onset": 200}), "failed"),
        ("C14", c14(he={"onset": 100}), "inconclusive"),
        ("C14", c14(ours_he={"accuracy": 96.0}), "failed"),
        ("C14", c14(ours_he={"accuracy": 96.5, "std": 1.0}), "inconclusive"),
        ("C14", c14(he={"onset": 90, "stuck": 4}), "inconclusive"),  # six earlier than all, four never
        ("C14", c14(count=4), "inconclusive"),
        ("C22", c22(), "held"),
        ("C22", c22(stuck=12), "held"),  # twelve never start with either, and eight do so earlier
        ("C22", c22(stuck=16), "inconclusive"),  # four are too few
        ("C22", c22(moved=200), "failed"),  # SET later
        ("C22", c22(stuck=4), "held"),
        ("C22", c22(rigl=200), "failed"),
        ("C22", c22(moved=50), "failed"),
        ("C22", c22(count=19), "inconclusive"),
    ],
)
def test_start(claim: str, groups: dict[str, Any], expected: str) -> None:
    verdict = verdict_on(claim, groups)
    assert verdict.verdict == expected, verdict


@pytest.mark.parametrize(
    ("claim", "groups", "missing"),
    [
        ("C04", c04(late={}, early={}, count=19), "lenet5/scratch/dense has 19 finished runs of at least 20 needed"),
        ("C05", c05(count=2), "lenet5/scratch/dense has 2 finished runs of at least 3 needed"),
        ("C14", c14(count=4), "lenet5/scratch/dense/he has 4 finished runs of at least 5 needed"),
        ("C22", c22(count=19), "lenet5/rigl/dense/f100 has 19 finished runs of at least 20 needed"),
    ],
)
def test_too_few_runs_say_so_and_give_no_p_value(claim: str, groups: dict[str, Any], missing: str) -> None:
    verdict = verdict_on(claim, groups)
    assert (verdict.verdict, verdict.p_value) == ("inconclusive", None)
    assert missing in verdict.note
    assert "sparseflow reproduce" in verdict.note


def test_starts_are_compared_with_themselves() -> None:
    """Onsets spread far and alike, each of Scratch one measured step after RigL's: a doubt only if not paired."""
    onsets = [40 * seed + 100 for seed in range(20)]

    def group(delay: int, **settings: Any) -> list[Run]:
        return [runs_like(20, onset=onset + delay, **settings)[seed] for seed, onset in enumerate(onsets)]

    groups = {
        "lenet5/scratch/dense": group(10),
        "lenet5/rigl/dense/f100": group(0, method="rigl"),
        "lenet5/set/dense/f100": group(10, method="set"),
    }
    verdict = verdict_on("C22", groups)
    assert (verdict.verdict, verdict.design) == ("held", "pairs by seed")
    assert verdict.p_value == pytest.approx(2.0**-20)
    assert verdict.former is not None
    assert verdict.former.verdict == "inconclusive"


def test_a_method_that_delays_the_start_is_named() -> None:
    note = verdict_on("C22", c22(moved=200)).note
    assert note.endswith("changes when the flat start ends: of 20 starts 20 begin later, and 0 earlier.")


def test_runs_that_never_start_are_counted() -> None:
    verdict = verdict_on("C04", c04(late={"onset": 200, "stuck": 3}, early={"onset": 20}))
    assert "LeNet5 200 (3 of 20 never) vs 20, gradient norm" in verdict.ours


def test_onsets_of_ours_are_reported_where_there_are_some() -> None:
    groups = c22() | {"lenet5/rigl/sparse/f100": runs_like(3, method="rigl", onset=30)}
    assert "RigL 50, SET 100; from Ours: RigL 30" in verdict_on("C22", groups).ours
