"""Claims about the gradient norm at mask updates (section 4.2, Figure 3); on LeNet5 with updates every 100 steps."""

from __future__ import annotations

from collections.abc import Sequence

from sparseflow.lab.page.evidence import Evidence
from sparseflow.paper.claims.intervals import Values, mean_interval
from sparseflow.paper.claims.run_statistics import PAPER_STEPS, at_share, mean_delta, of_each
from sparseflow.paper.claims.sites import MNIST, Site
from sparseflow.paper.claims.starts import SHARED, same_starts
from sparseflow.paper.claims.statistics import above, greater, paired_greater
from sparseflow.paper.claims.verdict import Former, Part, Verdict, all_of, conclude
from sparseflow.training.runs import Run

RIGL = "lenet5/rigl/sparse/f100"
SET = "lenet5/set/sparse/f100"


def c17(evidence: Evidence, site: Site) -> Verdict:
    """RigL's mask updates increase the gradient norm, mostly early.

    Criterion, on LeNet5 over 5 seeds: :func:`raised_and_mostly_early`.
    Differs on CIFAR-10: ResNet-14 and VGG16 at 90 %, three seeds; the halves are those of the time in which masks move,
    the first 78 % of training.
    """
    found = {
        network: halves(evidence, f"{group}/rigl/sparse{site.often}", site)
        for network, group in site.moving.groups.items()
    }
    return conclude(
        "C17",
        all_of({network: raised_and_mostly_early(*both) for network, both in found.items()}),
        where=site.moving.phrase,
        ours="mean change at an update, first and second half: "
        + "; ".join(f"{name} {mean_interval(first)}, {mean_interval(then)}" for name, (first, then) in found.items()),
        held="When RigL moves connections the gradient jumps up, more so in the first half of training.",
        failed="RigL's moves do not raise the gradient in the first half of training, or no more than in the second.",
    )


def raised_and_mostly_early(first: Values, second: Values) -> Part:
    """Whether mask updates raise the gradient norm in the first half of training, and more than in the second.

    One-sided t tests over seeds, p < 0.01, the second one paired.

    Args:
        first: Mean changes of runs in the first half.
        second: Of the same runs in the second half.
    """
    return all_of(
        {"first half": above(first, alpha=0.01), "above second half": paired_greater(first, second, alpha=0.01)}
    )


def c18(evidence: Evidence, site: Site) -> Verdict:
    """SET's updates raise the gradient norm much less than RigL's.

    Criterion, on LeNet5: the mean change over the first half of training is below half of RigL's, one-sided t paired by
    seed, p < 0.01. The sign of SET's is reported. Differs on CIFAR-10: as C17.
    """
    found = _beside_rigl(evidence, "set", site)
    return conclude(
        "C18",
        all_of({name: paired_greater(rigl / 2, moved, alpha=0.01) for name, (rigl, moved) in found.items()}),
        where=site.moving.phrase,
        former=Former(
            "one-sided Welch of independent runs",
            all_of({name: greater(rigl / 2, moved, alpha=0.01) for name, (rigl, moved) in found.items()}).outcome,
            SHARED,
        ),
        ours="mean change in the first half: "
        + "; ".join(
            f"{name} SET {mean_interval(moved)}, RigL {mean_interval(rigl)}, SET's "
            f"{'raise' if moved.mean() > 0 else 'lower'} it"
            for name, (rigl, moved) in found.items()
        ),
        held="Growing connections at random raises the gradient less than half as much as growing where it is large.",
        failed="Growing connections at random raises the gradient at least half as much as growing where it is large.",
    )


def c19(evidence: Evidence, site: Site) -> Verdict:
    """With the growth criterion reversed, updates do not improve the gradient norm.

    Criterion, on LeNet5: the upper 95 % bound of the mean change over the first half is below a fifth of RigL's.
    Differs: the bound is that of the difference (one-sided t paired by seed, p < 0.05), since RigL's mean is uncertain
    too; on CIFAR-10 also as C17.
    """
    found = _beside_rigl(evidence, "rigl_inverted", site)
    return conclude(
        "C19",
        all_of({name: paired_greater(rigl / 5, inverted, alpha=0.05) for name, (rigl, inverted) in found.items()}),
        where=site.moving.phrase,
        former=Former(
            "one-sided Welch of independent runs",
            all_of({name: greater(rigl / 5, inverted, alpha=0.05) for name, (rigl, inverted) in found.items()}).outcome,
            SHARED,
        ),
        ours="mean change in the first half: "
        + "; ".join(
            f"{name} Inverted {mean_interval(inverted)}, RigL {mean_interval(rigl)}"
            for name, (rigl, inverted) in found.items()
        ),
        held="Growing connections where the gradient is smallest does not raise it.",
        failed="Growing connections where the gradient is smallest raises it by a fifth of what RigL does, or more.",
    )


def halves(evidence: Evidence, group: str, site: Site = MNIST) -> tuple[Values, Values]:
    """Mean changes of the gradient norm at the mask updates of each run, in the first and in the second half."""
    return halves_of(evidence.runs(group, at_least=site.few), site)


def halves_of(runs: Sequence[Run], site: Site) -> tuple[Values, Values]:
    """Mean changes of the gradient norm at the mask updates of each run, in both halves of the site's time."""

    def end(run: Run) -> float:
        return at_share(run.config.update_until / run.config.steps) if site.halves_of_updates else PAPER_STEPS

    first = of_each(runs, lambda run: mean_delta(run, 0, end(run) / 2))
    return first, of_each(runs, lambda run: mean_delta(run, end(run) / 2, end(run)))


def _beside_rigl(evidence: Evidence, method: str, site: Site) -> dict[str, list[Values]]:
    """By network: mean changes in the first half, of RigL and of another method."""
    return {
        network: [
            halves_of(runs, site)[0]
            for runs in same_starts(
                evidence,
                *(f"{group}/{one}/sparse{site.often}" for one in ("rigl", method)),
                at_least=site.few,
            )
        ]
        for network, group in site.moving.groups.items()
    }


ON_SITES = {"C17": c17, "C18": c18, "C19": c19}
