"""The gradient norm over training on CIFAR-10: at the start, at drops of the rate, at mask updates (Figures 2, 3)."""

from __future__ import annotations

import math
from functools import partial

import numpy as np

from sparseflow.lab.page.evidence import Evidence
from sparseflow.paper.claims.batch_norm import gain_at_very_start, rise_of_norm
from sparseflow.paper.claims.flow import rigl_above_scratch, rigl_and_scratch
from sparseflow.paper.claims.intervals import Values, mean_interval
from sparseflow.paper.claims.run_statistics import at_share, mean_delta, of_each
from sparseflow.paper.claims.sites import INVERTED, NETWORKS
from sparseflow.paper.claims.statistics import above, greater
from sparseflow.paper.claims.updates import raised_and_mostly_early
from sparseflow.paper.claims.verdict import FEWEST, Verdict, all_of, conclude
from sparseflow.paper.matrix.cifar import RESNET
from sparseflow.training.optimizer import StepSchedule
from sparseflow.training.runs import Run

#: Steps on either side of a drop of the learning rate: two logged ones. The criterion's 500 of 32000 would hold one.
WINDOW = 40


def c10(evidence: Evidence) -> Verdict:
    """With batch norm the initialisation scaled to the mask raises the gradient norm at the very start only.

    Criterion, on ResNet-14, Scratch: :func:`.gain_at_very_start`. Differs: the first 100 of 32000 steps are 2 of 600
    here, of which step 0 alone is logged; later is from 6 % of training on.
    """
    part, gains = gain_at_very_start(evidence, RESNET)
    start, later = (math.exp(gain) for gain in gains.values())
    return conclude(
        "C10",
        part,
        ours=f"norm of Ours / Original: {start:.2f} at step 0, {later:.2f} over what follows the first 6 % of training",
        held="On CIFAR-10 a narrow ResNet-14 with batch norm has more gradient at the very start from initial weights "
        "scaled to the mask, and soon no more.",
        failed="On CIFAR-10 it is not so that a narrow ResNet-14 with batch norm has more gradient at the very start, "
        "and only there, from initial weights scaled to the mask.",
        inconclusive="On CIFAR-10 the runs of a narrow ResNet-14 do not show that initial weights scaled to the mask "
        "have more gradient at the very start.",
        numbers=gains,
    )


def c11(evidence: Evidence) -> Verdict:
    """The gradient norm rises after each drop of the learning rate.

    Criterion, on ResNet-14, Scratch+: the mean log norm after each of the three drops is above that before, paired over
    seeds, p < 0.05. Differs: 40 steps on either side.
    """
    runs = evidence.runs(f"{RESNET}/scratch/sparse", at_least=FEWEST)
    config = runs[0].config
    drops = StepSchedule.of_paper(peak=config.learning_rate, steps=config.steps).drop_steps
    rises = {drop: of_each(runs, partial(rise_of_norm, drop=drop, window=WINDOW)) for drop in drops}
    factors = {f"step {drop}": float(np.exp(rise.mean())) for drop, rise in rises.items()}
    return conclude(
        "C11",
        all_of({f"drop at step {drop}": above(rise, alpha=0.05) for drop, rise in rises.items()}),
        ours="norm after / before: " + ", ".join(f"{factor:.2f} at {drop}" for drop, factor in factors.items()),
        held="On CIFAR-10 the gradient of a narrow ResNet-14 grows each time the learning rate drops.",
        failed="On CIFAR-10 the gradient of a narrow ResNet-14 does not grow each time the learning rate drops.",
        inconclusive="On CIFAR-10 the runs of a narrow ResNet-14 do not show that the gradient grows each time the "
        "learning rate drops.",
        numbers={f"norm after / before, {drop}": factor for drop, factor in factors.items()},
    )


def c17(evidence: Evidence) -> Verdict:
    """RigL's mask updates increase the gradient norm, mostly early.

    Criterion, on ResNet-14 and on VGG16 at 90 %: :func:`.raised_and_mostly_early`.
    Differs: three seeds; the halves are those of the time in which masks move, the first 78 % of training.
    """
    found = {name: _halves(evidence, f"{setting}/rigl/sparse") for name, setting in INVERTED.items()}
    return conclude(
        "C17",
        all_of({name: raised_and_mostly_early(*halves) for name, halves in found.items()}),
        ours="mean change at an update, first and second half: "
        + "; ".join(f"{name} {mean_interval(first)}, {mean_interval(then)}" for name, (first, then) in found.items()),
        held="On CIFAR-10 the gradients of a narrow VGG16 and a narrow ResNet-14 jump up when RigL moves connections, "
        "more so early.",
        failed="On CIFAR-10 it is not so on both a narrow VGG16 and a narrow ResNet-14 that RigL's early moves raise "
        "the gradient, and more than later ones.",
        inconclusive="On CIFAR-10 three runs each of a narrow VGG16 and a narrow ResNet-14 do not show that RigL's "
        "early moves raise the gradient, and more than later ones.",
        numbers={f"{name}, first half": float(first.mean()) for name, (first, _) in found.items()}
        | {f"{name}, second half": float(then.mean()) for name, (_, then) in found.items()},
    )


