"""Where masks change, against tables worked by hand, the paper's protocol and its published counts."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import sparseflow as sf
from sparseflow.methods import drop_and_grow, scores
from sparseflow.methods.drop_grow import DropGrow, cosine
from sparseflow.methods.run import UnfinishedWarning
from sparseflow.rng import stream
from tiny import eight, pull


def bools(*values: int) -> Tensor:
    return torch.tensor(values, dtype=torch.bool)


# Eight weights, the first four active:      0    1    2    3  |  4    5    6    7
MASK = bools(1, 1, 1, 1, 0, 0, 0, 0)
DROP = torch.tensor([4.0, 1.0, 3.0, 2.0, 9.0, 9.0, 9.0, 9.0])  # inactive entries never count
GROW = torch.tensor([9.0, 7.0, 9.0, 1.0, 2.0, 8.0, 0.0, 5.0])

# drop, grow, regrow -> the new mask.
BY_HAND = [
    # 1 and 3 go. Of 1 (7), 3 (1), 4 (2), 5 (8), 6 (0), 7 (5) the best two are 5 and 1: 1 comes straight back.
    (2, 2, True, bools(1, 1, 1, 0, 0, 1, 0, 0)),
    # The same without regrowth: of 4, 5, 6, 7 the best two are 5 (8) and 7 (5).
    (2, 2, False, bools(1, 0, 1, 0, 0, 1, 0, 1)),
    # Nothing goes, nothing comes.
    (0, 0, True, MASK),
    # All four go; the best four of all eight are 0 (9), 2 (9), 5 (8), 1 (7): only 3 and 5 change places.
    (4, 4, True, bools(1, 1, 1, 0, 0, 1, 0, 0)),
    # All four go and none may return: everything is exchanged.
    (4, 4, False, bools(0, 0, 0, 0, 1, 1, 1, 1)),
    # Pruning: 1 (score 1) goes for good.
    (1, 0, True, bools(1, 0, 1, 1, 0, 0, 0, 0)),
    # Growing: of 4 (2), 5 (8), 6 (0), 7 (5) the best three.
    (0, 3, True, bools(1, 1, 1, 1, 1, 1, 0, 1)),
    # Unequal counts: 1, 3, 2 go; the best of 1 (7), 2 (9), 3 (1), 4 .. 7 is 2, which returns.
    (3, 1, True, bools(1, 0, 1, 0, 0, 0, 0, 0)),
]


@pytest.mark.parametrize(("num_drop", "num_grow", "regrow", "expected"), BY_HAND)
def test_by_hand(num_drop: int, num_grow: int, regrow: bool, expected: Tensor) -> None:
    change = drop_and_grow(MASK, DROP, GROW, num_drop, num_grow, regrow=regrow)
    assert torch.equal(change.mask, expected)
    assert torch.equal(change.grown, expected & ~MASK)
    assert torch.equal(change.dropped, MASK & ~expected)


def test_ties_keep_and_grow_the_lowest_index() -> None:
    # All scores equal, so of 0 .. 3 the kept two are 0, 1. Candidates are then 2 .. 7, the grown two are 2, 3: nothing
    # moves. Without regrowth candidates are 4 .. 7 and 4, 5 come.
    ones = torch.ones(8)
    assert torch.equal(drop_and_grow(MASK, ones, ones, 2, 2).mask, MASK)
    assert torch.equal(drop_and_grow(MASK, ones, ones, 2, 2, regrow=False).mask, bools(1, 1, 0, 0, 1, 1, 0, 0))


def test_ties_run_over_the_flat_index_of_any_shape_and_memory_format() -> None:
    # Two output channels of two inputs of 1 x 2; flat order is logical, not that of memory (channels_last).
    mask = bools(0, 1, 1, 1, 0, 1, 0, 0).view(2, 2, 1, 2).to(memory_format=torch.channels_last)
    ones = torch.ones(2, 2, 1, 2)
    # Active are 1, 2, 3, 5; kept 1, 2, 3; of 0, 4, 5, 6, 7 the first is 0.
    expected = bools(1, 1, 1, 1, 0, 0, 0, 0).view(2, 2, 1, 2)
    assert torch.equal(drop_and_grow(mask, ones, ones, 1, 1).mask, expected)


@pytest.mark.parametrize("regrow", [True, False])
def test_a_large_channels_last_layer_is_exchanged_as_a_contiguous_one(regrow: bool) -> None:
    """Nine scores for 70,000 weights: ties everywhere, in the logical order."""
    shape, generator = (40, 70, 5, 5), torch.Generator().manual_seed(0)
    mask = torch.rand(shape, generator=generator) < 0.3
    drop, grow = (torch.randint(-4, 5, shape, generator=generator).float() for _ in range(2))
    expected = drop_and_grow(mask, drop, grow, 3000, 3000, regrow=regrow).mask
    last = [tensor.to(memory_format=torch.channels_last) for tensor in (mask, drop, grow)]
    assert torch.equal(drop_and_grow(*last, 3000, 3000, regrow=regrow).mask, expected)


def test_counts_out_of_range_and_scores_that_are_not_finite() -> None:
    with pytest.raises(ValueError, match=r"num_drop must be in \[0, 4\], the active count, got 5"):
        drop_and_grow(MASK, DROP, GROW, 5, 0)
    with pytest.raises(ValueError, match=r"num_drop must be in \[0, 4\], the active count, got -1"):
        drop_and_grow(MASK, DROP, GROW, -1, 0)
    with pytest.raises(ValueError, match=r"k must be in \[0, 4\], the number of candidates, got 5"):
        drop_and_grow(MASK, DROP, GROW, 0, 5)
    nan_at = {index: torch.where(torch.arange(8) == index, float("nan"), GROW) for index in (0, 7)}
    with pytest.raises(ValueError, match="scores has 1 of 4 entries that are NaN or infinite"):
        drop_and_grow(MASK, nan_at[0], GROW, 1, 1)
    with pytest.raises(ValueError, match="scores has 1 of 5 entries that are NaN or infinite"):
        drop_and_grow(MASK, DROP, nan_at[7], 1, 1)
    # Scores that no choice looks at may be anything: drop scores off the mask, grow scores of weights that stay.
    assert torch.equal(drop_and_grow(MASK, nan_at[7], nan_at[0], 1, 1).mask, drop_and_grow(MASK, GROW, GROW, 1, 1).mask)


@st.composite
def problems(draw: st.DrawFn) -> tuple[Tensor, Tensor, Tensor, int, int, bool]:
    """Masks and scores with many ties: scores are small integers."""
    size = draw(st.integers(1, 24))
    mask = torch.tensor(draw(st.lists(st.booleans(), min_size=size, max_size=size)))
    score = st.lists(st.integers(-2, 2), min_size=size, max_size=size)
    drop, grow = (torch.tensor(draw(score), dtype=torch.float32) for _ in range(2))
    active, regrow = int(mask.sum()), draw(st.booleans())
    num_drop = draw(st.integers(0, active))
    num_grow = draw(st.integers(0, size - active + (num_drop if regrow else 0)))
    return mask, drop, grow, num_drop, num_grow, regrow


@settings(max_examples=200, deadline=None)
@given(problems())
def test_properties(problem: tuple[Tensor, Tensor, Tensor, int, int, bool]) -> None:
    """Exact counts; grown and dropped are disjoint and account for the change; the choices are a stable sort's."""
    mask, drop, grow, num_drop, num_grow, regrow = problem
    change = drop_and_grow(mask, drop, grow, num_drop, num_grow, regrow=regrow)
    assert int(change.mask.sum()) == int(mask.sum()) - num_drop + num_grow
    assert not (change.grown & change.dropped).any()
    assert not (change.grown & mask).any()
    assert not (change.dropped & ~mask).any()
    assert torch.equal(change.mask, (mask | change.grown) & ~change.dropped)
    # Python's sort is stable: equal scores stay in index order.
    active = [i for i in range(len(mask)) if mask[i]]
    kept = sorted(active, key=lambda i: -drop[i])[: len(active) - num_drop]
    free = [i for i in range(len(mask)) if (i not in kept if regrow else not mask[i])]
    grown = sorted(free, key=lambda i: -grow[i])[:num_grow]
    assert change.mask.nonzero().flatten().tolist() == sorted({*kept, *grown})


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 10**6), density=st.floats(0.05, 0.95), fraction=st.floats(0, 1))
def test_protocol_c1(seed: int, density: float, fraction: float) -> None:
    """The authors' recipe step by step in numpy, over the whole tensor; active weights are not exactly zero."""
    rng = np.random.default_rng(seed)
    mask = rng.random(60) < density
    weight = rng.integers(1, 5, 60) * rng.choice([-1, 1], 60) * mask
    growth = rng.integers(0, 5, 60).astype(float)
    num_drop = int(np.float32(mask.sum()) * np.float32(fraction))
    keep = np.argsort(-np.abs(weight * mask), kind="stable")[: mask.sum() - num_drop]
    growth_for_choice = growth.copy()
    growth_for_choice[keep] = growth.min() - 1
    new = np.zeros(60, dtype=bool)
    new[keep] = True
    new[np.argsort(-growth_for_choice, kind="stable")[:num_drop]] = True
    change = drop_and_grow(
        torch.from_numpy(mask), torch.from_numpy(np.abs(weight * 1.0)), torch.from_numpy(growth), num_drop, num_drop
    )
    assert np.array_equal(change.mask.numpy(), new)


