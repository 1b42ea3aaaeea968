"""Claims about final accuracy (Table 1): by initialisation, by method, and beside a small dense network."""

from __future__ import annotations

from itertools import pairwise, product

import numpy as np

from sparseflow.init.schemes import SCHEMES
from sparseflow.lab.page.evidence import Evidence
from sparseflow.paper.claims.bounds import interval_above, reaches
from sparseflow.paper.claims.contrasts import contrast, spread_above
from sparseflow.paper.claims.intervals import clopper_pearson, welch_spread
from sparseflow.paper.claims.run_statistics import (
    accuracies,
    accuracies_of,
    labelled_means,
    mean_and_std,
    mean_log_norm,
    num_collapsed,
    of_each,
)
from sparseflow.paper.claims.sites import CIFAR, MNIST, Site, pooled
from sparseflow.paper.claims.statistics import equivalent, fisher_greater, greater, mann_whitney_greater
from sparseflow.paper.claims.verdict import FEWEST, FEWEST_RANKED, Verdict, all_of, conclude, undecided
from sparseflow.paper.matrix import cells
from sparseflow.training import names
from sparseflow.training.runs import Run

#: The paper's label of a method or an initialisation -> its key in names of groups.
METHODS = {names.METHODS[key].paper: key for key in cells.METHODS}
INITS = {SCHEMES[key].label: key for key in cells.INITS}
#: Points that C06 asks VGG16 to gain.
GAIN = 5.0
#: How sentences describe what a method does with connections.
_DOES = {
    "RigL": "moving connections to where the gradient is large",
    "SET": "moving them at random",
    "Scratch": "leaving them in place",
}


def c06_collapse(evidence: Evidence) -> Verdict:
    """Without batch norm the sparsity-aware initialisation gives better accuracy for Scratch, SET and RigL.

    Criterion (a), for each method over 20 seeds: fewer runs of Ours collapse than of Original, Fisher p < 0.05. Part
    (b), a gain of more than 5 points on VGG16, is :func:`c06_gain`; the accuracy of the runs that learned is reported.
    """
    parts, described = {}, []
    for method, key in METHODS.items():
        original, ours = (evidence.runs(f"lenet5/{key}/{init}", at_least=MNIST.many) for init in ("dense", "sparse"))
        lost = [(num_collapsed(runs, below=evidence.collapse_percent), len(runs)) for runs in (original, ours)]
        parts[method] = fisher_greater(*lost, alpha=0.05)
        learned = [_learned(runs, evidence.collapse_percent) for runs in (original, ours)]
        described.append(f"{method} {learned[0]} vs {learned[1]}")
    return conclude(
        "C06",
        all_of(parts),
        ours="accuracy of the runs that learned, Original vs Ours: " + "; ".join(described),
        untested="the gain on VGG16",
        held="With the usual initial weights some LeNet5 runs never learn, with those scaled to the mask they do, "
        "whatever the method.",
        failed="For some method as many LeNet5 runs fail to learn with initial weights scaled to the mask as without.",
        inconclusive="With initial weights scaled to the mask fewer LeNet5 runs fail to learn, but for some method the "
        "difference may be chance.",
    )


def c06_gain(evidence: Evidence) -> Verdict:
    """Without batch norm the sparsity-aware initialisation gives better accuracy for Scratch, SET and RigL.

    Criterion (b), for each method: Ours gains more than 5 points on Original, one-sided Welch p < 0.05.
    Differs: VGG16 on CIFAR-10; the gain is the mean of the gains at three sparsities, each with Welch's errors of three
    runs a side; runs that did not learn count as they end.
    """
    parts, described = {}, []
    for method, key in METHODS.items():
        pairs = {
            name: [
                accuracies_of(evidence, f"{group}/{key}/{init}", at_least=CIFAR.many) for init in ("sparse", "dense")
            ]
            for name, group in CIFAR.plain.groups.items()
        }
        gain = contrast([welch_spread(*pair) for pair in pairs.values()], [1 / len(pairs)] * len(pairs))
        n = " + ".join(f"{len(ours)} vs {len(original)}" for ours, original in pairs.values())
        parts[method] = spread_above(gain, GAIN, alpha=0.05, n=n, test="Welch t, mean gain")
        for name, (ours, original) in pairs.items():
            described.append(f"{method}, {name} {mean_and_std(original)} to {mean_and_std(ours)}")
    return conclude(
        "C06",
        all_of(parts),
        where=CIFAR.plain.phrase,
        ours="Original to Ours: " + "; ".join(described),
        held="Initial weights scaled to the mask end more than five points better, whatever the method.",
        failed="Initial weights scaled to the mask do not end five points better with every method.",
        inconclusive="Initial weights scaled to the mask end better, but that they gain five points with every method "
        "is not shown.",
    )


