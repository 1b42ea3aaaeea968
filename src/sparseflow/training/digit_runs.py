"""One training run: a pure function of its config and the data, resumable at any checkpoint bit for bit."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch

import sparseflow as sf
from sparseflow.data.digits import Dataset, batch_indices, load_dataset
from sparseflow.engine.stepper import Stepper
from sparseflow.networks import NETWORKS
from sparseflow.training.digit_optimizer import set_step_
from sparseflow.training.digit_probes import Log, Probes
from sparseflow.training.digit_setup import Setup, set_up
from sparseflow.training.digits import DigitRun
from sparseflow.training.runs import METRICS, Run, is_done, load_run
from sparseflow.training.store import RunStore

#: Called with the steps done and the steps of the run.
Progress = Callable[[int, int], None]


def train(
    config: DigitRun,
    *,
    root: Path,
    data_root: Path | None = None,
    tensorboard: bool = False,
    progress: Progress | None = None,
) -> Run:
    """Train the run that a config describes, or continue it, or return it if it is done.

    A run that starts from the masks of another trains that one first. It computes on one thread, whatever torch is set
    to: the same config then gives the same bits.

    Args:
        config: The run.
        root: Folder of all runs.
        data_root: Folder of datasets; default as :func:`sparseflow.data.digits.load_dataset`.
        tensorboard: Also write TensorBoard events, into ``<run folder>/tensorboard``.
        progress: Told about every step.

    Raises:
        ValueError, OSError, RuntimeError: as the store, the data and the network say.
    """
    if config.mask_from is not None and not is_done(root, config.mask_from):
        train(config.mask_from, root=root, data_root=data_root, tensorboard=tensorboard, progress=progress)
    if not is_done(root, config):
        with ExitStack() as stack:
            stack.enter_context(_one_thread())
            # Before there is a folder: what cannot be set up leaves none.
            data = load_dataset(config.dataset, root=data_root).held_out(config.holdout)
            setup = set_up(config, data, root=root)
            engine = Stepper(setup.sparsifier, config.engine, most_active=NETWORKS[config.architecture].sparse_up_to)
            store = stack.enter_context(RunStore(root, config))
            if not store.is_done:
                step, seconds = _resume(setup, store)
                engine.reload()
                log = stack.enter_context(_tensorboard(store)) if tensorboard else store.log
                _train(config, data, setup, engine, store, step=step, seconds=seconds, log=log, progress=progress)
    return load_run(root / config.name)


def _train(
    config: DigitRun,
    data: Dataset,
    setup: Setup,
    engine: Stepper,
    store: RunStore,
    *,
    step: int,
    seconds: float,
    log: Log,
    progress: Progress | None,
) -> None:
    began = time.perf_counter() - seconds

    def snapshot(step: int, *, before_update: bool = False) -> None:
        if step in config.snapshots:
            engine.settle()
            state = {"model": setup.model.state_dict(), "masks": dict(setup.sparsifier.masks)}
            store.save_snapshot(step, state, before_update=before_update)

    setup.sparsifier.before_update.append(lambda due: snapshot(due, before_update=True))
    probes = Probes(engine, setup.sparsifier, data, log=log)
    setup.model.train()
    if step == 0:
        snapshot(0)
    while step < config.steps:
        chosen = batch_indices(
            step, num_examples=len(data.train_labels), batch_size=config.batch_size, seed=config.seed
        )
        is_logged = step % config.log_every == 0
        if is_logged:
            probes.flow(step)
        if step % config.eval_every == 0:
            probes.test(step)
        set_step_(setup.optimizer, step, config)
        is_sparse = engine.is_sparse
        loss = engine.step(data.train_images, data.train_labels, chosen)
        if is_logged:
            log(step, {"train/loss": loss, "train/is_sparse": float(is_sparse)})
        step += 1
        probes.updates()
        snapshot(step)
        if progress is not None:
            progress(step, config.steps)
        if step % config.checkpoint_every == 0 or step == config.steps:
            engine.settle()
            store.save_checkpoint(step, _state(setup, time.perf_counter() - began))
    # After the last checkpoint, so that a run continued from there logs the end once. The engine has settled there.
    setup.sparsifier.check()
    probes.flow(step)
    final = probes.end(step) | {"sparsity": sf.sparsity_of(setup.sparsifier.masks)}
    store.finish(final, time.perf_counter() - began)


def _state(setup: Setup, seconds: float) -> dict[str, Any]:
    return {
        "model": setup.model.state_dict(),
        "optimizer": setup.optimizer.state_dict(),
        "sparsifier": setup.sparsifier.state_dict(),
        "seconds": seconds,
    }


def _resume(setup: Setup, store: RunStore) -> tuple[int, float]:
    """Load the latest checkpoint, if any; the steps done and the seconds spent until then."""
    found = store.latest_checkpoint()
    if found is None:
        store.truncate_metrics(0)
        return 0, 0.0
    step, state = found
    setup.model.load_state_dict(state["model"])
    setup.optimizer.load_state_dict(state["optimizer"])
    setup.sparsifier.load_state_dict(state["sparsifier"])
    store.truncate_metrics(step)
    return step, float(state["seconds"])


@contextmanager
def _one_thread() -> Iterator[None]:
    # The order of a sum depends on the number of threads, and with it the last bits of a run.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@contextmanager
def _tensorboard(store: RunStore) -> Iterator[Log]:
    """The store's log, which also writes events; those of a run that is continued are written anew."""
    from torch.utils.tensorboard.writer import SummaryWriter

    folder = store.folder / "tensorboard"
    shutil.rmtree(folder, ignore_errors=True)
    with SummaryWriter(log_dir=str(folder)) as writer:
        for line in (store.folder / METRICS).read_text().splitlines():
            row = json.loads(line)
            writer.add_scalar(row["name"], row["value"], row["step"])

        def log(step: int, values: Mapping[str, float]) -> None:
            store.log(step, values)
            for name, value in values.items():
                writer.add_scalar(name, value, step)
            writer.flush()

        yield log
