"""Claims about the signal of masked networks at initialisation (section 3.1, Figure 1c)."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

from sparseflow.lab.page.evidence import Evidence
from sparseflow.paper.claims.bounds import interval_above, interval_within, reaches
from sparseflow.paper.claims.intervals import Interval, Values, bootstrap, ratio_interval, slope_interval
from sparseflow.paper.claims.run_statistics import log_of
from sparseflow.paper.claims.statistics import greater
from sparseflow.paper.claims.verdict import FEWEST_RANKED, Former, Part, Verdict, all_of, conclude, need

#: Networks per sparsity that the criterion asks for.
NETWORKS = 20
#: The paper's name of a base initialisation -> ours.
BASES = {"Glorot": "xavier_uniform", "He": "kaiming_normal"}
#: Prunable layers of LeNet5.
LAYERS = 5
#: Sparsities up to which the signal is claimed to be preserved.
SPARSITIES = (0.5, 0.8, 0.9, 0.95)
LOG_2 = math.log(2)


def c01(evidence: Evidence) -> Verdict:
    """Masked dense weights let the signal vanish as (1 - S)^(L/2).

    Criterion: the slope of log std over log(1 - S) is within 15 % of L/2 and its 95 % interval excludes 0; at S = 0.95
    less than 1 % of the std is left (Welch on log std, p < 0.01). For the Glorot and the He base.
    """
    table = evidence.table("signal")
    parts: dict[str, Part] = {}
    described = []
    sparsities = (0.0, *SPARSITIES, 0.98)
    for name, base in BASES.items():
        levels = [log_of(_levels(table, "dense", base, sparsity)) for sparsity in sparsities]
        counts = [len(found) for found in levels]
        density = np.repeat(np.log1p(-np.array(sparsities)), counts)
        slope = slope_interval(density, np.concatenate(levels))
        law = LAYERS / 2
        parts |= {
            f"{name}, slope": reaches(slope.estimate, at_least=0.85 * law, at_most=1.15 * law, n=slope.n, of="slope"),
            f"{name}, slope not 0": interval_above(slope, 0.0),
            f"{name}, below 1 %": greater(levels[0], levels[-2], margin=math.log(100), alpha=0.01),
        }
        left = float(np.exp(levels[-2].mean() - levels[0].mean()))
        described.append(f"{name}: slope {slope.estimate:.2f}, {left:.1e} left at 0.95")
    return conclude(
        "C01",
        all_of(parts),
        ours="; ".join(described),
        held="From usual initial weights the less signal gets through the more are masked, as theory predicts.",
        failed="Masking usual initial weights does not weaken the signal as theory predicts.",
        inconclusive="Masking usual initial weights weakens the signal; by how much is too uncertain.",
    )


def c02(evidence: Evidence) -> Verdict:
    """The per-unit initialisation keeps the output std constant over sparsity.

    Criterion: up to S = 0.95 on uniform masks the 95 % interval of std(S) / std(0) lies within 0.5 and 2. Means over
    networks, bootstrapped, for both bases: single networks are too different for logarithms. The skewed masks are
    reported, as the boundary of the claim, and not judged.
    """
    table = evidence.table("signal")
    kept = {(name, sparsity): _kept(table, base, sparsity) for name, base in BASES.items() for sparsity in SPARSITIES}
    skewed = _kept(table, BASES["He"], SPARSITIES[-1], mask="skewed").estimate
    return conclude(
        "C02",
        all_of({f"{name}, {s:g}": interval_within(ratio, 0.5, 2.0) for (name, s), ratio in kept.items()}),
        ours=f"std(0.95) / std(0): {', '.join(f'{name} {kept[name, 0.95]}' for name in BASES)}; skewed masks, He: "
        f"{skewed:.2g}",
        held="Initial weights scaled to each unit's own number of inputs carry the signal up to 95 % of zeros.",
        failed="Initial weights scaled to each unit's own number of inputs do not keep the signal constant.",
        inconclusive="The networks differ too much to show that the signal stays within a factor 2 of its level.",
    )


def c03(evidence: Evidence) -> Verdict:
    """Scaling by layer (Liu et al.) preserves the signal as scaling by unit does.

    Criterion: up to S = 0.95 on uniform masks the 90 % interval of log(std Liu / std Ours) lies within log 2 of 0. Both
    are drawn for the same masks, which are resampled together; both bases.
    """
    table = evidence.table("signal")
    ratios = {}
    for name, base in BASES.items():
        for sparsity in SPARSITIES:
            liu, ours = (_levels(table, scheme, base, sparsity) for scheme in ("liu", "sparse"))
            ratios[name, sparsity] = bootstrap(_log_ratio, liu, ours, paired=True, level=0.9)
    return conclude(
        "C03",
        all_of({f"{name}, {s:g}": interval_within(ratio, -LOG_2, LOG_2) for (name, s), ratio in ratios.items()}),
        ours="log(Liu / Ours) at 0.95: " + ", ".join(f"{name} {ratios[name, 0.95]}" for name in BASES),
        held="On evenly spread masks one scale for the whole layer carries the signal as well as one for each unit.",
        failed="One scale for the whole layer does not carry the signal as one for each unit does.",
        inconclusive="The two scales differ by too uncertain a factor to say that it is less than 2.",
    )


def c16(evidence: Evidence) -> Verdict:
    """Masks found by pruning are even enough for a scale by layer.

    Criterion: on them the logit std of Liu and of Ours are within a factor 3 of each other. Judged by the 95 % interval
    of the geometric mean over pruning runs of their ratio, on training images, for both networks and bases. How uneven
    the masks are, and the ratio on noise, are reported.
    """
    table = evidence.table("pruned_signal")
    ratios: dict[str, Interval] = {}
    noise: dict[str, Interval] = {}
    means: dict[str, Interval] = {}
    for network in ("lenet5", "mlp"):
        for name, base in BASES.items():
            rows = table[(table["network"] == network) & (table["masks"] == "pruned") & (table["base"] == base)]
            for inputs, found in (("images", ratios), ("noise", noise)):
                shown = rows[rows["inputs"] == inputs]
                pairs = shown.pivot(index="seed", columns="scheme", values="logit_std")
                need(pairs, FEWEST_RANKED, of=f"pruned masks of {network} on {inputs}", make="pruned_signal")
                liu, ours = (pairs[scheme].to_numpy(dtype=np.float64) for scheme in ("liu", "sparse"))
                found[f"{network}, {name}"] = ratio_interval(liu, ours)
            means[f"{network}, {name}"] = bootstrap(_ratio_of_means, liu, ours, paired=True)
    uniformity = evidence.table("mask_uniformity")
    spread = uniformity.groupby(["network", "masks"])[["fan_in_cv", "dead_units"]].mean()
    described = [
        f"{network}, {masks}: fan-in CV {row['fan_in_cv']:.2f}, {row['dead_units']:.1f} dead units a layer"
        for (network, masks), row in zip(spread.index, spread.to_dict("records"), strict=True)
    ]
    return conclude(
        "C16",
        all_of({name: interval_within(ratio, 1 / 3, 3.0) for name, ratio in ratios.items()}),
        design="pairs of the two scales on the same masks, over pruning runs",
        former=Former(
            "95 % interval of the ratio of mean stds within a factor 3, on noise",
            all_of({name: interval_within(ratio, 1 / 3, 3.0) for name, ratio in means.items()}).outcome,
            "Stds over pruning runs have a heavy tail, which decides a ratio of means, and noise is not what the "
            "networks see.",
        ),
        ours="Liu / Ours on images: "
        + ", ".join(f"{name} {ratio}" for name, ratio in ratios.items())
        + "; on noise: "
        + ", ".join(f"{name} {ratio}" for name, ratio in noise.items())
        + "; "
        + "; ".join(described),
        held="Pruning spreads its weights evenly enough that one scale a layer starts as well as one a unit.",
        failed="Pruning leaves masks so uneven that scaling initial weights by layer gives a signal more than three "
        "times off that of scaling by unit.",
        inconclusive="The pruned masks differ too much to say that the two scales are within a factor 3.",
    )


def _levels(table: pd.DataFrame, scheme: str, base: str, sparsity: float, *, mask: str = "random") -> Values:
    chosen = (table["scheme"] == scheme) & (table["base"] == base) & (table["mask"] == mask)
    rows = table[chosen & np.isclose(table["sparsity"], sparsity)].sort_values("network")
    need(rows, NETWORKS, of=f"networks at sparsity {sparsity:g} ({scheme}, {base}, {mask})", make="signal")
    return rows["logit_std"].to_numpy(dtype=np.float64)


def _kept(table: pd.DataFrame, base: str, sparsity: float, *, mask: str = "random") -> Interval:
    ends = (_levels(table, "sparse", base, at, mask=mask) for at in (sparsity, 0.0))
    return bootstrap(lambda a, b: float(a.mean() / b.mean()), *ends)


def _ratio_of_means(a: Values, b: Values) -> float:
    return float(a.mean() / b.mean())


def _log_ratio(a: Values, b: Values) -> float:
    return math.log(a.mean() / b.mean())


CLAIMS = {"C01": c01, "C02": c02, "C03": c03, "C16": c16}
