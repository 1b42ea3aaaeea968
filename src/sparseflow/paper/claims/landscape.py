"""Where lottery tickets start and end in weight space, seen from the pruning solution (section 4.3, Figure 5).

The pruning run is the independent thing where there are several: tickets of one share their start bit for bit.
Networks on ImageNet, for which some criteria have a part of their own, were not trained.
"""

from __future__ import annotations

import math

import numpy as np

from sparseflow.lab.page.evidence import Evidence
from sparseflow.paper.claims.bounds import interval_above, reaches
from sparseflow.paper.claims.intervals import Interval, Values, mean_interval
from sparseflow.paper.claims.run_statistics import mean_and_std
from sparseflow.paper.claims.statistics import above, greater, permutation_greater
from sparseflow.paper.claims.tables import column, rows
from sparseflow.paper.claims.verdict import (
    FEWEST,
    FEWEST_RANKED,
    Part,
    Verdict,
    all_of,
    conclude,
    decided,
    need,
)

LOTTERY, SCRATCH = "tickets/lottery", "tickets/scratch"
#: Name in the paper -> setting of the runs.
SETTINGS = {"LeNet5": "tickets", "MLP": "mlp-tickets"}
#: Nats up to which there is no barrier (protocol I.2).
NO_BARRIER = 0.01


def c30(evidence: Evidence) -> Verdict:
    """A ticket starts nearer to the pruning solution than a random start on the same masks.

    Criterion: the L2 distance is smaller in every pruning run, Welch p < 0.01, and the ratio is above 1.1. The values
    of the Welch test are means of pruning runs, since all tickets of one have the same start. How far a random
    direction as long as the ticket is away is reported: what lengths alone explain.
    """
    lottery, scratch = _by_pruning_run(evidence, "init")
    control, _ = _by_pruning_run(evidence, "control_init")
    cosine = [float(found.mean()) for found in _by_pruning_run(evidence, "cosine_init")]
    return conclude(
        "C30",
        starts_nearer(lottery, scratch),
        ours=f"distance at the start: lottery {mean_and_std(lottery)}, scratch {mean_and_std(scratch)}, ratio "
        f"{scratch.mean() / lottery.mean():.2f}; a random direction as long as the ticket {control.mean():.2f}; cosine "
        f"{cosine[0]:.2f} vs {cosine[1]:.2f}",
        held="The weights that a lottery ticket starts from are nearer to the pruned network than random ones.",
        failed="The weights that a lottery ticket starts from are not clearly nearer to the pruned network than random "
        "ones.",
        numbers={"lottery": float(lottery.mean()), "scratch": float(scratch.mean()), "control": float(control.mean())},
    )


def starts_nearer(lottery: Values, scratch: Values) -> Part:
    """C30's criterion on distances at the start, of the same pruning runs in the same order."""
    n = f"{len(lottery)} pruning runs"
    ratio = float(scratch.mean() / lottery.mean())
    parts = {
        "every pruning run": reaches(float((scratch / lottery).min()), at_least=1.0, n=n, of="smallest ratio"),
        "means": greater(scratch, lottery, alpha=0.01),
        "size": reaches(ratio, at_least=1.1, n=n, of="ratio of means"),
    }
    return all_of(parts)


def c31(evidence: Evidence) -> Verdict:
    """Trained tickets end several times nearer to the pruning solution than Scratch.

    Criterion (MNIST): the lower 95 % bound of the ratio of distances is above 2; from the t interval of the mean log
    ratio over pruning runs.
    """
    lottery, scratch = _by_pruning_run(evidence, "final")
    ratio = ratio_interval(scratch, lottery)
    return conclude(
        "C31",
        interval_above(ratio, 2.0),
        ours=f"distance at the end: lottery {mean_and_std(lottery)}, scratch {mean_and_std(scratch)}, ratio {ratio}",
        held="Lottery tickets end more than twice as near to the pruned network as runs from random weights; ImageNet "
        "was not tested.",
        failed="Lottery tickets do not end twice as near to the pruned network as runs from random weights; ImageNet "
        "was not tested.",
        numbers={"lottery": float(lottery.mean()), "scratch": float(scratch.mean()), "ratio": ratio.estimate},
    )


def ratio_interval(a: Values, b: Values) -> Interval:
    """Geometric mean of paired ratios ``a / b``, with the t interval of the mean log ratio.

    >>> str(ratio_interval(np.array([2.0, 4.0, 8.0]), np.array([1.0, 2.0, 4.0])))
    '2 [2, 2]'
    """
    estimate, low, high, n, level = mean_interval(np.log(a / b))
    return Interval(math.exp(estimate), math.exp(low), math.exp(high), n, level)


def c32(evidence: Evidence) -> Verdict:
    """Ticket solutions cluster around the pruning solution, Scratch solutions do not.

    Criterion: their mean distance to it is below half of that of Scratch, permutation of runs p < 0.01. Distances are
    those of the weights, not of the map in two dimensions; of the first pruning run, as in the figure.
    """
    first = int(rows(evidence, "distances", group=LOTTERY)["prune_seed"].min())
    lottery, scratch = (
        column(evidence, "distances", "final", at_least=FEWEST_RANKED, group=group, prune_seed=first)
        for group in (LOTTERY, SCRATCH)
    )
    return conclude(
        "C32",
        around_pruned(lottery, scratch),
        ours=f"distance to the pruned network: lottery {mean_and_std(lottery)}, scratch {mean_and_std(scratch)}",
        held="Trained lottery tickets lie around the pruned network, runs from random weights far away from it.",
        failed="Trained lottery tickets do not lie much closer around the pruned network than runs from random "
        "weights.",
        numbers={"ratio": float(lottery.mean() / scratch.mean())},
    )


