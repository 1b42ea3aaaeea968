"""The inputs of a measurement: data, starts and ends of runs, and networks for their weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pandas as pd
from torch import Tensor, nn

from sparseflow.gradients import trainable
from sparseflow.paper.measures.kinds import kind_of
from sparseflow.training.runs import Config, final_state
from sparseflow.training.setup import dense_network
from sparseflow.types import Batches

Tables = dict[str, pd.DataFrame]


@dataclass(frozen=True)
class Source:
    """Finished runs and their data, and a callback for progress."""

    root: Path
    """Folder of all runs."""
    data_root: Path | None
    report: Callable[[float], None] = lambda share: None
    """Takes the share done, in [0, 1]."""

    def start(self, config: Config) -> dict[str, Tensor]:
        """Weights of a run at step 0, zero off its masks."""
        return kind_of(config).start(config, root=self.root, data_root=self.data_root)

    def end(self, config: Config) -> dict[str, Tensor]:
        """Weights of a finished run, zero off its masks, and running statistics of its batch norms."""
        state: dict[str, Tensor] = final_state(config, root=self.root)["model"]
        return state

    def end_masks(self, config: Config) -> dict[str, Tensor]:
        """Masks of a finished run."""
        masks: dict[str, Tensor] = final_state(config, root=self.root)["masks"]
        return masks

    def training_batches(self, config: Config, examples: int | None) -> Batches:
        """Training images, not augmented: the first ``examples`` of a fixed shuffle, or all if None."""
        return kind_of(config).training_batches(config, examples, data_root=self.data_root)

    def test_batches(self, config: Config) -> Batches:
        """All test images."""
        return kind_of(config).test_batches(config, data_root=self.data_root)


#: ``(source, runs, **options) -> tables``; labels such as the group's name are added by the caller.
Measure = Callable[..., Tables]


def network(config: Config, masks: Mapping[str, Tensor]) -> nn.Sequential:
    """The run's network, whose forward pass computes active weights only for digits and where the engine is installed.

    Its weights may be changed between two calls, as long as they stay zero off the masks.

    >>> import torch
    >>> import sparseflow as sf
    >>> from sparseflow.training.setup import dense_network
    >>> from sparseflow.training.digits import DigitRun
    >>> config = DigitRun(model="mlp-small")
    >>> model = dense_network(config)
    >>> fast, images = network(config, sf.dense_masks(model)), torch.rand(3, 1, 28, 28)
    >>> torch.allclose(fast(images), model(images), atol=1e-6)
    True
    """
    return kind_of(config).network(config, masks)


@cache
def trained_names(config: Config) -> tuple[str, ...]:
    """Names of a state's entries that are trained: not the running statistics of batch norms.

    >>> from sparseflow.training.images import ImageRun
    >>> trained_names(ImageRun(network="resnet14", width=1 / 16))[:3]
    ('conv1.weight', 'norm1.weight', 'norm1.bias')
    """
    return tuple(trainable(dense_network(config)))
