"""The paper's ImageNet optimizer: Nesterov SGD, linear warm-up, steps down, L2 on kernels."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn

#: The paper trains 128,000 steps of 1024 images, or 32,000 of 4096, on 1,281,167 images.
EPOCHS = 32_000 * 4096 / 1_281_167
#: Of these the first five warm up, and the learning rate falls to a tenth at the others.
WARMUP_EPOCHS, DROP_EPOCHS = 5.0, (30.0, 70.0, 90.0)


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
        """The paper's schedule, stretched to any number of steps."""

        def step_of(epoch: float) -> int:
            return round(steps * epoch / EPOCHS)

        return cls(peak, step_of(WARMUP_EPOCHS), tuple(map(step_of, DROP_EPOCHS)))

    def at(self, step: int) -> float:
        """Learning rate of the update that follows ``step`` others."""
        warm = min(1.0, step / self.warmup_steps) if self.warmup_steps else 1.0
        return self.peak * warm * 0.1 ** sum(step >= drop for drop in self.drop_steps)

    def set_(self, optimizer: torch.optim.Optimizer, step: int) -> None:
        """Give every parameter group that rate."""
        for group in optimizer.param_groups:
            group["lr"] = self.at(step)


def nesterov_sgd(
    model: nn.Module, *, learning_rate: float, momentum: float = 0.9, weight_decay: float = 1e-4
) -> torch.optim.SGD:
    r"""Nesterov SGD; the penalty :math:`\lambda \sum w^2 / 2` is on kernels, not on biases and norms.

    Args:
        model: Its trainable parameters.
        learning_rate: At the first step.
        momentum: In [0, 1).
        weight_decay: :math:`\lambda`; the gradient is :math:`\lambda w`, which is torch's own meaning (MNIST's penalty
            in this paper has no half).

    Reference: protocol 0 and G.6.

    >>> optimizer = nesterov_sgd(nn.Linear(2, 1), learning_rate=0.1)
    >>> [(len(group["params"]), group["weight_decay"]) for group in optimizer.param_groups]
    [(1, 0.0001), (1, 0.0)]
    """
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [parameter for parameter in trainable if parameter.dim() > 1], "weight_decay": weight_decay},
        {"params": [parameter for parameter in trainable if parameter.dim() <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.SGD(
        [group for group in groups if group["params"]], lr=learning_rate, momentum=momentum, nesterov=momentum > 0
    )
