"""Warnings that point at the caller's line, however many of the library's functions are in between."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import torch

#: An optimizer's step calls the library from within torch: its lines are not the caller's either.
_INSIDE = (str(Path(__file__).parent), str(Path(torch.__file__).parent))


def warn(message: str, category: type[Warning] = UserWarning) -> None:
    """Warn at the line outside the library that led here.

    >>> with warnings.catch_warnings(record=True) as caught:
    ...     warnings.simplefilter("always")
    ...     warn("far from perfect")
    >>> str(caught[0].message), caught[0].filename != __file__
    ('far from perfect', True)
    """
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_INSIDE):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, category, stacklevel=level)
