"""The networks by name, and what the paper's code does with each before training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from torch import nn

from sparseflow.networks.resnet import resnet14, resnet50
from sparseflow.networks.vgg import vgg16


class NetworkFn(Protocol):
    """Makes a network whose parameters are not yet drawn the paper's way."""

    def __call__(self, num_classes: int = 1000, *, width: float = 1.0, stem: str = "imagenet") -> nn.Sequential:
        """``(N, 3, height, width)`` in, ``(N, num_classes)`` logits out."""


@dataclass(frozen=True, kw_only=True)
class Network:
    r"""One network of the paper: how it is built, where it is sparse, and the variances of its start.

    Args:
        build: Makes it.
        allocation: Key of ``sparseflow.masks.allocation.ALLOCATIONS`` (protocol F).
        dense: Names of weights that never get a mask (protocol F).
        nonlinearity: Gives the gain of the start, variance :math:`g^2 / n_{in}`: ``"relu"`` is He's scale
            :math:`g^2 = 2`, ``"linear"`` scale 1 (protocol B.5 and B.6).
        normals: Weights with a dense start of their own: name -> std of a normal (protocol B.5).
        small_dense_width: Width of the dense twin of the 80 % sparse network (protocol E).

    >>> NETWORKS["resnet50"].allocation, NETWORKS["resnet50"].dense
    ('uniform', ('conv1.weight',))
    """

    build: NetworkFn
    allocation: str
    dense: tuple[str, ...] = ()
    nonlinearity: Literal["relu", "linear"]
    normals: Mapping[str, float] = field(default_factory=dict)
    small_dense_width: float


#: What the paper does with ResNet-50, which any bottleneck network with batch norm can have.
_RESNET: dict[str, Any] = {
    "allocation": "uniform",
    "dense": ("conv1.weight",),
    "nonlinearity": "linear",
    "normals": {"fc.weight": 0.01},
    "small_dense_width": 0.465,
}
#: Name -> network. The paper has no resnet14, which is ResNet-50 with one block a group, for small images and machines.
NETWORKS: dict[str, Network] = {
    "vgg16": Network(build=vgg16, allocation="erk", nonlinearity="relu", small_dense_width=0.44),
    "resnet50": Network(build=resnet50, **_RESNET),
    "resnet14": Network(build=resnet14, **_RESNET),
}
