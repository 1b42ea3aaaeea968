"""What a run sees: its training batches by step, its probe images and its test batches, from files or from memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor

from sparseflow.data import (
    CIFAR10,
    IMAGENET,
    CentreCrop,
    DecodedImages,
    ImageSource,
    PadCropFlip,
    RandomResizedCrop,
    Unchanged,
    decoded_batches,
    evaluation_batches,
    image_batches,
    normalise,
)
from sparseflow.training.images import ImageRun
from sparseflow.training.ranks import Ranks
from sparseflow.training.setup import batches_of

#: Encoded images, decoded when they are needed, or all pixels of a small dataset.
Images = ImageSource | DecodedImages
Batch = tuple[Tensor, Tensor]
#: Images of a batch when they are only measured.
_MEASURED = 64


def check_classes(images: Images, run: ImageRun) -> None:
    """Raise ``ValueError`` where a label is beyond the run's classes."""
    if (found := int(images.labels.max()) + 1) > run.num_classes:
        raise ValueError(f"the images have {found} classes, the run {run.num_classes}. Give num_classes={found}.")


def preparation(run: ImageRun, device: torch.device) -> Callable[[Batch], Batch]:
    """From bytes to normalised floats on the device, in the run's memory format."""
    statistics = CIFAR10 if run.stem == "cifar" else IMAGENET
    layout = torch.channels_last if run.channels_last else torch.contiguous_format

    def prepare(batch: Batch) -> Batch:
        images, labels = (tensor.to(device, non_blocking=True) for tensor in batch)
        return normalise(images, statistics).contiguous(memory_format=layout), labels

    return prepare


def training_batches(
    images: Images, run: ImageRun, ranks: Ranks, *, first: int = 0, workers: int = 0
) -> Iterator[Batch]:
    """This process's micro-batches, from the global batch ``first`` on; see :func:`.image_batches`."""
    steps, each = batches_of(run), run.micro_batches // ranks.world
    if isinstance(images, DecodedImages):
        return decoded_batches(
            images, _small_crops(run), batch_size=run.batch_size, seed=run.seed, steps=steps, start_step=first,
            rank=ranks.rank, world=ranks.world, accumulation=each,
        )  # fmt: skip
    augment = PadCropFlip() if run.stem == "cifar" else RandomResizedCrop(size=run.image_size)
    return iter(
        image_batches(
            images, augment, batch_size=run.batch_size, seed=run.seed, steps=steps, start_step=first,
            rank=ranks.rank, world=ranks.world, accumulation=each, workers=workers,
        )
    )  # fmt: skip


def plain_batches(images: Images, run: ImageRun, ranks: Ranks | None = None, *, workers: int = 0) -> Iterable[Batch]:
    """All images in their order, not augmented; of several ranks, this one's share."""
    rank, world = (0, 1) if ranks is None else (ranks.rank, ranks.world)
    if isinstance(images, DecodedImages):
        _small_crops(run)
        first, last = (part * len(images.labels) // world for part in (rank, rank + 1))
        pixels, labels = images.images[first:last], images.labels[first:last]
        return zip(pixels.split(_MEASURED), labels.split(_MEASURED), strict=True)
    plain = Unchanged() if run.stem == "cifar" else CentreCrop(size=run.image_size)
    return evaluation_batches(images, plain, batch_size=_MEASURED, rank=rank, world=world, workers=workers)


def first_images(batches: Iterable[Batch], count: int) -> Iterator[Batch]:
    """Batches until there are ``count`` images.

    >>> batches = [(torch.zeros(4, 1), torch.zeros(4))] * 3
    >>> [len(labels) for _, labels in first_images(batches, 6)]
    [4, 2]
    """
    for images, labels in batches:
        if count <= 0:
            return
        yield images[:count], labels[:count]
        count -= len(labels)


def _small_crops(run: ImageRun) -> PadCropFlip:
    if run.stem != "cifar":
        raise ValueError("images in memory are 32 pixels wide; stem='imagenet' takes larger ones. Give stem='cifar'.")
    return PadCropFlip()
