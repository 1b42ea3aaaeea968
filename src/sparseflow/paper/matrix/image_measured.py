"""What is measured on image runs: where tickets lie, and how alike the functions of runs are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from sparseflow.lab.page.evidence import Option
from sparseflow.paper.matrix.cifar import ImageGroups
from sparseflow.paper.matrix.image_scales import ImageScale
from sparseflow.paper.matrix.measured import TABLES
from sparseflow.paper.measures.measurement import Measurement
from sparseflow.training.images import ImageRun

#: Kind of measurement -> the tables it fills.
IMAGE_TABLES = {kind: TABLES[kind] for kind in ("distances", "embedding", "functions", "path")}
#: Scale -> the setting of section 4.3, as group names begin.
SETTINGS = {"cifar": "resnet14"}
KINDS = ("lottery", "lottery-k0", "ticket-scratch")
#: Of a path: training images behind a loss and behind the statistics of batch norms, and points; minutes in all.
PATH: dict[str, Option] = {"examples": 2000, "recalibrated_by": 1000, "points": 11}


def image_measurements(
    scale: ImageScale, groups: ImageGroups, *, data_root: Path | None = None
) -> Iterator[Measurement]:
    """Everything that is measured at a scale, cheap things first; rows say ``setting``, ``group`` and ``mask``.

    >>> from sparseflow.paper.matrix.image_scales import IMAGE_SCALES
    >>> cifar = IMAGE_SCALES["cifar"]
    >>> {measurement.kind for measurement in image_measurements(cifar, cifar.groups)} == set(IMAGE_TABLES)
    True
    """
    setting = SETTINGS.get(scale.name)
    if setting is None:
        return

    def make(kind: str, runs: Sequence[ImageRun], size: int, *, options: Any = (), **labels: Option) -> Measurement:
        told = tuple({"setting": setting, **labels}.items())
        return Measurement(kind, tuple(runs), tuple(dict(options).items()), told, size, data_root)

    prunes = groups[f"{setting}/prune"]
    on_masks = {
        (kind, number): groups[f"{setting}/{kind}/mask{number}"] for kind in KINDS for number in range(len(prunes))
    }
    for (kind, number), runs in on_masks.items():
        yield make("distances", runs, 10, group=f"{setting}/{kind}", mask=number)
    yield make("embedding", [run for kind in KINDS for run in on_masks[kind, 0]], 20, mask=0)
    for (kind, number), runs in on_masks.items():
        options = {"reference": 0, "draws": 0}
        size = 40 * (len(runs) + 1)
        yield make("functions", [*runs, prunes[number]], size, options=options, group=f"{setting}/{kind}", mask=number)
    same = {"reference": 1, "draws": 0}
    yield make("functions", [*prunes, prunes[0]], 40 * len(prunes), options=same, group=f"{setting}/prune", mask=0)
    for (kind, number), runs in on_masks.items():
        for run in runs:
            for start in ("solution", "init"):
                line = {"start": start, **PATH}
                yield make("path", [run], 150, options=line, group=f"{setting}/{kind}", mask=number)
