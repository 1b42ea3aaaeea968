"""Claims about the functions of tickets and their kin, alone and in ensembles: each can hold, fail, and stay open."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from synthetic_runs import verdict_on
from synthetic_tables import Rows, around, ensemble_rows, on_masks, pair_rows, pairs_on_masks, reference_rows, tables

LOTTERY, RESTART, PRUNED = "tickets/lottery", "tickets/restart", "tickets/prune"
SCRATCH, SAME = "tickets/scratch", "tickets/scratch-same"
Tables = dict[str, Rows]


def apart(*, seeds: int = 5, spread: float = 0.05, **means: float) -> Tables:
    """Disagreement with the pruned network, by group."""
    values = {"lottery": 0.009, "restart": 0.0075, "scratch": 0.028, **means}
    rows: Rows = []
    for name, mean in values.items():
        rows += on_masks(reference_rows(f"tickets/{name}", disagreement=mean, seeds=seeds, spread=spread))
    return {"function_reference": rows}


def tickets(between: float, away: float, *, prunes: int = 2, seeds: int = 5, spread: float = 0.05) -> Tables:
    """Tickets of several pruning runs: disagreement with each other and with their pruned network."""
    groups = [f"{LOTTERY}{f'/mask{number}' if number else ''}" for number in range(prunes)]
    return {
        "function_pairs": [row for group in groups for row in pair_rows(group, between, seeds=seeds, spread=spread)],
        "function_reference": [
            row for group in groups for row in reference_rows(group, disagreement=away, seeds=seeds)
        ],
    }


def c39(scratch: float = 0.032, lottery: float = 0.004, *, seeds: int = 5, spread: float = 0.05) -> Tables:
    return {
        "function_pairs": [
            *pairs_on_masks(SAME, scratch, masks=seeds, spread=spread),
            *pairs_on_masks(LOTTERY, lottery, masks=seeds, spread=spread),
        ]
    }


def c40(
    *, gap: float = 0.004, accuracy: float = 0.4, spread: float = 0.0, pairs: float = 0.05, masks: int = 5
) -> Tables:
    """A start each against one for all, on masks: by how much pairs differ more, and ensembles are better."""
    members = {"draw": 0, "members": 5, "seeds": "0 1 2 3 4", "member_accuracy": 97.0}
    ensembles = [
        {"group": f"{group}/mask{number}" if number else group, **members, "probabilities": value}
        for group, mean, width in ((SCRATCH, 98.0 + accuracy, spread), (SAME, 98.0, 0.0))
        for number, value in enumerate(around(mean, masks, spread=width / mean))
    ]
    return {
        "function_pairs": [
            *pairs_on_masks(SCRATCH, 0.032 + gap, masks=masks, spread=pairs),
            *pairs_on_masks(SAME, 0.032, masks=masks, spread=0.05),
        ],
        "function_ensembles": ensembles,
    }


def c41(*, pruned: float = 0.77, lottery: float = 0.06, spread: float = 0.02, draws: int = 5) -> Tables:
    common: dict[str, Any] = {"spread": spread, "draws": draws}
    return {
        "function_ensembles": [
            *ensemble_rows(PRUNED, accuracy=99.1, gain=pruned, **common),
            *ensemble_rows(LOTTERY, accuracy=98.6, gain=lottery, **common),
        ]
    }


def c42(*, seeds: int = 5, spread: float = 0.05, **changed: float) -> Tables:
    """Divergences in the order restart, lottery, other pruned, scratch; KL is four times JSD."""
    jsd = {"restart": 0.0027, "lottery": 0.0033, "prune": 0.0103, "scratch": 0.0159, **changed}
    rows: Rows = []
    for name, mean in jsd.items():
        values = {"jsd": mean, "kl_from_model": 4 * mean, "kl_from_reference": 4 * mean}
        if name != "prune":
            rows += on_masks(reference_rows(f"tickets/{name}", seeds=seeds, spread=spread, **values))
    pruned = jsd["prune"]
    pairs = [
        {"group": PRUNED, "a": a, "b": b, "jsd": pruned, "kl_ab": 4 * pruned, "kl_ba": 4 * pruned}
        for a, b in itertools.combinations(range(seeds), 2)
    ]
    return {"function_reference": rows, "function_pairs": pairs}


def c42_but_kl(*, prune: float | None = None, scratch: float | None = None) -> Tables:
    """JSD in order, KL(model || pruned) not."""
    found = c42()
    for row in found["function_reference"]:
        if scratch is not None and row["group"].startswith(SCRATCH):
            row["kl_from_model"] = scratch
    for row in found["function_pairs"]:
        if prune is not None:
            row["kl_ab"] = row["kl_ba"] = prune
    return found


@pytest.mark.parametrize(
    ("claim", "found", "expected"),
    [
        ("C36", apart(), "held"),
        ("C36", apart(lottery=0.03), "failed"),
        ("C36", apart(lottery=0.02), "failed"),  # significant, but the ratio is below 2
        ("C36", apart(spread=1.0, seeds=3), "inconclusive"),
        ("C37", tickets(0.004, 0.009), "held"),
        ("C37", tickets(0.009, 0.004), "failed"),
        ("C37", tickets(0.0088, 0.009, spread=0.9), "inconclusive"),
        ("C38", apart(), "held"),
        ("C38", apart(restart=0.002), "failed"),  # 0.007 apart
        ("C38", apart(scratch=0.015), "failed"),  # not half of scratch
        ("C38", apart(lottery=0.011, spread=0.3), "inconclusive"),
        ("C39", c39(), "held"),
        ("C39", c39(scratch=0.01), "failed"),  # 2.5 times
        ("C39", c39(scratch=0.0125, spread=0.9, seeds=3), "inconclusive"),
        ("C40", c40(), "held"),
        ("C40", c40(gap=-0.001), "failed"),
        ("C40", c40(accuracy=-0.1), "failed"),
        ("C40", c40(gap=0.0005, pairs=0.3), "inconclusive"),
        ("C40", c40(accuracy=0.1, spread=0.3), "inconclusive"),
        ("C41", c41(), "held"),
        ("C41", c41(pruned=0.2), "failed"),  # 0.14 points more
        ("C41", c41(spread=0.3), "inconclusive"),
        ("C42", c42(), "held"),
        ("C42", c42(restart=0.004), "failed"),  # restart is worse than lottery
        ("C42", c42(lottery=0.02), "failed"),
        ("C42", c42(scratch=0.0095), "failed"),
        ("C42", c42(restart=0.0034, spread=0.1), "failed"),  # a little worse on every mask
        ("C42", c42(scratch=0.011, spread=0.2), "inconclusive"),
        ("C42", c42_but_kl(prune=0.08), "failed"),
    ],
)
def test_similarity(claim: str, found: Tables, expected: str) -> None:
    verdict = verdict_on(claim, {}, **tables(**found))
    assert verdict.verdict == expected, verdict


@pytest.mark.parametrize(
    ("claim", "found", "missing"),
    [
        ("C36", apart(seeds=2), "there are 2 pruning runs with tickets/lottery and tickets/scratch in function_ref"),
        ("C37", tickets(0.004, 0.009, prunes=1), "tickets of 1 pruning runs give a permutation test 6 outcomes"),
        ("C37", tickets(0.004, 0.009, seeds=1), "there are 1 rows of function_reference, group tickets/lottery"),
        (
            "C38",
            apart(seeds=2),
            "there are 2 pruning runs with tickets/restart and tickets/lottery and",
        ),
        ("C39", c39(seeds=2), "there are 2 pruning runs with pairs of tickets/scratch-same and tickets/lottery of at"),
        ("C40", c40(masks=2), "there are 2 pruning runs with pairs of tickets/scratch and tickets/scratch-same of at"),
        ("C41", c41(draws=4), "there are 4 ensembles of tickets/prune that leave runs out of at least 5 needed"),
        ("C42", c42(seeds=2), "there are 2 pruning runs of at least 3 needed"),
    ],
)
def test_too_few_runs(claim: str, found: Tables, missing: str) -> None:
    verdict = verdict_on(claim, {}, **tables(**found))
    assert (verdict.verdict, verdict.p_value) == ("inconclusive", None)
    assert missing in verdict.note


def test_ensembles_of_all_runs_leave_none_out() -> None:
    """Draws that repeat the first five say nothing about how much an ensemble depends on its runs."""
    rows = c41()["function_ensembles"]
    for row in rows:
        row |= {"members": 5, "seeds": "0 1 2 3 4"}
    assert (
        "there are 0 ensembles of tickets/prune that leave runs out"
        in verdict_on("C41", {}, **tables(function_ensembles=rows)).note
    )


def test_p_value_of_the_permutation_by_hand() -> None:
    """The pruned network is the odd one out of six in both pruning runs: 1 of 36 choices; of five, 1 of 7776."""
    for prunes, choices in ((2, 36), (5, 6**5)):
        verdict = verdict_on("C37", {}, **tables(**tickets(0.004, 0.009, prunes=prunes)))
        assert verdict.p_value == pytest.approx(1 / choices)
        assert verdict.ours.endswith(": with each other 0.0040, with the pruned network 0.0090")


def test_error_of_an_ensembles_gain_is_the_jackknifes_by_hand() -> None:
    """Four of five: the error squared is 4 times the variance over what is left when one is left out."""
    verdict = verdict_on("C41", {}, **tables(**c41(spread=0.1)))
    error = np.sqrt(2 * 4 * np.var([-0.1, -0.05, 0.0, 0.05, 0.1]))
    low, high = 0.71 - 2.306 * error, 0.71 + 2.306 * error  # t(0.975, 8)
    assert f"0.71 [{low:.3g}, {high:.3g}] above 0.3" in verdict.statistic


def test_pairs_of_runs_count_as_their_pruning_run() -> None:
    """Ten pairs on the masks of one pruning run, one on those of the others: five values."""
    found = c39()
    found["function_pairs"] += [row | {"b": other} for row in found["function_pairs"][:1] for other in range(2, 11)]
    assert verdict_on("C39", {}, **tables(**found)).n == "5, 5 pruning runs"


def test_many_pruning_runs_are_permuted_by_draws() -> None:
    """Of 6^8 choices, 1.7 million, 100,000 are drawn: the p-value is at least that of the observed one."""
    verdict = verdict_on("C37", {}, **tables(**tickets(0.004, 0.009, prunes=8)))
    assert verdict.p_value is not None
    assert 1 / 100_001 <= verdict.p_value < 1e-3


def test_divergence_from_other_pruned_networks_has_a_direction() -> None:
    """KL(model || pruned) of a pair is that from a to b where b is the pruned network, and from b to a where a is."""
    rows = c42(seeds=3)
    for row, (ab, ba) in zip(rows["function_pairs"], ((1.0, 2.0), (3.0, 4.0), (5.0, 6.0)), strict=True):
        row |= {"kl_ab": ab, "kl_ba": ba}
    found = verdict_on("C42", {}, **tables(**rows)).ours
    # Pairs 01, 02, 12. To 0: 10 and 20; to 1: 01 and 21; to 2: 02 and 12.
    expected = np.mean([(2 + 4) / 2, (1 + 6) / 2, (3 + 5) / 2])
    assert f"other pruned {expected:.4f}" in found.split("; KL ")[1]


def test_both_directions_of_kl_are_reported() -> None:
    found = verdict_on("C42", {}, **tables(**c42_but_kl(scratch=9.0))).ours
    assert "; KL restart 0.0108, lottery 0.0132, other pruned 0.0412, scratch 9.0000; KL reversed" in found
    assert found.endswith(f"scratch {4 * 0.0159:.4f}")
