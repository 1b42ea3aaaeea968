"""The networks trained on CIFAR-10 by what readers call them, and a number for each pruning run.

Settings are those of :mod:`sparseflow.paper.matrix.cifar`: VGG16 at three sparsities, and ResNet-14, which is
ResNet-50 with one block a group; both have 1/8 of their channels and train for an epoch or two. Verdicts call them
narrow. Where a criterion counts steps of ImageNet, the same share of training is meant.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from sparseflow.lab.page.evidence import Evidence
from sparseflow.paper.claims.intervals import Values
from sparseflow.paper.claims.tables import rows
from sparseflow.paper.claims.verdict import FEWEST, need
from sparseflow.paper.matrix.cifar import REPEATS, RESNET, VGG
from sparseflow.training.runs import Run

VGGS = {f"VGG16, {100 * sparsity:.0f} % zeros": setting for setting, sparsity in VGG.items()}
NETWORKS = {**VGGS, "ResNet-14": RESNET}
#: Those that RigL-Inverted was run on.
INVERTED = {"VGG16": "vgg16-90", "ResNet-14": RESNET}
#: Those without a normalisation, for sentences.
VGG_HERE = "a narrow VGG16 without batch norm"


def vgg_runs(evidence: Evidence, group: str) -> list[Run]:
    """The runs of a group such as ``scratch/dense`` at all three sparsities of VGG16.

    Raises:
        NotEnoughRunsError: if there are fewer than three at one.
    """
    return [run for setting in VGGS.values() for run in evidence.runs(f"{setting}/{group}", at_least=FEWEST)]


def runs_by_mask(evidence: Evidence, kinds: Sequence[str], statistic: Callable[[Run], float]) -> list[Values]:
    """A number of each pruning run of ResNet-14: the mean over the runs on its masks, for each kind in the same order.

    Args:
        evidence: The runs, in groups such as ``resnet14/lottery/mask0``.
        kinds: Such as ``lottery``.
        statistic: Of a run.

    Raises:
        NotEnoughRunsError: if fewer than three pruning runs have all kinds.
    """
    found = []
    for kind in kinds:
        groups = [group for group in evidence.groups if group.startswith(f"{RESNET}/{kind}/mask")]
        values = [(run.config.seed, statistic(run)) for group in groups for run in evidence.groups[group]]
        found.append(_means([seed for seed, _ in values], [value for _, value in values]))
    return _of_same_masks(found, of=f"pruning runs of {RESNET} with {' and '.join(kinds)}", make=f"{RESNET}/{kinds[0]}")


def rows_by_mask(evidence: Evidence, table: str, column: str, kinds: Sequence[str], **labels: Any) -> list[Values]:
    """As :func:`runs_by_mask`, of a column of a table whose groups are ``resnet14/lottery`` and such.

    Raises:
        NotEnoughRunsError: if fewer than three pruning runs have all kinds.
    """
    found = []
    for kind in kinds:
        measured = rows(evidence, table, at_least=1, group=f"{RESNET}/{kind}", **labels)
        found.append(_means(measured["seed"].tolist(), measured[column].tolist()))
    return _of_same_masks(found, of=f"pruning runs of {RESNET} in {table} with {' and '.join(kinds)}", make=table)


def _means(seeds: list[int], values: list[float]) -> pd.Series[float]:
    # Seeds of runs on pruned masks say which: REPEATS times one more than the number of the pruning run, and up.
    return pd.Series(values, index=[seed // REPEATS for seed in seeds], dtype="float64").groupby(level=0).mean()


def _of_same_masks(found: list[pd.Series[float]], *, of: str, make: str) -> list[Values]:
    both = sorted(set.intersection(*(set(values.index) for values in found)))
    need(both, FEWEST, of=of, make=make)
    return [np.asarray(values[both], dtype=np.float64) for values in found]
