"""A stored run, brought back to its last checkpoint and looked at by the doctor."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any

import torch.nn.functional as F

from sparseflow.disk import listed
from sparseflow.doctor import Diagnosis, diagnose
from sparseflow.state_file import read_checkpoint
from sparseflow.training.checkpoint import load_checkpoint
from sparseflow.training.checkpoint_folder import latest_checkpoint
from sparseflow.training.config import RunConfig
from sparseflow.training.datasets import open_data
from sparseflow.training.runs import CHECKPOINTS, SNAPSHOTS, read_config, stamp
from sparseflow.training.setup import set_up, start_of
from sparseflow.training.step import Trainer


def diagnose_run(
    folder: Path, *, step: int | None = None, data_root: Path | None = None, examples: int = 512
) -> Diagnosis:
    """Say why a stored run does not learn, finished or not; nothing in its folder changes.

    Args:
        folder: Of the run.
        step: Of the checkpoint or snapshot to look at; default the last there is, else the start.
        data_root: Folder of datasets.
        examples: Training images to look at.

    Raises:
        ValueError, OSError: if the folder holds no run, the step was not kept, or the data is not here.
    """
    config = read_config(folder)
    trainer = set_up(config, start=start_of(config, root=folder.parent))
    began = {name: mask.clone() for name, mask in trainer.sparsifier.masks.items()}
    _bring_to_(trainer, config, folder, step)
    data: Any = open_data(config, root=data_root)
    batches: list[Any] = []
    for batch in islice(data.training(), max(1, -(-examples // config.batch_size))):
        batches += batch.parts()
    return diagnose(
        trainer.model,
        trainer.sparsifier.masks,
        batches,
        loss_fn=F.cross_entropy,
        sparsifier=trainer.sparsifier,
        total_steps=config.steps,
        start_masks=began,
    )


def _bring_to_(trainer: Trainer, config: RunConfig, folder: Path, step: int | None) -> None:
    """Load the last state of a run into a trainer at its start, or the one of a step."""
    kept = {int(path.stem): path for path in listed(folder / SNAPSHOTS) if path.stem.isdecimal()}
    files = {int(path.stem): path for path in listed(folder / CHECKPOINTS) if path.suffix == ".pt"}
    last = latest_checkpoint(folder / CHECKPOINTS)
    steps = {*kept, *files, *([int(last.name)] if last is not None else [])}
    chosen = max(steps, default=0) if step is None else step
    if chosen == 0 and not steps:
        return
    if chosen not in steps:
        raise ValueError(
            f"{folder} has nothing of step {chosen}; it has {', '.join(map(str, sorted(steps))) or 'none'}."
        )
    if chosen in files:
        state = read_checkpoint(files[chosen], of=stamp(config, chosen))["state"]
        trainer.sparsifier.model.load_state_dict(state["model"])
        trainer.optimizer.load_state_dict(state["optimizer"])
        trainer.sparsifier.load_state_dict(state["sparsifier"])
    elif last is not None and int(last.name) == chosen:
        load_checkpoint(last, trainer)
    else:
        state = read_checkpoint(kept[chosen], of=stamp(config, chosen))
        trainer.sparsifier.load_state_dict(
            {**trainer.sparsifier.state_dict(), "masks": state["masks"], "step_count": chosen}
        )
        trainer.sparsifier.model.load_state_dict(state["model"])
