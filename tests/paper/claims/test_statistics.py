"""Tests and intervals against scipy, closed forms and counts by hand; and the rule that turns them into words."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy import stats

from sparseflow.paper.claims.bounds import interval_above, interval_within, reaches
from sparseflow.paper.claims.intervals import (
    Interval,
    bootstrap,
    clopper_pearson,
    mean_interval,
    slope_interval,
    welch_spread,
)
from sparseflow.paper.claims.statistics import (
    above,
    different,
    equivalent,
    fisher_greater,
    greater,
    mann_whitney_alike,
    mann_whitney_greater,
    not_different,
    paired_greater,
    permutation_greater,
    spearman_above,
)

DRAW = np.random.default_rng(0)
#: Different sizes and variances.
A, B = DRAW.normal(1.0, 0.5, 7), DRAW.normal(0.5, 1.5, 11)
C = DRAW.normal(0.8, 0.7, 7)
NAN = float("nan")


# --- p-values and intervals -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("margin", [0.0, -0.3, 0.4])
def test_greater_is_welch(margin: float) -> None:
    expected = stats.ttest_ind(A - margin, B, equal_var=False, alternative="greater").pvalue
    assert greater(A, B, margin=margin, alpha=0.05).p_value == pytest.approx(expected, rel=1e-12)


def test_two_sided_is_welch() -> None:
    expected = stats.ttest_ind(B, A, equal_var=False).pvalue
    assert different(B, A, alpha=0.05, negligible=0.1).p_value == pytest.approx(expected, rel=1e-12)


def test_one_sample_and_paired_are_students() -> None:
    one = stats.ttest_1samp(A, 0.2, alternative="greater").pvalue
    assert above(A, 0.2, alpha=0.05).p_value == pytest.approx(one, rel=1e-12)
    pairs = stats.ttest_rel(A, C, alternative="greater").pvalue
    assert paired_greater(A, C, alpha=0.05).p_value == pytest.approx(pairs, rel=1e-12)


def test_equivalence_is_two_one_sided_tests() -> None:
    """TOST, each test by scipy on shifted values."""
    upper = stats.ttest_ind(A, B + 2, equal_var=False, alternative="less").pvalue
    lower = stats.ttest_ind(A, B - 2, equal_var=False, alternative="greater").pvalue
    assert equivalent(A, B, margin=2.0, alpha=0.05).p_value == pytest.approx(max(upper, lower), rel=1e-12)


def test_intervals_are_scipys() -> None:
    one = stats.ttest_1samp(A, 0).confidence_interval(0.9)
    assert mean_interval(A, level=0.9)[1:3] == pytest.approx((one.low, one.high), rel=1e-12)
    two = stats.ttest_ind(A, B, equal_var=False).confidence_interval(0.95)
    assert welch_spread(A, B).interval("6 vs 6")[1:3] == pytest.approx((two.low, two.high), rel=1e-12)


def test_values_without_spread_are_compared_as_they_are() -> None:
    """Eleven digits and more equal, where scipy warns of cancellation; collapsed runs all end at 11.35."""
    assert greater([11.35] * 5, [11.35] * 5, alpha=0.05).p_value == 1.0
    assert greater([12.0] * 5, [11.0] * 5, alpha=0.05).p_value == 0.0
    assert equivalent([11.35] * 5, [11.35] * 5, margin=0.1, alpha=0.05).outcome == "held"
    assert mean_interval([2.0, 2.0]) == Interval(2.0, 2.0, 2.0, "2")


def test_tiny_errors_do_not_underflow() -> None:
    """Welch's degrees of freedom do not depend on the unit."""
    assert welch_spread(A * 1e-120, B * 1e-120).freedom == pytest.approx(welch_spread(A, B).freedom, rel=1e-9)


