"""Many tasks over local processes, one thread each, in the order of their needs, with a live table."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path
from queue import Empty
from typing import Any, Protocol

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column

#: Units of progress between two messages of a worker.
_REPORT_EVERY = 20

_messages: Any = None


class Task(Protocol):
    """Something to compute once; hashable, and small enough to be sent to another process."""

    @property
    def name(self) -> str:
        """Unique among the tasks; what is left of the last dash is shown."""
        ...

    @property
    def size(self) -> int:
        """Units of progress; all tasks' units should take about as long."""
        ...

    @property
    def needs(self) -> tuple[Task, ...]:
        """Tasks that must be done before."""
        ...

    def is_done(self, root: Path) -> bool:
        """Whether its result is in ``root``."""
        ...

    def work(self, root: Path, report: Callable[[int], None]) -> None:
        """Compute and store it; ``report`` is told the units done."""
        ...


def in_order(tasks: Sequence[Task]) -> list[Task]:
    """All tasks and what they need, each once, a task right after what it needs."""
    ordered: dict[Task, None] = {}
    for task in tasks:
        for needed in in_order(task.needs):
            ordered.setdefault(needed)
        ordered.setdefault(task)
    return list(ordered)


def run_tasks(tasks: Sequence[Task], *, root: Path, jobs: int, console: Console | None = None) -> None:
    """Compute tasks side by side, each in a single-threaded process; what is done is not computed again.

    Args:
        tasks: What they need is added.
        root: Folder of all results; it exists.
        jobs: Processes, at least 1.
        console: Where the live table is drawn; default stderr.

    Raises:
        ValueError: if ``jobs`` is below 1.
        RuntimeError: after all other tasks ended, if any failed; it names each with its error. At once, if the system
            killed a process.
    """
    check_jobs(jobs)
    todo = [task for task in in_order(tasks) if not task.is_done(root)]
    if todo and (failures := _run(todo, root=root, jobs=jobs, console=console)):
        lines = [f"{task.name}: {type(error).__name__}: {error}" for task, error in failures.items()]
        title = f"{len(failures)} of {len(todo)} runs failed; the same command tries them again:"
        raise RuntimeError(f"run {lines[0]}" if len(todo) == 1 else "\n  ".join([title, *lines]))


def check_jobs(jobs: int) -> None:
    """Refuse a number of processes that is none.

    Raises:
        ValueError: if it is below 1.
    """
    if jobs < 1:
        raise ValueError(f"jobs must be at least 1, got {jobs}.")


def _run(todo: list[Task], *, root: Path, jobs: int, console: Console | None) -> dict[Task, BaseException]:
    failures: dict[Task, BaseException] = {}
    context = multiprocessing.get_context("spawn")
    messages = context.Queue()
    table = _Table(todo, console or Console(stderr=True))
    others = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(
        min(jobs, len(todo)), mp_context=context, initializer=_begin_worker, initargs=(messages,)
    )
    waiting, running = list(todo), dict[Future[None], Task]()
    unfinished = set(todo)
    try:
        with table.progress, _interrupts_noticed() as raise_if_interrupted:
            while waiting or running:
                raise_if_interrupted()
                for task in list(waiting):
                    if failed := [needed for needed in task.needs if needed in failures]:
                        waiting.remove(task)
                        failures[task] = RuntimeError(f"it starts from {failed[0].name}, which failed")
                        table.finish(task, failed=True)
                    elif len(running) < jobs and not unfinished.intersection(task.needs):
                        waiting.remove(task)
                        with _interrupts_held():
                            running[pool.submit(_work, task, root)] = task
                done, _ = wait(running, timeout=0.2, return_when=FIRST_COMPLETED)
                table.show(messages)
                # A killed process fails every run under way, and the pool with them; what ended before did end.
                for future in sorted(done, key=lambda future: isinstance(future.exception(), BrokenProcessPool)):
                    if isinstance(error := future.exception(), BrokenProcessPool):
                        raise error
                    task = running.pop(future)
                    unfinished.discard(task)
                    if error is not None:
                        failures[task] = error
                    table.finish(task, failed=error is not None)
    except BaseException as error:
        pool.shutdown(wait=False, cancel_futures=True)
        for process in set(multiprocessing.active_children()) - others:
            process.terminate()
        if isinstance(error, BrokenProcessPool):
            names = "\n  ".join(task.name for task in running.values() if table.has_begun(task))
            raise RuntimeError(
                "a worker process was killed, perhaps for want of memory (then lower --jobs). The same command "
                f"continues where it was. Under way:\n  {names or 'no run yet'}"
            ) from None
        raise
    pool.shutdown()
    return failures


@contextmanager
def _interrupts_noticed() -> Iterator[Callable[[], None]]:
    """Ctrl-C raises as ever, and what is yielded raises again: Python drops exceptions that fall into a finaliser."""
    if threading.current_thread() is not threading.main_thread():
        yield lambda: None
        return
    noticed = threading.Event()

    def notice(number: int, frame: object) -> None:
        noticed.set()
        raise KeyboardInterrupt

    def raise_if_interrupted() -> None:
        if noticed.is_set():
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, notice)
    try:
        yield raise_if_interrupted
    finally:
        signal.signal(signal.SIGINT, before)


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
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
        os.environ[name] = "1"
    torch.set_num_threads(1)


def _end_with_parent() -> None:
    # A worker that outlives a killed sweep would hold its run's lock, and the same command could not continue.
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _work(task: Task, root: Path) -> None:
    reported = 0

    def report(done: int) -> None:
        nonlocal reported
        if done >= task.size or done - reported >= _REPORT_EVERY:
            reported = done
            _messages.put((task.name, done))

    _messages.put((task.name, 0))
    task.work(root, report)


class _Table:
    """One bar over all tasks, and a line for each under way."""

    def __init__(self, todo: Sequence[Task], console: Console) -> None:
        self.progress = Progress(
            TextColumn("{task.description}", table_column=Column(no_wrap=True, overflow="ellipsis")),
            BarColumn(bar_width=16),
            MofNCompleteColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            refresh_per_second=4,
        )
        self._sizes = {task.name: task.size for task in todo}
        self._done: dict[str, int] = {}
        self._lines: dict[str, Any] = {}
        self._ended = 0
        self._began = time.monotonic()
        self._total = self.progress.add_task(self._title(), total=sum(self._sizes.values()))

    def _title(self) -> str:
        return f"[bold]{self._ended} of {len(self._sizes)} runs done, steps"

    def show(self, messages: Any) -> None:
        """Draw all that the workers have said since."""
        while True:
            try:
                name, step = messages.get_nowait()
            except Empty:
                break
            if name not in self._lines:
                self._lines[name] = self.progress.add_task(name.rsplit("-", 1)[0], total=self._sizes[name])
            self._done[name] = step
            self.progress.update(self._lines[name], completed=step)
        self.progress.update(self._total, completed=sum(self._done.values()), description=self._title())

    def has_begun(self, task: Task) -> bool:
        """Whether a worker is at it, as far as the workers have said."""
        return task.name in self._lines

    def finish(self, task: Task, *, failed: bool) -> None:
        """Take a run's line away; a line of its own remains where there is no live display."""
        self._ended += 1
        self._done[task.name] = task.size
        line = self._lines.pop(task.name, None)
        if line is not None:
            self.progress.remove_task(line)
        if not self.progress.console.is_terminal:
            verb = "failed" if failed else "done"
            seconds = time.monotonic() - self._began
            self.progress.console.print(f"{self._ended}/{len(self._sizes)} {verb} after {seconds:.0f} s: {task.name}")
