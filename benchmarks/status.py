"""``python -m benchmarks.status``: run the tests with the mark ``status``, write which passed into docs/status.md."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from benchmarks.table import filled
from sparseflow.training.names import METHODS

ROOT = Path(__file__).parent.parent
PAGE, COUNTS = ROOT / "docs" / "status.md", ROOT / "docs" / "status.json"
#: Where the tests with the mark are.
TESTS = ("tests/methods", "tests/engine/test_methods.py", "tests/sparsifier")
COLUMNS = ("masked", "engine", "compiled", "DDP", "FSDP2", "AMP")
#: Key of a method in the tests -> its name.
ROWS = {
    "static": "`Static`",
    **{key: f"`{getattr(row.updater, '__name__', key)}`" for key, row in METHODS.items() if row.moves != "never"},
    "one_shot": "`OneShot`",
    "own": "a method of one's own",
}


def row_of(case: str) -> str:
    """The row of a case of a test.

    >>> [row_of(case) for case in ("rigl in blocks", "gmp_global_blocks/momentum", "rigl_replaces_step/adam", "own")]
    ['rigl', 'prune', 'rigl', 'own']
    """
    name = case.split("/")[0].split(" in ")[0].removesuffix("_blocks").removesuffix("_global")
    return {"gmp": "prune", "rigl_replaces_step": "rigl"}.get(name, name)


def counts() -> dict[str, dict[str, int]]:
    """Column -> case -> number of tests that passed.

    Raises:
        subprocess.CalledProcessError: if a test fails.
    """
    command = [sys.executable, "-m", "pytest", "-q", "-m", "status", "--status", str(COUNTS), *TESTS]
    subprocess.run(command, cwd=ROOT, check=True)
    found: dict[str, dict[str, int]] = json.loads(COUNTS.read_text())
    return found


def markdown(found: dict[str, dict[str, int]]) -> str:
    """The table: how many tests of each kind passed for each method; a dash where there is none.

    Raises:
        ValueError: if a test has a column or a method that the table does not show.
    """
    cells = {(column, row_of(case)): 0 for column, cases in found.items() for case in cases}
    for column, cases in found.items():
        for case, number in cases.items():
            cells[column, row_of(case)] += number
    if unknown := [cell for cell in cells if cell[0] not in COLUMNS or cell[1] not in ROWS]:
        raise ValueError(f"benchmarks.status shows no {unknown}; add them to COLUMNS and ROWS.")
    lines = [f"| method | {' | '.join(COLUMNS)} |", "|---|" + "---|" * len(COLUMNS)]
    for key, name in ROWS.items():
        found_here = [cells.get((column, key), 0) for column in COLUMNS]
        shown = [f"✓ {number}" if number else "–" for number in found_here]
        lines.append(f"| {name} | {' | '.join(shown)} |")
    return "\n".join(lines)


def main() -> None:
    """Run the tests, and write the page."""
    PAGE.write_text(filled(PAGE.read_text(), "status", markdown(counts())))


if __name__ == "__main__":
    main()
