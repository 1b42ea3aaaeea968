"""``make status``: run the tests with the mark ``status``, write what became of them into docs/status.md."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from benchmarks.table import filled
from sparseflow.training.names import METHODS

ROOT = Path(__file__).parent.parent
PAGE, COUNTS = ROOT / "docs" / "status.md", ROOT / "docs" / "status.json"
#: Column -> case -> outcome -> number of tests.
Found = Mapping[str, Mapping[str, Mapping[str, int]]]
#: Where the tests with the mark are.
TESTS = ("tests/methods", "tests/engine/test_methods.py", "tests/sparsifier")
COLUMNS = ("masked", "engine", "compiled", "DDP", "FSDP2", "AMP")
#: Key of a method in the tests -> its name.
ROWS = {
    "static": "`Static`",
    **{
        key: f"`{getattr(row.updater, '__name__', key)}{'(soft=True)' if row.settings.get('soft') else ''}`"
        for key, row in METHODS.items()
        if row.moves != "never" and not row.block
    },
    "one_shot": "`OneShot`",
    "own": "a method of one's own",
}


def row_of(case: str) -> str:
    """The row of a case of a test.

    >>> [row_of(case) for case in ("rigl in blocks", "gmp_global_blocks/momentum", "rigl_replaces_step/adam", "own")]
    ['rigl', 'prune', 'rigl', 'own']
    """
    name = case.split("/")[0].split(" in ")[0].removesuffix("_blocks").removesuffix("_global")
    return {"gmp": "prune", "rigl_replaces_step": "rigl", "chtss": "chts"}.get(name, name)


def run_tests() -> int:
    """Run the tests with the mark, in one process, and write what became of each into docs/status.json.

    Returns: pytest's exit code.
    """
    command = [sys.executable, "-m", "pytest", "-q", "-m", "status", "--status", str(COUNTS), *TESTS]
    return subprocess.run(command, cwd=ROOT, check=False).returncode


def markdown(found: Found) -> str:
    """The table: a cross where a test failed or was not run, a tick where all passed, a dash where there is none.

    Raises:
        ValueError: if a test has a column or a method that the table does not show.
    """
    cells: dict[tuple[str, str], Counter[str]] = {}
    for column, cases in found.items():
        for case, outcomes in cases.items():
            cells.setdefault((column, row_of(case)), Counter()).update(outcomes)
    if unknown := [cell for cell in cells if cell[0] not in COLUMNS or cell[1] not in ROWS]:
        raise ValueError(f"benchmarks.status shows no {unknown}; add them to COLUMNS and ROWS.")
    lines = [f"| method | {' | '.join(COLUMNS)} |", "|---|" + "---|" * len(COLUMNS)]
    for key, name in ROWS.items():
        lines.append(f"| {name} | {' | '.join(shown(cells.get((column, key), Counter())) for column in COLUMNS)} |")
    return "\n".join(lines)


def shown(outcomes: Counter[str]) -> str:
    """A cell.

    >>> shown(Counter(passed=8)), shown(Counter(passed=7, failed=1)), shown(Counter())
    ('✓ 8', '✗ 1 failed, 7 passed', '–')
    """
    if not outcomes:
        return "–"
    if set(outcomes) == {"passed"}:
        return f"✓ {outcomes['passed']}"
    return "✗ " + ", ".join(f"{number} {outcome}" for outcome, number in sorted(outcomes.items()))


def main() -> None:
    """Run the tests, write the page, and end as the tests did."""
    code = run_tests()
    PAGE.write_text(filled(PAGE.read_text(), "status", markdown(json.loads(COUNTS.read_text()))))
    raise SystemExit(code)


if __name__ == "__main__":
    main()
