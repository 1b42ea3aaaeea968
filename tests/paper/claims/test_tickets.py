"""Claims about how well tickets train and what of them may change: each can hold, fail, and stay open."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd
import pytest

from sparseflow.training.runs import Run
from synthetic_runs import runs_like, verdict_on
from synthetic_tables import Rows, around, barrier_rows

Groups = dict[str, list[Run]]


def c29(*, count: int = 5, spread: float = 0.05, mlp: float = 0.06, lenet5: float = 0.06) -> Groups:
    """Norms of tickets by network; Scratch at 0.04, Scratch+ at 1."""
    found = {}
    for network, lottery in (("lenet5", lenet5), ("mlp", mlp)):
        for group, norm in (("lottery", lottery), ("scratch/dense", 0.04), ("scratch/sparse", 1.0)):
            own = spread if group == "lottery" else 0.05
            found[f"{network}/{group}"] = runs_like(count, norm=norm, spread=own)
    return found


def on_masks(method: str, gaps: Sequence[float], *, of: Sequence[Run], seeds: int = 5) -> list[list[Run]]:
    """For each pruning run, runs on its masks that end so many points above it on average."""
    return [
        runs_like(
            seeds,
            accuracy=100 * parent.final["test/accuracy"] + gap,
            method=method,
            mask_from=parent.config,
            weight_decay=parent.config.weight_decay,
        )
        for gap, parent in zip(gaps, of, strict=True)
    ]


def c43(
    *, lottery: float = 0.0, scratch: float = -1.5, prunes: int = 5, spread: float = 0.05, far: float = 0.05
) -> Groups:
    """Mean gaps to the pruned network, spreading over pruning runs by so many points."""
    pruned = runs_like(prunes, accuracy=98.5, std=0.3, method="prune", weight_decay=0.0)
    found = {"tickets/prune": pruned}
    for method, gap, own in (("lottery", lottery, spread), ("scratch", scratch, far)):
        gaps = [gap + own * (value - 1) for value in around(1.0, prunes, spread=1.0)]
        for number, runs in enumerate(on_masks(method, gaps, of=pruned)):
            found[f"tickets/{method}{f'/mask{number}' if number else ''}"] = runs
    return found


def c44(*, gap: float = 0.0, prunes: int = 10, spread: float = 0.1) -> Groups:
    """One ticket for each pruning run."""
    pruned = runs_like(prunes, accuracy=98.3, std=0.3, method="prune")
    gaps = [gap + spread * (value - 1) for value in around(1.0, prunes, spread=1.0)]
    tickets = [run for (run,) in on_masks("lottery", gaps, of=pruned, seeds=1)]
    return {"lenet5/prune": pruned, "lenet5/lottery": tickets}


def over_masks(group: str, runs: Sequence[Run]) -> Groups:
    """What were seeds of one group are runs on the masks of pruning runs, one on each."""
    return {
        f"{group}/mask{number}" if number else group: [replace(run, config=run.config.with_(seed=100 * (number + 1)))]
        for number, run in enumerate(runs)
    }


def c45(*, restart: float = 98.6, count: int = 5, std: float = 0.03) -> Groups:
    return {
        **over_masks("tickets/restart", runs_like(count, accuracy=restart, std=std)),
        **over_masks("tickets/lottery", runs_like(count, accuracy=98.52, std=0.03)),
    }


def c46(
    points: Sequence[tuple[float, float]], *, tickets: int = 5, seeds: int = 3
) -> tuple[Groups, Mapping[str, pd.DataFrame]]:
    """Tickets at 98.5 %; for each amount of noise a barrier and how many points are lost."""
    groups: Groups = {"tickets/lottery": runs_like(tickets, accuracy=98.5)}
    rows: Rows = barrier_rows("tickets/lottery", 0.002)
    for number, (barrier, loss) in enumerate(points):
        group = f"tickets/lottery/noise-{number}"
        groups[group] = runs_like(seeds, accuracy=98.5 - loss, std=0.05)
        rows += barrier_rows(group, barrier, seeds=seeds, spread=0.05)
    return groups, {"barriers": pd.DataFrame(rows)}


#: The farther away, the worse; near by no loss.
BASIN = [(0.001, 0.0), (0.005, 0.1), (0.1, 0.6), (0.5, 1.0), (1.0, 1.5)]


def c47(*gaps: float, count: int = 5, std: float = 0.2) -> Groups:
    """Gaps at 80, 90, 95 and 98 %."""
    found: Groups = {}
    for setting, gap in zip(("tickets/s80", "tickets/s90", "tickets", "tickets/s98"), gaps, strict=True):
        found |= over_masks(f"{setting}/lottery", runs_like(count, accuracy=98.5, std=0.02))
        found |= over_masks(f"{setting}/scratch", runs_like(count, accuracy=98.5 - gap, std=std))
    return found


@pytest.mark.parametrize(
    ("claim", "groups", "expected"),
    [
        ("C29", c29(), "held"),
        ("C29", c29(lenet5=1.1), "failed"),
        ("C29", c29(mlp=1.1), "failed"),
        ("C29", c29(mlp=0.5), "failed"),  # half of Scratch+, but twelve times Scratch
        ("C29", c29(mlp=0.07, spread=0.5), "inconclusive"),
        ("C43", c43(), "held"),
        ("C43", c43(lottery=0.5), "failed"),
        ("C43", c43(lottery=-0.5), "failed"),
        ("C43", c43(scratch=-0.4), "failed"),
        ("C43", c43(lottery=0.2, spread=0.5), "inconclusive"),
        ("C43", c43(scratch=-0.7, far=1.0), "inconclusive"),
        ("C44", c44(), "held"),
        ("C44", c44(gap=-0.6), "failed"),
        ("C44", c44(gap=-0.25, spread=0.3), "inconclusive"),
        ("C45", c45(), "held"),
        ("C45", c45(restart=98.5), "held"),  # 0.02 points worse
        ("C45", c45(restart=98.4), "failed"),
        ("C45", c45(restart=98.5, std=0.3), "inconclusive"),
        ("C47", c47(0.1, 0.4, 1.5, 3.0), "held"),
        ("C47", c47(0.4, 0.1, 1.5, 3.0), "failed"),  # not in order
        ("C47", c47(0.1, 0.4, 0.9, 3.0), "failed"),  # less than a point
        ("C47", c47(0.9, 1.0, 1.1, 3.0, std=0.5), "inconclusive"),
    ],
)
def test_tickets(claim: str, groups: Groups, expected: str) -> None:
    found = verdict_on(claim, groups)
    assert found.verdict == expected, found


@pytest.mark.parametrize(
    ("points", "expected"),
    [
        (BASIN, "held"),
        ([(barrier, 1.5 - loss) for barrier, loss in BASIN], "failed"),  # the nearer, the worse
        ([*BASIN[1:], (0.001, 0.5)], "failed"),  # one is in the basin and loses half a point
        ([(barrier + 0.1, loss) for barrier, loss in BASIN], "inconclusive"),  # none is in the basin
    ],
)
def test_perturbed_tickets(points: Sequence[tuple[float, float]], expected: str) -> None:
    groups, tables = c46(points)
    found = verdict_on("C46", groups, **tables)
    assert found.verdict == expected, found


def test_tickets_on_other_masks_are_not_perturbed() -> None:
    groups, tables = c46(BASIN)
    table = pd.concat([tables["barriers"], pd.DataFrame(barrier_rows("tickets/lottery/mask1", 0.001))])
    groups["tickets/lottery/mask1"] = runs_like(5, accuracy=11.0)
    assert verdict_on("C46", groups, barriers=table) == verdict_on("C46", groups, **tables)


@pytest.mark.parametrize(
    ("claim", "groups", "tables", "missing"),
    [
        ("C29", c29(count=2), {}, "lenet5/lottery has 2 finished runs of at least 3 needed"),
        ("C43", c43(prunes=2), {}, "there are 2 pruning runs of tickets/prune with runs of tickets/lottery on their"),
        ("C44", c44(prunes=2), {}, "there are 2 pruning runs of lenet5/prune with runs of lenet5/lottery on their"),
        ("C45", c45(count=2), {}, "there are 2 pruning runs of tickets with restart and lottery of at least 3 needed"),
        ("C46", *c46(BASIN[:3]), "there are 9 perturbed tickets with a barrier of at least 10 needed"),
        ("C46", *c46(BASIN, tickets=2), "tickets/lottery has 2 finished runs of at least 3 needed"),
        (
            "C47",
            c47(0.1, 0.4, 1.5, 3.0, count=2),
            {},
            "there are 2 pruning runs of tickets/s80 with lottery and",
        ),
    ],
)
def test_too_few_runs(claim: str, groups: Groups, tables: dict[str, pd.DataFrame], missing: str) -> None:
    found = verdict_on(claim, groups, **tables)
    assert (found.verdict, found.p_value) == ("inconclusive", None)
    assert missing in found.note


def test_tickets_are_compared_with_the_pruned_network_they_come_from() -> None:
    """Pruned networks differ by 0.6 points, tickets from their own by 0.05: paired, the interval is narrow."""
    found = verdict_on("C43", c43())
    assert found.ours.endswith(": lottery 0.00±0.04 (5), scratch -1.50±0.04 (5); tickets within 0.3 of it on 5 of 5")
    assert "5 pruning runs" in found.n


def test_trend_is_the_gap_at_95_minus_that_at_80_by_hand() -> None:
    """1.5 - 0.1; a gap is that of the means on one pruning run's masks."""
    found = verdict_on("C47", c47(0.1, 0.4, 1.5, 3.0))
    assert "linear contrast 1.4 [" in found.statistic
    assert found.ours.endswith("98 % 3.00")


def early(level: float) -> Any:
    """A norm that is as said in the first 85 of 1000 steps, the share of 1000 in 11719, and huge later."""
    return lambda share: level if share <= 0.085 else 50.0


def test_only_the_start_counts_for_the_gradient_flow_of_tickets() -> None:
    groups = c29()
    for network in ("lenet5", "mlp"):
        groups[f"{network}/lottery"] = runs_like(5, norm=early(0.06))
    found = verdict_on("C29", groups)
    assert found.verdict == "held"
    assert "lottery 1.50 times Scratch" in found.ours


def test_half_of_the_claim_about_gradients_was_judged_before() -> None:
    found = verdict_on("C29", c29(mlp=0.5))
    assert found.former is not None
    assert (found.verdict, found.former.verdict) == ("failed", "held")
