"""One folder per run: a kill, a crash or a full disk at any moment leaves its files as they were before."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from sparseflow.atomic import remove_leftovers, write_atomically
from sparseflow.disk import File, listed, make_folder, remove, remove_folder, rename, sync_folder, undoing
from sparseflow.sealed import DamagedError, to_json
from sparseflow.state_file import read_checkpoint, write_checkpoint
from sparseflow.training.environment import describe_environment
from sparseflow.training.runs import (
    CHECKPOINTS,
    CONFIG,
    DONE,
    ENVIRONMENT,
    METRICS,
    SNAPSHOTS,
    AnyRun,
    require_config,
    snapshot_name,
    stamp,
)

LOCK = ".lock"
#: The mark of a run that has logged nothing.
NO_METRICS = {"bytes": 0, "sha256": hashlib.sha256().hexdigest()}


class RunStore:
    """The folder of one run, open for writing: ``<root>/<config.name>``, which is created if need be.

    It is a context manager. While it is open it holds a lock on the folder, which the kernel releases however the
    process ends. Lines and files that a killed process left torn are removed when the folder is opened again.

    Args:
        root: Folder of all runs.
        config: The run's config.

    Raises:
        ValueError: If the folder holds a run of another config.
        RuntimeError: If another process has it open.
        OSError: If the disk is full; no folder is then left behind.

    >>> from tempfile import TemporaryDirectory
    >>> from sparseflow.training.digits import DigitRun
    >>> from sparseflow.training.runs import load_runs
    >>> with TemporaryDirectory() as root:
    ...     with RunStore(Path(root), DigitRun(seed=1)) as store:
    ...         store.log(100, {"train/loss": 0.5})
    ...         store.finish({"test/accuracy": 0.75}, seconds=3.0)
    ...     run = load_runs(Path(root))[0]
    ...     run.config == DigitRun(seed=1), run.final["test/accuracy"], run.metrics.value.tolist()
    (True, 0.75, [0.5])
    """

    def __init__(self, root: Path, config: AnyRun) -> None:
        self.config = config
        self.folder = root / config.name
        with ExitStack() as opened:
            opened.enter_context(_create(self.folder, config) or _open_existing(self.folder, config))
            self._mend()
            self._metrics = opened.enter_context(File(self.folder / METRICS, "append"))
            self._drop_torn_line()
            self._metrics_sum = hashlib.sha256(self._metrics.read())
            self._opened = opened.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._opened.__exit__(kind, error, traceback)

    def close(self) -> None:
        """Release the folder; nothing more can be written."""
        self._opened.close()

    @property
    def is_done(self) -> bool:
        """Whether the run was finished, now or earlier."""
        return (self.folder / DONE).is_file()

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Append measurements; they are in the file when this returns, all of them or none.

        Args:
            step: Number of optimizer steps taken when they were measured.
            values: By name, such as ``{"train/loss": 0.5}``; 0-d tensors will do.
        """
        lines = [json.dumps({"step": int(step), "name": name, "value": float(value)}) for name, value in values.items()]
        rows = "".join(f"{line}\n" for line in lines).encode()
        begin = self._metrics.size()
        with undoing(lambda: self._metrics.truncate(begin)):
            self._metrics.write(rows)
        self._metrics_sum.update(rows)

    def save_checkpoint(self, step: int, state: dict[str, Any], *, keep: int = 1) -> None:
        """Store a state to continue from, then remove all but the newest ``keep`` checkpoints.

        Args:
            step: Number of optimizer steps taken.
            state: Tensors and plain Python values, see :func:`~sparseflow.state_file.write_checkpoint`.
            keep: At least 1.
        """
        if keep < 1:
            raise ValueError(f"keep must be at least 1, got {keep!r}.")
        payload = {"state": state, "metrics": self.metrics_mark()}
        write_checkpoint(self._checkpoint_path(step), payload, of=stamp(self.config, step))
        self.remove_older_checkpoints(keep=keep)

    def remove_older_checkpoints(self, *, keep: int = 1) -> None:
        """Remove all but the newest checkpoints, also those that a process killed in a save has left.

        Args:
            keep: So many; at least 1.
        """
        for path in self._checkpoints()[:-keep]:
            remove(path)

    def save_snapshot(self, step: int, state: dict[str, Any], *, before_update: bool = False) -> None:
        """Keep a state for good; written again, the same, by a run that is continued from before it.

        Args:
            step: Number of optimizer steps taken.
            state: As :meth:`save_checkpoint`.
            before_update: The state is that before the step's mask update.
        """
        make_folder(self.folder / SNAPSHOTS)
        path = self.folder / SNAPSHOTS / snapshot_name(step, before_update=before_update)
        write_checkpoint(path, state, of=stamp(self.config, step, before_update=before_update))

    def latest_checkpoint(self) -> tuple[int, dict[str, Any]] | None:
        """The newest checkpoint as ``(step, state)``; None if there is none yet.

        Raises:
            ValueError: If it is damaged; the text says which file to delete.
        """
        if not (paths := self._checkpoints()):
            return None
        return _step(paths[-1]), self._read_checkpoint(paths[-1])["state"]

    def truncate_metrics(self, step: int) -> None:
        """Cut the metrics to their length when the checkpoint of ``step`` was saved.

        What was logged later is logged again by the run that continues from there. With step 0 and no checkpoint of it
        everything goes: the run starts afresh.

        Raises:
            ValueError: If there is no checkpoint of ``step``, or metrics from before it are lost.
        """
        path = self._checkpoint_path(step)
        if path.is_file():
            mark = self._read_checkpoint(path)["metrics"]
        elif step == 0:
            mark = NO_METRICS
        else:
            raise ValueError(f"{self.folder} has no checkpoint of step {step}, so its metrics cannot go back to there.")
        self.cut_metrics(mark)

    def metrics_mark(self) -> dict[str, Any]:
        """Length (``bytes``) and ``sha256`` of the metrics logged so far, which are on the disk when this returns."""
        self._metrics.sync()
        return {"bytes": self._metrics.size(), "sha256": self._metrics_sum.hexdigest()}

    def cut_metrics(self, mark: Mapping[str, Any]) -> None:
        """Cut the metrics to what they were at a :meth:`metrics_mark`.

        Raises:
            ValueError: If they are shorter than that already, or other bytes.
        """
        size, cure = mark["bytes"], f"Delete {self.folder} and run again."
        if self._metrics.size() < size:
            raise ValueError(
                f"{self.folder / METRICS} is shorter than when the last checkpoint was saved: lines are lost. {cure}"
            )
        found = hashlib.sha256(self._metrics.read()[:size])
        if found.hexdigest() != mark["sha256"]:
            raise DamagedError(self.folder / METRICS, "it is not what the last checkpoint was saved with", cure=cure)
        self._metrics.truncate(size)
        self._metrics_sum = found
        self._metrics.sync()

    def finish(
        self,
        final: Mapping[str, float],
        seconds: float,
        *,
        measuring: float = 0.0,
        unreadable: Mapping[str, Mapping[str, str]] | None = None,
    ) -> None:
        """Declare the run complete: all metrics reach the disk first, ``done.json`` last.

        Args:
            final: The results, by metric name.
            seconds: Training time, over all processes that took part.
            measuring: Of these, the seconds in which the run was measured.
            unreadable: Split -> name -> what is wrong, of each image that could not be read; default none.
        """
        mark = self.metrics_mark()
        values = {name: float(value) for name, value in final.items()}
        done = {"run": self.config.name, "final": values, "seconds": float(seconds), "measuring": float(measuring)}
        done |= {"steps": self.config.steps}
        done |= {"unreadable": dict(unreadable or {}), "metrics": mark}
        write_atomically(self.folder / DONE, to_json(done, indent=2))

    def _checkpoint_path(self, step: int) -> Path:
        return self.folder / CHECKPOINTS / f"{step:06d}.pt"

    def _checkpoints(self) -> list[Path]:
        return sorted((path for path in listed(self.folder / CHECKPOINTS) if path.suffix == ".pt"), key=_step)

    def _read_checkpoint(self, path: Path) -> dict[str, Any]:
        older = [_step(other) for other in self._checkpoints() if _step(other) < _step(path)]
        restart = f"from step {older[-1]}" if older else "from the beginning"
        cure = f"Delete that file and run again: the run continues {restart}."
        return read_checkpoint(path, of=stamp(self.config, _step(path)), cure=cure)

    def _mend(self) -> None:
        """Bring the folder to what a new one is, whatever a killed process left or a person removed."""
        make_folder(self.folder / CHECKPOINTS)
        for folder in (self.folder, self.folder / CHECKPOINTS, self.folder / SNAPSHOTS):
            remove_leftovers(folder)
        if not (self.folder / ENVIRONMENT).exists():
            write_atomically(self.folder / ENVIRONMENT, to_json(describe_environment(), indent=2))

    def _drop_torn_line(self) -> None:
        data = self._metrics.read()
        if not data.endswith(b"\n"):
            self._metrics.truncate(data.rfind(b"\n") + 1)


