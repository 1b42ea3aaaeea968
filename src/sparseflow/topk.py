"""One rounding rule and one tie rule: every count and every choice of entries in the library is made here."""

from __future__ import annotations

import torch
from torch import Tensor

from sparseflow._checks import check_finite, check_sparsity
from sparseflow.levels import count_true, narrow

#: Below this many entries a plain selection is faster than narrowing the choice first (measured on 2 CPU cores).
_NARROWING_PAYS_FROM = 1 << 14
#: Below this many, than sampling a bracket first.
_SAMPLING_PAYS_FROM = 1 << 16
_SAMPLE_SIZE = 1 << 13


def active_count(numel: int, sparsity: float) -> int:
    r"""Number of active weights of a tensor: the one place where a fraction becomes a count.

    .. math:: k = \max(1,\ \mathrm{round}((1 - S)\, n))

    Halves round to the even neighbour, after removing float noise (``10 * (1 - 0.9)`` is 1, not 0.99...). At least one
    weight stays: a layer without weights would cut the network.

    Args:
        numel: Number of weights ``n``; 0 gives 0.
        sparsity: Fraction ``S`` of zeros, in [0, 1).

    Raises:
        ValueError: if ``sparsity`` is outside [0, 1).

    Reference: rounding as protocol D.2 (TensorFlow Model Optimization).

    >>> [active_count(n, 0.95) for n in (150, 2400, 30720, 10080, 840)]  # LeNet5
    [8, 120, 1536, 504, 42]
    """
    check_sparsity(sparsity)
    if numel == 0:
        return 0
    return max(1, round(round(numel * (1 - sparsity), 6)))


def kth_largest(scores: Tensor, k: int) -> Tensor:
    """The ``k``-th largest value of a tensor, exact, as a 0-d tensor.

    Large tensors are bracketed first by the order statistics of a regular sample, so that only a few percent of the
    entries are ever compared with each other; where the bracket misses, all are.

    Args:
        scores: Any shape, finite.
        k: In [1, numel].

    >>> kth_largest(torch.tensor([3.0, 1.0, 2.0]), 2)
    tensor(2.)
    """
    flat = scores.reshape(-1)
    n = flat.numel()
    if n >= _SAMPLING_PAYS_FROM:
        sample = flat[:: n // _SAMPLE_SIZE].sort(descending=True).values
        m = sample.numel()
        # Four standard deviations of the rank of a random sample's order statistic.
        margin = 4 * (m * (k / n) * (1 - k / n)) ** 0.5 + 2
        low_rank, high_rank = int(m * k / n + margin), int(m * k / n - margin)
        low = sample[low_rank] if low_rank < m else sample.new_tensor(float("-inf"))
        candidates = flat[flat >= low]
        if candidates.numel() >= k:
            if high_rank >= 0:
                above = candidates > sample[high_rank]
                num_above = int(above.sum())
                if num_above < k:
                    return _kth_largest_plain(candidates[~above], k - num_above)
            return _kth_largest_plain(candidates, k)
    return _kth_largest_plain(flat, k)


def _kth_largest_plain(flat: Tensor, k: int) -> Tensor:
    n = flat.numel()
    return flat.kthvalue(n - k + 1).values


def topk_mask(scores: Tensor, k: int, *, among: Tensor | None = None, magnitude: bool = False) -> Tensor:
    """Mark exactly the ``k`` largest scores; ties go to the lowest flat index.

    Args:
        scores: Any shape and float dtype, finite.
        k: How many to mark, in [0, number of candidates].
        among: bool, same shape: the candidates. Default: every entry.
        magnitude: Compare absolute values, without a pass that writes them.

    Returns: bool, same shape, with exactly ``k`` entries ``True``.

    Raises:
        ValueError: if ``k`` is out of range or a candidate's score is NaN or infinite.

    >>> topk_mask(torch.tensor([1.0, 2.0, 2.0, 2.0]), 2)
    tensor([False,  True,  True, False])
    """
    flat = scores.reshape(-1)
    candidates = None if among is None else among.reshape(-1)
    narrowed = None
    if flat.numel() >= _NARROWING_PAYS_FROM:
        num_candidates = flat.numel() if candidates is None else count_true(candidates)
        if 0 < k < num_candidates:
            narrowed = narrow(flat, k, candidates, num_candidates, magnitude=magnitude)
    if narrowed is not None:
        mask, index, missing = narrowed
        undecided = _scores_at(flat, index, magnitude=magnitude)
        best = undecided.sort(descending=True, stable=True).indices[:missing]
        mask.view(torch.int8).index_fill_(0, index[best], 1)
    elif candidates is None:
        mask = _topk_flat(flat.abs() if magnitude else flat, k)
    else:
        index = candidates.nonzero().squeeze(1)
        chosen = _topk_flat(_scores_at(flat, index, magnitude=magnitude), k)
        mask = torch.zeros_like(candidates).index_fill_(0, index[chosen], True)
    return mask.view(scores.shape)


def _scores_at(flat: Tensor, index: Tensor, *, magnitude: bool) -> Tensor:
    found = flat.index_select(0, index)
    return found.abs_() if magnitude else found


def _topk_flat(flat: Tensor, k: int) -> Tensor:
    n = flat.numel()
    if not 0 <= k <= n:
        raise ValueError(f"k must be in [0, {n}], the number of candidates, got {k}.")
    check_finite(flat, name="scores")
    if k == 0:
        return torch.zeros(n, dtype=torch.bool, device=flat.device)
    threshold = kth_largest(flat, k)
    mask = flat >= threshold
    surplus = int(mask.sum()) - k
    if surplus:
        tied = (flat == threshold).nonzero().squeeze(1)
        mask[tied[tied.numel() - surplus :]] = False
    return mask
