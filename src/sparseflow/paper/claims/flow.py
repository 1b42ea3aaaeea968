"""Claims about the gradient norm over training, between methods (Figures 2 and 7b)."""

from __future__ import annotations

import math
from functools import partial

from sparseflow.lab.page.evidence import Evidence
from sparseflow.paper.claims.former import former_if_whole
from sparseflow.paper.claims.intervals import Values
from sparseflow.paper.claims.run_statistics import PAPER_STEPS, mean_log_norm, mean_log_norm_before_updates, of_each
from sparseflow.paper.claims.sites import CIFAR, MNIST, OFTEN, Site
from sparseflow.paper.claims.starts import SHARED, all_starts, same_starts
from sparseflow.paper.claims.statistics import different, greater, not_different, paired_greater, paired_not_different
from sparseflow.paper.claims.verdict import FEWEST_RANKED, Former, Part, Verdict, all_of, conclude
from sparseflow.training.runs import Run

#: Trainable parameters of the LeNet5s: Small Dense, and at 95 % sparsity with biases (protocol H).
SMALL_DENSE_PARAMETERS, SPARSE_PARAMETERS = 2399, 2446
#: |log ratio| of norms that the criterion of C10 calls no difference.
NEGLIGIBLE = 0.1


def c12(evidence: Evidence) -> Verdict:
    """The gradient norm of sparse networks during training differs from that of Small Dense networks.

    Criterion, on LeNet5 with Scratch+, 5 seeds at least and all that there are: the time-averaged log norm differs,
    two-sided Welch p < 0.01; which is higher is reported. Failed if the two are shown to differ by less than 0.1, for
    C10's criterion no difference.
    """
    small, scratch = (
        of_each(all_starts(evidence, f"lenet5/{group}", at_least=FEWEST_RANKED), mean_log_norm)
        for group in ("small_dense", "scratch/sparse")
    )
    gap = float(small.mean() - scratch.mean())
    per_parameter = gap - 0.5 * math.log(SMALL_DENSE_PARAMETERS / SPARSE_PARAMETERS)
    return conclude(
        "C12",
        different(small, scratch, alpha=0.01, negligible=NEGLIGIBLE),
        ours=f"norm of Small Dense / Scratch+: {math.exp(gap):.2f}, per parameter {math.exp(per_parameter):.2f}",
        held="A small dense network and a sparse one of its size differ in their gradients: those of the dense one are "
        f"{'larger' if gap > 0 else 'smaller'}.",
        failed="A small dense network and a sparse one of its size have gradients of the same size.",
        inconclusive="The gradients of small dense and of sparse networks cannot be told apart with so few runs.",
    )


def c15(evidence: Evidence) -> Verdict:
    """RigL adds nothing to the gradient flow that Liu's initialisation gives, while it adds to that of Ours.

    Criterion, on LeNet5, mean log norm over steps 500 to 6000, RigL minus Scratch, paired by seed where all learn: the
    95 % interval includes 0 for Liu, and lies above 0 for Ours; and, since an interval that includes 0 is no proof of
    equality, that of Ours is above that of Liu, one-sided t, p < 0.05. All off-cycle and right before mask updates.
    Updates every 100 steps are judged, every 500 reported.
    """
    labels = {"Liu": "liu", "Ours": "sparse"}
    cells = [MNIST.cell("lenet5", method, init) for init in labels.values() for method in ("rigl", "scratch")]
    runs = same_starts(evidence, *cells, at_least=FEWEST_RANKED, learned_above=evidence.collapse_percent)
    parts, intervals, old = dict[str, Part](), dict[str, Part](), dict[str, Part]()
    gaps: dict[str, float] = {}
    for moment, before_updates in (("off-cycle", False), ("before updates", True)):
        norm = partial(_log_norm, first=500, last=6000, before_updates=before_updates)
        rigl_liu, liu, rigl_ours, ours = (
            of_each(members, partial(norm, period=runs[0][0].config.update_every)) for members in runs
        )
        intervals |= {
            f"Liu, {moment}": paired_not_different(rigl_liu, liu, alpha=0.05),
            # One-sided at 0.025: the two-sided 95 % interval lies above 0.
            f"Ours, {moment}": paired_greater(rigl_ours, ours, alpha=0.025),
        }
        parts[f"Ours above Liu, {moment}"] = paired_greater(rigl_ours - ours, rigl_liu - liu, alpha=0.05)
        gaps |= {f"Liu, {moment}": _gap((rigl_liu, liu)), f"Ours, {moment}": _gap((rigl_ours, ours))}
        for label, init in labels.items():
            if evidence.groups.get(f"lenet5/rigl/{init}"):
                before = rigl_and_scratch(
                    evidence, CIFAR, "lenet5", init, first=500, last=6000, before_updates=before_updates
                )
                gaps[f"{label}, {moment}, every 500"] = _gap(before)
                former = partial(not_different, alpha=0.05) if init == "liu" else partial(greater, alpha=0.025)
                old[f"{label}, {moment}"] = former(*before)
    return conclude(
        "C15",
        all_of(intervals | parts),
        ours="log norm, RigL - Scratch: " + ", ".join(f"{name} {gap:+.3f}" for name, gap in gaps.items()),
        former=former_if_whole(
            "the two intervals alone, of independent runs, with updates every 500 steps",
            old,
            f"That one difference is significant and another is not does not show that they differ. {SHARED} {OFTEN}",
            of=intervals,
        ),
        held="RigL raises the gradients of networks scaled by unit, and not of those scaled by layer.",
        failed="It is not so that RigL raises the gradients of networks scaled by unit, and only of these.",
        inconclusive="That RigL raises the gradients of networks scaled by unit more than of those scaled by layer is "
        "not shown.",
    )


