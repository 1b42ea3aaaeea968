"""Parts of a criterion that compare a measured interval, or a number, with bounds."""

from __future__ import annotations

import math

from sparseflow.paper.claims.intervals import Interval, outside
from sparseflow.paper.claims.verdict import Outcome, Part, decided, directed


def interval_above(interval: Interval, bound: float) -> Part:
    """Whether a confidence interval is above a bound; failed if it is below.

    >>> narrow, wide = Interval(3.0, 2.5, 3.5, "5"), Interval(3.0, 1.5, 4.5, "5")
    >>> interval_above(narrow, 2.0).outcome, interval_above(wide, 2.0).outcome
    ('held', 'inconclusive')
    """
    outcome = directed(
        interval.estimate, right=interval.estimate > bound, shown=interval.low > bound, refuted=interval.high < bound
    )
    return Part(outcome, f"{_percent(interval)} {interval} above {bound:g}", interval.n)


def interval_within(interval: Interval, low: float, high: float) -> Part:
    """Whether a confidence interval is between two bounds; failed if it is wholly outside.

    >>> interval_within(Interval(0.8, 0.6, 1.1, "20"), 0.5, 2.0).outcome
    'held'
    """
    inside = low < interval.low and interval.high < high
    outcome: Outcome = "held" if inside else outside(interval, low, high)
    return Part(outcome, f"{_percent(interval)} {interval} within {low:.3g} to {high:.3g}", interval.n)


def reaches(value: float, *, at_least: float = -math.inf, at_most: float = math.inf, n: str, of: str) -> Part:
    """Whether a number is within the criterion's bounds, without a test: held or failed.

    >>> reaches(950.0, at_least=500.0, n="20", of="median onset").text
    'median onset 950, at least 500'
    """
    bounds = [f"at least {at_least:.4g}"] * (at_least > -math.inf) + [f"at most {at_most:.4g}"] * (at_most < math.inf)
    return Part(decided(value, met=at_least <= value <= at_most), f"{of} {value:.4g}, {' and '.join(bounds)}", n)


def _percent(interval: Interval) -> str:
    return f"{100 * interval.level:g} % interval"
