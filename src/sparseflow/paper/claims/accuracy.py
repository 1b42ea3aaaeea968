"""Claims about final accuracy (Table 1): by initialisation, by method, and beside a small dense network."""

from __future__ import annotations

from itertools import pairwise, product

import numpy as np

from sparseflow.lab.page.evidence import Evidence
from sparseflow.paper.claims.former import former_if_whole, formerly
from sparseflow.paper.claims.intervals import Values
from sparseflow.paper.claims.run_statistics import (
    accuracies,
    accuracies_of,
    accuracy,
    labelled_means,
    mean_and_std,
    mean_log_norm,
    of_each,
)
from sparseflow.paper.claims.sites import INITS, METHODS, MNIST, OFTEN, Site
from sparseflow.paper.claims.starts import SHARED, paired_values
from sparseflow.paper.claims.statistics import (
    equivalent,
    greater,
    mann_whitney_greater,
    paired_equivalent,
    paired_greater,
)
from sparseflow.paper.claims.verdict import FEWEST, FEWEST_RANKED, Former, Part, Verdict, all_of, conclude, undecided
from sparseflow.training.runs import Run

#: How sentences describe what a method does with connections.
_DOES = {
    "RigL": "moving connections to where the gradient is large",
    "SET": "moving them at random",
    "Scratch": "leaving them in place",
}


def _reason(site: Site) -> str:
    """Why methods and initialisations are compared by pairs now, and at which update period."""
    return f"{SHARED} {OFTEN}" if site.often else SHARED


def c08(evidence: Evidence, site: Site) -> Verdict:
    """Liu and Ours end equally well.

    Criterion, on every network, for three methods, over 10 seeds: accuracies within 0.5 points (TOST paired by seed,
    p < 0.05) of the starts with which both learn; how many collapse is C07's. LeNet5's masks move every 100 steps.
    Differs on CIFAR-10: 3 seeds, and of networks that learn the methods that were trained from both.
    """
    below = evidence.collapse_percent
    parts, old, described = {}, {}, []
    for network, group in site.networks.groups.items():
        for method, key in site.methods(group, "liu", "sparse").items():
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
        former=former_if_whole(
            "TOST of independent runs, those that did not learn included; LeNet5's masks move every 500 steps",
            old,
            f"Means over runs that did not learn say nothing of where the others end. {_reason(site)}",
            of=parts,
        ),
        held="Whether initial weights are scaled by layer or by unit makes no difference of half a point in the end.",
        failed="Scaling initial weights by layer or by unit makes a difference of more than half a point somewhere.",
        inconclusive="The runs differ too much among themselves to say that the two scales end within half a point.",
    )


def c13(evidence: Evidence, site: Site) -> Verdict:
    """Small Dense beats static sparse training of its size on ResNet-50, even with good initial weights.

    Criterion, on a ResNet: Small Dense ends more than half a point above Scratch, one-sided Welch p < 0.05, for every
    initialisation; the widths differ, so no start is shared. The same comparison on LeNet5 and the MLP is reported
    without a verdict, as the criterion asks.
    """
    for network in site.residual.groups.values():
        small = accuracies_of(evidence, f"{network}/small_dense")
        by_init = {name: accuracies_of(evidence, f"{network}/scratch/{init}") for name, init in INITS.items()}
        return conclude(
            "C13",
            all_of({name: greater(small, found, margin=0.5, alpha=0.05) for name, found in by_init.items()}),
            where=site.residual.phrase,
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
    masks move every 100 steps. Differs: of VGG16 on CIFAR-10 that learns, which SET does not train, the two others.
    """
    parts, old, described = {}, {}, []
    for network, group in site.networks.groups.items():
        methods = site.methods(group, "sparse")
        cells = [site.cell(group, key, "sparse") for key in methods.values()]
        found = dict(zip(methods, paired_values(evidence, accuracy, *cells), strict=True))
        for better, worse in pairwise(method for method in site.order if method in methods):
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
        former=former_if_whole(
            "one-sided Welch of independent runs; LeNet5's masks move every 500 steps",
            old,
            _reason(site),
            of=parts,
        ),
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


#: Judged on MNIST alone.
CLAIMS = {"C24": c24}
ON_SITES = {"C08": c08, "C20": c20, "C23": c23}
