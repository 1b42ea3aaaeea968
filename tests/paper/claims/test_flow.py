"""Claims about the gradient norm during training, and at mask updates: each can hold, fail, and stay open."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest

from sparseflow.paper.claims import CLAIMS
from synthetic_runs import runs_like, verdict_on

Settings = dict[str, Any]


def c11(*, count: int = 5, rises: tuple[float, float, float] = (2.0, 1.5, 1.2), noise: float = 0.0) -> dict[str, Any]:
    """Norms that change by a factor right after the steps 300, 700 and 900, when the rate drops."""

    def norm(share: float) -> float:
        return math.prod(rise for drop, rise in zip((0.3, 0.7, 0.9), rises, strict=True) if share > drop)

    runs = [
        runs_like(count, norm=lambda share, sign=sign: norm(share) * math.exp(sign * noise * (share > 0.3)))[seed]  # type: ignore[misc]
        for seed, sign in enumerate([1, -1, 1, -1, 0][:count])
    ]
    return {"lenet5/scratch/sparse/step": runs}


def c12(*, count: int = 5, norm: float = 1.0, spread: float = 0.05) -> dict[str, Any]:
    return {
        "lenet5/small_dense": runs_like(count, norm=norm, spread=spread, method="dense", model="lenet5-small"),
        "lenet5/scratch/sparse": runs_like(count, norm=0.5, spread=spread),
    }


def updated(norm: float, *, after: float = 9.0) -> Callable[[float], float]:
    """A norm that is far higher at the multiples of 100, right after mask updates, unless seen right before."""
    return lambda share: after if round(1000 * share) % 100 == 0 else norm


def c15(*, count: int = 5, **changed: Settings) -> dict[str, Any]:
    """RigL raises the norm of Ours by a fifth, and not that of Liu."""
    settings = {"liu": {"norm": 0.5}, "sparse": {"norm": 0.6}}
    found = {}
    for init, own in settings.items():
        found[f"lenet5/rigl/{init}/f100"] = runs_like(count, method="rigl", **{**own, **changed.get(init, {})})
        found[f"lenet5/scratch/{init}"] = runs_like(count)
    return found


def c21(*, count: int = 5, **rigl: Any) -> dict[str, Any]:
    return {
        "lenet5/rigl/sparse/f100": runs_like(count, method="rigl", **{"norm": 0.7, **rigl}),
        "lenet5/scratch/sparse": runs_like(count),
    }


def updates(*, count: int = 5, rigl: Settings | None = None, moved: Settings | None = None) -> dict[str, Any]:
    """RigL's updates add 0.1 in the first half and 0.02 in the second; those of SET and Inverted 0.01 and 0."""
    small = {"change": (0.01, 0.0), **(moved or {})}
    return {
        "lenet5/rigl/sparse/f100": runs_like(count, method="rigl", **{"change": (0.1, 0.02), **(rigl or {})}),
        "lenet5/set/sparse/f100": runs_like(count, method="set", **small),
        "lenet5/rigl_inverted/sparse/f100": runs_like(count, method="rigl_inverted", **small),
    }


@pytest.mark.parametrize(
    ("claim", "groups", "expected"),
    [
        ("C12", c12(), "held"),
        ("C12", c12(norm=0.25), "held"),  # either sign
        ("C12", c12(norm=0.5), "failed"),
        ("C12", c12(norm=0.6, spread=0.3), "inconclusive"),
        ("C12", c12(count=4), "inconclusive"),
        ("C15", c15(), "held"),
        ("C15", c15(sparse={"norm": updated(0.6)}), "held"),
        ("C15", c15(liu={"norm": 0.7}), "failed"),
        ("C15", c15(sparse={"norm": 0.45}), "failed"),
        ("C15", c15(sparse={"norm": updated(0.45)}), "failed"),  # higher only right after updates
        ("C15", c15(sparse={"norm": 0.51, "spread": 0.2}), "inconclusive"),
        # Only the gain of Ours is significant, but not its difference from that of Liu.
        ("C15", c15(liu={"norm": 0.54, "spread": 0.3}), "inconclusive"),
        ("C15", c15(count=4), "inconclusive"),
        ("C21", c21(), "held"),
        ("C21", c21(norm=0.4), "failed"),
        ("C21", c21(norm=updated(0.4)), "failed"),  # higher only right after updates
        ("C21", c21(norm=0.52, spread=0.2), "inconclusive"),
        ("C21", c21(count=2), "inconclusive"),
        ("C17", updates(), "held"),
        ("C17", updates(rigl={"change": (-0.1, -0.2)}), "failed"),
        ("C17", updates(rigl={"change": (0.1, 0.2)}), "failed"),
        ("C17", updates(rigl={"change": (0.1, 0.02), "spread": 2.0}), "inconclusive"),
        ("C17", updates(count=4), "inconclusive"),
        ("C18", updates(), "held"),
        ("C18", updates(moved={"change": (0.06, 0.0)}), "failed"),
        ("C18", updates(moved={"change": (0.049, 0.0), "spread": 0.2}), "inconclusive"),
        ("C18", updates(count=4), "inconclusive"),
        ("C19", updates(), "held"),
        ("C19", updates(moved={"change": (-0.05, 0.0)}), "held"),
        ("C19", updates(moved={"change": (0.03, 0.0)}), "failed"),
        ("C19", updates(moved={"change": (0.0199, 0.0), "spread": 0.2}), "inconclusive"),
        ("C19", updates(count=4), "inconclusive"),
    ],
)
def test_flow(claim: str, groups: dict[str, Any], expected: str) -> None:
    verdict = verdict_on(claim, groups)
    assert verdict.verdict == expected, verdict


