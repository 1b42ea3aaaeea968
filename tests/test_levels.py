"""Narrowing by levels never changes a choice: each case against the head of one stable sort of everything."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sparseflow.levels import count_true, narrow
from sparseflow.topk import _NARROWING_PAYS_FROM, topk_mask

N = 100_003  # a prime: neither whole words nor whole rows


def normal(seed: int) -> Tensor:
    return torch.randn(N, generator=torch.Generator().manual_seed(seed))


def oracle(scores: Tensor, k: int, among: Tensor) -> Tensor:
    """Candidates first, then a stable descending sort: ties by flat index."""
    index = among.nonzero().squeeze(1)
    order = torch.sort(scores[index], descending=True, stable=True).indices[:k]
    return torch.zeros(scores.numel(), dtype=torch.bool).index_fill_(0, index[order], True)


#: From bfloat16's coarse end to its fine one, over many orders of magnitude, and where its bits are near the ends.
SCORES = {
    "normal": normal(0),
    "close to one": 1 + normal(1) * 1e-7,
    "many magnitudes": torch.exp(15 * normal(2)) * normal(3).sign(),
    "denormal": normal(4) * 1e-41,
    "huge": normal(5).clamp(-3, 3) * 1e38,
    "two-sided and heavy at zero": torch.where(normal(6) > 0.5, normal(7), 0.0),
    "both zeros": torch.where(normal(8) > 0, 0.0, -0.0) + torch.where(normal(9) > 2, 1.0, -0.0),
    "double": normal(10).double() * 1e-60,
    "half": normal(11).half(),
}


@pytest.mark.parametrize("name", SCORES)
@pytest.mark.parametrize("magnitude", [False, True])
@pytest.mark.parametrize("density", [0.001, 0.1, 1.0])
def test_the_choice_is_that_of_a_sort(name: str, magnitude: bool, density: float) -> None:
    scores = SCORES[name]
    among = torch.rand(N, generator=torch.Generator().manual_seed(12)) < density
    candidates = int(among.sum())
    for k in (1, candidates // 50, candidates // 3, candidates * 7 // 10, candidates - 1):
        expected = oracle(scores.abs() if magnitude else scores, k, among)
        assert torch.equal(topk_mask(scores, k, among=among, magnitude=magnitude), expected), k


def test_few_are_left_where_the_sample_is_typical() -> None:
    """The oracle is the promise itself: sure ones above, the others close, and far fewer than all."""
    scores = normal(0).abs()
    narrowed = narrow(scores, 20_000, None, N)
    assert narrowed is not None
    sure, undecided, missing = narrowed
    assert int(sure.sum()) + missing == 20_000
    assert missing <= undecided.numel() < N // 20
    assert not sure[undecided].any()
    assert scores[sure].min() > scores[undecided].max()


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("magnitude", [False, True])
def test_what_is_not_finite_is_refused_among_the_candidates_only(bad: float, magnitude: bool) -> None:
    scores, among = normal(0), torch.ones(N, dtype=torch.bool)
    scores[-1] = bad
    with pytest.raises(ValueError, match=f"scores has 1 of {N} entries that are NaN or infinite"):
        topk_mask(scores, 100, among=among, magnitude=magnitude)
    among[-1] = False
    expected = oracle(scores.abs() if magnitude else scores, 100, among)
    assert torch.equal(topk_mask(scores, 100, among=among, magnitude=magnitude), expected)


def test_magnitude_below_the_size_from_which_narrowing_pays() -> None:
    scores = normal(0)[: _NARROWING_PAYS_FROM - 1]
    assert torch.equal(topk_mask(scores, 99, magnitude=True), topk_mask(scores.abs(), 99))


def test_scores_and_mask_are_not_written_to() -> None:
    scores, among = normal(0).bfloat16(), normal(1) > 0
    before = scores.clone(), among.clone()
    topk_mask(scores, 1000, among=among)
    assert torch.equal(scores, before[0])
    assert torch.equal(among, before[1])


@pytest.mark.parametrize("n", [0, 1, 2039, 2040, 2041, 10_000])
def test_count_true_is_the_sum(n: int) -> None:
    mask = torch.rand(n, generator=torch.Generator().manual_seed(n)) < 0.7
    assert count_true(mask) == int(mask.sum())
    assert count_true(torch.ones(n, dtype=torch.bool)) == n


def test_count_true_whatever_the_strides() -> None:
    mask = torch.rand(64, 3, 9, 9, generator=torch.Generator().manual_seed(0)) < 0.3
    count = int(mask.sum())
    assert count_true(mask.to(memory_format=torch.channels_last)) == count
    assert count_true(mask.flatten()[1:]) == count - int(mask.flatten()[0])
    assert count_true(mask[:, 1]) == int(mask[:, 1].sum())
