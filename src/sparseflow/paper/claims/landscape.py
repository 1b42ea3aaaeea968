"""Claims about the starts and ends of lottery tickets in weight space, beside the pruning solution (4.3, Figure 5).

The pruning run is the independent thing where there are several: tickets of one share their start bit for bit. On
CIFAR-10 tickets are rewound to 6 % of training, and values are means of pruning runs, 3 against 3, unless a claim says
otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from sparseflow.lab.page.evidence import Evidence
from sparseflow.paper.claims.bounds import interval_above, reaches
from sparseflow.paper.claims.intervals import Interval, Values, mean_interval
from sparseflow.paper.claims.pruning_runs import (
    TicketsAndScratch,
    distances_by_pruning_run,
    lottery_and_scratch,
    of_tickets,
)
from sparseflow.paper.claims.run_statistics import labelled_means, mean_and_std
from sparseflow.paper.claims.sites import MNIST, Site
from sparseflow.paper.claims.statistics import above, greater, permutation_greater
from sparseflow.paper.claims.tables import column, rows
from sparseflow.paper.claims.verdict import FEWEST_RANKED, Part, Verdict, all_of, conclude, decided

#: Nats up to which there is no barrier (protocol I.2).
NO_BARRIER = 0.01
#: How many times, in words.
_TIMES = {2: "twice", 3: "three times"}


def c30(evidence: Evidence, site: Site) -> Verdict:
    """A ticket starts nearer to the pruning solution than a random start on the same masks.

    Criterion: the L2 distance is smaller in every pruning run, Welch p < 0.01, and the ratio is above 1.1. The values
    of the Welch test are means of pruning runs, since all tickets of one have the same start. How far a random
    direction as long as the ticket is away is reported, and the original ticket (K = 0) where others were rewound late
    and it was measured too: what lengths, and the dense run's first steps, explain.
    """
    found = distances_by_pruning_run(evidence, site, "init")
    control, _ = distances_by_pruning_run(evidence, site, "control_init")
    cosine = [float(found.mean()) for found in distances_by_pruning_run(evidence, site, "cosine_init")]
    table = evidence.table("distances")
    original = table[table["group"] == f"{site.main_tickets}/lottery-k0"].groupby("prune_seed")["init"].mean()
    return conclude(
        "C30",
        _starts_nearer(found),
        where=site.tickets.phrase,
        ours=f"distance at the start: {found.text()}, ratio {found.ratio:.2f}; a random direction as long as the "
        f"ticket {control.mean():.2f}"
        + (f"; original ticket {original.mean():.2f}" if len(original) else "")
        + f"; cosine {cosine[0]:.2f} vs {cosine[1]:.2f}",
        held="The weights that a lottery ticket starts from are nearer to the pruned network than random ones.",
        failed="The weights that a lottery ticket starts from are not clearly nearer to the pruned network than random "
        "ones.",
    )


def _starts_nearer(found: TicketsAndScratch) -> Part:
    """C30's criterion on distances at the start, of the same pruning runs in the same order."""
    lottery, scratch = found
    n = f"{len(lottery)} pruning runs"
    parts = {
        "every pruning run": reaches(float((scratch / lottery).min()), at_least=1.0, n=n, of="smallest ratio"),
        "means": greater(scratch, lottery, alpha=0.01),
        "size": reaches(found.ratio, at_least=1.1, n=n, of="ratio of means"),
    }
    return all_of(parts)


def c31(evidence: Evidence, site: Site) -> Verdict:
    """Trained tickets end several times nearer to the pruning solution than Scratch.

    Criterion: the lower 95 % bound of the ratio of distances is above 2 on MNIST, above 3 on CIFAR-10 as on ImageNet;
    from the t interval of the mean log ratio over pruning runs.
    """
    found = distances_by_pruning_run(evidence, site, "final")
    ratio = ratio_interval(found.scratch, found.lottery)
    times = _TIMES[site.farther]
    return conclude(
        "C31",
        interval_above(ratio, site.farther),
        where=site.tickets.phrase,
        ours=f"distance at the end: {found.text()}, ratio {ratio}",
        untested=site.untested,
        held=f"Lottery tickets end more than {times} as near to the pruned network as runs from random weights.",
        failed=f"Lottery tickets do not end {times} as near to the pruned network as runs from random weights.",
    )


def ratio_interval(a: Values, b: Values) -> Interval:
    """Geometric mean of paired ratios ``a / b``, with the t interval of the mean log ratio.

    >>> str(ratio_interval(np.array([2.0, 4.0, 8.0]), np.array([1.0, 2.0, 4.0])))
    '2 [2, 2]'
    """
    estimate, low, high, n, level = mean_interval(np.log(a / b))
    return Interval(math.exp(estimate), math.exp(low), math.exp(high), n, level)


def c32(evidence: Evidence, site: Site) -> Verdict:
    """Ticket solutions cluster around the pruning solution, Scratch solutions do not.

    Criterion: their mean distance to it is below half of that of Scratch, permutation of runs p < 0.01. Distances are
    those of the weights, not of the map in two dimensions; of the first pruning run, as in the figure.
    Differs on CIFAR-10: runs of all pruning runs, each with its distance to the solution whose masks it has, are
    permuted together: of one there are 3 and 3, and no p-value below 1/20.
    """
    groups = lottery_and_scratch(site, site.main_tickets)
    labels = {}
    if not site.by_pruning_run:
        labels = {"prune_seed": int(rows(evidence, "distances", group=groups[0])["prune_seed"].min())}
    found = TicketsAndScratch(
        *(column(evidence, "distances", "final", at_least=FEWEST_RANKED, group=group, **labels) for group in groups)
    )
    return conclude(
        "C32",
        _around_pruned(*found),
        where=site.tickets.phrase,
        ours=f"distance to the pruned network: {found.text()}",
        held="Trained lottery tickets lie around the pruned network, runs from random weights far away from it.",
        failed="Trained lottery tickets do not lie much closer around the pruned network than runs from random "
        "weights.",
    )


