"""The name that was meant where one is unknown; every error about an unknown name ends in it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def did_you_mean(given: object, known: Iterable[object]) -> str:
    """A sentence that suggests the closest name, with a space in front; empty where none is close.

    Args:
        given: What was typed.
        known: The names there are.

    >>> did_you_mean("rigel", ["set", "rigl", "rigl_inverted"])
    ' Did you mean rigl?'
    >>> did_you_mean("something else", ["set", "rigl"])
    ''
    """
    names = {str(name).lower(): str(name) for name in known}
    close = difflib.get_close_matches(str(given).lower(), names, n=1)
    return f" Did you mean {names[close[0]]}?" if close else ""
