"""Random arguments for the engine's kernels: loops over an image, places in flat arrays, and patterns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

JUNK = 7.0  # what arrays hold where nothing may be written
#: One vector and less, several, and what is left over; with gaps that show what is written beyond.
LENGTHS = (1, 2, 3, 4, 5, 6, 7, 8, 15, 16, 17, 33, 64, 100, 127, 128, 200, 512)
TOLERANCES = {np.float32: {"rtol": 2e-5, "atol": 2e-4}, np.float64: {"rtol": 1e-10, "atol": 1e-10}}


@dataclass(frozen=True)
class Loops:
    """Loops over ``rows`` and ``parts`` of ``length`` neighbouring numbers."""

    rows: int
    parts: int
    length: int

    def strides(self, gap: int) -> tuple[int, int]:
        """Steps of the two loops that leave ``gap`` numbers between neighbours."""
        step = self.length + gap
        return self.parts * step + gap, step

    def places(self, strides: tuple[int, int]) -> Any:
        """Where the numbers of one channel are, ``(rows, parts, length)``."""
        i, j, n = np.ogrid[: self.rows, : self.parts, : self.length]
        return i * strides[0] + j * strides[1] + n

    def pitch(self, strides: tuple[int, int]) -> int:
        """From one channel to the next."""
        return self.rows * strides[0] + 3


def random_loops(draw: Any, length: int) -> Loops:
    rows, parts = ((1, 1), (1, 3), (4, 1), (2, 2))[int(draw.integers(4))]
    return Loops(rows, parts, length)


def random_begins(draw: Any, mask: Any) -> tuple[Any, Any]:
    """Begins ``(rows + 1,)`` and columns of a bool mask ``(rows, columns)``, int32."""
    begins = np.concatenate([[0], np.cumsum(mask.sum(1))]).astype(np.int32)
    return begins, np.nonzero(mask)[1].astype(np.int32)
