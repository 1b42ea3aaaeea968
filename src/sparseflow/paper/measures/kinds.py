"""The two kinds of runs, on digits and on images, as measurements read them: data, start and network."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from sparseflow._fast.memory import has_numba
from sparseflow.data import DecodedImages
from sparseflow.data.digits import Dataset, load_dataset
from sparseflow.rng import stream
from sparseflow.training.datasets import IMAGE_DATASETS, load_images
from sparseflow.training.digit_setup import set_up
from sparseflow.training.digits import DigitRun
from sparseflow.training.image_runs import start_of
from sparseflow.training.images import ImageRun
from sparseflow.training.ranks import Ranks
from sparseflow.training.runs import Config
from sparseflow.training.setup import dense_network, set_up_images
from sparseflow.training.streams import first_images, plain_batches, preparation
from sparseflow.types import Batches

_CPU = torch.device("cpu")


class Kind(Protocol):
    """The functions that measurements need for runs of one kind."""

    def start(self, config: Any, *, root: Path, data_root: Path | None) -> dict[str, Tensor]:
        """Weights and buffers at step 0, on the CPU, zero off the masks."""

    def training_batches(self, config: Any, examples: int | None, *, data_root: Path | None) -> Batches:
        """The first images of a fixed shuffle of the training images, not augmented; all if ``examples`` is None."""

    def test_batches(self, config: Any, *, data_root: Path | None) -> Batches:
        """All test images."""

    def network(self, config: Any, masks: Mapping[str, Tensor]) -> nn.Sequential:
        """The run's network, for weights that are zero off ``masks``."""


class _Digits:
    def start(self, config: DigitRun, *, root: Path, data_root: Path | None) -> dict[str, Tensor]:
        state: dict[str, Tensor] = set_up(config, _digits(config.dataset, data_root), root=root).model.state_dict()
        return state

    def training_batches(self, config: DigitRun, examples: int | None, *, data_root: Path | None) -> Batches:
        data = _digits(config.dataset, data_root)
        images, labels = data.train_images, data.train_labels
        if examples is not None and examples < len(labels):
            chosen = torch.randperm(len(labels), generator=stream(0, "spectrum"))[:examples]
            images, labels = images[chosen], labels[chosen]
        return list(zip(images.split(5000), labels.split(5000), strict=True))

    def test_batches(self, config: DigitRun, *, data_root: Path | None) -> Batches:
        data = _digits(config.dataset, data_root)
        return [(data.test_images, data.test_labels)]

    def network(self, config: DigitRun, masks: Mapping[str, Tensor]) -> nn.Sequential:
        model = dense_network(config)
        if has_numba():
            from sparseflow.engine.plans.plan import plan

            made = plan(model, masks)

            def forward(images: Tensor) -> Tensor:
                made.read()
                return made.logits(images)

            model.forward = forward  # type: ignore[method-assign]
        return model


class _Images:
    def start(self, config: ImageRun, *, root: Path, data_root: Path | None) -> dict[str, Tensor]:
        trainer = set_up_images(config, Ranks(), start=start_of(config, root=root))
        return {name: value.cpu() for name, value in trainer.sparsifier.model.state_dict().items()}

    def training_batches(self, config: ImageRun, examples: int | None, *, data_root: Path | None) -> Batches:
        images = load_images(config, root=data_root)[0]
        count = len(images.labels) if examples is None else examples
        if isinstance(images, DecodedImages) and count < len(images.labels):
            chosen = torch.randperm(len(images.labels), generator=stream(0, "measured images"))[:count]
            images = images._replace(images=images.images[chosen], labels=images.labels[chosen])
        return list(map(preparation(config, _CPU), first_images(plain_batches(images, config), count)))

    def test_batches(self, config: ImageRun, *, data_root: Path | None) -> Batches:
        images = load_images(config, root=data_root)[1]
        return list(map(preparation(config, _CPU), plain_batches(images, config)))

    def network(self, config: ImageRun, masks: Mapping[str, Tensor]) -> nn.Sequential:
        model = dense_network(config)
        if config.channels_last:
            model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return model


_DIGITS, _IMAGES = _Digits(), _Images()


def kind_of(config: Config) -> Kind:
    """The kind of a run, by its dataset."""
    return _IMAGES if config.dataset in IMAGE_DATASETS else _DIGITS


@lru_cache(maxsize=2)
def _digits(name: str, root: Path | None) -> Dataset:
    return load_dataset(name, root=root)