def test_fisher_by_hand() -> None:
    """All 8 collapses on one side of 20 + 20: C(20, 8) / C(40, 8)."""
    part = fisher_greater((8, 20), (0, 20), alpha=0.01)
    assert part.p_value == pytest.approx(math.comb(20, 8) / math.comb(40, 8))
    assert (part.outcome, part.n) == ("held", "20 vs 20")


def test_mann_whitney_by_hand() -> None:
    """Complete separation of 4 and 4 is one arrangement of 70."""
    part = mann_whitney_greater([5.0, 6.0, 7.0, 8.0], [1.0, 2.0, 3.0, 4.0], alpha=0.05)
    assert part.p_value == pytest.approx(1 / 70)
    assert mann_whitney_greater([5.0] * 6, [5.0] * 6, alpha=0.05).p_value == 1.0


def test_infinity_is_the_largest_value() -> None:
    late, early = [math.inf] * 5 + [900.0], [50.0, 60.0, 70.0, 80.0, 90.0, 100.0]
    part = mann_whitney_greater(late, early, alpha=0.01)
    censored = mann_whitney_greater([1000.0] * 5 + [900.0], early, alpha=0.01)
    assert part.p_value == censored.p_value
    assert "medians inf vs 75" in part.text


def test_permutation_against_all_permutations() -> None:
    """5 and 5 values have 252 splits; 9999 draws estimate the share of them within 4 standard errors (1 in 16,000)."""
    first, second = C[:5], B[:5]
    pooled = np.concatenate([first, second])
    wanted = first.mean() - second.mean()
    splits = [list(chosen) for chosen in itertools.combinations(range(10), 5)]
    differences = [pooled[chosen].mean() - np.delete(pooled, chosen).mean() for chosen in splits]
    exact = float(np.mean(np.array(differences) >= wanted - 1e-12))
    found = permutation_greater(first, second, alpha=0.05).p_value
    assert found is not None
    assert abs(found - exact) < 4 * math.sqrt(exact * (1 - exact) / 9999)
    assert found == permutation_greater(first, second, alpha=0.05).p_value


def test_spearman_is_scipys() -> None:
    expected = stats.spearmanr(A, C, alternative="greater")
    part = spearman_above(A, C, alpha=0.05)
    assert part.p_value == pytest.approx(expected.pvalue)
    assert f"Spearman {expected.statistic:.2f}" in part.text
    assert spearman_above([1.0, 1.0, 1.0], [1.0, 2.0, 3.0], alpha=0.05).outcome == "inconclusive"


def test_clopper_pearson_in_closed_form() -> None:
    """With no success of n, the upper bound u solves (1 - u)^n = 0.025; and the mirror image."""
    bound = 1 - 0.025 ** (1 / 60)
    assert clopper_pearson(0, 60)[:3] == pytest.approx((0.0, 0.0, bound))
    assert clopper_pearson(60, 60)[:3] == pytest.approx((1.0, 1 - bound, 1.0))


def test_slope_by_hand() -> None:
    """Points (0, 0), (1, 2), (2, 1), (3, 3): slope 4/5, error sqrt(1.8 / 2 / 5), t(0.975, 2) = 4.303."""
    found = slope_interval([0.0, 1.0, 2.0, 3.0], [0.0, 2.0, 1.0, 3.0])
    assert found.estimate == pytest.approx(0.8)
    assert found.high - found.estimate == pytest.approx(4.302653 * math.sqrt(0.18), rel=1e-6)


def test_bootstrap_of_a_mean_is_normal() -> None:
    """Of 400 values the bootstrap spread is s / sqrt(n); quantiles of 2000 draws are within 10 % of 1.96 of it."""
    values = np.random.default_rng(1).normal(size=400)
    found = bootstrap(np.mean, values)
    error = values.std() / 20
    assert found.high - found.estimate == pytest.approx(1.96 * error, rel=0.1)
    assert found.estimate - found.low == pytest.approx(1.96 * error, rel=0.1)
    assert found == bootstrap(np.mean, values)


