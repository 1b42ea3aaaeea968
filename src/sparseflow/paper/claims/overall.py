"""Claims about weight decay and mask layout, and the paper's summary (sections B.2, 4.2, 5)."""

from __future__ import annotations

import math

import numpy as np
from scipy import stats

from sparseflow.lab.page.evidence import Evidence
from sparseflow.paper.claims.intervals import Values
from sparseflow.paper.claims.run_statistics import (
    accuracies,
    accuracies_of,
    labelled_means,
    mean_and_std,
    mean_log_norm,
    of_each,
)
from sparseflow.paper.claims.statistics import greater, spearman_above
from sparseflow.paper.claims.verdict import Verdict, all_of, conclude, need, undecided
from sparseflow.paper.matrix.scales import SCALES
from sparseflow.training.runs import Run

#: Runs of a network below which its rank correlation is not judged: as many as one cell of the paper's.
RUNS = 20


def c51(evidence: Evidence) -> Verdict:
    """Weight decay improves generalisation on LeNet5.

    Criterion: the dense network gains accuracy, one-sided Welch p < 0.05. RigL+ and Lottery are reported; tickets
    without weight decay are those of section 4.3, on other masks.
    """
    decayed, plain = (accuracies_of(evidence, f"lenet5/dense{variant}") for variant in ("", "/wd0"))
    gains = {"dense": float(decayed.mean() - plain.mean())}
    for label, groups in (
        ("RigL+", ("lenet5/rigl/sparse", "lenet5/rigl/sparse/wd0")),
        ("Lottery", ("lenet5/lottery", "tickets/lottery")),
    ):
        found = [accuracies(evidence.groups.get(group, ())) for group in groups]
        if all(len(values) for values in found):
            gains[label] = float(found[0].mean() - found[1].mean())
    return conclude(
        "C51",
        greater(decayed, plain, alpha=0.05),
        ours=f"dense: {mean_and_std(decayed)} with, {mean_and_std(plain)} without; gain in points: "
        + ", ".join(f"{label} {gain:+.2f}" for label, gain in gains.items()),
        held="Pulling weights towards zero makes the dense LeNet5 more accurate.",
        failed="Pulling weights towards zero does not make the dense LeNet5 more accurate.",
    )


def c52(evidence: Evidence) -> Verdict:
    """ERK beats uniform sparsity on VGG16.

    Criterion: Scratch+ with ERK masks ends above Scratch+ with uniform ones, one-sided Welch p < 0.05.
    """
    names = {"ERK": "vgg16/scratch/sparse", "uniform": "vgg16/scratch/sparse/uniform"}
    if not evidence.groups.get(names["uniform"]):
        return undecided("C52", "The claim is about VGG16 on ImageNet, which was not trained here.")
    found = {label: accuracies_of(evidence, name) for label, name in names.items()}
    return conclude(
        "C52",
        greater(found["ERK"], found["uniform"], alpha=0.05),
        ours=f"accuracy: {labelled_means(found)}",
        held="VGG16 ends better where small layers keep more of their weights.",
        failed="VGG16 does not end better where small layers keep more of their weights.",
    )


def c53(evidence: Evidence) -> Verdict:
    """Better gradient flow early in training is the key to good sparse training.

    Criterion: over runs that learned, the rank correlation of final accuracy and mean log norm over the first 1000
    steps, off-cycle, is above 0.5, p < 0.01. Over all LeNet5 and MLP groups of networks that are sparse from the start,
    each run once. Differs: within each of the two networks, since pooling would count the difference between networks
    as correlation; pooled, and with the runs that did not learn, it is reported. Runs of a group are alike, so p-values
    are nominal.
    """
    often = SCALES[evidence.scale].often
    parts, described = {}, []
    pooled: list[tuple[Values, Values]] = []
    for network, name in (("LeNet5", "lenet5"), ("MLP", "mlp")):
        runs = _sparse_runs(evidence, name)
        # One grid of steps for all: no mask moves between the multiples of the shortest period.
        flow, accuracy = of_each(runs, lambda run: mean_log_norm(run, 0, 1000, off_cycle=often)), accuracies(runs)
        learned = accuracy >= evidence.collapse_percent
        pooled.append((flow[learned], accuracy[learned]))
        need(pooled[-1][0], RUNS, of=f"sparse {network} runs that learned", make=f"{name}/*")
        parts[network] = spearman_above(*pooled[-1], 0.5, alpha=0.01)
        described.append(f"{network} {_correlation(*pooled[-1]):.2f} ({_correlation(flow, accuracy):.2f} with all)")
    both = _correlation(*(np.concatenate(values) for values in zip(*pooled, strict=True)))
    return conclude(
        "C53",
        all_of(parts),
        ours=f"Spearman: {'; '.join(described)}; both networks pooled {both:.2f}",
        held="Among sparse networks that learn, those with larger gradients early end more accurate.",
        failed="Among sparse networks that learn, larger gradients early hardly go with a more accurate end.",
    )


def _sparse_runs(evidence: Evidence, network: str) -> list[Run]:
    """The runs of all groups of a network that are sparse from the start, each once."""
    found = {
        run.config: run
        for group, runs in evidence.groups.items()
        if group.startswith(f"{network}/")
        for run in runs
        if run.config.row.start != "dense"
    }
    return list(found.values())


def _correlation(flow: Values, accuracy: Values) -> float:
    varied = len(flow) > 1 and np.ptp(flow) > 0 and np.ptp(accuracy) > 0
    return float(stats.spearmanr(flow, accuracy).statistic) if varied else math.nan


CLAIMS = {"C51": c51, "C52": c52, "C53": c53}
