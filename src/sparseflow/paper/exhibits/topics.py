"""The claims by what they are about, and the verdicts of pages about other data sets beside this page's."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from sparseflow.disk import listed, read_bytes
from sparseflow.lab.page.words import count
from sparseflow.paper.exhibits.verdicts import SIGNS, Judged

#: What the paper says, in plain words -> the claims that say it in detail. Every claim is in one.
TOPICS: Mapping[str, tuple[str, ...]] = {
    "From the usual initial weights hardly any signal and gradient get through a sparse network; weights scaled to "
    "what each unit has left repair that.": ("C01", "C02", "C03", "C04", "C05", "C10", "C14", "C16"),
    "Networks that start from such weights all learn, and end better.": ("C06", "C07", "C08", "C09", "C48"),
    "A small dense network has other gradients, and still ends better than a sparse one of its size.": (
        "C12", "C13", "C24", "C28",
    ),
    "Moving connections to where the gradient is large (RigL) lets more gradient through, by opening new ways down in "
    "the loss.": ("C15", "C17", "C18", "C19", "C21", "C22", "C25", "C26", "C27", "C50"),
    "Networks whose connections move end better, RigL's best.": ("C20", "C23", "C49"),
    "Lottery tickets have no better gradient. They start in the valley of the network that they were cut out of, and "
    "end in it.": ("C29", "C30", "C31", "C32", "C33", "C34", "C35", "C44", "C46"),
    "They learn its function again, and end as accurate as it, no better.": (
        "C36", "C37", "C38", "C39", "C40", "C41", "C42", "C43", "C45", "C47",
    ),
    "What gradient flow, learning rates, weight decay and the spread of connections have to do with it.": (
        "C11", "C51", "C52", "C53",
    ),
}  # fmt: skip
#: Scale -> what its page is about, as the head of a column.
HEADS = {
    "demo": "MNIST, small",
    "paper": "MNIST",
    "cifar": "CIFAR-10, two epochs",
    "cifar-long": "CIFAR-10, 20 epochs",
    "imagenet": "ImageNet",
}


class Elsewhere(NamedTuple):
    """The verdict on a claim on another page."""

    verdict: str
    note: str

    @property
    def sign(self) -> str:
        """The sign beside the word."""
        return SIGNS[self.verdict]


@dataclass(frozen=True)
class OtherPage:
    """Another page of ``sparseflow reproduce``, and what it says of the claims."""

    head: str
    href: str
    verdicts: Mapping[str, Elsewhere]


class Topic(NamedTuple):
    """A statement of the paper with the claims behind it."""

    statement: str
    claims: Sequence[Judged]

    def of(self, verdict: str) -> list[Judged]:
        """Its claims with this verdict."""
        return [claim for claim in self.claims if claim.verdict == verdict]

    def tally(self, other: OtherPage | None = None) -> dict[str, int]:
        """The number of its claims by verdict, on this page or on another one.

        >>> from sparseflow.paper.exhibits.verdicts import judged
        >>> Topic("It is so.", judged([])[:2]).tally()
        {'not judged': 2}
        """
        found = [
            claim.verdict if other is None else other.verdicts[claim.claim.id].verdict
            for claim in self.claims
            if other is None or claim.claim.id in other.verdicts
        ]
        return {verdict: found.count(verdict) for verdict in SIGNS if verdict in found}


def topics(claims: Sequence[Judged]) -> list[Topic]:
    """The claims by topic; without topics that none of them is about."""
    found = [
        Topic(statement, [claim for claim in claims if claim.claim.id in ids]) for statement, ids in TOPICS.items()
    ]
    return [topic for topic in found if topic.claims]


def other_pages(out: Path, scale: str) -> list[OtherPage]:
    """The pages in folders beside a page's folder that are about another scale and judge claims.

    They are written by themselves, so that a page shows what they said when it was written.

    Args:
        out: The page's folder.
        scale: The page's scale.
    """
    found = {}
    for folder in sorted(path for path in listed(out.resolve().parent) if path.resolve() != out.resolve()):
        made, table = folder / "environment.json", folder / "claims.csv"
        if made.is_file() and table.is_file() and (name := json.loads(read_bytes(made))["scale"]) != scale:
            verdicts = _verdicts(table)
            if verdicts and name in HEADS:
                href = Path(os.path.relpath(folder / "index.html", out.resolve())).as_posix()
                found[name] = OtherPage(HEADS[name], href, verdicts)
    return [found[name] for name in HEADS if name in found]


def _verdicts(table: Path) -> dict[str, Elsewhere]:
    rows = pd.read_csv(io.BytesIO(read_bytes(table)), dtype=str, keep_default_na=False)
    return {
        id: Elsewhere(verdict, note) for id, verdict, note in rows[["id", "verdict", "note"]].itertuples(index=False)
    }


class Waiting(NamedTuple):
    """Claims that wait for the same runs."""

    ids: Sequence[str]
    why: str
    command: str


def waiting(claims: Sequence[Judged]) -> list[Waiting]:
    """The claims that are open for want of runs, by what is to be typed.

    >>> from dataclasses import replace
    >>> from sparseflow.paper.exhibits.verdicts import judged
    >>> note = "mds was not measured. Make it: sparseflow reproduce mds"
    >>> waiting([replace(claim, verdict="inconclusive", note=note) for claim in judged([])[:2]])
    [Waiting(ids=['C01', 'C02'], why='mds was not measured.', command='sparseflow reproduce mds')]
    """
    by_note: dict[str, list[str]] = {}
    for claim in claims:
        if claim.lacks_runs:
            by_note.setdefault(claim.note, []).append(claim.claim.id)
    found = []
    for note, ids in by_note.items():
        text, _, command = note.partition("sparseflow reproduce")
        why = text.removesuffix("Make them: ").removesuffix("Make it: ").strip()
        found.append(Waiting(ids, why, f"sparseflow reproduce{command}"))
    return found


def on_how_many(claims: Sequence[Judged]) -> str:
    """How far the claims are judged, where some wait for runs; "" where none does.

    >>> from sparseflow.paper.exhibits.verdicts import judged
    >>> on_how_many(judged([]))
    ''
    """
    lacking = sum(claim.lacks_runs for claim in claims)
    if not lacking:
        return ""
    judged = sum(claim.verdict != "not judged" for claim in claims) - lacking
    return f"{count(judged, 'claim')} of {judged + lacking} can be judged from them so far; the others wait for runs."