def test_paired_bootstrap_resamples_pairs() -> None:
    """Of pairs with one ratio every resample has that ratio; of independent samples it has not."""

    def ratio(a: Any, b: Any) -> float:
        return float(a.mean() / b.mean())

    values = np.arange(1.0, 9.0)
    assert bootstrap(ratio, 3 * values, values, paired=True)[:3] == pytest.approx((3.0, 3.0, 3.0))
    wide = bootstrap(ratio, 3 * values, values)
    assert wide.low < 2.5
    assert wide.high > 3.5
    assert wide.n == "8 vs 8"


def test_false_alarms_are_as_rare_as_promised() -> None:
    """2000 null experiments at alpha 0.05 with unequal variances: 100 +- 4 standard deviations of 9.7."""
    draw = np.random.default_rng(2)
    alarms = sum(
        greater(draw.normal(0, 1, 5), draw.normal(0, 4, 20), alpha=0.05).outcome == "held" for _ in range(2000)
    )
    assert abs(alarms - 100) < 39


# --- the rule ---------------------------------------------------------------------------------------------------------

HIGH, LOW, WIDE = [10.0, 10.1, 9.9], [1.0, 1.1, 0.9], [-5.0, 2.0, 9.0]


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        (greater(HIGH, LOW, alpha=0.01), "held"),
        (greater(LOW, HIGH, alpha=0.01), "failed"),
        (greater(WIDE, LOW, alpha=0.01), "inconclusive"),
        (greater(HIGH, LOW, margin=9.5, alpha=0.01), "failed"),
        (greater([NAN, 1.0], LOW, alpha=0.01), "inconclusive"),
        (above(HIGH, alpha=0.01), "held"),
        (above(HIGH, 11.0, alpha=0.01), "failed"),
        (above(WIDE, alpha=0.01), "inconclusive"),
        (paired_greater(HIGH, LOW, alpha=0.01), "held"),
        (paired_greater(LOW, HIGH, alpha=0.01), "failed"),
        (paired_greater(WIDE, LOW, alpha=0.01), "inconclusive"),
        (equivalent(HIGH, HIGH, margin=1.0, alpha=0.05), "held"),
        (equivalent(HIGH, LOW, margin=1.0, alpha=0.05), "failed"),
        (equivalent(LOW, HIGH, margin=1.0, alpha=0.05), "failed"),
        (equivalent(WIDE, LOW, margin=1.0, alpha=0.05), "inconclusive"),
        (different(HIGH, LOW, alpha=0.01, negligible=1.0), "held"),
        (different(LOW, HIGH, alpha=0.01, negligible=1.0), "held"),
        (different(HIGH, HIGH, alpha=0.01, negligible=1.0), "failed"),
        (different(WIDE, LOW, alpha=0.01, negligible=1.0), "inconclusive"),
        (not_different(WIDE, LOW, alpha=0.05), "held"),
        (not_different(HIGH, LOW, alpha=0.05), "failed"),
        (not_different([NAN, 1.0], LOW, alpha=0.05), "inconclusive"),
        (fisher_greater((8, 20), (0, 20), alpha=0.05), "held"),
        (fisher_greater((0, 20), (0, 20), alpha=0.05), "inconclusive"),
        (fisher_greater((0, 20), (8, 20), alpha=0.05), "failed"),
        (fisher_greater((2, 5), (0, 5), alpha=0.05), "inconclusive"),
        (mann_whitney_greater(HIGH * 2, LOW * 2, alpha=0.01), "held"),
        (mann_whitney_greater(LOW * 2, HIGH * 2, alpha=0.01), "failed"),
        (mann_whitney_greater(WIDE, LOW, alpha=0.01), "inconclusive"),
        (mann_whitney_alike(WIDE, LOW, alpha=0.05), "held"),
        (mann_whitney_alike(LOW * 2, HIGH * 2, alpha=0.05), "failed"),
        (permutation_greater(HIGH * 2, LOW * 2, alpha=0.01), "held"),
        (permutation_greater(LOW * 2, HIGH * 2, alpha=0.01), "failed"),
        (permutation_greater(WIDE, LOW, alpha=0.01), "inconclusive"),
        (spearman_above([1.0, 2.0, 3.0, 4.0, 5.0], [1.0, 2.0, 3.0, 5.0, 4.0], 0.6, alpha=0.05), "held"),
        (spearman_above([1.0, 2.0, 3.0, 4.0, 5.0], [1.0, 2.0, 3.0, 5.0, 4.0], 0.95, alpha=0.05), "inconclusive"),
        (spearman_above([1.0, 2.0, 3.0, 4.0, 5.0], [2.0, 1.0, 4.0, 3.0, 5.0], 0.999, alpha=0.05), "failed"),
        (spearman_above([1.0, 2.0, 3.0], [1.0, 3.0, 2.0], 0.2, alpha=0.05), "inconclusive"),
        (interval_above(Interval(3.0, 2.5, 3.5, "5"), 2.0), "held"),
        (interval_above(Interval(3.0, 2.5, 3.5, "5"), 3.6), "failed"),
        (interval_above(Interval(3.0, 2.5, 3.5, "5"), 3.0), "inconclusive"),
        (interval_above(Interval(3.0, 1.5, 4.5, "5"), 2.0), "inconclusive"),
        (interval_above(Interval(NAN, NAN, NAN, "5"), 2.0), "inconclusive"),
        (interval_within(Interval(1.0, 0.6, 1.9, "5"), 0.5, 2.0), "held"),
        (interval_within(Interval(0.3, 0.2, 0.4, "5"), 0.5, 2.0), "failed"),
        (interval_within(Interval(3.0, 2.1, 4.0, "5"), 0.5, 2.0), "failed"),
        (interval_within(Interval(3.0, 1.9, 4.0, "5"), 0.5, 2.0), "inconclusive"),
        (reaches(500.0, at_least=500.0, n="5", of="onset"), "held"),
        (reaches(499.0, at_least=500.0, n="5", of="onset"), "failed"),
        (reaches(1.0, at_most=0.0, n="5", of="collapsed"), "failed"),
        (reaches(NAN, at_least=500.0, n="5", of="onset"), "inconclusive"),
    ],
)
def test_outcome(part: Any, expected: str) -> None:
    assert part.outcome == expected, part


