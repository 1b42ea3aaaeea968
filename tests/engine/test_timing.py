"""Times in turns by a clock of our own, and the interval of their ratios by the binomial distribution worked out."""

from __future__ import annotations

import gc
import itertools
import statistics
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from sparseflow.engine.speed.steps import in_mode_, model_step, outputs_of
from sparseflow.engine.speed.timing import times_as_fast, turns
from sparseflow.rng import stream


class Clock:
    """Time passes in steps alone, as long as they say."""

    def __init__(self) -> None:
        self.now = 0.0
        self.order: list[str] = []

    def __call__(self) -> float:
        return self.now

    def step(self, name: str, *seconds: float) -> Callable[[], None]:
        """A step that takes these seconds in turn, over and over."""
        durations = itertools.cycle(seconds)

        def run() -> None:
            self.order.append(name)
            self.now += next(durations)

        return run


def test_each_turn_has_the_seconds_of_each_step() -> None:
    clock = Clock()
    a, b = turns([clock.step("a", 1.0), clock.step("b", 0.25)], seconds=0.0, clock=clock)
    assert (a, b) == ([1.0] * 6, [0.25] * 6)
    # A warm run and one that says how long it is, then turns there and back.
    assert clock.order == [*"abab", *"abba" * 3]


def test_short_steps_are_repeated_and_find_their_own_data_in_the_caches() -> None:
    clock = Clock()
    a, b = turns([clock.step("a", 0.0005), clock.step("b", 0.1)], seconds=0.0, clock=clock)
    assert a == pytest.approx([0.0005] * 6)
    assert b == pytest.approx([0.1] * 6)
    assert "".join(clock.order[4:]) == "aaabbaaa" * 3  # one run uncounted and two that fill a millisecond


def test_turns_go_on_until_the_time_is_spent() -> None:
    clock = Clock()
    assert len(turns([clock.step("a", 1.0)], seconds=19.5, clock=clock)[0]) == 20
    assert len(turns([clock.step("a", 1e-3)], seconds=1e9, clock=clock)[0]) == 1000


def test_no_garbage_is_collected_in_a_turn() -> None:
    clock = Clock()
    is_on: list[bool] = []
    turns([lambda: is_on.append(gc.isenabled()), clock.step("a", 1.0)], seconds=0.0, clock=clock)
    assert gc.isenabled()
    assert not any(is_on[2:])
    with pytest.raises(ZeroDivisionError):
        turns([lambda: is_on.append(gc.isenabled()) if gc.isenabled() else 1 / 0], seconds=0.0, clock=clock)
    assert gc.isenabled()


@pytest.mark.parametrize("number", range(1, 15))
def test_the_interval_holds_the_median_in_95_of_100_cases(number: int) -> None:
    """Every pattern of ratios below and above the true median is as likely; in how many does the interval miss it?"""
    missed = 0
    for below in itertools.product([True, False], repeat=number):
        ratio = times_as_fast([1.0] * number, [0.5 if each else 2.0 for each in below])
        missed += not ratio.low < 1 < ratio.high
    least = 2 / 2**number  # all on one side
    assert missed / 2**number <= max(0.05, least)
    if number >= 6:
        # It is the shortest of its kind: one ratio less at each end would miss more often than that.
        cut = next(cut for cut in range(number) if _missed(number, cut + 1) > 0.05)
        ratios = [float(n + 1) for n in range(number)]
        assert times_as_fast([1.0] * number, ratios).low == ratios[cut]


def _missed(number: int, cut: int) -> float:
    """The share of cases in which the interval between the ``cut`` + 1-th ratios from both ends misses the median."""
    cases = itertools.product([True, False], repeat=number)
    return sum(min(sum(case), number - sum(case)) <= cut for case in cases) / 2**number


def test_many_pairs_give_a_narrow_interval() -> None:
    draws = torch.rand(1000, generator=stream(0, "ratios"), dtype=torch.float64).tolist()
    ratio = times_as_fast([1.0] * 1000, draws)
    assert ratio.median == statistics.median(draws)
    ranks = [sorted(draws).index(end) for end in (ratio.low, ratio.high)]
    # 500 - 1.96 * sqrt(1000) / 2 = 469.0, by the normal approximation.
    assert ranks == pytest.approx([469, 530], abs=1)


def test_a_load_that_slows_neighbours_alike_cancels() -> None:
    load = [1.0, 5.0, 2.0, 1.0, 9.0, 1.0, 3.0]
    ratio = times_as_fast([each * 1.0 for each in load], [each * 2.0 for each in load])
    assert (ratio.low, ratio.median, ratio.high) == (2.0, 2.0, 2.0)


# -- steps -----------------------------------------------------------------------------------------------------------


class Seen(nn.Module):
    """Notes how it is called."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.calls: list[tuple[bool, bool, bool]] = []

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layer(x)
        self.calls.append((self.training, y.requires_grad, y.dtype == torch.bfloat16))
        return y


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("autocast", [True, False])
def test_a_step_does_what_will_be_run(training: bool, autocast: bool) -> None:
    model = in_mode_(Seen().train(not training), training=training)
    model_step(model, torch.ones(2, 4), training=training, autocast=autocast)()
    assert model.calls == [(training, training, autocast)]
    assert all(parameter.grad is None for parameter in model.parameters())


def test_outputs_come_without_gradients() -> None:
    (output,) = outputs_of(nn.Linear(4, 2), torch.ones(3, 4))
    assert output.shape == (3, 2)
    assert not output.requires_grad