def c07(evidence: Evidence, site: Site) -> Verdict:
    """Without sparsity-aware initialisation some runs fail to train at all.

    Criterion, pooled over three methods of 20 seeds: the 95 % Clopper-Pearson interval of the collapse rate of Original
    lies above 5 %, and no run of Ours or Liu collapses. Runs without weight decay are reported.
    Differs on CIFAR-10: three sparsities of three seeds, 27 runs of the criterion's 60, so that at least 5 must fail.
    """
    groups = {
        label: [run for key in METHODS.values() for run in pooled(evidence, site, f"{key}/{init}")]
        for label, init in INITS.items()
    }
    lost = {label: num_collapsed(runs, below=evidence.collapse_percent) for label, runs in groups.items()}
    total = {label: len(runs) for label, runs in groups.items()}
    parts = {"Original": interval_above(clopper_pearson(lost["Original"], total["Original"]), 0.05)}
    for label in ("Liu", "Ours"):
        parts[label] = reaches(lost[label], at_most=0, n=str(total[label]), of="collapsed runs")
    others = [f"{lost[label]} of {total[label]} with {label}" for label in ("Liu", "Ours") if lost[label]]
    undecayed = [
        run
        for group in site.plain.groups.values()
        for key in METHODS.values()
        for run in evidence.groups.get(f"{group}/{key}/dense/wd0", ())
    ]
    wd0 = num_collapsed(undecayed, below=evidence.collapse_percent) if undecayed else 0
    return conclude(
        "C07",
        all_of(parts),
        where=site.plain.phrase,
        ours=f"did not learn: {', '.join(f'{label} {lost[label]}/{total[label]}' for label in INITS)}"
        + (f"; Original without weight decay {wd0}/{len(undecayed)}" if undecayed else ""),
        held="From the usual initial weights some runs do not learn; from weights scaled to the mask all do.",
        failed=f"Not only runs from the usual initial weights fail to learn: {' and '.join(others)} do too."
        if others
        else "Hardly any run fails to learn from the usual initial weights.",
        inconclusive="Too few runs fail to learn from the usual initial weights to call it more than 5 % of them.",
    )


def c08(evidence: Evidence, site: Site) -> Verdict:
    """Liu and Ours end equally well.

    Criterion, on every network, for three methods, over 10 seeds: accuracies within 0.5 points (TOST, p < 0.05).
    Differs on CIFAR-10: 3 seeds.
    """
    parts, described = {}, []
    for network, group in site.networks.groups.items():
        for method, key in METHODS.items():
            liu, ours = (
                accuracies_of(evidence, f"{group}/{key}/{init}", at_least=site.some) for init in ("liu", "sparse")
            )
            parts[f"{network}, {method}"] = equivalent(liu, ours, margin=0.5, alpha=0.05)
            described.append(f"{network}, {method} {mean_and_std(liu)} vs {mean_and_std(ours)}")
    return conclude(
        "C08",
        all_of(parts),
        where=site.networks.phrase,
        ours="Liu vs Ours: " + "; ".join(described),
        held="Whether initial weights are scaled by layer or by unit makes no difference of half a point in the end.",
        failed="Scaling initial weights by layer or by unit makes a difference of more than half a point somewhere.",
        inconclusive="The runs differ too much among themselves to say that the two scales end within half a point.",
    )


def c13(evidence: Evidence) -> Verdict:
    """Small Dense beats static sparse training of its size on ResNet-50, even with good initial weights.

    Criterion, on ResNet-50: Small Dense ends more than half a point above Scratch, one-sided Welch p < 0.05, for every
    initialisation. The same comparison on LeNet5 and the MLP is reported without a verdict, as the criterion asks.
    """
    if evidence.groups.get("resnet50/small_dense"):
        small = accuracies_of(evidence, "resnet50/small_dense")
        by_init = {name: accuracies_of(evidence, f"resnet50/scratch/{init}") for name, init in INITS.items()}
        return conclude(
            "C13",
            all_of({name: greater(small, found, margin=0.5, alpha=0.05) for name, found in by_init.items()}),
            ours=f"Small Dense {mean_and_std(small)}; Scratch {labelled_means(by_init)}",
            held="A small dense ResNet ends better than a sparse one of its size with fixed connections.",
            failed="A small dense ResNet does not end half a point better than every sparse one of its size.",
        )
    groups = {"Small Dense": "small_dense", "Scratch+": "scratch/sparse"}
    described = []
    for network, name in MNIST.networks.groups.items():
        found = {label: accuracies_of(evidence, f"{name}/{group}") for label, group in groups.items()}
        described.append(f"{network}: {labelled_means(found)}")
    return undecided(
        "C13",
        "The claim is about ResNet-50 on ImageNet, which was not trained here; the numbers are of the MNIST networks.",
        ours="; ".join(described),
    )


