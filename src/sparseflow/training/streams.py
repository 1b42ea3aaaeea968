"""The images of a run: its training batches by step, its probe images and its test batches, from files or memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import NamedTuple

import torch
from torch import Tensor

from sparseflow.data import (
    CIFAR10,
    IMAGENET,
    CentreCrop,
    DecodedImages,
    ImageBatches,
    ImageSource,
    PadCropFlip,
    RandomResizedCrop,
    Unchanged,
    decoded_batches,
    evaluation_batches,
    image_batches,
    normalise,
)
from sparseflow.data.digits import Dataset
from sparseflow.data.order import global_batch
from sparseflow.training.digits import DigitRun
from sparseflow.training.images import ImageRun
from sparseflow.training.ranks import Ranks

#: Encoded images, decoded when they are needed, or all pixels of a small dataset.
Images = ImageSource | DecodedImages
Batch = tuple[Tensor, Tensor]
#: Split -> name -> what is wrong, of each image that cannot be read.
Unreadable = dict[str, dict[str, str]]
#: Images of a batch when they are only measured: colour images and digits.
_MEASURED, _MEASURED_DIGITS = 64, 1000


class Chosen(NamedTuple):
    """Rows of images that are all in memory."""

    images: Tensor
    labels: Tensor
    indices: Tensor

    def whole(self) -> tuple[Tensor, Tensor, Tensor]:
        """All images, their labels, and the indices of the batch among them."""
        return self

    def parts(self) -> Sequence[Batch]:
        """One micro-batch."""
        return [(self.images[self.indices], self.labels[self.indices])]


class MicroBatches(NamedTuple):
    """Prepared micro-batches."""

    batches: Sequence[Batch]

    def whole(self) -> tuple[Tensor, Tensor, Tensor]:
        """All images, their labels, and the indices of the batch: every one."""
        images, labels = (torch.cat(parts) for parts in zip(*self.batches, strict=True))
        return images, labels, torch.arange(len(labels))

    def parts(self) -> Sequence[Batch]:
        """The micro-batches."""
        return self.batches


#: The images of one step that this process takes.
StepBatch = Chosen | MicroBatches


class DigitData:
    """The images of a run on digits, which are in memory.

    Args:
        config: The run.
        dataset: Its images.
    """

    def __init__(self, config: DigitRun, dataset: Dataset) -> None:
        self._config, self._dataset = config, dataset
        #: The fixed images that gradient norms are of.
        self.probe: Sequence[Batch] = [dataset.validation(1)]
        #: The fixed images whose dense gradient says where weights grow; ``None`` where it is the training batch.
        self.growth: Batch | None = dataset.validation(2)
        #: Split -> name -> what is wrong, of each image that cannot be read: digits are checked as a whole.
        self.unreadable: Unreadable = {}

    def training(self, first: int = 0) -> Iterator[StepBatch]:
        """Batches from number ``first`` on."""
        images, labels = self._dataset.train_images, self._dataset.train_labels
        for step in range(first, self._config.steps):
            batch = global_batch(step, size=len(labels), batch_size=self._config.batch_size, seed=self._config.seed)
            yield Chosen(images, labels, batch.indices)

    def tests(self) -> dict[str, Iterable[Batch]]:
        """Test images, and those held out of training."""
        dataset = self._dataset
        sets = {"test": (dataset.test_images, dataset.test_labels), "holdout": dataset.holdout}
        return {
            name: zip(*(tensor.split(_MEASURED_DIGITS) for tensor in pair), strict=True)
            for name, pair in sets.items()
            if pair is not None
        }


class ImageData:
    """The images of a run on colour images, prepared for one process.

    Args:
        config: The run.
        training, test: Its images.
        ranks: This process among all; default alone.
        workers: Processes that decode images, for each rank.

    Raises:
        ValueError: if a label is beyond the run's classes.
    """

    def __init__(
        self, config: ImageRun, training: Images, test: Images, ranks: Ranks | None = None, *, workers: int = 0
    ) -> None:
        for split in (training, test):
            check_classes(split, config)
        self._sets = {"test": test}
        if config.holdout and isinstance(training, DecodedImages):
            training, self._sets["holdout"] = training.held_out(config.holdout)
        self._config, self._training = config, training
        self._ranks, self._workers = ranks or Ranks(), workers
        self._prepare = preparation(config, self._ranks.device)
        self.growth: Batch | None = None
        #: Those that this process has met so far. Training takes others in their place, measurements leave them out.
        self.unreadable: Unreadable = {
            name: dict(split.broken) if isinstance(split, DecodedImages) else {}
            for name, split in (("training", training), ("test", test))
        }

    @property
    def probe(self) -> Sequence[Batch]:
        """The first training images, not augmented."""
        plain = plain_batches(self._training, self._config, broken=self.unreadable["training"])
        first = first_images(plain, self._config.probe_images)
        return [self._prepare(batch) for batch in first]

    def training(self, first: int = 0) -> Iterator[StepBatch]:
        """This process's micro-batches of every global batch, from number ``first`` on."""
        stream = training_batches(
            self._training, self._config, self._ranks, first=first, workers=self._workers,
            broken=self.unreadable["training"],
        )  # fmt: skip
        each = self._config.micro_batches // self._ranks.world
        while local := [self._prepare(batch) for batch in islice(stream, each)]:
            yield MicroBatches(local)

    def tests(self) -> dict[str, Iterable[Batch]]:
        """This process's part of the test images, and of those held out of training."""

        def plain(name: str, images: Images) -> Iterable[Batch]:
            broken = self.unreadable["test" if name == "test" else "training"]
            return plain_batches(images, self._config, self._ranks, workers=self._workers, broken=broken)

        return {name: map(self._prepare, plain(name, images)) for name, images in self._sets.items()}


