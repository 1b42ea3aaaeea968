"""Verdicts that narrow networks gave after two epochs, and why they are none.

The runs of :mod:`sparseflow.paper.matrix.cifar` stay, and so do the numbers that came out; what they say of a claim is
withdrawn where networks of 30 to 40 % accuracy cannot say it. :mod:`sparseflow.paper.matrix.cifar_long` has networks
that learn.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from sparseflow.lab.page.evidence import Evidence
from sparseflow.paper.claims.verdict import Former, Verdict

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
    "C10": "what is called the very start is one logged step, and what follows was judged by a bound without a test",
    "C11": "training ends long before the norm has settled at any rate, and the window held two logged steps",
    **dict.fromkeys(("C17", "C18", "C19"), _NO_INPUT),
    **dict.fromkeys(("C20", "C21", "C23"), _SHORT),
    **dict.fromkeys(("C30", "C31", "C32", "C34"), _TRIVIAL),
    "C36": "networks of such accuracy answer differently on nearly half of the images, whatever they come from",
}


def withdrawn(judge: Callable[[Evidence], Verdict], reason: str) -> Callable[[Evidence], Verdict]:
    """The same claim without a verdict: its numbers stay, its former verdict and the reason stand beside them."""

    def judged(evidence: Evidence) -> Verdict:
        verdict = judge(evidence)
        if not verdict.statistic:
            return verdict  # runs are missing
        return replace(
            verdict,
            verdict="inconclusive",
            p_value=None,
            note=f"Withdrawn. On CIFAR-10, with narrow networks after two epochs, {reason}.",
            former=Former(
                "the claim's criterion, by the same runs", verdict.verdict, f"{reason[0].upper()}{reason[1:]}."
            ),
        )

    return judged
