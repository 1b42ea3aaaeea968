"""Why some sparse networks end low: filters of the first layer that never fire. Ours, and not among the paper's claims.

A run is a *start*, mask and first weights, and what is done with it. Its filter is live if it fires for some training
image, gets a gradient and has a way to the output; active, if a mask left it a weight.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy import stats

from sparseflow.lab.page.evidence import Evidence, NotEnoughRunsError
from sparseflow.lab.page.summary import accuracy_percent
from sparseflow.paper.claims.statistics import spearman_above
from sparseflow.paper.claims.verdict import FEWEST_RANKED, Part, all_of, directed
from sparseflow.paper.matrix.cells import INITS, METHODS
from sparseflow.training.runs import Run
from sparseflow.training.units import first_layer, unit_count

#: What is done to a start -> end of the names of its groups.
VARIANTS = {"drawn": "", "repaired": "/repaired", "killed": "/killed", "avoid_dead": "/avoid_dead"}
COLUMNS = ("method", "init", "variant", "start", "active", "live", "live_at_end", "accuracy")


def group_of(method: str, init: str, variant: str) -> str:
    """The group of runs of a cell of Table 1, whose masks move every 100 steps if they do.

    >>> group_of("set", "liu", "drawn"), group_of("scratch", "sparse", "killed")
    ('lenet5/set/liu/f100', 'lenet5/scratch/sparse/killed')
    """
    often = "/f100" if method != "scratch" and variant == "drawn" else ""
    return f"lenet5/{method}/{init}{VARIANTS[variant]}{often}"


def filters(evidence: Evidence) -> pd.DataFrame:
    """One row per run that counted its units: ``COLUMNS``, filters of the first layer, accuracy in percent.

    Raises:
        NotEnoughRunsError: if there is none.
    """
    rows = [
        (method, init, variant, *row)
        for method in METHODS
        for init in INITS
        for variant in VARIANTS
        for row in _rows(evidence.groups.get(group_of(method, init, variant), ()))
    ]
    if not rows:
        raise NotEnoughRunsError(
            "no run of Table 1's cells has counted the live filters of its first layer. Those of older versions have "
            "not: delete their folders, and make them again:\nsparseflow reproduce dead-filters"
        )
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _rows(runs: Sequence[Run]) -> Iterator[tuple[int, int, int, int, float]]:
    for run in runs:
        if (layer := first_layer(run)) is not None:
            active = unit_count(run, "all", layer) - unit_count(run, "no_path_in", layer)
            live = [unit_count(run, "live", layer, at_end=at_end) for at_end in (False, True)]
            yield run.config.seed, int(active), int(live[0]), int(live[1]), accuracy_percent(run)


def changed(table: pd.DataFrame, variant: str, *, method: str = "scratch", init: str = "sparse") -> pd.DataFrame:
    """The starts of a cell whose live filters a variant changed, one row each, with those as drawn and their accuracy.

    Columns ``start``, ``live_before``, ``live``, ``accuracy_before``, ``accuracy``. A start that it left as it was is
    the same run twice and shows nothing; one that it left without any live filter cannot learn whatever the reason.

    Args:
        table: Of :func:`filters`.
        variant: Key of ``VARIANTS``.
        method, init: Of the cell.
    """
    cell = table[(table["method"] == method) & (table["init"] == init)]
    before, after = (cell.loc[cell["variant"] == name, ["start", "live", "accuracy"]] for name in ("drawn", variant))
    both = before.merge(after, on="start", suffixes=("_before", ""))
    return both[(both["live"] != both["live_before"]) & (both["live"] > 0)]


def dead_filters(evidence: Evidence) -> Part:
    """The fewer first filters of a sparse LeNet5 are alive at the start, the lower it ends, and they are the cause.

    Criterion, for Scratch from Ours, each start once: over starts as drawn, accuracy rises with the live filters (rank
    correlation above 0); waking the dead filters of those starts that have some raises accuracy, and silencing one more
    of those that keep a live one lowers it (signed-rank tests of pairs by start). Each p < 0.05; the first two follow
    from a look at earlier runs, the third does not.

    Raises:
        NotEnoughRunsError: if there are fewer than five starts, or pairs that differ, for one of them.
    """
    table = filters(evidence)
    drawn = table[(table["variant"] == "drawn") & (table["method"] == "scratch") & (table["init"] == "sparse")]
    woken, silenced = (changed(table, variant) for variant in ("repaired", "killed"))
    for name, found, variant in (("starts", drawn, "drawn"), ("woken starts", woken, "repaired"),
                                 ("silenced starts", silenced, "killed")):  # fmt: skip
        if len(found) < FEWEST_RANKED:
            raise NotEnoughRunsError(
                f"there are {len(found)} {name} of at least {FEWEST_RANKED} needed. Make them:\nsparseflow reproduce "
                f"{group_of('scratch', 'sparse', 'drawn')} {group_of('scratch', 'sparse', variant)}"
            )
    return all_of(
        {
            "live filters and accuracy": spearman_above(drawn["live"], drawn["accuracy"], alpha=0.05),
            "woken": signed_rank_greater(woken["accuracy"], woken["accuracy_before"], alpha=0.05),
            "silenced": signed_rank_greater(silenced["accuracy_before"], silenced["accuracy"], alpha=0.05),
        }
    )


def signed_rank_greater(a: ArrayLike, b: ArrayLike, *, alpha: float) -> Part:
    """Values of ``a`` tend to lie above those of ``b``, pair by pair: Wilcoxon's one-sided signed-rank test.

    One run that ends far below moves a mean and not a rank. Failed if the opposite is significant.

    >>> signed_rank_greater([2.0, 4.0, 6.0, 8.0, 20.0], [1.0, 2.0, 3.0, 4.0, 5.0], alpha=0.05).p_value
    0.03125
    >>> signed_rank_greater([1.0] * 5, [1.0] * 5, alpha=0.05).outcome
    'inconclusive'

    Raises:
        ValueError: if there are more of one than of the other.
    """
    first, second = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    if first.shape != second.shape:
        raise ValueError(f"pairs need as many values of one as of the other, got {len(first)} and {len(second)}.")
    difference = first - second
    p, opposite = (
        float(stats.wilcoxon(sign * difference, alternative="greater").pvalue) if difference.any() else 1.0
        for sign in (1, -1)
    )
    outcome = directed(p, right=p < opposite, shown=p < alpha, refuted=opposite < alpha)
    up = int((difference > 0).sum())
    text = f"signed ranks, {up} of {len(difference)} up, median change {np.median(difference):.2g}, p = {p:.2g}"
    return Part(outcome, text, str(len(difference)), p, "pairs by start")
