"""A mask is replaced and what lies off it zeroed in one pass over memory, compiled by Numba when it is first needed."""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

Bits = NDArray[np.int32]
Bytes = NDArray[np.uint8]

#: Entries of one turn: their mask stays in the first-level cache, and its bytes add up eight to a word without a carry.
_BLOCK = 1024
_EVEN = 0x00FF00FF00FF00FF


@numba.njit(nogil=True, cache=True, error_model="numpy")
def clear(bits: Bits, mask: Bytes) -> None:
    """Make a float32 tensor +0.0 off its mask, whatever was there."""
    # Neither a branch nor a list of what to visit: at usual drop fractions most cache lines hold something to zero.
    for j in range(bits.shape[0]):
        bits[j] &= -np.int32(mask[j])


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _copy(new: NDArray[np.int64], mask: NDArray[np.int64]) -> int:
    """Copy at most 128 words of bytes that are 0 or 1; the number of ones."""
    lanes = 0
    for word in range(new.shape[0]):
        lanes += new[word]
        mask[word] = new[word]
    pairs = (lanes & _EVEN) + ((lanes >> 8) & _EVEN)
    return ((pairs * 0x0001000100010001) >> 48) & 0xFFFF


@numba.njit(nogil=True, cache=True, error_model="numpy")
def replace(mask: Bytes, new: Bytes, tensors: tuple[Bits, ...]) -> int:
    """Make ``mask`` the new one, and the tensors +0.0 off it; the number of active entries.

    Args:
        mask: Bytes 0 or 1, overwritten.
        new: Likewise, one for each entry; may be ``mask`` itself.
        tensors: Bits of float32 tensors, at least one; what they hold off the mask may be NaN.

    >>> mask, new = np.uint8([1, 1, 0]), np.uint8([1, 0, 1])
    >>> weight = np.float32([1, np.nan, 0])
    >>> replace(mask, new, (weight.view(np.int32),)), mask, weight
    (2, array([1, 0, 1], dtype=uint8), array([1., 0., 0.], dtype=float32))
    """
    n = new.shape[0]
    whole = n // 8 * 8
    active = 0
    for start in range(0, whole, _BLOCK):
        end = min(start + _BLOCK, whole)
        active += _copy(new[start:end].view(np.int64), mask[start:end].view(np.int64))
        for bits in tensors:
            clear(bits[start:end], new[start:end])
    for j in range(whole, n):
        active += new[j]
        mask[j] = new[j]
    for bits in tensors:
        clear(bits[whole:], new[whole:])
    return active
