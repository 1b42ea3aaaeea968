"""One process of tests/training/test_checkpoint.py: train, save, and kill itself at a given place."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.filesystem import FileSystemWriter

from sparseflow.data import open_images
from sparseflow.training import checkpoint_folder
from sparseflow.training.images import ImageRun
from sparseflow.training.loop import train_images
from sparseflow.training.ranks import Ranks, ranks_of_torchrun
from sparseflow.training.resume import FolderCheckpoints
from sparseflow.training.setup import set_up
from sparseflow.training.step import Trainer

#: Place in a save where a process can die -> rank of the process that dies there.
PLACES = {"before_writing": 1, "after_own_share": 1, "before_rename": 0}


def whole(trainer: Trainer) -> dict[str, Any]:
    """A copy of everything that a checkpoint must bring back."""
    names = {parameter: name for name, parameter in trainer.sparsifier.model.named_parameters()}
    state = trainer.sparsifier.state_dict()
    return {
        "step": torch.tensor([state["step_count"], state["last_update"]]),
        "generator": state["generator"],
        **{f"mask {name}": mask for name, mask in state["masks"].items()},
        **{f"mean {name}": mean for name, mean in state["gradient_mean"].items()},
        **{f"model {name}": value.clone() for name, value in trainer.sparsifier.model.state_dict().items()},
        **{f"kept {number}": kept.clone() for number, kept in enumerate(trainer.statistics._kept)},
        **{
            f"optimizer {names[parameter]} {key}": value.clone()
            for parameter, values in trainer.optimizer.state.items()
            for key, value in values.items()
        },
    }


def train(
    run: ImageRun, data: Path, folder: Path | None, *, ranks: Ranks | None = None
) -> tuple[Trainer, list[tuple[int, dict[str, float]]]]:
    logged: list[tuple[int, dict[str, float]]] = []
    images = open_images(data, "train")
    trainer = train_images(
        run, images, images, trainer=set_up(run, ranks or Ranks()),
        log=lambda step, values: logged.append((step, dict(values))),
        checkpoints=None if folder is None else FolderCheckpoints(run=run, folder=folder),
    )  # fmt: skip
    return trainer, logged


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _kill_in_save(number: int, *, place: str) -> None:
    """Make this process die in its ``number``-th save from now on."""
    calls = 0

    def at_call(function: Callable[..., Any], *, after: bool) -> Callable[..., Any]:
        def counted(*args: Any, **kwargs: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == number and not after:
                _die()
            result = function(*args, **kwargs)
            if calls == number:
                _die()
            return result

        return counted

    if place == "before_rename":
        checkpoint_folder.write_atomically = at_call(checkpoint_folder.write_atomically, after=True)
    else:
        write = at_call(FileSystemWriter.write_data, after=place == "after_own_share")
        FileSystemWriter.write_data = write  # type: ignore[method-assign]


def main(run: ImageRun, data: Path, folder: Path, place: str = "") -> None:
    torch.set_num_threads(1)
    loaded: list[dict[str, Any]] = []
    resume = FolderCheckpoints.resume

    def watched(checkpoints: FolderCheckpoints, trainer: Trainer) -> int:
        batches = resume(checkpoints, trainer)
        loaded.append(whole(trainer))
        return batches

    FolderCheckpoints.resume = watched  # type: ignore[method-assign]
    with ranks_of_torchrun() as ranks:
        if PLACES.get(place) == ranks.rank:
            _kill_in_save(2, place=place)
        trainer, logged = train(run, data, folder, ranks=ranks)
        found = {"loaded": loaded[0], "end": whole(trainer), "logged": json.dumps(logged)}
        torch.save(found, folder.parent / f"{ranks.world}-{ranks.rank}.pt")


if __name__ == "__main__":
    settings, *folders, where = sys.argv[1:]
    main(ImageRun.from_dict(json.loads(settings)), *map(Path, folders), where)
