"""The methods, initialisations and seeds of the paper's tables, for digits and for images."""

from __future__ import annotations

from typing import TypeVar

from sparseflow.init.schemes import SCHEMES
from sparseflow.training.config import RunConfig

Config = TypeVar("Config", bound=RunConfig)

#: The methods of Table 1 that start from random masks.
METHODS = ("scratch", "set", "rigl")
#: The methods among them whose masks move.
MOVING = METHODS[1:]
#: The paper's initialisations; ``live`` is ours.
INITS = tuple(scheme for scheme in SCHEMES if scheme != "live")
#: Seeds of runs that share a start: none of a pruning run, so that no ticket sees its data in the same order.
REPEATS = 100


def repeat(config: Config, seeds: int, *, first: int = 0) -> list[Config]:
    """The same run with several seeds.

    >>> from sparseflow.training.digits import DigitRun
    >>> [config.seed for config in repeat(DigitRun(), 2, first=100)]
    [100, 101]
    """
    return [config.with_(seed=first + seed) for seed in range(seeds)]
