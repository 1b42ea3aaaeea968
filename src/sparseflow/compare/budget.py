"""How many steps a method gets: as many as all, or what the operations or the seconds of static masks allow."""

from __future__ import annotations

import math
from collections.abc import Callable

from sparseflow.compare.flops import layer_flops, update_flops
from sparseflow.training.config import RunConfig
from sparseflow.training.runs import Run

#: Name of a budget -> what is the same for all methods at one sparsity.
BUDGETS = {
    "steps": "the same number of optimizer steps",
    "flops": "the floating-point operations that static masks take for their steps",
    "seconds": "the seconds that static masks take for their steps",
}


#: Operations, or seconds, of a whole training.
Cost = Callable[[RunConfig], float]


def num_updates(config: RunConfig) -> int:
    """Mask updates of a run.

    >>> from sparseflow.training.digits import DigitRun
    >>> num_updates(DigitRun(method="rigl", steps=1000, update_every=100))
    10
    """
    method = config.updater()
    return sum(method.due(step) for step in range(1, config.steps + 1))


def flops_like(config: RunConfig, total: float) -> Cost:
    """Operations of trainings whose steps cost as much as those of one, and whose updates cost what they do.

    Args:
        config: That run.
        total: Its operations, of :func:`.training_flops`.
    """
    method, whole, updates = config.updater(), sum(layer_flops(config).values()), num_updates(config)
    if method.gradient_decay or not method.needs_gradient or not updates:
        return lambda other: other.steps * total / config.steps
    # The total is linear in the operations of the active weights: with none of them, and as many again.
    steps = 3 * config.batch_size * config.steps
    without, per_active = (updates * update_flops(config, active, 1.0) for active in (0.0, 1.0))
    active = (total - without * whole) / (steps + per_active - without)

    def cost(other: RunConfig) -> float:
        return 3 * other.batch_size * other.steps * active + num_updates(other) * update_flops(other, active, whole)

    return cost


def seconds_like(run: Run) -> Cost:
    """Seconds of trainings whose steps take as long as those of one, with all that is due around them.

    Args:
        run: That run; what was measured in it is left out.
    """
    return lambda other: other.steps * training_seconds(run) / run.config.steps


def training_seconds(run: Run) -> float:
    """Seconds of a finished run without those of measuring."""
    return run.seconds - (0.0 if math.isnan(run.measuring) else run.measuring)


def affordable(make: Callable[[int], RunConfig], cost: Cost, budget: float, *, most: int, what: str) -> int:
    """The largest number of steps whose training costs at most a budget.

    Args:
        make: Takes a number of steps, gives the run with so many.
        cost: Of a training of the method.
        budget: In its unit.
        most: Steps that are looked at.
        what: Method and network, in the error.

    Raises:
        ValueError: if one step is too dear.
    """

    def fits(steps: int) -> bool:
        return cost(make(steps)) <= budget

    if not fits(1):
        raise ValueError(
            f"the budget of {what} is below one step: it has {budget:.3g}, a step costs {cost(make(1)):.3g}. "
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
