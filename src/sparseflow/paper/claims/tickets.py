"""Claims about the accuracy of lottery tickets, intact and perturbed (sections 3.3, 4.3, B.1).

Tickets of MNIST start from the first weights of the pruning run (K = 0), those of CIFAR-10 from its weights after 6 %
of training, unless they are called the original ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import product

import numpy as np

from sparseflow.lab.page.evidence import Evidence
from sparseflow.paper.claims.bounds import reaches
from sparseflow.paper.claims.contrasts import contrast, spread_above, spread_within
from sparseflow.paper.claims.former import UNPAIRED, on_first_masks
from sparseflow.paper.claims.intervals import Spread, Values, mean_spread, welch_spread
from sparseflow.paper.claims.landscape import BY_PRUNING_RUN
from sparseflow.paper.claims.pruning_runs import of_runs
from sparseflow.paper.claims.run_statistics import (
    accuracies,
    accuracies_of,
    accuracy,
    labelled_means,
    mean_and_std,
    mean_log_norm,
    norm_at,
    num_collapsed,
    of_each,
)
from sparseflow.paper.claims.sites import Site
from sparseflow.paper.claims.starts import paired_values
from sparseflow.paper.claims.statistics import above, greater, paired_greater, spearman_above
from sparseflow.paper.claims.tables import rows
from sparseflow.paper.claims.verdict import FEWEST, FEWEST_RANKED, Former, Part, Verdict, all_of, conclude, need
from sparseflow.training.runs import Run

#: Sparsity in percent -> setting of its tickets.
SPARSITIES = {80: "tickets/s80", 90: "tickets/s90", 95: "tickets", 98: "tickets/s98"}
#: Points of accuracy that claims call the same.
SAME = 0.3
#: Points that the original ticket of a large network must lose.
LOSS = 1.0
LOG_2 = math.log(2)
#: Nats up to which there is no barrier (protocol I.2).
NO_BARRIER = 0.01


def c29(evidence: Evidence, site: Site) -> Verdict:
    """Tickets do not improve the gradient flow, neither at the start nor early.

    Criterion, on LeNet5 and the MLP, mean log norm over the first 1000 steps, paired by the pruning run whose masks all
    have: that of tickets is below that of Scratch+, and less than twice that of Scratch (Original), which the claim
    says they do not improve; one-sided t, p < 0.05. The norms at step 0 are reported.
    Differs on CIFAR-10: ResNets, over the same share of training.
    """
    parts, old, described = {}, {}, []
    for network, group in site.ticket_flow.groups.items():
        kinds = [f"{group}/{kind}" for kind in site.ticket_kinds.values()]

        def of_kinds(
            statistic: Callable[[Run], float], group: str = group, kinds: Sequence[str] = kinds
        ) -> dict[str, Values]:
            # A run of Table 1 has the masks of a pruning run of its own.
            if all(kind in evidence.groups for kind in kinds):
                found = paired_values(evidence, statistic, *kinds)
            else:
                found = of_runs(evidence, group, tuple(site.ticket_kinds.values()), statistic)
            return dict(zip(site.ticket_kinds, found, strict=True))

        early = of_kinds(lambda run: mean_log_norm(run, 0, 1000))
        starts = of_kinds(lambda run: norm_at(run, 0))
        parts[f"{network}, below Scratch+"] = paired_greater(early["Scratch+"], early["lottery"], alpha=0.05)
        parts[f"{network}, below twice Scratch"] = paired_greater(
            early["Scratch"], early["lottery"], margin=-LOG_2, alpha=0.05
        )
        old[network] = greater(early["Scratch+"], early["lottery"], alpha=0.05)
        gain = float(np.exp((early["lottery"] - early["Scratch"]).mean()))
        first = ", ".join(f"{label} {norm.mean():.3g}" for label, norm in starts.items())
        later = ", ".join(f"{label} {np.exp(log.mean()):.3g}" for label, log in early.items())
        described.append(
            f"{network}: norm at step 0 {first}; over 1000 of the paper's steps {later}; lottery {gain:.2f} times "
            "Scratch"
        )
    return conclude(
        "C29",
        all_of(parts),
        where=site.ticket_flow.phrase,
        ours="; ".join(described),
        design="pairs by pruning run",
        former=Former(
            "early log norm of tickets below that of Scratch+; tickets against Scratch only reported",
            all_of(old).outcome,
            "The claim is that tickets do not improve the gradient: that they have less than Scratch+ is half of it, "
            "that they have no more than Scratch from the usual weights is the other. A factor of two is what Figure 2 "
            "can show.",
        ),
        held="Lottery tickets start with smaller gradients than networks whose weights are scaled to the mask, and "
        "no more than twice those of usual weights.",
        failed="Lottery tickets do improve on the gradients of usual weights early in training, or even have those of "
        "weights scaled to the mask.",
        inconclusive="That lottery tickets have no larger gradients early in training is not shown.",
    )


def c43(evidence: Evidence) -> Verdict:
    """Tickets reach the accuracy of the pruning solution; Scratch does not.

    Criterion (MNIST): the accuracies of tickets and pruned network differ by less than 0.3 points (TOST; alpha 0.05,
    which the claim leaves open); the pruned network is more than 0.5 points above Scratch, p < 0.01. t tests over
    pruning runs, each with the mean of the runs on its masks, so that they hold for more than one pruned network.
    """
    gaps = {method: _above_pruned(evidence, f"tickets/{method}", "tickets/prune") for method in ("lottery", "scratch")}
    parts = {
        "lottery and pruned": _same(gaps["lottery"]),
        "pruned above scratch": above(-gaps["scratch"], 0.5, alpha=0.01),
    }
    return conclude(
        "C43",
        all_of(parts),
        design=BY_PRUNING_RUN,
        ours=f"points above the pruned network, over pruning runs: {labelled_means(gaps)}; tickets within {SAME} of "
        f"it on {int((np.abs(gaps['lottery']) <= SAME).sum())} of {len(gaps['lottery'])}",
        untested="ImageNet",
        held="Lottery tickets end as accurate as the pruned network, random weights on the same connections clearly "
        "less.",
        failed="Not both are so: that lottery tickets end as accurate as the pruned network, and random weights "
        "clearly less.",
    )


def c44_original(evidence: Evidence) -> Verdict:
    """On LeNet5 the original ticket (K = 0) suffices; :func:`c44_late` is about networks that need late rewinding.

    Criterion, its LeNet5 half: tickets are within 0.3 points of the pruned network (TOST; alpha 0.05, which the claim
    leaves open), paired by pruning run; runs of Table 1, with weight decay.
    """
    gap = _above_pruned(evidence, "lenet5/lottery", "lenet5/prune")
    return conclude(
        "C44",
        _same(gap),
        ours=f"lottery - pruned {mean_and_std(gap)} points",
        untested="what large networks do",
        held="On LeNet5 lottery tickets from the very first weights end as accurate as the pruned network.",
        failed="On LeNet5 lottery tickets from the very first weights do not end as accurate as the pruned network.",
        inconclusive="On LeNet5 the runs do not show that lottery tickets from the very first weights end as accurate "
        "as the pruned network.",
    )


def c44_late(evidence: Evidence, site: Site) -> Verdict:
    """On large networks the original ticket (K = 0) fails; late rewinding is needed.

    Criterion, its other half, on CIFAR-10: tickets of a ResNet with K = 0 end more than 1 point below those of K = 6 %
    of training, the share that 2000 are of the paper's 32000 steps; one-sided t paired by pruning run, p < 0.05.
    Reported of VGG16: accuracy, how many end at chance and the gradient norm at step 0, which tells a signal that
    vanished from a ticket that failed.
    Differs: values are means of pruning runs.
    """
    late, original = of_runs(evidence, site.main_tickets, ("lottery", "lottery-k0"), accuracy)
    (label,) = site.tickets.groups
    return conclude(
        "C44",
        paired_greater(late, original, margin=LOSS, alpha=0.05),
        where=site.tickets.phrase,
        design=BY_PRUNING_RUN,
        former=Former(
            "Welch's t test of means of pruning runs",
            greater(late, original, margin=LOSS, alpha=0.05).outcome,
            UNPAIRED,
        ),
        ours=f"{label}: K = 6 % {mean_and_std(late)}, K = 0 {mean_and_std(original)}" + _plain_text(evidence, site),
        held="Lottery tickets end more than a point worse from the very first weights than from those a little into "
        "training.",
        failed="Lottery tickets do not end a point worse from the very first weights than from those a little into "
        "training.",
    )


def _plain_text(evidence: Evidence, site: Site) -> str:
    """A sentence on VGG16's tickets on one mask, rewound late and not rewound, as far as they were trained."""
    described = []
    kinds = (("K = 0", "lottery-k0"), ("K = 6 %", "lottery"))
    for (network, group), (name, kind) in product(site.plain_tickets.groups.items(), kinds):
        runs = evidence.groups.get(f"{group}/{kind}/mask0", ())
        if runs:
            lost = num_collapsed(runs, below=evidence.collapse_percent)
            norm = of_each(runs, lambda run: norm_at(run, 0)).mean()
            described.append(
                f"; {network}, {name} {mean_and_std(accuracies(runs))}, {lost} of {len(runs)} at chance, gradient "
                f"norm at step 0 {norm:.3g}"
            )
    return "".join(described)


