"""``python -m benchmarks.versions PYTHON...``: run the core's tests with each, write with which releases they passed.

Each ``PYTHON`` is the interpreter of an environment with a torch, a NumPy and a Numba, and what ``.ci/core`` names. Its
row of ``docs/versions.json`` takes the place of the row of the same Python, and the table of ``docs/install.md`` is
written anew.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from xml.etree import ElementTree

from benchmarks.table import filled

ROOT = Path(__file__).parent.parent
PAGE, ROWS = ROOT / "docs" / "install.md", ROOT / "docs" / "versions.json"
#: What a row says of its set; tests/conftest.py writes them into every result file of pytest.
RELEASES = ("python", "torch", "numba", "numpy")
Row = dict[str, str | int]


def row(result: str) -> Row:
    """The row of a result file of pytest (JUnit's XML): the releases, and how many tests passed and were skipped.

    >>> properties = "".join(f'<property name="{name}" value="3.2"/>' for name in RELEASES)
    >>> row(f'<testsuite tests="3" skipped="1"><properties>{properties}</properties></testsuite>')
    {'python': '3.2', 'torch': '3.2', 'numba': '3.2', 'numpy': '3.2', 'passed': 2, 'skipped': 1}
    """
    suite = next(ElementTree.fromstring(result).iter("testsuite"))
    releases = {found.attrib["name"]: found.attrib["value"] for found in suite.iter("property")}
    skipped = int(suite.attrib["skipped"])
    passed = int(suite.attrib["tests"]) - skipped
    return {**{name: releases[name] for name in RELEASES}, "passed": passed, "skipped": skipped}


def minor(version: str | int) -> tuple[int, int]:
    """The part of a version that a declaration names.

    >>> minor("3.14.8")
    (3, 14)
    """
    major, of_major = str(version).split(".")[:2]
    return int(major), int(of_major)


def merged(old: list[Row], new: list[Row]) -> list[Row]:
    """The rows from the oldest Python to the newest; a new one takes the place of that of the same Python."""
    rows = {minor(found["python"]): found for found in [*old, *new]}
    return [rows[python] for python in sorted(rows)]


def markdown(rows: list[Row]) -> str:
    """The table of the sets."""
    lines = ["| Python | torch | Numba | NumPy | tests passed | skipped |", "|---|---|---|---|---|---|"]
    names = (*RELEASES, "passed", "skipped")
    lines += [f"| {' | '.join(str(found[name]) for name in names)} |" for found in rows]
    return "\n".join(lines)


def run(python: str) -> Row:
    """Run the core's tests with an interpreter.

    Raises:
        subprocess.CalledProcessError: if a test fails, or none runs.
    """
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "result.xml"
        subprocess.run([ROOT / ".ci" / "core", python, f"--junitxml={result}"], check=True)
        return row(result.read_text())


def main() -> None:
    """Run the tests with each interpreter, and write its row."""
    if not sys.argv[1:]:
        sys.exit("python -m benchmarks.versions PYTHON...: name the interpreters of the environments to test.")
    for python in sys.argv[1:]:
        rows = merged(json.loads(ROWS.read_text()) if ROWS.exists() else [], [run(python)])
        ROWS.write_text(json.dumps(rows, indent=1) + "\n")
        PAGE.write_text(filled(PAGE.read_text(), "versions", markdown(rows)))


if __name__ == "__main__":
    main()
