"""Processes of this machine that compute tasks of a pool, one thread each."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from queue import Empty
from typing import Any

import torch

from sparseflow.training.tasks import Task

#: Units of progress between two messages of a worker.
_REPORT_EVERY = 20

_messages: Any = None


class Processes:
    """Workers on this machine, see :class:`~sparseflow.training.tasks.Workers`; they end with their parent process.

    Args:
        root: Folder of all results.
        jobs: Number of processes.
    """

    def __init__(self, root: Path, jobs: int) -> None:
        self._root = root
        self._jobs = jobs
        context = multiprocessing.get_context("spawn")
        self._messages = context.Queue()
        self._others = set(multiprocessing.active_children())
        self._pool = ProcessPoolExecutor(
            jobs, mp_context=context, initializer=_begin_worker, initargs=(self._messages,)
        )

    def most(self) -> int:
        """Number of processes."""
        return self._jobs

    def submit(self, task: Task) -> Future[None]:
        """Queue a task for the next free worker."""
        with _interrupts_held():
            return self._pool.submit(_work, task, self._root)

    def progress(self) -> Iterator[tuple[str, int]]:
        """Reports that have arrived since the last call."""
        while True:
            try:
                yield self._messages.get_nowait()
            except Empty:
                return

    def stop(self) -> None:
        """Terminate the processes."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        for process in set(multiprocessing.active_children()) - self._others:
            process.terminate()

    def close(self) -> None:
        """Let the processes end."""
        self._pool.shutdown()


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Start processes that ignore Ctrl-C, which a terminal sends to all: the main process ends them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _begin_worker(messages: Any) -> None:
    global _messages
    _messages = messages
    threading.Thread(target=_end_with_parent, daemon=True).start()
    take_one_thread()


def _end_with_parent() -> None:
    # A worker that outlives a killed sweep would hold its run's lock, and the same command could not continue.
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _work(task: Task, root: Path) -> None:
    compute(task, root, report=lambda name, done: _messages.put((name, done)))


def take_one_thread() -> None:
    """Keep this process and the libraries that it loads later on one thread."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
        os.environ[name] = "1"
    torch.set_num_threads(1)


def compute(task: Task, root: Path, *, report: Callable[[str, int], None]) -> None:
    """Do a task and report its progress.

    Args:
        task: The task.
        root: Folder of all results.
        report: Called with the task's name and the units done, at begin and end and every few units.
    """
    reported = 0

    def progress(done: int) -> None:
        nonlocal reported
        if done >= task.size or done - reported >= _REPORT_EVERY:
            reported = done
            report(task.name, done)

    report(task.name, 0)
    task.work(root, progress)
