"""The largest scores of a large CPU tensor in one pass over memory, compiled by Numba when it is first needed.

Selection by sorting moves every score many times. Here a sample brackets the threshold; one vectorised pass marks what
is above the bracket and lists what is inside, a percent or two of all; and only the listed are compared with each
other. The choice is exact whatever the sample was: where the bracket misses, the choice is left to the plain way.
"""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

Bits = NDArray[np.int32]
Bytes = NDArray[np.uint8]

#: Neighbours sampled at a time (a cache line fetched gives more than one), and the fewest samples for which a bracket
#: gains anything.
_RUN, _MIN_SAMPLE = 4, 64
#: Half the bracket, in standard deviations of the rank of a random sample; neighbours that are alike double it.
_DEVIATIONS = 5
_LOWEST, _HIGHEST = np.int32(-(2**31)), np.int32(2**31 - 1)
#: Bits of infinity; what is above is NaN.
_INFINITY = 0x7F800000
#: Clears the sign bit, and nothing.
_MAGNITUDE, _EVERYTHING = np.int32(0x7FFFFFFF), np.int32(-1)
#: Eight bytes of 1.
_ONES = 0x0101010101010101
#: Scores of one turn: their keys and flags stay in the first-level cache.
_BLOCK = 1024
#: Digits of 11 bits in which a threshold is found, and the sign bit's place.
_DIGITS, _SIGN = 2048, 2**31


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _order(bits: Bits, magnitude: bool, keys: Bits) -> None:
    """Integers in the order of the floats with these bits or of their magnitudes, equal for 0.0 and -0.0."""
    if magnitude:
        for j in range(bits.shape[0]):
            keys[j] = bits[j] & _MAGNITUDE
    else:
        for j in range(bits.shape[0]):
            sign = bits[j] >> np.int32(31)
            keys[j] = ((bits[j] & _MAGNITUDE) ^ sign) - sign


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _level(
    keys: Bits, clear: np.int32, among: Bytes, flip: np.uint8, low: np.int32, high: np.int32, level: Bytes
) -> None:
    """Write 2 for candidates above ``high``, 1 for those in [low, high], 0 for all other entries."""
    for j in range(keys.shape[0]):
        key = keys[j] & clear
        level[j] = (np.uint8(key >= low) + np.uint8(key > high)) * (among[j] ^ flip)


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _largest(bits: Bits) -> np.int32:
    largest = np.int32(0)
    for j in range(bits.shape[0]):
        largest = max(largest, bits[j] & _MAGNITUDE)
    return largest


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _count(levels: NDArray[np.int64]) -> int:
    """Number of twos among bytes, eight to a word; up to 127 words add up without a carry."""
    total = 0
    for start in range(0, levels.shape[0], 64):
        lanes = 0
        for word in levels[start : start + 64]:
            lanes += (word >> 1) & _ONES
        pairs = (lanes & 0x00FF00FF00FF00FF) + ((lanes >> 8) & 0x00FF00FF00FF00FF)
        total += ((pairs * 0x0001000100010001) >> 48) & 0xFFFF
    return total


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _scan(
    bits: Bits,
    among: Bytes,
    flip: np.uint8,
    low: np.int32,
    high: np.int32,
    magnitude: bool,
    chosen: Bytes,
    places: Bits,
    listed_keys: Bits,
) -> tuple[int, int, np.int32]:
    """Mark candidates above ``high``, list those in [low, high]: numbers marked and listed, largest magnitude's bits.

    With ``flip`` what is already chosen stays so. ``places`` needs 8 entries more than could be listed.
    """
    ordered = np.zeros(_BLOCK, np.int32)
    level = np.zeros(_BLOCK, np.uint8)
    levels = level.view(np.int64)
    nonzero = np.empty(_BLOCK // 8 + 1, np.int32)
    marked, listed, largest = 0, 0, np.int32(0)
    for start in range(0, bits.shape[0], _BLOCK):
        end = min(start + _BLOCK, bits.shape[0])
        size = end - start
        keys, out = bits[start:end], chosen[start:end]
        largest = max(largest, _largest(keys))
        clear = _MAGNITUDE
        if not magnitude:
            _order(keys, False, ordered[:size])
            keys, clear = ordered[:size], _EVERYTHING
        level[size:] = 0
        _level(keys, clear, among[start:end], flip, low, high, level[:size])
        for j in range(size):
            out[j] = (level[j] >> np.uint8(1)) | (out[j] & flip)
        marked += _count(levels)
        # Written always, kept if it counts: no branch to mispredict.
        found = 0
        for word in range(levels.shape[0]):
            nonzero[found] = word
            found += (levels[word] & _ONES) != 0
        first = listed
        for i in range(found):
            begin = 8 * nonzero[i]
            for j in range(begin, begin + 8):
                places[listed] = start + j
                listed += level[j] & 1
        for i in range(first, listed):
            listed_keys[i] = keys[places[i] - start] & clear
    return marked, listed, largest


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _threshold(keys: Bits, k: int) -> tuple[np.int32, int]:
    """The ``k``-th largest key, found digit by digit, and how many keys equal to it are among the ``k`` largest."""
    counts = np.empty(_DIGITS, np.int64)
    prefix = 0
    for shift in (22, 11, 0):
        counts[:] = 0
        for key in keys:
            offset = np.int64(key) + _SIGN
            if offset >> (shift + 11) == prefix:
                counts[(offset >> shift) & (_DIGITS - 1)] += 1
        digit = _DIGITS - 1
        while counts[digit] < k:
            k -= counts[digit]
            digit -= 1
        prefix = (prefix << 11) | digit
    return np.int32(prefix - _SIGN), k


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _bracket(
    bits: Bits, among: Bytes, flip: np.uint8, k: int, num_candidates: int, magnitude: bool
) -> tuple[np.int32, np.int32]:
    """Keys between which the threshold lies, but for one draw in thousands."""
    # Sample and list cost about the same where the sample grows as N^(2/3). A stride that 2 and 3 do not divide meets
    # every column of a matrix and every place of a kernel.
    stride = 6 * int(num_candidates ** (1 / 3) / 3) + 1
    sample = np.empty((bits.shape[0] // stride + 1) * _RUN, np.int32)
    m = 0
    for start in range(0, bits.shape[0], stride):
        for j in range(start, min(start + _RUN, bits.shape[0])):
            sample[m] = bits[j]
            m += among[j] ^ flip
    if m < _MIN_SAMPLE:
        return _LOWEST, _HIGHEST
    keys = np.empty(m, np.int32)
    _order(sample[:m], magnitude, keys)
    share = k / num_candidates
    margin = _DEVIATIONS * (m * share * (1 - share)) ** 0.5 + 2
    first, last = int(m * share - margin), int(m * share + margin)
    high = _threshold(keys, first)[0] if first >= 1 else _HIGHEST
    low = _threshold(keys, last)[0] if last <= m else _LOWEST
    return low, high


@numba.njit(nogil=True, cache=True, error_model="numpy")
def choose(
    bits: Bits,
    k: int,
    among: Bytes,
    flip: np.uint8,
    num_candidates: int,
    magnitude: bool,
    chosen: Bytes,
    ordered: bool = True,
) -> bool:
    """Mark exactly the ``k`` largest candidates in ``chosen``; ties go to the lowest index.

    Args:
        bits: Of float32 scores, fewer than 2^31.
        k: In [0, num_candidates].
        among: Bytes 0 or 1, one for each score; may be ``chosen`` itself.
        flip: 0: candidates are the ones of ``among``, and ``chosen`` is overwritten. 1: candidates are its zeros, and
            what is chosen already stays chosen.
        num_candidates: How many candidates there are.
        magnitude: Compare absolute values.
        chosen: Bytes, one for each score; meaningless afterwards where this fails.
        ordered: Whether the index decides between ties. Otherwise a tie that matters fails.

    Returns: whether the choice is made; not if a score may be NaN or infinite, or the sample misled.

    >>> bits, chosen = np.float32([1.0, -2.0, 2.0, 9.0]).view(np.int32), np.empty(4, np.uint8)
    >>> choose(bits, 1, np.uint8([1, 1, 1, 0]), np.uint8(0), 3, True, chosen), chosen
    (True, array([0, 1, 0, 0], dtype=uint8))
    """
    places = np.empty(bits.shape[0] + 8, np.int32)
    keys = np.empty(bits.shape[0], np.int32)
    low, high = _bracket(bits, among, flip, k, num_candidates, magnitude)
    marked, listed, largest = _scan(bits, among, flip, low, high, magnitude, chosen, places, keys)
    missing = k - marked
    if largest >= _INFINITY or not 0 <= missing <= listed:
        return False
    if missing:
        threshold, tied = _threshold(keys[:listed], missing)
        refused = 0
        for i in range(listed):
            if keys[i] > threshold:
                chosen[places[i]] = 1
            elif keys[i] == threshold:
                if tied:
                    chosen[places[i]] = 1
                    tied -= 1
                else:
                    refused += 1
        return ordered or refused == 0
    return True


@numba.njit(nogil=True, cache=True, error_model="numpy")
def exchange(
    mask: Bytes,
    drop: Bits,
    grow: Bits,
    active: int,
    num_drop: int,
    num_grow: int,
    regrow: bool,
    drop_magnitude: bool,
    grow_magnitude: bool,
    new: Bytes,
    ordered: bool = True,
) -> bool:
    """Write the mask that ``drop_and_grow`` makes of another; or fail as :func:`choose`.

    Args:
        mask: Bytes 0 or 1.
        drop, grow: Bits of float32 scores, one for each byte of the mask.
        active: Number of ones in the mask.
        num_drop, num_grow: Counts, in range.
        regrow: Whether just-dropped entries compete for growth.
        drop_magnitude, grow_magnitude: Compare absolute values.
        new: Bytes, overwritten.
        ordered: As :func:`choose`.

    Returns: whether ``new`` is the answer.

    >>> mask, new = np.uint8([1, 1, 1, 0, 0]), np.empty(5, np.uint8)
    >>> w, g = (np.float32(s).view(np.int32) for s in ([3, -1, 2, 0, 0], [0, 0.2, 0, 0.1, -0.9]))
    >>> exchange(mask, w, g, 3, 1, 1, True, True, True, new), new
    (True, array([1, 0, 1, 0, 1], dtype=uint8))
    """
    kept = active - num_drop
    if not choose(drop, kept, mask, np.uint8(0), active, drop_magnitude, new, ordered):
        return False
    taken, num_taken = (new, kept) if regrow else (mask, active)
    return choose(grow, num_grow, taken, np.uint8(1), mask.shape[0] - num_taken, grow_magnitude, new, ordered)
