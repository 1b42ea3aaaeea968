"""The paper's optimizers: SGD with L2 on kernels, and the learning rates of MNIST and of ImageNet."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn

#: Shares of the training at which the "step" schedule of digits divides the learning rate by ten: the paper's epochs
#: 30, 70 and 90.
DROPS = (0.3, 0.7, 0.9)
#: The paper trains 128,000 steps of 1024 images, or 32,000 of 4096, on 1,281,167 images.
EPOCHS = 32_000 * 4096 / 1_281_167
#: Of these the first five warm up, and the learning rate falls to a tenth at the others.
WARMUP_EPOCHS, DROP_EPOCHS = 5.0, (30.0, 70.0, 90.0)


@dataclass(frozen=True)
class KerasSchedule:
    r"""The learning rates of the paper's MNIST runs, inside the velocity: a cosine to zero, or steps down.

    .. math:: \eta(t) = \eta_0 \frac{1 + \cos(\pi t / T)}{2} \quad\text{or}\quad \eta_0\, 10^{-\#\{d: t \ge d T\}}

    Reference: protocol G.6.

    >>> [KerasSchedule(peak=0.5, steps=100).at(step) for step in (0, 50, 100)]
    [0.5, 0.25, 0.0]
    """

    peak: float
    r""":math:`\eta_0`."""
    steps: int
    """``T``."""
    momentum: float = 0.9
    """In [0, 1)."""
    shape: str = "cosine"
    """``"cosine"`` or ``"step"``."""

    def at(self, step: int) -> float:
        """Learning rate of the update that follows ``step`` others."""
        if self.shape == "step":
            drops = sum(step >= share * self.steps for share in DROPS)
            return self.peak * 0.1**drops
        return self.peak * (1 + math.cos(math.pi * step / self.steps)) / 2

    def set_(self, optimizer: torch.optim.Optimizer, step: int) -> None:
        r"""Set learning rate and momentum for the update that follows ``step`` others.

        The paper's code (Keras) keeps :math:`v_t = \mu v_{t-1} - \eta_t g_t` and adds :math:`v_t`. torch multiplies the
        learning rate outside, :math:`w \leftarrow w - \eta_t b_t` with :math:`b_t = \mu_t b_{t-1} + g_t`; the two are
        equal with :math:`\mu_t = \mu\, \eta_{t-1} / \eta_t`.

        >>> optimizer = sgd(nn.Linear(2, 1), learning_rate=0.05)
        >>> KerasSchedule(peak=0.05, steps=4).set_(optimizer, 2)
        >>> round(optimizer.param_groups[0]["lr"], 6), round(optimizer.param_groups[0]["momentum"], 3)
        (0.025, 1.536)
        """
        rate, before = self.at(step), self.at(max(0, step - 1))
        for group in optimizer.param_groups:
            group["lr"] = rate
            group["momentum"] = self.momentum * before / rate


@dataclass(frozen=True)
class StepSchedule:
    r"""Linear warm-up to the peak, then a tenth after each drop.

    .. math:: \eta(t) = \eta_0 \min(1, t / t_w)\, 10^{-\#\{d: t \ge t_d\}}

    Reference: protocol G.6.

    >>> schedule = StepSchedule.of_paper(peak=1.6, steps=32_000)
    >>> schedule.warmup_steps, schedule.drop_steps
    (1564, (9384, 21895, 28151))
    >>> [round(schedule.at(step), 3) for step in (0, 782, 1564, 9384, 31_999)]
    [0.0, 0.8, 1.6, 0.16, 0.002]
    """

    peak: float
    """Learning rate at the end of the warm-up."""
    warmup_steps: int
    """Optimizer steps until the peak; 0 for none."""
    drop_steps: tuple[int, ...]
    """Optimizer steps from which on the rate is a tenth of what it was."""

    def __post_init__(self) -> None:
        if not (0 < self.peak < math.inf and self.warmup_steps >= 0):
            raise ValueError(
                f"peak must be positive and warmup_steps not negative, got {self.peak!r} and {self.warmup_steps!r}."
            )

    @classmethod
    def of_paper(cls, *, peak: float, steps: int) -> StepSchedule:
        """The schedule of the paper's ImageNet runs, stretched to any number of steps."""

        def step_of(epoch: float) -> int:
            return round(steps * epoch / EPOCHS)

        return cls(peak, step_of(WARMUP_EPOCHS), tuple(map(step_of, DROP_EPOCHS)))

    def at(self, step: int) -> float:
        """Learning rate of the update that follows ``step`` others."""
        warm = min(1.0, step / self.warmup_steps) if self.warmup_steps else 1.0
        return self.peak * warm * 0.1 ** sum(step >= drop for drop in self.drop_steps)

    def set_(self, optimizer: torch.optim.Optimizer, step: int) -> None:
        """Set the learning rate of every parameter group for the update that follows ``step`` others."""
        for group in optimizer.param_groups:
            group["lr"] = self.at(step)


#: A learning rate for every step, which ``set_`` gives to an optimizer.
LearningRates = KerasSchedule | StepSchedule


def sgd(
    model: nn.Module, *, learning_rate: float, momentum: float = 0.9, l2: float = 1e-4, nesterov: bool = True
) -> torch.optim.SGD:
    r"""SGD whose L2 gradient is :math:`\lambda w` on kernels and nothing on biases and norms.

    Args:
        model: Its trainable parameters.
        learning_rate: At the first step.
        momentum: In [0, 1).
        l2: :math:`\lambda`, torch's ``weight_decay``. The paper's penalty on ImageNet is half of it times the squared
            weights, its penalty on MNIST has no half: there :math:`\lambda` is twice the printed number.
        nesterov: Whether the momentum is Nesterov's, as on ImageNet; the paper's on MNIST is heavy-ball.

    Reference: protocol 0 and G.6.

    >>> optimizer = sgd(nn.Linear(2, 1), learning_rate=0.1)
    >>> [(len(group["params"]), group["weight_decay"]) for group in optimizer.param_groups]
    [(1, 0.0001), (1, 0.0)]
    """
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [parameter for parameter in trainable if parameter.dim() > 1], "weight_decay": l2},
        {"params": [parameter for parameter in trainable if parameter.dim() <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.SGD(
        [group for group in groups if group["params"]],
        lr=learning_rate,
        momentum=momentum,
        nesterov=nesterov and momentum > 0,
    )