def _create(folder: Path, config: AnyRun) -> File | None:
    """Make the folder, complete at once, and return its lock; None if it exists.

    The lock is taken in a folder of another name, which then gets its name in one rename, lock and all. A staging
    folder that a killed process left is used again.
    """
    staging = folder.with_name(f".{folder.name}.new")
    if folder.exists():
        return None
    try:
        make_folder(staging / CHECKPOINTS)
        lock = File(staging / LOCK, "append")
    except (FileNotFoundError, FileExistsError):
        # Another process has just given the staging folder its name, or removed it because the run exists.
        return None
    with ExitStack() as opened:
        opened.enter_context(lock)
        _take_lock(lock, folder)
        # Not before it is locked: it may be another process's.
        with undoing(lambda: remove_folder(staging)):
            if folder.exists():  # made between the two looks
                remove_folder(staging)
                return None
            write_atomically(staging / ENVIRONMENT, to_json(describe_environment(), indent=2))
            write_atomically(staging / CONFIG, to_json(config.to_dict(), indent=2))
            rename(staging, folder, called=folder)
            sync_folder(folder.parent)
        opened.pop_all()
    return lock


def _open_existing(folder: Path, config: AnyRun) -> File:
    """The lock of a folder that exists."""
    require_config(folder, config)
    lock = File(folder / LOCK, "append")
    with undoing(lock.close):
        _take_lock(lock, folder)
    return lock


def _take_lock(lock: File, folder: Path) -> None:
    if not lock.lock():
        holder = lock.read().decode() or "unknown"
        raise RuntimeError(
            f"{folder} is in use by another process (id {holder}). Wait until it ends, or end it; the run then goes on."
        )
    lock.truncate(0)
    lock.write(str(os.getpid()).encode())


def _step(checkpoint: Path) -> int:
    return int(checkpoint.stem)
