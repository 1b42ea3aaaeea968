"""The processes that train one model together: the number of this one, and the agreement of all."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from sparseflow.types import OnEveryRankError

Found = TypeVar("Found")

#: Longer than the slowest step with a checkpoint; a rank that died is noticed by then at the latest.
TIMEOUT = timedelta(minutes=10)

#: Seconds for the threads of collectives to finish before their process group goes.
_PAUSE = 0.2


@dataclass(frozen=True)
class Ranks:
    """One process among ``world``; a process alone is rank 0 of 1 and needs no process group."""

    rank: int = 0
    world: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def is_first(self) -> bool:
        """Whether it writes files and prints for all."""
        return self.rank == 0

    def sum_(self, *tensors: Tensor) -> None:
        """Add up over all ranks, in place, in one message per tensor."""
        if self.world > 1:
            for tensor in tensors:
                dist.all_reduce(tensor)

    def everyones(self, text: str) -> list[str]:
        """The text of each rank, by rank."""
        if self.world == 1:
            return [text]
        said: list[str | None] = [None] * self.world
        dist.all_gather_object(said, text)
        return [str(one) for one in said]

    @contextmanager
    def together(self) -> Iterator[None]:
        """Raise an error of one process in the block on all, at its end; the block must not wait for other processes.

        Raises:
            OnEveryRankError: with the first rank's text, where there are several processes.

        >>> with Ranks().together():
        ...     pass
        """
        if self.world == 1:
            yield
            return
        failure = ""
        try:
            yield
        except (ValueError, OSError, RuntimeError) as error:
            failure = str(error) or type(error).__name__
        said = self.everyones(failure)
        if failed := [rank for rank, text in enumerate(said) if text]:
            where = "" if len(failed) == self.world else f"rank {failed[0]}: "
            raise OnEveryRankError(where + said[failed[0]])

    def from_first(self, work: Callable[[], Found]) -> Found:
        """The result of rank 0, on every rank; if it fails with an OSError or ValueError, so do all.

        >>> Ranks().from_first(lambda: 3)
        3
        """
        found: list[Any] = [None, None]
        if self.is_first:
            try:
                found[0] = work()
            except (OSError, ValueError) as error:
                found[1] = error
        if self.world > 1:
            dist.broadcast_object_list(found, src=0)
        if found[1] is not None:
            raise found[1]
        answer: Found = found[0]
        return answer


@contextmanager
def ranks_of_torchrun() -> Iterator[Ranks]:
    """The ranks that ``torchrun`` started, in a process group that ends with the block; without it, this one alone.

    gloo on the CPU, NCCL where there are GPUs, one for each process of a machine.

    Raises:
        ValueError: if the machine has fewer GPUs than processes.

    >>> with ranks_of_torchrun() as ranks:
    ...     ranks.world
    1
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    gpus = torch.cuda.device_count()
    if world == 1:
        yield Ranks(device=torch.device("cuda", 0) if gpus else torch.device("cpu"))
        return
    local = int(os.environ["LOCAL_RANK"])
    local_world = int(os.environ.get("LOCAL_WORLD_SIZE", world))
    if gpus and local_world > gpus:
        raise ValueError(
            f"torchrun started {local_world} processes on a machine with {gpus} GPUs. Use --nproc-per-node {gpus}, or "
            "hide the GPUs with CUDA_VISIBLE_DEVICES='' to train on the CPU."
        )
    device = torch.device("cuda", local) if gpus else torch.device("cpu")
    if gpus:
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if gpus else "gloo", timeout=TIMEOUT)
    try:
        yield Ranks(int(os.environ["RANK"]), world, device)
    finally:
        # gloo's thread frees what a collective used, for which it needs the interpreter's lock; torch holds that lock
        # while it waits for the thread. Who fails right after a collective would never end.
        time.sleep(_PAUSE)
        dist.destroy_process_group()
