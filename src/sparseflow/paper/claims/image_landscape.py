"""Where tickets of ResNet-14 start and end on CIFAR-10, seen from the pruning solution (section 4.3, Figure 5).

As in :mod:`.image_tickets` values are means of pruning runs, 3 against 3, unless a claim says otherwise; tickets are
rewound to 6 % of training.
"""

from __future__ import annotations

import math

from sparseflow.lab.page.evidence import Evidence
from sparseflow.paper.claims.bounds import interval_above, reaches
from sparseflow.paper.claims.image_tickets import LOTTERY, SCRATCH
from sparseflow.paper.claims.intervals import Values
from sparseflow.paper.claims.landscape import around_pruned, high_barrier, ratio_interval, starts_nearer
from sparseflow.paper.claims.run_statistics import mean_and_std
from sparseflow.paper.claims.sites import rows_by_mask
from sparseflow.paper.claims.statistics import greater
from sparseflow.paper.claims.tables import column
from sparseflow.paper.claims.verdict import FEWEST_RANKED, Verdict, conclude
from sparseflow.paper.matrix.cifar import RESNET

#: How many times farther Scratch must end: the criterion's for ImageNet.
FARTHER = 3.0
#: Share of the barrier of Scratch up to which tickets have none: the criterion's for ImageNet.
NO_BARRIER = 0.05


def c30(evidence: Evidence) -> Verdict:
    """A ticket starts nearer to the pruning solution than a random start on the same masks.

    Criterion: :func:`.starts_nearer`. How far a random direction as long as the ticket is away is reported, and the
    original ticket (K = 0) where it was measured: what lengths, and the dense run's first steps, explain.
    """
    lottery, scratch = _distances(evidence, "init")
    control, _ = _distances(evidence, "control_init")
    cosine = [float(found.mean()) for found in _distances(evidence, "cosine_init")]
    table = evidence.table("distances")
    original = table[table["group"] == f"{RESNET}/lottery-k0"].groupby("prune_seed")["init"].mean()
    return conclude(
        "C30",
        starts_nearer(lottery, scratch),
        ours=f"distance at the start: lottery {mean_and_std(lottery)}, scratch {mean_and_std(scratch)}, ratio "
        f"{scratch.mean() / lottery.mean():.2f}; a random direction as long as the ticket {control.mean():.2f}"
        + (f"; original ticket {original.mean():.2f}" if len(original) else "")
        + f"; cosine {cosine[0]:.2f} vs {cosine[1]:.2f}",
        held="On CIFAR-10 the weights that a lottery ticket of a narrow ResNet-14 starts from are nearer to the pruned "
        "network than random ones.",
        failed="On CIFAR-10 the weights that a lottery ticket of a narrow ResNet-14 starts from are not clearly nearer "
        "to the pruned network than random ones.",
        inconclusive="On CIFAR-10 three pruning runs do not show that a lottery ticket of a narrow ResNet-14 starts "
        "nearer to the pruned network than random weights.",
        numbers={"lottery": float(lottery.mean()), "scratch": float(scratch.mean()), "control": float(control.mean())},
    )


def c31(evidence: Evidence) -> Verdict:
    """Trained tickets end several times nearer to the pruning solution than Scratch.

    Criterion (ImageNet): the lower 95 % bound of the ratio of distances is above 3; from the t interval of the mean log
    ratio over pruning runs.
    """
    lottery, scratch = _distances(evidence, "final")
    ratio = ratio_interval(scratch, lottery)
    return conclude(
        "C31",
        interval_above(ratio, FARTHER),
        ours=f"distance at the end: lottery {mean_and_std(lottery)}, scratch {mean_and_std(scratch)}, ratio {ratio}",
        held="On CIFAR-10 lottery tickets of a narrow ResNet-14 end more than three times as near to the pruned "
        "network as runs from random weights.",
        failed="On CIFAR-10 lottery tickets of a narrow ResNet-14 do not end three times as near to the pruned network "
        "as runs from random weights.",
        inconclusive="On CIFAR-10 three pruning runs do not show that lottery tickets of a narrow ResNet-14 end three "
        "times as near to the pruned network as runs from random weights.",
        numbers={"lottery": float(lottery.mean()), "scratch": float(scratch.mean()), "ratio": ratio.estimate},
    )


