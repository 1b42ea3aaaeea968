"""Claims about where tickets start and end in weight space: each can hold, fail, and stay open."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest

from synthetic_runs import verdict_on
from synthetic_tables import Rows, barrier_rows, distances, on_masks

SETTINGS = ("tickets", "mlp-tickets")


def areas(lottery: float = -6.0, scratch: float = -3.0, *, seeds: int = 5, spread: float = 0.1) -> pd.DataFrame:
    """Tickets have one start, hence one area."""
    return pd.DataFrame(
        [
            *on_masks(barrier_rows("tickets/lottery", lottery, start="init", column="area", seeds=seeds, spread=0.0)),
            *on_masks(
                barrier_rows("tickets/scratch", scratch, start="init", column="area", seeds=seeds, spread=spread)
            ),
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
            width = own.get(f"{method}_spread", own["spread"])
            rows += on_masks(barrier_rows(f"{setting}/{method}", own[method], seeds=own["seeds"], spread=width))
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
        ("C30", start(13.6, 17.5, spread=0.3), "held"),  # pruning runs differ, and each is compared with itself
        ("C31", end(8.0, 25.6), "held"),
        ("C31", end(8.0, 15.0), "failed"),
        ("C32", end(8.0, 25.6), "held"),
        ("C32", end(14.0, 25.6), "failed"),
        ("C33", areas(), "held"),
        ("C33", areas(-3.0, -6.0), "failed"),
        ("C33", areas(-3.1, -3.0), "inconclusive"),
        ("C34", barriers(), "held"),
        ("C34", barriers(lottery=0.05), "held"),  # 2.5 % of Scratch's
        ("C34", barriers(lottery=0.3), "failed"),
        ("C34", barriers(lottery=0.09, lottery_spread=0.5), "inconclusive"),
        ("C34", barriers(lottery=0.0, scratch=0.0), "inconclusive"),  # nothing to compare with
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
    both = (("mlp-tickets/lottery", lottery), ("mlp-tickets/scratch", scratch))
    return pd.DataFrame([row for group, mean in both for row in on_masks(barrier_rows(group, mean))])


@pytest.mark.parametrize(
    ("claim", "tables", "missing"),
    [
        ("C30", {"distances": start(13.6, 17.5, prunes=2)}, "there are 2 pruning runs with distances"),
        ("C31", {"distances": end(8.0, 25.6, prunes=2)}, "there are 2 pruning runs with distances"),
        ("C32", {"distances": end(8.0, 25.6, prunes=2)}, "there are 2 pruning runs with distances"),
        ("C33", {"barriers": areas(seeds=2)}, "there are 2 pruning runs with tickets/lottery and tickets/scratch in"),
        ("C34", {"barriers": barriers(seeds=2)}, "there are 2 pruning runs with tickets/lottery and tickets/scratch"),
        ("C35", {"barriers": barriers(seeds=2)}, "there are 2 pruning runs with tickets/lottery and tickets/scratch"),
    ],
)
def test_too_few_runs(claim: str, tables: dict[str, pd.DataFrame], missing: str) -> None:
    found = verdict_on(claim, {}, **tables)
    assert (found.verdict, found.p_value) == ("inconclusive", None)
    assert missing in found.note


def test_ratio_of_distances_is_bounded_over_pruning_runs() -> None:
    """Five ratios of exactly 3.2 leave no doubt; ratios from 1 to 4 do."""
    sure = verdict_on("C31", {}, distances=end(8.0, 25.6))
    assert sure.ours.endswith("ratio 3.2 [3.2, 3.2]; above 2 on 5 of 5 pruning runs")
    assert "95 % interval 3.2 [3.2, 3.2] above 2" in sure.statistic
    table = end(8.0, 25.6)
    factor = {seed: (0.35, 0.7, 1.0, 1.1, 1.2)[seed] for seed in range(5)}
    scratch = table["group"] == "tickets/scratch"
    table.loc[scratch, "final"] *= table.loc[scratch, "prune_seed"].map(factor)
    assert verdict_on("C31", {}, distances=table).verdict == "inconclusive"


def test_tickets_of_one_pruning_run_are_one_value() -> None:
    """25 tickets and 25 scratch runs of 5 pruning runs are compared as 5 and 5."""
    found = verdict_on("C30", {}, distances=start(13.6, 17.5))
    assert found.n == "5 pruning runs, 5"
    assert "25" not in found.n


def test_a_pruned_network_whose_tickets_leave_it_is_not_hidden() -> None:
    """Halved on average, but the tickets of 2 of 5 pruning runs end as far away as Scratch."""
    table = end(1.0, 25.6)
    tickets = table["group"] == "tickets/lottery"
    table.loc[tickets, "final"] = table.loc[tickets, "prune_seed"].map(dict(enumerate([1.0, 1.0, 1.0, 26.0, 27.0])))
    found = verdict_on("C32", {}, distances=table)
    assert found.verdict == "inconclusive"
    assert found.ours.endswith("below half of Scratch's on 3 of 5 pruning runs")


def test_barriers_in_nats_are_the_former_criterion() -> None:
    """0.05 nats are 2.5 % of Scratch's 2: connected by the share, not by 0.01 nats."""
    found = verdict_on("C34", {}, barriers=barriers(lottery=0.05))
    assert found.former is not None
    assert (found.verdict, found.former.verdict) == ("held", "failed")
    assert "at most 0.01 for tickets of 0 of 5" in found.ours
