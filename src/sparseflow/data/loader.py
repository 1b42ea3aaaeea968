"""Batches of images by the number of the step, the same for any number of worker processes and of ranks."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from sparseflow.data.decode import BrokenImageError, decode
from sparseflow.data.draws import uniforms
from sparseflow.data.order import DatasetOrder, Positions, TrainingOrder, rank_slices
from sparseflow.data.sources import ImageSource
from sparseflow.data.transforms import Transform

#: Distinct broken images that a process puts up with. ImageNet and CIFAR-10 have none: more means a bad copy.
MAX_BROKEN = 10


class UnreadableImageWarning(UserWarning):
    """An image cannot be read: training takes another one in its place, an evaluation leaves it out."""


class Piece(NamedTuple):
    """The message of a worker: a batch, the names of broken images, and the error that ended it, if any."""

    images: Tensor
    labels: Tensor
    broken: dict[str, str]
    failure: str


@dataclass(frozen=True, eq=False)
class Reader:
    """A function from positions to pixels, which runs in the worker processes."""

    source: ImageSource
    transform: Transform
    seed: int
    max_broken: int
    replaces: bool

    def __getitem__(self, positions: Positions) -> Piece:
        size, count = self.transform.size, len(positions.indices)
        pixels = np.empty((count, size, size, 3), dtype=np.uint8)
        chosen: list[int] = []
        broken: dict[str, str] = {}
        failure = ""
        for epoch, index in zip(positions.epochs.tolist(), positions.indices.tolist(), strict=True):
            try:
                readable, image = self._decoded(index, broken)
                if image is None:
                    continue
                draws = uniforms(self.seed, epoch, index, self.transform.num_draws)
                pixels[len(chosen)] = self.transform(image, draws)
                chosen.append(readable)
            except Exception as error:  # noqa: BLE001 - it is raised in the main process, which knows no traceback of ours
                failure = f"cannot read {self.source.name(index)}: {type(error).__name__}: {error}"
                break
        images = torch.from_numpy(pixels[: len(chosen)]).permute(0, 3, 1, 2)
        return Piece(images, self.source.labels[chosen], broken, failure)

    def _decoded(self, index: int, broken: dict[str, str]) -> tuple[int, Any]:
        """The image, or the next one that can be read; ``None`` where broken images are left out."""
        attempts = min(self.max_broken + 1, len(self.source)) if self.replaces else 1
        for other in range(index, index + attempts):
            readable = other % len(self.source)
            try:
                return readable, decode(self.source.encoded(readable))
            except BrokenImageError as error:
                broken[self.source.name(readable)] = str(error)
        if self.replaces:
            raise BrokenImageError(f"nor can the {attempts - 1} images after it be read")
        return index, None


@dataclass(eq=False)
class ImageBatches:
    """Pairs of images and labels; every iteration goes through the same batches again.

    Images are uint8 ``(N, 3, size, size)``, channels last in memory; labels int64 ``(N,)``. Normalise a batch where it
    is used, with :func:`sparseflow.data.normalise`: bytes travel four times faster than floats.

    Raises:
        RuntimeError: while iterating, if more than ``max_broken`` images are broken, or reading fails in a worker.
    """

    reader: Reader
    batches: TrainingOrder | DatasetOrder
    workers: int
    start_method: str | None
    broken: dict[str, str] = field(default_factory=dict)
    """Name -> what is wrong, of each broken image that this process has met; counted against ``max_broken``."""

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        loader: DataLoader[Piece] = DataLoader(
            self.reader,  # type: ignore[arg-type]  # whatever has __getitem__ will do
            sampler=self.batches,
            batch_size=None,
            collate_fn=_as_it_is,
            num_workers=self.workers,
            multiprocessing_context=self.start_method if self.workers else None,
            pin_memory=torch.cuda.is_available(),
            # Its own: the loader would draw the workers' seeds from the global one.
            generator=torch.Generator(),
        )
        for piece in loader:
            self._note(piece.broken)
            if len(self.broken) > self.reader.max_broken:
                some = "; ".join(f"{name}: {reason}" for name, reason in list(self.broken.items())[:5])
                raise RuntimeError(
                    f"{len(self.broken)} images are broken, more than max_broken={self.reader.max_broken}. The first: "
                    f"{some}. Fetch them again, or raise max_broken."
                )
            if piece.failure:
                raise RuntimeError(piece.failure)
            if len(piece.labels):
                yield piece.images, piece.labels

    def _note(self, broken: dict[str, str]) -> None:
        for name, reason in broken.items():
            if name not in self.broken:
                stands = "the next image that can be read stands for it, with its own label"
                fate = stands if self.reader.replaces else "it is left out"
                warnings.warn(
                    f"{name} cannot be read ({reason}): {fate}. More than {self.reader.max_broken} are an error.",
                    UnreadableImageWarning,
                    stacklevel=3,
                )
        self.broken.update(broken)


def image_batches(
    source: ImageSource,
    transform: Transform,
    *,
    batch_size: int,
    seed: int,
    steps: int,
    start_step: int = 0,
    rank: int = 0,
    world: int = 1,
    accumulation: int = 1,
    workers: int = 0,
    start_method: str | None = None,
    max_broken: int = MAX_BROKEN,
) -> ImageBatches:
    """Training batches of this process for the steps from ``start_step`` to ``steps - 1``.

    Which images a step has follows from :func:`global_batch`, which part of them this process from
    :func:`rank_slices`, and the pixels of each image from ``(seed, epoch, index)`` alone. So a run that resumes at any
    step, with any number of workers and of processes, sees what an uninterrupted one does.

    A broken image is replaced by the next one in the dataset that can be read, with that one's label and the draws of
    the image it stands for: no batch shrinks, and no other image or process is affected. Each is named in an
    ``UnreadableImageWarning`` and in ``broken``.

    Args:
        source: See :func:`open_images`.
        transform: Such as :class:`RandomResizedCrop` or :class:`PadCropFlip`.
        batch_size: Images of an optimizer step, over all processes and micro-batches.
        seed: The run's seed.
        steps: Optimizer steps of the whole run.
        start_step: Steps already taken.
        rank: Of this process.
        world: Number of processes.
        accumulation: Micro-batches of a step; each is one item here.
        workers: Processes that decode; 0 decodes in this one.
        start_method: ``"fork"``, ``"spawn"`` or ``"forkserver"``; ``None`` for the platform's.
        max_broken: Distinct broken images after which iterating raises.

    Raises:
        ValueError: if a number does not fit the others.

    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> from PIL import Image
    >>> from sparseflow.data import PadCropFlip, folder_source
    >>> with TemporaryDirectory() as root:
    ...     for name in ("black", "white"):
    ...         folder = Path(root) / "train" / name
    ...         folder.mkdir(parents=True)
    ...         Image.new("RGB", (32, 32), name).save(folder / "0.png")
    ...     batches = image_batches(folder_source(root, "train"), PadCropFlip(), batch_size=2, seed=0, steps=3)
    ...     [(int(images[labels == 0].max()), int(images[labels == 1].max())) for images, labels in batches]
    [(0, 255), (0, 255), (0, 255)]
    """
    slices = rank_slices(batch_size, rank=rank, world=world, accumulation=accumulation)
    if not 0 <= start_step <= steps:
        raise ValueError(f"start_step must be in [0, steps], got start_step={start_step!r} and steps={steps!r}.")
    batches = TrainingOrder(len(source), batch_size, seed, start_step, steps, slices)
    reader = Reader(source, transform, seed, max_broken, replaces=True)
    return ImageBatches(reader, batches, workers, start_method)


def evaluation_batches(
    source: ImageSource,
    transform: Transform,
    *,
    batch_size: int,
    rank: int = 0,
    world: int = 1,
    workers: int = 0,
    start_method: str | None = None,
    max_broken: int = MAX_BROKEN,
) -> ImageBatches:
    r"""Every image once, in the order of the dataset; process ``r`` of ``R`` has :math:`[rn/R] \le i < [(r+1)n/R]`.

    No image is seen twice, so counts of right answers add up over processes; parts may differ by one image, and the
    last batch of each may be smaller. Broken images are left out, not replaced, and named as by :func:`image_batches`.

    Args:
        transform: Such as :class:`CentreCrop` or :class:`Unchanged`.
        batch_size: Images of a batch in this process.

    The others as :func:`image_batches`.

    Raises:
        ValueError: if there is no such rank, or ``batch_size`` is below 1.
    """
    if not 0 <= rank < world or batch_size < 1:
        raise ValueError(
            f"rank must be in [0, world) and batch_size at least 1; got rank={rank!r}, world={world!r} and "
            f"batch_size={batch_size!r}."
        )
    size = len(source)
    batches = DatasetOrder(rank * size // world, (rank + 1) * size // world, batch_size)
    return ImageBatches(Reader(source, transform, 0, max_broken, replaces=False), batches, workers, start_method)


def _as_it_is(piece: Any) -> Any:
    return piece