def c45(evidence: Evidence) -> Verdict:
    """Rewinding cannot beat restarting the schedule from the pruning solution.

    Criterion: the accuracy of restarts is at most 0.05 points below that of tickets, one-sided t paired by pruning run,
    p < 0.05.
    """
    kinds = ("restart", "lottery")
    found = dict(zip(kinds, of_runs(evidence, "tickets", kinds, accuracy), strict=True))
    return conclude(
        "C45",
        paired_greater(found["restart"], found["lottery"], margin=-0.05, alpha=0.05),
        design=BY_PRUNING_RUN,
        former=on_first_masks(
            "Welch's t test",
            lambda: greater(*(accuracies_of(evidence, f"tickets/{kind}") for kind in kinds), margin=-0.05, alpha=0.05),
        ),
        ours=f"accuracy: {labelled_means(found)}",
        held="Training on from the pruned network ends as accurate as starting over from its early weights.",
        failed="Training on from the pruned network ends less accurate than starting over from its early weights.",
    )


def c46(evidence: Evidence) -> Verdict:
    """Perturbing a ticket leaves its accuracy unchanged as long as it stays in the basin of the pruning solution.

    Criterion: over perturbed tickets (noise, signs only, shuffled weights or masks) the rank correlation of barrier and
    lost accuracy is above 0.6, p < 0.01; those with a barrier below 0.01 nats end within 0.3 points of the tickets. If
    there is none of these, the second part is open.
    """
    tickets = accuracies_of(evidence, "tickets/lottery")
    measured = rows(evidence, "barriers", start="solution").set_index(["group", "seed"])["barrier"]
    perturbed = {
        (group, run.config.seed): run
        for group in sorted({group for group, _ in measured.index})
        if group.startswith("tickets/lottery/") and "/mask" not in group
        for run in evidence.runs(group)
    }
    both = need(
        [name for name in perturbed if name in measured.index],
        2 * FEWEST_RANKED,
        of="perturbed tickets with a barrier",
        make="barriers",
    )
    barrier = measured[both].to_numpy(dtype=np.float64)
    loss = tickets.mean() - accuracies(perturbed[name] for name in both)
    inside = loss[barrier < NO_BARRIER]
    parts = {"all": spearman_above(barrier, loss, 0.6, alpha=0.01), "in the basin": _unchanged(inside)}
    return conclude(
        "C46",
        all_of(parts),
        ours=f"{len(inside)} of {len(loss)} perturbed tickets have no barrier"
        + (f", they lose {mean_and_std(inside)} points" if len(inside) else ""),
        held="The farther a perturbed lottery ticket leaves the pruned network's valley, the more accuracy it loses.",
        failed="How much accuracy a perturbed lottery ticket loses does not simply go with leaving the pruned "
        "network's valley.",
        inconclusive="No perturbed ticket stayed in the pruned network's valley, or the runs are too few to see "
        "whether that is what keeps its accuracy.",
    )


