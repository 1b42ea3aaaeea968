"""Comparison of what all processes must agree on: masks, draws and step counts."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from sparseflow.types import Masks, RanksDisagreeError


def process_group(model: nn.Module, *, is_sharded: bool) -> Any:
    """The processes that train this model together; ``None`` where nothing says that there are several.

    >>> process_group(nn.Linear(1, 1), is_sharded=False) is None
    True
    """
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return None
    group: Any
    inner = getattr(model, "_orig_mod", model)
    if isinstance(inner, nn.parallel.DistributedDataParallel):
        group = inner.process_group
    elif is_sharded:
        group = torch.distributed.group.WORLD
    else:
        return None
    return group if torch.distributed.get_world_size(group) > 1 else None


def digest(tensor: Tensor) -> int:
    """A number that differs for nearly all tensors that differ.

    >>> digest(torch.tensor([True, False])) == digest(torch.tensor([False, True]))
    False
    """
    return zlib.crc32(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().data)


def check_agreement(
    group: Any,
    masks: Masks,
    fingerprints: Mapping[str, str],
    generator: torch.Generator,
    *,
    step_count: int,
    moment: str,
) -> int:
    """Compare masks, draws and step counts over all processes, which must call this together.

    Args:
        group: From :func:`process_group`; ``None`` compares nothing.
        masks: Those that every process holds whole.
        fingerprints: Name -> fingerprint of each of the others.
        generator: Growth draws from it.
        step_count: Optimizer steps taken.
        moment: Ends the error's sentence, such as ``"at the mask update of step 100"``.

    Returns: the number of processes.

    Raises:
        RanksDisagreeError: on all processes alike, naming what differs and between which.
    """
    if group is None:
        return 1
    masks_seen = {name: digest(mask) for name, mask in masks.items()} | dict(fingerprints)
    own = {
        "the masks": masks_seen,
        "the random states of growth (seed=)": digest(generator.get_state()),
        "the step counts": step_count,
    }
    everyones: list[dict[str, Any]] = [{} for _ in range(torch.distributed.get_world_size(group))]
    torch.distributed.all_gather_object(everyones, own, group=group)
    for what in own:
        if odd := [rank for rank, other in enumerate(everyones) if other[what] != everyones[0][what]]:
            raise RanksDisagreeError(
                f"{what} of rank {', '.join(map(str, odd))} differ from those of rank 0 {moment}. Start all ranks with "
                "the same masks, seed= and state; only their data may differ. A run that did continues from its last "
                "checkpoint."
            )
    return len(everyones)
