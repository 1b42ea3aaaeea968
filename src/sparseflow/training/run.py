"""One training: a pure function of its config and the data, resumable at any checkpoint bit for bit."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch

from sparseflow.data.loader import MAX_BROKEN
from sparseflow.disk import naming, read_bytes, remove_folder
from sparseflow.training.checkpoint_folder import latest_checkpoint
from sparseflow.training.clock import Clock
from sparseflow.training.config import RunConfig
from sparseflow.training.datasets import open_data
from sparseflow.training.loop import run_steps, stepper_of
from sparseflow.training.probes import Log
from sparseflow.training.ranks import Ranks
from sparseflow.training.resume import Checkpoints, FileCheckpoints, FolderCheckpoints
from sparseflow.training.runs import CHECKPOINTS, METRICS, Run, is_done, load_run
from sparseflow.training.setup import set_up, start_of
from sparseflow.training.store import NO_METRICS, RunStore
from sparseflow.training.streams import RunData, Unreadable
from sparseflow.types import OnEveryRankError

#: Called with the steps done and the steps of the run.
Progress = Callable[[int, int], None]


def train(
    config: RunConfig,
    *,
    root: Path,
    data_root: Path | None = None,
    ranks: Ranks | None = None,
    sharded: bool = False,
    workers: int = 0,
    tensorboard: bool = False,
    progress: Progress | None = None,
    watch: Log | None = None,
) -> Run:
    """Train the run that a config describes, or continue it, or return it if it is done.

    A run that starts from the masks of another trains that one first. A run on digits computes on one thread, whatever
    torch is set to: the same config then gives the same bits.

    Args:
        config: The run.
        root: Folder of all runs.
        data_root: Folder of datasets; default as :func:`sparseflow.data.digits.load_dataset` for digits and
            :func:`.load_images` for images.
        ranks: This process among all; default alone.
        sharded: Whether each process keeps only its part of the network (FSDP2).
        workers: Processes that decode images, for each rank.
        tensorboard: Also write TensorBoard events, into ``<run folder>/tensorboard``.
        progress: Called after every step with the steps taken and all.
        watch: Gets what is logged, on rank 0, beside the run's folder.

    Raises:
        ValueError, OSError, RuntimeError: as the store, the data and the network say.
    """
    ranks = ranks or Ranks()
    if config.mask_from is not None and not is_done(root, config.mask_from):
        train(
            config.mask_from, root=root, data_root=data_root, ranks=ranks, sharded=sharded, workers=workers,
            tensorboard=tensorboard, progress=progress, watch=watch,
        )  # fmt: skip
    if not is_done(root, config):
        with ExitStack() as stack:
            stack.enter_context(one_thread() if config.one_process else nullcontext())
            # Before there is a folder: what cannot be set up leaves none.
            with ranks.together():
                data = open_data(config, root=data_root, ranks=ranks, workers=workers)
                start = start_of(config, root=root)
            trainer = set_up(config, ranks, start=start, growth=data.growth, sharded=sharded)
            stepper = stepper_of(config, trainer)
            with ranks.together():
                store = stack.enter_context(RunStore(root, config)) if ranks.is_first else None
            if not ranks.from_first(lambda: store is not None and store.is_done):
                stack.enter_context(_memory_explained(config))
                record = _Record(config, store, data, ranks)
                checkpoints = record.checkpoints(root)
                first = checkpoints.resume(trainer)
                if tensorboard and store is not None:
                    record.log = stack.enter_context(_tensorboard(store))
                final = run_steps(
                    config, data, trainer=trainer, stepper=stepper, log=_both(record.log, watch), keep=record.keep,
                    checkpoints=checkpoints, first=first, progress=None if progress is None else
                    lambda step: progress(step, config.steps), clock=record.clock,
                )  # fmt: skip
                record.finish(final)
        ranks.everyones("done")  # none leaves before the first has written its files
    return load_run(root / config.name)


def _both(log: Log, watch: Log | None) -> Log:
    if watch is None:
        return log

    def both(step: int, values: Mapping[str, float]) -> None:
        log(step, values)
        watch(step, values)

    return both


class _Record:
    """The log, snapshots and results of a run in its folder, on the first rank; on others the time alone."""

    def __init__(self, config: RunConfig, store: RunStore | None, data: RunData, ranks: Ranks) -> None:
        self._config, self._store, self._data, self._ranks = config, store, data, ranks
        self.clock = Clock()
        self.log: Log = self._log

    def _log(self, step: int, values: Mapping[str, float]) -> None:
        assert self._store is not None
        self._store.log(step, values)

    def keep(self, step: int, state: dict[str, Any], *, before_update: bool = False) -> None:
        assert self._store is not None
        self._store.save_snapshot(step, state, before_update=before_update)

    def checkpoints(self, root: Path) -> Checkpoints:
        """The checkpoints that the run goes on from."""
        if self._config.one_process and self._store is not None:
            return FileCheckpoints(store=self._store, mark=self._mark, restore=self._restore)
        folder = root / self._config.name / CHECKPOINTS
        if self._store is not None and latest_checkpoint(folder) is None:
            self._store.cut_metrics(NO_METRICS)
        return FolderCheckpoints(run=self._config, folder=folder, mark=self._mark, restore=self._restore)

    def _mark(self) -> dict[str, Any]:
        """Plain values that a checkpoint keeps."""
        return {
            "seconds": self.clock.seconds,
            "measuring": self.clock.measuring,
            "metrics": None if self._store is None else self._store.metrics_mark(),
            "unreadable": self._unreadable(),
        }

    def _restore(self, kept: Mapping[str, Any]) -> None:
        """Forget what was logged after a checkpoint, and remember what was met before it."""
        self.clock.continue_from(kept["seconds"], kept.get("measuring", 0.0))
        for split, broken in kept.get("unreadable", {}).items():
            self._data.unreadable[split].update(broken)
        if self._store is not None and "metrics" in kept:
            self._store.cut_metrics(kept["metrics"])

    def finish(self, final: Mapping[str, float]) -> None:
        unreadable = self._unreadable()
        if self._store is not None:
            seconds, measuring = self.clock.seconds, self.clock.measuring
            self._store.finish(final, seconds, measuring=measuring, unreadable=unreadable)

    def _unreadable(self) -> Unreadable:
        """The images that no process could read, whose number has a limit."""
        found: Unreadable = {}
        for said in map(json.loads, self._ranks.everyones(json.dumps(self._data.unreadable))):
            for split, broken in said.items():
                found.setdefault(split, {}).update(broken)
        for split, broken in found.items():
            if len(broken) > MAX_BROKEN:
                raise OnEveryRankError(
                    f"{len(broken)} {split} images cannot be read, more than {MAX_BROKEN}: {', '.join(broken)}. Fetch "
                    "them again; the run then continues."
                )
        return found


@contextmanager
def _memory_explained(config: RunConfig) -> Iterator[None]:
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        is_memory = isinstance(error, torch.OutOfMemoryError | MemoryError) or "allocate memory" in str(error)
        if not is_memory or config.micro_batch is None:
            raise
        raise RuntimeError(
            f"out of memory with {config.micro_batch} images of {config.image_size} pixels at once. Lower "
            "--micro-batch, give --precision bfloat16, or start more processes; batch norms see a micro-batch at a "
            "time."
        ) from error


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute on one thread, whatever torch is set to."""
    # The order of a sum depends on the number of threads, and with it the last bits of a run.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@contextmanager
def _tensorboard(store: RunStore) -> Iterator[Log]:
    """The store's log, which also writes events; a continued run writes its earlier events anew."""
    from torch.utils.tensorboard.writer import SummaryWriter

    folder = store.folder / "tensorboard"
    remove_folder(folder)
    with naming(folder, "write"), SummaryWriter(log_dir=str(folder)) as writer:
        for line in read_bytes(store.folder / METRICS).splitlines():
            row = json.loads(line)
            writer.add_scalar(row["name"], row["value"], row["step"])

        def log(step: int, values: Mapping[str, float]) -> None:
            store.log(step, values)
            with naming(folder, "write"):
                for name, value in values.items():
                    writer.add_scalar(name, value, step)
                writer.flush()

        yield log
