"""Claims about where tickets start and end in weight space: each can hold, fail, and stay open."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest

from synthetic_runs import verdict_on
from synthetic_tables import Rows, barrier_rows, distances

SETTINGS = ("tickets", "mlp-tickets")


def areas(lottery: float = -6.0, scratch: float = -3.0, *, seeds: int = 5, spread: float = 0.1) -> pd.DataFrame:
    """Tickets have one start, hence one area."""
    return pd.DataFrame(
        [
            *barrier_rows("tickets/lottery", lottery, start="init", column="area", seeds=seeds, spread=0.0),
            *barrier_rows("tickets/scratch", scratch, start="init", column="area", seeds=seeds, spread=spread),
        ]
    )


def barriers(
    lottery: float = 0.002, scratch: float = 2.0, *, seeds: int = 5, spread: float = 0.1, **mlp: Any
) -> pd.DataFrame:
    """On the MLP as on LeNet5, or as said."""
    rows: Rows = []
    for setting in SETTINGS:
        own = {"lottery": lottery, "scratch": scratch, "seeds": seeds, "spread": spread}
        own |= mlp if setting == "mlp-tickets" else {}
        for method in ("lottery", "scratch"):
            rows += barrier_rows(f"{setting}/{method}", own[method], seeds=own["seeds"], spread=own["spread"])
    return pd.DataFrame(rows)


def start(lottery: float, scratch: float, **options: Any) -> pd.DataFrame:
    return distances(lottery, scratch, column="init", **options)


def end(lottery: float, scratch: float, **options: Any) -> pd.DataFrame:
    return distances(lottery, scratch, column="final", **options)


def one_pruning_run_to_the_contrary() -> pd.DataFrame:
    """Pruning run 0 has tickets that start farther away than Scratch."""
    table = start(13.0, 17.0)
    table.loc[(table["group"] == "tickets/lottery") & (table["prune_seed"] == 0), "init"] = 17.0
    return table


@pytest.mark.parametrize(
    ("claim", "table", "expected"),
    [
        ("C30", start(13.6, 17.5), "held"),
        ("C30", start(17.5, 13.6), "failed"),
        ("C30", start(13.6, 14.8), "failed"),  # significant, but the ratio is below 1.1
        ("C30", one_pruning_run_to_the_contrary(), "failed"),
        ("C30", start(13.6, 17.5, spread=0.3), "inconclusive"),  # always larger, but not by the Welch test
        ("C31", end(8.0, 25.6), "held"),
        ("C31", end(8.0, 15.0), "failed"),
        ("C32", end(8.0, 25.6), "held"),
        ("C32", end(14.0, 25.6), "failed"),
        ("C33", areas(), "held"),
        ("C33", areas(-3.0, -6.0), "failed"),
        ("C33", areas(-3.1, -3.0), "inconclusive"),
        ("C34", barriers(), "held"),
        ("C34", barriers(lottery=0.05), "failed"),
        ("C34", barriers(lottery=0.05, spread=3.0), "held"),  # the interval includes 0: so the criterion says
        ("C35", barriers(), "held"),
        ("C35", barriers(scratch=0.05), "failed"),  # below 0.1 nats
        ("C35", barriers(lottery=0.5), "failed"),  # not ten times as high
        ("C35", barriers(scratch=0.15, spread=0.9), "inconclusive"),
    ],
)
def test_landscape(claim: str, table: pd.DataFrame, expected: str) -> None:
    name = "distances" if "prune_seed" in table else "barriers"
    found = verdict_on(claim, {}, **{name: table})
    assert found.verdict == expected, found


@pytest.mark.parametrize("claim", ["C34", "C35"])
def test_both_networks_are_asked(claim: str) -> None:
    wrong = {"lottery": 0.05, "scratch": 0.06}
    assert verdict_on(claim, {}, barriers=barriers(**wrong)).verdict == "failed"
    table = barriers()
    assert verdict_on(claim, {}, barriers=table[table["group"].str.startswith("tickets")]).verdict == "inconclusive"
    mlp_alone = pd.concat([table[table["group"].str.startswith("tickets")], mlp_rows(**wrong)])
    assert verdict_on(claim, {}, barriers=mlp_alone).verdict == "failed"


def mlp_rows(*, lottery: float, scratch: float) -> pd.DataFrame:
    return pd.DataFrame(barrier_rows("mlp-tickets/lottery", lottery) + barrier_rows("mlp-tickets/scratch", scratch))


@pytest.mark.parametrize(
    ("claim", "tables", "missing"),
    [
        ("C30", {"distances": start(13.6, 17.5, prunes=2)}, "there are 2 pruning runs with distances"),
        ("C31", {"distances": end(8.0, 25.6, prunes=2)}, "there are 2 pruning runs with distances"),
        ("C32", {"distances": end(8.0, 25.6, seeds=4)}, "there are 4 rows of distances, group tickets/lottery"),
        ("C33", {"barriers": areas(seeds=2)}, "there are 2 rows of barriers, group tickets/lottery, start init"),
        ("C34", {"barriers": barriers(seeds=2)}, "there are 2 rows of barriers, group tickets/lottery, start solution"),
        ("C35", {"barriers": barriers(seeds=2)}, "there are 2 rows of barriers, group tickets/lottery, start solution"),
    ],
)
def test_too_few_runs(claim: str, tables: dict[str, pd.DataFrame], missing: str) -> None:
    found = verdict_on(claim, {}, **tables)
    assert (found.verdict, found.p_value) == ("inconclusive", None)
    assert missing in found.note


def test_ratio_of_distances_is_bounded_over_pruning_runs() -> None:
    """Five ratios of exactly 3.2 leave no doubt; ratios from 1 to 4 do."""
    sure = verdict_on("C31", {}, distances=end(8.0, 25.6))
    assert sure.ours.endswith("ratio 3.2 [3.2, 3.2]")
    assert "95 % interval 3.2 [3.2, 3.2] above 2" in sure.statistic
    table = end(8.0, 25.6)
    factor = {seed: (0.35, 0.7, 1.0, 1.1, 1.2)[seed] for seed in range(5)}
    scratch = table["group"] == "tickets/scratch"
    table.loc[scratch, "final"] *= table.loc[scratch, "prune_seed"].map(factor)
    assert verdict_on("C31", {}, distances=table).verdict == "inconclusive"


def test_tickets_of_one_pruning_run_are_one_value() -> None:
    """25 tickets and 25 scratch runs of 5 pruning runs are compared as 5 and 5."""
    found = verdict_on("C30", {}, distances=start(13.6, 17.5))
    assert "5 vs 5" in found.n
    assert "25" not in found.n


def test_embedding_claim_looks_at_the_first_pruning_run_alone() -> None:
    table = end(8.0, 25.6)
    table.loc[table["prune_seed"] > 0, "final"] = 1.0
    assert verdict_on("C32", {}, distances=table).verdict == "held"


def test_near_ties_of_distances_stay_open_by_permutation() -> None:
    """Halved on average by runs that overlap with Scratch: 2 of 5 tickets are as far away as Scratch."""
    table = end(1.0, 25.6)
    first = (table["prune_seed"] == 0) & (table["group"] == "tickets/lottery")
    table.loc[first, "final"] = [0.1, 0.1, 0.1, 26.0, 27.0]
    assert verdict_on("C32", {}, distances=table).verdict == "inconclusive"
