"""Passes that pack a mask, replace it, and zero tensors off it; compiled by Numba when first needed."""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

Bits = NDArray[np.int32]
Bytes = NDArray[np.uint8]

#: Entries of one turn: their mask stays in the first-level cache, and at most 127 words of bytes add up without a carry
#: or a change of sign.
_BLOCK = 960
_EVEN = 0x00FF00FF00FF00FF
#: Of each half, quarter, eighth of a word the lowest bits. Eight bits become the bytes of a word in three halvings, by
#: shifts alone: a product would overflow, and what a compiled overflow gives is not defined.
_HALVES, _QUARTERS, _ONES = 0x0000000F0000000F, 0x0003000300030003, 0x0101010101010101


@numba.njit(nogil=True, cache=True, error_model="numpy")
def clear(bits: Bits, mask: Bytes) -> None:
    """Make a float32 tensor +0.0 off its mask, whatever was there."""
    # Neither a branch nor a list of what to visit: at usual drop fractions most cache lines hold something to zero.
    for j in range(bits.shape[0]):
        bits[j] &= -np.int32(mask[j])


@numba.njit(nogil=True, cache=True, error_model="numpy")
def pack(mask: Bytes, bits: Bytes) -> None:
    """Write a mask of bytes 0 or 1 in bits, eight to a byte, the first to the lowest.

    >>> bits = np.empty(2, np.uint8)
    >>> pack(np.uint8([1, 0, 0, 0, 1, 1, 0, 0, 1]), bits), bits
    (None, array([49,  1], dtype=uint8))
    """
    whole = mask.shape[0] // 8
    _gather(mask[: 8 * whole].view(np.int64), bits[:whole])
    _gather_rest(mask[8 * whole :], bits[whole:])


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _gather(mask: NDArray[np.int64], bits: Bytes) -> None:
    for word in range(mask.shape[0]):
        joined = mask[word]
        joined = (joined | (joined >> 7)) & _QUARTERS
        joined = (joined | (joined >> 14)) & _HALVES
        bits[word] = np.uint8((joined | (joined >> 28)) & 0xFF)


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _gather_rest(mask: Bytes, bits: Bytes) -> None:
    if mask.shape[0]:
        bits[0] = 0
    for j in range(mask.shape[0]):
        bits[0] |= mask[j] << j


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _scatter(bits: Bytes, mask: NDArray[np.int64]) -> int:
    """Write at most 127 words of bytes that are 0 or 1; the number of ones."""
    lanes = np.int64(0)
    for word in range(mask.shape[0]):
        spread = np.int64(bits[word])
        spread = (spread | (spread << 28)) & _HALVES
        spread = (spread | (spread << 14)) & _QUARTERS
        spread = (spread | (spread << 7)) & _ONES
        mask[word] = spread
        lanes += spread
    pairs = (lanes & _EVEN) + ((lanes >> 8) & _EVEN)
    return int(((pairs * 0x0001000100010001) >> 48) & 0xFFFF)


@numba.njit(nogil=True, cache=True, error_model="numpy")
def replace(mask: Bytes, new: Bytes, before: Bytes, tensors: tuple[Bits, ...]) -> int:
    """Make ``mask`` the new one, and the tensors +0.0 off it; the number of active entries.

    Args:
        new: What it becomes, in bits as :func:`pack` writes them.
        before: As many bytes as ``new``, overwritten with what the mask was; or none.
        tensors: Bits of float32 tensors, at least one; what they hold off the mask may be NaN.

    >>> mask, new, before = np.uint8([1, 1, 0]), np.uint8([0b101]), np.uint8([0])
    >>> weight = np.float32([1, np.nan, 0])
    >>> replace(mask, new, before, (weight.view(np.int32),)), mask, before, weight
    (2, array([1, 0, 1], dtype=uint8), array([3], dtype=uint8), array([1., 0., 0.], dtype=float32))
    """
    n = mask.shape[0]
    whole = n // 8 * 8
    if before.shape[0]:
        pack(mask, before)
    active = 0
    for start in range(0, whole, _BLOCK):
        end = min(start + _BLOCK, whole)
        active += _scatter(new[start // 8 : end // 8], mask[start:end].view(np.int64))
        for bits in tensors:
            clear(bits[start:end], mask[start:end])
    for j in range(whole, n):
        mask[j] = (new[whole // 8] >> (j - whole)) & 1
        active += mask[j]
    for bits in tensors:
        clear(bits[whole:], mask[whole:])
    return active