def c20(evidence: Evidence, site: Site) -> Verdict:
    """Reversing RigL's growth criterion costs accuracy.

    Criterion, with Ours: RigL-Inverted is worse. On LeNet5, 10 seeds, updates every 100 and every 500 steps,
    Mann-Whitney p < 0.05. On ResNet-14 and on VGG16 at 90 %, of three seeds, one-sided Welch p < 0.05.
    """
    worse = mann_whitney_greater if site.some >= FEWEST_RANKED else greater
    parts, described = {}, []
    for (network, group), (period, often) in product(site.moving.groups.items(), site.periods.items()):
        found = {
            label: accuracies_of(evidence, f"{group}/{method}/sparse{often}", at_least=site.some)
            for label, method in (("RigL", "rigl"), ("Inverted", "rigl_inverted"))
        }
        name = ", ".join(filter(None, (network, period)))
        parts[name] = worse(found["RigL"], found["Inverted"], alpha=0.05)
        described.append(f"{name}: {labelled_means(found)}")
    return conclude(
        "C20",
        all_of(parts),
        where=site.moving.phrase,
        ours="; ".join(described),
        held="Growing connections where the gradient is smallest, not largest, makes the network worse.",
        failed="Growing connections where the gradient is smallest does not always make the network worse.",
    )


def c23(evidence: Evidence, site: Site) -> Verdict:
    """The order is RigL, SET, Scratch; on MNIST only RigL above Scratch is asked for.

    Criterion, on every network, with Ours: each adjacent gap is above 0, one-sided Welch p < 0.05.
    """
    parts, described = {}, []
    for network, group in site.networks.groups.items():
        found = {method: accuracies_of(evidence, f"{group}/{key}/sparse") for method, key in METHODS.items()}
        for better, worse in pairwise(site.order):
            parts[f"{network}, {better} above {worse}"] = greater(found[better], found[worse], alpha=0.05)
        described.append(f"{network}: {labelled_means(found)}")
    order = ", then ".join(_DOES[method] for method in site.order)
    return conclude(
        "C23",
        all_of(parts),
        where=site.networks.phrase,
        ours="; ".join(described),
        held=f"Accuracy falls in this order: {order}{site.order_caveat}.",
        failed=f"Accuracy does not everywhere fall in this order: {order}.",
        inconclusive=f"This order of accuracies is not contradicted, and not shown everywhere: {order}.",
    )


def c24(evidence: Evidence) -> Verdict:
    """RigL stays below Small Dense although its gradient norm is higher.

    Criterion, on LeNet5: Small Dense is more accurate, and the time-averaged log norm of RigL is higher off-cycle, each
    by one-sided Welch p < 0.05. The paper's own table has a tie.
    """
    rigl, small = (evidence.runs(f"lenet5/{group}", at_least=FEWEST) for group in ("rigl/sparse", "small_dense"))
    period = rigl[0].config.update_every
    flow = [of_each(runs, lambda run: mean_log_norm(run, off_cycle=period)) for runs in (rigl, small)]
    parts = {
        "accuracy, Small Dense above RigL": greater(accuracies(small), accuracies(rigl), alpha=0.05),
        "log norm, RigL above Small Dense": greater(*flow, alpha=0.05),
    }
    return conclude(
        "C24",
        all_of(parts),
        ours=f"accuracy: Small Dense {mean_and_std(accuracies(small))}, RigL {mean_and_std(accuracies(rigl))}; "
        f"gradient norm: {np.exp(flow[1].mean()):.3g} vs {np.exp(flow[0].mean()):.3g}",
        held="A small dense network ends better than RigL although its gradients are smaller.",
        failed="Not both are so: that a small dense network ends better than RigL, and that its gradients are smaller.",
        inconclusive="That a small dense network ends better than RigL with smaller gradients is not shown.",
    )


def _learned(runs: list[Run], limit: float) -> str:
    found = accuracies(runs)
    return mean_and_std(found[found >= limit]) if (found >= limit).any() else "none"


#: Judged on MNIST alone.
CLAIMS = {"C06": c06_collapse, "C13": c13, "C24": c24}
ON_SITES = {"C07": c07, "C08": c08, "C20": c20, "C23": c23}
