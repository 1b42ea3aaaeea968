"""Claims about final accuracy (Table 1): by initialisation, by method, and beside a small dense network."""

from __future__ import annotations

from itertools import pairwise, product

import numpy as np

from sparseflow.init.schemes import SCHEMES
from sparseflow.lab.page.evidence import Evidence
from sparseflow.paper.claims.bounds import interval_above, reaches
from sparseflow.paper.claims.contrasts import contrast, spread_above
from sparseflow.paper.claims.former import formerly
from sparseflow.paper.claims.intervals import Values, clopper_pearson, welch_spread
from sparseflow.paper.claims.run_statistics import (
    accuracies,
    accuracies_of,
    accuracy,
    labelled_means,
    mean_and_std,
    mean_log_norm,
    num_collapsed,
    of_each,
)
from sparseflow.paper.claims.sites import CIFAR, MNIST, Site, pooled
from sparseflow.paper.claims.starts import SHARED, all_starts, paired_values, start_of
from sparseflow.paper.claims.statistics import (
    equivalent,
    fisher_greater,
    greater,
    mann_whitney_greater,
    mcnemar_greater,
    paired_equivalent,
    paired_greater,
)
from sparseflow.paper.claims.verdict import FEWEST, FEWEST_RANKED, Former, Part, Verdict, all_of, conclude, undecided
from sparseflow.paper.matrix import cells
from sparseflow.training import names
from sparseflow.training.runs import Run

#: The paper's label of a method or an initialisation -> its key in names of groups.
METHODS = {names.METHODS[key].paper: key for key in cells.METHODS}
INITS = {SCHEMES[key].label: key for key in cells.INITS}
#: Points that C06 asks VGG16 to gain.
GAIN = 5.0
#: Why LeNet5's masks move every 100 steps where claims are judged.
OFTEN = (
    "LeNet5's masks move every 100 steps now, as in the authors' configs and Figures 8b and 10: at 500, which Table 4 "
    "prints, SET ends below the paper's Table 1, at 100 it does not."
)
#: How sentences describe what a method does with connections.
_DOES = {
    "RigL": "moving connections to where the gradient is large",
    "SET": "moving them at random",
    "Scratch": "leaving them in place",
}


