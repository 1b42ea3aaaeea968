"""Many tasks over processes, one thread each, in the order of their needs, with a live table."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column

from sparseflow.training.processes import Processes
from sparseflow.training.tasks import Task, Workers, in_order

#: Seconds between two lines about runs under way, where there is no terminal.
_LINE_EVERY = 300.0


def run_tasks(
    tasks: Sequence[Task],
    *,
    root: Path,
    jobs: int | None = None,
    ray: str | None = None,
    console: Console | None = None,
) -> None:
    """Compute tasks side by side, each in a single-threaded process; finished ones are not computed again.

    Args:
        tasks: The tasks; those that they need are added.
        root: Folder of all results; it exists. With ``ray`` one that all machines share, under the same path.
        jobs: Tasks at once, at least 1; default one for each CPU of this machine, or of the cluster.
        ray: Address of a Ray cluster, ``"auto"``, ``"host:port"`` or ``"ray://host:port"``; default this machine alone.
        console: Where the live table is drawn; default stderr.

    Raises:
        ValueError: if ``jobs`` is below 1.
        ModuleNotFoundError: with ``ray``, if it is not installed.
        ConnectionError: if there is no cluster at that address.
        OSError: if one of its machines does not see ``root``.
        RuntimeError: after all other tasks ended, if any failed; it names each with its error. At once, if the system
            killed a process of this machine; a cluster tries such tasks again.
    """
    check_jobs(jobs)
    todo = [task for task in in_order(tasks) if not task.is_done(root)]
    if todo and (failures := _run(todo, _workers(root, jobs=jobs, ray=ray, most=len(todo)), console=console)):
        lines = [f"{task.name}: {type(error).__name__}: {error}" for task, error in failures.items()]
        title = f"{len(failures)} of {len(todo)} runs failed; the same command tries them again:"
        raise RuntimeError(f"run {lines[0]}" if len(todo) == 1 else "\n  ".join([title, *lines]))


def check_jobs(jobs: int | None) -> None:
    """Raise if fewer than one process is asked for.

    Raises:
        ValueError: if it is below 1.
    """
    if jobs is not None and jobs < 1:
        raise ValueError(f"jobs must be at least 1, got {jobs}.")


def local_jobs(jobs: int | None) -> int:
    """Number of processes on this machine: ``jobs``, or one for each of its CPUs."""
    return jobs if jobs is not None else os.cpu_count() or 1


def _workers(root: Path, *, jobs: int | None, ray: str | None, most: int) -> Workers:
    if ray is None:
        return Processes(root, min(local_jobs(jobs), most))
    from sparseflow.training.ray_pool import RayCluster

    return RayCluster(ray, root, jobs)


def _run(todo: list[Task], workers: Workers, *, console: Console | None) -> dict[Task, BaseException]:
    failures: dict[Task, BaseException] = {}
    table = _Table(todo, console or Console(stderr=True))
    waiting, running = list(todo), dict[Future[None], Task]()
    unfinished = set(todo)
    try:
        with table.progress, _interrupts_noticed() as raise_if_interrupted:
            while waiting or running:
                raise_if_interrupted()
                most = workers.most()
                for task in list(waiting):
                    if failed := [needed for needed in task.needs if needed in failures]:
                        waiting.remove(task)
                        failures[task] = RuntimeError(f"it starts from {failed[0].name}, which failed")
                        table.finish(task, failed=True)
                    elif len(running) < most and not unfinished.intersection(task.needs):
                        waiting.remove(task)
                        running[workers.submit(task)] = task
                done, _ = wait(running, timeout=0.2, return_when=FIRST_COMPLETED)
                table.show(workers.progress())
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
        workers.stop()
        if isinstance(error, BrokenProcessPool):
            names = "\n  ".join(task.name for task in running.values() if table.has_begun(task))
            raise RuntimeError(
                "a worker process was killed, perhaps for want of memory (then lower --jobs). The same command "
                f"continues where it was. Under way:\n  {names or 'no run yet'}"
            ) from None
        raise
    workers.close()
    return failures


@contextmanager
def _interrupts_noticed() -> Iterator[Callable[[], None]]:
    """Yield a function that raises again after Ctrl-C: Python drops an exception that falls into a finaliser."""
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


class _Table:
    """One bar over all tasks, and a line for each running one."""

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
        self._ended = set[str]()
        self._began = self._told = time.monotonic()
        self._total = self.progress.add_task(self._title(), total=sum(self._sizes.values()))

    def _title(self) -> str:
        return f"[bold]{len(self._ended)} of {len(self._sizes)} runs done, steps"

    def show(self, progress: Iterable[tuple[str, int]]) -> None:
        """Draw the progress that workers have reported."""
        for name, step in progress:
            if name in self._ended:  # its last report came after its end
                continue
            if name not in self._lines:
                self._lines[name] = self.progress.add_task(name.rsplit("-", 1)[0], total=self._sizes[name])
            self._done[name] = step
            self.progress.update(self._lines[name], completed=step)
        self.progress.update(self._total, completed=sum(self._done.values()), description=self._title())
        if not self.progress.console.is_terminal and (now := time.monotonic()) - self._told >= _LINE_EVERY:
            self._told = now
            under_way = [f"{name} {self._done[name]} of {self._sizes[name]}" for name in self._lines]
            self.progress.console.print(f"after {now - self._began:.0f} s: {', '.join(under_way)}", soft_wrap=True)

    def has_begun(self, task: Task) -> bool:
        """Whether a worker has reported that it runs this task."""
        return task.name in self._lines

    def finish(self, task: Task, *, failed: bool) -> None:
        """Remove a task's line from the live display; without one, print that it ended."""
        self._ended.add(task.name)
        self._done[task.name] = task.size
        line = self._lines.pop(task.name, None)
        if line is not None:
            self.progress.remove_task(line)
        if not self.progress.console.is_terminal:
            verb = "failed" if failed else "done"
            seconds = time.monotonic() - self._began
            self.progress.console.print(
                f"{len(self._ended)}/{len(self._sizes)} {verb} after {seconds:.0f} s: {task.name}"
            )