def around_pruned(lottery: Values, scratch: Values) -> Part:
    """C32's criterion on distances at the end."""
    ratio = float(lottery.mean() / scratch.mean())
    n = f"{len(lottery)} vs {len(scratch)}"
    parts = {
        "half": reaches(ratio, at_most=0.5, n=n, of="ratio of mean distances"),
        "permutation": permutation_greater(scratch, lottery, alpha=0.01),
    }
    return all_of(parts)


def c33(evidence: Evidence) -> Verdict:
    """The loss falls faster on the line from a ticket's start to the pruning solution than from a random start.

    Criterion, on LeNet5: the area under the log loss is smaller, one-sided Welch p < 0.01. Tickets of one pruning run
    have one start, so theirs is one number and the spread is that of Scratch alone.
    """
    lottery, scratch = (column(evidence, "barriers", "area", group=group, start="init") for group in (LOTTERY, SCRATCH))
    return conclude(
        "C33",
        greater(scratch, lottery, alpha=0.01),
        ours=f"area under the log loss: lottery {lottery.mean():.2f}, scratch {mean_and_std(scratch)}",
        held="Walking straight to the pruned network, the loss falls sooner from a lottery ticket's start than from a "
        "random one.",
        failed="Walking straight to the pruned network, the loss does not fall sooner from a lottery ticket's start.",
        numbers={"lottery": float(lottery.mean()), "scratch": float(scratch.mean())},
    )


def c34(evidence: Evidence) -> Verdict:
    """Ticket solutions are linearly connected to the pruning solution.

    Criterion, on LeNet5 and the MLP: :func:`connected`.
    """
    return conclude(
        "C34",
        all_of({network: connected(evidence, setting) for network, setting in SETTINGS.items()}),
        ours="barrier of lottery tickets, nats: " + _barriers_text(evidence, "lottery"),
        held="On the straight line from a trained lottery ticket to the pruned network the loss does not rise; "
        "ImageNet was not tested.",
        failed="On the straight line from a trained lottery ticket to the pruned network the loss rises; ImageNet was "
        "not tested.",
        numbers=_mean_barriers(evidence, "lottery"),
    )


def c35(evidence: Evidence) -> Verdict:
    """Scratch solutions are separated from the pruning solution.

    Criterion, on LeNet5 and the MLP: :func:`separated`.
    """
    return conclude(
        "C35",
        all_of({network: separated(evidence, setting) for network, setting in SETTINGS.items()}),
        ours="barrier of scratch runs, nats: " + _barriers_text(evidence, "scratch"),
        held="On the straight line from a network trained from random weights to the pruned network the loss rises "
        "high.",
        failed="On the straight line from a network trained from random weights to the pruned network there is no high "
        "ridge in the loss.",
        numbers=_mean_barriers(evidence, "scratch"),
    )


def connected(evidence: Evidence, setting: str) -> Part:
    """Whether there is no barrier between tickets and the pruning solution.

    The mean barrier is at most 0.01 nats, or its 95 % interval includes 0. A barrier cannot be negative, so few runs of
    very different barriers meet the second; it is the criterion.
    """
    barrier = mean_interval(_barriers(evidence, f"{setting}/lottery"))
    met = barrier.estimate <= NO_BARRIER or barrier.low <= 0
    text = f"mean barrier {barrier} at most {NO_BARRIER:g} nats, or its 95 % interval includes 0"
    return Part(decided(barrier.estimate, met=met), text, barrier.n)


def separated(evidence: Evidence, setting: str) -> Part:
    """Whether the barrier of Scratch is above 10 times that of tickets (Welch) and above 0.1 nats (t); p < 0.01."""
    lottery, scratch = (_barriers(evidence, f"{setting}/{method}") for method in ("lottery", "scratch"))
    return high_barrier(lottery, scratch)


def high_barrier(lottery: Values, scratch: Values) -> Part:
    """The tests of :func:`separated` on barriers."""
    parts = {"10 times": greater(scratch, 10 * lottery, alpha=0.01), "0.1 nats": above(scratch, 0.1, alpha=0.01)}
    return all_of(parts)


def _barriers(evidence: Evidence, group: str) -> Values:
    return column(evidence, "barriers", "barrier", group=group, start="solution")


def _mean_barriers(evidence: Evidence, method: str) -> dict[str, float]:
    return {name: float(_barriers(evidence, f"{setting}/{method}").mean()) for name, setting in SETTINGS.items()}


def _barriers_text(evidence: Evidence, method: str) -> str:
    found = {network: _barriers(evidence, f"{setting}/{method}") for network, setting in SETTINGS.items()}
    return ", ".join(f"{network} {mean_and_std(values, digits=4)}" for network, values in found.items())


def _by_pruning_run(evidence: Evidence, name: str) -> tuple[Values, Values]:
    """Means of a column of ``distances`` for each pruning run, of its tickets and of Scratch on its masks."""
    means = [
        rows(evidence, "distances", group=group).groupby("prune_seed")[name].mean() for group in (LOTTERY, SCRATCH)
    ]
    both = means[0].index.intersection(means[1].index)
    need(both, FEWEST, of="pruning runs with distances of tickets and scratch runs", make="distances")
    lottery, scratch = (found[both].to_numpy(dtype=np.float64) for found in means)
    return lottery, scratch


CLAIMS = {"C30": c30, "C31": c31, "C32": c32, "C33": c33, "C34": c34, "C35": c35}
