"""Made-up tables of measurements with numbers spaced evenly around the given means: no chance, exact means."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

Rows = list[dict[str, Any]]


def around(mean: float, count: int, *, spread: float = 0.05) -> list[float]:
    """Evenly spaced values from ``mean * (1 - spread)`` to ``mean * (1 + spread)``.

    >>> around(10.0, 3, spread=0.1)
    [9.0, 10.0, 11.0]
    """
    return [float(mean * (1 + spread * place)) for place in (np.linspace(-1, 1, count) if count > 1 else [0.0])]


def spectrum_rows(
    group: str,
    moment: str,
    steps: Sequence[int],
    *,
    largest: float = 20.0,
    smallest: float = 0.5,
    seeds: int = 5,
    spread: float = 0.05,
    examples: int = 10_000,
) -> Rows:
    """Rows of ``spectra``; ``smallest`` is the magnitude of the most negative eigenvalue."""
    return [
        {"group": group, "seed": seed, "step": step, "moment": moment, "examples": examples,
         "largest": high, "smallest": -low}
        for step in steps
        for seed, (high, low) in enumerate(
            zip(around(largest, seeds, spread=spread), around(smallest, seeds, spread=spread), strict=True)
        )
    ]  # fmt: skip


def distances(
    lottery: float, scratch: float, *, column: str, prunes: int = 5, seeds: int = 5, spread: float = 0.05
) -> pd.DataFrame:
    """Rows of ``distances``: ``column`` differs between pruning runs and, for Scratch, between seeds."""
    rows: Rows = []
    for group, mean in (("tickets/lottery", lottery), ("tickets/scratch", scratch)):
        for prune_seed, level in enumerate(around(mean, prunes, spread=spread)):
            own = 0.0 if group == "tickets/lottery" and column == "init" else 0.02
            for seed, value in enumerate(around(level, seeds, spread=own)):
                others = {"control_init": 18.0, "cosine_init": 0.1} | {"setting": "tickets"}
                rows.append({**others, "group": group, "prune_seed": prune_seed, "seed": seed, column: value})
    return pd.DataFrame(rows)


def barrier_rows(
    group: str, mean: float, *, start: str = "solution", column: str = "barrier", seeds: int = 5, spread: float = 0.05
) -> Rows:
    """Rows of ``barriers``; the number that is not asked for is 0."""
    other = {"barrier": "area", "area": "barrier"}[column]
    return [
        {"group": group, "seed": seed, "start": start, column: value, other: 0.0}
        for seed, value in enumerate(around(mean, seeds, spread=spread))
    ]


def reference_rows(group: str, *, seeds: int = 5, spread: float = 0.05, **means: float) -> Rows:
    """Rows of ``function_reference``, with the given mean for each column."""
    values = {name: around(mean, seeds, spread=spread) for name, mean in means.items()}
    return [
        {"group": group, "seed": seed, **{name: found[seed] for name, found in values.items()}} for seed in range(seeds)
    ]


def on_masks(rows: Rows) -> Rows:
    """The same rows, but what were seeds of one group are runs on the masks of pruning runs, one on each."""
    return [
        {**row, "group": f"{row['group']}/mask{row['seed']}" if row["seed"] else row["group"],
         "seed": 100 * (row["seed"] + 1)}
        for row in rows
    ]  # fmt: skip


def pairs_on_masks(group: str, mean: float, *, masks: int = 5, spread: float = 0.05) -> Rows:
    """Rows of ``function_pairs``: one pair on the masks of each pruning run."""
    return [
        {"group": f"{group}/mask{number}" if number else group, "a": 0, "b": 1, "disagreement": value}
        for number, value in enumerate(around(mean, masks, spread=spread))
    ]


def pair_rows(group: str, mean: float, *, seeds: int = 5, spread: float = 0.05) -> Rows:
    """Rows of ``function_pairs``: the disagreement of two models is the mean of what each contributes."""
    own = around(mean, seeds, spread=spread)
    return [
        {"group": group, "a": a, "b": b, "disagreement": (own[a] + own[b]) / 2}
        for a, b in itertools.combinations(range(seeds), 2)
    ]


def ensemble_rows(
    group: str, *, accuracy: float, gain: float = 0.0, runs: int = 5, members: int = 4, draws: int = 5, spread: float
) -> Rows:
    """Rows of ``function_ensembles``: the first five runs, and draws with accuracies up to ``spread`` points off."""
    sets = list(itertools.islice(itertools.combinations(range(runs), members), draws))
    # Every run is left out of some ensemble and a member of another.
    chosen = [range(min(5, runs)), *sets[:-1], tuple(range(runs - members, runs))]
    values = [accuracy, *(accuracy + spread * place for place in np.linspace(-1, 1, len(chosen) - 1))]
    return [
        {"group": group, "draw": draw, "seeds": " ".join(map(str, seeds)), "members": len(seeds),
         "member_accuracy": accuracy - gain, "probabilities": value}
        for draw, (seeds, value) in enumerate(zip(chosen, values, strict=True))
    ]  # fmt: skip


def tables(**rows: Rows) -> Mapping[str, pd.DataFrame]:
    """Data frames by name, from their rows."""
    return {name: pd.DataFrame(found) for name, found in rows.items()}
