"""The paper's MNIST optimizer: heavy-ball SGD with the learning rate inside the velocity, and L2 on kernels only."""

from __future__ import annotations

import math

import torch
from torch import nn

from sparseflow.training.digits import DigitRun

#: Shares of the training at which the "step" schedule divides the learning rate by ten: the paper's epochs 30, 70, 90.
DROPS = (0.3, 0.7, 0.9)


def learning_rate_at(step: int, config: DigitRun) -> float:
    r"""Cosine from the initial learning rate to zero, or steps down.

    .. math:: \eta(t) = \eta_0 \frac{1 + \cos(\pi t / T)}{2} \quad\text{or}\quad \eta_0\, 10^{-\#\{d: t \ge d T\}}

    Args:
        step: ``t``, optimizer steps taken; 0 at the first update.
        config: Gives :math:`\eta_0` and ``T``.

    >>> [learning_rate_at(step, DigitRun(steps=100, learning_rate=0.5)) for step in (0, 50, 100)]
    [0.5, 0.25, 0.0]
    """
    if config.schedule == "step":
        drops = sum(step >= share * config.steps for share in DROPS)
        return config.learning_rate * 0.1**drops
    return config.learning_rate * (1 + math.cos(math.pi * step / config.steps)) / 2


def make_optimizer(model: nn.Module, config: DigitRun) -> torch.optim.SGD:
    """SGD whose L2 gradient is ``2 * weight_decay * w`` on kernels and nothing on biases.

    The penalty is ``weight_decay * sum(w^2)``, so torch's coefficient, which multiplies ``w`` in the gradient, is twice
    as large.

    Reference: protocol G.6.

    >>> [group["weight_decay"] for group in make_optimizer(nn.Linear(2, 1), DigitRun(weight_decay=5e-4)).param_groups]
    [0.001, 0.0]
    """
    kernels = [parameter for parameter in model.parameters() if parameter.dim() > 1]
    others = [parameter for parameter in model.parameters() if parameter.dim() <= 1]
    groups = [{"params": kernels, "weight_decay": 2 * config.weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.SGD(groups, lr=config.learning_rate, momentum=config.momentum)


def set_step_(optimizer: torch.optim.SGD, step: int, config: DigitRun) -> None:
    r"""Set learning rate and momentum for the update that follows ``step`` others.

    The paper's code (Keras) keeps :math:`v_t = \mu v_{t-1} - \eta_t g_t` and adds :math:`v_t`. torch multiplies the
    learning rate outside, :math:`w \leftarrow w - \eta_t b_t` with :math:`b_t = \mu_t b_{t-1} + g_t`; the two are equal
    with :math:`\mu_t = \mu\, \eta_{t-1} / \eta_t`.

    Reference: protocol G.6.

    >>> optimizer = make_optimizer(nn.Linear(2, 1), DigitRun(steps=4))
    >>> set_step_(optimizer, 2, DigitRun(steps=4))
    >>> round(optimizer.param_groups[0]["lr"], 6), round(optimizer.param_groups[0]["momentum"], 3)
    (0.025, 1.536)
    """
    rate = learning_rate_at(step, config)
    before = learning_rate_at(max(0, step - 1), config)
    for group in optimizer.param_groups:
        group["lr"] = rate
        group["momentum"] = config.momentum * before / rate
