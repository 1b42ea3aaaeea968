"""Which groups have fewer runs than planned, and the commands that make the rest."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from sparseflow.lab.page.evidence import Evidence
from sparseflow.paper.matrix.image_scales import ImageScale
from sparseflow.paper.matrix.mnist import groups
from sparseflow.paper.matrix.scales import Scale


def shortfalls(evidence: Evidence, scale: Scale | ImageScale, names: Iterable[str]) -> list[str]:
    """For each group with some runs but fewer than planned: how many, and the command that makes the rest.

    >>> from sparseflow.paper.matrix.scales import PAPER
    >>> shortfalls(Evidence({}, {}), PAPER, ["lenet5/dense"])
    []
    """
    planned: Mapping[str, Sequence[object]] = scale.groups if isinstance(scale, ImageScale) else groups(scale)
    return [
        f"{name} has {found} of {len(planned[name])} runs. Make the others:\nsparseflow reproduce {name}"
        for name in dict.fromkeys(names)
        if 0 < (found := len(evidence.groups.get(name, ()))) < len(planned.get(name, ()))
    ]