def swap_half(method: Callable[..., DropGrow], **options: object) -> DropGrow:
    return method(drop_fraction=0.5, update_every=1, schedule="constant", **options)


# Half of 4 active are swapped: 2 and 3 (|w| = 2 and 1) go. Dense gradient:   0    1    2    3     4    5    6    7
GRADIENT = (0.0, 0.0, 1.0, -9.0, 5.0, 0.0, -3.0, 2.0)


@pytest.mark.parametrize(
    ("method", "regrow", "expected"),
    [
        # |g| over 2, 3, 4, 5, 6, 7: 1, 9, 5, 0, 3, 2. The largest are 3, which returns, and 4.
        (sf.RigL, True, bools(1, 1, 0, 1, 1, 0, 0, 0)),
        # Over 4, 5, 6, 7: the largest are 4 (5) and 6 (3).
        (sf.RigL, False, bools(1, 1, 0, 0, 1, 0, 1, 0)),
        # -|g|: the smallest are 5 (0) and 2 (1), which returns.
        (sf.RigLInverted, True, bools(1, 1, 1, 0, 0, 1, 0, 0)),
        # Over 4, 5, 6, 7: 5 (0) and 7 (2).
        (sf.RigLInverted, False, bools(1, 1, 0, 0, 0, 1, 0, 1)),
    ],
)
def test_rigl_by_hand(method: type, regrow: bool, expected: Tensor) -> None:
    layer, optimizer, sparsifier = eight(swap_half(method, regrow=regrow))
    pull(layer, *GRADIENT)
    optimizer.step()
    assert torch.equal(sparsifier.masks["weight"].flatten(), expected)


