"""Numbers and tables as text."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence


def milliseconds(seconds: float) -> str:
    """Milliseconds to three digits.

    >>> [milliseconds(seconds) for seconds in (0.0, 12.3456e-6, 1.23456e-3, 1.23456)]
    ['0.000', '0.0123', '1.23', '1235']
    """
    decimals = 3 if seconds <= 0 else min(4, max(0, 2 - math.floor(math.log10(seconds * 1e3))))
    return f"{seconds * 1e3:.{decimals}f}"


def threads(number: int) -> str:
    """A number of threads in words.

    >>> threads(1), threads(2)
    ('1 thread', '2 threads')
    """
    return "1 thread" if number == 1 else f"{number} threads"


def aligned(rows: Sequence[Sequence[str]], *, left: Collection[int]) -> str:
    """Rows of text in columns, those in ``left`` to the left, the others to the right.

    >>> print(aligned([("name", "ms"), ("a", "12.3")], left={0}))
    name    ms
    a     12.3
    """
    columns = list(zip(*rows, strict=True))
    widths = [max(map(len, column)) for column in columns]
    padded = [
        [text.ljust(width) if index in left else text.rjust(width) for text in column]
        for index, (column, width) in enumerate(zip(columns, widths, strict=True))
    ]
    return "\n".join("  ".join(row).rstrip() for row in zip(*padded, strict=True))
