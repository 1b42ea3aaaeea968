"""Parts of a criterion that test measured values: each is met, contradicted or open.

For a direction ("more than") a part is *held* if the test is significant, *failed* if that of the opposite is, else
*inconclusive*. For an equality ("as much as") it is *held* if the interval of the difference lies
within the margin, *failed* if it lies outside, else *inconclusive*. Values of NaN decide nothing.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal, Protocol

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from sparseflow.paper.claims.contrasts import spread_within
from sparseflow.paper.claims.intervals import Spread, Values, as_values, mean_spread, welch_spread
from sparseflow.paper.claims.verdict import Outcome, Part, decided, directed

#: What values are compared: see :attr:`.Part.design`.
INDEPENDENT, PAIRS = "independent runs", "pairs by seed"


class Greater(Protocol):
    """A test that one mean is above another: :func:`greater` or :func:`paired_greater`."""

    def __call__(self, a: ArrayLike, b: ArrayLike, *, alpha: float, margin: float = 0.0) -> Part:
        """Whether the mean of ``a`` is above that of ``b`` by more than ``margin``."""


class Equivalent(Protocol):
    """A test that two means are alike: :func:`equivalent` or :func:`paired_equivalent`."""

    def __call__(self, a: ArrayLike, b: ArrayLike, *, margin: float, alpha: float) -> Part:
        """Whether the means differ by less than ``margin``."""


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
    outcome = _directed(spread, margin, alpha=alpha)
    return Part(outcome, text, n, p, INDEPENDENT)


def above(values: ArrayLike, bound: float = 0.0, *, alpha: float) -> Part:
    """Mean above ``bound``: one-sided t test over seeds.

    >>> above([1.0, 1.1, 0.9], alpha=0.01).outcome
    'held'
    """
    spread = mean_spread(values)
    p = spread.p_above(bound)
    n = str(np.size(values))
    text = f"t, mean {spread.interval(n)}{_above(bound)}, p = {p:.2g}"
    return Part(_directed(spread, bound, alpha=alpha), text, n, p)


def paired_greater(a: ArrayLike, b: ArrayLike, *, alpha: float, margin: float = 0.0) -> Part:
    """Mean of ``a`` above mean of ``b`` by more than ``margin``, pair by pair in one order: paired t test.

    >>> paired_greater([1.0, 5.0, 9.0], [0.0, 3.9, 8.1], alpha=0.01).outcome
    'held'

    Raises:
        ValueError: if there are more of one than of the other.
    """
    part = above(_differences(a, b), margin, alpha=alpha)
    return Part(part.outcome, f"paired {part.text}", part.n, part.p_value, PAIRS)


def paired_equivalent(a: ArrayLike, b: ArrayLike, *, margin: float, alpha: float) -> Part:
    """Means that differ by less than ``margin``, pair by pair: two one-sided paired t tests (TOST).

    >>> paired_equivalent([1.0, 5.0, 9.0], [1.1, 4.9, 9.0], margin=0.5, alpha=0.05).outcome
    'held'

    Raises:
        ValueError: as :func:`paired_greater` and :func:`equivalent`.
    """
    difference = _differences(a, b)
    _check_margin(margin)
    n = str(len(difference))
    part = spread_within(mean_spread(difference), margin, alpha=alpha, n=n, test="paired TOST, difference")
    return replace(part, design=PAIRS)


def paired_not_different(a: ArrayLike, b: ArrayLike, *, alpha: float) -> Part:
    """Means whose difference is not significant, pair by pair; as :func:`not_different`.

    >>> paired_not_different([1.0, 5.0, 9.0], [1.1, 4.9, 9.1], alpha=0.05).outcome
    'held'
    """
    difference = _differences(a, b)
    spread, n = mean_spread(difference), str(len(difference))
    p = _two_sided(spread.p_above(0.0), spread.p_below(0.0))
    text = f"two-sided paired t, mean {spread.interval(n, level=1 - alpha)}, p = {p:.2g}, at least {alpha:g}"
    return Part(decided(spread.estimate, met=p >= alpha), text, n, design=PAIRS)


def mcnemar_greater(a: ArrayLike, b: ArrayLike, *, alpha: float) -> Part:
    r"""More often true of ``a`` than of ``b``, pair by pair: McNemar's exact one-sided test.

    Of the :math:`n` pairs in which only one is true, it is ``a`` in :math:`k`; with even chances
    :math:`p = P(\mathrm{Bin}(n, 1/2) \ge k)`.

    >>> part = mcnemar_greater([True] * 6 + [False] * 4, [False] * 10, alpha=0.05)
    >>> part.outcome, part.p_value, part.text
    ('held', 0.015625, "McNemar's exact, 6 of 10 vs 0 of 10, in 6 and 0 pairs only one, p = 0.016")

    Raises:
        ValueError: if there are more of one than of the other.
    """
    first, second = np.asarray(a, dtype=bool), np.asarray(b, dtype=bool)
    larger, smaller, _ = _signs(first, second)
    counts = f"{first.sum()} of {len(first)} vs {second.sum()} of {len(second)}"
    text = f"McNemar's exact, {counts}, in {larger} and {smaller} pairs only one"
    return _more_often(larger, smaller, text, alpha=alpha, n=len(first))


def sign_greater(a: ArrayLike, b: ArrayLike, *, alpha: float) -> Part:
    r"""Of most pairs the value of ``a`` is the larger: exact one-sided sign test.

    Of the :math:`n` pairs that differ :math:`a` is larger in :math:`k`; with even chances
    :math:`p = P(\mathrm{Bin}(n, 1/2) \ge k)`. It only asks which is larger, so values may be known as "not before the
    last step".

    >>> part = sign_greater([700.0, 900.0, 800.0, 950.0, 990.0], [50.0, 50.0, 50.0, 50.0, 990.0], alpha=0.1)
    >>> part.outcome, part.text
    ('held', 'sign test, larger in 4 pairs, smaller in 0, equal in 1, p = 0.062')

    Raises:
        ValueError: if there are more of one than of the other.
    """
    larger, smaller, text = _signs(a, b)
    return _more_often(larger, smaller, text, alpha=alpha, n=np.size(a))


def signs_alike(a: ArrayLike, b: ArrayLike, *, alpha: float) -> Part:
    """As :func:`paired_not_different`, by the two-sided sign test.

    >>> signs_alike([1.0, 2.0, 3.0], [1.0, 2.5, 2.0], alpha=0.05).outcome
    'held'
    """
    larger, smaller, text = _signs(a, b)
    p = _sign_p(larger, larger + smaller, "two-sided")
    return Part(decided(p, met=p >= alpha), f"{text}, p = {p:.2g}, at least {alpha:g}", str(np.size(a)), design=PAIRS)


def equivalent(a: ArrayLike, b: ArrayLike, *, margin: float, alpha: float) -> Part:
    """Means that differ by less than ``margin``: two one-sided Welch t tests (TOST).

    Held is the same as: the interval of level ``1 - 2 * alpha`` lies within the margin. Failed if it lies outside.

    >>> equivalent([1.0, 1.1, 0.9], [1.0, 1.1, 0.9], margin=0.5, alpha=0.05).outcome
    'held'

    Raises:
        ValueError: if ``margin`` is not positive.
    """
    _check_margin(margin)
    part = spread_within(welch_spread(a, b), margin, alpha=alpha, n=_versus(a, b), test="TOST, difference")
    return replace(part, design=INDEPENDENT)


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
    return Part(outcome, f"two-sided Welch t, difference {spread.interval(n)}, p = {p:.2g}", n, p, INDEPENDENT)


def not_different(a: ArrayLike, b: ArrayLike, *, alpha: float) -> Part:
    """Means whose difference is not significant; has no p-value, for what is not significant proves nothing.

    >>> not_different([1.0, 1.1, 0.9], [1.0, 1.1, 0.9], alpha=0.05).outcome
    'held'
    """
    spread = welch_spread(a, b)
    p = _two_sided(spread.p_above(0.0), spread.p_below(0.0))
    n = _versus(a, b)
    text = f"two-sided Welch t, difference {spread.interval(n, level=1 - alpha)}, p = {p:.2g}, at least {alpha:g}"
    return Part(decided(spread.estimate, met=p >= alpha), text, n, design=INDEPENDENT)


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
    p, opposite = (float(stats.fisher_exact(np.array(table), alternative=way).pvalue) for way in ("greater", "less"))
    outcome = directed(p, right=a[0] / a[1] > b[0] / b[1], shown=p < alpha, refuted=opposite < alpha)
    text = f"Fisher's exact, {a[0]}/{a[1]} vs {b[0]}/{b[1]}, p = {p:.2g}"
    return Part(outcome, text, f"{a[1]} vs {b[1]}", p, INDEPENDENT)


def mann_whitney_greater(a: ArrayLike, b: ArrayLike, *, alpha: float) -> Part:
    """Values of ``a`` tend to lie above those of ``b``: one-sided Mann-Whitney test; infinity is the largest value.

    The estimate is the chance that one of ``a`` exceeds one of ``b``, ties counted half; one half is the null.

    >>> part = mann_whitney_greater([700.0, 900.0, 1000.0, float("inf")], [50.0, 50.0, 100.0, 50.0], alpha=0.05)
    >>> part.outcome, part.text
    ('held', 'Mann-Whitney, medians 950 vs 50, chance of exceeding 1, p = 0.013')
    """
    chance, p, text = _mann_whitney(a, b, "greater")
    _, opposite, _ = _mann_whitney(b, a, "greater")
    outcome = directed(p, right=chance > 0.5, shown=p < alpha, refuted=opposite < alpha)
    return Part(outcome, text, _versus(a, b), p, INDEPENDENT)


def mann_whitney_alike(a: ArrayLike, b: ArrayLike, *, alpha: float) -> Part:
    """As :func:`not_different`, by the two-sided Mann-Whitney test.

    >>> mann_whitney_alike([1.0, 2.0, 3.0], [1.0, 2.0, 3.0], alpha=0.05).outcome
    'held'
    """
    _, p, text = _mann_whitney(a, b, "two-sided")
    return Part(decided(p, met=p >= alpha), f"{text}, at least {alpha:g}", _versus(a, b), design=INDEPENDENT)


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
    rounding = 1e-12 * np.abs(pooled).max()
    p = float((1 + (differences >= difference - rounding).sum()) / (1 + draws))
    opposite = float((1 + (differences <= difference + rounding).sum()) / (1 + draws))
    text = f"permutation of means, difference {difference:.3g}, p = {p:.2g}"
    outcome = directed(difference, right=difference > 0, shown=p < alpha, refuted=opposite < alpha)
    return Part(outcome, text, _versus(first, second), p, INDEPENDENT)


def spearman_above(x: ArrayLike, y: ArrayLike, bound: float = 0.0, *, alpha: float) -> Part:
    """Rank correlation above ``bound``, and significantly above 0 (one-sided); failed if significantly below ``bound``.

    Below a bound by Fisher's transform, whose variance for ranks is 1.06 / (n - 3) (Fieller et al., 1957).

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
    return Part(
        directed(rho, right=rho > bound, shown=p < alpha, refuted=_below(rho, bound, n=len(first)) < alpha),
        text,
        str(len(first)),
        p,
    )