def c06_collapse(evidence: Evidence) -> Verdict:
    """Without batch norm the sparsity-aware initialisation gives better accuracy for Scratch, SET and RigL.

    Criterion (a), for each method: fewer starts of Ours collapse than of Original, McNemar's exact test on pairs of the
    same masks and data, p < 0.05, over 20 starts at least and all that there are; masks move every 100 steps. Part (b),
    a gain of more than 5 points on VGG16, is :func:`c06_gain`; the accuracy of the runs that learned is reported.
    """
    below = evidence.collapse_percent
    parts, old, described = {}, {}, []
    for method, key in METHODS.items():
        cells = [MNIST.cell("lenet5", key, init) for init in ("dense", "sparse")]
        original, ours = (
            {start_of(run): run for run in all_starts(evidence, cell, at_least=MNIST.many)} for cell in cells
        )
        shared = [start for start in original if start in ours]
        pairs = [[runs[start] for start in shared] for runs in (original, ours)]
        parts[method] = mcnemar_greater(*(accuracies(runs) < below for runs in pairs), alpha=0.05)
        every500 = [evidence.groups.get(f"lenet5/{key}/{init}", ()) for init in ("dense", "sparse")]
        if all(every500):
            lost = [(num_collapsed(runs, below=below), len(runs)) for runs in every500]
            old[method] = fisher_greater(*lost, alpha=0.05)
        learned = [_learned(runs, below) for runs in pairs]
        described.append(f"{method} {learned[0]} vs {learned[1]}")
    return conclude(
        "C06",
        all_of(parts),
        ours="accuracy of the runs that learned, Original vs Ours: " + "; ".join(described),
        untested="the gain on VGG16",
        former=Former(
            "Fisher's exact test for each method, 20 runs each, masks that move every 500 steps",
            all_of(old).outcome,
            f"{SHARED} {OFTEN}",
        )
        if len(old) == len(parts)
        else None,
        held="With the usual initial weights some LeNet5 runs never learn, with those scaled to the mask they do, "
        "whatever the method.",
        failed="For some method more LeNet5 runs fail to learn with initial weights scaled to the mask than without.",
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

    Criterion, over starts of Scratch: the 95 % Clopper-Pearson interval of the collapse rate of Original lies above
    5 %, and no start of Ours or Liu collapses. A start is masks, draw and order of the data; until masks move SET and
    RigL are that same run, so how many of the starts that Scratch does not survive they rescue is reported. So is the
    chance that Original and Liu, and Liu and Ours, collapse alike (Fisher), and runs without weight decay.
    Differs on CIFAR-10: three sparsities of three seeds, 9 starts.
    """
    below = evidence.collapse_percent
    starts = {
        label: [
            run
            for network in site.plain.groups.values()
            for run in all_starts(evidence, f"{network}/scratch/{init}", at_least=site.many)
        ]
        for label, init in INITS.items()
    }
    lost = {label: num_collapsed(runs, below=below) for label, runs in starts.items()}
    total = {label: len(runs) for label, runs in starts.items()}
    parts = {"Original": interval_above(clopper_pearson(lost["Original"], total["Original"]), 0.05)}
    for label in ("Liu", "Ours"):
        parts[label] = reaches(lost[label], at_most=0, n=str(total[label]), of="collapsed starts")
    others = [f"{lost[label]} of {total[label]} with {label}" for label in ("Liu", "Ours") if lost[label]]
    chances = ", ".join(
        f"{a} above {b} p = {fisher_greater((lost[a], total[a]), (lost[b], total[b]), alpha=0.05).p_value:.2g}"
        for a, b in (("Original", "Liu"), ("Liu", "Ours"))
    )
    undecayed = [
        run
        for group in site.plain.groups.values()
        for key in METHODS.values()
        for run in evidence.groups.get(f"{group}/{key}/dense/wd0", ())
    ]
    wd0 = num_collapsed(undecayed, below=below) if undecayed else 0
    every = {
        label: [run for key in METHODS.values() for run in pooled(evidence, site, f"{key}/{init}", at_least=0)]
        for label, init in INITS.items()
    }
    old = {
        "Original": interval_above(
            clopper_pearson(num_collapsed(every["Original"], below=below), len(every["Original"])), 0.05
        )
    }
    for label in ("Liu", "Ours"):
        old[label] = reaches(num_collapsed(every[label], below=below), at_most=0, n=str(len(every[label])), of="runs")
    return conclude(
        "C07",
        all_of(parts),
        where=site.plain.phrase,
        design="starts of Scratch",
        former=Former(
            "the same rates over the runs of Scratch, SET and RigL together",
            all_of(old).outcome,
            "A start that fails fails with every method, and was counted once for each.",
        ),
        ours=f"starts that did not learn: {', '.join(f'{label} {lost[label]}/{total[label]}' for label in INITS)}; "
        + chances
        + _rescues(evidence, site)
        + (f"; runs of Original without weight decay {wd0}/{len(undecayed)}" if undecayed else ""),
        held="From the usual initial weights some runs do not learn; from weights scaled to the mask all do.",
        failed=f"Not only runs from the usual initial weights fail to learn: {' and '.join(others)} do too."
        if others
        else "Hardly any run fails to learn from the usual initial weights.",
        inconclusive="Too few runs fail to learn from the usual initial weights to call it more than 5 % of them.",
    )


def _reason(site: Site) -> str:
    """Why methods and initialisations are compared by pairs now, and at which update period."""
    return f"{SHARED} {OFTEN}" if site.often else SHARED


def _rescues(evidence: Evidence, site: Site) -> str:
    """How many starts of Original with which Scratch collapses learn with SET and with RigL."""
    below, found = evidence.collapse_percent, []
    for method, key in METHODS.items():
        if key == "scratch":
            continue
        saved = tried = 0
        for network in site.plain.groups.values():
            cells = [site.cell(network, one, "dense") for one in ("scratch", key)]
            if not all(evidence.groups.get(cell) for cell in cells):
                continue
            static, moved = ({start_of(run): run for run in evidence.groups[cell]} for cell in cells)
            stuck = [start for start in static if start in moved and accuracy(static[start]) < below]
            tried += len(stuck)
            saved += sum(accuracy(moved[start]) >= below for start in stuck)
        if tried:
            found.append(f"{method} rescues {saved} of {tried}")
    return f"; of Original's, {', '.join(found)}" if found else ""


def c08(evidence: Evidence, site: Site) -> Verdict:
    """Liu and Ours end equally well.

    Criterion, on every network, for three methods, over 10 seeds: accuracies within 0.5 points (TOST paired by seed,
    p < 0.05) of the starts with which both learn; how many collapse is C07's. LeNet5's masks move every 100 steps.
    Differs on CIFAR-10: 3 seeds.
    """
    below = evidence.collapse_percent
    parts, old, described = {}, {}, []
    for network, group in site.networks.groups.items():
        for method, key in METHODS.items():
            cells = [site.cell(group, key, init) for init in ("liu", "sparse")]
            for cell in cells:
                evidence.runs(cell, at_least=site.some)
            liu, ours = paired_values(evidence, accuracy, *cells, learned_above=below)
            name = f"{network}, {method}"
            parts[name] = paired_equivalent(liu, ours, margin=0.5, alpha=0.05)
            before = [accuracies(evidence.groups.get(f"{group}/{key}/{init}", ())) for init in ("liu", "sparse")]
            if all(len(values) >= FEWEST for values in before):
                old[name] = equivalent(*before, margin=0.5, alpha=0.05)
            described.append(f"{name} {mean_and_std(liu)} vs {mean_and_std(ours)}")
    return conclude(
        "C08",
        all_of(parts),
        where=site.networks.phrase,
        ours="Liu vs Ours: " + "; ".join(described),
        former=Former(
            "TOST of independent runs, those that did not learn included; LeNet5's masks move every 500 steps",
            all_of(old).outcome,
            f"Means over runs that did not learn say nothing of where the others end. {_reason(site)}",
        )
        if len(old) == len(parts)
        else None,
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

    Criterion, with Ours: RigL-Inverted is worse, one-sided t paired by seed, p < 0.05. On LeNet5, 10 seeds, updates
    every 100 and every 500 steps. On ResNet-14 and on VGG16 at 90 %, three seeds.
    """
    parts, old, described = {}, {}, []
    for (network, group), (period, often) in product(site.moving.groups.items(), site.periods.items()):
        cells = [f"{group}/{method}/sparse{often}" for method in ("rigl", "rigl_inverted")]
        values = paired_values(evidence, accuracy, *cells, at_least=site.some)
        found = dict(zip(("RigL", "Inverted"), values, strict=True))
        name = ", ".join(filter(None, (network, period)))
        parts[name] = paired_greater(found["RigL"], found["Inverted"], alpha=0.05)
        old[name] = (mann_whitney_greater if site.some >= FEWEST_RANKED else greater)(
            found["RigL"], found["Inverted"], alpha=0.05
        )
        described.append(f"{name}: {labelled_means(found)}")
    return conclude(
        "C20",
        all_of(parts),
        where=site.moving.phrase,
        ours="; ".join(described),
        former=Former("Mann-Whitney, or Welch, of independent runs", all_of(old).outcome, SHARED),
        held="Growing connections where the gradient is smallest, not largest, makes the network worse.",
        failed="Growing connections where the gradient is smallest does not always make the network worse.",
    )


def c23(evidence: Evidence, site: Site) -> Verdict:
    """The order is RigL, SET, Scratch; on MNIST only RigL above Scratch is asked for.

    Criterion, on every network, with Ours: each adjacent gap is above 0, one-sided t paired by seed, p < 0.05. LeNet5's
    masks move every 100 steps.
    """
    parts, old, described = {}, {}, []
    for network, group in site.networks.groups.items():
        cells = [site.cell(group, key, "sparse") for key in METHODS.values()]
        found = dict(zip(METHODS, paired_values(evidence, accuracy, *cells), strict=True))
        for better, worse in pairwise(site.order):
            name = f"{network}, {better} above {worse}"
            parts[name] = paired_greater(found[better], found[worse], alpha=0.05)
            before = [accuracies(evidence.groups.get(f"{group}/{METHODS[one]}/sparse", ())) for one in (better, worse)]
            if all(len(values) >= FEWEST for values in before):
                old[name] = greater(*before, alpha=0.05)
        described.append(f"{network}: {labelled_means(found)}")
    order = ", then ".join(_DOES[method] for method in site.order)
    return conclude(
        "C23",
        all_of(parts),
        where=site.networks.phrase,
        ours="; ".join(described),
        former=Former(
            "one-sided Welch of independent runs; LeNet5's masks move every 500 steps",
            all_of(old).outcome,
            _reason(site),
        )
        if len(old) == len(parts)
        else None,
        held=f"Accuracy falls in this order: {order}{site.order_caveat}.",
        failed=f"Accuracy does not everywhere fall in this order: {order}.",
        inconclusive=f"This order of accuracies is not contradicted, and not shown everywhere: {order}.",
    )


def c24(evidence: Evidence) -> Verdict:
    """RigL stays below Small Dense although its gradient norm is higher.

    Criterion, on LeNet5: Small Dense is more accurate, and the time-averaged log norm of RigL is higher off-cycle, each
    by one-sided Welch p < 0.05; masks move every 100 steps. The paper's own table has a tie.
    """
    rigl, small = (
        evidence.runs(group, at_least=FEWEST)
        for group in (MNIST.cell("lenet5", "rigl", "sparse"), "lenet5/small_dense")
    )
    flow = _off_cycle(rigl, small)
    return conclude(
        "C24",
        _better_with_less(rigl, small),
        ours=f"accuracy: Small Dense {mean_and_std(accuracies(small))}, RigL {mean_and_std(accuracies(rigl))}; "
        f"gradient norm: {np.exp(flow[1].mean()):.3g} vs {np.exp(flow[0].mean()):.3g}",
        former=formerly(
            "the same tests, masks that move every 500 steps",
            lambda: _better_with_less(evidence.runs("lenet5/rigl/sparse", at_least=FEWEST), small),
            OFTEN,
        ),
        held="A small dense network ends better than RigL although its gradients are smaller.",
        failed="Not both are so: that a small dense network ends better than RigL, and that its gradients are smaller.",
        inconclusive="That a small dense network ends better than RigL with smaller gradients is not shown.",
    )


def _better_with_less(rigl: list[Run], small: list[Run]) -> Part:
    """C24's criterion."""
    parts = {
        "accuracy, Small Dense above RigL": greater(accuracies(small), accuracies(rigl), alpha=0.05),
        "log norm, RigL above Small Dense": greater(*_off_cycle(rigl, small), alpha=0.05),
    }
    return all_of(parts)


def _off_cycle(rigl: list[Run], small: list[Run]) -> list[Values]:
    """Mean log norms of both at the steps at which RigL's masks do not move."""
    period = rigl[0].config.update_every
    return [of_each(runs, lambda run: mean_log_norm(run, off_cycle=period)) for runs in (rigl, small)]


def _learned(runs: list[Run], limit: float) -> str:
    found = accuracies(runs)
    return mean_and_std(found[found >= limit]) if (found >= limit).any() else "none"


#: Judged on MNIST alone.
CLAIMS = {"C06": c06_collapse, "C13": c13, "C24": c24}
ON_SITES = {"C07": c07, "C08": c08, "C20": c20, "C23": c23}
