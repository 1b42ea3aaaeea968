"""The images of a step by its number: of any step, process and micro-batch, without those before it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from sparseflow.rng import stream


class Positions(NamedTuple):
    """Images of a batch, in the order in which they are read; both int64 ``(batch_size,)``."""

    epochs: Tensor
    """Epoch of each image: two numbers at most, and two only where a batch crosses the border of an epoch."""
    indices: Tensor
    """Place of each image in the dataset."""


def epoch_order(size: int, *, seed: int, epoch: int) -> Tensor:
    """The permutation of the dataset that an epoch goes through.

    Args:
        size: Images in the dataset.
        seed: The run's seed; the order comes from the stream ``("data", epoch)``.
        epoch: From 0.

    Returns: int64, ``(size,)``.

    >>> order = epoch_order(10, seed=0, epoch=0)
    >>> order.sort().values.tolist() == list(range(10)), bool((order == epoch_order(10, seed=0, epoch=1)).all())
    (True, False)
    """
    return _order(size, seed, epoch).clone()


@lru_cache(maxsize=2)
def _order(size: int, seed: int, epoch: int) -> Tensor:
    return torch.randperm(size, generator=stream(seed, "data", epoch))


def global_batch(step: int, *, size: int, batch_size: int, seed: int) -> Positions:
    r"""The images of one optimizer step, all processes together, computed without the steps before it.

    Position ``p`` of the endless stream is image ``p mod size`` of the order of epoch :math:`\lfloor p / size \rfloor`,
    and step ``t`` takes the positions ``t * batch_size`` to ``(t + 1) * batch_size - 1``. Nothing is dropped: a batch
    at the end of an epoch takes the rest of it and the start of the next, so every image is used once per epoch, every
    batch is full, and ``E`` epochs are ``E * size / batch_size`` steps.

    Args:
        step: Optimizer steps already taken.
        size: Images in the dataset.
        batch_size: Images in a step, over all processes and micro-batches.
        seed: The run's seed.

    Raises:
        ValueError: if ``step`` is negative, or ``size`` or ``batch_size`` is below 1.

    Reference: protocol G.6: 90 epochs of 1,281,167 images at batch 4096 are 28,151 steps, which counts the remainders.

    >>> batch = global_batch(3, size=10, batch_size=3, seed=0)
    >>> batch.epochs.tolist()
    [0, 1, 1]
    >>> bool(batch.indices[0] == epoch_order(10, seed=0, epoch=0)[-1])
    True
    """
    if step < 0 or size < 1 or batch_size < 1:
        raise ValueError(
            "step must not be negative, size and batch_size must be at least 1; "
            f"got {step!r}, {size!r} and {batch_size!r}."
        )
    epochs, indices = [], []
    position, end = step * batch_size, (step + 1) * batch_size
    while position < end:
        epoch, begin = divmod(position, size)
        piece = _order(size, seed, epoch)[begin : begin + end - position]
        indices.append(piece)
        epochs.append(torch.full_like(piece, epoch))
        position += len(piece)
    return Positions(torch.cat(epochs), torch.cat(indices))


def rank_slices(batch_size: int, *, rank: int, world: int, accumulation: int = 1) -> list[slice]:
    """The places of one process's micro-batches in a global batch.

    Micro-batch ``a`` of process ``r`` is part ``r * accumulation + a`` of ``world * accumulation`` equal parts. So the
    global batch is the same for any number of processes, and so are its parts for any split of the same number of parts
    between processes and accumulation: batch statistics too see the same images.

    Args:
        batch_size: Of the global batch.
        rank: Of this process, from 0.
        world: Number of processes.
        accumulation: Micro-batches whose gradients are summed in one optimizer step.

    Raises:
        ValueError: if there is no such rank, or the batch does not divide into equal parts.

    >>> rank_slices(12, rank=1, world=2, accumulation=2)
    [slice(6, 9, None), slice(9, 12, None)]
    """
    if not 0 <= rank < world or accumulation < 1:
        raise ValueError(
            f"rank must be in [0, world) and accumulation at least 1; got rank={rank!r}, world={world!r} and "
            f"accumulation={accumulation!r}."
        )
    parts = world * accumulation
    if batch_size % parts:
        raise ValueError(
            f"batch_size={batch_size} does not divide into {world} processes times {accumulation} micro-batches. "
            f"For instance batch_size={max(batch_size // parts, 1) * parts} does."
        )
    size = batch_size // parts
    first = rank * accumulation
    return [slice(part * size, (part + 1) * size) for part in range(first, first + accumulation)]


@dataclass(frozen=True)
class TrainingOrder:
    """The micro-batches of one process, step by step, by :func:`global_batch` and :func:`rank_slices`.

    >>> order = TrainingOrder(10, 4, 0, 1, 3, rank_slices(4, rank=0, world=2))
    >>> [len(positions.indices) for positions in order]
    [2, 2]
    """

    size: int
    batch_size: int
    seed: int
    start_step: int
    steps: int
    slices: list[slice]

    def __len__(self) -> int:
        return (self.steps - self.start_step) * len(self.slices)

    def __iter__(self) -> Iterator[Positions]:
        for step in range(self.start_step, self.steps):
            batch = global_batch(step, size=self.size, batch_size=self.batch_size, seed=self.seed)
            for part in self.slices:
                yield Positions(batch.epochs[part], batch.indices[part])


@dataclass(frozen=True)
class DatasetOrder:
    """Images ``begin`` to ``end - 1`` in the order of the dataset; the last batch may be smaller.

    >>> [positions.indices.tolist() for positions in DatasetOrder(2, 7, 3)]
    [[2, 3, 4], [5, 6]]
    """

    begin: int
    end: int
    batch_size: int

    def __len__(self) -> int:
        return -(-(self.end - self.begin) // self.batch_size)

    def __iter__(self) -> Iterator[Positions]:
        for indices in torch.arange(self.begin, self.end).split(self.batch_size):
            if len(indices):
                yield Positions(torch.zeros_like(indices), indices)
