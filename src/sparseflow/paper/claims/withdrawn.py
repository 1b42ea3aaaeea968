"""Verdicts that narrow networks gave after two epochs, and why they are none.

The runs of :mod:`sparseflow.paper.matrix.cifar` stay, and so do the numbers that came out; what they say of a claim is
withdrawn where networks of 30 to 40 % accuracy cannot say it. :mod:`sparseflow.paper.matrix.cifar_long` has networks
that learn.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from sparseflow.lab.page.evidence import Evidence
from sparseflow.paper.claims.verdict import Former, Outcome, Verdict

_CENSORED = (
    "no VGG16 leaves chance from the usual weights before training ends, which it does in the paper. The direction is "
    "right, its size is that of short training"
)
_SHORT = (
    "masks move after one to three thousand images, where the paper's networks see some hundred thousand, and grow by "
    "the gradients of 64: what has grown is dropped before it has learned. With four times the steps the methods end "
    "alike"
)
_NO_INPUT = (
    "nearly half of the units of ResNet-14's narrow layers have no input left. Batch norm divides behind them by the "
    "root of its epsilon, and the gradient jumps where such a unit grows one"
)
_TRIVIAL = (
    "tickets are rewound to less than an epoch, end farther from the pruned network than they start, and more "
    "accurate: it is no solution that they could return to"
)
#: Claim -> why the narrow networks' verdict on it is withdrawn.
REASONS = {
    **dict.fromkeys(("C04", "C06", "C07"), _CENSORED),
    "C10": (
        "training is a few hundred steps, so that what follows the very start is still a start; and it was judged by a "
        "bound without a test"
    ),
    "C11": "training is a few hundred steps, and the window around a drop was widened to hold two logged norms a side",
    **dict.fromkeys(("C17", "C18", "C19"), _NO_INPUT),
    **dict.fromkeys(("C20", "C21", "C23"), _SHORT),
    **dict.fromkeys(("C30", "C31", "C32", "C34"), _TRIVIAL),
    "C36": "networks of such accuracy answer differently on nearly half of the images, whatever they come from",
}


def note_of(claim: str) -> str:
    """What stands in place of the sentence about a claim whose verdict is withdrawn.

    >>> note_of("C11")[:71]
    'Withdrawn. On CIFAR-10, with narrow networks after two epochs or less, '
    """
    return f"Withdrawn. On CIFAR-10, with narrow networks after two epochs or less, {REASONS[claim]}."


def former_of(claim: str, verdict: Outcome) -> Former:
    """The verdict that is withdrawn, with the reason.

    >>> former_of("C30", "held").verdict
    'held'
    """
    reason = REASONS[claim]
    return Former("the claim's criterion, by the same runs", verdict, f"{reason[0].upper()}{reason[1:]}.")


def withdrawn(claim: str, judge: Callable[[Evidence], Verdict]) -> Callable[[Evidence], Verdict]:
    """The same claim without a verdict: its numbers stay, its former verdict and the reason stand beside them."""

    def judged(evidence: Evidence) -> Verdict:
        found = judge(evidence)
        if not found.statistic:
            return found  # runs are missing
        former = former_of(claim, found.verdict)
        return replace(found, verdict="inconclusive", p_value=None, note=note_of(claim), former=former)

    return judged