#: The images of a run: ``probe`` and ``growth``, training batches, and test sets by name.
RunData = DigitData | ImageData


def check_classes(images: Images, run: ImageRun) -> None:
    """Raise ``ValueError`` if a label is beyond the run's classes.

    Args:
        images: With labels.
        run: Its number of classes.
    """
    if (found := int(images.labels.max()) + 1) > run.num_classes:
        raise ValueError(f"the images have {found} classes, the run {run.num_classes}. Give num_classes={found}.")


def preparation(run: ImageRun, device: torch.device) -> Callable[[Batch], Batch]:
    """A function from bytes to normalised floats on the device, in the run's memory format.

    Args:
        run: Its dataset and memory format.
        device: Of the result.
    """
    statistics = CIFAR10 if run.stem == "cifar" else IMAGENET
    layout = torch.channels_last if run.channels_last else torch.contiguous_format

    def prepare(batch: Batch) -> Batch:
        images, labels = (tensor.to(device, non_blocking=True) for tensor in batch)
        return normalise(images, statistics).contiguous(memory_format=layout), labels

    return prepare


def training_batches(
    images: Images,
    run: ImageRun,
    ranks: Ranks,
    *,
    first: int = 0,
    workers: int = 0,
    broken: dict[str, str] | None = None,
) -> Iterator[Batch]:
    """This process's micro-batches as bytes, see :func:`.image_batches`.

    Args:
        images: The training images.
        run: Its batch size, crops and seed.
        ranks: This process among all.
        first: Number of the first global batch.
        workers: Processes that decode images.
        broken: Gets name and reason of each image that cannot be read; those in it count against the limit.
    """
    steps, each = run.num_batches, run.micro_batches // ranks.world
    if isinstance(images, DecodedImages):
        return decoded_batches(
            images, _small_crops(run), batch_size=run.batch_size, seed=run.seed, steps=steps, start_step=first,
            rank=ranks.rank, world=ranks.world, accumulation=each,
        )  # fmt: skip
    augment = PadCropFlip() if run.stem == "cifar" else RandomResizedCrop(size=run.image_size)
    batches = image_batches(
        images, augment, batch_size=run.batch_size, seed=run.seed, steps=steps, start_step=first,
        rank=ranks.rank, world=ranks.world, accumulation=each, workers=workers,
    )  # fmt: skip
    return iter(_noting(batches, broken))


def plain_batches(
    images: Images,
    run: ImageRun,
    ranks: Ranks | None = None,
    *,
    workers: int = 0,
    broken: dict[str, str] | None = None,
) -> Iterable[Batch]:
    """All images in their order, not augmented; this rank's share of them. Images that cannot be read are left out.

    Args:
        images: With labels.
        run: Its size of images.
        ranks: This process among all; default alone.
        workers: Processes that decode images.
        broken: See :func:`training_batches`.
    """
    rank, world = (0, 1) if ranks is None else (ranks.rank, ranks.world)
    if isinstance(images, DecodedImages):
        _small_crops(run)
        images = images.of_their_own()
        first, last = (part * len(images.labels) // world for part in (rank, rank + 1))
        pixels, labels = images.images[first:last], images.labels[first:last]
        return zip(pixels.split(_MEASURED), labels.split(_MEASURED), strict=True)
    plain = Unchanged() if run.stem == "cifar" else CentreCrop(size=run.image_size)
    batches = evaluation_batches(images, plain, batch_size=_MEASURED, rank=rank, world=world, workers=workers)
    return _noting(batches, broken)


def _noting(batches: ImageBatches, broken: dict[str, str] | None) -> ImageBatches:
    """The batches, which note broken images in ``broken``."""
    if broken is not None:
        batches.broken = broken
    return batches


def first_images(batches: Iterable[Batch], count: int) -> Iterator[Batch]:
    """Batches up to a number of images.

    Args:
        batches: The batches.
        count: Number of images; the last batch is cut.

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
