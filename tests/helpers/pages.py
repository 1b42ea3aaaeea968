"""Pages of the manual, run as they are read: block after block, in a process and a folder of their own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import sparseflow as sf

ROOT = Path(__file__).parent.parent.parent


def python_blocks(name: str) -> list[str]:
    """The Python blocks of ``docs/NAME``, in order."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / name).read_text(), flags=re.DOTALL)
    assert blocks, f"{name} has no block"
    return blocks


def run_page(name: str, folder: Path, *, before: str = "", after: str = "") -> str:
    """What the Python blocks of ``docs/NAME`` print, run in a folder with warnings as they come.

    Args:
        name: Of the page.
        folder: Where its files go.
        before, after: Code around the blocks, such as the asserts of a test.
    """
    script = folder / "page.py"
    script.write_text("\n".join([before, *python_blocks(name), after]))
    environment = {**os.environ, "PYTHONPATH": str(Path(sf.__file__).parent.parent), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(script)], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
