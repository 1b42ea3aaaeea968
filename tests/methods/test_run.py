"""What a method says of the run around it: before it, when it cannot fit, and after it, when it ended too early."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import pytest

import sparseflow as sf
from makers import CASES, MOVING, method_of
from sparseflow.methods.run import OpenEndWarning, UnfinishedWarning, check_start, unfinished
from sparseflow.sparsifier.update import warn_open_end

#: 40, 25 and 10 weights.
SHAPES = {"0.weight": (5, 8), "2.weight": (5, 5), "4.weight": (2, 5)}
DENSE = {"0.weight": 40, "2.weight": 25, "4.weight": 10}


def gmp(sparsity: float | Mapping[str, float] = 0.9, **changes: Any) -> sf.GMP:
    return sf.GMP(**{"sparsity": sparsity, "begin": 20, "end": 100, **changes})


@pytest.mark.parametrize("name", CASES)
def test_every_method_fits_a_network_of_usual_size(name: str) -> None:
    active = {"w": 300} if name in MOVING else {"w": 1000}
    check_start(method_of(name), {"w": (50, 20)}, active)


@pytest.mark.parametrize(
    ("sparsity", "message"),
    [
        ({"0.weight": 0.5}, "sparsity has no entry for 2.weight, 4.weight; it needs one entry per masked weight"),
        ({**dict.fromkeys(SHAPES, 0.5), "6.weight": 0.9}, "sparsity has '6.weight', which is no masked weight"),
        ({"0.weight": 0.5, "2.weight": 0.5, "4.wieght": 0.5}, "no entry for 4.weight and has '4.wieght', which is no"),
        # 75 weights: 0.75 of them would be left for 3 layers; 1 - 3 / 75 = 0.96.
        (0.99, "leaves 0.75 of 75 weights for 3 layers, .* The largest feasible sparsity is 0.96"),
        ({**dict.fromkeys(SHAPES, 0.5), "4.weight": 0.96}, "leaves 0.4 of 10 weights of '4.weight', .* there is 0.9."),
    ],
)
def test_pruning_says_at_once_what_it_cannot_reach(sparsity: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_start(gmp(sparsity), SHAPES, DENSE)


def test_pruning_that_can_be_reached_to_the_weight_is_taken() -> None:
    check_start(gmp(0.96), SHAPES, DENSE)
    check_start(gmp(dict.fromkeys(SHAPES, 0.95)), SHAPES, DENSE)  # half a weight of ten: as near to one as to none
    check_start(gmp(0.96, scope="global"), SHAPES, DENSE)
    with pytest.raises(ValueError, match=r"leaves 0.75 of 75 weights for 3 layers"):
        check_start(gmp(0.99, scope="global"), SHAPES, DENSE)


def test_pruning_needs_as_many_weights_as_it_would_leave() -> None:
    sparse = {**DENSE, "2.weight": 12}  # half of 25 rounds to even: 12
    check_start(gmp(0.5), SHAPES, sparse)
    with pytest.raises(ValueError, match=r"2.weight has 11 active weights and pruning would end with 12; none comes"):
        check_start(gmp(0.5), SHAPES, {**DENSE, "2.weight": 11})
    check_start(gmp(0.5, scope="global"), SHAPES, {**DENSE, "2.weight": 11})
    with pytest.raises(ValueError, match="the network has 37 active weights and pruning would end with 38"):
        check_start(gmp(0.5, scope="global"), SHAPES, {"0.weight": 27, "2.weight": 10, "4.weight": 0})


def test_pruning_that_has_not_ended_says_so() -> None:
    # At the end 4, 2 and 1 of 75 are active: 1 - 7 / 75 = 0.907.
    now = {"0.weight": 8, "2.weight": 5, "4.weight": 2}
    message = "pruning has not come to its end, at step 100, with sparsity 0.907. Train until then, or give begin="
    assert unfinished(gmp(), 60, SHAPES, now).startswith(message)
    assert unfinished(gmp(), 3, SHAPES, DENSE) == unfinished(gmp(), 60, SHAPES, now)
    assert unfinished(gmp(), 100, SHAPES, {"0.weight": 4, "2.weight": 2, "4.weight": 1}) == ""
    assert unfinished(gmp(scope="global"), 100, SHAPES, {"0.weight": 8, "2.weight": 0, "4.weight": 0}) == ""
    frozen = {"0.weight": 4, "2.weight": 25, "4.weight": 1}
    assert "ended at step 100 and left 2.weight denser than asked" in unfinished(gmp(), 101, SHAPES, frozen)


def test_masks_that_never_change_are_no_silent_static() -> None:
    active = {"0.weight": 3, "2.weight": 2, "4.weight": 10}  # the last is dense: it has nothing to grow
    with pytest.warns(UnfinishedWarning, match=r"never change: drop_fraction=0.3 of the 3 active weights of the"):
        check_start(sf.SET(), SHAPES, active)
    check_start(sf.SET(drop_fraction=0.34), SHAPES, active)
    check_start(sf.SET(drop_fraction=0.0), SHAPES, active)  # asked for
    message = "no mask has changed yet: the first update is at step 100. Lower update_every="
    assert unfinished(sf.SET(), 60, SHAPES, active).startswith(message)
    assert unfinished(sf.SET(), 100, SHAPES, active) == ""


def test_a_method_of_the_users_own_is_asked_nothing() -> None:
    check_start(sf.Static(), SHAPES, DENSE)
    assert unfinished(sf.Static(), 0, SHAPES, DENSE) == ""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_open_end(sf.Static(), rate_is_scheduled=False)


@pytest.mark.parametrize("make", [sf.SET, sf.RigL, sf.RigLInverted, sf.SNFS])
def test_an_end_stated_in_steps_of_the_run(make: Any) -> None:
    """75 % of 600 steps; the cosine ends there too, and without an end there is one warning's worth of reason."""
    method = make(total_steps=600, schedule="cosine")
    assert [step for step in range(600) if method.due(step)] == [100, 200, 300, 400]
    assert method.until == 450
    assert method.num_drop(1000, step=225, learning_rate_ratio=1.0) == 150  # half of 0.3
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_open_end(method, rate_is_scheduled=False)
        warn_open_end(make(update_until=300), rate_is_scheduled=False)
        warn_open_end(make(), rate_is_scheduled=True)
        warn_open_end(gmp(), rate_is_scheduled=False)
    with pytest.warns(OpenEndWarning, match="never trained. Give total_steps=, .* or update_until="):
        warn_open_end(make(), rate_is_scheduled=False)