def c18(evidence: Evidence) -> Verdict:
    """SET's updates raise the gradient norm much less than RigL's.

    Criterion, on ResNet-14 and on VGG16 at 90 %: the mean change in the first half is below half of RigL's, one-sided
    Welch p < 0.01. The sign of SET's is reported. Differs: as C17.
    """
    found = {
        name: [_halves(evidence, f"{setting}/{method}/sparse")[0] for method in ("rigl", "set")]
        for name, setting in INVERTED.items()
    }
    return conclude(
        "C18",
        all_of({name: greater(rigl / 2, moved, alpha=0.01) for name, (rigl, moved) in found.items()}),
        ours="mean change in the first half: "
        + "; ".join(
            f"{name} SET {mean_interval(moved)}, RigL {mean_interval(rigl)}, SET's "
            f"{'raise' if moved.mean() > 0 else 'lower'} it"
            for name, (rigl, moved) in found.items()
        ),
        held="On CIFAR-10 growing connections at random raises the gradient of a narrow VGG16 and a narrow ResNet-14 "
        "less than half as much as growing where it is large.",
        failed="On CIFAR-10 it is not so on both a narrow VGG16 and a narrow ResNet-14 that growing connections at "
        "random raises the gradient less than half as much as growing where it is large.",
        inconclusive="On CIFAR-10 three runs each of a narrow VGG16 and a narrow ResNet-14 do not show that growing "
        "connections at random raises the gradient less than half as much as growing where it is large.",
        numbers={f"{name}, RigL": float(rigl.mean()) for name, (rigl, _) in found.items()}
        | {f"{name}, SET": float(moved.mean()) for name, (_, moved) in found.items()},
    )


def c19(evidence: Evidence) -> Verdict:
    """With the growth criterion reversed, updates do not improve the gradient norm.

    Criterion, on ResNet-14 and on VGG16 at 90 %: the mean change in the first half is below a fifth of RigL's.
    Differs: by the bound of the difference (one-sided Welch, p < 0.05), as on MNIST; otherwise as C17.
    """
    found = {
        name: [_halves(evidence, f"{setting}/{method}/sparse")[0] for method in ("rigl", "rigl_inverted")]
        for name, setting in INVERTED.items()
    }
    return conclude(
        "C19",
        all_of({name: greater(rigl / 5, inverted, alpha=0.05) for name, (rigl, inverted) in found.items()}),
        ours="mean change in the first half: "
        + "; ".join(
            f"{name} Inverted {mean_interval(inverted)}, RigL {mean_interval(rigl)}"
            for name, (rigl, inverted) in found.items()
        ),
        held="On CIFAR-10 growing connections where the gradient is smallest raises that of a narrow VGG16 and a "
        "narrow ResNet-14 by less than a fifth of what RigL does.",
        failed="On CIFAR-10 it is not so on both a narrow VGG16 and a narrow ResNet-14 that growing connections where "
        "the gradient is smallest raises it by less than a fifth of what RigL does.",
        inconclusive="On CIFAR-10 three runs each of a narrow VGG16 and a narrow ResNet-14 do not show that growing "
        "connections where the gradient is smallest raises it by less than a fifth of what RigL does.",
        numbers={f"{name}, RigL": float(rigl.mean()) for name, (rigl, _) in found.items()}
        | {f"{name}, Inverted": float(inverted.mean()) for name, (_, inverted) in found.items()},
    )


def c21(evidence: Evidence) -> Verdict:
    """RigL has a higher gradient norm during training than Scratch.

    Criterion, on VGG16 at three sparsities and on ResNet-14: :func:`.rigl_above_scratch`, from the share of training on
    that step 1000 is of MNIST's 11719.
    """
    gaps = {}
    for name, setting in NETWORKS.items():
        rigl, scratch = rigl_and_scratch(evidence, setting, "sparse", first=1000)
        gaps[name] = float(rigl.mean() - scratch.mean())
    return conclude(
        "C21",
        all_of({name: rigl_above_scratch(evidence, setting) for name, setting in NETWORKS.items()}),
        ours="norm of RigL / Scratch between updates: "
        + ", ".join(f"{name} {math.exp(gap):.2f}" for name, gap in gaps.items()),
        held="On CIFAR-10 the gradients of narrow VGG16s and a ResNet-14 are larger while RigL trains them than where "
        "connections stay in place.",
        failed="On CIFAR-10 the gradients are not larger under RigL than where connections stay in place on all of "
        "three narrow VGG16s and a ResNet-14.",
        inconclusive="On CIFAR-10 the runs do not show on all of three narrow VGG16s and a ResNet-14 that gradients "
        "are larger under RigL than where connections stay in place.",
        numbers=gaps,
    )


def _halves(evidence: Evidence, group: str) -> tuple[Values, Values]:
    """Mean change of the norm at the mask updates in either half of the time in which masks move."""
    runs = evidence.runs(group, at_least=FEWEST)

    def share(run: Run) -> float:
        return at_share(run.config.update_until / run.config.steps)

    first = of_each(runs, lambda run: mean_delta(run, 0, share(run) / 2))
    return first, of_each(runs, lambda run: mean_delta(run, share(run) / 2, share(run)))


CLAIMS = {"C10": c10, "C11": c11, "C17": c17, "C18": c18, "C19": c19, "C21": c21}
