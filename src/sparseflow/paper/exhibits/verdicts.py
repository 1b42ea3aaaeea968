"""The verdicts on the paper's claims as a page shows them: counted, listed, and one by one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from sparseflow.lab.page.words import count, number
from sparseflow.paper.claims.verdict import Former, Verdict
from sparseflow.paper.published import Claim, claims

#: Verdict -> the sign beside it; the last is for claims that were not judged.
SIGNS = {"held": "✓", "failed": "✗", "inconclusive": "?", "not judged": "–"}
COLUMNS = ("id", "verdict", "statistic", "p_value", "n", "ours", "published", "note", "design", "p_corrected")
#: Column of ``claims.csv`` -> what it says of the criterion before it was changed.
FORMER = {"former_criterion": "criterion", "former_verdict": "verdict", "change_reason": "reason"}


@dataclass(frozen=True)
class Judged:
    """A claim with its verdict, as text."""

    claim: Claim
    verdict: str
    """Key of ``SIGNS``."""
    statistic: str = ""
    p_value: str = ""
    n: str = ""
    ours: str = ""
    note: str = ""
    design: str = ""
    p_corrected: str = ""
    former: Former | None = None

    @property
    def parts(self) -> list[str]:
        """The parts of the test, one by one."""
        return [part for part in self.statistic.split("; ") if part]

    @property
    def lacks_runs(self) -> bool:
        """Whether it is open only for want of runs; its note then says how to make them."""
        return self.verdict == "inconclusive" and "sparseflow reproduce" in self.note

    @property
    def sign(self) -> str:
        """The sign beside the word."""
        return SIGNS[self.verdict]

    @property
    def former_sign(self) -> str:
        """The sign of the verdict by the former criterion."""
        return SIGNS[self.former.verdict] if self.former else ""


def judged(verdicts: Sequence[Verdict]) -> list[Judged]:
    """Every claim in order, with its verdict where there is one.

    Raises:
        ValueError: if a verdict is on no claim, or on one that has a verdict already.

    >>> {claim.verdict for claim in judged([])}
    {'not judged'}
    """
    by_id = {verdict.id: verdict for verdict in verdicts}
    known = {claim.id for claim in claims()}
    if len(by_id) < len(verdicts) or not by_id.keys() <= known:
        raise ValueError(
            f"every verdict must be on a claim of its own, got {[verdict.id for verdict in verdicts]}; claims are "
            f"{min(known)} to {max(known)}."
        )
    return [_judged(claim, by_id.get(claim.id)) for claim in claims()]


def _judged(claim: Claim, found: Verdict | None) -> Judged:
    if found is None:
        return Judged(claim, "not judged")
    return Judged(
        claim,
        found.verdict,
        found.statistic,
        spoken_p(found.p_value),
        str(found.n),
        found.ours,
        found.note,
        found.design,
        spoken_p(found.p_corrected),
        found.former,
    )


def spoken_p(p_value: float | None) -> str:
    """A p-value for people.

    >>> spoken_p(0.0421), spoken_p(1e-9), spoken_p(None)
    ('0.042', '< 0.0001', '')
    """
    if p_value is None or p_value != p_value:
        return ""
    return "< 0.0001" if p_value < 1e-4 else number(p_value, 2)


def headline(found: Sequence[Judged]) -> str:
    """The numbers of claims that held, failed, and are open.

    >>> headline(judged([]))
    'Of 53 claims of the paper 0 held, 0 failed and 0 are inconclusive; 53 were not judged.'
    """
    counts = {word: sum(claim.verdict == word for claim in found) for word in SIGNS}
    sentence = (
        f"Of {count(len(found), 'claim')} of the paper {counts['held']} held, {counts['failed']} failed and "
        f"{counts['inconclusive']} {'is' if counts['inconclusive'] == 1 else 'are'} inconclusive"
    )
    if lacking := sum(claim.lacks_runs for claim in found):
        sentence += f", of which {lacking} for want of runs"
    missing = counts["not judged"]
    return sentence + (f"; {missing} {'was' if missing == 1 else 'were'} not judged." if missing else ".")


def claims_csv(verdicts: Sequence[Verdict]) -> pd.DataFrame:
    """Columns ``COLUMNS`` and ``FORMER``, one row per verdict."""
    rows = [
        [getattr(verdict, name) for name in COLUMNS]
        + [getattr(verdict.former, name) if verdict.former else "" for name in FORMER.values()]
        for verdict in verdicts
    ]
    return pd.DataFrame(rows, columns=[*COLUMNS, *FORMER])