def c47(evidence: Evidence) -> Verdict:
    """At 95 % sparsity tickets and Scratch start to differ starkly.

    Criterion: the gap of accuracies is larger at 0.95 than at 0.9 and there than at 0.8, with a trend p < 0.05, and
    above 1 point at 0.95. A gap is that of the means on the masks of a pruning run. The trend is the linear contrast of
    the three mean gaps, -1, 0, 1, with Welch's errors over pruning runs; 0.98 is reported.
    """
    found = {
        sparsity: of_runs(evidence, setting, ("lottery", "scratch"), accuracy)
        for sparsity, setting in SPARSITIES.items()
    }
    gaps = {sparsity: mean_spread(lottery - scratch) for sparsity, (lottery, scratch) in found.items()}
    n = ", ".join(str(len(found[sparsity][0])) for sparsity in (80, 90, 95)) + " pruning runs"
    return conclude(
        "C47",
        _starker(gaps, n=n),
        design=BY_PRUNING_RUN,
        former=on_first_masks("linear contrast of differences of means", lambda: _starker_before(evidence)),
        ours="lottery - scratch, points: " + ", ".join(f"{s} % {gap.estimate:.2f}" for s, gap in gaps.items()),
        held="The more connections are gone, the more lottery tickets gain on random weights; at 95 % over a point.",
        failed="What lottery tickets gain on random weights does not grow to over a point at 95 % zeros.",
    )


