"""Scores of weights, by which connections are dropped and grown."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor


class ScoreFn(Protocol):
    """A function that scores each entry of a weight: the highest stay, the highest grow."""

    def __call__(self, weight: Tensor, gradient: Tensor | None, *, generator: torch.Generator) -> Tensor:
        """Scores of the weight's shape.

        Args:
            weight: Zero where inactive.
            gradient: The dense gradient, if the method asked for it.
            generator: For random scores.

        Raises:
            ValueError: if the score needs the gradient and there is none.
        """
        ...


def magnitude(weight: Tensor, gradient: Tensor | None, *, generator: torch.Generator) -> Tensor:
    r"""Absolute value of the weight: :math:`s_{ij} = |w_{ij}|`. Arguments as :class:`ScoreFn`.

    Reference: Han et al. (2015), *Learning both weights and connections for efficient neural networks*.

    >>> magnitude(torch.tensor([-2.0, 1.0]), None, generator=torch.Generator())
    tensor([2., 1.])
    """
    return weight.abs()


def uniform_random(weight: Tensor, gradient: Tensor | None, *, generator: torch.Generator) -> Tensor:
    r"""Independent uniform draws on [0, 1), made on the CPU so that every device grows the same connections.

    Arguments as :class:`ScoreFn`.

    Reference: Mocanu et al. (2018), SET.

    >>> uniform_random(torch.zeros(2, 3), None, generator=torch.Generator().manual_seed(0)).shape
    torch.Size([2, 3])
    """
    return torch.rand(weight.shape, generator=generator).to(weight.device)


def gradient_magnitude(weight: Tensor, gradient: Tensor | None, *, generator: torch.Generator) -> Tensor:
    r"""Absolute value of the dense gradient: :math:`s_{ij} = |\partial L / \partial w_{ij}|`.

    Arguments and errors as :class:`ScoreFn`.

    Reference: Evci et al. (2020), RigL.

    >>> gradient_magnitude(torch.zeros(2), torch.tensor([-3.0, 1.0]), generator=torch.Generator())
    tensor([3., 1.])
    """
    return _needed(gradient).abs()


def negative_gradient_magnitude(weight: Tensor, gradient: Tensor | None, *, generator: torch.Generator) -> Tensor:
    r"""The inverted control: :math:`s_{ij} = -|\partial L / \partial w_{ij}|`, smallest gradients grow.

    Arguments and errors as :class:`ScoreFn`.

    Reference: Evci et al. (2022), RigL-Inverted.

    >>> negative_gradient_magnitude(torch.zeros(2), torch.tensor([-3.0, 1.0]), generator=torch.Generator())
    tensor([-3., -1.])
    """
    return _needed(gradient).abs().neg_()


def _needed(gradient: Tensor | None) -> Tensor:
    if gradient is None:
        raise ValueError("this score needs the dense gradient, got None.")
    return gradient
