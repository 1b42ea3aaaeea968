"""The verdict on a claim: its criterion is judged part by part, and the outcome is one of three words.

* **held**: every part of the criterion is met, at its significance level.
* **failed**: some part is contradicted, at the significance level that it had to be shown at: the opposite of a
  direction is significant; or, where two things are claimed to be equal, the interval of their difference is outside
  the margin.
* **inconclusive**: nothing is contradicted, but some part is not shown: the estimate is not significant on either side,
  there are fewer runs than the criterion names, or the networks are larger than those trained here.

Where a criterion has one part for MNIST and one for ImageNet, the part for MNIST is judged.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sized
from dataclasses import dataclass
from functools import cache
from typing import Literal, TypeVar

from sparseflow.lab.page.evidence import NotEnoughRunsError
from sparseflow.paper.published import Claim, claims

Outcome = Literal["held", "failed", "inconclusive"]
Found = TypeVar("Found", bound=Sized)

#: Fewest seeds for a t test: with two there is hardly an estimate of the spread.
FEWEST = 3
#: Fewest seeds a side for a test of ranks or a bootstrap: of 4 and 4 the smallest p is 1/70, of 5 and 5 1/252.
FEWEST_RANKED = 5


@dataclass(frozen=True)
class Part:
    """One part of a criterion, judged."""

    outcome: Outcome
    text: str
    """What was computed, and what came out."""
    n: str
    """The number of runs."""
    p_value: float | None = None
    """Of the null hypothesis that the part is not met; None where the criterion is not a test."""
    design: str = ""
    """What is compared with what: ``independent runs``, ``pairs by seed``; "" where nothing is compared."""


@dataclass(frozen=True)
class Former:
    """The criterion that a claim was judged by before, and what it says of the same runs, or of those it was about."""

    criterion: str
    verdict: Outcome
    reason: str
    """Why it was changed."""


@dataclass(frozen=True)
class Verdict:
    """One claim, judged."""

    id: str
    verdict: Outcome
    statistic: str
    """What was computed, part by part."""
    p_value: float | None
    """The largest of the parts' that are tests; None without one."""
    n: str
    ours: str
    """The measured numbers."""
    published: str
    """The paper's."""
    note: str
    """One sentence for a reader who has not read the paper."""
    design: str = ""
    """What is compared with what, and what counts as one: runs, pairs by seed, starts, pruning runs."""
    former: Former | None = None
    """None where the criterion never changed."""
    p_corrected: float | None = None
    """``p_value`` corrected for the number of claims judged together, see :func:`~sparseflow.paper.claims.judge`."""

    @property
    def claim(self) -> Claim:
        """What the paper says, and the criterion."""
        return _published()[self.id]


def all_of(parts: Mapping[str, Part]) -> Part:
    """A criterion that asks for every part: held if all are, failed if any is, else inconclusive.

    The p-value is the largest of the parts' that have one (the intersection-union test, so no correction is due).

    >>> parts = {"LeNet5": Part("held", "up", "5", 0.01), "MLP": Part("inconclusive", "up", "5", 0.25)}
    >>> both = all_of(parts)
    >>> both.outcome, both.p_value, both.n, both.text
    ('inconclusive', 0.25, '5', 'LeNet5: up; MLP: up')

    Raises:
        ValueError: without a part.
    """
    if not parts:
        raise ValueError("all_of needs at least one part: an empty criterion would always hold.")
    outcomes = [part.outcome for part in parts.values()]
    p_values = [part.p_value for part in parts.values() if part.p_value is not None]
    return Part(
        outcome=_worst(outcomes),
        text="; ".join(f"{name}: {part.text}" for name, part in parts.items()),
        n=", ".join(dict.fromkeys(part.n for part in parts.values())),
        p_value=max(p_values, default=None),
        design=", ".join(dict.fromkeys(part.design for part in parts.values() if part.design)),
    )


