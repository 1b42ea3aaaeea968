"""Claims about weight decay and mask layout, and the paper's summary (sections B.2, 4.2, 5)."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence

import numpy as np
from scipy import stats

from sparseflow.lab.page.evidence import Evidence
from sparseflow.paper.claims.intervals import Values
from sparseflow.paper.claims.run_statistics import (
    accuracies,
    accuracy,
    labelled_means,
    mean_and_std,
    mean_log_norm,
    of_each,
)
from sparseflow.paper.claims.sites import Site
from sparseflow.paper.claims.starts import SHARED, paired_values, start_of
from sparseflow.paper.claims.statistics import greater, paired_greater, spearman_above
from sparseflow.paper.claims.verdict import Former, Part, Verdict, all_of, conclude, directed, need, undecided
from sparseflow.paper.matrix.scales import SCALES
from sparseflow.training.runs import Run

#: Runs of a network below which its rank correlation is not judged: as many as one cell of the paper's.
RUNS = 20


def c51(evidence: Evidence) -> Verdict:
    """Weight decay improves generalisation on LeNet5.

    Criterion: the dense network gains accuracy, one-sided t paired by seed (the same start and data), p < 0.05. RigL+
    and Lottery are reported; tickets without weight decay are those of section 4.3, on other masks.
    """
    decayed, plain = paired_values(evidence, accuracy, "lenet5/dense", "lenet5/dense/wd0")
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
        paired_greater(decayed, plain, alpha=0.05),
        former=Former("one-sided Welch of independent runs", greater(decayed, plain, alpha=0.05).outcome, SHARED),
        ours=f"dense: {mean_and_std(decayed)} with, {mean_and_std(plain)} without; gain in points: "
        + ", ".join(f"{label} {gain:+.2f}" for label, gain in gains.items()),
        held="Pulling weights towards zero makes the dense LeNet5 more accurate.",
        failed="Pulling weights towards zero does not make the dense LeNet5 more accurate.",
    )


def c52(evidence: Evidence, site: Site) -> Verdict:
    """ERK beats uniform sparsity on VGG16.

    Criterion: Scratch+ with ERK masks ends above Scratch+ with uniform ones, one-sided t paired by seed (the same draw
    and data), p < 0.05.
    """
    if not site.residual.groups:
        return undecided("C52", "The claim is about VGG16 on ImageNet, which was not trained here.")
    names = {"ERK": "vgg16/scratch/sparse", "uniform": "vgg16/scratch/sparse/uniform"}
    found = dict(zip(names, paired_values(evidence, accuracy, *names.values()), strict=True))
    return conclude(
        "C52",
        paired_greater(found["ERK"], found["uniform"], alpha=0.05),
        where=site.plain.phrase if site.cells else "",
        ours=f"accuracy: {labelled_means(found)}",
        former=Former(
            "one-sided Welch of independent runs", greater(found["ERK"], found["uniform"], alpha=0.05).outcome, SHARED
        ),
        held="VGG16 ends better where small layers keep more of their weights.",
        failed="VGG16 does not end better where small layers keep more of their weights.",
    )


def c53(evidence: Evidence) -> Verdict:
    """Better gradient flow early in training is the key to good sparse training.

    Criterion: over runs that learned, the rank correlation of final accuracy and mean log norm over the first 1000
    steps, off-cycle, is above 0.5, p < 0.01. Over all LeNet5 and MLP groups of networks that are sparse from the start,
    each run once. Differs: within each of the two networks, since pooling would count the difference between networks
    as correlation; pooled, and with the runs that did not learn, it is reported. Runs from one start, and starts on the
    masks of one pruning run, are alike, so pruning runs are drawn with replacement (bootstrap), and the p-value is the
    share of draws without a positive correlation.
    """
    often = SCALES[evidence.scale].often
    parts, old, described = {}, {}, []
    pooled: list[tuple[Values, Values]] = []
    for network, name in (("LeNet5", "lenet5"), ("MLP", "mlp")):
        runs = _sparse_runs(evidence, name)
        # One grid of steps for all: no mask moves between the multiples of the shortest period.
        flow, accuracy = of_each(runs, lambda run: mean_log_norm(run, 0, 1000, off_cycle=often)), accuracies(runs)
        learned = accuracy >= evidence.collapse_percent
        pooled.append((flow[learned], accuracy[learned]))
        need(pooled[-1][0], RUNS, of=f"sparse {network} runs that learned", make=f"{name}/*")
        old[network] = spearman_above(*pooled[-1], 0.5, alpha=0.01)
        masks = [_masks_of(run) for run, chosen in zip(runs, learned, strict=True) if chosen]
        parts[network] = clustered_spearman_above(*pooled[-1], masks, 0.5, alpha=0.01)
        described.append(f"{network} {_correlation(*pooled[-1]):.2f} ({_correlation(flow, accuracy):.2f} with all)")
    both = _correlation(*(np.concatenate(values) for values in zip(*pooled, strict=True)))
    return conclude(
        "C53",
        all_of(parts),
        design="runs, drawn by the pruning run whose masks they have",
        former=Former(
            "the same correlation, with p-values as if runs were independent",
            all_of(old).outcome,
            "Runs of one start are alike: some hundred runs are twenty masks.",
        ),
        ours=f"Spearman: {'; '.join(described)}; both networks pooled {both:.2f}",
        held="Among sparse networks that learn, those with larger gradients early end more accurate.",
        failed="Among sparse networks that learn, larger gradients early hardly go with a more accurate end.",
    )


def clustered_spearman_above(
    x: Values, y: Values, clusters: Sequence[Hashable], bound: float, *, alpha: float, draws: int = 999
) -> Part:
    """Rank correlation above ``bound`` and significantly above 0; failed if significantly below ``bound``.

    Clusters are drawn with replacement, each with all of its values; p-values are the shares of draws on the other
    side, the measured one counted with them.

    >>> x = np.arange(12.0)
    >>> clustered_spearman_above(x, x**2, [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5], 0.5, alpha=0.01).outcome
    'held'
    """
    members: dict[Hashable, list[int]] = {}
    for index, cluster in enumerate(clusters):
        members.setdefault(cluster, []).append(index)
    groups = [np.array(found) for found in members.values()]
    draw = np.random.default_rng(0)
    resampled = np.empty(draws)
    for number in range(draws):
        chosen = np.concatenate([groups[one] for one in draw.integers(0, len(groups), len(groups))])
        found = _correlation(x[chosen], y[chosen])
        # Draws of one value alone have no correlation.
        resampled[number] = 0.0 if math.isnan(found) else found
    rho = _correlation(x, y)
    p, opposite = ((1 + int(count)) / (1 + draws) for count in ((resampled <= 0).sum(), (resampled >= bound).sum()))
    text = f"Spearman {rho:.2f} above {bound:g}, p = {p:.2g} by drawing {len(groups)} masks"
    outcome = directed(rho, right=rho > bound, shown=p < alpha, refuted=opposite < alpha)
    return Part(outcome, text, f"{len(x)} runs on {len(groups)} masks", p)


def _masks_of(run: Run) -> Hashable:
    """The pruning run whose masks it has; of random masks, its seed."""
    seed, parent = start_of(run)
    return parent if parent is not None else ("random", seed)


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
    return float(np.corrcoef(stats.rankdata(flow), stats.rankdata(accuracy))[0, 1]) if varied else math.nan


CLAIMS = {"C51": c51, "C53": c53}
