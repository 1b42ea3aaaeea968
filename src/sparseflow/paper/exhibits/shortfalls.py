"""Groups with fewer runs than planned, and the commands that make the rest."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sparseflow.lab.page.evidence import Evidence
from sparseflow.lab.page.exhibit import available
from sparseflow.paper.matrix.scale import Scale
from sparseflow.training.runs import Run


def found_and_missing(evidence: Evidence, scale: Scale, names: Sequence[str]) -> tuple[dict[str, list[Run]], list[str]]:
    """The runs of each group that has some, and one message per group that has fewer than planned."""
    found, missing = available(evidence, names)
    return found, [*missing, *shortfalls(evidence, scale, names)]


def shortfalls(evidence: Evidence, scale: Scale, names: Iterable[str]) -> list[str]:
    """One message per group with some runs but fewer than planned: how many, and the command that makes the rest.

    >>> from sparseflow.paper.matrix.scales import PAPER
    >>> shortfalls(Evidence({}, {}), PAPER, ["lenet5/dense"])
    []
    """
    return [
        f"{name} has {found} of {len(scale.groups[name])} runs. Make the others:\nsparseflow reproduce {name}"
        for name in dict.fromkeys(names)
        if 0 < (found := len(evidence.groups.get(name, ()))) < len(scale.groups.get(name, ()))
    ]
