"""How well networks end on CIFAR-10 (Table 1's ImageNet half): by initialisation and by method."""

from __future__ import annotations

from sparseflow.lab.page.evidence import Evidence
from sparseflow.paper.claims.accuracy import INITS, METHODS, only_original_collapses
from sparseflow.paper.claims.batch_norm import accuracies_by_start, alike_from_any_start
from sparseflow.paper.claims.contrasts import contrast, spread_above
from sparseflow.paper.claims.intervals import welch_spread
from sparseflow.paper.claims.run_statistics import accuracies, mean_and_std, num_collapsed
from sparseflow.paper.claims.sites import INVERTED, NETWORKS, VGG_HERE, VGGS, vgg_runs
from sparseflow.paper.claims.statistics import equivalent, greater
from sparseflow.paper.claims.verdict import FEWEST, Verdict, all_of, conclude
from sparseflow.paper.matrix.cifar import RESNET

#: Points that the criterion asks VGG16 to gain.
GAIN = 5.0


def c06(evidence: Evidence) -> Verdict:
    """Without batch norm the sparsity-aware initialisation gives better accuracy for Scratch, SET and RigL.

    Criterion (b), for each method: Ours gains more than 5 points on Original, one-sided Welch p < 0.05.
    Differs: the gain is the mean of the gains at three sparsities, each with Welch's errors of three runs a side;
    runs that did not learn count as they end.
    """
    parts, described, numbers = {}, [], dict[str, float]()
    for method, key in METHODS.items():
        pairs = {
            name: [
                accuracies(evidence.runs(f"{setting}/{key}/{init}", at_least=FEWEST)) for init in ("sparse", "dense")
            ]
            for name, setting in VGGS.items()
        }
        gain = contrast([welch_spread(*pair) for pair in pairs.values()], [1 / len(pairs)] * len(pairs))
        n = " + ".join(f"{len(ours)} vs {len(original)}" for ours, original in pairs.values())
        parts[method] = spread_above(gain, GAIN, alpha=0.05, n=n, test="Welch t, mean gain")
        for name, (ours, original) in pairs.items():
            described.append(f"{method}, {name} {mean_and_std(original)} to {mean_and_std(ours)}")
        numbers[f"gain, {method}"] = gain.estimate
    return conclude(
        "C06",
        all_of(parts),
        ours="Original to Ours: " + "; ".join(described),
        held=f"On CIFAR-10 {VGG_HERE} ends more than five points better from initial weights scaled to the mask, "
        "whatever the method.",
        failed=f"On CIFAR-10 {VGG_HERE} does not end five points better from initial weights scaled to the mask for "
        "every method.",
        inconclusive=f"On CIFAR-10 {VGG_HERE} ends better from initial weights scaled to the mask, but that it gains "
        "five points with every method is not shown.",
        numbers=numbers,
    )


def c07(evidence: Evidence) -> Verdict:
    """Without sparsity-aware initialisation some runs fail to train at all.

    Criterion: :func:`.only_original_collapses`, pooled over three methods, three sparsities and three seeds.
    Differs: 27 runs, of the criterion's 60, so that at least 5 must fail.
    """
    groups = {
        label: [run for key in METHODS.values() for run in vgg_runs(evidence, f"{key}/{init}")]
        for label, init in INITS.items()
    }
    lost = {label: num_collapsed(runs, below=evidence.collapse_percent) for label, runs in groups.items()}
    total = {label: len(runs) for label, runs in groups.items()}
    others = [f"{lost[label]} of {total[label]} with {label}" for label in ("Ours", "Liu") if lost[label]]
    return conclude(
        "C07",
        only_original_collapses(lost, total),
        ours=f"did not learn: {', '.join(f'{label} {lost[label]}/{total[label]}' for label in INITS)}",
        held=f"On CIFAR-10 some runs of {VGG_HERE} do not learn in a short training from the usual initial weights; "
        "from weights scaled to the mask all do.",
        failed=f"On CIFAR-10 not only the usual initial weights leave {VGG_HERE} untrained: {' and '.join(others)} did "
        "not learn."
        if others
        else f"On CIFAR-10 hardly any run of {VGG_HERE} fails to learn from the usual initial weights.",
        inconclusive=f"On CIFAR-10 too few runs of {VGG_HERE} fail to learn from the usual initial weights to call it "
        "more than 5 % of them.",
        numbers={f"collapsed, {label}": lost[label] / total[label] for label in INITS},
    )


