"""Counts against tables, and the choice of the largest entries against one stable sort of everything."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sparseflow._fast import count_true
from sparseflow.masks.topk import active_count, topk_mask

DTYPES = (torch.float32, torch.float64, torch.bfloat16)


def stable_oracle(scores: Tensor, k: int) -> Tensor:
    """The first ``k`` of a stable descending sort: largest first, ties by flat index."""
    flat = scores.reshape(-1)
    chosen = torch.sort(flat, descending=True, stable=True).indices[:k]
    return torch.zeros(flat.numel(), dtype=torch.bool).index_fill_(0, chosen, True).view(scores.shape)


@st.composite
def scores_and_k(draw: st.DrawFn) -> tuple[Tensor, int]:
    """A small tensor with many or few different values (few: heavy ties), of any sign, and a count."""
    shape = draw(st.sampled_from([(1,), (7,), (40,), (3, 5), (2, 3, 4), (300,)]))
    n = torch.Size(shape).numel()
    levels = draw(st.integers(1, 6) | st.just(10**6))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**16)))
    values = torch.randint(-levels, levels + 1, shape, generator=generator).double() / 7
    return values.to(draw(st.sampled_from(DTYPES))), draw(st.integers(0, n))


@given(scores_and_k())
def test_topk_is_the_head_of_a_stable_sort(case: tuple[Tensor, int]) -> None:
    scores, k = case
    mask = topk_mask(scores, k)
    assert torch.equal(mask, stable_oracle(scores, k))
    assert count_true(mask) == k


@given(scores_and_k(), st.integers(0, 2**16))
def test_among_chooses_from_the_candidates_only(case: tuple[Tensor, int], seed: int) -> None:
    scores, k = case
    among = torch.rand(scores.shape, generator=torch.Generator().manual_seed(seed)) < 0.5
    k = min(k, int(among.sum()))
    # Every candidate before every other entry: shifting the others below all scores leaves order and ties as they are.
    shifted = torch.where(among, scores.double(), float(scores.double().min()) - 1)
    scores = torch.where(among, scores, torch.nan)  # what is no candidate may be anything
    assert torch.equal(topk_mask(scores, k, among=among), stable_oracle(shifted, k))


# --- above the size from which a sample brackets the threshold --------------------------------------------------------

THRESHOLD = 1 << 16  # of the compiled choice
N = THRESHOLD + 12_345
STRIDE, RUN = 6 * int(N ** (1 / 3) / 3) + 1, 4  # of its sample
SAMPLE = N // STRIDE * RUN


def _structured() -> dict[str, Tensor]:
    """Large tensors for which a regular sample is anything from typical to as wrong as it can be."""
    ramp = torch.arange(N).float()
    normal = torch.randn(N, generator=torch.Generator().manual_seed(0))
    sampled = ramp % STRIDE < RUN
    return {
        "normal": normal,
        "sorted": ramp,
        "reversed": -ramp,
        "constant": torch.full((N,), -2.5),
        "two values": (normal > 0.3).float(),
        "rounded": (normal * 4).round(),
        "only the sample is large": torch.where(sampled, normal + 100, normal),
        "only the sample is small": torch.where(sampled, normal - 100, normal),
        "the sample is constant": torch.where(sampled, 0.0, normal),
        "period of the stride": (ramp % STRIDE).float(),
        "one spike": torch.zeros(N).index_fill_(0, torch.tensor([N - 2]), 1.0),
        "signed zeros": torch.where(ramp % 3 == 0, -0.0, 0.0),
    }


STRUCTURED = _structured()


@pytest.mark.parametrize("name", STRUCTURED)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_sampling_never_changes_the_choice(name: str, dtype: torch.dtype) -> None:
    scores = STRUCTURED[name].to(dtype)
    # Ends, a few entries, the paper's densities, a half, and around the size of the sample.
    for k in (0, 1, 2, SAMPLE, N // 50, N // 20, N // 2, N - 1, N):
        assert torch.equal(topk_mask(scores, k), stable_oracle(scores, k)), (name, k)


@pytest.mark.parametrize("name", STRUCTURED)
@pytest.mark.parametrize("kind", ["random", "few", "the sample", "all but the sample", "first half", "the largest"])
def test_sampling_never_changes_the_choice_among_candidates(name: str, kind: str) -> None:
    scores, position = STRUCTURED[name], torch.arange(N)
    among = {
        "random": torch.rand(N, generator=torch.Generator().manual_seed(1)) < 0.4,
        "few": position % 9973 == 5,
        "the sample": position % STRIDE < RUN,
        "all but the sample": position % STRIDE >= RUN,
        "first half": position < N // 2,
        "the largest": scores >= scores.median(),
    }[kind]
    count = int(among.sum())
    shifted = torch.where(among, scores.double(), float(scores.double().min()) - 1)
    for k in sorted({0, 1, count // 20, count // 2, count - 1, count}):
        for others in (scores, torch.where(among, scores, torch.nan)):
            assert torch.equal(topk_mask(others, k, among=among), stable_oracle(shifted, k)), k


@settings(max_examples=40)
@given(st.integers(-3, 3), st.integers(1, 2**16), st.integers(0, 10**6), st.integers(0, 2**16))
def test_sampling_at_and_around_its_threshold(offset: int, levels: int, k: int, seed: int) -> None:
    n = THRESHOLD + offset
    scores = torch.randint(-levels, levels, (n,), generator=torch.Generator().manual_seed(seed)).float()
    k %= n + 1
    assert torch.equal(topk_mask(scores, k), stable_oracle(scores, k))


@pytest.mark.parametrize("name", STRUCTURED)
def test_magnitudes_need_no_pass_of_their_own(name: str) -> None:
    scores = STRUCTURED[name]
    for k in (1, N // 20, N // 2):
        assert torch.equal(topk_mask(scores, k, magnitude=True), stable_oracle(scores.abs(), k))


def test_the_order_of_memory_does_not_matter() -> None:
    scores = torch.randint(0, 5, (8, 6, 5, 5), generator=torch.Generator().manual_seed(0)).float()
    expected = stable_oracle(scores, 333)
    assert torch.equal(topk_mask(scores.to(memory_format=torch.channels_last), 333), expected)
    assert torch.equal(topk_mask(scores.transpose(0, 1).contiguous().transpose(0, 1), 333), expected)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("n", [10, N])
def test_scores_that_are_not_finite_are_refused(bad: float, n: int) -> None:
    scores = torch.zeros(n)
    scores[n // 2] = bad
    with pytest.raises(ValueError, match=f"scores has 1 of {n} entries that are NaN or infinite. Lower the learning"):
        topk_mask(scores, 3)


def test_infinities_that_cancel_are_refused() -> None:
    with pytest.raises(ValueError, match="scores has 2 of 3 entries that are NaN or infinite"):
        topk_mask(torch.tensor([float("inf"), 0.0, float("-inf")]), 1)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_a_sum_that_overflows_is_no_reason_to_refuse(dtype: torch.dtype) -> None:
    scores = torch.full((8,), torch.finfo(dtype).max, dtype=dtype)
    assert topk_mask(scores, 3).tolist() == [True] * 3 + [False] * 5


@pytest.mark.parametrize("k", [-1, 5])
def test_a_count_out_of_range_is_refused(k: int) -> None:
    with pytest.raises(ValueError, match=rf"k must be in \[0, 4\], the number of candidates, got {k}."):
        topk_mask(torch.zeros(4), k)


def test_a_count_beyond_the_candidates_is_refused() -> None:
    with pytest.raises(ValueError, match=r"k must be in \[0, 1\], the number of candidates, got 2."):
        topk_mask(torch.zeros(3), 2, among=torch.tensor([True, False, False]))


# --- active_count -----------------------------------------------------------------------------------------------------

LENET5 = (150, 2400, 30720, 10080, 840)
#: Protocol D.3, G.1, G.2 and K.5: (sizes, sparsity, active weights of each layer).
PAPER_COUNTS = [
    (LENET5, 0.95, (8, 120, 1536, 504, 42)),
    ((235200, 30000, 1000), 0.98, (4704, 600, 20)),
    (LENET5, 0.0, LENET5),
    # Step 5000 of the cubic schedule 3000..7000: 0.95 (1 - (1/2)^3) = 0.83125.
    (LENET5, 0.83125, (25, 405, 5184, 1701, 142)),
]


@pytest.mark.parametrize(("sizes", "sparsity", "expected"), PAPER_COUNTS)
def test_counts_of_the_paper(sizes: tuple[int, ...], sparsity: float, expected: tuple[int, ...]) -> None:
    assert tuple(active_count(n, sparsity) for n in sizes) == expected


@pytest.mark.parametrize(
    ("numel", "sparsity", "expected"),
    [
        (10, 0.9, 1),  # 10 (1 - 0.9) is 0.9999999999999998
        (1000, 0.999, 1),
        (10, 0.3, 7),  # 7.000000000000001 or so
        (3, 1 - 1 / 3, 1),
        (50, 0.95, 2),  # 2.5 exactly, in spite of 2.5000000000000022: to even
        (150, 0.95, 8),  # 7.5 exactly: to even
        (10, 0.95, 1),  # 0.5: to even would be none, but one stays
        (1, 0.999999, 1),
        (7, 0.999999, 1),
        (0, 0.5, 0),
        (5, 0, 5),
    ],
)
def test_rounding(numel: int, sparsity: float, expected: int) -> None:
    assert active_count(numel, sparsity) == expected


@given(st.integers(1, 10**7), st.integers(0, 9999))
def test_count_is_the_exactly_rounded_one(numel: int, per_10000: int) -> None:
    """Oracle: the same product in exact rational arithmetic, where a fraction of four decimals has no noise."""
    exact = round(numel * (1 - Fraction(per_10000, 10_000)))
    assert active_count(numel, per_10000 / 10_000) == max(1, exact)


@pytest.mark.parametrize("sparsity", [-0.1, 1.0, 1, 95, float("nan"), float("inf")])
def test_sparsity_out_of_range_is_refused(sparsity: float) -> None:
    with pytest.raises(ValueError, match=r"sparsity must be in \[0, 1\), got .* write 0.95, not 95"):
        active_count(10, sparsity)