def _signs(a: ArrayLike, b: ArrayLike) -> tuple[int, int, str]:
    """Pairs in which the first is larger, those in which it is smaller, and a phrase about both."""
    first, second = as_values(a), as_values(b)
    _check_pairs(first, second)
    larger, smaller = int((first > second).sum()), int((first < second).sum())
    equal = len(first) - larger - smaller
    return larger, smaller, f"sign test, larger in {larger} pairs, smaller in {smaller}, equal in {equal}"


def _more_often(larger: int, smaller: int, text: str, *, alpha: float, n: int) -> Part:
    p, opposite = (_sign_p(count, larger + smaller, "greater") for count in (larger, smaller))
    outcome = directed(p, right=larger > smaller, shown=p < alpha, refuted=opposite < alpha)
    return Part(outcome, f"{text}, p = {p:.2g}", str(n), p, PAIRS)


def _sign_p(count: int, total: int, alternative: Literal["greater", "two-sided"]) -> float:
    return float(stats.binomtest(count, total, alternative=alternative).pvalue) if total else 1.0


def _mann_whitney(a: ArrayLike, b: ArrayLike, alternative: Literal["greater", "two-sided"]) -> tuple[float, float, str]:
    first, second = as_values(a), as_values(b)
    # All values equal: there is nothing to rank, and scipy divides by zero.
    equal = np.unique(np.concatenate([first, second])).size == 1
    found = None if equal else stats.mannwhitneyu(first, second, alternative=alternative)
    p = 1.0 if found is None else float(found.pvalue)
    chance = 0.5 if found is None else float(found.statistic) / (len(first) * len(second))
    medians = f"medians {_median(first):.4g} vs {_median(second):.4g}"
    return chance, p, f"Mann-Whitney, {medians}, chance of exceeding {chance:.2g}, p = {p:.2g}"


def _below(rho: float, bound: float, *, n: int) -> float:
    """One-sided p-value of the null hypothesis that the rank correlation is at least ``bound``."""
    if n < 4 or abs(rho) == 1:
        return float(rho >= bound)
    return float(stats.norm.cdf((np.arctanh(rho) - np.arctanh(bound)) * np.sqrt((n - 3) / 1.06)))


def _directed(spread: Spread, bound: float, *, alpha: float) -> Outcome:
    shown, refuted = spread.p_above(bound) < alpha, spread.p_below(bound) < alpha
    return directed(spread.estimate, right=spread.estimate > bound, shown=shown, refuted=refuted)


def _differences(a: ArrayLike, b: ArrayLike) -> Values:
    first, second = as_values(a), as_values(b)
    _check_pairs(first, second)
    return first - second


def _check_pairs(first: Values, second: Values) -> None:
    if len(first) != len(second):
        raise ValueError(f"pairs need as many values of one as of the other, got {len(first)} and {len(second)}.")


def _check_margin(margin: float) -> None:
    if not margin > 0:
        raise ValueError(f"margin must be positive, got {margin!r}: nothing is exactly equal.")


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
