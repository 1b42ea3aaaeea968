"""Estimates with their confidence intervals."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from sparseflow.paper.claims.verdict import Outcome

Values = NDArray[np.float64]


class Interval(NamedTuple):
    """An estimate and the bounds of its two-sided confidence interval."""

    estimate: float
    low: float
    high: float
    n: str
    """The number of values."""
    level: float = 0.95

    def __str__(self) -> str:
        return f"{self.estimate:.3g} [{self.low:.3g}, {self.high:.3g}]"


class Spread(NamedTuple):
    """An estimate with a standard error and its degrees of freedom: all that a t test needs."""

    estimate: float
    error: float
    freedom: float

    def p_above(self, bound: float) -> float:
        """One-sided p-value of the null hypothesis that the true value is at most ``bound``."""
        if self.error == 0:
            return 0.0 if self.estimate > bound else 1.0
        return float(stats.t.sf((self.estimate - bound) / self.error, self.freedom))

    def p_below(self, bound: float) -> float:
        """One-sided p-value of the null hypothesis that the true value is at least ``bound``."""
        return Spread(-self.estimate, self.error, self.freedom).p_above(-bound)

    def interval(self, n: str, *, level: float = 0.95) -> Interval:
        """The t interval."""
        margin = float(stats.t.ppf((1 + level) / 2, self.freedom)) * self.error if self.error else 0.0
        return Interval(self.estimate, self.estimate - margin, self.estimate + margin, n, level)


def mean_spread(values: ArrayLike) -> Spread:
    r"""The mean, with standard error :math:`s / \sqrt n` and :math:`n - 1` degrees of freedom.

    Raises:
        ValueError: if there are fewer than two values.
    """
    found = as_values(values)
    return Spread(float(found.mean()), float(found.std(ddof=1) / len(found) ** 0.5), len(found) - 1)


def welch_spread(a: ArrayLike, b: ArrayLike) -> Spread:
    r"""The difference of two means, of values with different variances (Welch).

    .. math:: \bar a - \bar b,\quad e^2 = e_a^2 + e_b^2 = \frac{s_a^2}{n_a} + \frac{s_b^2}{n_b},\quad
        \nu = \frac{e^4}{e_a^4 / (n_a - 1) + e_b^4 / (n_b - 1)}

    Raises:
        ValueError: if there are fewer than two values of either.
    """
    first, second = mean_spread(a), mean_spread(b)
    # Relative shares: squares of squares underflow for tiny errors.
    total = np.hypot(first.error, second.error)
    if total == 0:
        return Spread(first.estimate - second.estimate, 0.0, first.freedom + second.freedom)
    shares = ((spread.error / total) ** 4 / spread.freedom for spread in (first, second))
    return Spread(first.estimate - second.estimate, float(total), float(1 / sum(shares)))


def mean_interval(values: ArrayLike, *, level: float = 0.95) -> Interval:
    """The t interval of a mean.

    >>> str(mean_interval([1.0, 2.0, 3.0]))
    '2 [-0.484, 4.48]'
    """
    return mean_spread(values).interval(str(np.size(values)), level=level)


def ratio_interval(a: Values, b: Values) -> Interval:
    """Geometric mean of paired ratios ``a / b``, with the t interval of the mean log ratio.

    >>> str(ratio_interval(np.array([2.0, 4.0, 8.0]), np.array([1.0, 2.0, 4.0])))
    '2 [2, 2]'
    """
    estimate, low, high, n, level = mean_interval(np.log(a / b))
    return Interval(math.exp(estimate), math.exp(low), math.exp(high), n, level)


def clopper_pearson(successes: int, n: int) -> Interval:
    """The exact 95 % interval of a rate.

    >>> str(clopper_pearson(0, 60))
    '0 [0, 0.0596]'

    Raises:
        ValueError: if there is nothing to count, or more is counted than there is.
    """
    if not 0 <= successes <= n or n < 1:
        raise ValueError(f"successes must be from 0 to n and n positive, got {successes} and {n}.")
    found = stats.binomtest(successes, n).proportion_ci(0.95, method="exact")
    return Interval(successes / n, float(found.low), float(found.high), str(n))


def slope_interval(x: ArrayLike, y: ArrayLike) -> Interval:
    """The 95 % t interval of the least-squares slope of ``y`` over ``x``.

    >>> slope_interval([0.0, 1.0, 2.0], [1.0, 3.0, 5.0]).estimate
    2.0

    Raises:
        ValueError: if there are fewer than three points.
    """
    points, values = as_values(x), as_values(y)
    if len(points) != len(values) or len(points) < 3:
        raise ValueError(f"a slope needs three points at least, as many x as y, got {len(points)} and {len(values)}.")
    found = stats.linregress(points, values)
    freedom = len(points) - 2
    return Spread(float(found.slope), float(found.stderr), freedom).interval(str(len(points)))


def bootstrap(
    statistic: Callable[..., float],
    *samples: ArrayLike,
    paired: bool = False,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """Percentile interval of any statistic, from resampling each sample with replacement.

    Args:
        statistic: Called with as many 1-D arrays as there are samples. To resample runs of which pairs are measured,
            let the sample be the numbers of the runs.
        samples: Independent of each other, or
        paired: of the same things in the same order, which are then resampled together.
        level: Of confidence.
        resamples: How many.
        seed: Of the draws.

    >>> import numpy as np
    >>> str(bootstrap(np.mean, [1.0, 2.0, 3.0, 4.0], resamples=500))
    '2.5 [1.5, 3.5]'

    Raises:
        ValueError: if a sample has fewer than two values, or paired ones differ in length.
    """
    values = [as_values(sample) for sample in samples]
    lengths = [len(sample) for sample in values]
    if paired and len(set(lengths)) > 1:
        raise ValueError(f"paired samples must be equally long, got {lengths}.")
    draw = np.random.default_rng(seed)
    found = np.empty(resamples)
    for index in range(resamples):
        if paired:
            chosen = draw.integers(0, lengths[0], lengths[0])
            found[index] = statistic(*(sample[chosen] for sample in values))
        else:
            found[index] = statistic(*(sample[draw.integers(0, len(sample), len(sample))] for sample in values))
    low, high = np.quantile(found, [(1 - level) / 2, (1 + level) / 2])
    n = str(lengths[0]) if paired else " vs ".join(map(str, lengths))
    return Interval(float(statistic(*values)), float(low), float(high), n, level)


def outside(interval: Interval, low: float, high: float) -> Outcome:
    """The outcome of an interval that is not between two bounds: failed if it is wholly outside, else inconclusive."""
    return "failed" if interval.high < low or interval.low > high else "inconclusive"


def as_values(values: ArrayLike) -> Values:
    """The values as a 1-D array of at least two numbers.

    Raises:
        ValueError: if it is not.
    """
    found = np.asarray(values, dtype=np.float64)
    if found.ndim != 1 or len(found) < 2:
        raise ValueError(f"a test needs a list of two values at least, got shape {found.shape}.")
    return found
