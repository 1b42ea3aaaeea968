"""The mix of dense and sparse layers: the cheapest by brute force, and a search that keeps the best that it saw."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparseflow.engine.speed.mix import Costs, best_mix, cheapest, settled

seconds = st.floats(0, 10)
costs = st.lists(st.tuples(st.tuples(seconds, seconds), st.tuples(seconds, seconds)), max_size=6)


@given(costs)
def test_the_mix_is_the_cheapest_of_all(chain: list[Costs]) -> None:
    def total(mix: Sequence[bool]) -> float:
        return sum(cost[before][own] for cost, before, own in zip(chain, [False, *mix], mix, strict=False))

    chosen = cheapest(chain)
    assert len(chosen) == len(chain)
    assert total(chosen) == pytest.approx(
        min(total(mix) for mix in itertools.product([False, True], repeat=len(chain)))
    )


def test_the_table_has_the_times_of_the_chosen_mix() -> None:
    chain: list[Costs] = [((3.0, 1.0), (30.0, 10.0)), ((5.0, 7.0), (6.0, 2.0)), ((1.0, 3.0), (2.0, 4.0))]
    assert cheapest(chain) == [True, True, False]
    assert settled(chain, [True, True, False]) == [(3.0, 1.0), (5.0, 2.0), (1.0, 4.0)]


def alone(dense: float, sparse: float) -> Costs:
    return (dense, sparse), (dense, sparse)


def test_layers_that_do_not_pay_their_toll_leave() -> None:
    # Promised: 8 + 1 + 4 = 13. Kept: 20 - 19 = 1, so the toll is 12 / 3 = 4, and only "a" saves more.
    costs = {"a": alone(9.0, 1.0), "b": alone(3.0, 2.0), "c": alone(5.0, 1.0), "d": alone(1.0, 2.0)}
    measured: list[list[str]] = []

    def measure(names: list[str]) -> tuple[float, float]:
        measured.append(names)
        return 20.0, {4: 20.5, 3: 19.0, 1: 16.0}[len(names)]

    assert best_mix(costs, measure) == (["a"], (20.0, 16.0))
    assert measured == [["a", "b", "c"], ["a"], ["a", "b", "c", "d"]]


def test_all_layers_together_are_tried() -> None:
    costs = {"a": alone(9.0, 1.0), "b": alone(1.0, 2.0)}
    assert best_mix(costs, lambda names: (20.0, 12.0 / len(names))) == (["a", "b"], (20.0, 6.0))


@pytest.mark.parametrize("kept", [13.0, 11.0])
def test_a_mix_that_keeps_its_promise_stays(kept: float) -> None:
    costs = {"a": alone(9.0, 1.0), "b": alone(3.0, 2.0), "c": alone(5.0, 1.0)}
    assert best_mix(costs, lambda names: (20.0, 20.0 - kept)) == (["a", "b", "c"], (20.0, 20.0 - kept))


@given(costs, st.data())
def test_a_search_ends_with_the_best_that_it_saw(chain: list[Costs], data: st.DataObject) -> None:
    seen = {}

    def measure(names: list[str]) -> tuple[float, float]:
        assert tuple(names) not in seen
        seen[tuple(names)] = 1.0, data.draw(st.floats(0.1, 10))
        return seen[tuple(names)]

    mix, whole = best_mix({str(number): cost for number, cost in enumerate(chain)}, measure)
    assert bool(chain) == bool(mix) == (whole is not None)
    assert whole is None or whole[1] == min(sparse for _, sparse in seen.values())
