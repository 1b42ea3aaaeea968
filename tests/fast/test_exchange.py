"""The compiled exchange of connections against stable sorts, and layers on several threads against one."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import sparseflow as sf
from makers import MAKERS
from sparseflow._fast import Exchange, Magnitude
from sparseflow._fast import exchange as exchange_layers
from sparseflow._fast.choose import exchange
from sparseflow._fast.memory import as_integers, map_threads
from sparseflow.methods import drop_and_grow

#: Above the size from which a layer's exchange is compiled in any process.
LARGE = (1 << 16) + 4321


def head_of_sort(scores: Tensor, k: int, among: Tensor) -> Tensor:
    """Oracle: the first ``k`` candidates of a stable descending sort."""
    index = among.nonzero().flatten()
    order = torch.sort(scores[index], descending=True, stable=True).indices[:k]
    return torch.zeros_like(among).index_fill_(0, index[order], True)


def sorted_exchange(mask: Tensor, drop: Tensor, grow: Tensor, num_drop: int, num_grow: int, regrow: bool) -> Tensor:
    kept = head_of_sort(drop, int(mask.sum()) - num_drop, mask)
    return kept | head_of_sort(grow, num_grow, ~(kept if regrow else mask))


def in_one_pass(
    mask: Tensor, drop: Tensor | Magnitude, grow: Tensor | Magnitude, num_drop: int, num_grow: int, regrow: bool = True
) -> Tensor | None:
    """The fast twin of ``drop_and_grow``, as a mask update calls it."""
    layer = Exchange(mask, int(mask.sum()), drop, grow, num_drop, num_grow, regrow)
    ((key, given, new),) = exchange_layers([("layer", layer)])
    assert (key, given is layer) == ("layer", True)
    return None if new is None else new.unpack()


#: Values that comparison by bits could get wrong: signed zeros, denormals, the largest, and neighbours of 1.
DELICATE = torch.tensor([0.0, -0.0, 1e-45, -1e-45, 1e-38, -1e-38, 1.0, -1.0, 1.0000001, -0.99999994, 3.4e38, -3.4e38])


def scores_of(kind: str, n: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    normal = torch.randn(n, generator=generator)
    return {
        "normal": lambda: normal,
        "ties": lambda: (normal * 2).round(),
        "zeros": lambda: torch.where(normal > 1.5, normal, 0.0),
        "constant": lambda: torch.full((n,), -0.0),
        "delicate": lambda: DELICATE[torch.randint(len(DELICATE), (n,), generator=generator)],
        "rows": lambda: normal * torch.exp(torch.arange(n) // 97 % 13),  # neighbours alike
        "columns": lambda: normal * torch.exp(torch.arange(n) % 64 // 8),
    }[kind]()


KINDS = st.sampled_from(["normal", "ties", "zeros", "constant", "delicate", "rows", "columns"])


@settings(max_examples=150, deadline=None)
@given(
    n=st.integers(1, 300) | st.integers(4000, 20_000),
    kinds=st.tuples(KINDS, KINDS),
    seed=st.integers(0, 10**6),
    density=st.floats(0, 1),
    shares=st.tuples(st.floats(0, 1), st.floats(0, 1)),
    regrow=st.booleans(),
    magnitudes=st.tuples(st.booleans(), st.booleans()),
)
def test_an_exchange_is_two_stable_sorts(
    n: int,
    kinds: tuple[str, str],
    seed: int,
    density: float,
    shares: tuple[float, float],
    regrow: bool,
    magnitudes: tuple[bool, bool],
) -> None:
    mask = torch.rand(n, generator=torch.Generator().manual_seed(seed)) < density
    drop, grow = scores_of(kinds[0], n, seed + 1), scores_of(kinds[1], n, seed + 2)
    active = int(mask.sum())
    num_drop = int(shares[0] * active)
    num_grow = int(shares[1] * (n - active + (num_drop if regrow else 0)))
    new = torch.empty_like(mask)
    counts = active, num_drop, num_grow
    if not exchange(
        as_integers(mask), as_integers(drop), as_integers(grow), *counts, regrow, *magnitudes, as_integers(new)
    ):
        # The sample misled; what happens then is tested on `drop_and_grow` below.
        assert {"rows", "columns"} & {*kinds}
        return
    drop, grow = (s.abs() if absolute else s for s, absolute in zip((drop, grow), magnitudes, strict=True))
    assert torch.equal(new, sorted_exchange(mask, drop, grow, num_drop, num_grow, regrow))


@pytest.mark.parametrize("regrow", [True, False])
@pytest.mark.parametrize("kind", ["normal", "ties", "zeros", "constant", "delicate", "rows", "columns"])
def test_a_large_layer_is_exchanged_exactly(kind: str, regrow: bool) -> None:
    mask = torch.rand(LARGE, generator=torch.Generator().manual_seed(3)) < 0.2
    drop, grow = scores_of(kind, LARGE, 1), scores_of(kind, LARGE, 2)
    active = int(mask.sum())
    for num_drop, num_grow in ((0, 0), (active // 3, active // 3), (active, active), (1, 0), (0, 1)):
        change = drop_and_grow(mask, drop, grow, num_drop, num_grow, regrow=regrow)
        assert torch.equal(change.mask, sorted_exchange(mask, drop, grow, num_drop, num_grow, regrow))
        assert torch.equal(change.grown, change.mask & ~mask)
        assert torch.equal(change.dropped, mask & ~change.mask)
        found = in_one_pass(mask, drop, grow, num_drop, num_grow, regrow)
        assert kind in ("rows", "columns") if found is None else torch.equal(found, change.mask)


@pytest.mark.parametrize("regrow", [True, False])
@pytest.mark.parametrize("kind", ["normal", "ties", "delicate"])
def test_magnitudes_need_not_be_written(kind: str, regrow: bool) -> None:
    mask = torch.rand(LARGE, generator=torch.Generator().manual_seed(3)) < 0.2
    drop, grow = scores_of(kind, LARGE, 1), scores_of(kind, LARGE, 2)
    expected = sorted_exchange(mask, drop.abs(), grow.abs(), 3000, 3000, regrow)
    scores = Magnitude(drop), Magnitude(grow)
    assert torch.equal(in_one_pass(mask, *scores, 3000, 3000, regrow), expected)
    written = Exchange(mask, int(mask.sum()), *scores, 3000, 3000, regrow).scores()
    assert torch.equal(drop_and_grow(mask, *written, 3000, 3000, regrow=regrow).mask, expected)


def test_a_sample_that_is_nothing_like_the_rest_does_not_change_the_choice() -> None:
    mask = torch.ones(LARGE, dtype=torch.bool)
    stride = 6 * int(LARGE ** (1 / 3) / 3) + 1
    sampled = torch.arange(LARGE) % stride < 4
    drop = torch.where(sampled, 100.0, 0.0) + scores_of("normal", LARGE, 0)
    new = torch.empty_like(mask)
    arguments = (
        as_integers(mask),
        as_integers(drop),
        as_integers(drop),
        LARGE,
        LARGE // 2,
        0,
        True,
        False,
        False,
        as_integers(new),
    )
    assert not exchange(*arguments), "the sample was to mislead"
    expected = sorted_exchange(mask, drop, drop, LARGE // 2, 0, True)
    assert torch.equal(drop_and_grow(mask, drop, drop, LARGE // 2, 0).mask, expected)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_scores_of_a_large_layer_that_are_not_finite(bad: float) -> None:
    mask = torch.arange(LARGE) < 1000
    at = {place: torch.zeros(LARGE).index_fill_(0, torch.tensor([place]), bad) for place in (5, LARGE - 5)}
    fine = torch.zeros(LARGE)
    with pytest.raises(ValueError, match="scores has 1 of 1000 entries that are NaN or infinite"):
        drop_and_grow(mask, at[5], fine, 10, 10)
    with pytest.raises(ValueError, match=f"scores has 1 of {LARGE - 990} entries that are NaN or infinite"):
        drop_and_grow(mask, fine, at[LARGE - 5], 10, 10)
    assert in_one_pass(mask, fine, at[LARGE - 5], 10, 10) is None
    assert in_one_pass(mask, at[5], fine, 10, 10) is None
    # Scores that no choice looks at may be anything.
    expected = drop_and_grow(mask, fine, fine, 10, 10).mask
    assert torch.equal(drop_and_grow(mask, at[LARGE - 5], at[5], 10, 10).mask, expected)


def test_counts_of_a_large_layer_out_of_range() -> None:
    mask, ones = torch.arange(LARGE) < 1000, torch.ones(LARGE)
    with pytest.raises(ValueError, match=r"num_drop must be in \[0, 1000\], the active count, got 1001"):
        drop_and_grow(mask, ones, ones, 1001, 0)
    with pytest.raises(ValueError, match=rf"k must be in \[0, {LARGE - 1000}\], the number of candidates"):
        drop_and_grow(mask, ones, ones, 0, LARGE - 999)
    assert in_one_pass(mask, ones, ones, 1001, 0) is None
    assert in_one_pass(mask, ones, ones, 0, LARGE - 999) is None


@pytest.mark.parametrize("regrow", [True, False])
@pytest.mark.parametrize("kind", ["normal", "ties", "zeros", "constant", "delicate"])
def test_ties_go_by_the_logical_order_whatever_the_order_of_memory(kind: str, regrow: bool) -> None:
    """Channels last is chosen from where it lies unless a tie matters; the oracle is the contiguous layer."""
    shape = (128, 64, 3, 3)
    n = 128 * 64 * 3 * 3
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(3)) < 0.2
    drop, grow = (scores_of(kind, n, seed).view(shape) for seed in (1, 2))
    active = int(mask.sum())
    last = [tensor.contiguous(memory_format=torch.channels_last) for tensor in (mask, drop, grow)]
    for num in (0, 1, active // 3, active):
        expected = drop_and_grow(mask, drop, grow, num, num, regrow=regrow).mask
        assert torch.equal(drop_and_grow(*last, num, num, regrow=regrow).mask, expected)
        assert torch.equal(in_one_pass(*last, num, num, regrow), expected)


def test_without_an_order_a_tie_that_matters_fails_and_one_that_does_not_is_nothing() -> None:
    mask = torch.ones(LARGE, dtype=torch.bool)
    score = torch.arange(LARGE, dtype=torch.float32)
    score[:10] = 4.0
    new = torch.empty_like(mask)

    def exchanged(num_drop: int, *, ordered: bool) -> bool:
        tensors = map(as_integers, (mask, score, score))
        return bool(exchange(*tensors, LARGE, num_drop, 0, True, False, False, as_integers(new), ordered))

    assert exchanged(10, ordered=False)
    assert torch.equal(new, score > 9)
    assert not exchanged(5, ordered=False)
    assert exchanged(5, ordered=True)
    assert torch.equal(new, (score > 9) | (torch.arange(LARGE) < 5))


# --- in a training loop -----------------------------------------------------------------------------------------------


@pytest.fixture(params=[1, 2, 5])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def trained(method: str, seed: int = 0) -> list[Tensor]:
    """Masks and weights after three updates of layers of which some are large enough to be compiled."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(320, 256), nn.Linear(256, 300), nn.Linear(300, 10), nn.Linear(10, 7000))
    block = {"2.weight": (2, 5), "*": (4, 1)} if method.endswith("in blocks") else (1, 1)
    masks = sf.random_masks(model, 0.8, seed=seed, block=block)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    updater = MAKERS[method.removesuffix(" in blocks")](drop_fraction=0.3, update_every=1, block=block)
    sparsifier = sf.Sparsifier(model, optimizer, masks, updater, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(3):
        for parameter in model.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        optimizer.step()
    sparsifier.check()
    return [*sparsifier.masks.values(), *(parameter.detach() for parameter in model.parameters())]


ON_ONE_THREAD: dict[str, list[Tensor]] = {}


@pytest.mark.parametrize("method", ["rigl", "rigl_inverted", "set", "snfs", "rigl in blocks", "set in blocks"])
def test_any_number_of_threads_gives_the_same_bits(method: str, threads: int) -> None:
    found = trained(method)
    for tensor, expected in zip(found, ON_ONE_THREAD.setdefault(method, found), strict=True):
        assert torch.equal(tensor.view(torch.uint8), expected.view(torch.uint8))


@pytest.mark.parametrize("place", [0, -1])
def test_a_gradient_that_is_not_finite_stops_before_any_mask_is_written(place: int, threads: int) -> None:
    model = nn.Sequential(nn.Linear(300, 300, bias=False), nn.Linear(300, 400, bias=False))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    updater = sf.RigL(update_every=1, replaces_step=True)
    sparsifier = sf.Sparsifier(model, optimizer, sf.random_masks(model, 0.8, seed=0), updater, seed=0)
    before = {name: mask.clone() for name, mask in sparsifier.masks.items()}
    model[0].weight.grad, model[1].weight.grad = torch.randn(300, 300), torch.randn(400, 300)
    optimizer.step()  # the replacement at step 0 is not due: an ordinary step
    model[1].weight.grad = torch.randn(400, 300)
    model[1].weight.grad.view(-1)[place] = float("nan")
    before = {name: mask.clone() for name, mask in sparsifier.masks.items()}
    with pytest.raises(ValueError, match=r"the gradient of '1\.weight' at the mask update of step 1 has 1 of 120000"):
        optimizer.step()
    for name, mask in sparsifier.masks.items():
        assert torch.equal(mask, before[name])


# --- threads ----------------------------------------------------------------------------------------------------------


def test_results_come_in_order_from_several_threads(threads: int) -> None:
    meeting = threading.Barrier(threads, timeout=60)

    def square(x: int) -> int:
        if x < threads:
            meeting.wait()  # passes once each of the threads has taken one
        return x * x

    assert list(map_threads(square, range(100))) == [x * x for x in range(100)]


def test_an_item_is_let_go_when_its_result_is_there(threads: int) -> None:
    """Scores are as large as weights: no more of them than threads, and the one being made, are alive at a time."""

    class Scores:
        alive, most = 0, 0

        def __init__(self) -> None:
            Scores.alive += 1
            Scores.most = max(Scores.most, Scores.alive)

        def __del__(self) -> None:
            Scores.alive -= 1

    assert list(map_threads(lambda scores: 1, (Scores() for _ in range(200)))) == [1] * 200
    assert Scores.most <= 2 * threads + 1


@pytest.mark.parametrize("enabled", [True, False])
def test_threads_have_the_gradient_mode_of_the_caller(enabled: bool, threads: int) -> None:
    with torch.set_grad_enabled(enabled):
        assert set(map_threads(lambda x: torch.is_grad_enabled(), range(50))) == {enabled}


def test_an_error_in_a_thread_is_raised(threads: int) -> None:
    with pytest.raises(ZeroDivisionError):
        list(map_threads(lambda x: 1 // x, [1, 0, 1]))


def test_integers_are_the_tensor_itself() -> None:
    tensor = torch.zeros(2, 3)
    as_integers(tensor)[4] = np.float32(1.5).view(np.int32)
    assert tensor[1, 1] == 1.5
