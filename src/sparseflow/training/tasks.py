"""Units of work for a pool of processes, and the order that their needs ask for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Protocol


class Task(Protocol):
    """A unit of work that is computed once; hashable, and small enough to be sent to another process."""

    @property
    def name(self) -> str:
        """Unique among the tasks; the table shows the part before its last dash."""
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
        """Compute and store it, calling ``report`` with the units done."""
        ...


class Workers(Protocol):
    """Processes that compute tasks, on this machine or on many."""

    def most(self) -> int:
        """Number of tasks that they can compute at once, now."""
        ...

    def submit(self, task: Task) -> Future[None]:
        """Begin a task as soon as there is room; the future resolves at its end, or with its error."""
        ...

    def progress(self) -> Iterable[tuple[str, int]]:
        """Names of running tasks with the units done, as reported since the last call."""
        ...

    def stop(self) -> None:
        """End all running tasks at once."""
        ...

    def close(self) -> None:
        """Release the processes after all tasks ended."""
        ...


def in_order(tasks: Sequence[Task]) -> list[Task]:
    """All tasks and those they need, each once, a task right after those it needs."""
    ordered: dict[Task, None] = {}
    for task in tasks:
        for needed in in_order(task.needs):
            ordered.setdefault(needed)
        ordered.setdefault(task)
    return list(ordered)
