"""The data of a run by the name of its dataset; small image datasets are decoded once per process."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from sparseflow.data import ImageSource, decode_all, open_images
from sparseflow.data.digits import fetch, load_dataset
from sparseflow.suggest import did_you_mean
from sparseflow.training.config import RunConfig
from sparseflow.training.images import ImageRun
from sparseflow.training.ranks import Ranks
from sparseflow.training.streams import DigitData, ImageData, Images, RunData


@dataclass(frozen=True)
class ImageDataset:
    """Names of a dataset and its splits."""

    hub: str
    """On the Hugging Face hub."""
    training: str
    """Split that is trained on."""
    test: str
    """Split that is evaluated on."""
    num_classes: int


#: The sample is the first thousand validation images that were at hand: to see that a run works, not to learn from.
IMAGE_DATASETS = {
    "imagenet": ImageDataset("ILSVRC/imagenet-1k", "train", "validation", 1000),
    "imagenet-sample": ImageDataset("ILSVRC/imagenet-1k", "validation", "validation", 1000),
    "cifar10": ImageDataset("uoft-cs/cifar10", "train", "test", 10),
}


def open_data(config: RunConfig, *, root: Path | None = None, ranks: Ranks | None = None, workers: int = 0) -> RunData:
    """The images of a run, prepared for this process.

    Args:
        config: The run.
        root: Folder of datasets; default as :func:`.load_dataset` for digits and :func:`load_images` for images.
        ranks: This process among all; default alone.
        workers: Processes that decode images.

    Raises:
        ValueError, OSError: if there is no such dataset, or it is not here and cannot be fetched.

    >>> from sparseflow.training.digits import DigitRun
    >>> data = open_data(DigitRun(dataset="mnist-5k", batch_size=16))
    >>> [tuple(images.shape) for images, labels in next(data.training()).parts()]
    [(16, 1, 28, 28)]
    """
    run: Any = config
    if config.channels == 1:
        return DigitData(run, load_dataset(config.dataset, root=root).held_out(run.holdout))
    return ImageData(run, *load_images(run, root=root), ranks, workers=workers)


def check_data(config: RunConfig, *, root: Path | None = None) -> None:
    """Fetch the digits of a run, or raise as :func:`open_data` before any image is decoded.

    Args:
        config, root: As there.
    """
    run: Any = config
    if config.channels == 1:
        fetch(config.dataset, root)
    else:
        check_images(run, root=root)


def load_images(run: ImageRun, *, root: Path | None = None) -> tuple[Images, Images]:
    """Training and test images of a run; those of CIFAR in memory.

    Args:
        run: Its dataset, and whether its network takes images of 32x32.
        root: Folder of the dataset's splits, or of a folder of its name; default the hub's, by its own cache.

    Raises:
        ValueError: if there is no such dataset, or the classes do not fit the run.
        FileNotFoundError: if a split is not there.
    """
    check_images(run, root=root)
    return _load(run.dataset, _place(run.dataset, root), run.stem == "cifar")


def check_images(run: ImageRun, *, root: Path | None = None) -> None:
    """Raise as :func:`load_images` does, before anything is decoded.

    Args:
        run, root: As there.
    """
    if run.dataset not in IMAGE_DATASETS:
        suggestion = did_you_mean(run.dataset, IMAGE_DATASETS)
        raise ValueError(f"dataset must be one of {', '.join(IMAGE_DATASETS)}, got {run.dataset!r}.{suggestion}")
    known = IMAGE_DATASETS[run.dataset]
    if run.num_classes != known.num_classes:
        raise ValueError(f"{run.dataset} has {known.num_classes} classes, the run {run.num_classes}. Give num_classes.")
    _open(run.dataset, _place(run.dataset, root))


@lru_cache(maxsize=1)
def _load(dataset: str, where: Path | str, in_memory: bool) -> tuple[Images, Images]:
    training, test = _open(dataset, where)
    return (decode_all(training), decode_all(test, replaces=False)) if in_memory else (training, test)


def _open(dataset: str, where: Path | str) -> tuple[ImageSource, ImageSource]:
    known = IMAGE_DATASETS[dataset]
    training, test = (
        open_images(where, split, num_classes=known.num_classes) for split in (known.training, known.test)
    )
    return training, test


def _place(dataset: str, root: Path | None) -> Path | str:
    if root is None:
        return IMAGE_DATASETS[dataset].hub
    return inner if (inner := root / dataset).is_dir() else root