@pytest.mark.parametrize(
    ("claim", "groups", "missing"),
    [
        ("C11", c11(count=2), "lenet5/scratch/sparse/step has 2 finished runs of at least 3 needed"),
        ("C12", c12(count=4), "lenet5/small_dense has 4 finished runs of at least 5 needed"),
        ("C15", c15(count=4), "lenet5/rigl/liu/f100 has 4 finished runs of at least 5 needed"),
        ("C21", c21(count=2), "lenet5/rigl/sparse/f100 has 2 finished runs of at least 3 needed"),
        ("C17", updates(count=4), "lenet5/rigl/sparse/f100 has 4 finished runs of at least 5 needed"),
        ("C18", updates(count=4), "lenet5/rigl/sparse/f100 has 4 finished runs of at least 5 needed"),
        ("C19", updates(count=4), "lenet5/rigl/sparse/f100 has 4 finished runs of at least 5 needed"),
    ],
)
def test_too_few_runs_say_so_and_give_no_p_value(claim: str, groups: dict[str, Any], missing: str) -> None:
    verdict = verdict_on(claim, groups)
    assert (verdict.verdict, verdict.p_value) == ("inconclusive", None)
    assert missing in verdict.note


@pytest.mark.parametrize("claim", ["C09", "C10"])
def test_claims_about_batch_norm_stay_open_whatever_was_run(claim: str) -> None:
    verdict = verdict_on(claim, c21())
    assert (verdict.verdict, verdict.p_value) == ("inconclusive", None)
    assert "batch norm" in verdict.note


def test_rises_are_those_the_norms_were_made_by() -> None:
    verdict = verdict_on("C11", c11())
    assert verdict.ours.endswith("norm after / before: 2.00 at 30 %, 1.50 at 70 %, 1.20 at 90 %")


@pytest.mark.parametrize(
    ("groups", "former"),
    [
        (c11(), "held"),
        (c11(rises=(2.0, 1.5, 0.9)), "failed"),
        (c11(rises=(1.1, 1.5, 1.2), noise=1.0), "inconclusive"),
    ],
)
def test_a_network_without_batch_norm_is_not_judged_for_one_with_it(groups: dict[str, Any], former: str) -> None:
    """Whatever LeNet5's gradient does, the claim about ResNet-50 stays open, and the old verdict is shown."""
    verdict = verdict_on("C11", groups)
    assert verdict.verdict == "inconclusive"
    assert verdict.former is not None
    assert verdict.former.verdict == former


def test_the_sign_is_told() -> None:
    assert verdict_on("C12", c12(norm=1.0)).note.endswith("larger.")
    assert verdict_on("C12", c12(norm=0.25)).note.endswith("smaller.")
    assert verdict_on("C18", updates(moved={"change": (-0.01, 0.0)})).ours.endswith("SET's lower it")


def test_the_norm_per_parameter_is_a_fiftieth_more() -> None:
    """2399 parameters against 2446: sqrt(2446 / 2399) = 1.00975."""
    verdict = verdict_on("C12", c12(norm=50.0))
    assert verdict.ours == "norm of Small Dense / Scratch+: 100.00, per parameter 100.97"


def test_updates_every_500_steps_are_reported() -> None:
    groups = c15() | {"lenet5/rigl/sparse": runs_like(5, method="rigl", norm=0.5 * math.e, update_every=500)}
    assert "Ours, off-cycle, every 500 +1.000" in verdict_on("C15", groups).ours


def test_runs_of_a_seed_are_pairs() -> None:
    """Norms that differ tenfold over seeds, RigL's a tenth above Scratch's at each: no doubt by pairs."""
    groups = {
        "lenet5/rigl/sparse/f100": runs_like(5, method="rigl", norm=0.55, spread=1.15),
        "lenet5/scratch/sparse": runs_like(5, norm=0.5, spread=1.15),
        "lenet5/rigl/sparse": runs_like(5, method="rigl", norm=0.55, spread=1.15),
    }
    verdict = verdict_on("C21", groups)
    assert (verdict.verdict, verdict.design) == ("held", "pairs by seed")
    assert verdict.former is not None
    assert verdict.former.verdict == "inconclusive"


def test_this_half_of_the_claims_is_complete() -> None:
    assert set(CLAIMS) >= {f"C{number:02d}" for number in range(1, 25)}
