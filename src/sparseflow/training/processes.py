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
    """As :class:`~sparseflow.training.tasks.Workers`; they end with the process that started them, however that ends.

    Args:
        root: Folder of all results.
        jobs: How many.
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
        """How many."""
        return self._jobs

    def submit(self, task: Task) -> Future[None]:
        """To the first that is free."""
        with _interrupts_held():
            return self._pool.submit(_work, task, self._root)

    def progress(self) -> Iterator[tuple[str, int]]:
        """What lies in the queue."""
        while True:
            try:
                yield self._messages.get_nowait()
            except Empty:
                return

    def stop(self) -> None:
        """Terminate them."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        for process in set(multiprocessing.active_children()) - self._others:
            process.terminate()

    def close(self) -> None:
        """Let them end."""
        self._pool.shutdown()


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Start processes that Ctrl-C, which a terminal sends to all, does not reach: the one in charge ends them."""
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
    compute(task, root, tell=lambda name, done: _messages.put((name, done)))


def take_one_thread() -> None:
    """Keep this process, and what it loads later, on one thread."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
        os.environ[name] = "1"
    torch.set_num_threads(1)


def compute(task: Task, root: Path, *, tell: Callable[[str, int], None]) -> None:
    """Do a task; ``tell`` hears its name with the units done, at its begin and end and now and then."""
    reported = 0

    def report(done: int) -> None:
        nonlocal reported
        if done >= task.size or done - reported >= _REPORT_EVERY:
            reported = done
            tell(task.name, done)

    tell(task.name, 0)
    task.work(root, report)
