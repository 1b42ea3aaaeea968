"""The paper's claims about ImageNet, judged on networks that were trained on CIFAR-10."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from sparseflow.lab.page.evidence import Evidence
from sparseflow.paper.claims import image_accuracy, image_flow, image_landscape, image_start, image_tickets
from sparseflow.paper.claims.verdict import Verdict

#: Id -> what judges it on the groups of :func:`sparseflow.paper.matrix.cifar.image_groups`, in the order of the paper.
IMAGE_CLAIMS: Mapping[str, Callable[[Evidence], Verdict]] = dict(
    sorted(
        {
            **image_start.CLAIMS,
            **image_accuracy.CLAIMS,
            **image_flow.CLAIMS,
            **image_tickets.CLAIMS,
            **image_landscape.CLAIMS,
        }.items()
    )
)