def c21(evidence: Evidence, site: Site) -> Verdict:
    """RigL has a higher gradient norm during training than Scratch. Criterion: :func:`rigl_above_scratch`.

    LeNet5's masks move every 100 steps; the moments right before updates are reported.
    """
    gaps, old = {}, {}
    for network, group in site.flowing.groups.items():
        for moment, before in (("off-cycle", False), ("before updates", True)):
            flows = rigl_and_scratch(evidence, site, group, "sparse", first=1000, before_updates=before)
            gaps[f"{network}, {moment}"] = _gap(flows)
        if evidence.groups.get(f"{group}/rigl/sparse"):
            every500 = rigl_and_scratch(evidence, CIFAR, group, "sparse", first=1000)
            old[network] = greater(*every500, alpha=0.01)
    return conclude(
        "C21",
        all_of({network: rigl_above_scratch(evidence, site, group) for network, group in site.flowing.groups.items()}),
        where=site.flowing.phrase,
        ours="norm of RigL / Scratch: " + "; ".join(f"{name} {math.exp(gap):.2f}" for name, gap in gaps.items()),
        former=Former(
            "one-sided Welch of independent runs; LeNet5's masks move every 500 steps",
            all_of(old).outcome,
            f"{SHARED} {OFTEN}" if site.often else SHARED,
        )
        if old
        else None,
        held="While RigL trains, the gradients are larger than those of a network whose connections stay in place.",
        failed="Between mask updates RigL's gradients are no larger than those of a network whose connections stay.",
    )


def rigl_above_scratch(evidence: Evidence, site: Site, network: str) -> Part:
    """Whether the log norm of RigL+, averaged off-cycle from step 1000 on, is above Scratch+'s: paired t, p < 0.01."""
    return paired_greater(*rigl_and_scratch(evidence, site, network, "sparse", first=1000), alpha=0.01)


def rigl_and_scratch(
    evidence: Evidence,
    site: Site,
    network: str,
    init: str,
    *,
    first: float,
    last: float = PAPER_STEPS,
    before_updates: bool = False,
) -> tuple[Values, Values]:
    """Mean log norms of the runs of RigL, and of Scratch from the same starts at the same steps.

    Args:
        evidence: The runs.
        site: How often the network's masks move.
        network: What the names of its groups begin with.
        init: dense, liu or sparse.
        first: First of the paper's steps.
        last: Last of them.
        before_updates: Right before RigL's mask updates instead of off-cycle.
    """
    cells = [site.cell(network, method, init) for method in ("rigl", "scratch")]
    rigl, scratch = same_starts(evidence, *cells)
    period = rigl[0].config.update_every
    measured = partial(_log_norm, first=first, last=last, before_updates=before_updates, period=period)
    return of_each(rigl, measured), of_each(scratch, measured)


def _log_norm(run: Run, *, first: float, last: float, before_updates: bool, period: int) -> float:
    """Mean log norm right before mask updates of a period, or between them."""
    if before_updates:
        return mean_log_norm_before_updates(run, first, last, update_every=period)
    return mean_log_norm(run, first, last, off_cycle=period)


def _gap(pair: tuple[Values, Values]) -> float:
    return float(pair[0].mean() - pair[1].mean())


CLAIMS = {"C12": c12, "C15": c15}
ON_SITES = {"C21": c21}
