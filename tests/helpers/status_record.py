"""What became of each test with the mark ``status``: the cells of the table in docs/status.md."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

#: What can become of a test, the worst first. One that a run collects and does not reach stays the first of these.
OUTCOMES = ("not run", "failed", "skipped", "passed")
#: Column and case.
_Cell = tuple[str, str]


class StatusRecord:
    """A pytest plugin that writes how many tests of each cell passed, failed, were skipped and were not run.

    Args:
        path: A JSON file: column -> case -> outcome -> number of tests.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.cells: dict[str, list[_Cell]] = {}
        self.outcomes: dict[str, str] = {}

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """All tests that stay after ``-m`` and ``-k`` are in the table before the first one runs."""
        for item in session.items:
            if cells := [cell_of(item, mark) for mark in item.iter_markers("status")]:
                self.cells[item.nodeid] = cells

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """A test passes if its own part passes, and neither what comes before nor what comes after fails."""
        if report.nodeid not in self.cells or (report.when != "call" and report.passed):
            return
        before = self.outcomes.get(report.nodeid, report.outcome)
        self.outcomes[report.nodeid] = min(before, report.outcome, key=OUTCOMES.index)

    def pytest_sessionfinish(self) -> None:
        """Also after Ctrl-C and ``-x``: what was not reached is written as not run."""
        found: Counter[tuple[str, str, str]] = Counter()
        for test, cells in self.cells.items():
            found.update((*cell, self.outcomes.get(test, OUTCOMES[0])) for cell in cells)
        rows: dict[str, dict[str, dict[str, int]]] = {}
        for (column, case, outcome), number in sorted(found.items()):
            rows.setdefault(column, {}).setdefault(case, {})[outcome] = number
        self.path.write_text(json.dumps(rows, indent=1) + "\n")


def cell_of(item: pytest.Item, mark: pytest.Mark) -> _Cell:
    """The column that a mark names, and the case of the test's parameter ``method``, or of the one that it names."""
    return mark.args[0], item.callspec.params[mark.kwargs.get("by", "method")]  # type: ignore[attr-defined]
