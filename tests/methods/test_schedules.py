"""How much moves at an update: the schedules at both ends, and the drop fractions and swaps of the paper."""

from __future__ import annotations

import numpy as np
import pytest

import sparseflow as sf
from sparseflow.methods.drop_grow import constant, cosine, learning_rate, periodic

STEPS = 11_719  # of the paper's MNIST runs
LENET5_ACTIVE = {"conv1": 8, "conv2": 120, "fc1": 1536, "fc2": 504, "fc3": 42}


def test_schedules_at_both_ends() -> None:
    at = {"learning_rate_ratio": 1.0, "until": 100}
    assert [constant(t, **at) for t in (0, 100, 10**9)] == [1.0, 1.0, 1.0]
    assert [cosine(t, **at) for t in (0, 100, 101)] == [1.0, 0.0, 0.0]
    assert cosine(50, **at) == pytest.approx(0.5, abs=1e-15)  # cos(pi / 2) is 6e-17 in floats
    ratios = (0.0, 0.25, 1.0, 3.0)
    assert [learning_rate(7, until=None, learning_rate_ratio=r) for r in ratios] == [0.0, 0.25, 1.0, 1.0]
    with pytest.raises(ValueError, match="the cosine schedule needs its end: give update_until="):
        cosine(1, until=None, learning_rate_ratio=1.0)


def test_periodic_includes_both_ends() -> None:
    assert [t for t in range(20) if periodic(t, every=5, first=2, until=12)] == [2, 7, 12]
    assert [t for t in range(12) if periodic(t, every=5, first=0, until=None)] == [0, 5, 10]


def paper_swaps(*, update_every: int) -> dict[str, list[int]]:
    """Swaps per layer of LeNet5 at each update, by the cosine that is the learning rate's shape (protocol C.3)."""
    updater = sf.RigL(update_every=update_every, update_until=STEPS, schedule="cosine")
    updates = [step for step in range(STEPS + 1) if updater.due(step)]
    return {
        name: [updater.num_drop(active, step=step, learning_rate_ratio=1.0) for step in updates]
        for name, active in LENET5_ACTIVE.items()
    }


@pytest.mark.parametrize(
    ("update_every", "num_updates", "first", "last", "total"),
    [(100, 117, [0.29995, 0.29978, 0.29952], 0.0, 26_710), (500, 23, [0.29865, 0.29464, 0.28804], 0.00026, 5160)],
)
def test_published_drop_fractions_and_swaps(
    update_every: int, num_updates: int, first: list[float], last: float, total: int
) -> None:
    """Protocol K.6. The totals are the same under float32 truncation (C.1), float64 truncation and our guarded one."""
    swaps = paper_swaps(update_every=update_every)["fc1"]
    steps = [update_every * (i + 1) for i in range(num_updates)]
    fractions = [0.3 * cosine(step, until=STEPS, learning_rate_ratio=1.0) for step in steps]
    assert [round(p, 5) for p in fractions[:3]] == first
    assert round(fractions[-1], 5) == last
    assert (len(swaps), sum(swaps)) == (num_updates, total)
    assert sum(int(np.float32(1536) * np.float32(p)) for p in fractions) == total


def test_conv1_of_lenet5_stops_changing_early() -> None:
    # Protocol C.1: of 8 active weights 2 are swapped at the start, none after about step 6400.
    swaps = paper_swaps(update_every=100)["conv1"]
    assert swaps[0] == 2
    assert max(100 * (i + 1) for i, count in enumerate(swaps) if count) == 6400


def test_truncation_ignores_float_noise_only() -> None:
    # 0.29 * 100 is 28.999999999999996 in floats and 29 in truth; 10 * 0.1999 is 1.999 and stays 1.
    count = sf.SET(drop_fraction=0.29, schedule="constant").num_drop(100, step=1, learning_rate_ratio=1.0)
    assert count == 29
    assert sf.SET(drop_fraction=0.1999, schedule="constant").num_drop(10, step=1, learning_rate_ratio=1.0) == 1


def test_a_schedule_may_be_any_function() -> None:
    updater = sf.SET(drop_fraction=0.5, schedule=lambda step, *, until, learning_rate_ratio: 1 / step)
    assert [updater.num_drop(100, step=step, learning_rate_ratio=1.0) for step in (1, 2, 4)] == [50, 25, 12]