def test_a_regrown_weight_keeps_value_and_momentum_and_a_new_one_starts_from_nothing() -> None:
    # The first row above: 2 leaves, 3 is dropped and regrown at once (protocol C.1.5 and C.1.6), 4 is new.
    layer, optimizer, _ = eight(swap_half(sf.RigL), make=partial(torch.optim.SGD, lr=0.0, momentum=0.9))
    pull(layer, *GRADIENT)
    optimizer.step()
    assert layer.weight.flatten().tolist() == [4.0, -3.0, 0.0, -1.0, 0.0, 0.0, 0.0, 0.0]
    assert optimizer.state[layer.weight]["momentum_buffer"].flatten().tolist() == [0, 0, 0, -9, 0, 0, 0, 0]


def test_snfs_grows_by_the_running_mean_not_the_last_gradient() -> None:
    # m = 0.5 * 0.5 * g1 + 0.5 * g2: g1 = 8 at weight 5 leaves 2, g2 = 3 at weight 6 gives 1.5, g2 = 1 at 7 gives 0.5.
    # Of 3 (0), 4 (0), 5, 6, 7 the largest is 5, though its last gradient is zero; 3 (|w| = 1) leaves.
    updater = sf.SNFS(drop_fraction=0.25, update_every=2, schedule="constant", decay=0.5)
    layer, optimizer, sparsifier = eight(updater)
    for gradient in ((0, 0, 0, 0, 0, 8, 0, 0), (0, 0, 0, 0, 0, 0, 3, 1)):
        optimizer.zero_grad()
        pull(layer, *gradient)
        optimizer.step()
    assert sparsifier.state_dict()["gradient_mean"]["weight"].flatten().tolist() == [0, 0, 0, 0, 0, 2, 1.5, 0.5]
    assert torch.equal(sparsifier.masks["weight"].flatten(), bools(1, 1, 1, 0, 0, 1, 0, 0))


