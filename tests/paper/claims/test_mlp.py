"""Claims about the MLP: each can hold, fail, and stay open."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest

from sparseflow.training.runs import Run
from synthetic_runs import runs_like, verdict_on
from synthetic_tables import Rows, barrier_rows, on_masks

Groups = dict[str, list[Run]]


def c48(*, count: int = 20, original: float = 96.0, std: float = 0.3, liu: float = 96.7) -> Groups:
    found = {}
    for init, accuracy in (("dense", original), ("sparse", 96.7), ("liu", liu)):
        found[f"mlp/scratch/{init}"] = runs_like(count, accuracy=accuracy, std=std)
    return found


def c49(*, count: int = 10, std: float = 0.1, **changed: float) -> Groups:
    accuracies = {
        "set/dense": 96.49,
        "set/liu": 96.5,
        "set/sparse": 96.48,
        "scratch/sparse": 96.7,
        "rigl/sparse": 96.94,
        "lottery": 97.73,
    } | {name.replace("_", "/"): accuracy for name, accuracy in changed.items()}
    return {
        f"mlp/{name}": runs_like(count, accuracy=accuracy, std=std if name == "set/dense" else 0.1)
        for name, accuracy in accuracies.items()
    }


def c50(
    *,
    count: int = 5,
    start: float = 1.0,
    rigl: float = 1.5,
    change: tuple[float, float] = (0.1, 0.02),
    lottery: float = 0.002,
    scratch: float = 2.0,
    spread: float = 0.05,
) -> tuple[Groups, dict[str, pd.DataFrame]]:
    """Norms of Ours and of RigL+, changes at updates, barriers."""
    groups = {
        "mlp/scratch/dense": runs_like(count, norm=0.05),
        "mlp/scratch/sparse": runs_like(count, norm=start),
        "mlp/scratch/liu": runs_like(count, norm=start),
        "mlp/rigl/sparse": runs_like(count, norm=rigl, method="rigl", change=change, spread=spread),
    }
    rows: Rows = [
        *on_masks(barrier_rows("mlp-tickets/lottery", lottery)),
        *on_masks(barrier_rows("mlp-tickets/scratch", scratch)),
    ]
    return groups, {"barriers": pd.DataFrame(rows)}


@pytest.mark.parametrize(
    ("claim", "groups", "expected"),
    [
        ("C48", c48(), "held"),
        ("C48", c48(original=97.0), "failed"),
        ("C48", c48(liu=95.9), "failed"),  # Ours improves, Liu does not
        ("C48", c48(original=96.65), "inconclusive"),
        ("C49", c49(), "held"),
        ("C49", c49(set_dense=95.9), "failed"),
        ("C49", c49(scratch_sparse=97.0), "failed"),
        ("C49", c49(set_sparse=97.0), "failed"),
        ("C49", c49(lottery=97.2), "failed"),  # 0.26 points above RigL
        ("C49", c49(std=2.0), "inconclusive"),
    ],
)
def test_accuracy_of_the_mlp(claim: str, groups: Groups, expected: str) -> None:
    found = verdict_on(claim, groups)
    assert found.verdict == expected, found


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({}, "held"),
        ({"start": 0.1}, "failed"),  # twice the norm of Original, not three times
        ({"change": (-0.1, -0.2)}, "failed"),
        ({"change": (0.1, 0.2)}, "failed"),
        ({"rigl": 0.9}, "failed"),
        ({"lottery": 0.3}, "failed"),
        ({"scratch": 0.05}, "failed"),
        ({"rigl": 1.2, "spread": 0.6}, "inconclusive"),
    ],
)
def test_gradients_and_interpolation_of_the_mlp(changed: dict[str, Any], expected: str) -> None:
    groups, tables = c50(**changed)
    found = verdict_on("C50", groups, **tables)
    assert found.verdict == expected, found


@pytest.mark.parametrize(
    ("claim", "groups", "tables", "missing"),
    [
        ("C48", c48(count=19), {}, "mlp/scratch/dense has 19 finished runs of at least 20 needed"),
        ("C49", c49(count=9), {}, "mlp/set/dense has 9 finished runs of at least 10 needed"),
        ("C50", *c50(count=2), "mlp/scratch/dense has 2 finished runs of at least 3 needed"),
        ("C50", *c50(count=4), "mlp/rigl/sparse has 4 finished runs of at least 5 needed"),
        ("C50", c50()[0], {}, "barriers was not measured"),
    ],
)
def test_too_few_runs(claim: str, groups: Groups, tables: dict[str, pd.DataFrame], missing: str) -> None:
    found = verdict_on(claim, groups, **tables)
    assert (found.verdict, found.p_value) == ("inconclusive", None)
    assert missing in found.note


def test_the_parts_that_fail_are_named() -> None:
    groups, tables = c50(rigl=0.9)
    assert "training (C21) failed, tickets (C34) held" in verdict_on("C50", groups, **tables).ours
