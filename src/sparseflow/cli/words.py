"""What several commands say: a duration, and the command that was typed."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path


def duration(seconds: float) -> str:
    """A duration, rounded for people.

    >>> duration(40), duration(340), duration(8000)
    ('40 s', '6 min', '2.2 h')
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def typed_command(arguments: Sequence[str] | None = None) -> str:
    """The command for a page that others read: of a folder that is given from the root, its name alone.

    Args:
        arguments: Default those of this process.

    >>> typed_command(["reproduce", "C06", "--out", "/home/somebody/runs", "--report", "results/paper"])
    'sparseflow reproduce C06 --out runs --report results/paper'
    """
    given = sys.argv[1:] if arguments is None else arguments
    return shlex.join(["sparseflow", *(Path(each).name if Path(each).is_absolute() else each for each in given)])
