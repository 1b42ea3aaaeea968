"""Where measurements find data, starts and ends of runs, and a forward pass that skips what is zero."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor, nn

from sparseflow._fast.memory import has_numba
from sparseflow.data.digits import Dataset, load_dataset
from sparseflow.paper.measures.image_source import (
    image_end,
    image_network,
    image_start,
    image_test_batches,
    image_training_batches,
    parameter_names,
)
from sparseflow.rng import stream
from sparseflow.training.config import RunConfig
from sparseflow.training.images import ImageRun
from sparseflow.training.runs import final_state
from sparseflow.training.setup import dense_network, set_up, start_of
from sparseflow.types import Batches

Tables = dict[str, pd.DataFrame]


@dataclass(frozen=True)
class Source:
    """What a measurement may read, and whom it tells how far it is."""

    root: Path
    """Folder of all runs."""
    data_root: Path | None
    report: Callable[[float], None] = lambda share: None
    """Told the share done, in [0, 1]."""

    def data(self, config: RunConfig) -> Dataset:
        """The dataset of a run."""
        return _dataset(config.dataset, self.data_root)

    def start(self, config: RunConfig) -> dict[str, Tensor]:
        """Weights of a run at step 0, zero off its masks."""
        if isinstance(config, ImageRun):
            return image_start(config, root=self.root)
        state: dict[str, Tensor] = set_up(config, start=start_of(config, root=self.root)).model.state_dict()
        return state

    def end(self, config: RunConfig) -> dict[str, Tensor]:
        """Weights of a finished run, zero off its masks, and running statistics of its batch norms."""
        if isinstance(config, ImageRun):
            return image_end(config, root=self.root)[0]
        state: dict[str, Tensor] = final_state(config, root=self.root)["model"]
        return state

    def end_masks(self, config: RunConfig) -> dict[str, Tensor]:
        """Masks of a finished run."""
        if isinstance(config, ImageRun):
            return image_end(config, root=self.root)[1]
        masks: dict[str, Tensor] = final_state(config, root=self.root)["masks"]
        return masks

    def training_batches(self, config: RunConfig, examples: int | None) -> Batches:
        """Training images, not augmented: so many fixed ones, the same for every run; all without a number."""
        if isinstance(config, ImageRun):
            return image_training_batches(config, examples, data_root=self.data_root)
        data = self.data(config)
        images, labels = self.training_images(config, len(data.train_labels) if examples is None else examples)
        return list(zip(images.split(5000), labels.split(5000), strict=True))

    def test_batches(self, config: RunConfig) -> Batches:
        """All test images."""
        if isinstance(config, ImageRun):
            return image_test_batches(config, data_root=self.data_root)
        data = self.data(config)
        return [(data.test_images, data.test_labels)]

    def training_images(self, config: RunConfig, count: int) -> tuple[Tensor, Tensor]:
        """So many fixed training images and labels, the same for every run; all of them if there are not more."""
        data = self.data(config)
        if count >= len(data.train_labels):
            return data.train_images, data.train_labels
        chosen = torch.randperm(len(data.train_labels), generator=stream(0, "spectrum"))[:count]
        return data.train_images[chosen], data.train_labels[chosen]


#: ``(source, runs, **options) -> tables``; labels such as the group's name are added by the caller.
Measure = Callable[..., Tables]


@lru_cache(maxsize=2)
def _dataset(name: str, root: Path | None) -> Dataset:
    return load_dataset(name, root=root)


def network(config: RunConfig, masks: Mapping[str, Tensor]) -> nn.Sequential:
    """The run's network, whose forward pass computes active weights only for digits and where the engine is installed.

    Its weights may be changed between two calls, as long as they stay zero off the masks.

    >>> import sparseflow as sf
    >>> config = DigitRun(model="mlp-small")
    >>> model = dense_network(config)
    >>> fast, images = network(config, sf.dense_masks(model)), torch.rand(3, 1, 28, 28)
    >>> torch.allclose(fast(images), model(images), atol=1e-6)
    True
    """
    if isinstance(config, ImageRun):
        return image_network(config)
    model = dense_network(config)
    if has_numba():
        from sparseflow.engine.plans.plan import plan

        made = plan(model, masks)

        def forward(images: Tensor) -> Tensor:
            made.read()
            return made.logits(images)

        model.forward = forward  # type: ignore[method-assign]
    return model


def trained_names(config: RunConfig) -> list[str] | None:
    """Names of a state's entries that are trained; ``None`` where all are."""
    return parameter_names(config) if isinstance(config, ImageRun) else None
