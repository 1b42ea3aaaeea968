"""Memory that the kernels work in."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

#: Bytes of a cache line, and of the widest vector.
LINE = 64


def workspace(size: int, dtype: DTypeLike) -> NDArray[Any]:
    """Zeros that begin at a cache line: ``np.zeros`` begins 16 bytes off one, and each vector would touch two.

    >>> workspace(3, np.float32).ctypes.data % LINE
    0
    """
    kind = np.dtype(dtype)
    room = np.zeros(size + LINE // kind.itemsize, kind)
    first = -room.ctypes.data % LINE // kind.itemsize
    return room[first : first + size]


def workspaces(count: int, size: int, dtype: DTypeLike) -> NDArray[Any]:
    """``(count, size or a little more)`` zeros, of which each row begins at a cache line."""
    line = LINE // np.dtype(dtype).itemsize
    size += -size % line
    return workspace(count * size, dtype).reshape(count, size)