def conclude(
    id: str,
    part: Part,
    *,
    ours: str,
    held: str,
    failed: str,
    inconclusive: str = "The runs point the claimed way, but do not show it.",
    where: str = "",
    untested: str = "",
    design: str = "",
    former: Former | None = None,
) -> Verdict:
    """The verdict on a claim whose criterion is ``part``.

    Args:
        id: Of the claim.
        part: The criterion, usually from :func:`all_of`.
        ours: The measured numbers.
        held: The note, if the criterion is met.
        failed: The note, if it is contradicted.
        inconclusive: The note otherwise.
        where: Data set and networks, before the note; "" where the note needs neither.
        untested: What the claim is about too and was not tested; it ends the note.
        design: What counts as one, where it is not runs; default that of the parts.
        former: The criterion before it was changed, if it was.

    >>> part = Part("held", "p = 0.01", "5", 0.01)
    >>> conclude("C20", part, ours="92 vs 98", held="It does.", failed="It does not.").note
    'It does.'
    >>> conclude("C20", part, ours="92 vs 98", held="It does.", failed="", where="On CIFAR-10, with a ResNet").note
    'On CIFAR-10, with a ResNet: it does.'
    >>> conclude("C20", part, ours="92 vs 98", held="It does.", failed="", untested="ImageNet").note
    'It does; ImageNet was not tested.'
    """
    notes = {"held": held, "failed": failed, "inconclusive": inconclusive}
    note = notes[part.outcome]
    if untested:
        note = f"{note.removesuffix('.')}; {untested} was not tested."
    return Verdict(
        id=id,
        verdict=part.outcome,
        statistic=part.text,
        p_value=part.p_value,
        n=part.n,
        ours=ours,
        published=_published()[id].published,
        note=f"{where}: {note[0].lower()}{note[1:]}" if where else note,
        design=design or part.design,
        former=former,
    )


def undecided(id: str, reason: str, *, ours: str = "", former: Former | None = None) -> Verdict:
    """The verdict on a claim that was not tested: without a p-value, with the reason as its note.

    >>> undecided("C09", "It is about ResNet-50.").verdict
    'inconclusive'
    """
    return Verdict(
        id=id,
        verdict="inconclusive",
        statistic="",
        p_value=None,
        n="",
        ours=ours,
        published=_published()[id].published,
        note=reason,
        former=former,
    )


def need(found: Found, at_least: int, *, of: str, make: str) -> Found:
    """Return ``found`` if there is enough of it.

    Args:
        found: Rows, runs or values.
        at_least: How many the test needs, or the claim names.
        of: What they are, for the error.
        make: The item of ``sparseflow reproduce`` that makes more.

    >>> need([1.0, 2.0], 3, of="networks at sparsity 0.95", make="signal")
    Traceback (most recent call last):
    sparseflow.lab.page.evidence.NotEnoughRunsError: there are 2 networks at sparsity 0.95 of at least 3 needed. Make
    them:
    sparseflow reproduce signal

    Raises:
        NotEnoughRunsError: if it is not.
    """
    if len(found) < at_least:
        raise NotEnoughRunsError(
            f"there are {len(found)} {of} of at least {at_least} needed. Make them:\nsparseflow reproduce {make}"
        )
    return found


def directed(estimate: float, *, right: bool, shown: bool, refuted: bool) -> Outcome:
    """The rule for a direction: held if the test shows it, failed if the test shows the opposite.

    Args:
        estimate: NaN is neither.
        right: Whether it is on the side that is claimed.
        shown: Whether that is significant.
        refuted: Whether the opposite is.

    >>> directed(0.2, right=True, shown=False, refuted=False), directed(-2.0, right=False, shown=False, refuted=True)
    ('inconclusive', 'failed')
    """
    if math.isnan(estimate):
        return "inconclusive"
    if right:
        return "held" if shown else "inconclusive"
    return "failed" if refuted else "inconclusive"


def decided(value: float, *, met: bool) -> Outcome:
    """The rule for a bound without a test: held or failed, and NaN is neither."""
    if math.isnan(value):
        return "inconclusive"
    return "held" if met else "failed"


@cache
def _published() -> dict[str, Claim]:
    return {claim.id: claim for claim in claims()}


def _worst(outcomes: Iterable[Outcome]) -> Outcome:
    found = set(outcomes)
    if "failed" in found:
        return "failed"
    return "inconclusive" if "inconclusive" in found else "held"
