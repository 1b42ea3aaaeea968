"""Claims about runs that learn at all (Table 1), by initialisation; and what initialisation gains on VGG16."""

from __future__ import annotations

from sparseflow.lab.page.evidence import Evidence
from sparseflow.paper.claims.bounds import interval_above, reaches
from sparseflow.paper.claims.contrasts import contrast, spread_above
from sparseflow.paper.claims.former import former_if_whole
from sparseflow.paper.claims.intervals import clopper_pearson, mean_spread, welch_spread
from sparseflow.paper.claims.run_statistics import (
    accuracies,
    accuracy,
    mean_and_std,
    num_collapsed,
)
from sparseflow.paper.claims.sites import INITS, METHODS, MNIST, OFTEN, Site, pooled
from sparseflow.paper.claims.starts import SHARED, all_starts, paired_values, start_of
from sparseflow.paper.claims.statistics import PAIRS, fisher_greater, mcnemar_greater
from sparseflow.paper.claims.verdict import Former, Verdict, all_of, conclude
from sparseflow.training.runs import Run

#: Points that C06 asks VGG16 to gain.
GAIN = 5.0


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
        former=former_if_whole(
            "Fisher's exact test for each method, 20 runs each, masks that move every 500 steps",
            old,
            f"{SHARED} {OFTEN}",
            of=parts,
        ),
        held="With the usual initial weights some LeNet5 runs never learn, with those scaled to the mask they do, "
        "whatever the method.",
        failed="For some method more LeNet5 runs fail to learn with initial weights scaled to the mask than without.",
        inconclusive="With initial weights scaled to the mask fewer LeNet5 runs fail to learn, but for some method the "
        "difference may be chance.",
    )


def c06_gain(evidence: Evidence, site: Site) -> Verdict:
    """Without batch norm the sparsity-aware initialisation gives better accuracy for Scratch, SET and RigL.

    Criterion (b), for each method: Ours gains more than 5 points on Original, one-sided t paired by seed, p < 0.05.
    Differs: VGG16 on CIFAR-10; the gain is the mean of the gains at the sparsities that were trained, each of three
    pairs; runs that did not learn count as they end. Of the VGG16 that learns Scratch and RigL.
    """
    parts, old, described = {}, {}, []
    methods = [site.methods(group, "sparse", "dense") for group in site.plain.groups.values()]
    for method, key in methods[0].items():
        cells = {
            name: [f"{group}/{key}/{init}" for init in ("sparse", "dense")] for name, group in site.plain.groups.items()
        }
        pairs = {name: paired_values(evidence, accuracy, *both, at_least=site.many) for name, both in cells.items()}
        shares, n = [1 / len(pairs)] * len(pairs), " + ".join(str(len(ours)) for ours, _ in pairs.values())
        gain = contrast([mean_spread(ours - original) for ours, original in pairs.values()], shares)
        before = contrast([welch_spread(*pair) for pair in pairs.values()], shares)
        parts[method] = spread_above(gain, GAIN, alpha=0.05, n=n, test="paired t, mean gain")
        old[method] = spread_above(before, GAIN, alpha=0.05, n=n, test="Welch t, mean gain")
        for name, (ours, original) in pairs.items():
            described.append(f"{method}, {name} {mean_and_std(original)} to {mean_and_std(ours)}")
    return conclude(
        "C06",
        all_of(parts),
        where=site.plain.phrase,
        design=PAIRS,
        former=Former("one-sided Welch of independent runs", all_of(old).outcome, SHARED),
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
            "Until masks move, the runs of a start are one run, which was counted once for each method.",
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


def _learned(runs: list[Run], limit: float) -> str:
    found = accuracies(runs)
    return mean_and_std(found[found >= limit]) if (found >= limit).any() else "none"


#: Judged on MNIST alone.
CLAIMS = {"C06": c06_collapse}
ON_SITES = {"C07": c07}
