"""Estimates that are no plain means, against closed forms; and the permutation test over models."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pandas as pd
import pytest

from sparseflow.lab.page.evidence import Evidence, NotEnoughRunsError
from sparseflow.paper.claims.contrasts import contrast, pair_spread, spread_above, spread_within, subset_spread
from sparseflow.paper.claims.exchange import Block, nearer_to_each_other
from sparseflow.paper.claims.intervals import Spread, mean_spread, welch_spread
from sparseflow.paper.claims.statistics import above
from sparseflow.paper.claims.tables import column, rows

VALUES = [1.0, 2.5, 2.7, 4.0, 9.0]
OTHERS = [0.3, 0.4, 2.0]


def test_difference_of_two_means_is_welchs() -> None:
    found = contrast([mean_spread(VALUES), mean_spread(OTHERS)], [1.0, -1.0])
    assert found == pytest.approx(welch_spread(VALUES, OTHERS))


def test_weights_scale_estimate_and_error() -> None:
    one = mean_spread(VALUES)
    assert contrast([one], [-2.0]) == pytest.approx((-2 * one.estimate, 2 * one.error, one.freedom))


def test_means_without_spread() -> None:
    assert contrast([Spread(1.0, 0.0, 4), Spread(3.0, 0.0, 2)], [1.0, -1.0]) == (-2.0, 0.0, 6)


def test_error_of_additive_pairs_is_that_of_the_mean_over_models() -> None:
    """A pair is the mean of two models' values: the mean over pairs is that over models, its error s / sqrt(n)."""
    pairs = pd.DataFrame(
        [{"a": a, "b": b, "jsd": (VALUES[a] + VALUES[b]) / 2} for a, b in itertools.combinations(range(5), 2)]
    )
    assert pair_spread(pairs, "jsd") == pytest.approx(mean_spread(VALUES))


@pytest.mark.parametrize("members", [1, 2, 3, 4])
def test_error_of_means_over_subsets_is_that_of_the_mean_over_models(members: int) -> None:
    means = [float(np.mean(chosen)) for chosen in itertools.combinations(VALUES, members)]
    found = subset_spread(float(np.mean(VALUES)), means, members=members, models=5)
    assert found == pytest.approx(mean_spread(VALUES))


def test_part_of_an_estimate_is_that_of_its_values() -> None:
    spread, part = mean_spread(VALUES), above(VALUES, 1.0, alpha=0.05)
    found = spread_above(spread, 1.0, alpha=0.05, n="5", test="t, mean")
    assert (found.outcome, found.p_value) == (part.outcome, part.p_value)
    assert spread_above(spread, 9.0, alpha=0.05, n="5", test="t").outcome == "failed"
    assert spread_above(spread, 3.0, alpha=0.05, n="5", test="t").outcome == "inconclusive"


@pytest.mark.parametrize(
    ("estimate", "expected"), [(0.0, "held"), (0.2, "inconclusive"), (0.6, "failed"), (-0.6, "failed")]
)
def test_equivalence_is_an_interval_within_the_margin(estimate: float, expected: str) -> None:
    """Of error 0.1 and 4 degrees of freedom: the 90 % interval is 0.213 wide on either side."""
    found = spread_within(Spread(estimate, 0.1, 4), 0.3, alpha=0.05, n="5", test="TOST")
    assert found.outcome == expected
    assert f"[{estimate - 0.2132:.3g}, {estimate + 0.2132:.3g}]" in found.text


def test_p_value_of_equivalence_is_the_larger_of_the_two() -> None:
    spread = Spread(0.1, 0.1, 4)
    found = spread_within(spread, 0.3, alpha=0.05, n="5", test="TOST")
    assert found.p_value == spread.p_below(0.3) > spread.p_above(-0.3)


def test_bad_input() -> None:
    with pytest.raises(ValueError, match="an error over models needs three models at least, got 2"):
        pair_spread(pd.DataFrame({"a": [0], "b": [1], "jsd": [1.0]}), "jsd")
    for members in (0, 5):
        with pytest.raises(ValueError, match=f"leave out some of the models, got {members} members of 5 models"):
            subset_spread(1.0, [1.0, 2.0], members=members, models=5)
    table = pd.DataFrame({"group": ["a", "a"], "seed": [0, 1], "jsd": [1.0, 2.0]})
    evidence = Evidence({}, {"pairs": table})
    assert rows(evidence, "pairs", group="a", seed=1)["jsd"].tolist() == [2.0]
    with pytest.raises(NotEnoughRunsError, match=r"2 rows of pairs, group a of at least 3 needed\. Make them:\nsparse"):
        column(evidence, "pairs", "jsd", group="a")


# --- which of several models is the odd one out -----------------------------------------------------------------------


def block(draw: np.random.Generator, *, models: int = 6, odd: float = 0.0) -> Block:
    """Differences that models have in common, noise, and an excess of the last model."""
    own = draw.exponential(size=models)
    own[-1] += odd
    matrix = own[:, None] + own + 0.1 * draw.standard_normal((models, models))
    matrix = np.triu(matrix, 1)
    return Block(matrix + matrix.T)


def test_excess_by_hand() -> None:
    """Three models; 0 and 1 differ by 1, 2 from them by 3 and 5."""
    found = Block(np.array([[0.0, 1.0, 3.0], [1.0, 0.0, 5.0], [3.0, 5.0, 0.0]]))
    assert found.excess == pytest.approx([2.0 - 5.0, 3.0 - 3.0, 4.0 - 1.0])
    assert (found.between, found.to_other) == pytest.approx((1.0, 4.0))


def test_exchangeable_models_are_rarely_significant() -> None:
    """Each of 36 choices is equally likely, so p <= 1/36 has chance 1/36: 600 draws, 5 standard deviations."""
    draw = np.random.default_rng(0)
    p_values = [nearer_to_each_other([block(draw), block(draw)], alpha=0.05).p_value or 1.0 for _ in range(600)]
    expected = 1 / 36
    share = float(np.mean(np.array(p_values) <= expected + 1e-9))
    assert abs(share - expected) < 5 * math.sqrt(expected / 600)


def test_an_odd_one_out_is_found_and_a_close_one_is_refused() -> None:
    draw = np.random.default_rng(1)
    assert nearer_to_each_other([block(draw, odd=9.0)] * 2, alpha=0.05).outcome == "held"
    assert nearer_to_each_other([block(draw, odd=-5.0)] * 2, alpha=0.05).outcome == "failed"


def test_all_alike_is_never_significant() -> None:
    same = Block(np.ones((6, 6)) - np.eye(6))
    assert nearer_to_each_other([same, same], alpha=0.05).p_value == 1.0


def test_too_few_choices_are_refused() -> None:
    one = block(np.random.default_rng(0))
    with pytest.raises(NotEnoughRunsError, match="tickets of 1 pruning runs give a permutation test 6 outcomes"):
        nearer_to_each_other([one], alpha=0.05)
    assert nearer_to_each_other([one], alpha=0.2).p_value is not None
