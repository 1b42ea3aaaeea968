"""Floating-point operations of a training, counted from the densities that its layers had and the gradients it took."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from sparseflow.data.digits import MAX_VALIDATION
from sparseflow.lab.page.words import DATASETS_IN_WORDS
from sparseflow.training.config import RunConfig
from sparseflow.training.setup import dense_network


def layer_flops(config: RunConfig) -> Mapping[str, int]:
    """Weight -> operations of one image's way through its layer, dense, two for each product that is added.

    Convolutions and linear layers count, nothing else does.

    >>> from sparseflow.training.digits import DigitRun
    >>> dict(layer_flops(DigitRun(model="mlp")))
    {'fc1.weight': 470400, 'fc2.weight': 60000, 'fc3.weight': 2000}
    """
    return _layer_flops(config.with_(**_START))


#: What the counts do not depend on.
_START = {"method": "dense", "seed": 0, "sparsity": 0.5}


@cache
def _layer_flops(config: RunConfig) -> Mapping[str, int]:
    found: dict[str, int] = {}
    model = dense_network(config).eval()

    def counting(name: str, layer: nn.Module) -> None:
        def count(_: nn.Module, __: object, outputs: Tensor) -> None:
            weight = layer.weight
            assert isinstance(weight, Tensor)
            found[name] = 2 * weight.numel() * outputs[0, 0].numel()  # one position, where there is no map

        layer.register_forward_hook(count)

    for name, layer in model.named_modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            counting(f"{name}.weight", layer)
    with torch.no_grad():
        model(torch.zeros(1, *config.image_shape))
    return found


def training_flops(config: RunConfig, metrics: pd.DataFrame) -> float:
    r"""Operations of a whole training on hardware that skips inactive weights.

    A step on :math:`B` images costs the forward pass, and as much again for each of the gradients of inputs and of
    weights,

    .. math:: 3 B \sum_l F_l \, d_l(t),

    with the operations :math:`F_l` of a dense layer and its density :math:`d_l` after :math:`t` steps, dense phases
    among them. Where a method trains weights that the network does not use, as Top-KAST does, :math:`d_l` is that of
    the used ones in two of the three terms. A method that grows by the dense gradient computes it at each update: of
    the step's own batch it costs :math:`B \sum_l F_l (1 - d_l)` more; of :math:`G` images of its own, as on digits
    (protocol C.3), :math:`G \sum_l F_l (2 d_l + 1)`. One that keeps a running mean of dense gradients computes them at
    every step. What is measured on the way is left out, and so are choosing and moving weights.

    Args:
        config: The run.
        metrics: Its log: ``density/<weight>`` at the start and at each change.

    Raises:
        ValueError: if the log has no densities, because the run is of an older version.

    Reference: Evci et al. (2020), RigL, appendix H.
    """
    flops = layer_flops(config)
    if (table := densities(config, metrics)).empty:
        raise ValueError(f"{config.name} has no densities in its log. Delete it and run again.")
    lengths = table["steps"].to_numpy()
    method, whole = config.updater(), sum(flops.values())
    most = 1 - config.sparsity if hasattr(method, "used") else 1.0  # of what the network computes with
    active, trained = np.zeros(len(table)), np.zeros(len(table))
    for name, count in flops.items():
        share = table[name].to_numpy() if name in table else np.ones(len(table))
        trained += count * share
        active += count * (np.minimum(share, most) if name in table else share)
    total = float((config.batch_size * (2 * active + trained) * lengths).sum())
    if method.gradient_decay:
        total += float((config.batch_size * (whole - active) * lengths).sum())
    elif method.needs_gradient:
        for first, steps, of_active in zip(table["step"], lengths, active, strict=True):
            updates = sum(method.due(step) for step in range(first + 1, first + steps + 1))
            total += updates * update_flops(config, of_active, whole)
    return total


def update_flops(config: RunConfig, active: float, whole: float) -> float:
    """Operations of the dense gradient of one mask update.

    Args:
        config: The run.
        active: Operations of an image's way through the active weights.
        whole: Through all of them.
    """
    if config.channels == 1:
        return growth_images(config) * (2 * active + whole)
    return config.batch_size * (whole - active)


def growth_images(config: RunConfig) -> int:
    """Images of a run on digits whose dense gradient says where weights grow.

    >>> from sparseflow.training.digits import DigitRun
    >>> growth_images(DigitRun()), growth_images(DigitRun(dataset="mnist-5k"))
    (1000, 500)
    """
    images = DATASETS_IN_WORDS[config.dataset][1] - getattr(config, "holdout", 0)
    return min(MAX_VALIDATION, images // 8)


def densities(config: RunConfig, metrics: pd.DataFrame) -> pd.DataFrame:
    """The stretches of a training with unchanged densities.

    Columns: ``step`` where one begins, its ``steps``, and the density of each weight that has a mask.

    Args:
        config, metrics: Of :func:`training_flops`.

    >>> from sparseflow.training.digits import DigitRun
    >>> log = pd.DataFrame({"step": [0, 0, 6], "name": ["density/a", "density/b", "density/a"],
    ...                     "value": [1.0, 0.5, 0.25]})
    >>> densities(DigitRun(steps=10), log)
       step  steps     a    b
    0     0      6  1.00  0.5
    1     6      4  0.25  0.5
    """
    rows = metrics[metrics["name"].str.startswith("density/")]
    table = rows.pivot_table(index="step", columns="name", values="value", aggfunc="last").sort_index().ffill()
    table = table[table.index < config.steps]
    table.columns = [name.removeprefix("density/") for name in table.columns]
    table.insert(0, "steps", [*table.index[1:], config.steps] - table.index.to_numpy() if len(table) else [])
    return table.rename_axis(index="step", columns=None).reset_index()
