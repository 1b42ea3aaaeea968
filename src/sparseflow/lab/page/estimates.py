"""A mean with its spread and its uncertainty."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats


@dataclass(frozen=True)
class Estimate:
    """Mean over ``n`` models with its spread; NaN where there are too few to tell."""

    n: int
    mean: float
    std: float
    """Population standard deviation (ddof=0), as in the paper; NaN for one."""
    low: float
    high: float
    """Ends of the 95 % confidence interval of the mean; NaN for one."""


def estimate(values: Sequence[float] | npt.NDArray[np.float64]) -> Estimate:
    r"""Mean, population std, and the t interval of the mean.

    .. math:: \bar x \pm t_{0.975,\,n-1}\, s / \sqrt n, \quad s \text{ with } n - 1

    >>> estimate([1.0, 3.0]).std, round(estimate([1.0, 2.0, 3.0]).high, 3)  # t(0.975, 2) = 4.303
    (1.0, 4.484)
    """
    given = np.asarray(values, dtype=float)
    n = len(given)
    if n < 2:
        return Estimate(n, float(given.mean()) if n else np.nan, np.nan, np.nan, np.nan)
    margin = interval_margin(float(given.std(ddof=1)) / n**0.5, n)
    mean = float(given.mean())
    return Estimate(n, mean, float(given.std()), mean - margin, mean + margin)


def interval_margin(standard_error: float, n: int, *, level: float = 0.95) -> float:
    """Half the width of a t interval with ``n - 1`` degrees of freedom.

    >>> round(interval_margin(1.0, 5, level=0.8), 3)  # the paper's bands (protocol I.2)
    1.533
    """
    return float(stats.t.ppf(0.5 + level / 2, n - 1)) * standard_error


def share_interval(successes: int, n: int) -> tuple[float, float]:
    r"""The 95 % interval of Clopper and Pearson (1934) for a share of ``n`` independent runs, in [0, 1].

    >>> low, high = share_interval(0, 10)
    >>> low, round(high, 4), round(1 - 0.025 ** (1 / 10), 4)  # for none of n the upper end has a closed form
    (0.0, 0.3085, 0.3085)
    """
    found = stats.binomtest(successes, n).proportion_ci(0.95, method="exact")
    return float(found.low), float(found.high)