def test_what_is_not_significant_gives_no_p_value() -> None:
    assert not_different(WIDE, LOW, alpha=0.05).p_value is None
    assert mann_whitney_alike(WIDE, LOW, alpha=0.05).p_value is None


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: greater([1.0], LOW, alpha=0.05), r"a test needs a list of two values at least, got shape \(1,\)"),
        (lambda: above([[1.0, 2.0]], alpha=0.05), r"got shape \(1, 2\)"),
        (lambda: paired_greater(LOW, WIDE[:2], alpha=0.05), "as many values of one as of the other, got 3 and 2"),
        (lambda: equivalent(LOW, LOW, margin=0.0, alpha=0.05), "margin must be positive, got 0.0"),
        (lambda: fisher_greater((6, 5), (0, 5), alpha=0.05), "from 0 to a positive total, got 6 of 5"),
        (lambda: spearman_above([1.0, 2.0], [1.0, 2.0], alpha=0.05), "needs three pairs at least, got 2 and 2"),
        (lambda: clopper_pearson(3, 2), "successes must be from 0 to n and n positive, got 3 and 2"),
        (lambda: slope_interval([1.0, 2.0], [1.0, 2.0]), "a slope needs three points at least"),
        (lambda: bootstrap(np.mean, LOW, WIDE[:2], paired=True), r"paired samples must be equally long, got \[3, 2\]"),
    ],
)
def test_refused(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
