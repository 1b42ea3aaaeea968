"""Every test runs on one thread and from the same global seed; what draws takes its own generator."""

from __future__ import annotations

import platform
from collections.abc import Callable
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import settings

from status_record import StatusRecord

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


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--status", metavar="FILE", help="write what became of the tests with the mark status")


def pytest_configure(config: pytest.Config) -> None:
    if (path := config.getoption("--status", default=None)) is None:
        return
    if config.getoption("numprocesses", default=None):
        raise pytest.UsageError("--status counts the tests of one process. Leave -n out.")
    config.pluginmanager.register(StatusRecord(Path(path)))


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
