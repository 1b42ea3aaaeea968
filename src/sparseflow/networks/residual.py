"""The residual blocks with batch norm: two 3x3 convolutions, or a bottleneck of three."""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor, nn

#: Output channels of a bottleneck over those of its 3x3 convolution.
EXPANSION = 4


class ResidualBlock(nn.Module):
    r"""The rectified sum of a shortcut and a residual branch.

    .. math:: y = \mathrm{relu}(\mathrm{shortcut}(x) + \mathrm{residual}(x))

    Args:
        residual: A chain of convolutions that ends with a batch norm.
        shortcut: A projection, or ``nn.Identity()``.

    Reference: He et al. (2016), *Deep Residual Learning for Image Recognition*.
    """

    def __init__(self, residual: nn.Sequential, shortcut: nn.Module) -> None:
        super().__init__()
        self.residual = residual
        self.shortcut = shortcut
        self.relu = nn.ReLU()

    @property
    def last_norm(self) -> nn.BatchNorm2d:
        """The norm whose scale starts at zero, so that the block starts as its shortcut."""
        norm = self.residual[-1]
        assert isinstance(norm, nn.BatchNorm2d)
        return norm

    def forward(self, x: Tensor) -> Tensor:
        """``(N, channels, height, width)`` in, the same or, where the branches have a stride, smaller maps out."""
        shortcut = self.shortcut(x)
        if (one_pass := getattr(self.residual, "rectified_sum", None)) is not None:  # converted by the sparse engine
            return one_pass(x, shortcut, self.relu)  # type: ignore[no-any-return]
        return self.relu(shortcut + self.residual(x))  # type: ignore[no-any-return]


def basic_block(inputs: int, filters: int, *, stride: int = 1) -> ResidualBlock:
    """Two 3x3 convolutions with batch norm, as in ResNet-18, ResNet-34 and the networks for CIFAR.

    Args:
        inputs: Channels of its maps.
        filters: Channels of both convolutions and of the result.
        stride: Of the first convolution and of the shortcut, which is a 1x1 convolution with batch norm where the
            result has another shape than the input, and nothing else.

    Reference: He et al. (2016), Figure 5, left, and shortcut B of section 4.1.

    >>> import torch
    >>> basic_block(8, 16, stride=2)(torch.zeros(1, 8, 6, 6)).shape
    torch.Size([1, 16, 3, 3])
    """
    residual = chain(
        conv1=convolution(inputs, filters, kernel_size=3, stride=stride),
        norm1=batch_norm(filters),
        relu1=nn.ReLU(),
        conv2=convolution(filters, filters, kernel_size=3),
        norm2=batch_norm(filters),
    )
    same = stride == 1 and inputs == filters
    return ResidualBlock(residual, nn.Identity() if same else _projection(inputs, filters, stride=stride))


def bottleneck(inputs: int, filters: int, *, stride: int = 1, projects: bool = False) -> ResidualBlock:
    """Three convolutions with batch norm, 1x1, 3x3 and 1x1, of which the second halves the maps (version 1.5).

    Args:
        inputs: Channels of its maps.
        filters: Channels of the first two convolutions; the result has four times as many.
        stride: Of the 3x3 convolution and the projection.
        projects: Whether the shortcut is a 1x1 convolution with batch norm, or nothing.

    Reference: He et al. (2016), Figure 5, right; protocol G.4.

    >>> import torch
    >>> bottleneck(8, 4, stride=2, projects=True)(torch.zeros(1, 8, 6, 6)).shape
    torch.Size([1, 16, 3, 3])
    """
    outputs = EXPANSION * filters
    residual = chain(
        conv1=convolution(inputs, filters, kernel_size=1),
        norm1=batch_norm(filters),
        relu1=nn.ReLU(),
        conv2=convolution(filters, filters, kernel_size=3, stride=stride),
        norm2=batch_norm(filters),
        relu2=nn.ReLU(),
        conv3=convolution(filters, outputs, kernel_size=1),
        norm3=batch_norm(outputs),
    )
    return ResidualBlock(residual, _projection(inputs, outputs, stride=stride) if projects else nn.Identity())


def convolution(inputs: int, outputs: int, *, kernel_size: int, stride: int = 1) -> nn.Conv2d:
    """A convolution without bias, padded by ``kernel_size // 2`` zeros on either side."""
    return nn.Conv2d(inputs, outputs, kernel_size, stride=stride, padding=kernel_size // 2, bias=False)


def batch_norm(features: int) -> nn.BatchNorm2d:
    """Epsilon 1e-5; running statistics keep 0.9 of their past (TensorFlow's momentum 0.9, torch's 0.1)."""
    return nn.BatchNorm2d(features, eps=1e-5, momentum=0.1)


def chain(**layers: nn.Module) -> nn.Sequential:
    """Layers one after the other, by name."""
    return nn.Sequential(OrderedDict(layers))


def _projection(inputs: int, outputs: int, *, stride: int) -> nn.Sequential:
    return chain(conv=convolution(inputs, outputs, kernel_size=1, stride=stride), norm=batch_norm(outputs))
