"""The table of docs/status.md is what the tests wrote, and no test that should be in it is missing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))  # benchmarks/ is beside the package, not in it

from benchmarks.status import COUNTS, PAGE, TESTS, markdown, row_of  # noqa: E402
from benchmarks.table import filled  # noqa: E402


def test_the_page_shows_the_counts() -> None:
    text = PAGE.read_text()
    table = markdown(json.loads(COUNTS.read_text()))
    assert filled(text, "status", table) == text, "run python -m benchmarks.status"


def test_the_counts_are_those_of_the_tests(tmp_path: Path) -> None:
    """A test that fails fails by itself, so what is collected is what has to have passed."""
    found = tmp_path / "collected.json"
    command = [sys.executable, "-m", "pytest", "-q", "-m", "status", "--collect-only", "--status", str(found), *TESTS]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    assert json.loads(found.read_text()) == json.loads(COUNTS.read_text()), "run python -m benchmarks.status"


def test_a_case_that_the_table_does_not_know_is_an_error() -> None:
    assert row_of("rigl in blocks") == "rigl"
    with pytest.raises(ValueError, match=r"benchmarks.status shows no \[\('masked', 'newest'\)\]; add them"):
        markdown({"masked": {"newest": 3}})
