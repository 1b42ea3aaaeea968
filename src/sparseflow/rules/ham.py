"""HAM: a hyperbolic step after the optimizer's own, by which weights near zero change their signs sooner."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sparseflow.boundary import checked
from sparseflow.ranges import NotNegative, Range, checked_fields
from sparseflow.sparsifier.rule import MaskedShape, RuleWeight, StepRule

#: Exponents are cut to this size, as in the authors' code.
LARGEST_EXPONENT = 5.0


@checked(alpha=Range(0), beta=Range(0))
@torch.no_grad()
def hyperbolic_step_(
    weight: Tensor, gradient: Tensor, *, rate: float | Tensor, alpha: float = 200.0, beta: float = 1e-3
) -> Tensor:
    r"""Multiply each weight by a power of e that grows where the gradient asks for a larger weight, in place.

    .. math:: w \leftarrow w \, \exp\bigl(\eta\, (-\alpha \operatorname{sign}(w)\, g - \beta)\bigr)

    Zeros stay zeros and no sign changes: signs change in the optimizer's step, which this one amplifies near zero.

    Args:
        weight: :math:`w`, any shape.
        gradient: :math:`g`, the same shape.
        rate: :math:`\eta`, the learning rate.
        alpha: Weight of the gradient (the authors: 200).
        beta: Decay towards zero (the authors: 0.001).

    Returns: ``weight``.

    Reference: Jacobs, Gadhikar, Rubio-Madrigal and Burkholz (2026), *Hyperbolic Aware Minimization*, arXiv 2506.02630.

    >>> weight = torch.tensor([1.0, -1.0, 0.0])
    >>> hyperbolic_step_(weight, torch.tensor([-1.0, -1.0, -1.0]), rate=0.01, alpha=10.0, beta=0.0)
    tensor([ 1.1052, -0.9048,  0.0000])
    """
    exponent = (weight.sign() * gradient).mul_(-alpha).sub_(beta).mul_(rate)
    return weight.mul_(exponent.clamp_(-LARGEST_EXPONENT, LARGEST_EXPONENT).exp_())


@dataclass
class HAM(StepRule):
    """A hyperbolic step after each of the optimizer's, see :func:`hyperbolic_step_`; nothing is remembered.

    It moves every weight of two or more axes that has a gradient, masked or not, as the authors' code does, by the
    gradient of the optimizer's step and the learning rate of its group. That code then also scales tensors whose norm
    is above 1000, and clips gradients that were used already, neither of which the paper has: this rule does neither.

    Args:
        alpha: Weight of the gradient, at least 0 (the authors: 200).
        beta: Decay towards zero, at least 0 (the authors: 0.001).

    Raises:
        TypeError, ValueError: naming the option; or if the optimizer has no learning rate.

    Reference: Jacobs et al. (2026), arXiv 2506.02630; their code: github.com/TomJacobs05/HAM.

    >>> import sparseflow as sf
    >>> model = torch.nn.Linear(20, 10)
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    >>> masks = sf.random_masks(model, 0.9, seed=0)
    >>> sparsifier = sf.Sparsifier(model, optimizer, masks, sf.Static(), seed=0, rules=[sf.rules.HAM()])
    >>> model(torch.ones(8, 20)).square().mean().backward(); optimizer.step()
    >>> print(sparsifier.check())
    1 weights, 0 optimizer state tensors, 1 rank(s): all hold
    """

    alpha: NotNegative = 200.0
    beta: NotNegative = 1e-3

    def __post_init__(self) -> None:
        vars(self).update(checked_fields(self))

    def attach(self, optimizers: Sequence[torch.optim.Optimizer], shapes: Mapping[str, MaskedShape]) -> None:
        """Check that there is a learning rate."""
        for optimizer in optimizers:
            if not all("lr" in group for group in optimizer.param_groups):
                raise ValueError(
                    f"HAM multiplies by the learning rate, and {type(optimizer).__name__} has none: its groups have no "
                    "'lr'. Use an optimizer that has one."
                )

    def after_step(self, weights: Sequence[RuleWeight]) -> None:
        """Take the hyperbolic step."""
        for weight in weights:
            gradient = weight.gradient.to_dense()  # of an embedding it may be sparse
            gradient = gradient.neg() if weight.group.get("maximize") else gradient
            hyperbolic_step_(weight.value, gradient, rate=weight.group["lr"], alpha=self.alpha, beta=self.beta)