def c32(evidence: Evidence) -> Verdict:
    """Ticket solutions cluster around the pruning solution, Scratch solutions do not.

    Criterion: :func:`.around_pruned`, on distances of the weights, not of the map in two dimensions.
    Differs: runs of all pruning runs, each with its distance to the solution whose masks it has, are permuted together:
    of one there are 3 and 3, and no p-value below 1/20.
    """
    lottery, scratch = (
        column(evidence, "distances", "final", at_least=FEWEST_RANKED, group=f"{RESNET}/{kind}")
        for kind in (LOTTERY, SCRATCH)
    )
    return conclude(
        "C32",
        around_pruned(lottery, scratch),
        ours=f"distance to the pruned network: lottery {mean_and_std(lottery)}, scratch {mean_and_std(scratch)}",
        held="On CIFAR-10 trained lottery tickets of a narrow ResNet-14 lie around the pruned network, runs from "
        "random weights more than twice as far away.",
        failed="On CIFAR-10 trained lottery tickets of a narrow ResNet-14 do not lie half as far from the pruned "
        "network as runs from random weights.",
        inconclusive="On CIFAR-10 the runs do not show that trained lottery tickets of a narrow ResNet-14 lie closer "
        "around the pruned network than runs from random weights.",
        numbers={"ratio": float(lottery.mean() / scratch.mean())},
    )


def c33(evidence: Evidence) -> Verdict:
    """The loss falls faster on the line from a ticket's start to the pruning solution than from a random start.

    Criterion: the area under the log loss is smaller, one-sided Welch p < 0.01.
    """
    lottery, scratch = rows_by_mask(evidence, "barriers", "area", (LOTTERY, SCRATCH), start="init")
    return conclude(
        "C33",
        greater(scratch, lottery, alpha=0.01),
        ours=f"area under the log loss: lottery {mean_and_std(lottery)}, scratch {mean_and_std(scratch)}",
        held="On CIFAR-10, walking straight to the pruned ResNet-14, the loss falls sooner from a lottery ticket's "
        "start than from a random one.",
        failed="On CIFAR-10, walking straight to the pruned ResNet-14, the loss does not fall sooner from a lottery "
        "ticket's start.",
        inconclusive="On CIFAR-10 three pruning runs of ResNet-14 do not show that the loss falls sooner from a "
        "lottery ticket's start, walking straight to the pruned network.",
        numbers={"lottery": float(lottery.mean()), "scratch": float(scratch.mean())},
    )


def c34(evidence: Evidence) -> Verdict:
    """Ticket solutions are linearly connected to the pruning solution.

    Criterion (ImageNet): the mean barrier is at most 5 % of that of Scratch, without a test. Open if Scratch has none.
    """
    lottery, scratch = _barriers(evidence)
    share = float(lottery.mean() / scratch.mean()) if scratch.mean() > 0 else math.nan
    return conclude(
        "C34",
        reaches(share, at_most=NO_BARRIER, n=f"{len(lottery)} pruning runs", of="barrier of tickets / of Scratch"),
        ours=f"barrier, nats: lottery {mean_and_std(lottery, digits=4)}, scratch {mean_and_std(scratch, digits=4)}",
        held="On CIFAR-10 the loss hardly rises on the straight line from a trained lottery ticket to the pruned "
        "ResNet-14: at most a twentieth of what it does from random weights.",
        failed="On CIFAR-10 the loss rises on the straight line from a trained lottery ticket to the pruned ResNet-14, "
        "by more than a twentieth of what it does from random weights.",
        inconclusive="On CIFAR-10 there is no ridge in the loss between the pruned ResNet-14 and runs from random "
        "weights, to compare that of lottery tickets with.",
        numbers={"lottery": float(lottery.mean()), "scratch": float(scratch.mean())},
    )


def c35(evidence: Evidence) -> Verdict:
    """Scratch solutions are separated from the pruning solution.

    Criterion: :func:`.high_barrier`.
    """
    lottery, scratch = _barriers(evidence)
    return conclude(
        "C35",
        high_barrier(lottery, scratch),
        ours=f"barrier, nats: scratch {mean_and_std(scratch, digits=4)}, lottery {mean_and_std(lottery, digits=4)}",
        held="On CIFAR-10 the loss rises high on the straight line from a network trained from random weights to the "
        "pruned ResNet-14, more than ten times as high as from a lottery ticket.",
        failed="On CIFAR-10 it is not so that the loss rises by more than 0.1 nats, and ten times as high as from a "
        "lottery ticket, on the straight line from a network trained from random weights to the pruned ResNet-14.",
        inconclusive="On CIFAR-10 three pruning runs do not show that the loss rises high on the straight line from a "
        "network trained from random weights to the pruned ResNet-14.",
        numbers={"lottery": float(lottery.mean()), "scratch": float(scratch.mean())},
    )


def _distances(evidence: Evidence, name: str) -> tuple[Values, Values]:
    lottery, scratch = rows_by_mask(evidence, "distances", name, (LOTTERY, SCRATCH))
    return lottery, scratch


def _barriers(evidence: Evidence) -> tuple[Values, Values]:
    lottery, scratch = rows_by_mask(evidence, "barriers", "barrier", (LOTTERY, SCRATCH), start="solution")
    return lottery, scratch


CLAIMS = {"C30": c30, "C31": c31, "C32": c32, "C33": c33, "C34": c34, "C35": c35}
