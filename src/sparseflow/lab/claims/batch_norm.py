"""What the paper saw on ResNet-50, and what of it the networks trained here can show (section 4.1, Figure 2c)."""

from __future__ import annotations

import math
from functools import partial

import numpy as np

from sparseflow.lab.claims.run_statistics import at_paper_step, log_of, logged, of_each
from sparseflow.lab.claims.statistics import above
from sparseflow.lab.claims.verdict import FEWEST, Verdict, all_of, conclude, undecided
from sparseflow.lab.evidence import Evidence
from sparseflow.lab.optimizer import DROPS
from sparseflow.lab.runs import Run

#: The criterion's window on either side of a drop, in the paper's steps.
WINDOW = 500


def c09(evidence: Evidence) -> Verdict:
    """With batch norm and skip connections the initialisation does not matter; no network trained here has them."""
    del evidence
    return undecided(
        "C09", "The claim is about networks with batch norm and skip connections; those of MNIST have none."
    )


def c10(evidence: Evidence) -> Verdict:
    """On ResNet-50 the initialisation raises the gradient at the very start; no network trained here has batch norm."""
    del evidence
    return undecided("C10", "The claim is about ResNet-50 with batch norm; the networks of MNIST have none.")


def c11(evidence: Evidence) -> Verdict:
    """The gradient norm rises after each drop of the learning rate.

    Criterion: the mean log norm over the 500 steps after each of the three drops is above that over the 500 before,
    paired over seeds, p < 0.05.
    Differs: this is LeNet5, Scratch+, with the schedule of the paper's ResNet-50, which needs ImageNet itself.
    """
    runs = evidence.runs("lenet5/scratch/sparse/step", at_least=FEWEST)
    rises = {f"{100 * share:.0f} %": of_each(runs, partial(_rise, share=share)) for share in DROPS}
    factors = {share: float(np.exp(rise.mean())) for share, rise in rises.items()}
    return conclude(
        "C11",
        all_of({f"drop at {share}": above(rise, alpha=0.05) for share, rise in rises.items()}),
        ours="norm after / before: " + ", ".join(f"{factor:.2f} at {share}" for share, factor in factors.items()),
        held="Each time the learning rate drops the gradient grows; seen on LeNet5, not on ResNet-50.",
        failed="The gradient does not grow at each drop of the learning rate on LeNet5; ResNet-50 was not trained.",
        numbers={f"norm after / before, {share}": factor for share, factor in factors.items()},
    )


def _rise(run: Run, *, share: float) -> float:
    """Mean log norm after a drop of the learning rate, minus that before."""
    norms = logged(run, "flow/norm")
    logs, steps = log_of(norms.to_numpy()), norms.index.to_numpy()
    # The first step with the lower rate; its own norm is still that of the weights before.
    drop = math.ceil(share * run.config.steps)
    window = at_paper_step(run.config, WINDOW)
    after = logs[(drop < steps) & (steps <= drop + window)]
    before = logs[(drop - window < steps) & (steps <= drop)]
    return float(after.mean() - before.mean())


CLAIMS = {"C09": c09, "C10": c10, "C11": c11}
