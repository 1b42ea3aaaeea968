"""The networks of the paper: how they are built, how they start, where they are sparse."""

from sparseflow.networks.lenet import lenet5, mlp
from sparseflow.networks.registry import NETWORKS, Network, networks_for
from sparseflow.networks.residual import ResidualBlock
from sparseflow.networks.resnet import resnet14, resnet50
from sparseflow.networks.resnet20 import resnet20
from sparseflow.networks.size import STEMS, channels
from sparseflow.networks.start import build_network, draw_sparse_, network_masks
from sparseflow.networks.vgg import vgg16

__all__ = [
    "NETWORKS",
    "STEMS",
    "Network",
    "ResidualBlock",
    "build_network",
    "channels",
    "draw_sparse_",
    "lenet5",
    "mlp",
    "network_masks",
    "networks_for",
    "resnet14",
    "resnet20",
    "resnet50",
    "vgg16",
]
