"""Claims about the start of training: the flat region of the usual initialisation, and its end (4.1, B.2, C)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

from sparseflow.lab.page.evidence import Evidence
from sparseflow.paper.claims.bounds import reaches
from sparseflow.paper.claims.intervals import Values
from sparseflow.paper.claims.run_statistics import (
    accuracies,
    accuracy,
    at_paper_step,
    log_of,
    mean_and_std,
    mean_log_norm,
    norm_at,
    of_each,
    onset,
    onsets,
)
from sparseflow.paper.claims.sites import INITS, METHODS, Site, pooled
from sparseflow.paper.claims.starts import SHARED, paired_values
from sparseflow.paper.claims.statistics import (
    equivalent,
    greater,
    mann_whitney_alike,
    mann_whitney_greater,
    paired_equivalent,
    paired_greater,
    sign_greater,
    signs_alike,
)
from sparseflow.paper.claims.verdict import FEWEST, FEWEST_RANKED, Former, Part, Verdict, all_of, conclude
from sparseflow.training.runs import Run


class Test(Protocol):
    """A test on two lists of onsets."""

    def __call__(self, a: Values, b: Values, /, *, alpha: float) -> Part:
        """The part of the criterion."""


#: The first part of C22.
_RIGL = "Scratch later than RigL"


def c04(evidence: Evidence, site: Site) -> Verdict:
    """Scratch from the Original initialisation starts in a flat region.

    Criterion: its median onset (the first logged step with a loss below 2.2, little under that of guessing among ten
    classes) is at least ten times that of Ours, and on LeNet5 at least 500 steps; onsets are later, :func:`later`,
    p < 0.01, over 20 seeds. A run that never starts counts as its last step.
    Differs on CIFAR-10: of the narrow VGG16 three sparsities of three seeds are pooled; of the one that learns there
    are three seeds. Where most of Original never start and ten times the onset of Ours is after the
    last step, the tenfold is open.
    """
    original, ours = (pooled(evidence, site, f"scratch/{init}") for init in ("dense", "sparse"))
    medians = float(np.median(onsets(original))), float(np.median(onsets(ours)))
    pairs = _paired_onsets(evidence, site, "scratch/dense", "scratch/sparse")
    n = str(len(pairs[0]))
    parts = {}
    if site.flat_steps is not None:
        flat = at_paper_step(original[0].config, site.flat_steps)
        parts["late"] = reaches(medians[0], at_least=flat, n=n, of="median onset of Original")
    parts["ten times later"] = _ten_times(*medians, last=_last_step(original, site), n=n)
    old = parts | {"later": mann_whitney_greater(onsets(original), onsets(ours), alpha=0.01)}
    parts["later"] = later(*pairs, alpha=0.01)
    return conclude(
        "C04",
        all_of(parts),
        where=site.plain.phrase,
        former=_former_ranks(old, pairs),
        ours="median onset, Original vs Ours: "
        + "; ".join(_start_text(evidence, network, group) for network, group in site.plain.groups.items()),
        held="Training starts more than ten times later from the usual initial weights than from weights scaled to the "
        "mask.",
        failed="From the usual initial weights training does not start as late as the paper says.",
        inconclusive="The runs are too few or too short to show that training starts ten times later from the usual "
        "initial weights.",
    )


def later(late: Values, early: Values, *, alpha: float) -> Part:
    """Whether learning starts later, from the onsets of pairs: sign test; of fewer than five pairs t, of log onsets.

    The onset of a run that never starts is only known to be after its last step, which is enough for a sign. Of three
    signs no p-value is below 0.05.
    """
    if len(late) >= FEWEST_RANKED:
        return sign_greater(late, early, alpha=alpha)
    return paired_greater(log_of(late), log_of(early), alpha=alpha)


def _paired_onsets(evidence: Evidence, site: Site, *kinds: str) -> list[Values]:
    """Onsets of runs from the same starts of each network without batch norm, kind by kind."""
    found = [
        paired_values(evidence, onset, *(f"{network}/{kind}" for kind in kinds), at_least=site.many)
        for network in site.plain.groups.values()
    ]
    return [np.concatenate(of_kind) for of_kind in zip(*found, strict=True)]


def _former_ranks(old: Mapping[str, Part], pairs: Sequence[Values]) -> Former | None:
    """The criterion before onsets were paired; three seeds always were."""
    if len(pairs[0]) < FEWEST_RANKED:
        return None
    return Former("Mann-Whitney of independent runs", all_of(old).outcome, SHARED)


def c05(evidence: Evidence, site: Site) -> Verdict:
    """A sparsity-aware initialisation removes the vanishing gradient at the start.

    Criterion, for each of Ours and Liu, on LeNet5 and the MLP: :func:`gradient_at_start`.
    Differs on CIFAR-10: at each sparsity of VGG16; the first steps are the share of training that 5000 are of the
    paper's 128000.
    """
    groups = site.starting.groups
    parts = {name: gradient_at_start(evidence, group, until=site.first_steps) for name, group in groups.items()}
    norms = {
        f"{name}, {label}": of_each(evidence.runs(f"{group}/scratch/{init}"), lambda run: norm_at(run, 0))
        for name, group in groups.items()
        for label, init in INITS.items()
    }
    return conclude(
        "C05",
        all_of(parts),
        where=site.starting.phrase,
        ours="gradient norm at step 0: " + "; ".join(f"{name} {_norm_text(norm)}" for name, norm in norms.items()),
        held="Initial weights scaled to the mask give the network a gradient from the first step.",
        failed="Initial weights scaled to the mask do not raise the gradient at the start as claimed.",
    )


def gradient_at_start(evidence: Evidence, network: str, *, until: float = 1000) -> Part:
    """Whether Ours and Liu each raise the gradient of Scratch at the start.

    The norm at step 0 is more than 3 times that of Original, and the mean log norm over the first steps is higher;
    one-sided Welch tests, p < 0.01, the first on log norms too.

    Args:
        evidence: The runs.
        network: That the names of its groups begin with.
        until: The last of the first steps, of the paper's.
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

    Criterion, paired by seed: onsets are earlier, sign test, p < 0.05; accuracies of Ours are within 0.5 points (TOST;
    its alpha, which the claim leaves open, is 0.05 too).
    """
    groups = {
        (init, base): evidence.runs(f"lenet5/scratch/{init}{base}", at_least=FEWEST_RANKED)
        for init in ("dense", "sparse")
        for base in ("", "/he")
    }
    glorot, he = (accuracies(groups["sparse", base]) for base in ("", "/he"))
    old = {
        "onset": mann_whitney_greater(onsets(groups["dense", ""]), onsets(groups["dense", "/he"]), alpha=0.05),
        "accuracy": equivalent(glorot, he, margin=0.5, alpha=0.05),
    }
    onset_pair, pair = (
        paired_values(evidence, number, f"lenet5/scratch/{init}", f"lenet5/scratch/{init}/he", at_least=FEWEST_RANKED)
        for number, init in ((onset, "dense"), (accuracy, "sparse"))
    )
    parts = {
        "onset of Original, Glorot vs He": later(*onset_pair, alpha=0.05),
        "accuracy of Ours, Glorot vs He": paired_equivalent(*pair, margin=0.5, alpha=0.05),
    }
    flow = [np.exp(of_each(groups["sparse", base], mean_log_norm)) for base in ("", "/he")]
    return conclude(
        "C14",
        all_of(parts),
        ours=f"median onset of Original: Glorot {_onset_text(groups['dense', ''])}, He "
        f"{_onset_text(groups['dense', '/he'])}; accuracy of Ours: {mean_and_std(glorot)} vs {mean_and_std(he)}, "
        f"gradient norm {flow[0].mean():.3f} vs {flow[1].mean():.3f}; median difference of pairs "
        f"{np.median(pair[0] - pair[1]):.2f}",
        former=Former("Mann-Whitney and TOST of independent runs", all_of(old).outcome, SHARED),
        held="Larger initial weights (He) let the unscaled network start earlier; scaled to the mask, either does.",
        failed="The choice between Glorot and He weights does not act as the paper says.",
    )


def c22(evidence: Evidence, site: Site) -> Verdict:
    """RigL makes learning start earlier than Scratch; SET does not.

    Criterion, for Original with mask updates every 100 steps: the onset of RigL is earlier, :func:`later`, p < 0.05
    over 20 seeds; those of SET and Scratch do not differ significantly (two-sided sign test, alpha 0.05).
    Differs: for Ours the onsets are reported and not judged. Up to the first mask update the runs of a seed are one
    run: where learning starts at once no method can make it start earlier. On CIFAR-10 there are 9 runs each of narrow
    VGG16s, three sparsities pooled, and 3 of the one that learns, without SET; open if neither RigL nor Scratch ever
    starts: then training is too short to tell.
    """
    trained = [site.methods(network, "dense") for network in site.plain.groups.values()]

    def of_all(init: str, *, at_least: int) -> dict[str, list[Run]]:
        return {
            method: pooled(evidence, site, f"{METHODS[method]}/{init}", often=method != "Scratch", at_least=at_least)
            for method in ("Scratch", "RigL", "SET")
            if all(method in found for found in trained)
        }

    runs = of_all("dense", at_least=site.many)
    ours = of_all("sparse", at_least=0)
    scaled = [f"{method} {np.median(onsets(members)):.0f}" for method, members in ours.items() if members]
    pairs = {
        method: _paired_onsets(evidence, site, "scratch/dense", f"{METHODS[method]}/dense{site.often}")
        for method in runs
        if method != "Scratch"
    }
    last = _last_step(runs["Scratch"], site)
    parts = _only_rigl_earlier(pairs, later, signs_alike, last=last)
    old = _only_rigl_earlier(
        {method: [onsets(runs["Scratch"]), onsets(runs[method])] for method in pairs},
        mann_whitney_greater,
        mann_whitney_alike,
        last=last,
    )
    return conclude(
        "C22",
        all_of(parts),
        where=site.plain.phrase,
        ours="median onset: "
        + ", ".join(f"{method} {_onset_text(members)}" for method, members in runs.items())
        + (f"; from Ours: {', '.join(scaled)}" if scaled else ""),
        untested="" if "SET" in pairs else "SET",
        former=_former_ranks(old, pairs["RigL"]),
        held="Growing connections where the gradient is large ends the flat start earlier; growing at random does not.",
        failed="It is not so that growing connections where the gradient is large, and only that, ends the flat start "
        "earlier."
        if parts[_RIGL].outcome == "failed" or "SET" not in pairs
        else f"Growing connections at random changes when the flat start ends: {_delays(*pairs['SET'])}.",
        inconclusive="The runs do not show whether growing connections where the gradient is large ends the flat start "
        "earlier.",
    )


def _only_rigl_earlier(
    onsets_of: Mapping[str, Sequence[Values]], earlier: Test, alike: Test, *, last: float
) -> dict[str, Part]:
    """C22's criterion on the onsets of Scratch and of each other method."""
    scratch, rigl = onsets_of["RigL"]
    if min(scratch.min(), rigl.min()) >= last:
        parts = {_RIGL: Part("inconclusive", f"no run starts within {last:.0f} steps", str(len(rigl)))}
    else:
        parts = {_RIGL: earlier(scratch, rigl, alpha=0.05)}
    if "SET" in onsets_of:
        scratch, moved = onsets_of["SET"]
        parts["Scratch and SET"] = alike(scratch, moved, alpha=0.05)
    return parts


