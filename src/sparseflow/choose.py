"""The largest scores of a large CPU tensor in one pass over memory, compiled by Numba when it is first needed.

Selection by sorting moves every score many times. Here a regular sample brackets the threshold; one vectorised pass
marks what is above the bracket and lists what is inside, a percent or two of all; and only the listed are compared with
each other. The choice is exact whatever the sample was: where the bracket misses, the pass is repeated without one.
"""

from __future__ import annotations

import numba
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

#: One score in so many is sampled; below so few samples nothing is gained by a bracket.
_SAMPLE_EVERY, _MIN_SAMPLE = 64, 64
_LOWEST, _HIGHEST = -(2**31), 2**31 - 1
#: Bits of infinity; what is above is NaN.
_INFINITY = 0x7F800000
#: Scores between two looks at the flags: their keys and flags stay in the first-level cache.
_BLOCK = 4096


#: Clears the sign bit, and nothing.
_MAGNITUDE, _SIGNED = np.int32(0x7FFFFFFF), np.int32(-1)


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _order(bits: NDArray[np.int32], keys: NDArray[np.int32]) -> None:
    """Integers in the order of the floats with these bits, equal for 0.0 and -0.0."""
    for j in range(bits.shape[0]):
        sign = bits[j] >> np.int32(31)
        keys[j] = ((bits[j] & _MAGNITUDE) ^ sign) - sign


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _mark(
    keys: NDArray[np.int32],
    clear: np.int32,
    among: NDArray[np.uint8],
    low: np.int32,
    high: np.int32,
    chosen: NDArray[np.uint8],
    inside: NDArray[np.uint8],
) -> None:
    # Two loops with one store each: LLVM vectorises these, not their sum.
    for j in range(keys.shape[0]):
        chosen[j] = np.uint8((keys[j] & clear) > high) & among[j]
    for j in range(keys.shape[0]):
        inside[j] = (np.uint8((keys[j] & clear) >= low) & among[j]) ^ chosen[j]


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _scan(
    bits: NDArray[np.int32],
    among: NDArray[np.uint8],
    low: np.int32,
    high: np.int32,
    magnitude: bool,
    chosen: NDArray[np.uint8],
    undecided: NDArray[np.int32],
) -> tuple[int, np.int32]:
    """Mark candidates above ``high``, list those in [low, high]; how many are listed, and the largest magnitude's bits.

    ``undecided`` needs 8 entries more than could be listed.
    """
    keys = np.empty(_BLOCK, np.int32)
    inside = np.zeros(_BLOCK, np.uint8)
    words = inside.view(np.int64)
    listed, largest = 0, np.int32(0)
    for start in range(0, bits.shape[0], _BLOCK):
        end = min(start + _BLOCK, bits.shape[0])
        size = end - start
        block = bits[start:end]
        for j in range(size):
            largest = max(largest, block[j] & _MAGNITUDE)
        inside[size:] = 0
        if magnitude:
            _mark(block, _MAGNITUDE, among[start:end], low, high, chosen[start:end], inside[:size])
        else:
            _order(block, keys[:size])
            _mark(keys[:size], _SIGNED, among[start:end], low, high, chosen[start:end], inside[:size])
        for word in range((size + 7) // 8):
            if words[word] != 0:
                for j in range(8 * word, 8 * word + 8):
                    # Written always, kept if it counts: no branch to mispredict.
                    undecided[listed] = start + j
                    listed += inside[j]
    return listed, largest


def _keys(bits: NDArray[np.int32], *, magnitude: bool) -> NDArray[np.int32]:
    keys = bits & _MAGNITUDE
    if not magnitude:
        _order(bits, keys)
    return keys


def choose(scores: Tensor, k: int, among: Tensor, num_candidates: int, *, magnitude: bool) -> Tensor | None:
    """Mark exactly the ``k`` largest candidates; ties go to the lowest index.

    Args:
        scores: float32 on the CPU, one contiguous axis, fewer than 2^31 entries.
        k: In [1, num_candidates].
        among: bool, same shape: the candidates.
        num_candidates: How many these are.
        magnitude: Compare absolute values.

    Returns: bool, same shape; ``None`` if a score may be NaN or infinite.

    >>> choose(torch.tensor([1.0, -2.0, 2.0, 9.0]), 1, torch.tensor([True, True, True, False]), 3, magnitude=True)
    tensor([False,  True, False, False])
    """
    bits, members = scores.detach().view(torch.int32).numpy(), among.view(torch.uint8).numpy()
    chosen = np.empty(len(bits), np.uint8)
    undecided = np.empty(len(bits) + 8, np.int32)
    bracket = _bracket(bits, members, k / num_candidates, magnitude=magnitude)
    for low, high in (bracket, (_LOWEST, _HIGHEST)):
        listed, largest = _scan(bits, members, np.int32(low), np.int32(high), magnitude, chosen, undecided)
        if largest >= _INFINITY:
            return None
        missing = k - int(np.count_nonzero(chosen))
        if 0 <= missing <= listed:
            break
    candidates = undecided[:listed]
    chosen[candidates[_largest(_keys(bits[candidates], magnitude=magnitude), missing)]] = 1
    return torch.from_numpy(chosen).view(torch.bool)


def _bracket(bits: NDArray[np.int32], members: NDArray[np.uint8], share: float, *, magnitude: bool) -> tuple[int, int]:
    """Keys between which the threshold lies, but for one draw in thousands."""
    sample = bits[::_SAMPLE_EVERY][members[::_SAMPLE_EVERY] != 0]
    m = len(sample)
    if m < _MIN_SAMPLE:
        return _LOWEST, _HIGHEST
    keys = _keys(sample, magnitude=magnitude)
    # Four standard deviations of the rank of a random sample's order statistic.
    margin = 4 * (m * share * (1 - share)) ** 0.5 + 2
    low, high = int(m - m * share - margin), int(m - m * share + margin)
    keys.partition([max(low, 0), min(high, m - 1)])
    return int(keys[low]) if low >= 0 else _LOWEST, int(keys[high]) if high < m else _HIGHEST


def _largest(keys: NDArray[np.int32], k: int) -> NDArray[np.bool_]:
    if k == 0:
        return np.zeros(len(keys), np.bool_)
    threshold = np.partition(keys, len(keys) - k)[len(keys) - k]
    best: NDArray[np.bool_] = keys > threshold
    tied = np.flatnonzero(keys == threshold)
    best[tied[: k - np.count_nonzero(best)]] = True
    return best
