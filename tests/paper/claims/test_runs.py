"""What a run is boiled down to, and how parts become verdicts."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from sparseflow.lab.page.evidence import Evidence, NotEnoughRunsError
from sparseflow.paper.claims import CLAIMS, judge
from sparseflow.paper.claims.run_statistics import (
    PAPER_STEPS,
    accuracies,
    at_paper_step,
    mean_delta,
    mean_log_norm,
    mean_log_norm_before_updates,
    norm_at,
    num_collapsed,
    onsets,
    update_deltas,
)
from sparseflow.paper.claims.verdict import Part, Verdict, all_of, conclude
from sparseflow.paper.published import claims
from sparseflow.training.digits import DigitRun
from sparseflow.training.runs import Run
from synthetic_runs import make_run, runs_like


def run_with(rows: list[tuple[int, str, float]], **changes: object) -> Run:
    return make_run(metrics=pd.DataFrame(rows, columns=["step", "name", "value"]), **changes)  # type: ignore[arg-type]


def flow(*norms: tuple[int, float], name: str = "flow/norm") -> list[tuple[int, str, float]]:
    return [(step, name, norm) for step, norm in norms]


# --- runs -------------------------------------------------------------------------------------------------------------


def test_paper_steps_are_shares_of_training() -> None:
    assert at_paper_step(DigitRun(), 5000) == 5000
    assert at_paper_step(DigitRun(steps=1000), 500) == 43  # 500 / 11719 = 0.0427
    assert at_paper_step(DigitRun(steps=1000), 11719) == 1000


def test_runs_that_never_learn_count_as_their_last_step() -> None:
    assert onsets(runs_like(4, stuck=1, onset=30)).tolist() == [1000, 30, 30, 30]


def test_accuracy_and_collapse() -> None:
    runs = [make_run(accuracy=value) for value in (0.1135, 0.12, 0.9)]
    assert accuracies(runs).tolist() == pytest.approx([11.35, 12.0, 90.0])
    assert num_collapsed(runs, below=12.0) == 1


def test_log_norms_are_averaged_over_the_steps_asked_for_ends_included() -> None:
    run = run_with(flow((0, 1.0), (100, math.e), (200, math.e**2), (300, math.e**7)), steps=11719)
    assert mean_log_norm(run, 100, 200) == pytest.approx(1.5)
    assert mean_log_norm(run) == pytest.approx(2.5)


def test_off_cycle_leaves_out_the_steps_of_updates_but_not_the_start() -> None:
    """Multiples of 200 are measured right after an update; at step 0 there is none."""
    run = run_with(flow((0, 1.0), (100, math.e), (200, math.e**9), (300, math.e**2)), steps=11719)
    assert mean_log_norm(run, off_cycle=200) == pytest.approx(1.0)


def test_before_updates_of_a_moving_mask_and_the_same_steps_of_a_static_one() -> None:
    before = flow((200, math.e), (400, math.e**3), name="update/before")
    after = flow((0, 1.0), (100, 1.0), (200, math.e**9), (300, 1.0), (400, math.e**9))
    moving = run_with(before + after, method="rigl", steps=11719, update_every=200)
    static = run_with(flow((0, 1.0), (100, 1.0), (200, math.e**2), (300, 1.0), (400, math.e**4)), steps=11719)
    assert mean_log_norm_before_updates(moving) == pytest.approx(2.0)
    assert mean_log_norm_before_updates(static, update_every=200) == pytest.approx(3.0)
    assert mean_log_norm_before_updates(static, 300, update_every=200) == pytest.approx(4.0)


def test_a_norm_of_zero_has_a_logarithm() -> None:
    assert mean_log_norm(run_with(flow((0, 0.0)))) == pytest.approx(math.log(1e-12))


def test_changes_at_updates_by_halves() -> None:
    """Of 900 steps, an update at step 450 belongs to the first half."""
    steps, changes = (100, 450, 500, 900), (1.0, 3.0, 0.5, 0.25)
    rows = [
        (step, f"update/{moment}", value)
        for step, change in zip(steps, changes, strict=True)
        for moment, value in (("before", 2.0), ("after", 2.0 + change))
    ]
    run = run_with(rows, method="rigl")
    assert update_deltas(run).to_dict() == dict(zip(steps, changes, strict=True))
    half = PAPER_STEPS / 2
    assert (mean_delta(run, 0, half), mean_delta(run, half), mean_delta(run)) == (2.0, 0.375, np.mean(changes))


def test_what_was_not_logged_is_not_made_up() -> None:
    run = run_with(flow((0, 1.0), (50, 2.0)))
    assert norm_at(run, 50) == 2.0
    with pytest.raises(ValueError, match="logged no gradient norm at step 25, but every 50"):
        norm_at(run, 25)
    with pytest.raises(NotEnoughRunsError, match="measured no gradient norm in the part of training that is asked for"):
        mean_log_norm(run, 11000)
    with pytest.raises(NotEnoughRunsError, match=r"has no update/after\. Delete its folder and run it again"):
        mean_delta(run)


# --- verdicts ---------------------------------------------------------------------------------------------------------

HELD = Part("held", "held", "5", 0.001)
FAILED = Part("failed", "failed", "5", 0.9)
OPEN = Part("inconclusive", "inconclusive", "5", 0.2)


@pytest.mark.parametrize(
    ("parts", "outcome", "p_value"),
    [
        ([HELD, HELD], "held", 0.001),
        ([HELD, OPEN], "inconclusive", 0.2),
        ([OPEN, FAILED, HELD], "failed", 0.9),
        ([HELD, Part("failed", "2 collapsed", "60")], "failed", 0.001),
        ([Part("held", "0 collapsed", "60")], "held", None),
    ],
)
def test_all_parts_must_hold(parts: list[Part], outcome: str, p_value: float | None) -> None:
    found = all_of({str(number): part for number, part in enumerate(parts)})
    assert (found.outcome, found.p_value) == (outcome, p_value)


def test_parts_keep_their_names_and_numbers_of_runs() -> None:
    found = all_of({"LeNet5": all_of({"Ours": HELD}), "MLP": Part("held", "up", "3")})
    assert (found.text, found.n) == ("LeNet5: Ours: held; MLP: up", "5, 3")


def test_no_part_is_no_criterion() -> None:
    with pytest.raises(ValueError, match="all_of needs at least one part"):
        all_of({})


@pytest.mark.parametrize(("part", "note"), [(HELD, "yes"), (FAILED, "no"), (OPEN, "perhaps")])
def test_the_note_says_what_came_out(part: Part, note: str) -> None:
    verdict = conclude("C20", part, ours="1 vs 2", held="yes", failed="no", inconclusive="perhaps")
    assert (verdict.note, verdict.verdict, verdict.p_value) == (note, part.outcome, part.p_value)
    assert verdict.published.startswith("LeNet5 92.71+-7.67 vs 98.13")
    assert verdict.claim.statement == "Reversing the criterion degrades accuracy."


def test_every_claim_is_open_where_nothing_was_run() -> None:
    verdicts = judge(Evidence({}, {}))
    assert [verdict.id for verdict in verdicts] == sorted(CLAIMS)
    assert {verdict.id for verdict in verdicts} <= {claim.id for claim in claims()}
    for verdict in verdicts:
        assert (verdict.verdict, verdict.p_value) == ("inconclusive", None), verdict
        assert verdict.note, verdict
        assert "\n" not in verdict.note, verdict


def test_claims_are_judged_in_the_order_given() -> None:
    def yes(evidence: Evidence) -> Verdict:
        return conclude("C02", HELD, ours=evidence.scale, held="yes", failed="no")

    def lacking(evidence: Evidence) -> Verdict:
        raise NotEnoughRunsError(f"{len(evidence.groups)} runs. Make them:\nsparseflow reproduce x")

    found = judge(Evidence({}, {}), {"C02": yes, "C01": lacking})
    assert [(verdict.id, verdict.note) for verdict in found] == [
        ("C02", "yes"),
        ("C01", "0 runs. Make them: sparseflow reproduce x"),
    ]
