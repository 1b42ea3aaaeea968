"""The cost of runs, known before they are trained: seconds by rates that were measured once, operations by counting."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor, nn

from sparseflow.networks import NETWORKS
from sparseflow.training.digits import DigitRun
from sparseflow.training.images import ImageRun

#: Milliseconds a step takes on one core of a server of 2023, batch 128: (model, is it sparse from the start).
_STEP = {
    ("lenet5", True): 1.3, ("lenet5", False): 7.0, ("lenet5-small", False): 1.5,
    ("mlp", True): 0.5, ("mlp", False): 3.5, ("mlp-small", False): 0.4,
}  # fmt: skip
#: Pruning runs are dense for a quarter of their steps.
_PRUNING_SHARE = 0.6
#: Operations a second that an A100 sustains while it trains ResNet-50 in mixed precision: NVIDIA states 2470 images per
#: second (DeepLearningExamples, ResNet50 v1.5 for PyTorch, one A100 of 80 GB), each of 3 x 8.2 * 10^9 operations. That
#: is a fifth of the 312 * 10^12 of its datasheet. Others, and other networks: an assumption, ``--tflops`` changes it.
SUSTAINED = 6e13


@dataclass(frozen=True)
class Rate:
    """Images a second in training steps of a network on 32x32 pixels, on one core of a server of 2023."""

    width: float
    """Of the network that was timed; others take time in proportion to their operations."""
    masked: float
    """By torch on dense weights, in float32."""
    sparse: Mapping[float, float]
    """Sparsity -> by the sparse engine; empty where it was not timed."""

    def at(self, sparsity: float) -> float:
        """By the sparse engine, between the sparsities that were timed.

        >>> round(RATES["vgg16"].at(0.85))
        1490
        """
        return float(np.interp(sparsity, list(self.sparse), list(self.sparse.values())))


#: Network -> rates at batch 128 with channels last; ResNets that were not timed are taken to be as slow as ResNet-14.
RATES = {
    "vgg16": Rate(1 / 4, 700.0, {0.0: 700.0, 0.7: 960.0, 0.8: 1180.0, 0.9: 1800.0, 0.95: 3000.0}),
    "resnet14": Rate(1 / 8, 700.0, {}),
    "resnet20": Rate(1.0, 270.0, {0.3: 270.0, 0.5: 330.0, 0.7: 530.0, 0.9: 940.0, 0.95: 1240.0}),
}
#: Seconds a run takes beside its steps on such a core: images are opened, the test images are evaluated.
START_AND_END = 2.0


def digit_seconds(run: DigitRun) -> float:
    """Seconds that a run on digits takes on one core.

    >>> 10 < digit_seconds(DigitRun()) < 30
    True
    """
    dense = _STEP.get((run.model, False), _STEP["lenet5", False])
    # A mean of dense gradients needs one at every step, which torch computes.
    is_sparse = run.row.start != "dense" and not run.updater().gradient_decay
    step = _STEP.get((run.model, True), dense) if is_sparse else dense
    share = _PRUNING_SHARE if run.row.moves == "prune" else 1.0
    return share * run.steps * step * run.batch_size / 128 / 1000


@cache
def forward_flops(network: str, *, width: float = 1.0, stem: str = "imagenet", size: int = 224, classes: int) -> int:
    """Floating-point operations of one image's way through the dense network, two for each product that is added.

    Convolutions and linear layers count, nothing else does.

    Args:
        network: Key of :data:`~sparseflow.networks.NETWORKS`.
        width, stem: See :func:`~sparseflow.networks.resnet50`.
        size: Side of the image, in pixels.
        classes: Number of logits.

    >>> round(forward_flops("resnet50", classes=1000) / 1e9, 1)  # 4.1 * 10^9 multiply-adds
    8.2
    """
    products = 0

    def count(layer: nn.Module, _: object, outputs: Tensor) -> None:
        nonlocal products
        assert isinstance(layer, nn.Conv2d | nn.Linear)
        positions = outputs[0, 0].numel()  # one, where there is no map
        products += layer.weight.numel() * positions

    # On the meta device there are shapes, and nothing is computed.
    with torch.device("meta"):
        model = NETWORKS[network].build(classes, width=width, stem=stem).eval()
        for module in model.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                module.register_forward_hook(count)
        with torch.no_grad():
            model(torch.empty(1, 3, size, size))
    return 2 * products


def training_flops(run: ImageRun) -> int:
    """Operations of a whole training as a GPU does it, zeros included: a backward pass costs two forward passes.

    What is measured on the way is left out.
    """
    return 3 * _flops_of(run) * run.num_batches * run.batch_size


def device_seconds(run: ImageRun, *, rate: float = SUSTAINED) -> float:
    """Seconds on one device that sustains ``rate`` operations a second.

    >>> run = ImageRun(method="scratch")
    >>> round(device_seconds(run) / 3600)  # 102 epochs
    15
    """
    return training_flops(run) / rate


def core_seconds(run: ImageRun) -> float:
    """Seconds on one core, in proportion to the networks that were timed.

    A pruning run is taken to be dense until half its weights are pruned away; others that start dense, for as large a
    share of their steps as on digits.

    >>> from sparseflow.paper.matrix.cifar import VGG_BASE
    >>> round(core_seconds(VGG_BASE.with_(sparsity=0.9, width=1 / 4, steps=1000)))  # 64000 images, 1800 a second
    38
    """
    name = run.network if run.network in RATES else "resnet14"
    rate = RATES[name]
    timed = ImageRun(network=name, width=rate.width, stem="cifar", image_size=32, num_classes=10)
    dense = 1.0
    if run.engine != "masked" and rate.sparse and run.method != "dense":
        pruned = (run.prune_begin + run.prune_end) / 2 / run.steps
        dense = pruned if run.row.moves == "prune" else _PRUNING_SHARE if run.row.start == "dense" else 0.0
    seconds = dense / rate.masked + ((1 - dense) / rate.at(run.sparsity) if dense < 1 else 0.0)
    return START_AND_END + run.num_batches * run.batch_size * seconds * _flops_of(run) / _flops_of(timed)


def _flops_of(run: ImageRun) -> int:
    return forward_flops(run.network, width=run.width, stem=run.stem, size=run.image_size, classes=run.num_classes)
