"""Packages of the extras, imported where they are needed and not before."""

from __future__ import annotations

import importlib
from functools import cache
from types import ModuleType


@cache  # an image asks twice
def optional(name: str, *, extra: str = "vision", what: str = "images") -> ModuleType:
    """Import a module of an extra, such as ``"PIL.Image"`` or ``"pyarrow"``; ``what`` needs it.

    Raises:
        ModuleNotFoundError: if its package is not installed; the text says what to type.

    >>> optional("PIL.Image").new("RGB", (4, 3)).size
    (4, 3)
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        package = name.split(".")[0]
        if (error.name or "").split(".")[0] != package:
            raise
        raise ModuleNotFoundError(f'{what} need the package {package}: pip install "sparseflow[{extra}]"') from error