def _around_pruned(lottery: Values, scratch: Values) -> Part:
    """C32's criterion on distances at the end."""
    ratio = float(lottery.mean() / scratch.mean())
    n = f"{len(lottery)} vs {len(scratch)}"
    parts = {
        "half": reaches(ratio, at_most=0.5, n=n, of="ratio of mean distances"),
        "permutation": permutation_greater(scratch, lottery, alpha=0.01),
    }
    return all_of(parts)


def c33(evidence: Evidence, site: Site) -> Verdict:
    """The loss falls faster on the line from a ticket's start to the pruning solution than from a random start.

    Criterion, on LeNet5: the area under the log loss is smaller, one-sided Welch p < 0.01. Tickets of one pruning run
    have one start, so theirs is one number and the spread is that of Scratch alone.
    Differs on CIFAR-10: ResNet-14, means of pruning runs.
    """
    lottery, scratch = of_tickets(evidence, site, site.main_tickets, "barriers", "area", start="init")
    tickets = mean_and_std(lottery) if site.by_pruning_run else f"{lottery.mean():.2f}"
    return conclude(
        "C33",
        greater(scratch, lottery, alpha=0.01),
        where=site.tickets.phrase,
        ours=f"area under the log loss: lottery {tickets}, scratch {mean_and_std(scratch)}",
        held="Walking straight to the pruned network, the loss falls sooner from a lottery ticket's start than from a "
        "random one.",
        failed="Walking straight to the pruned network, the loss does not fall sooner from a lottery ticket's start.",
    )


def c34(evidence: Evidence, site: Site) -> Verdict:
    """Ticket solutions are linearly connected to the pruning solution.

    Criterion, on LeNet5 and the MLP: :func:`connected`. On CIFAR-10 that of ImageNet: the mean barrier is at most 5 %
    of that of Scratch, without a test; open if Scratch has none.
    """
    found = _barriers(evidence, site)
    line = "On the straight line from a trained lottery ticket to the pruned network the loss"
    return conclude(
        "C34",
        all_of(
            {
                network: connected(lottery)
                if site.barrier_share is None
                else _small_beside(scratch, lottery, share=site.barrier_share)
                for network, (lottery, scratch) in found.items()
            }
        ),
        where=site.tickets.phrase,
        ours=_barriers_text(found, site, "lottery"),
        untested=site.untested,
        held=f"{line} hardly rises.",
        failed=f"{line} rises.",
        inconclusive="There is no ridge in the loss between the pruned network and runs from random weights, to "
        "compare that of lottery tickets with.",
    )


def c35(evidence: Evidence, site: Site) -> Verdict:
    """Scratch solutions are separated from the pruning solution. Criterion: :func:`separated`, on every network."""
    found = _barriers(evidence, site)
    return conclude(
        "C35",
        all_of({network: separated(*both) for network, both in found.items()}),
        where=site.tickets.phrase,
        ours=_barriers_text(found, site, "scratch"),
        held="On the straight line from a network trained from random weights to the pruned network the loss rises "
        "high.",
        failed="On the straight line from a network trained from random weights to the pruned network there is no high "
        "ridge in the loss.",
    )


def connected(lottery: Values) -> Part:
    """Whether there is no barrier between tickets and the pruning solution.

    The mean barrier is at most 0.01 nats, or its 95 % interval includes 0. A barrier cannot be negative, so few runs of
    very different barriers meet the second; it is the criterion.
    """
    barrier = mean_interval(lottery)
    met = barrier.estimate <= NO_BARRIER or barrier.low <= 0
    text = f"mean barrier {barrier} at most {NO_BARRIER:g} nats, or its 95 % interval includes 0"
    return Part(decided(barrier.estimate, met=met), text, barrier.n)


def _small_beside(scratch: Values, lottery: Values, *, share: float) -> Part:
    """Whether the mean barrier of tickets is at most a share of that of Scratch; open if Scratch has none."""
    found = float(lottery.mean() / scratch.mean()) if scratch.mean() > 0 else math.nan
    return reaches(found, at_most=share, n=f"{len(lottery)} pruning runs", of="barrier of tickets / of Scratch")


def separated(lottery: Values, scratch: Values) -> Part:
    """Whether the barrier of Scratch is above 10 times that of tickets (Welch) and above 0.1 nats (t); p < 0.01."""
    parts = {"10 times": greater(scratch, 10 * lottery, alpha=0.01), "0.1 nats": above(scratch, 0.1, alpha=0.01)}
    return all_of(parts)


def barriers(evidence: Evidence, setting: str, site: Site = MNIST) -> TicketsAndScratch:
    """Barriers between the pruning solution and the ends of its tickets, and of Scratch on the same masks."""
    return of_tickets(evidence, site, setting, "barriers", "barrier", start="solution")


def _barriers(evidence: Evidence, site: Site) -> dict[str, TicketsAndScratch]:
    return {network: barriers(evidence, setting, site) for network, setting in site.tickets.groups.items()}


def _barriers_text(found: Mapping[str, TicketsAndScratch], site: Site, kind: str) -> str:
    """The barriers of the claim's own kind of run, and of both where there are a few pruning runs."""
    kinds = TicketsAndScratch._fields if site.by_pruning_run else (kind,)
    return "barrier, nats: " + "; ".join(
        f"{network} {labelled_means({name: getattr(both, name) for name in kinds}, digits=4)}"
        for network, both in found.items()
    )


ON_SITES = {"C30": c30, "C31": c31, "C32": c32, "C33": c33, "C34": c34, "C35": c35}
