"""What a mask update does to the gradient norm (section 4.2, Figure 3); updates every 100 steps."""

from __future__ import annotations

from sparseflow.lab.page.evidence import Evidence
from sparseflow.paper.claims.intervals import Values, mean_interval
from sparseflow.paper.claims.run_statistics import first_half_delta, of_each, second_half_delta
from sparseflow.paper.claims.statistics import above, greater, paired_greater
from sparseflow.paper.claims.verdict import FEWEST_RANKED, Part, Verdict, all_of, conclude

RIGL = "lenet5/rigl/sparse/f100"
SET = "lenet5/set/sparse/f100"
INVERTED = "lenet5/rigl_inverted/sparse/f100"


def c17(evidence: Evidence) -> Verdict:
    """RigL's mask updates increase the gradient norm, mostly early. Criterion: :func:`updates_raise_norm` on LeNet5."""
    first = first_half(evidence, RIGL)
    second = of_each(evidence.runs(RIGL), second_half_delta)
    return conclude(
        "C17",
        updates_raise_norm(evidence, RIGL),
        ours=f"mean change at an update: first half {mean_interval(first)}, second half {mean_interval(second)}",
        held="When RigL moves connections the gradient jumps up, more so in the first half of training.",
        failed="RigL's moves do not raise the gradient in the first half of training, or no more than in the second.",
        numbers={"RigL, first half": float(first.mean()), "RigL, second half": float(second.mean())},
    )


def updates_raise_norm(evidence: Evidence, group: str) -> Part:
    """Whether mask updates raise the gradient norm in the first half of training, and more than in the second.

    One-sided t tests over seeds, p < 0.01, the second one paired.
    """
    return raised_and_mostly_early(first_half(evidence, group), of_each(evidence.runs(group), second_half_delta))


def raised_and_mostly_early(first: Values, second: Values) -> Part:
    """The tests of :func:`updates_raise_norm` on mean changes of runs in the two halves, in the same order."""
    return all_of(
        {"first half": above(first, alpha=0.01), "above second half": paired_greater(first, second, alpha=0.01)}
    )


def c18(evidence: Evidence) -> Verdict:
    """SET's updates raise the gradient norm much less than RigL's.

    Criterion, on LeNet5: the mean change over the first half of training is below half of RigL's, one-sided Welch
    p < 0.01. The sign of SET's is reported.
    """
    rigl, moved = first_half(evidence, RIGL), first_half(evidence, SET)
    sign = "raise" if moved.mean() > 0 else "lower"
    return conclude(
        "C18",
        greater(rigl / 2, moved, alpha=0.01),
        ours=f"mean change in the first half: SET {mean_interval(moved)}, RigL {mean_interval(rigl)}; SET's {sign} it",
        held="Growing connections at random raises the gradient less than half as much as growing where it is large.",
        failed="Growing connections at random raises the gradient at least half as much as growing where it is large.",
        numbers={"RigL, first half": float(rigl.mean()), "SET, first half": float(moved.mean())},
    )


def c19(evidence: Evidence) -> Verdict:
    """With the growth criterion reversed, updates do not improve the gradient norm.

    Criterion, on LeNet5: the upper 95 % bound of the mean change over the first half is below a fifth of RigL's.
    Differs: the bound is that of the difference (one-sided Welch, p < 0.05), since RigL's mean is uncertain too.
    """
    rigl, inverted = first_half(evidence, RIGL), first_half(evidence, INVERTED)
    return conclude(
        "C19",
        greater(rigl / 5, inverted, alpha=0.05),
        ours=f"mean change in the first half: Inverted {mean_interval(inverted)}, RigL {mean_interval(rigl)}",
        held="Growing connections where the gradient is smallest does not raise it.",
        failed="Growing connections where the gradient is smallest raises it by a fifth of what RigL does, or more.",
        numbers={"RigL, first half": float(rigl.mean()), "Inverted, first half": float(inverted.mean())},
    )


def first_half(evidence: Evidence, group: str) -> Values:
    """Mean change of the gradient norm at the updates of the first half of training, for each of at least five runs."""
    return of_each(evidence.runs(group, at_least=FEWEST_RANKED), first_half_delta)


CLAIMS = {"C17": c17, "C18": c18, "C19": c19}
