"""The paper's networks for 28x28 images and their Small Dense twins, as chains of named layers."""

from __future__ import annotations

from collections import OrderedDict

from torch import nn


def lenet5(num_classes: int = 10) -> nn.Sequential:
    """LeNet5 as in the authors' code: unpadded 5x5 convolutions, 44190 weights and 236 biases.

    conv 6 - pool - conv 16 - pool - 120 - 84 - logits; ReLU after each layer but the last, 2x2 max-pooling. The classic
    LeNet pads conv1 and has other counts.

    Reference: LeCun et al. (1998), *Gradient-Based Learning Applied to Document Recognition*; protocol E and G.1.

    >>> sum(p.numel() for p in lenet5().parameters())
    44426
    """
    return _lenet5(conv1=6, conv2=16, fc1=120, fc2=84, num_classes=num_classes)


def lenet5_small(num_classes: int = 10) -> nn.Sequential:
    """Small Dense twin of a 95 % sparse LeNet5: widths 3, 3, 27, 20; 2336 weights and 63 biases.

    Reference: LeCun et al. (1998), *Gradient-Based Learning Applied to Document Recognition*; protocol E and G.1.

    >>> sum(p.numel() for p in lenet5_small().parameters())
    2399
    """
    return _lenet5(conv1=3, conv2=3, fc1=27, fc2=20, num_classes=num_classes)


def mlp(num_classes: int = 10) -> nn.Sequential:
    """The multi-layer perceptron 784-300-100-10 with ReLU: 266200 weights and 410 biases.

    Reference: LeCun et al. (1998), the network 300-100; protocol E and G.2.

    >>> sum(p.numel() for p in mlp().parameters())
    266610
    """
    return _mlp(fc1=300, fc2=100, num_classes=num_classes)


def mlp_small(num_classes: int = 10) -> nn.Sequential:
    """Small Dense twin of a 98 % sparse MLP: widths 8 and 8; 6416 weights and 26 biases.

    Reference: LeCun et al. (1998), the network 300-100; protocol E and G.2.

    >>> sum(p.numel() for p in mlp_small().parameters())
    6442
    """
    return _mlp(fc1=8, fc2=8, num_classes=num_classes)


def _lenet5(*, conv1: int, conv2: int, fc1: int, fc2: int, num_classes: int) -> nn.Sequential:
    return _chain(
        conv1=nn.Conv2d(1, conv1, kernel_size=5),
        relu1=nn.ReLU(),
        pool1=nn.MaxPool2d(2),
        conv2=nn.Conv2d(conv1, conv2, kernel_size=5),
        relu2=nn.ReLU(),
        pool2=nn.MaxPool2d(2),
        flatten=nn.Flatten(),
        fc1=nn.Linear(conv2 * 4 * 4, fc1),
        relu3=nn.ReLU(),
        fc2=nn.Linear(fc1, fc2),
        relu4=nn.ReLU(),
        fc3=nn.Linear(fc2, num_classes),
    )


def _mlp(*, fc1: int, fc2: int, num_classes: int) -> nn.Sequential:
    return _chain(
        flatten=nn.Flatten(),
        fc1=nn.Linear(28 * 28, fc1),
        relu1=nn.ReLU(),
        fc2=nn.Linear(fc1, fc2),
        relu2=nn.ReLU(),
        fc3=nn.Linear(fc2, num_classes),
    )


def _chain(**layers: nn.Module) -> nn.Sequential:
    return nn.Sequential(OrderedDict(layers))
