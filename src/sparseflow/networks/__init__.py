"""The paper's ImageNet networks, VGG16 and ResNet-50: how they are built, how they start, where they are sparse."""

from sparseflow.networks.registry import NETWORKS, Network
from sparseflow.networks.resnet import Bottleneck, resnet14, resnet50
from sparseflow.networks.size import STEMS, channels
from sparseflow.networks.start import build_network, draw_sparse_, network_masks
from sparseflow.networks.vgg import vgg16

__all__ = [
    "NETWORKS",
    "STEMS",
    "Bottleneck",
    "Network",
    "build_network",
    "channels",
    "draw_sparse_",
    "network_masks",
    "resnet14",
    "resnet50",
    "vgg16",
]
