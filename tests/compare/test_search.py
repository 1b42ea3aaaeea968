"""The search: its array against the definition of one, its factors against what each method's updater reads."""

from __future__ import annotations

from itertools import combinations

import pytest

from sparseflow.compare.search import FACTORS, L9, candidates, factors_of, search_runs
from sparseflow.compare.settings import SETTINGS, compared_methods
from sparseflow.training.names import METHODS


def test_each_pair_of_levels_meets_once() -> None:
    for first, second in combinations(range(4), 2):
        assert sorted((row[first], row[second]) for row in L9) == [(a, b) for a in range(3) for b in range(3)]


@pytest.mark.parametrize("network", SETTINGS)
@pytest.mark.parametrize("method", compared_methods())
def test_every_method_has_nine_runs_that_differ(network: str, method: str) -> None:
    """Also one without settings of its own; its factors are those that its start and its updater look at."""
    runs = [config for _, config in search_runs(SETTINGS[network], method, 0.9)]
    assert len({config.hash for config in runs}) == 9
    assert {config.to_dict()["holdout"] for config in runs} == {SETTINGS[network].holdout}
    assert {config.seed for config in runs} == {1000}
    names = factors_of(SETTINGS[network].run(method, 0.9, steps=1000, seed=0))
    assert ("init" in names) == (METHODS[method].start == "masked")
    assert ("drop_fraction" in names) == ("drop_fraction" in repr(runs[0].updater()))


def test_the_levels_of_a_candidate_are_shares_of_its_training() -> None:
    """By hand, for the second run of the array: levels 0, 1, 1, 1."""
    levels, run = search_runs(SETTINGS["lenet5"], "rigl", 0.9)[1]
    assert levels == {"learning_rate": 0.4, "init": "liu", "drop_fraction": 0.3, "period": 0.025}
    assert (run.learning_rate, run.init, run.drop_fraction, run.update_every) == (0.4 * 0.05, "liu", 0.3, 50)


def test_the_usual_setting_of_every_factor_is_in_the_middle() -> None:
    for name in ("learning_rate", "weight_decay"):
        assert FACTORS[name].levels[1] == 1.0
    usual = SETTINGS["lenet5"].run("rigl", 0.9, steps=2000, seed=0)
    for name in ("drop_fraction", "prune_end", "period"):
        changed = FACTORS[name].changes(usual, FACTORS[name].levels[1])
        assert {field: getattr(usual, field) for field in changed} == changed
    assert len(candidates(usual)) == 9
