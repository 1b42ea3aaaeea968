"""What the table of runs says, against tables by hand, scipy, and the definition of a resampled rank."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from sparseflow.compare.statistics import by_seed, effects, kendall, outcomes, rank_intervals, stability

ACCURACY = {"scratch": [90.0, 91.0, 95.0], "rigl": [92.0, 92.0, 97.0], "set": [10.0, 93.0, 94.0]}


def runs(sparsity: float = 0.9, budget: str = "steps", accuracy: dict[str, list[float]] = ACCURACY) -> pd.DataFrame:
    rows = [
        {
            "network": "mlp", "sparsity": sparsity, "method": method, "budget": budget, "seed": seed,
            "accuracy": value, "learned": value >= 12, "diverged": value < 10.5, "steps": 100, "flops": 1e9,
            "seconds": 2.0, "density": 0.1,
        }
        for method, values in accuracy.items() for seed, value in enumerate(values)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def test_outcomes_by_hand() -> None:
    """RigL gains 2, 1 and 2 points on static masks; one run of SET diverged, and counts in its mean."""
    table: Any = outcomes(runs()).set_index("method")
    gains = np.array([2.0, 1.0, 2.0])
    assert table.loc["rigl", "difference"] == pytest.approx(gains.mean())
    low, high = stats.t.interval(0.95, 2, gains.mean(), stats.sem(gains))
    assert table.loc["rigl", ["difference_low", "difference_high"]].tolist() == pytest.approx([low, high])
    assert np.isnan(table.loc["scratch", "difference"])
    assert table.loc["set", "mean"] == pytest.approx(197 / 3)
    assert table.loc["set", ["n", "not_learned", "diverged", "rank"]].tolist() == [3, 1, 1, 3]
    interval = stats.binomtest(1, 3).proportion_ci(0.95, method="exact")
    assert table.loc["set", ["not_learned_low", "not_learned_high"]].tolist() == pytest.approx(
        [100 * interval.low, 100 * interval.high]
    )


def test_only_seeds_that_all_methods_have_are_paired() -> None:
    table = runs()
    table = table[~((table["method"] == "rigl") & (table["seed"] == 1))]
    assert [int(str(seed)) for seed in by_seed(table).columns] == [0, 2]
    assert outcomes(table).set_index("method").loc["rigl", "difference"] == pytest.approx(2.0)


def test_ranks_of_resampled_seeds() -> None:
    """Two methods that win on one of two seeds each: a resample of one seed twice, half of all, decides for one."""
    ranks, low, high = rank_intervals(np.array([[1.0, 4.0], [2.0, 3.0]]), resamples=4000)
    assert (ranks.tolist(), low.tolist(), high.tolist()) == ([1.5, 1.5], [1.0, 1.0], [2.0, 2.0])


def test_stability_by_hand() -> None:
    """The orders of seeds 1 and 2 at 90 % zeros, and the same accuracies at both sparsities."""
    table: Any = stability(pd.concat([runs(), runs(0.95)]))
    seeds = table[table["between"] == "seeds"]
    pairs = [kendall(*(np.array([v[k] for v in ACCURACY.values()]) for k in pair)) for pair in ((0, 1), (0, 2), (1, 2))]
    assert seeds["tau"].tolist() == pytest.approx([np.mean(pairs)] * 2)
    (both,) = table[table["between"] == "sparsities"].itertuples()
    assert (both.tau, both.where, both.methods) == (1.0, "0.9 and 0.95", 3)
    assert -1 <= both.tau_low <= both.tau_high <= 1


def test_one_seed_has_no_intervals() -> None:
    """Its page is written all the same."""
    table = runs(accuracy={name: values[:1] for name, values in ACCURACY.items()})
    found: Any = outcomes(table).set_index("method")
    assert found.loc["rigl", "difference"] == 2.0
    ends = ["low", "high", "difference_low", "difference_high", "rank_low", "rank_high"]
    assert found[ends].isna().all(axis=None)
    assert found["rank"].tolist() == [2, 1, 3]
    assert np.isnan(stability(table)["tau"]).all()
    two: Any = stability(pd.concat([table, table.assign(sparsity=0.95)])).set_index("between")
    assert two.loc["sparsities", "tau"] == 1.0
    assert two.loc["sparsities", ["tau_low", "tau_high"]].isna().all()


def test_effects_are_free_of_other_factors() -> None:
    """An additive table over the array: the gain of a level is its own term, less the mean of the three."""
    from sparseflow.compare.search import L9

    terms = {"init": [0.0, 2.0, 7.0], "period": [1.0, 4.0, 1.0]}
    rows = [
        {
            "network": "mlp", "sparsity": sparsity, "method": method, "init": row[1], "period": row[3],
            "accuracy": 50 * sparsity + 30 * row[0] + terms["init"][row[1]] + terms["period"][row[3]],
            "learned": True, "chosen": number == 8,
        }
        for sparsity in (0.8, 0.9) for method in ("set", "rigl") for number, row in enumerate(L9)
    ]  # fmt: skip
    found: Any = effects(pd.DataFrame(rows), ["init", "period"]).set_index(["factor", "level"])
    assert found.loc["init", "gain"].tolist() == pytest.approx([-3.0, -1.0, 4.0])
    assert found.loc["period", "gain"].tolist() == pytest.approx([-1.0, 2.0, -1.0])
    assert found["cells"].tolist() == [4] * 6
    assert found.loc["init", "n"].tolist() == [12] * 3
