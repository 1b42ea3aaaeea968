"""Where measurements find data, starts and ends of runs, and a forward pass that skips what is zero."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor, nn

from sparseflow.compiled import has_numba
from sparseflow.lab.config import RunConfig
from sparseflow.lab.data import Dataset, load_dataset
from sparseflow.lab.methods import dense_start, final_state, set_up
from sparseflow.rng import stream

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
        state: dict[str, Tensor] = set_up(config, self.data(config), root=self.root).model.state_dict()
        return state

    def end(self, config: RunConfig) -> dict[str, Tensor]:
        """Weights of a finished run, zero off its masks."""
        state: dict[str, Tensor] = final_state(config, root=self.root)["model"]
        return state

    def end_masks(self, config: RunConfig) -> dict[str, Tensor]:
        """Masks of a finished run."""
        masks: dict[str, Tensor] = final_state(config, root=self.root)["sparsifier"]["masks"]
        return masks

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
    """The run's network, whose forward pass computes active weights only where the engine is installed.

    Its weights may be changed between two calls, as long as they stay zero off the masks.

    >>> import sparseflow as sf
    >>> config = RunConfig(model="mlp-small")
    >>> model = dense_start(config)
    >>> fast, images = network(config, sf.dense_masks(model)), torch.rand(3, 1, 28, 28)
    >>> torch.allclose(fast(images), model(images), atol=1e-6)
    True
    """
    model = dense_start(config)
    if has_numba():
        from sparseflow.engine.plan import plan

        made = plan(model, masks)

        def forward(images: Tensor) -> Tensor:
            made.read()
            return made.logits(images)

        model.forward = forward  # type: ignore[method-assign]
    return model
