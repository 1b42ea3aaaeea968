"""One training run: a pure function of its config and the data, resumable at any checkpoint bit for bit."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch.nn.functional as F

import sparseflow as sf
from sparseflow.lab.config import RunConfig
from sparseflow.lab.data import Dataset, batch_indices, load_dataset
from sparseflow.lab.methods import Setup, set_up
from sparseflow.lab.optimizer import set_step_
from sparseflow.lab.probes import Probes
from sparseflow.lab.runs import Run, is_done, load_run
from sparseflow.lab.store import RunStore

#: Called with the steps done and the steps of the run.
Progress = Callable[[int, int], None]


def train(
    config: RunConfig,
    *,
    root: Path,
    data_root: Path | None = None,
    tensorboard: bool = False,
    progress: Progress | None = None,
) -> Run:
    """Train the run that a config describes, or continue it, or return it if it is done.

    A run that starts from the masks of another trains that one first.

    Args:
        config: The run.
        root: Folder of all runs.
        data_root: Folder of datasets; default as :func:`sparseflow.lab.data.load_dataset`.
        tensorboard: Also write TensorBoard events, into ``<run folder>/tensorboard``.
        progress: Told about every step.

    Raises:
        ValueError, OSError, RuntimeError: as the store, the data and the network say.
    """
    if config.mask_from is not None and not is_done(root, config.mask_from):
        train(config.mask_from, root=root, data_root=data_root, tensorboard=tensorboard, progress=progress)
    if not is_done(root, config):
        data = load_dataset(config.dataset, root=data_root)
        with RunStore(root, config) as store:
            if not store.is_done:
                _train(config, data, store, root=root, tensorboard=tensorboard, progress=progress)
    return load_run(root / config.name)


def _train(
    config: RunConfig, data: Dataset, store: RunStore, *, root: Path, tensorboard: bool, progress: Progress | None
) -> None:
    setup = set_up(config, data, root=root)
    step, seconds = _resume(setup, store)
    began = time.perf_counter() - seconds
    log = _with_tensorboard(store, step) if tensorboard else store.log
    probes = Probes(setup.model, setup.sparsifier, data, log=log)
    model = setup.model.train()
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
        setup.optimizer.zero_grad()
        loss = F.cross_entropy(model(data.train_images[chosen]), data.train_labels[chosen])
        loss.backward()
        if is_logged:
            log(step, {"train/loss": float(loss.detach())})
        setup.optimizer.step()
        step += 1
        probes.updates()
        if progress is not None:
            progress(step, config.steps)
        if step % config.checkpoint_every == 0 and step < config.steps:
            store.save_checkpoint(step, _state(setup, time.perf_counter() - began))
    setup.sparsifier.check()
    probes.flow(step)
    final = probes.test(step) | {"sparsity": sf.sparsity_of(setup.sparsifier.masks)}
    store.save_checkpoint(step, _state(setup, time.perf_counter() - began))
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


def _with_tensorboard(store: RunStore, step: int) -> Callable[[int, Mapping[str, float]], None]:
    from torch.utils.tensorboard.writer import SummaryWriter

    writer = SummaryWriter(log_dir=str(store.folder / "tensorboard"), purge_step=step)

    def log(at: int, values: Mapping[str, float]) -> None:
        store.log(at, values)
        for name, value in values.items():
            writer.add_scalar(name, value, at)
        writer.flush()

    return log
