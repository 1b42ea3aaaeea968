r"""Estimates beyond plain means: weighted sums of means, pairs that share models, ensembles that share members.

Each is a :class:`.Spread`, an estimate with a standard error and degrees of freedom, and is tested by a t test. Models
are the independent things: ten pairs of five models are not ten values. Copies of a model must not enter an ensemble,
which gains nothing from them, so models are left out (jackknife) and never drawn twice (bootstrap).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from sparseflow.paper.claims.intervals import Spread, as_values, outside
from sparseflow.paper.claims.verdict import Outcome, Part, directed


def contrast(spreads: Sequence[Spread], weights: Sequence[float]) -> Spread:
    r"""A weighted sum of independent estimates, with Welch's and Satterthwaite's degrees of freedom.

    .. math:: \sum_k w_k \bar x_k,\quad e^2 = \sum_k w_k^2 e_k^2,\quad \nu = e^4 / \sum_k \frac{(w_k e_k)^4}{\nu_k}

    >>> contrast([Spread(5.0, 3.0, 4.0), Spread(2.0, 4.0, 4.0)], [1.0, -1.0])[:2]
    (3.0, 5.0)
    """
    estimate = sum(weight * spread.estimate for weight, spread in zip(weights, spreads, strict=True))
    errors = [abs(weight) * spread.error for weight, spread in zip(weights, spreads, strict=True)]
    error = math.hypot(*errors)
    if error == 0:
        return Spread(estimate, 0.0, sum(spread.freedom for spread in spreads))
    shares = sum((part / error) ** 4 / spread.freedom for part, spread in zip(errors, spreads, strict=True))
    return Spread(estimate, error, 1 / shares)


def pair_spread(pairs: pd.DataFrame, column: str) -> Spread:
    r"""The mean over pairs of models, with the jackknife's error over models.

    .. math:: e^2 = \frac{n - 1}{n} \sum_i (\hat\theta_{-i} - \bar\theta)^2

    with the mean :math:`\hat\theta_{-i}` over the pairs without model :math:`i`; :math:`n - 1` degrees of freedom.

    Args:
        pairs: Columns ``a`` and ``b`` (models), every pair once, and
        column: the measured one.

    Raises:
        ValueError: if there are fewer than three models.

    >>> pairs = pd.DataFrame({"a": [0, 0, 1], "b": [1, 2, 2], "jsd": [1.0, 2.0, 3.0]})
    >>> spread = pair_spread(pairs, "jsd")
    >>> spread.estimate, round(spread.error**2, 6), spread.freedom  # without 0, 1, 2: 3, 2, 1
    (2.0, 1.333333, 2)
    """
    models = sorted({*pairs["a"], *pairs["b"]})
    n = len(models)
    if n < 3:
        raise ValueError(f"an error over models needs three models at least, got {n}.")
    without = [float(pairs.loc[(pairs["a"] != one) & (pairs["b"] != one), column].mean()) for one in models]
    return Spread(float(pairs[column].mean()), math.sqrt((n - 1) * np.var(without)), n - 1)


def subset_spread(estimate: float, values: ArrayLike, *, members: int, models: int) -> Spread:
    r"""An estimate from several models together, with an error from estimates on subsets of the models.

    .. math:: e^2 = \frac{m}{n - m} \cdot \frac{1}{D} \sum_d (\theta_d - \bar\theta)^2

    the jackknife that leaves out :math:`n - m` models at a time; :math:`n - 1` degrees of freedom.

    Args:
        estimate: The value to report.
        values: One of each subset, ``D`` of them.
        members: ``m``, models in a subset, each at most once.
        models: ``n``, models that subsets are drawn from.

    Raises:
        ValueError: if a subset holds all models.

    Reference: Shao and Wu (1989), *A general theory for jackknife variance estimation*.

    >>> subset_spread(2.0, [1.0, 2.0, 3.0], members=2, models=3) == pair_spread(
    ...     pd.DataFrame({"a": [0, 0, 1], "b": [1, 2, 2], "jsd": [1.0, 2.0, 3.0]}), "jsd"
    ... )
    True
    """
    if not 0 < members < models:
        raise ValueError(f"subsets must leave out some of the models, got {members} members of {models} models.")
    found = as_values(values)
    return Spread(estimate, math.sqrt(members / (models - members) * np.var(found)), models - 1)


def spread_above(spread: Spread, bound: float = 0.0, *, alpha: float, n: str, test: str) -> Part:
    """Whether an estimate is above a bound: one-sided t test; ``test`` names the estimate and the method.

    >>> spread_above(Spread(3.0, 1.0, 9.0), alpha=0.05, n="10", test="jackknife, gain").outcome
    'held'
    """
    p = spread.p_above(bound)
    text = f"{test} {spread.interval(n)} above {bound:.3g}, p = {p:.2g}"
    refuted = spread.p_below(bound) < alpha
    outcome = directed(spread.estimate, right=spread.estimate > bound, shown=p < alpha, refuted=refuted)
    return Part(outcome, text, n, p)


def spread_within(spread: Spread, margin: float, *, alpha: float, n: str, test: str) -> Part:
    """Whether an estimate is nearer to 0 than a margin: two one-sided t tests; failed if the interval is outside.

    >>> spread_within(Spread(0.1, 0.05, 4.0), 0.3, alpha=0.05, n="5", test="TOST, difference").outcome
    'held'
    """
    p = max(spread.p_above(-margin), spread.p_below(margin))
    interval = spread.interval(n, level=1 - 2 * alpha)
    outcome: Outcome = "held" if p < alpha else outside(interval, -margin, margin)
    return Part(outcome, f"{test} {interval} within ±{margin:g}, p = {p:.2g}", n, p)
