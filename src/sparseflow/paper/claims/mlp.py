"""Claims about the 300-100 MLP at 98 % sparsity (appendix D, Table 5, Figure 9)."""

from __future__ import annotations

import itertools

import numpy as np

from sparseflow.lab.page.evidence import Evidence
from sparseflow.paper.claims.accuracy import INITS
from sparseflow.paper.claims.bounds import reaches
from sparseflow.paper.claims.flow import rigl_above_scratch, rigl_and_scratch
from sparseflow.paper.claims.intervals import Values
from sparseflow.paper.claims.landscape import barriers, connected, separated
from sparseflow.paper.claims.run_statistics import accuracies_of, labelled_means
from sparseflow.paper.claims.sites import MNIST
from sparseflow.paper.claims.start import gradient_at_start
from sparseflow.paper.claims.statistics import equivalent, greater, mann_whitney_greater
from sparseflow.paper.claims.updates import halves, raised_and_mostly_early
from sparseflow.paper.claims.verdict import Part, Verdict, all_of, conclude


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

    Criterion, over 10 seeds: SET from each two initialisations differs by less than 0.3 points (TOST; alpha 0.05, which
    the claim leaves open); RigL+ is above Scratch+ and SET+, one-sided Welch p < 0.05; Lottery is more than 0.3 points
    above RigL+, p < 0.01.
    """

    def found(group: str) -> Values:
        return accuracies_of(evidence, f"mlp/{group}", at_least=MNIST.some)

    moved = {label: found(f"set/{init}") for label, init in INITS.items()}
    rigl, scratch, lottery = found("rigl/sparse"), found("scratch/sparse"), found("lottery")
    parts = {
        f"SET, {a} and {b}": equivalent(moved[a], moved[b], margin=0.3, alpha=0.05)
        for a, b in itertools.combinations(moved, 2)
    }
    parts |= {
        "RigL+ above Scratch+": greater(rigl, scratch, alpha=0.05),
        "RigL+ above SET+": greater(rigl, moved["Ours"], alpha=0.05),
        "Lottery above RigL+": greater(lottery, rigl, margin=0.3, alpha=0.01),
    }
    others = {"RigL+": rigl, "Scratch+": scratch, "Lottery": lottery}
    described = {**{f"SET {label}": values for label, values in moved.items()}, **others}
    return conclude(
        "C49",
        all_of(parts),
        ours=labelled_means(described),
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
    training = rigl_above_scratch(evidence, "mlp")
    lottery, scratch = barriers(evidence, "mlp-tickets")
    parts = {
        "start (C05)": start,
        "updates (C17)": raised_and_mostly_early(early, late),
        "training (C21)": training,
        "tickets (C34)": connected(lottery),
        "scratch (C35)": separated(lottery, scratch),
    }
    rigl, static = rigl_and_scratch(evidence, "mlp", "sparse", first=1000)
    ratio = float(np.exp(rigl.mean() - static.mean()))
    outcomes = ", ".join(f"{name} {part.outcome}" for name, part in parts.items())
    return conclude(
        "C50",
        all_of(parts),
        ours=f"{outcomes}; norm of RigL+ / Scratch+ {ratio:.2f}, mean change at an early update {early.mean():.3g}",
        held="What was found of gradients and of the loss between solutions on LeNet5 is found on the MLP too.",
        failed="Not all that was claimed of gradients and of the loss between solutions on LeNet5 is found on the MLP.",
    )


CLAIMS = {"C48": c48, "C49": c49, "C50": c50}
