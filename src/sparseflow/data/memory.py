"""A small dataset decoded once: CIFAR-10 as one tensor of 150 MB, augmented to the same pixels as from its files."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from sparseflow.data.draws import uniforms
from sparseflow.data.loader import MAX_BROKEN, ImageBatches, Reader
from sparseflow.data.order import DatasetOrder, TrainingOrder, rank_slices
from sparseflow.data.sources import ImageSource
from sparseflow.data.transforms import PadCropFlip, Unchanged
from sparseflow.rng import stream


class DecodedImages(NamedTuple):
    """Pixels and labels of a whole split."""

    images: Tensor
    """uint8, ``(N, 3, size, size)``."""
    labels: Tensor
    """int64, ``(N,)``."""
    broken: dict[str, str]
    """Name -> what is wrong, of each image that the next readable one stands for, or that is left out."""
    stand_ins: tuple[int, ...] = ()
    """Rows that hold the next readable image, with its label, in place of their own."""

    def of_their_own(self) -> DecodedImages:
        """The same without stand-ins, for measurements: no image counts twice."""
        if not self.stand_ins:
            return self
        kept = torch.ones(len(self.labels), dtype=torch.bool)
        kept[list(self.stand_ins)] = False
        return self._replace(images=self.images[kept], labels=self.labels[kept], stand_ins=())

    def held_out(self, size: int) -> tuple[DecodedImages, DecodedImages]:
        """The same without some images, the same ones for every run, and these, to select by.

        Args:
            size: How many images are held out.

        Raises:
            ValueError: if fewer than half of the images would remain.

        >>> decoded = DecodedImages(torch.zeros(10, 3, 32, 32, dtype=torch.uint8), torch.arange(10), {})
        >>> rest, held = decoded.held_out(3)
        >>> len(rest.labels), sorted(rest.labels.tolist() + held.labels.tolist()) == list(range(10))
        (7, True)
        """
        count = len(self.labels)
        if not 0 < size <= count // 2:
            raise ValueError(f"holdout must be at most half of the {count} training images, got {size}.")
        order = torch.randperm(count, generator=stream(0, "holdout"))
        rest, held = (self._of(rows.sort().values) for rows in (order[size:], order[:size]))
        return rest, held.of_their_own()

    def _of(self, rows: Tensor) -> DecodedImages:
        copies = set(self.stand_ins)
        stand_ins = tuple(place for place, row in enumerate(rows.tolist()) if row in copies)
        return DecodedImages(self.images[rows], self.labels[rows], self.broken, stand_ins)


def decode_all(
    source: ImageSource, *, size: int = 32, workers: int = 0, max_broken: int = MAX_BROKEN, replaces: bool = True
) -> DecodedImages:
    """Decode a split of images of one size into memory.

    Args:
        source: The split.
        size: Side of every image, in pixels.
        workers, max_broken: See :func:`image_batches`.
        replaces: Whether the next image stands for a broken one, as in :func:`image_batches`, for training; else it is
            left out, for evaluation.

    Raises:
        RuntimeError: if an image has another size, or more than ``max_broken`` are broken.
    """
    reader = Reader(source, Unchanged(size=size), 0, max_broken, replaces=replaces)
    batches = ImageBatches(reader, DatasetOrder(0, len(source), 512), workers, None)
    images = torch.empty(len(source), 3, size, size, dtype=torch.uint8)
    labels = torch.empty(len(source), dtype=torch.int64)
    begin = 0
    for piece, piece_labels in batches:
        end = begin + len(piece)
        images[begin:end], labels[begin:end] = piece, piece_labels
        begin = end
    stand_ins = tuple(i for i in range(len(source)) if source.name(i) in batches.broken) if replaces else ()
    return DecodedImages(images[:begin], labels[:begin], batches.broken, stand_ins)


def decoded_batches(
    decoded: DecodedImages,
    transform: PadCropFlip,
    *,
    batch_size: int,
    seed: int,
    steps: int,
    start_step: int = 0,
    rank: int = 0,
    world: int = 1,
    accumulation: int = 1,
) -> Iterator[tuple[Tensor, Tensor]]:
    """The batches of :func:`image_batches`, pixel for pixel, from images in memory and without worker processes.

    Arguments as :func:`image_batches`.

    >>> images = torch.arange(2, dtype=torch.uint8).view(2, 1, 1, 1).expand(2, 3, 32, 32)
    >>> decoded = DecodedImages(images, torch.tensor([0, 1]), {})
    >>> pixels, labels = next(decoded_batches(decoded, PadCropFlip(), batch_size=2, seed=0, steps=1))
    >>> bool((pixels.amax(dim=(1, 2, 3)) == labels).all())
    True
    """
    slices = rank_slices(batch_size, rank=rank, world=world, accumulation=accumulation)
    order = TrainingOrder(len(decoded.labels), batch_size, seed, start_step, steps, slices)
    for epochs, indices in order:
        draws = np.stack(
            [
                uniforms(seed, epoch, index, transform.num_draws)
                for epoch, index in zip(epochs.tolist(), indices.tolist(), strict=True)
            ]
        )
        yield transform.batch(decoded.images[indices], draws), decoded.labels[indices]
