"""How many steps a method gets: as many as all, or what the operations or the seconds of static masks allow."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from sparseflow.compare.flops import layer_flops, update_flops
from sparseflow.training.config import RunConfig
from sparseflow.training.runs import Run

#: Name of a budget -> what is the same for all methods at one sparsity.
BUDGETS = {
    "steps": "the same number of optimizer steps",
    "flops": "the floating-point operations that static masks take for their steps",
    "seconds": "the seconds that static masks take for their steps",
}


@dataclass(frozen=True)
class Rate:
    """What a step of a method costs, and an update of its masks, from a run of its search."""

    step: float
    """Operations, or seconds, of a step without update."""
    update: float = 0.0
    """Of an update; nothing where a step's cost is a mean over all of them."""

    def total(self, config: RunConfig) -> float:
        """Cost of a whole training."""
        return config.steps * self.step + (num_updates(config) * self.update if self.update else 0.0)


def num_updates(config: RunConfig) -> int:
    """Mask updates of a run.

    >>> from sparseflow.training.digits import DigitRun
    >>> num_updates(DigitRun(method="rigl", steps=1000, update_every=100))
    10
    """
    method = config.updater()
    return sum(method.due(step) for step in range(1, config.steps + 1))


def flops_rate(config: RunConfig, total: float) -> Rate:
    """Operations of a step and of an update, from those of a whole training.

    Args:
        config: The run.
        total: Of :func:`.training_flops`.
    """
    method = config.updater()
    if method.gradient_decay or not method.needs_gradient or not (updates := num_updates(config)):
        return Rate(total / config.steps)
    whole = sum(layer_flops(config).values())
    if config.channels == 1:
        # Twice the active part and the whole, for its images; the active part is a third of a step's operations.
        images = update_flops(config, 0.0, whole) / whole
        active = (total - updates * images * whole) / (3 * config.batch_size * config.steps + 2 * images * updates)
    else:
        active = (total - updates * config.batch_size * whole) / (config.batch_size * (3 * config.steps - updates))
    return Rate(3 * config.batch_size * active, update_flops(config, active, whole))


def seconds_rate(run: Run) -> Rate:
    """Seconds of a step with all that is due around it, without what was measured.

    Args:
        run: Of the search.
    """
    return Rate(training_seconds(run) / run.config.steps)


def training_seconds(run: Run) -> float:
    """Seconds of a finished run without those of measuring."""
    return run.seconds - (0.0 if math.isnan(run.measuring) else run.measuring)


def affordable(make: Callable[[int], RunConfig], rate: Rate, budget: float, *, most: int, what: str) -> int:
    """The largest number of steps whose training costs at most a budget.

    Args:
        make: Takes a number of steps, gives the run with so many.
        rate: Of the method.
        budget: In the rate's unit.
        most: Steps that are looked at.
        what: Method and network, in the error.

    Raises:
        ValueError: if one step is too dear.
    """

    def fits(steps: int) -> bool:
        return rate.total(make(steps)) <= budget

    if not fits(1):
        raise ValueError(
            f"the budget of {what} is below one step: it has {budget:.3g}, a step costs {rate.total(make(1)):.3g}. "
            "Give more --steps, or leave the method out with --methods."
        )
    low, high = 1, 1
    while high < most and fits(high):
        low, high = high, min(most, 2 * high)
    if fits(high):
        return high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low
