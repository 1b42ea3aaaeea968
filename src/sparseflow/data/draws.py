"""The random numbers of one image in one epoch, by its number: no state that order or workers could shift."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

#: Second word of the key, so that another use of Philox with the same seed draws other numbers.
PURPOSE = 0x696D616765  # "image"
WORD = 2**64

_PHILOX = np.random.Philox(key=0)


def uniforms(seed: int, epoch: int, index: int, count: int) -> NDArray[np.float64]:
    r"""Uniform numbers in [0, 1) that belong to ``(seed, epoch, index)``.

    .. math:: u_k = \lfloor r_k / 2^{11} \rfloor\, 2^{-53},\quad
        r = \mathrm{Philox4x64}_{10}(\text{key} = (\text{seed}, \mathrm{PURPOSE}),\
        \text{counter} = (0, \text{index}, \text{epoch}, 0))

    Philox is a counter-based generator: its numbers are a function of key and counter, so each image starts its own
    stream in a few microseconds. The raw words are the published algorithm's, the same for every version of NumPy.

    Args:
        seed: The run's seed, any integer; used modulo :math:`2^{64}`.
        epoch: Of this image, from 0.
        index: Of the image in the dataset, from 0.
        count: How many numbers; the first ones are the same whatever the count.

    Returns: ``(count,)``.

    Reference: Salmon, Moraes, Dror and Shaw (2011), *Parallel Random Numbers: As Easy as 1, 2, 3*.

    >>> bool((uniforms(0, 3, 17, 5) == uniforms(0, 3, 17, 9)[:5]).all())
    True
    >>> bool((uniforms(0, 3, 17, 5) == uniforms(0, 4, 17, 5)).any())
    False
    """
    state: Any = {
        "bit_generator": "Philox",
        "state": {
            "counter": np.array([0, index, epoch, 0], dtype=np.uint64),
            "key": np.array([seed % WORD, PURPOSE], dtype=np.uint64),
        },
        "buffer": np.zeros(4, dtype=np.uint64),
        "buffer_pos": 4,  # nothing left over from another image
        "has_uint32": 0,
        "uinteger": 0,
    }
    # A new Philox object takes five times as long as a new state of an old one.
    with _PHILOX.lock:
        _PHILOX.state = state
        words: NDArray[np.uint64] = _PHILOX.random_raw(count)
    return (words >> np.uint64(11)).astype(np.float64) * 2.0**-53
