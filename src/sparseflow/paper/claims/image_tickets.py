"""Lottery tickets on CIFAR-10: how they start, how they end, and what function they compute (sections 3.3, 4.3, B.1).

The pruning run is the independent thing: tickets of one share their start, so that each number is the mean of the runs
on its masks. Tickets are rewound to 6 % of training unless they are called the original ones (K = 0).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from sparseflow.lab.page.evidence import Evidence
from sparseflow.lab.page.summary import accuracy_percent
from sparseflow.paper.claims.intervals import Values
from sparseflow.paper.claims.run_statistics import (
    accuracies,
    mean_and_std,
    mean_log_norm,
    norm_at,
    num_collapsed,
    of_each,
)
from sparseflow.paper.claims.similarity import answers_like_pruned
from sparseflow.paper.claims.sites import rows_by_mask, runs_by_mask
from sparseflow.paper.claims.statistics import greater
from sparseflow.paper.claims.verdict import Verdict, conclude
from sparseflow.training.runs import Run

#: Name in the paper -> kind of run on pruned masks.
KINDS = {"lottery": "lottery", "Scratch": "ticket-scratch", "Scratch+": "ticket-scratch-sparse"}
LOTTERY, SCRATCH = KINDS["lottery"], KINDS["Scratch"]
#: Points that the original ticket must lose.
LOSS = 1.0
#: VGG16 whose original tickets were trained, and their kinds.
VGG, ORIGINAL = "vgg16-90", {"K = 0": "lottery-k0", "K = 6 %": "lottery"}


def c29(evidence: Evidence) -> Verdict:
    """Tickets do not improve the gradient flow, neither at the start nor early.

    Criterion, on ResNet-14: the mean log norm early, over the share of training that 1000 steps are of MNIST's 11719,
    is below that of Scratch+ on the same masks, one-sided Welch p < 0.05. Tickets against Scratch (Original), of which
    they are claimed to gain nothing, are reported, and the norm at step 0 of all.
    Differs: values are means of pruning runs, 3 against 3.
    """
    early = _of_kinds(evidence, lambda run: mean_log_norm(run, 0, 1000))
    starts = _of_kinds(evidence, lambda run: norm_at(run, 0))
    gain = greater(early["lottery"], early["Scratch"], alpha=0.05)
    first = ", ".join(f"{label} {norm.mean():.3g}" for label, norm in starts.items())
    later = ", ".join(f"{label} {np.exp(log.mean()):.3g}" for label, log in early.items())
    return conclude(
        "C29",
        greater(early["Scratch+"], early["lottery"], alpha=0.05),
        ours=f"gradient norm at step 0: {first}; early: {later}; lottery above Scratch p = {gain.p_value:.2g}",
        held="On CIFAR-10 lottery tickets of a narrow ResNet-14 have smaller gradients early than networks whose "
        "weights are scaled to the mask.",
        failed="On CIFAR-10 lottery tickets of a narrow ResNet-14 do not have smaller gradients early than networks "
        "whose weights are scaled to the mask.",
        inconclusive="On CIFAR-10 the runs do not show that lottery tickets of a narrow ResNet-14 have smaller "
        "gradients early than networks whose weights are scaled to the mask.",
        numbers={label: float(np.exp(log.mean())) for label, log in early.items()},
    )


def c36(evidence: Evidence) -> Verdict:
    """Ticket solutions compute nearly the function of the pruning solution; Scratch does not.

    Criterion, on ResNet-14: :func:`.answers_like_pruned`. Differs: values are means of pruning runs, 3 against 3.
    """
    lottery, scratch = rows_by_mask(evidence, "function_reference", "disagreement", (LOTTERY, SCRATCH))
    ratio = float(scratch.mean() / lottery.mean())
    return conclude(
        "C36",
        answers_like_pruned(lottery, scratch),
        ours=f"disagreement with the pruned network: lottery {mean_and_std(lottery, digits=4)}, scratch "
        f"{mean_and_std(scratch, digits=4)}, ratio {ratio:.2f}",
        held="On CIFAR-10 a trained lottery ticket of a narrow ResNet-14 disagrees with the pruned network less than "
        "half as often as other networks on the same connections.",
        failed="On CIFAR-10 a trained lottery ticket of a narrow ResNet-14 does not disagree with the pruned network "
        "half as often as other networks on the same connections.",
        inconclusive="On CIFAR-10 the runs do not show that a trained lottery ticket of a narrow ResNet-14 answers "
        "more like the pruned network than other networks on the same connections.",
        numbers={"lottery": float(lottery.mean()), "scratch": float(scratch.mean()), "ratio": ratio},
    )


def c44(evidence: Evidence) -> Verdict:
    """On large networks the original ticket (K = 0) fails; late rewinding is needed.

    Criterion, on ResNet-14: tickets with K = 0 end more than 1 point below those of K = 6 % of training, the share
    that 2000 are of the paper's 32000 steps; one-sided Welch p < 0.05. Reported of VGG16 at 90 %: accuracy, how many
    end at chance and the gradient norm at step 0, which tells a signal that vanished from a ticket that failed.
    Differs: values are means of pruning runs, 3 against 3.
    """
    late, original = runs_by_mask(evidence, ("lottery", "lottery-k0"), accuracy_percent)
    loss = float(late.mean() - original.mean())
    return conclude(
        "C44",
        greater(late, original, margin=LOSS, alpha=0.05),
        ours=f"ResNet-14: K = 6 % {mean_and_std(late)}, K = 0 {mean_and_std(original)}" + _vgg_text(evidence),
        held="On CIFAR-10 lottery tickets of a narrow ResNet-14 end more than a point worse from the very first "
        "weights than from those a little into training.",
        failed="On CIFAR-10 lottery tickets of a narrow ResNet-14 do not end a point worse from the very first weights "
        "than from those a little into training.",
        inconclusive="On CIFAR-10 the runs do not show that lottery tickets of a narrow ResNet-14 end a point worse "
        "from the very first weights than from those a little into training.",
        numbers={"K = 6 % - K = 0": loss},
    )


def _of_kinds(evidence: Evidence, statistic: Callable[[Run], float]) -> dict[str, Values]:
    return dict(zip(KINDS, runs_by_mask(evidence, tuple(KINDS.values()), statistic), strict=True))


def _vgg_text(evidence: Evidence) -> str:
    described = []
    for name, kind in ORIGINAL.items():
        runs = evidence.groups.get(f"{VGG}/{kind}/mask0", ())
        if runs:
            lost = num_collapsed(runs, below=evidence.collapse_percent)
            norm = of_each(runs, lambda run: norm_at(run, 0)).mean()
            described.append(
                f"{name} {mean_and_std(accuracies(runs))}, {lost} of {len(runs)} at chance, gradient norm at step 0 "
                f"{norm:.3g}"
            )
    return "".join(f"; VGG16 at 90 %, {text}" for text in described)


CLAIMS = {"C29": c29, "C36": c36, "C44": c44}
