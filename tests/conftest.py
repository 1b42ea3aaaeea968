"""Every test runs on one thread and from the same global seed; what draws takes its own generator."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import settings

# The same examples every time, and no time limit that a busy machine could break.
settings.register_profile("reproducible", derandomize=True, deadline=None)
settings.load_profile("reproducible")

#: Tests that stay together on one worker: those of the engine, so that only one compiles its kernels, and those that
#: fork processes from a server, which takes ten seconds to load.
TOGETHER = {
    "engine": ("tests/engine/", "src/sparseflow/engine/"),
    "processes": (
        "tests/sparsifier/test_ddp.py",
        "tests/sparsifier/test_sharded.py",
        "tests/training/test_checkpoint.py",
        "tests/training/test_image_runs.py",
        "tests/training/test_loop.py",
        "tests/training/test_ranks.py",
        "tests/training/test_resume.py",
    ),
}


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Deal out whole files, as ``--dist loadfile`` does, and those of ``TOGETHER`` as one."""
    from xdist.scheduler import LoadFileScheduling

    class Together(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            found = (name for name, starts in TOGETHER.items() if nodeid.startswith(starts))
            return next(found, super()._split_scope(nodeid))

    return Together(config, log) if config.getoption("dist") == "loadfile" else None


@pytest.fixture(autouse=True)
def _deterministic() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)
