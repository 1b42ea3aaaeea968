"""How training starts: the flat region of the usual initialisation, and who leaves it when (sections 4.1, B.2, C)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from sparseflow.lab.page.evidence import Evidence
from sparseflow.paper.claims.bounds import reaches
from sparseflow.paper.claims.run_statistics import (
    accuracies,
    at_paper_step,
    log_of,
    mean_and_std,
    mean_log_norm,
    norm_at,
    of_each,
    onsets,
)
from sparseflow.paper.claims.statistics import equivalent, greater, mann_whitney_alike, mann_whitney_greater
from sparseflow.paper.claims.verdict import FEWEST, FEWEST_RANKED, Part, Verdict, all_of, conclude
from sparseflow.training.runs import Run

#: The criterion's, where learning may never start.
SEEDS = 20


def c04(evidence: Evidence) -> Verdict:
    """Scratch from the Original initialisation starts in a flat region.

    Criterion: its median onset is at least 500 steps, and ten times that of Ours; onsets are later, Mann-Whitney
    p < 0.01. A run that never starts counts as its last step.
    """
    original, ours = (evidence.runs(f"lenet5/scratch/{init}", at_least=SEEDS) for init in ("dense", "sparse"))
    late, early = onsets(original), onsets(ours)
    medians = float(np.median(late)), float(np.median(early))
    flat = at_paper_step(original[0].config, 500)
    n = f"{len(late)} vs {len(early)}"
    parts = {
        "late": reaches(medians[0], at_least=flat, n=n, of="median onset of Original"),
        "ten times later": reaches(medians[0], at_least=10 * medians[1], n=n, of="median onset of Original"),
        "later": mann_whitney_greater(late, early, alpha=0.01),
    }
    norms = [of_each(runs, lambda run: norm_at(run, 0)) for runs in (original, ours)]
    return conclude(
        "C04",
        all_of(parts),
        ours=f"median onset: Original {_onset_text(original)}, Ours {_onset_text(ours)}; gradient norm at step 0: "
        f"{mean_and_std(norms[0], digits=3)} vs {mean_and_std(norms[1], digits=3)}",
        held="From the usual initial weights a masked LeNet5 learns nothing for hundreds of steps; from weights scaled "
        "to the mask it learns at once.",
        failed="From the usual initial weights a masked LeNet5 does not start as late as the paper says.",
        numbers={"median onset, Original": medians[0], "median onset, Ours": medians[1]},
    )


def c05(evidence: Evidence) -> Verdict:
    """A sparsity-aware initialisation removes the vanishing gradient at the start.

    Criterion, for each of Ours and Liu, on LeNet5 and the MLP: :func:`gradient_at_start`.
    """
    parts = {name: gradient_at_start(evidence, name) for name in ("lenet5", "mlp")}
    norms = {
        f"{network}, {init}": of_each(evidence.runs(f"{network}/scratch/{init}"), lambda run: norm_at(run, 0))
        for network in parts
        for init in ("dense", "liu", "sparse")
    }
    return conclude(
        "C05",
        all_of(parts),
        ours="gradient norm at step 0: "
        + "; ".join(f"{name} {mean_and_std(norm, digits=3)}" for name, norm in norms.items()),
        held="Initial weights scaled to the mask give the network a gradient from the first step.",
        failed="Initial weights scaled to the mask do not raise the gradient at the start as claimed.",
        numbers={f"norm at 0, {name}": float(norm.mean()) for name, norm in norms.items()},
    )


def gradient_at_start(evidence: Evidence, network: str, *, until: float = 1000) -> Part:
    """Whether Ours and Liu each raise the gradient of Scratch at the start.

    The norm at step 0 is more than 3 times that of Original, and the mean log norm over the first steps is higher;
    one-sided Welch tests, p < 0.01, the first on log norms too.

    Args:
        evidence: The runs.
        network: That the names of its groups begin with.
        until: The last of the first steps, of the paper's.

    Raises:
        NotEnoughRunsError: if there are fewer than three runs of an initialisation.
    """
    original = evidence.runs(f"{network}/scratch/dense", at_least=FEWEST)
    last = at_paper_step(original[0].config, until)
    parts = {}
    for label, init in (("Ours", "sparse"), ("Liu", "liu")):
        aware = evidence.runs(f"{network}/scratch/{init}", at_least=FEWEST)
        first = [log_of(of_each(runs, lambda run: norm_at(run, 0))) for runs in (aware, original)]
        early = [of_each(runs, lambda run: mean_log_norm(run, 0, until)) for runs in (aware, original)]
        parts[f"{label}, log norm at 0"] = greater(*first, margin=math.log(3), alpha=0.01)
        parts[f"{label}, log norm to step {last}"] = greater(*early, alpha=0.01)
    return all_of(parts)


def c14(evidence: Evidence) -> Verdict:
    """With the He base Original starts earlier on LeNet5; Ours ends alike with both bases.

    Criterion: onsets are earlier, Mann-Whitney p < 0.05; accuracies of Ours are within 0.5 points (TOST; its alpha,
    which the claim leaves open, is 0.05 too).
    """
    groups = {
        (init, base): evidence.runs(f"lenet5/scratch/{init}{base}", at_least=FEWEST_RANKED)
        for init in ("dense", "sparse")
        for base in ("", "/he")
    }
    parts = {
        "onset of Original, Glorot vs He": mann_whitney_greater(
            onsets(groups["dense", ""]), onsets(groups["dense", "/he"]), alpha=0.05
        ),
        "accuracy of Ours, Glorot vs He": equivalent(
            accuracies(groups["sparse", ""]), accuracies(groups["sparse", "/he"]), margin=0.5, alpha=0.05
        ),
    }
    glorot, he = (accuracies(groups["sparse", base]) for base in ("", "/he"))
    flow = [np.exp(of_each(groups["sparse", base], mean_log_norm)) for base in ("", "/he")]
    return conclude(
        "C14",
        all_of(parts),
        ours=f"median onset of Original: Glorot {_onset_text(groups['dense', ''])}, He "
        f"{_onset_text(groups['dense', '/he'])}; accuracy of Ours: {mean_and_std(glorot)} vs {mean_and_std(he)}, "
        f"gradient norm {flow[0].mean():.3f} vs {flow[1].mean():.3f}",
        held="Larger initial weights (He) let the unscaled network start earlier; scaled to the mask, either does.",
        failed="The choice between Glorot and He weights does not act as the paper says.",
        numbers={"accuracy, Ours": float(glorot.mean()), "accuracy, Ours, He": float(he.mean())},
    )


def c22(evidence: Evidence) -> Verdict:
    """RigL makes learning start earlier than Scratch; SET does not.

    Criterion, for Original with mask updates every 100 steps: the onset of RigL is earlier, Mann-Whitney p < 0.05 over
    20 seeds; those of SET and Scratch do not differ significantly (two-sided, alpha 0.05).
    Differs: for Ours the onsets are reported and not judged. Up to the first mask update the runs of a seed are one
    run: where learning starts at once no method can make it start earlier.
    """
    names = {"Scratch": "lenet5/scratch/dense", "RigL": "lenet5/rigl/dense/f100", "SET": "lenet5/set/dense/f100"}
    runs = {method: evidence.runs(group, at_least=SEEDS) for method, group in names.items()}
    found = {method: onsets(members) for method, members in runs.items()}
    parts = {
        "Scratch later than RigL": mann_whitney_greater(found["Scratch"], found["RigL"], alpha=0.05),
        "Scratch and SET": mann_whitney_alike(found["Scratch"], found["SET"], alpha=0.05),
    }
    scaled = {
        method: onsets(evidence.groups.get(group.replace("dense", "sparse"), ())) for method, group in names.items()
    }
    return conclude(
        "C22",
        all_of(parts),
        ours="median onset: "
        + ", ".join(f"{method} {_onset_text(members)}" for method, members in runs.items())
        + "; from Ours: "
        + ", ".join(f"{method} {np.median(onset):.0f}" for method, onset in scaled.items() if len(onset)),
        held="Growing connections where the gradient is large ends the flat start earlier; growing at random does not.",
        failed="It is not so that growing connections where the gradient is large, and only that, ends the flat start "
        "earlier.",
        numbers={f"median onset, {method}": float(np.median(onset)) for method, onset in found.items()},
    )


def _onset_text(runs: Sequence[Run]) -> str:
    found = onsets(runs)
    never = sum(onset >= run.config.steps for onset, run in zip(found, runs, strict=True))
    return f"{np.median(found):.0f}" + (f" ({never} of {len(runs)} never)" if never else "")


CLAIMS = {"C04": c04, "C05": c05, "C14": c14, "C22": c22}
