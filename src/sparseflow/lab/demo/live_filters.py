"""Accuracy against the first layer's live units at the start: what masks of pruned networks decide before training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from scipy import stats

from sparseflow.init.schemes import SCHEMES
from sparseflow.lab.page import panels
from sparseflow.lab.page.evidence import NotEnoughRunsError
from sparseflow.lab.page.figure_data import accuracy_points
from sparseflow.lab.page.svg import INK, PALETTE
from sparseflow.lab.page.words import count, listed, number
from sparseflow.training.runs import Run

_LIVE = "units/live/"


def live_filters(runs: Sequence[Run]) -> pd.DataFrame:
    """A row per run from masks, of :func:`.accuracy_points`, with ``live``: the first layer's live units at step 0.

    Raises:
        NotEnoughRunsError: if no such run has counted its units.
    """
    rows = []
    for run in runs:
        metrics = run.metrics
        counted = metrics[(metrics["step"] == 0) & metrics["name"].str.startswith(_LIVE)]
        if run.config.row.start == "masked" and len(counted):
            rows.append(accuracy_points([run]).assign(live=int(counted["value"].iloc[0])))  # in forward order
    if not rows:
        raise NotEnoughRunsError("No run here has counted its live units. Make some that do:\nsparseflow demo")
    return pd.concat(rows, ignore_index=True)


def live_words(data: pd.DataFrame) -> str:
    """Median accuracy by live units, of runs from the sparsity-aware start, and Spearman's test of the two.

    >>> live_words(pd.DataFrame({"init": "sparse", "live": [1, 1, 2, 3], "accuracy": [80.0, 82.0, 90.0, 93.0]}))
    'From the sparsity-aware start the median network ends at 81.0 % with 1 live filter in the first layer (2 networks),
     90.0 % with 2 (1) and 93.0 % with 3 (1); whether more live filters end higher, these runs do not show (rank
     correlation 0.95, p = 0.051).'
    """
    ours = data[data["init"] == "sparse"]
    parts: list[str] = []
    for live in sorted({int(live) for live in ours["live"]}):
        runs = ours[ours["live"] == live]
        filters, networks = str(live), str(len(runs))
        if not parts:
            filters = f"{count(live, 'live filter')} in the first layer"
            networks = count(len(runs), "network")
        parts.append(f"{runs['accuracy'].median():.1f} % with {filters} ({networks})")
    said = f"From the sparsity-aware start the median network ends at {listed(parts)}"
    if ours["live"].nunique() < 2 or ours["accuracy"].nunique() < 2:
        return f"{said}."
    rank = stats.spearmanr(ours["live"], ours["accuracy"])
    shown = rank.pvalue < 0.05
    higher = "higher" if rank.statistic > 0 else "lower"
    found = (
        f"more live filters end {higher}" if shown else "whether more live filters end higher, these runs do not show"
    )
    return f"{said}; {found} (rank correlation {number(rank.statistic, 2)}, p = {number(rank.pvalue, 2)})."


def draw_live(data: pd.DataFrame, *, narrow: bool = False) -> Figure:
    """A dot per run: accuracy over live units, one column of dots per initialisation at each number."""
    figure = Figure(figsize=(panels.NARROW if narrow else 0.6 * panels.WIDE, 3.0), layout="constrained")
    axes = figure.subplots()
    inits = [init for init in SCHEMES if init in set(data["init"])]
    for place, init in enumerate(inits):
        rows = data[data["init"] == init]
        beside = 0.22 * (place - (len(inits) - 1) / 2)
        look = SCHEMES[init].look
        marks: dict[str, Any] = {
            "color": PALETTE[look.colour],
            "markeredgecolor": INK,
            "markeredgewidth": 0.4,
            "alpha": 0.8,
        }
        axes.plot(rows["live"] + beside, rows["accuracy"], look.marker, markersize=5, **marks)
    axes.set_xticks(np.arange(data["live"].min(), data["live"].max() + 1))
    axes.set_xlim(data["live"].min() - 0.5, data["live"].max() + 0.5)
    axes.set_ylim(0, 101)
    axes.set_xlabel("Live filters of the first layer at the start")
    axes.set_ylabel("Final test accuracy (%)")
    keys = [
        panels.marker_key(SCHEMES[init].look.marker, SCHEMES[init].label, colour=PALETTE[SCHEMES[init].look.colour])
        for init in inits
    ]
    panels.legend(figure, keys, columns=3)
    return figure


def live_how(data: pd.DataFrame) -> str:
    """How to read the figure."""
    return (
        f"Every dot is one of {count(len(data), 'network')} from a pruned network's mask. Pruning leaves the first "
        "layer a few weights; a filter whose weights are all negative never fires on pixels, which are never negative, "
        "and gets no gradient: it is dead from the first step to the last. A live one fires, and learns."
    )
