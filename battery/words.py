"""Sentences of the battery: errors and log lines without what differs between machines."""

from __future__ import annotations

import logging
import re
import traceback
from pathlib import Path

from sparseflow.types import BrokenPromiseError


class Said(logging.Handler):
    """What sparseflow says by logging."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a line."""
        self.lines.append(plain_text(record.getMessage()))


def is_refusal(error: BaseException) -> bool:
    """Whether sparseflow raised it on purpose: by a ``raise`` in one of its own files.

    >>> is_refusal(ValueError("not raised at all"))
    False
    """
    frames = traceback.extract_tb(error.__traceback__)
    if isinstance(error, BrokenPromiseError):
        return False
    return bool(frames) and "sparseflow" in Path(frames[-1].filename).parts and "raise" in (frames[-1].line or "")


def sentence(error: BaseException) -> str:
    """Type and first lines of an error, without what differs between machines.

    >>> sentence(KeyError("state")), sentence(ValueError("bad <object at 0x7f12ab>"))
    ("KeyError: 'state'", 'ValueError: bad <object at ...>')
    """
    return plain_text(f"{type(error).__name__}: {error}")


def plain_text(text: str) -> str:
    """One line of at most 300 characters, without addresses and folders."""
    text = re.sub(r"0x[0-9a-f]+", "...", " ".join(text.split()))
    text = re.sub(r"(/[\w.+-]+){2,}/", "", text)
    return text if len(text) <= 300 else text[:299].rsplit(" ", 1)[0] + " ..."


def digit(value: float) -> str:
    """A magnitude to its power of ten, which rounding on another machine does not change as a rule."""
    return f"about {value:.0e}"
