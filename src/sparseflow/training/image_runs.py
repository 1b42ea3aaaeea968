"""One training on images: a pure function of its config and the data, on one process or on those of ``torchrun``."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch

from sparseflow.training.checkpoint_folder import latest_checkpoint
from sparseflow.training.datasets import load_images
from sparseflow.training.images import ImageRun
from sparseflow.training.loop import train_images
from sparseflow.training.ranks import Ranks
from sparseflow.training.resume import Checkpoints
from sparseflow.training.runs import CHECKPOINTS, Run, final_state, is_done, load_run, read_snapshot
from sparseflow.training.setup import Start, dense_network, set_up_images
from sparseflow.training.store import RunStore


def train_image_run(
    run: ImageRun,
    *,
    root: Path,
    data_root: Path | None = None,
    ranks: Ranks | None = None,
    sharded: bool = False,
    workers: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Run:
    """Train the run that a config describes, or continue it, or return it if it is done.

    The pruning run that it starts from, if any, is trained first.

    Args:
        run: The run.
        root: Folder of all runs.
        data_root: Folder of the images, see :func:`.load_images`.
        ranks: This process among all; default alone.
        sharded: Whether each process keeps only its part of the network (FSDP2).
        workers: Processes that decode images, for each rank.
        progress: Told about every step: those taken, and all.

    Raises:
        ValueError, OSError, RuntimeError: as the store, the data and the network say.
    """
    ranks = ranks or Ranks()
    if run.mask_from is not None:
        train_image_run(
            run.mask_from, root=root, data_root=data_root, ranks=ranks, sharded=sharded, workers=workers,
            progress=progress,
        )  # fmt: skip
    if not is_done(root, run):
        # Before there is a folder: what cannot be set up leaves none.
        with ranks.together():
            training, test = load_images(run, root=data_root)
            start = start_of(run, root=root)
        trainer = set_up_images(run, ranks, start=start, sharded=sharded)
        with ExitStack() as stack:
            with ranks.together():
                store = stack.enter_context(RunStore(root, run)) if ranks.is_first else None
            stack.enter_context(_memory_explained(run))
            record = _Record(run, store)
            train_images(
                run, training, test, trainer=trainer, workers=workers, log=record.log, keep=record.keep,
                progress=None if progress is None else lambda step: progress(step, run.steps),
                checkpoints=Checkpoints(
                    run=run, folder=root / run.name / CHECKPOINTS, mark=record.mark, restore=record.restore
                ),
            )  # fmt: skip
            record.finish()
        ranks.check_same("done", of="the ends")
    return load_run(root / run.name)


class _Record:
    """What a run leaves in its folder, on the rank that has one; elsewhere the time it took."""

    def __init__(self, run: ImageRun, store: RunStore | None) -> None:
        self._run, self._store = run, store
        self._began, self._before = time.perf_counter(), 0.0
        self._final: dict[str, float] = {}
        if store is not None and latest_checkpoint(store.folder / CHECKPOINTS) is None:
            store.cut_metrics(0)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        assert self._store is not None
        self._store.log(step, values)
        if step == self._run.steps:
            self._final.update({name: value for name, value in values.items() if not name.startswith("update/")})

    def keep(self, step: int, state: Mapping[str, Any]) -> None:
        assert self._store is not None
        self._store.save_snapshot(step, dict(state))

    def mark(self) -> dict[str, float]:
        """What a checkpoint says of the run so far."""
        return {"seconds": self._seconds(), "metrics_bytes": 0 if self._store is None else self._store.metrics_bytes()}

    def restore(self, kept: Mapping[str, Any]) -> None:
        """Forget what was logged after a checkpoint."""
        self._before = kept["seconds"]
        if self._store is not None:
            self._store.cut_metrics(kept["metrics_bytes"])

    def finish(self) -> None:
        if self._store is not None:
            self._store.finish(self._final, self._seconds())

    def _seconds(self) -> float:
        return self._before + time.perf_counter() - self._began


@contextmanager
def _memory_explained(run: ImageRun) -> Iterator[None]:
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not isinstance(error, torch.OutOfMemoryError | MemoryError) and "allocate memory" not in str(error):
            raise
        raise RuntimeError(
            f"out of memory with {run.micro_batch} images of {run.image_size} pixels at once. Lower --micro-batch, "
            "give --precision bfloat16, or start more processes; batch norms see a micro-batch at a time."
        ) from error


def start_of(run: ImageRun, *, root: Path) -> Start | None:
    """Masks, and a ticket's weights, from the pruning run that a run starts from.

    Raises:
        FileNotFoundError: if it is not finished, or did not keep what is needed.
    """
    parent = run.mask_from
    if parent is None:
        return None
    end = final_state(parent, root=root)
    masks = end["masks"]
    if run.method == "restart":
        return Start(masks, end["model"])
    if run.method == "lottery":
        weights = (
            read_snapshot(parent, run.rewind_step, root=root)["model"]
            if run.rewind_step
            else dense_network(parent).state_dict()
        )
        return Start(masks, weights)
    return Start(masks, None)
