"""Every test runs on one thread and from the same global seed; what draws takes its own generator."""

from __future__ import annotations

import json
import platform
from collections import Counter
from collections.abc import Callable
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import settings

# The same examples every time, and no time limit that a busy machine could break.
settings.register_profile("reproducible", derandomize=True, deadline=None)
settings.load_profile("reproducible")


@cache
def together(root: Path, file: str) -> str:
    """The name of the group whose files stay on one worker, else the file's own.

    Those that run the engine do, so that only one worker compiles the kernels, and those that fork
    processes from a server, which takes ten seconds to load.
    """
    if "engine" in Path(file).parts or file in ("tests/test_benchmarks.py", "tests/test_contributing.py"):
        return "engine"
    return "processes" if "\nfrom processes import" in (root / file).read_text() else file


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Deal out whole files, as ``--dist loadfile`` does, some of them together."""
    from xdist.scheduler import LoadFileScheduling

    class Together(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return together(config.rootpath, super()._split_scope(nodeid))

    return Together(config, log) if config.getoption("dist") == "loadfile" else None


# -- docs/status.json: which tests with the mark ``status`` passed, by column and method -------------------------------

_passed: Counter[tuple[str, str]] = Counter()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--status", metavar="FILE", help="write the number of passed tests by column and method")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A property travels with the report, from other processes too."""
    for item in items:
        for mark in item.iter_markers("status"):
            method = item.callspec.params[mark.kwargs.get("by", "method")]  # type: ignore[attr-defined]
            item.user_properties.append(("status", (mark.args[0], method)))


def pytest_collection_finish(session: pytest.Session) -> None:
    if session.config.option.collectonly:
        _passed.update(tuple(value) for item in session.items for key, value in item.user_properties if key == "status")


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.when == "call" and report.passed:
        _passed.update(tuple(value) for key, value in report.user_properties if key == "status")


def pytest_sessionfinish(session: pytest.Session) -> None:
    path = session.config.getoption("--status", default=None)
    if path and not hasattr(session.config, "workerinput"):
        rows: dict[str, dict[str, int]] = {}
        for (column, method), number in sorted(_passed.items()):
            rows.setdefault(column, {})[method] = number
        Path(path).write_text(json.dumps(rows, indent=1) + "\n")


@pytest.fixture(scope="session", autouse=True)
def _releases(record_testsuite_property: Callable[[str, object], None]) -> None:
    """A result file (``--junitxml``) says with which releases it came about; ``benchmarks.versions`` reads them."""
    record_testsuite_property("python", platform.python_version())
    for name in ("torch", "numba", "numpy"):
        record_testsuite_property(name, metadata.version(name))


@pytest.fixture(autouse=True)
def _deterministic() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)
