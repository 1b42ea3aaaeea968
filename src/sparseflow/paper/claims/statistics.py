"""Parts of a criterion that test measured values: each is met, contradicted or open.

For a direction ("more than") a part is *held* if the test is significant, *failed* if the estimate itself lies on the
wrong side, else *inconclusive*. For an equality ("as much as") it is *held* if the interval of the difference lies
within the margin, *failed* if it lies outside, else *inconclusive*. Values of NaN decide nothing.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from sparseflow.paper.claims.contrasts import spread_within
from sparseflow.paper.claims.intervals import as_values, mean_spread, welch_spread
from sparseflow.paper.claims.verdict import Outcome, Part, decided, directed


def greater(a: ArrayLike, b: ArrayLike, *, alpha: float, margin: float = 0.0) -> Part:
    """Mean of ``a`` above mean of ``b`` by more than ``margin``: Welch's one-sided t test.

    >>> high, low = [5.0, 6.0, 7.0], [1.0, 2.0, 3.0]
    >>> greater(high, low, alpha=0.05).outcome, greater(low, high, alpha=0.05).outcome
    ('held', 'failed')
    """
    spread = welch_spread(a, b)
    p = spread.p_above(margin)
    n = _versus(a, b)
    text = f"Welch t, difference {spread.interval(n)}{_above(margin)}, p = {p:.2g}"
    return Part(directed(spread.estimate, right=spread.estimate > margin, shown=p < alpha), text, n, p)


def above(values: ArrayLike, bound: float = 0.0, *, alpha: float) -> Part:
    """Mean above ``bound``: one-sided t test over seeds.

    >>> above([1.0, 1.1, 0.9], alpha=0.01).outcome
    'held'
    """
    spread = mean_spread(values)
    p = spread.p_above(bound)
    n = str(np.size(values))
    text = f"t, mean {spread.interval(n)}{_above(bound)}, p = {p:.2g}"
    return Part(directed(spread.estimate, right=spread.estimate > bound, shown=p < alpha), text, n, p)


def paired_greater(a: ArrayLike, b: ArrayLike, *, alpha: float) -> Part:
    """Mean of ``a`` above mean of ``b``, both of the same runs in one order: paired t test.

    >>> paired_greater([1.0, 5.0, 9.0], [0.0, 3.9, 8.1], alpha=0.01).outcome
    'held'

    Raises:
        ValueError: if there are more of one than of the other.
    """
    first, second = as_values(a), as_values(b)
    if len(first) != len(second):
        raise ValueError(f"pairs need as many values of one as of the other, got {len(first)} and {len(second)}.")
    part = above(first - second, alpha=alpha)
    return Part(part.outcome, f"paired {part.text}", part.n, part.p_value)


def equivalent(a: ArrayLike, b: ArrayLike, *, margin: float, alpha: float) -> Part:
    """Means that differ by less than ``margin``: two one-sided Welch t tests (TOST).

    Held is the same as: the interval of level ``1 - 2 * alpha`` lies within the margin. Failed if it lies outside.

    >>> equivalent([1.0, 1.1, 0.9], [1.0, 1.1, 0.9], margin=0.5, alpha=0.05).outcome
    'held'

    Raises:
        ValueError: if ``margin`` is not positive.
    """
    if not margin > 0:
        raise ValueError(f"margin must be positive, got {margin!r}: nothing is exactly equal.")
    return spread_within(welch_spread(a, b), margin, alpha=alpha, n=_versus(a, b), test="TOST, difference")


def different(a: ArrayLike, b: ArrayLike, *, alpha: float, negligible: float) -> Part:
    """Means that differ, either way: Welch's two-sided t test; failed if :func:`equivalent` within ``negligible``.

    >>> different([1.0, 1.1, 0.9], [3.0, 3.1, 2.9], alpha=0.01, negligible=0.1).outcome
    'held'
    """
    spread = welch_spread(a, b)
    p = _two_sided(spread.p_above(0.0), spread.p_below(0.0))
    n = _versus(a, b)
    alike = equivalent(a, b, margin=negligible, alpha=alpha).outcome == "held"
    outcome: Outcome = "held" if p < alpha else "failed" if alike else "inconclusive"
    return Part(outcome, f"two-sided Welch t, difference {spread.interval(n)}, p = {p:.2g}", n, p)


def not_different(a: ArrayLike, b: ArrayLike, *, alpha: float) -> Part:
    """Means whose difference is not significant; has no p-value, for what is not significant proves nothing.

    >>> not_different([1.0, 1.1, 0.9], [1.0, 1.1, 0.9], alpha=0.05).outcome
    'held'
    """
    spread = welch_spread(a, b)
    p = _two_sided(spread.p_above(0.0), spread.p_below(0.0))
    n = _versus(a, b)
    text = f"two-sided Welch t, difference {spread.interval(n, level=1 - alpha)}, p = {p:.2g}, at least {alpha:g}"
    return Part(decided(spread.estimate, met=p >= alpha), text, n)


def fisher_greater(a: tuple[int, int], b: tuple[int, int], *, alpha: float) -> Part:
    """A rate above another: Fisher's exact one-sided test on two pairs (how many, of how many).

    >>> part = fisher_greater((8, 20), (0, 20), alpha=0.05)
    >>> part.outcome, part.text
    ('held', "Fisher's exact, 8/20 vs 0/20, p = 0.0016")

    Raises:
        ValueError: if more is counted than there is.
    """
    for count, total in (a, b):
        if not 0 <= count <= total or total < 1:
            raise ValueError(f"a rate needs a count from 0 to a positive total, got {count} of {total}.")
    table = [[a[0], a[1] - a[0]], [b[0], b[1] - b[0]]]
    p = float(stats.fisher_exact(np.array(table), alternative="greater").pvalue)
    outcome = directed(p, right=a[0] / a[1] > b[0] / b[1], shown=p < alpha)
    return Part(outcome, f"Fisher's exact, {a[0]}/{a[1]} vs {b[0]}/{b[1]}, p = {p:.2g}", f"{a[1]} vs {b[1]}", p)


def mann_whitney_greater(a: ArrayLike, b: ArrayLike, *, alpha: float) -> Part:
    """Values of ``a`` tend to lie above those of ``b``: one-sided Mann-Whitney test; infinity is the largest value.

    The estimate is the chance that one of ``a`` exceeds one of ``b``, ties counted half; one half is the null.

    >>> part = mann_whitney_greater([700.0, 900.0, 1000.0, float("inf")], [50.0, 50.0, 100.0, 50.0], alpha=0.05)
    >>> part.outcome, part.text
    ('held', 'Mann-Whitney, medians 950 vs 50, chance of exceeding 1, p = 0.013')
    """
    chance, p, text = _mann_whitney(a, b, "greater")
    return Part(directed(p, right=chance > 0.5, shown=p < alpha), text, _versus(a, b), p)


def mann_whitney_alike(a: ArrayLike, b: ArrayLike, *, alpha: float) -> Part:
    """As :func:`not_different`, by the two-sided Mann-Whitney test.

    >>> mann_whitney_alike([1.0, 2.0, 3.0], [1.0, 2.0, 3.0], alpha=0.05).outcome
    'held'
    """
    _, p, text = _mann_whitney(a, b, "two-sided")
    return Part(decided(p, met=p >= alpha), f"{text}, at least {alpha:g}", _versus(a, b))


def permutation_greater(a: ArrayLike, b: ArrayLike, *, alpha: float, draws: int = 9999, seed: int = 0) -> Part:
    r"""Mean of ``a`` above mean of ``b``: one-sided test by permuting which value belongs to which.

    .. math:: p = (1 + \#\{\text{permuted differences} \ge \text{the measured one}\}) / (1 + \text{draws})

    >>> permutation_greater([5.0, 6.0, 7.0, 8.0, 9.0], [1.0, 2.0, 3.0, 4.0, 0.0], alpha=0.01).outcome
    'held'
    """
    first, second = as_values(a), as_values(b)
    pooled = np.concatenate([first, second])
    shuffled = np.random.default_rng(seed).permuted(np.tile(pooled, (draws, 1)), axis=1)
    differences = shuffled[:, : len(first)].mean(axis=1) - shuffled[:, len(first) :].mean(axis=1)
    difference = float(first.mean() - second.mean())
    # Sums of the same numbers in another order differ by rounding.
    as_large = differences >= difference - 1e-12 * np.abs(pooled).max()
    p = float((1 + as_large.sum()) / (1 + draws))
    text = f"permutation of means, difference {difference:.3g}, p = {p:.2g}"
    return Part(directed(difference, right=difference > 0, shown=p < alpha), text, _versus(first, second), p)


def spearman_above(x: ArrayLike, y: ArrayLike, bound: float = 0.0, *, alpha: float) -> Part:
    """Rank correlation above ``bound``, and significantly above 0 (one-sided).

    >>> spearman_above([1.0, 2.0, 3.0, 4.0, 5.0], [2.0, 3.0, 5.0, 7.0, 9.0], 0.6, alpha=0.01).outcome
    'held'

    Raises:
        ValueError: if there are fewer than three pairs.
    """
    first, second = as_values(x), as_values(y)
    if len(first) != len(second) or len(first) < 3:
        raise ValueError(f"a correlation needs three pairs at least, got {len(first)} and {len(second)} values.")
    constant = np.ptp(first) == 0 or np.ptp(second) == 0
    found = None if constant else stats.spearmanr(first, second, alternative="greater")
    rho, p = (0.0, 1.0) if found is None else (float(found.statistic), float(found.pvalue))
    text = f"Spearman {rho:.2f}{_above(bound)}, p = {p:.2g}"
    return Part(directed(rho, right=rho > bound, shown=p < alpha), text, str(len(first)), p)


def _mann_whitney(a: ArrayLike, b: ArrayLike, alternative: Literal["greater", "two-sided"]) -> tuple[float, float, str]:
    first, second = as_values(a), as_values(b)
    # All values equal: there is nothing to rank, and scipy divides by zero.
    equal = np.unique(np.concatenate([first, second])).size == 1
    found = None if equal else stats.mannwhitneyu(first, second, alternative=alternative)
    p = 1.0 if found is None else float(found.pvalue)
    chance = 0.5 if found is None else float(found.statistic) / (len(first) * len(second))
    medians = f"medians {_median(first):.4g} vs {_median(second):.4g}"
    return chance, p, f"Mann-Whitney, {medians}, chance of exceeding {chance:.2g}, p = {p:.2g}"


def _two_sided(above: float, below: float) -> float:
    return min(1.0, 2 * min(above, below))


def _above(bound: float) -> str:
    return f" above {bound:.3g}" if bound else ""


def _median(values: np.ndarray) -> float:
    # The mean of the two middle values; of infinity and infinity numpy's own takes a difference.
    middle = np.sort(values)[[(len(values) - 1) // 2, len(values) // 2]]
    return float(middle[0] if middle[0] == middle[1] else middle.mean())


def _versus(a: ArrayLike, b: ArrayLike) -> str:
    return f"{np.size(a)} vs {np.size(b)}"
