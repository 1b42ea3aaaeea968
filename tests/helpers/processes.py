"""Test processes that start in a tenth of a second: forks of a process that has loaded torch and done nothing else.

Importing torch, its optimizers and the package takes Python three seconds, and the tests start dozens of processes.
"""

from __future__ import annotations

import multiprocessing
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import pytest
from torch.distributed import TCPStore

LOADED = [
    "torch._dynamo",
    "torch.distributed.fsdp",
    "torch.nn.parallel",
    "sparseflow.training.loop",
    "sparseflow.cli.main",
    "sparseflow.training.run",
]
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(LOADED)


@dataclass(frozen=True)
class Ended:
    """Exit code (negative for a signal) and output of a process that has ended."""

    returncode: int
    stdout: str
    stderr: str


class Job:
    """A function that runs in a process of its own, with one thread.

    Args:
        function: Importable by the name of its module; its errors go to stderr and give exit code 1.
        arguments: Arguments of the function.
        environment: Environment variables in addition to those of this process.
    """

    def __init__(self, function: Callable[..., object], *arguments: object, **environment: str) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self._process = _CONTEXT.Process(
            target=_run, args=(function, arguments, {**os.environ, **environment}, self._folder.name)
        )
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("OMP_NUM_THREADS", "1")  # what the first process loads reads it once
            forkserver.ensure_running()
        self._process.start()
        assert self._process.pid is not None
        self.pid: int = self._process.pid

    def poll(self) -> int | None:
        """Return the exit code, or None while the process runs."""
        return self._process.exitcode

    def kill(self) -> None:
        """Kill the process with SIGKILL."""
        self._process.kill()

    def wait(self, timeout: float = 600) -> Ended:
        """Wait for the end of the process and return its result; fail if it does not end in time."""
        self._process.join(timeout)
        code = self._process.exitcode
        self._process.kill()
        assert code is not None, f"process {self.pid} has not ended after {timeout} s"
        with self._folder:
            return Ended(code, *((Path(self._folder.name) / name).read_text() for name in ("stdout", "stderr")))


def start_ranks(function: Callable[..., object], *arguments: object, processes: int = 2) -> tuple[list[Job], TCPStore]:
    """Start one job per rank with the variables that torchrun sets; keep the returned store as long as they run."""
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port), "TORCHELASTIC_USE_AGENT_STORE": "True"}
    shared |= {"WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes)}
    jobs = [Job(function, *arguments, **shared, RANK=str(rank), LOCAL_RANK=str(rank)) for rank in range(processes)]
    return jobs, store


def ends_of(jobs: Sequence[Job]) -> list[Ended]:
    """Wait for all jobs and return their results; if one hangs, the others are killed too."""
    try:
        return [job.wait() for job in jobs]
    finally:
        for job in jobs:
            job.kill()


def run_ranks(function: Callable[..., object], *arguments: object, processes: int = 2) -> list[Ended]:
    """Run the function on every rank and return the results."""
    jobs, _store = start_ranks(function, *arguments, processes=processes)
    return ends_of(jobs)


def _run(function: Callable[..., Any], arguments: Sequence[Any], environment: Mapping[str, str], folder: str) -> None:
    os.environ.clear()
    os.environ.update(environment)
    for number, name in ((1, "stdout"), (2, "stderr")):
        file = os.open(Path(folder) / name, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
        os.dup2(file, number)
        os.close(file)
    function(*arguments)