def c08(evidence: Evidence) -> Verdict:
    """Liu and Ours end equally well.

    Criterion, on VGG16 at three sparsities and ResNet-14, for three methods: accuracies within 0.5 points (TOST,
    p < 0.05).
    Differs: 3 seeds, of the criterion's 10.
    """
    parts, described = {}, []
    for name, setting in NETWORKS.items():
        for method, key in METHODS.items():
            liu, ours = (
                accuracies(evidence.runs(f"{setting}/{key}/{init}", at_least=FEWEST)) for init in ("liu", "sparse")
            )
            parts[f"{name}, {method}"] = equivalent(liu, ours, margin=0.5, alpha=0.05)
            described.append(f"{name}, {method} {mean_and_std(liu)} vs {mean_and_std(ours)}")
    return conclude(
        "C08",
        all_of(parts),
        ours="Liu vs Ours: " + "; ".join(described),
        held="On CIFAR-10 narrow VGG16s and a ResNet-14 end within half a point whether initial weights are scaled by "
        "layer or by unit.",
        failed="On CIFAR-10 scaling initial weights by layer or by unit makes a difference of more than half a point "
        "to a narrow VGG16 or ResNet-14 somewhere.",
        inconclusive="On CIFAR-10 the runs of narrow VGG16s and a ResNet-14 differ too much among themselves to say "
        "that scaling initial weights by layer or by unit ends within half a point.",
    )


def c09(evidence: Evidence) -> Verdict:
    """With batch norm and skip connections the initialisation does not matter for accuracy.

    Criterion, on ResNet-14: :func:`.alike_from_any_start`. Differs: ResNet-14 at 90 %, not ResNet-50 at 80 %.
    """
    values = accuracies_by_start(evidence, RESNET)
    return conclude(
        "C09",
        alike_from_any_start(values),
        ours="; ".join(f"{name} {mean_and_std(found)}" for name, found in values.items()),
        held="On CIFAR-10 a narrow ResNet-14, with batch norm and skip connections, ends alike from any of the three "
        "initialisations.",
        failed="On CIFAR-10 a narrow ResNet-14 ends otherwise from some initialisation than from another, although it "
        "has batch norm and skip connections.",
        inconclusive="On CIFAR-10 the runs of a narrow ResNet-14 differ too much among themselves to say that it ends "
        "within half a point from any initialisation.",
        numbers={name: float(found.mean()) for name, found in values.items()},
    )


def c20(evidence: Evidence) -> Verdict:
    """Reversing RigL's growth criterion costs accuracy.

    Criterion, on ResNet-14 and on VGG16 at 90 %, with Ours and three seeds: RigL-Inverted is worse, one-sided Welch
    p < 0.05.
    """
    parts, described, numbers = {}, [], dict[str, float]()
    for name, setting in INVERTED.items():
        rigl, inverted = (
            accuracies(evidence.runs(f"{setting}/{method}/sparse", at_least=FEWEST))
            for method in ("rigl", "rigl_inverted")
        )
        parts[name] = greater(rigl, inverted, alpha=0.05)
        described.append(f"{name}: RigL {mean_and_std(rigl)}, Inverted {mean_and_std(inverted)}")
        numbers[f"RigL - Inverted, {name}"] = float(rigl.mean() - inverted.mean())
    return conclude(
        "C20",
        all_of(parts),
        ours="; ".join(described),
        held="On CIFAR-10 a narrow VGG16 and a narrow ResNet-14 end worse where connections grow at the smallest "
        "gradients, not the largest.",
        failed="On CIFAR-10 it is not so that both a narrow VGG16 and a narrow ResNet-14 end worse where connections "
        "grow at the smallest gradients.",
        inconclusive="On CIFAR-10 the runs do not show of both a narrow VGG16 and a narrow ResNet-14 that they end "
        "worse where connections grow at the smallest gradients.",
        numbers=numbers,
    )


def c23(evidence: Evidence) -> Verdict:
    """The order is RigL, SET, Scratch.

    Criterion, on VGG16 at three sparsities and on ResNet-14, with Ours: each adjacent gap is above 0, one-sided Welch
    p < 0.05.
    """
    parts, described, numbers = {}, [], dict[str, float]()
    for name, setting in NETWORKS.items():
        found = {
            method: accuracies(evidence.runs(f"{setting}/{key}/sparse", at_least=FEWEST))
            for method, key in METHODS.items()
        }
        parts[f"{name}, RigL above SET"] = greater(found["RigL"], found["SET"], alpha=0.05)
        parts[f"{name}, SET above Scratch"] = greater(found["SET"], found["Scratch"], alpha=0.05)
        described.append(f"{name}: {', '.join(f'{method} {mean_and_std(ends)}' for method, ends in found.items())}")
        numbers |= {f"{name}, {method}": float(ends.mean()) for method, ends in found.items()}
    return conclude(
        "C23",
        all_of(parts),
        ours="; ".join(described),
        held="On CIFAR-10 narrow VGG16s and a ResNet-14 end best where connections move to large gradients, then where "
        "they move at random, then where they stay.",
        failed="On CIFAR-10 narrow VGG16s and a ResNet-14 do not all end best where connections move to large "
        "gradients, then where they move at random, then where they stay.",
        inconclusive="On CIFAR-10 the claimed order of RigL, SET and Scratch is not contradicted on narrow VGG16s and "
        "a ResNet-14, and not shown on all.",
        numbers=numbers,
    )


CLAIMS = {"C06": c06, "C07": c07, "C08": c08, "C09": c09, "C20": c20, "C23": c23}
