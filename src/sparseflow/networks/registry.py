"""The networks by name: each row says how its network is built, drawn, masked, named and computed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import nn

from sparseflow.engine.stepper import MOST_ACTIVE
from sparseflow.networks.lenet import lenet5, lenet5_small, mlp, mlp_small
from sparseflow.networks.resnet import resnet14, resnet50
from sparseflow.networks.resnet20 import PROJECTIONS, resnet20
from sparseflow.networks.vgg import vgg16


@dataclass(frozen=True, kw_only=True)
class Network:
    r"""One network, complete: how it is built and drawn, where it is sparse, and what pages say of it.

    A new network is a file with its function, and one such row in :data:`NETWORKS`.

    Args:
        build: ``(num_classes, **size)`` to the network, whose parameters are not yet drawn the paper's way: images of
            shape ``(N, channels, height, width)`` in, ``(N, num_classes)`` logits out.
        channels: Of its images: 1 for digits, 3 for colour images.
        label: In tables.
        words: In the first sentence of a page.
        small_dense: What a run changes to train the dense twin with as few weights as the paper's sparse network
            (protocol E); nothing where there is no twin.
        allocation: Key of ``sparseflow.masks.allocation.ALLOCATIONS`` (protocol F).
        dense: Names of weights that never get a mask (protocol F).
        nonlinearity: The gain of the start, variance :math:`g^2 / n_{in}`: ``"relu"`` is He's scale :math:`g^2 = 2`,
            ``"linear"`` scale 1 (protocol B.5 and B.6); ``None`` is Glorot's uniform start (protocol B.5).
        normals: Weights with a dense start of their own: name -> std of a normal (protocol B.5).
        sparse_up_to: Share of active weights up to which ``engine="auto"`` takes the sparse engine.

    >>> NETWORKS["resnet50"].allocation, NETWORKS["resnet50"].dense
    ('uniform', ('conv1.weight',))
    """

    build: Callable[..., nn.Sequential]
    channels: Literal[1, 3]
    label: str
    words: str
    small_dense: Mapping[str, Any] = field(default_factory=dict)
    allocation: str = "uniform"
    dense: tuple[str, ...] = ()
    nonlinearity: Literal["relu", "linear"] | None = None
    normals: Mapping[str, float] = field(default_factory=dict)
    sparse_up_to: float = MOST_ACTIVE


#: What the paper does with ResNet-50, which any bottleneck network with batch norm can have.
_RESNET: dict[str, Any] = {
    "channels": 3,
    "allocation": "uniform",
    "dense": ("conv1.weight",),
    "nonlinearity": "linear",
    "normals": {"fc.weight": 0.01},
    "small_dense": {"width": 0.465},
}
#: Key of ``--model`` and ``--network``. The paper has no resnet14, which is ResNet-50 with one block per group, for
#: small images and machines, and no resnet20, whose twin has as few weights as it has at 90 % zeros. ``sparse_up_to``
#: was measured at batch 128 on one thread: LeNet5's plan is twice as fast as torch even when dense, the MLP's equals
#: torch at 0.8, ResNet-20's at 0.7 (torch with channels last).
NETWORKS: dict[str, Network] = {
    "lenet5": Network(
        build=lenet5,
        channels=1,
        label="LeNet5",
        words="LeNet5, a small convolutional network",
        small_dense={"model": "lenet5-small"},
        sparse_up_to=1.0,
    ),
    "lenet5-small": Network(
        build=lenet5_small, channels=1, label="Small LeNet5", words="LeNet5 with fewer channels", sparse_up_to=1.0
    ),
    "mlp": Network(
        build=mlp,
        channels=1,
        label="MLP",
        words="MLP 300-100, two hidden layers",
        small_dense={"model": "mlp-small"},
        sparse_up_to=0.6,
    ),
    "mlp-small": Network(
        build=mlp_small, channels=1, label="Small MLP", words="MLP 8-8, two hidden layers", sparse_up_to=1.0
    ),
    "vgg16": Network(
        build=vgg16,
        channels=3,
        label="VGG16",
        words="VGG16, thirteen convolutions in a chain",
        allocation="erk",
        nonlinearity="relu",
        small_dense={"width": 0.44},
    ),
    "resnet50": Network(build=resnet50, label="ResNet-50", words="ResNet-50", **_RESNET),
    "resnet14": Network(build=resnet14, label="ResNet-14", words="ResNet-14, with one block per group", **_RESNET),
    "resnet20": Network(
        build=resnet20,
        label="ResNet-20",
        words="ResNet-20, the smallest of the residual networks for CIFAR",
        sparse_up_to=0.6,
        **_RESNET | {"dense": ("conv1.weight", *PROJECTIONS), "small_dense": {"width": 0.33}},
    ),
}


def networks_for(channels: int) -> dict[str, Network]:
    """The networks that take images of this many channels, by name.

    >>> list(networks_for(1))
    ['lenet5', 'lenet5-small', 'mlp', 'mlp-small']
    """
    return {name: network for name, network in NETWORKS.items() if network.channels == channels}
