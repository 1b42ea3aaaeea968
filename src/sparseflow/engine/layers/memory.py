"""Memory of activations, used again at the next step: fresh memory costs more than most layers' arithmetic.

The operating system hands out pages of 4 KiB one by one and fills each with zeros when it is first touched. The C
library's allocator gives blocks above 32 MiB back as soon as they are freed, and the top of its heap too.
"""

from __future__ import annotations

import weakref

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Block = NDArray[np.uint8]
#: Bytes below which the C library's allocator is as good.
_SMALL = 1 << 18
#: Bytes of a cache line, at which vectors begin.
_LINE = 64
_TYPES = {torch.float32: np.float32, torch.float64: np.float64}


class Pool:
    """Blocks of memory that were given back, of at most twice the bytes that have been in use at once.

    It lives as long as somebody holds it or a tensor in it: layers hold :func:`shared_pool`.

    >>> pool = Pool()
    >>> first = pool.empty(100_000, torch.float32)
    >>> place = first.data_ptr()
    >>> del first
    >>> pool.empty(100_000, torch.float32).data_ptr() == place
    True
    """

    def __init__(self) -> None:
        self._free: dict[int, list[Block]] = {}
        self._free_bytes = self._used_bytes = self._most_used = 0

    def empty(self, count: int, dtype: torch.dtype) -> Tensor:
        """``(count,)``, uninitialised, at the beginning of a cache line; float32 or float64."""
        size = count * dtype.itemsize
        if size < _SMALL:
            return torch.empty(count, dtype=dtype)
        block = self._take(size + _LINE)
        begin = -block.ctypes.data % _LINE
        array = block[begin : begin + size].view(_TYPES[dtype])
        weakref.finalize(array, self._give_back, block).atexit = False
        return torch.from_numpy(array)

    def _take(self, size: int) -> Block:
        # No lock: a garbage collection may give back in the middle of anything here, and lists pop and append whole.
        try:
            block = self._free[size].pop()
            self._free_bytes -= size
        except (KeyError, IndexError):
            block = np.empty(size, np.uint8)
        self._used_bytes += size
        self._most_used = max(self._most_used, self._used_bytes)
        return block

    def _give_back(self, block: Block) -> None:
        self._used_bytes -= block.nbytes
        if self._free_bytes > 2 * self._most_used:  # sizes of another time
            self._free, self._free_bytes = {}, 0
        self._free.setdefault(block.nbytes, []).append(block)
        self._free_bytes += block.nbytes

    def __deepcopy__(self, memo: object) -> Pool:
        return self


_shared: weakref.ref[Pool] | None = None


def shared_pool() -> Pool:
    """The pool of all layers that now hold one.

    >>> pool = shared_pool()
    >>> shared_pool() is pool
    True
    """
    global _shared
    pool = None if _shared is None else _shared()
    if pool is None:
        pool = Pool()
        _shared = weakref.ref(pool)
    return pool