def test_set_grows_every_candidate_equally_often() -> None:
    """10 draws among 100 - 40 = 60 candidates, 2000 times: each is grown with chance 1/6.

    A count has standard deviation sqrt(2000 * 5/36) = 16.7; 5 of them bound 60 counts, false alarm below 4e-5.
    """
    mask = torch.arange(100) < 50
    weight = torch.arange(100.0, 0.0, -1.0)
    grown = torch.zeros(100)
    generator = stream(0, "grow")
    for _ in range(2000):
        score = scores.uniform_random(weight, None, generator=generator)
        grown += drop_and_grow(mask, weight, score, 10, 10).mask
    assert (grown[:40] == 2000).all()
    assert (grown[40:] - 2000 / 6).abs().max() < 5 * (2000 * 5 / 36) ** 0.5


def test_the_dense_gradient_is_needed() -> None:
    for score in (scores.gradient_magnitude, scores.negative_gradient_magnitude):
        with pytest.raises(ValueError, match="this score needs the dense gradient, got None"):
            score(torch.ones(2), None, generator=torch.Generator())


def test_without_regrowth_no_more_go_than_may_come() -> None:
    # 6 of 8 active, half would go; only 2 candidates exist.
    layer = nn.Linear(8, 1, bias=False)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    mask = bools(1, 1, 1, 1, 1, 1, 0, 0).view(1, 8)
    updater = sf.SET(drop_fraction=0.5, update_every=1, regrow=False)
    sparsifier = sf.Sparsifier(layer, optimizer, {"weight": mask}, updater, seed=0)
    optimizer.step()
    assert sparsifier.masks["weight"][0, 6:].all()
    sparsifier.check()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"drop_fraction": 1.5}, r"drop_fraction must be in \[0, 1\], got 1.5"),
        ({"update_every": 0}, "update_every must be at least 1, got 0. It counts optimizer steps"),
        ({"first_update": 0}, "first_update must be at least 1, got 0: masks change after an optimizer step"),
        ({"first_update": -1, "replaces_step": True}, "first_update must be at least 0, got -1"),
        (
            {"schedule": "linear"},
            "schedule must be one of 'constant', 'cosine', 'learning_rate', 'stages', got 'linear'",
        ),
        ({"schedule": "cosine"}, "schedule='cosine' needs its end: give total_steps= or update_until="),
        ({"schedule": cosine}, "schedule='cosine' needs its end: give total_steps= or update_until="),
        (
            {"schedule": "cosine", "update_until": 0, "first_update": 0, "replaces_step": True},
            "schedule='cosine' needs its end: give total_steps= or update_until=",
        ),
        ({"update_every": 2.5}, "update_every must be a whole number, got 2.5. It counts optimizer steps"),
        ({"update_every": float("nan")}, "update_every must be at least 1, got nan"),
        ({"update_until": 0}, "update_until must be at least 1, got 0"),
        ({"total_steps": -1}, "total_steps must be at least 1, got -1"),
        ({"total_steps": 600, "update_until": 500}, "total_steps= stops updates after 75 % .* give one of them"),
        ({"gradient_decay": 1.0}, "gradient_decay=1.0 would never look at a gradient"),
    ],
)
def test_wrong_settings(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sf.RigL(**arguments)


@pytest.mark.parametrize("name", ["drop_fraction", "update_every", "update_until", "total_steps", "first_update"])
def test_what_is_no_number_is_named(name: str) -> None:
    with pytest.raises(TypeError, match=f"{name} must be a (whole )?number, got '9' "):
        sf.RigL(**{name: "9"})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"update_until": 99}, "never change: the first update is at step 100, the last may be at 99. Lower update_ev"),
        ({"total_steps": 133}, "never change: the first update is at step 100, the last may be at 99"),
        ({"first_update": 7, "update_until": 6}, "the first update is at step 7, the last may be at 6"),
    ],
)
def test_updates_that_never_come(arguments: dict[str, object], message: str) -> None:
    with pytest.warns(UnfinishedWarning, match=message):
        sf.RigL(**arguments)


def test_wrong_decay() -> None:
    with pytest.raises(ValueError, match=r"gradient_decay must be in \[0, 1\], got 1.1"):
        sf.SNFS(decay=1.1)


def test_a_running_mean_that_no_score_sees_is_refused() -> None:
    with pytest.raises(ValueError, match=r"gradient_decay=0.9 would never look at a gradient"):
        DropGrow(drop_score=scores.magnitude, grow_score=scores.uniform_random, gradient_decay=0.9)
