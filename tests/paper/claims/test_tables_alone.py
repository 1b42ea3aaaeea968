"""Verdicts from kept numbers alone are those from whole runs; p-values are corrected for all claims together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import pandas as pd
import pytest

from sparseflow.lab.page.evidence import Evidence, NotEnoughRunsError
from sparseflow.paper.claims import corrected
from sparseflow.paper.claims.starts import all_starts, same_starts
from sparseflow.paper.claims.verdict import Part, Verdict, conclude
from sparseflow.training.digits import DigitRun
from sparseflow.training.runs import Run
from synthetic_runs import runs_like, verdict_on

Groups = Mapping[str, Sequence[Run]]


def flows(count: int = 20) -> dict[str, list[Run]]:
    """Everything that C06, C07, C15, C17, C21 and C22 read, of LeNet5."""
    found = {}
    for method in ("scratch", "set", "rigl"):
        for init, norm in (("dense", 0.1), ("liu", 0.5), ("sparse", 0.6)):
            often = "" if method == "scratch" else "/f100"
            found[f"lenet5/{method}/{init}{often}"] = runs_like(
                count, method=method, norm=norm, stuck=6 if init == "dense" else 0, onset=100, change=(0.1, 0.02)
            )
    return found


def emptied(groups: Groups) -> dict[str, list[Run]]:
    """The same runs without metrics and results: only the numbers that were computed from them."""
    nothing = pd.DataFrame({"step": [], "name": [], "value": []})
    return {name: [replace(run, metrics=nothing, final={}) for run in runs] for name, runs in groups.items()}


@pytest.mark.parametrize("claim", ["C06", "C07", "C15", "C17", "C21", "C22"])
def test_a_claim_is_judged_from_kept_numbers_alone(claim: str) -> None:
    groups = flows()
    whole = verdict_on(claim, groups)
    assert whole.statistic
    assert verdict_on(claim, emptied(groups)) == whole


def test_a_number_that_was_not_kept_is_missed() -> None:
    found = verdict_on("C21", emptied(flows()))
    assert found.verdict == "inconclusive"
    assert "has no flow/norm" in found.note


def verdict(id: str, outcome: str, p: float | None) -> Verdict:
    part = Part(outcome, "t", "5", p)  # type: ignore[arg-type]
    return conclude(id, part, ours="", held="It does.", failed="It does not.")


def test_correction_by_hand() -> None:
    """Benjamini and Yekutieli: p_(i) * m / i * (1 + 1/2 + 1/3), from the largest down never larger than the next."""
    verdicts = [verdict("C01", "held", 0.004), verdict("C02", "held", 0.03), verdict("C03", "failed", 0.9)]
    found = corrected([*verdicts, verdict("C04", "inconclusive", None)])
    harmonic = 1 + 1 / 2 + 1 / 3
    assert [one.p_corrected for one in found[:2]] == pytest.approx([0.004 * 3 * harmonic, 0.03 * 3 / 2 * harmonic])
    assert [one.verdict for one in found] == ["held", "inconclusive", "failed", "inconclusive"]
    assert "By itself this is shown; corrected for 3 tests (p = 0.082) it is not." in found[1].note
    assert found[3].p_corrected is None


def masked(seed: int, mask: int, **settings: float) -> Run:
    (run,) = runs_like(1, **settings)  # type: ignore[arg-type]
    return replace(run, config=run.config.with_(seed=seed, mask_from=DigitRun(method="prune", seed=mask)))


def test_starts_are_shared_by_seed_and_masks() -> None:
    """Seed 1 has other masks in b, and from seed 3 one side does not learn."""
    a = [masked(seed, seed) for seed in range(4)]
    b = [masked(0, 0), masked(1, 7), masked(2, 2), masked(3, 3, stuck=1), masked(4, 4)]
    evidence = Evidence({"a": a, "b": b}, {})
    first, second = same_starts(evidence, "a", "b")
    assert [run.config.seed for run in first] == [run.config.seed for run in second] == [0, 2, 3]
    with pytest.raises(NotEnoughRunsError, match="there are 2 starts that a and b share of at least 3 needed"):
        same_starts(evidence, "a", "b", learned_above=12.0)


def test_further_starts_of_a_cell_are_counted_with_it() -> None:
    groups = {"a": [masked(0, 0)], "a/more": [masked(20, 20)], "a/again": [masked(100, 0), masked(200, 0)], "a/he": []}
    assert [run.config.seed for run in all_starts(Evidence(groups, {}), "a", at_least=1)] == [0, 20, 100, 200]
