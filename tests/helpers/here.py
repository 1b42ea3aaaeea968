"""Workers that compute tasks in the test's own process, where tables can be changed for a test."""

from __future__ import annotations

from concurrent.futures import Future
from pathlib import Path
from typing import Any


class Here:
    """As ``sparseflow.training.processes.Processes``, without processes."""

    def __init__(self, root: Path, jobs: int) -> None:
        self._root = root

    def most(self) -> int:
        return 1

    def submit(self, task: Any) -> Future[None]:
        done = Future[None]()
        try:
            task.work(self._root, lambda step: None)
        except (ValueError, RuntimeError) as error:
            done.set_exception(error)
        else:
            done.set_result(None)
        return done

    def progress(self) -> list[tuple[str, int]]:
        return []

    def stop(self) -> None: ...

    def close(self) -> None: ...