def _delays(still: Values, moved: Values) -> str:
    """How often a start begins to learn later where its connections move, and how often earlier."""
    return f"of {len(moved)} starts {(moved > still).sum()} begin later, and {(moved < still).sum()} earlier"


def _last_step(runs: Sequence[Run], site: Site) -> float:
    """The step after which it is unknown when a run starts; infinite where training is long enough to know."""
    return float(runs[0].config.steps) if site.is_short else math.inf


def _ten_times(late: float, early: float, *, last: float, n: str) -> Part:
    """Whether one median is ten times another; open where the first is only known to be after the last step."""
    if late >= last and 10 * early > last:
        return Part("inconclusive", f"median onset of Original after {last:.0f}, at least {10 * early:.0f}?", n)
    return reaches(late, at_least=10 * early, n=n, of="median onset of Original")


def _start_text(evidence: Evidence, network: str, group: str) -> str:
    """Onsets and first gradient norms of Scratch on one network, from Original and from Ours."""
    runs = [evidence.runs(f"{group}/scratch/{init}") for init in ("dense", "sparse")]
    onset = " vs ".join(map(_onset_text, runs))
    norm = " vs ".join(_norm_text(of_each(members, lambda run: norm_at(run, 0))) for members in runs)
    return f"{network} {onset}, gradient norm at step 0 {norm}"


def _onset_text(runs: Sequence[Run]) -> str:
    found = onsets(runs)
    never = sum(onset >= run.config.steps for onset, run in zip(found, runs, strict=True))
    return f"{np.median(found):.0f}" + (f" ({never} of {len(runs)} never)" if never else "")


def _norm_text(norms: Values) -> str:
    """Three decimals, or three significant digits of norms that have all but vanished."""
    style = ".3f" if norms.mean() >= 0.01 else ".3g"
    return f"{norms.mean():{style}}±{norms.std():{style}} ({len(norms)})"


CLAIMS = {"C14": c14}
ON_SITES = {"C04": c04, "C05": c05, "C22": c22}