def _starker(gaps: Mapping[int, Spread], *, n: str) -> Part:
    """C47's criterion on the gaps by sparsity."""
    judged = [gaps[sparsity] for sparsity in (80, 90, 95)]
    steps = np.diff([gap.estimate for gap in judged])
    parts = {
        "order": reaches(float(steps.min()), at_least=0.0, n=n, of="smaller of the two rises of the gap"),
        "trend": spread_above(contrast(judged, [-1.0, 0.0, 1.0]), alpha=0.05, n=n, test="linear contrast"),
        "size": reaches(gaps[95].estimate, at_least=1.0, n=n, of="gap at 95 %"),
    }
    return all_of(parts)


def _starker_before(evidence: Evidence) -> Part:
    gaps = {
        sparsity: welch_spread(*(accuracies_of(evidence, f"{setting}/{kind}") for kind in ("lottery", "scratch")))
        for sparsity, setting in SPARSITIES.items()
    }
    return _starker(gaps, n="")


def _same(gap: Values) -> Part:
    n = f"{len(gap)} pruning runs"
    part = spread_within(mean_spread(gap), SAME, alpha=0.05, n=n, test="paired TOST, difference")
    return replace(part, design=BY_PRUNING_RUN)


def _unchanged(loss: Values) -> Part:
    if not len(loss):
        return Part("inconclusive", f"no perturbed ticket has a barrier below {NO_BARRIER:g} nats", "0")
    largest = float(np.abs(loss).max())
    return reaches(largest, at_most=SAME, n=str(len(loss)), of="largest difference from the tickets")


def _above_pruned(evidence: Evidence, method: str, pruned: str) -> Values:
    """Accuracy of runs minus that of the pruned network whose masks they have: a mean for each pruning run."""
    groups = [group for group in evidence.groups if group == method or group.startswith(f"{method}/mask")]
    runs = [run for group in groups for run in evidence.groups[group]]
    gaps = []
    for parent in evidence.runs(pruned):
        children = accuracies(run for run in runs if run.config.mask_from == parent.config)
        if len(children):
            gaps.append(float(children.mean() - accuracies([parent])[0]))
    return np.array(
        need(gaps, FEWEST, of=f"pruning runs of {pruned} with runs of {method} on their masks", make=method)
    )


#: Judged on MNIST alone.
CLAIMS = {"C43": c43, "C44": c44_original, "C45": c45, "C46": c46, "C47": c47}
ON_SITES = {"C29": c29}
