"""How training starts on CIFAR-10: VGG16 without batch norm, from three initialisations (sections 4.1 and C)."""

from __future__ import annotations

import numpy as np

from sparseflow.lab.page.evidence import Evidence
from sparseflow.paper.claims.accuracy import INITS
from sparseflow.paper.claims.bounds import reaches
from sparseflow.paper.claims.intervals import Values
from sparseflow.paper.claims.run_statistics import at_share, norm_at, of_each, onsets
from sparseflow.paper.claims.sites import VGG_HERE, VGGS, vgg_runs
from sparseflow.paper.claims.start import gradient_at_start
from sparseflow.paper.claims.statistics import mann_whitney_alike, mann_whitney_greater
from sparseflow.paper.claims.verdict import Part, Verdict, all_of, conclude
from sparseflow.training.runs import Run

#: Of VGG16's training, what the paper's first 5000 of 128000 steps are.
FIRST = 5000 / 128_000


def c04(evidence: Evidence) -> Verdict:
    """Scratch from the Original initialisation starts in a flat region.

    Criterion: the median onset (the first logged step with a loss below 2.2, little under that of guessing among ten
    classes) of Original is at least ten times that of Ours, and onsets are later, Mann-Whitney p < 0.01; a run that
    never starts counts as its last step.
    Differs: three sparsities of three seeds are pooled, 9 runs against 9, since of 3 against 3 no p-value is below
    0.05; the bound of 500 steps is LeNet5's. Where most of Original never start and ten times the onset of Ours is
    after the last step, the tenfold is open.
    """
    original, ours = (vgg_runs(evidence, f"scratch/{init}") for init in ("dense", "sparse"))
    late, early = onsets(original), onsets(ours)
    parts = {
        "ten times later": _ten_times(late, early, last=float(original[0].config.steps)),
        "later": mann_whitney_greater(late, early, alpha=0.01),
    }
    by_setting = ", ".join(
        f"{name} {_median(evidence, f'{setting}/scratch/dense')} vs {_median(evidence, f'{setting}/scratch/sparse')}"
        for name, setting in VGGS.items()
    )
    return conclude(
        "C04",
        all_of(parts),
        ours=f"median onset, Original vs Ours: {by_setting}; never: {_never(original)} vs {_never(ours)} runs",
        held=f"On CIFAR-10 {VGG_HERE} starts to learn more than ten times later from the usual initial weights than "
        "from weights scaled to the mask.",
        failed=f"On CIFAR-10 {VGG_HERE} does not start to learn ten times later from the usual initial weights than "
        "from weights scaled to the mask.",
        inconclusive=f"On CIFAR-10 the runs of {VGG_HERE} are too few or too short to show that it starts to learn ten "
        "times later from the usual initial weights.",
        numbers={"median onset, Original": float(np.median(late)), "median onset, Ours": float(np.median(early))},
    )


def c05(evidence: Evidence) -> Verdict:
    """A sparsity-aware initialisation removes the vanishing gradient at the start.

    Criterion, for each of Ours and Liu at each of three sparsities: :func:`.gradient_at_start`.
    Differs: its first steps are the share of training that 5000 are of the paper's 128000 for VGG16.
    """
    parts = {name: gradient_at_start(evidence, setting, until=at_share(FIRST)) for name, setting in VGGS.items()}
    norms = {
        f"{name}, {label}": of_each(evidence.runs(f"{setting}/scratch/{init}"), lambda run: norm_at(run, 0))
        for name, setting in VGGS.items()
        for label, init in INITS.items()
    }
    return conclude(
        "C05",
        all_of(parts),
        ours="gradient norm at step 0: " + "; ".join(f"{name} {norm.mean():.3g}" for name, norm in norms.items()),
        held=f"On CIFAR-10 initial weights scaled to the mask give {VGG_HERE} a gradient from the first step, at each "
        "of three sparsities.",
        failed=f"On CIFAR-10 initial weights scaled to the mask do not raise the first gradients of {VGG_HERE} as "
        "claimed at each of three sparsities.",
        inconclusive=f"On CIFAR-10 the runs of {VGG_HERE} do not show at each of three sparsities that initial weights "
        "scaled to the mask raise its first gradients.",
        numbers={f"norm at 0, {name}": float(norm.mean()) for name, norm in norms.items()},
    )


def c22(evidence: Evidence) -> Verdict:
    """RigL makes learning start earlier than Scratch; SET does not.

    Criterion, from the Original initialisation: the onset of RigL is earlier, Mann-Whitney p < 0.05; those of SET and
    Scratch do not differ significantly (two-sided, alpha 0.05).
    Differs: 9 runs each, three sparsities pooled, where the criterion names 20 of LeNet5. Open if neither RigL nor
    Scratch ever starts: then training is too short to tell.
    """
    runs = {method: vgg_runs(evidence, f"{method.lower()}/dense") for method in ("Scratch", "RigL", "SET")}
    found = {method: onsets(members) for method, members in runs.items()}
    last = float(runs["Scratch"][0].config.steps)
    never = min(found["Scratch"].min(), found["RigL"].min()) >= last
    parts = {
        "Scratch later than RigL": Part(
            "inconclusive", f"no run starts within {last:.0f} steps", str(len(runs["RigL"]))
        )
        if never
        else mann_whitney_greater(found["Scratch"], found["RigL"], alpha=0.05),
        "Scratch and SET": mann_whitney_alike(found["Scratch"], found["SET"], alpha=0.05),
    }
    return conclude(
        "C22",
        all_of(parts),
        ours="median onset (runs that never start): "
        + ", ".join(f"{method} {np.median(found[method]):.0f} ({_never(runs[method])})" for method in found),
        held=f"On CIFAR-10 {VGG_HERE}, badly initialised, starts to learn earlier where connections grow at large "
        "gradients, and not where they grow at random.",
        failed=f"On CIFAR-10 it is not so that {VGG_HERE}, badly initialised, starts to learn earlier where "
        "connections grow at large gradients, and neither earlier nor later where they grow at random.",
        inconclusive=f"On CIFAR-10 the runs of {VGG_HERE}, badly initialised, do not show whether it starts to learn "
        "earlier where connections grow at large gradients.",
        numbers={f"median onset, {method}": float(np.median(onset)) for method, onset in found.items()},
    )


def _ten_times(late: Values, early: Values, *, last: float) -> Part:
    """Whether one median is ten times another; open where the first is only known to be after the last step."""
    median, needed = float(np.median(late)), 10 * float(np.median(early))
    n = f"{len(late)} vs {len(early)}"
    if median >= last and needed > last:
        return Part("inconclusive", f"median onset of Original after {last:.0f}, at least {needed:.0f}?", n)
    return reaches(median, at_least=needed, n=n, of="median onset of Original")


def _median(evidence: Evidence, group: str) -> str:
    return f"{np.median(onsets(evidence.runs(group))):.0f}"


def _never(runs: list[Run]) -> str:
    return f"{sum(onset >= run.config.steps for onset, run in zip(onsets(runs), runs, strict=True))} of {len(runs)}"


CLAIMS = {"C04": c04, "C05": c05, "C22": c22}
