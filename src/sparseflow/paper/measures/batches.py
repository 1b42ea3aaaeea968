"""The batches that measurements read: fixed training images, and all test images, of digits or of natural images."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from sparseflow.data import DecodedImages
from sparseflow.data.digits import Dataset, load_dataset
from sparseflow.rng import stream
from sparseflow.training.config import RunConfig
from sparseflow.training.datasets import load_images
from sparseflow.training.streams import first_images, plain_batches, preparation
from sparseflow.types import Batches

_CPU = torch.device("cpu")


def training_batches(config: RunConfig, examples: int | None, *, data_root: Path | None) -> Batches:
    """The first images of a fixed shuffle of the training images, not augmented; all if ``examples`` is None.

    Args:
        config: The run; its dataset and how its images are prepared.
        examples: How many.
        data_root: Folder of datasets.
    """
    run: Any = config
    if config.channels == 1:
        data = _digits(config.dataset, data_root)
        digits, labels = data.train_images, data.train_labels
        if examples is not None and examples < len(labels):
            chosen = torch.randperm(len(labels), generator=stream(0, "spectrum"))[:examples]
            digits, labels = digits[chosen], labels[chosen]
        return list(zip(digits.split(5000), labels.split(5000), strict=True))
    images = load_images(run, root=data_root)[0]
    if isinstance(images, DecodedImages):
        images = images.of_their_own()
    count = len(images.labels) if examples is None else examples
    if isinstance(images, DecodedImages) and count < len(images.labels):
        chosen = torch.randperm(len(images.labels), generator=stream(0, "measured images"))[:count]
        images = images._replace(images=images.images[chosen], labels=images.labels[chosen])
    return list(map(preparation(run, _CPU), first_images(plain_batches(images, run), count)))


def test_batches(config: RunConfig, *, data_root: Path | None) -> Batches:
    """All test images.

    Args:
        config: The run; its dataset and how its images are prepared.
        data_root: Folder of datasets.
    """
    run: Any = config
    if config.channels == 1:
        data = _digits(config.dataset, data_root)
        return [(data.test_images, data.test_labels)]
    return list(map(preparation(run, _CPU), plain_batches(load_images(run, root=data_root)[1], run)))


@lru_cache(maxsize=2)
def _digits(name: str, root: Path | None) -> Dataset:
    return load_dataset(name, root=root)
