"""A finding and a diagnosis: plain records that a person can read."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from sparseflow.doctor.causes import CAUSES

_WIDTH = 100


@dataclass(frozen=True)
class Finding:
    """One thing that keeps a network from learning."""

    cause: str
    """Key of :data:`~sparseflow.doctor.causes.CAUSES`."""
    where: str
    """Name of a module or weight; empty where it is the whole run."""
    says: str
    """What was found, in a sentence."""
    number: float | None
    """What was measured, see :attr:`Cause.number`; ``None`` for an optimizer that is refused."""
    cure: str
    """What to type."""

    @property
    def threshold(self) -> float:
        """The number from which on it is a finding."""
        return CAUSES[self.cause].threshold

    @property
    def source(self) -> str:
        """Where the threshold comes from."""
        return CAUSES[self.cause].source

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for ``json.dumps``."""
        return {**asdict(self), "threshold": self.threshold, "source": self.source}


@dataclass(frozen=True)
class Diagnosis:
    """The result of :func:`sparseflow.diagnose`: print it, go through it, or take :meth:`to_dicts`."""

    findings: tuple[Finding, ...]
    """In the order of ``CAUSES``; empty where nothing was found."""
    examples: int
    """Examples that were looked at."""
    left_out: tuple[str, ...] = ()
    """What could not be looked at, and what to give for it; a sentence each."""

    def __iter__(self) -> Iterator[Finding]:
        return iter(self.findings)

    def __len__(self) -> int:
        return len(self.findings)

    @property
    def causes(self) -> tuple[str, ...]:
        """The causes found, each once."""
        return tuple(dict.fromkeys(finding.cause for finding in self.findings))

    def to_dicts(self) -> list[dict[str, Any]]:
        """The findings as plain values, for ``json.dumps``."""
        return [finding.to_dict() for finding in self.findings]

    def __str__(self) -> str:
        """A paragraph for each finding: what, where, its number and threshold, and what to type."""
        count = len(self.findings)
        head = f"{count} finding{'s' * (count > 1)}" if count else "Nothing found"
        parts = [f"{head} on {self.examples} examples."]
        parts += [_paragraph(number, finding) for number, finding in enumerate(self.findings, 1)]
        if self.left_out:
            parts.append(textwrap.fill(f"Not looked at: {' '.join(self.left_out)}", _WIDTH))
        return "\n\n".join(parts)


def _paragraph(number: int, finding: Finding) -> str:
    cause = CAUSES[finding.cause]
    where = f" ({finding.where})" if finding.where else ""
    lines = [
        *textwrap.wrap(f"{number}. {cause.title[0].upper()}{cause.title[1:]}{where}", _WIDTH),
        *_indented(finding.says),
        *_indented(f"{_number(finding)}threshold {cause.threshold:g} ({cause.number}; {cause.source})"),
        *_indented(f"type: {finding.cure}"),
    ]
    return "\n".join(lines)


def _number(finding: Finding) -> str:
    return "" if finding.number is None else f"number {finding.number:.3g}, "


def _indented(text: str) -> list[str]:
    return textwrap.wrap(text, _WIDTH, initial_indent="   ", subsequent_indent="   ", break_on_hyphens=False)
