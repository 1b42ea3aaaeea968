"""The largest entries of a large tensor in few passes over memory: scores become bytes, bytes are counted.

Selection by sorting moves every score many times. Here one pass rounds each score to bfloat16, whose bits, read as an
integer, are in the same order; a regular sample brackets the threshold; and the distance to the bracket's end becomes
a byte, its level. A few passes over these bytes, a quarter of the memory, find the level that holds the threshold,
and only the scores of that level, some thousandths of all, are compared with each other. Rounding is monotone, so the
choice is exact whatever the sample was: a bad one costs time.

What torch does well on a CPU shapes the code: a comparison with a bool result, ``where``, ``masked_fill`` and
``nonzero`` take 5 to 20 times as long as arithmetic that keeps its dtype, and eight bools that are read as one int64
word are added or searched eight at a time.
"""

from __future__ import annotations

import torch
from torch import Tensor

#: Bytes in a row of words: 255 words of 8, so that no byte of the sum of a row of 0/1 bytes overflows.
_ROW = 255 * 8
#: Scores in a pass: the keys between two operations stay in the cache.
_CHUNK = 1 << 19
_SAMPLE = 1 << 10
_TOP = 255
#: Undecided entries, and their share of all, up to which a look at each is cheaper than one more pass.
_FEW = 1 << 11
_FEW_SHARE = 1 / 400
#: Bits of infinity in bfloat16; what is above is NaN.
_INFINITY = 0x7F80


def count_true(mask: Tensor) -> int:
    """Number of ``True`` entries, ten times faster than ``mask.sum()`` on a CPU.

    >>> count_true(torch.arange(10_000) % 3 == 0)
    3334
    """
    whole = mask.numel() // _ROW * _ROW
    if not whole or not mask.is_contiguous() or mask.storage_offset() % 8:
        return int(mask.view(torch.int8).sum(dtype=torch.int64))
    flat = mask.reshape(-1).view(torch.uint8)
    return _count(flat[:whole]) + int(flat[whole:].sum())


def _count(rows: Tensor) -> int:
    """Sum of 0/1 bytes, a whole number of rows."""
    return int(rows.view(torch.int64).view(-1, _ROW // 8).sum(1).view(torch.uint8).sum(dtype=torch.int64))


def _positions(rows: Tensor) -> Tensor:
    """Flat indices of the nonzero bytes, ascending."""
    words = rows.view(torch.int64)
    found = words.nonzero().squeeze(1)
    word, byte = words[found].view(torch.uint8).view(-1, 8).nonzero().unbind(1)
    return found[word] * 8 + byte


def _keys_(room: Tensor, scores: Tensor, *, magnitude: bool) -> tuple[Tensor, Tensor]:
    """Integers in the order of the scores (equal for 0.0 and -0.0), and the largest magnitude among them."""
    bits = room[: scores.numel()].copy_(scores).view(torch.int16)
    sign = None if magnitude else bits >> 15
    bits &= 0x7FFF
    largest = bits.amax()
    return bits if sign is None else bits.bitwise_xor_(sign).sub_(sign), largest


def _levels(flat: Tensor, among: Tensor | None, *, low: int, shift: int, magnitude: bool) -> tuple[Tensor, Tensor]:
    """Each candidate's level, 1 (below ``low``, a key without its last ``shift`` bits) to 255; 0 for the others.

    Padded with zeros to whole rows; and the largest magnitude of all keys.
    """
    n = flat.numel()
    rows = torch.empty(-(-n // _ROW) * _ROW, dtype=torch.uint8, device=flat.device)
    rows[n:] = 0
    room = torch.empty(min(n, _CHUNK), dtype=torch.bfloat16, device=flat.device)
    largest = []
    for start in range(0, n, _CHUNK):
        part = flat[start : start + _CHUNK]
        keys, most = _keys_(room, part, magnitude=magnitude)
        largest.append(most)
        if shift:
            keys >>= shift
        # Clamped before the subtraction, which could leave int16.
        keys.clamp_(low - 1, min(low + _TOP - 2, _INFINITY)).sub_(low - 2)
        level = rows[start : start + part.numel()]
        level.view(torch.int8).copy_(keys)
        if among is not None:
            level *= among[start : start + part.numel()].view(torch.uint8)
    return rows, torch.stack(largest).amax()


def narrow(
    flat: Tensor, k: int, among: Tensor | None, num_candidates: int, *, magnitude: bool = False
) -> tuple[Tensor, Tensor, int] | None:
    """Leave only a few entries to choose from when the ``k`` largest candidates are wanted.

    Args:
        flat: Scores, one axis, any float dtype.
        k: In [1, num_candidates).
        among: bool, same shape: the candidates; ``None`` for all.
        num_candidates: How many these are.
        magnitude: Compare absolute values.

    Returns: a bool mask of entries that are certainly chosen, the ascending indices of those that may be, and how many
    of these are to be; all scores are finite then. ``None`` where levels do not help: one may not be finite, there are
    too many ties, or too few candidates to sample.
    """
    n = flat.numel()
    stride = n // _SAMPLE
    sample = flat[::stride]
    if among is not None:
        sample = sample[among[::stride]]
    m = sample.numel()
    if m < 16:
        return None
    keys, _ = _keys_(torch.empty(m, dtype=torch.bfloat16, device=flat.device), sample, magnitude=magnitude)
    share = k / num_candidates
    # Four standard deviations of the rank of a random sample's order statistic.
    margin = 4 * (m * share * (1 - share)) ** 0.5 + 2
    ranks = [min(max(m - int(m * share + away), 0), m - 1) for away in (margin, 0, -margin)]
    low, middle, high = keys.sort().values[ranks].tolist()
    shift = 0
    while (high >> shift) - (low >> shift) > _TOP - 4:
        shift += 1
    if not -_INFINITY < low <= high < _INFINITY:
        return None
    rows, largest = _levels(flat, among, low=low >> shift, shift=shift, magnitude=magnitude)
    if int(largest) >= _INFINITY:
        return None
    # At least `bottom` are num_wide >= k candidates, at least `top` num_sure < k; the sample says where to look first.
    bottom, num_wide, wide = 1, num_candidates, None
    top, num_sure, sure = _TOP + 1, 0, None
    per_level = num_candidates * 2 * margin / m / ((high >> shift) - (low >> shift) + 1)
    guess = (middle >> shift) - (low >> shift) + 2
    few, passes = max(_FEW, n * _FEW_SHARE), 0
    while top - bottom > 1 and num_wide - num_sure > few:
        guess = guess if passes < 6 and bottom < guess < top else (bottom + top) // 2
        at_least = torch.ge(rows, guess, out=torch.empty_like(rows))
        count = _count(at_least)
        if count >= k:
            bottom, num_wide, wide = guess, count, at_least
            guess += 1 + int((count - k) / per_level)
        else:
            top, num_sure, sure = guess, count, at_least
            guess -= 1 + int((k - count) / per_level)
        if wide is not None and sure is not None:
            guess = bottom + round((top - bottom) * (num_wide - k) / (num_wide - num_sure))
            guess = min(max(guess, bottom + 1), top - 1)
        passes += 1
    if num_wide - num_sure > n // 16:
        return None
    if wide is None:
        wide = torch.ge(rows, bottom, out=torch.empty_like(rows))
    if sure is None:
        sure = torch.zeros_like(rows)
    undecided = _positions(wide.bitwise_xor_(sure))
    return sure[:n].view(torch.bool), undecided, k - num_sure
