"""Claims about the 300-100 MLP at 98 % sparsity (appendix D, Table 5, Figure 9)."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np

from sparseflow.lab.page.evidence import Evidence
from sparseflow.paper.claims.bounds import reaches
from sparseflow.paper.claims.flow import rigl_above_scratch, rigl_and_scratch
from sparseflow.paper.claims.landscape import SHARE_REASON, barriers, connected, none_in_nats, separated
from sparseflow.paper.claims.run_statistics import accuracies_of, accuracy, labelled_means
from sparseflow.paper.claims.sites import INITS, MNIST
from sparseflow.paper.claims.start import gradient_at_start
from sparseflow.paper.claims.starts import SHARED, paired_values
from sparseflow.paper.claims.statistics import (
    equivalent,
    greater,
    mann_whitney_greater,
    paired_equivalent,
    paired_greater,
)
from sparseflow.paper.claims.updates import halves, raised_and_mostly_early
from sparseflow.paper.claims.verdict import Former, Part, Verdict, all_of, conclude


def c48(evidence: Evidence) -> Verdict:
    """A sparsity-aware initialisation improves Scratch on the MLP.

    Criterion, for each of Ours and Liu over 20 seeds: the median accuracy is above that of Original, Mann-Whitney p <
    0.05.
    """
    found = {
        label: accuracies_of(evidence, f"mlp/scratch/{init}", at_least=MNIST.many) for label, init in INITS.items()
    }
    original = found["Original"]
    parts: dict[str, Part] = {}
    for label in ("Ours", "Liu"):
        gain = float(np.median(found[label]) - np.median(original))
        n = f"{len(found[label])} vs {len(original)}"
        parts[f"{label}, median"] = reaches(gain, at_least=0.0, n=n, of="median gain")
        parts[label] = mann_whitney_greater(found[label], original, alpha=0.05)
    return conclude(
        "C48",
        all_of(parts),
        ours=f"accuracy of Scratch: {labelled_means(found)}",
        held="Initial weights scaled to the mask make a sparse MLP with fixed connections more accurate.",
        failed="Initial weights scaled to the mask do not make a sparse MLP with fixed connections more accurate.",
    )


def c49(evidence: Evidence) -> Verdict:
    """On the MLP no initialisation changes SET, and RigL+Ours is the best method but Lottery.

    Criterion, over 10 seeds, paired by seed: SET from each two initialisations differs by less than 0.3 points (TOST;
    alpha 0.05, which the claim leaves open); RigL+ is above Scratch+ and SET+, one-sided t p < 0.05; Lottery is more
    than 0.3 points above RigL+, p < 0.01.
    """
    cells = [f"mlp/set/{init}" for init in INITS.values()]
    others = ("mlp/rigl/sparse", "mlp/scratch/sparse", "mlp/lottery")
    values = paired_values(evidence, accuracy, *cells, *others, at_least=MNIST.some)
    moved = dict(zip(INITS, values[: len(cells)], strict=True))
    rigl, scratch, lottery = values[len(cells) :]

    def judge(alike: Callable[..., Part], higher: Callable[..., Part]) -> Part:
        parts = {
            f"SET, {a} and {b}": alike(moved[a], moved[b], margin=0.3, alpha=0.05)
            for a, b in itertools.combinations(moved, 2)
        }
        return all_of(parts | {
            "RigL+ above Scratch+": higher(rigl, scratch, alpha=0.05),
            "RigL+ above SET+": higher(rigl, moved["Ours"], alpha=0.05),
            "Lottery above RigL+": higher(lottery, rigl, margin=0.3, alpha=0.01),
        })  # fmt: skip

    beside = {"RigL+": rigl, "Scratch+": scratch, "Lottery": lottery}
    described = {**{f"SET {label}": found for label, found in moved.items()}, **beside}
    return conclude(
        "C49",
        judge(paired_equivalent, paired_greater),
        ours=labelled_means(described),
        former=Former("Welch and TOST of independent runs", judge(equivalent, greater).outcome, SHARED),
        held="On the MLP initial weights do not matter to SET; RigL is best of what needs no pruned network, which "
        "lottery tickets do.",
        failed="The order of methods on the MLP, or that initial weights do not matter to SET, is not as claimed.",
    )


def c50(evidence: Evidence) -> Verdict:
    """Gradient flow and interpolation on the MLP are as on LeNet5.

    Criterion: those of C05 (:func:`.gradient_at_start`), C17 (:func:`.raised_and_mostly_early`), C21
    (:func:`.rigl_above_scratch`), C34 (:func:`.connected`) and C35 (:func:`.separated`), on the MLP. Its masks move
    every 500 steps.
    """
    start = gradient_at_start(evidence, "mlp")
    early, late = halves(evidence, "mlp/rigl/sparse")
    training = rigl_above_scratch(evidence, MNIST, "mlp")
    both = barriers(evidence, "mlp-tickets")
    parts = {
        "start (C05)": start,
        "updates (C17)": raised_and_mostly_early(early, late),
        "training (C21)": training,
        "tickets (C34)": connected(both),
        "scratch (C35)": separated(both),
    }
    rigl, static = rigl_and_scratch(evidence, MNIST, "mlp", "sparse", first=1000)
    ratio = float(np.exp(rigl.mean() - static.mean()))
    outcomes = ", ".join(f"{name} {part.outcome}" for name, part in parts.items())
    return conclude(
        "C50",
        all_of(parts),
        design="as C05, C17, C21, C34 and C35",
        former=Former(
            "the same, with C34's limit of 0.01 nats",
            all_of({**parts, "tickets (C34)": none_in_nats(both.lottery)}).outcome,
            SHARE_REASON,
        ),
        ours=f"{outcomes}; norm of RigL+ / Scratch+ {ratio:.2f}, mean change at an early update {early.mean():.3g}",
        held="What was found of gradients and of the loss between solutions on LeNet5 is found on the MLP too.",
        failed="Not all that was claimed of gradients and of the loss between solutions on LeNet5 is found on the MLP.",
    )


CLAIMS = {"C48": c48, "C49": c49, "C50": c50}
