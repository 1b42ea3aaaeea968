"""The inputs of a measurement: data, starts and ends of runs, and networks for their weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from sparseflow._fast import has_numba
from sparseflow.gradients import trainable
from sparseflow.paper.measures.batches import test_batches, training_batches
from sparseflow.training.config import RunConfig
from sparseflow.training.runs import final_state
from sparseflow.training.setup import dense_network, set_up, start_of
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

    def start(self, config: RunConfig) -> dict[str, Tensor]:
        """Weights of a run at step 0, zero off its masks."""
        model = set_up(config, start=start_of(config, root=self.root)).sparsifier.model
        return {name: value.cpu() for name, value in model.state_dict().items()}

    def end(self, config: RunConfig) -> dict[str, Tensor]:
        """Weights of a finished run, zero off its masks, and running statistics of its batch norms."""
        state: dict[str, Tensor] = final_state(config, root=self.root)["model"]
        return state

    def end_masks(self, config: RunConfig) -> dict[str, Tensor]:
        """Masks of a finished run."""
        masks: dict[str, Tensor] = final_state(config, root=self.root)["masks"]
        return masks

    def training_batches(self, config: RunConfig, examples: int | None) -> Batches:
        """Training images, not augmented: the first ``examples`` of a fixed shuffle, or all if None."""
        return training_batches(config, examples, data_root=self.data_root)

    def test_batches(self, config: RunConfig) -> Batches:
        """All test images."""
        return test_batches(config, data_root=self.data_root)


#: ``(source, runs, **options) -> tables``; labels such as the group's name are added by the caller.
Measure = Callable[..., Tables]


def network(config: RunConfig, masks: Mapping[str, Tensor]) -> nn.Sequential:
    """The run's network, whose forward pass computes active weights only for digits and where the engine is installed.

    Its weights may be changed between two calls, as long as they stay zero off the masks.

    >>> import sparseflow as sf
    >>> from sparseflow.training.digits import DigitRun
    >>> config = DigitRun(model="mlp-small")
    >>> model = dense_network(config)
    >>> fast, images = network(config, sf.dense_masks(model)), torch.rand(3, 1, 28, 28)
    >>> torch.allclose(fast(images), model(images), atol=1e-6)
    True
    """
    model = dense_network(config)
    if config.channels_last:
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if config.channels == 1 and has_numba():
        from sparseflow.engine import plan

        made = plan(model, masks)

        def forward(images: Tensor) -> Tensor:
            made.read()
            return made.logits(images)

        model.forward = forward  # type: ignore[method-assign]
    return model


@cache
def weight_names(config: RunConfig) -> tuple[str, ...]:
    """Names of a state's entries that distances are between: weights and biases, and nothing of batch norms.

    The scales of batch norms begin at 1; of a ResNet for small images they are longer than all kernels together, so
    that a distance would be one between scales.

    >>> from sparseflow.training.images import ImageRun
    >>> weight_names(ImageRun(network="resnet14", width=1 / 16))[:2]
    ('conv1.weight', 'group1.block1.residual.conv1.weight')
    """
    model = dense_network(config)
    of_norms = {
        f"{name}.{parameter}"
        for name, module in model.named_modules()
        if isinstance(module, _BatchNorm)
        for parameter, _ in module.named_parameters()
    }
    return tuple(name for name in trainable(model) if name not in of_norms)
