"""Checkpoints of a training on several processes: each writes its share, and any number of them continues."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from sparseflow.disk import naming, remove_folder, undoing
from sparseflow.training.checkpoint_folder import complete, make_room, staging_of, verified
from sparseflow.training.step import Trainer
from sparseflow.training.torch_files import Reader, Writer


def save_checkpoint(folder: Path, trainer: Trainer, *, extra: Mapping[str, Any]) -> Path:
    """Write the state of a training into ``folder/<steps taken>``, to continue bit for bit; all processes call it.

    Every process writes a share of the tensors. The folder takes its name in one rename, after all files have reached
    the disk, and older checkpoints are removed after that: whatever is killed whenever, the last complete one is there.

    Args:
        folder: Of this training alone, made if need be; on several machines, one that all of them see.
        trainer: Between two steps.
        extra: Plain values as JSON has them, which :func:`load_checkpoint` gives back.

    Returns: the checkpoint's folder.

    Raises:
        FileExistsError: if the folder has a checkpoint of this step or a later one.
        OSError: on every process, if the disk of one is full; the checkpoints are then as they were.
        TypeError: if ``extra`` is not plain, or the optimizer's state holds other things than tensors.
    """
    ranks, sparsifier = trainer.ranks, trainer.sparsifier
    path = folder / f"{sparsifier.step_count:06d}"
    staging = staging_of(path)
    state = sparsifier.state_dict()
    tensors = _tensors(trainer, state)
    content = {
        "world": ranks.world,
        "sparsifier": {name: state[name] for name in ("step_count", "last_update", "learning_rates", "budgets")},
        "extra": dict(extra),
        "tensors": {name: _kind(tensor) for name, tensor in tensors.items()},
    }
    json.dumps(content)  # values that JSON lacks are refused here by all, before a file is written
    ranks.from_first(lambda: make_room(path))
    with ExitStack() as undo:
        if ranks.is_first:
            undo.enter_context(undoing(lambda: remove_folder(staging)))
        size = sum(tensor.nbytes for tensor in tensors.values())
        with naming(staging, "write"), _errors_of_ranks():
            save(dict(tensors), storage_writer=Writer(staging, num_bytes=size), no_dist=ranks.world == 1)
        ranks.from_first(lambda: complete(path, content))
    return path


def load_checkpoint(path: Path, trainer: Trainer) -> dict[str, Any]:
    """Bring a trainer to where :func:`save_checkpoint` left one, on any number of processes; all of them call it.

    Args:
        path: See :func:`.latest_checkpoint`. From a source you trust: torch's metadata in it is a pickle.
        trainer: Of the same run, at any step.

    Returns: the ``extra`` of :func:`save_checkpoint`.

    Raises:
        ValueError: on every process, before anything is loaded, if a file is damaged, be it by one bit, or the tensors
            are not those of this trainer.
    """
    ranks, sparsifier = trainer.ranks, trainer.sparsifier
    content = ranks.from_first(lambda: verified(path))
    state = sparsifier.state_dict()
    tensors = _places(trainer, state, content["tensors"])
    _check_kinds(path, saved=content["tensors"], here={name: _kind(tensor) for name, tensor in tensors.items()})
    with ranks.together():
        reader = Reader(path)
    with naming(path, "read"), _errors_of_ranks():
        load(dict(tensors), storage_reader=reader, no_dist=ranks.world == 1)
    names = [name for group in trainer.optimizer.param_groups for name in _names(trainer, group["params"])]
    held = [_part(tensors, f"optimizer.{name}.") for name in names]
    trainer.optimizer.load_state_dict(
        {
            "state": {number: values for number, values in enumerate(held) if values},
            "param_groups": trainer.optimizer.state_dict()["param_groups"],
        }
    )
    reserve = _part(tensors, "reserve.")
    sparsifier.load_state_dict(
        {
            **state,
            **content["sparsifier"],
            "gradient_mean": _part(tensors, "gradient_mean."),
            **({"reserve": reserve} if reserve else {}),
        }
    )
    trainer.statistics.read()
    extra: dict[str, Any] = content["extra"]
    return extra


# -- tensors by name ------------------------------------------------------------------------------------------------


def _tensors(trainer: Trainer, state: Mapping[str, Any]) -> dict[str, Tensor]:
    """All tensors of a training by name; sharded ones stay so: torch writes and reads the share of each process."""
    found = {f"model.{name}": tensor for name, tensor in trainer.sparsifier.model.state_dict().items()}
    found |= {f"mask.{name}": mask for name, mask in state["masks"].items()}
    found |= {f"gradient_mean.{name}": mean for name, mean in state["gradient_mean"].items()}
    found |= {f"reserve.{name}": value for name, value in state.get("reserve", {}).items()}
    found["generator"] = state["generator"]
    # Not by torch's get_optimizer_state_dict: for a fresh optimizer it takes a step, and the Sparsifier listens.
    parameters = list(trainer.optimizer.state)
    for name, parameter in zip(_names(trainer, parameters), parameters, strict=True):
        for key, value in trainer.optimizer.state[parameter].items():
            if not isinstance(value, Tensor):
                raise TypeError(
                    f"the optimizer keeps {key!r} of {name} as {type(value).__name__}; checkpoints hold tensors alone. "
                    "Use an optimizer of torch.optim whose state is tensors, such as SGD or AdamW."
                )
            found[f"optimizer.{name}.{key}"] = value
    return found


def _places(trainer: Trainer, state: Mapping[str, Any], saved: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors that a checkpoint is read into: the trainer's own, and new ones that a fresh optimizer lacks."""
    made = ("optimizer.", "gradient_mean.")
    found = {name: tensor for name, tensor in _tensors(trainer, state).items() if not name.startswith(made)}
    parameters = dict(trainer.sparsifier.model.named_parameters())
    for name in saved:
        owner = name.removeprefix("gradient_mean.")
        if name.startswith("optimizer."):
            owner = name.removeprefix("optimizer.").rpartition(".")[0]
        if name.startswith(made) and owner in parameters:
            dtype, shape = saved[name]
            like = parameters[owner].detach()
            of_weights = list(like.shape) == shape
            kind = getattr(torch, dtype)
            found[name] = torch.zeros_like(like, dtype=kind) if of_weights else torch.zeros(shape, dtype=kind)
    return found


def _names(trainer: Trainer, parameters: list[Tensor]) -> list[str]:
    names = {parameter: name for name, parameter in trainer.sparsifier.model.named_parameters()}
    return [names[parameter] for parameter in parameters]  # type: ignore[index]


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _kind(tensor: Tensor) -> list[Any]:
    return [str(tensor.dtype).removeprefix("torch."), list(tensor.shape)]


def _check_kinds(path: Path, *, saved: Mapping[str, Any], here: Mapping[str, Any]) -> None:
    other = [name for name in sorted(saved.keys() | here.keys()) if saved.get(name) != here.get(name)]
    if other:
        there, ours = ("{} {}".format(*kinds[other[0]]) if other[0] in kinds else "absent" for kinds in (saved, here))
        raise ValueError(
            f"the checkpoint {path} is of another network or method: {other[0]} is {there} there and {ours} here "
            f"({len(other)} tensors differ). Continue with the settings it was saved with, or give another folder."
        )


@contextmanager
def _errors_of_ranks() -> Iterator[None]:
    """Raise the error of a process as itself: torch wraps it, and its wrapper is no ``Exception``."""
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "torch.distributed is disabled")
            yield
    except CheckpointException as error:
        cause, _ = next(iter(error.failures.values()))
        raise cause from None
