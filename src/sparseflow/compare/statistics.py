"""What the table of runs says: differences paired by seed, runs that did not learn, and how stable the ranks are."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from sparseflow.compare.settings import STATIC
from sparseflow.lab.page.estimates import estimate, share_interval

#: Columns that say which rows are compared with each other.
CONTEST = ["network", "sparsity", "budget"]
_RESAMPLES = 2000


def by_seed(runs: pd.DataFrame) -> pd.DataFrame:
    """Accuracy of one contest: a row for each method, a column for each seed that all of them have.

    Args:
        runs: Rows of one network, sparsity and budget.
    """
    order = list(dict.fromkeys(runs["method"]))
    table = runs.pivot_table(index="method", columns="seed", values="accuracy", aggfunc="last", sort=False)
    return table.loc[order].dropna(axis="columns")


def rank_intervals(
    accuracy: NDArray[np.float64], *, resamples: int = _RESAMPLES, seed: int = 0
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Rank of each method by its mean, 1 for the best, and the 95 % percentile interval when seeds are resampled.

    All methods are resampled together, since they are paired by seed; equal means share the mean of their ranks. One
    seed has no interval: NaN.

    Args:
        accuracy: ``(methods, seeds)``.
        resamples: How many.
        seed: Of the draws.

    >>> ranks, low, high = rank_intervals(np.array([[90.0, 91.0, 92.0], [93.0, 94.0, 95.0]]))
    >>> ranks.tolist(), low.tolist(), high.tolist()
    ([2.0, 1.0], [2.0, 1.0], [2.0, 1.0])
    """
    ranks = _ranks(accuracy.mean(axis=1, keepdims=True))[:, 0]
    if accuracy.shape[1] < 2:
        return ranks, np.full_like(ranks, np.nan), np.full_like(ranks, np.nan)
    drawn = np.random.default_rng(seed).integers(0, accuracy.shape[1], (resamples, accuracy.shape[1]))
    found = _ranks(accuracy[:, drawn].mean(axis=2))
    low, high = np.quantile(found, [0.025, 0.975], axis=1)
    return ranks, low, high


def _ranks(means: NDArray[np.float64]) -> NDArray[np.float64]:
    # Sums of the same numbers in another order differ by rounding.
    ranks: NDArray[np.float64] = stats.rankdata(-means.round(9), axis=0)
    return ranks


def outcomes(runs: pd.DataFrame) -> pd.DataFrame:
    """One row for each method of each contest.

    ``mean`` with its population ``std`` and its t interval ``low`` to ``high``, in percent of test images, diverged
    runs counted as guesses; ``difference`` to static masks, paired by seed, with its t interval; ``not_learned`` of
    ``n`` with the interval of Clopper and Pearson, in percent; ``diverged`` runs; ``rank`` with its interval; means of
    steps, operations and seconds.

    Args:
        runs: Of :func:`.run_table`.
    """
    return pd.DataFrame(_outcomes(runs))


def _outcomes(runs: pd.DataFrame) -> Iterator[dict[str, Any]]:
    for names, contest in runs.groupby(CONTEST, sort=False):
        accuracy = by_seed(contest)
        ranked = rank_intervals(accuracy.to_numpy()) if accuracy.size else ([np.nan] * len(accuracy),) * 3
        for method, rank, low, high in zip(accuracy.index, *ranked, strict=True):
            rows = contest[contest["method"] == method]
            own = estimate(rows["accuracy"].to_numpy())
            fails = int((~rows["learned"]).sum())
            share = share_interval(fails, len(rows))
            row = {
                **dict(zip(CONTEST, names, strict=True)), "method": method, "n": len(rows), "mean": own.mean,
                "std": own.std, "low": own.low, "high": own.high, "not_learned": fails,
                "not_learned_low": 100 * share[0], "not_learned_high": 100 * share[1],
                "diverged": int(rows["diverged"].sum()), "rank": rank, "rank_low": low, "rank_high": high,
                **{name: rows[name].mean() for name in ("steps", "flops", "seconds", "density")},
            }  # fmt: skip
            yield row | difference(accuracy, method)


def difference(accuracy: pd.DataFrame, method: str, *, to: str = STATIC) -> dict[str, float]:
    """The paired difference of two methods in points: ``difference``, ``difference_low``, ``difference_high``.

    Args:
        accuracy: Of :func:`by_seed`.
        method: Whose accuracy is counted from the other's.
        to: The other; NaN where it was not compared.

    >>> accuracy = pd.DataFrame({0: [90.0, 91.0], 1: [92.0, 93.5]}, index=["scratch", "rigl"])
    >>> round(difference(accuracy, "rigl")["difference"], 2)
    1.25
    """
    names = ("difference", "difference_low", "difference_high")
    if to not in accuracy.index or method == to:
        return dict.fromkeys(names, np.nan)
    one, other = (accuracy.loc[name].to_numpy(dtype=np.float64) for name in (method, to))
    found = estimate(one - other)
    return dict(zip(names, (found.mean, found.low, found.high), strict=True))


def stability(runs: pd.DataFrame) -> pd.DataFrame:
    """Kendall's tau-b of the methods' orders: between seeds of a contest, and between sparsities on a budget.

    A row for ``seeds`` has the mean over all pairs of seeds; one for two sparsities the tau of mean accuracies, with
    the percentile interval when the seeds of both are resampled, NaN for one seed.

    Args:
        runs: Of :func:`.run_table`.
    """
    rows: list[dict[str, Any]] = []
    for (network, budget), part in runs.groupby(["network", "budget"], sort=False):
        tables = {zeros: by_seed(part[part["sparsity"] == zeros]) for zeros in part["sparsity"].unique().tolist()}
        named = {"network": network, "budget": budget}
        for sparsity, accuracy in tables.items():
            values = accuracy.to_numpy()
            taus = [kendall(values[:, a], values[:, b]) for a, b in combinations(range(values.shape[1]), 2)]
            tau = float(np.mean(taus)) if taus else np.nan
            rows.append(named | _stability("seeds", f"{sparsity:g}", values, tau, np.nan, np.nan))
        for (a, first), (b, second) in combinations(tables.items(), 2):
            shared = [method for method in first.index if method in second.index]
            pair = first.loc[shared].to_numpy(), second.loc[shared].to_numpy()
            rows.append(named | _stability("sparsities", f"{a:g} and {b:g}", pair[0], *_tau_interval(*pair)))
    return pd.DataFrame(rows)


def _stability(
    between: str, where: str, values: NDArray[np.float64], tau: float, low: float, high: float
) -> dict[str, Any]:
    methods, seeds = values.shape
    return {
        "between": between, "where": where, "methods": methods, "seeds": seeds, "tau": tau, "tau_low": low,
        "tau_high": high,
    }  # fmt: skip


def kendall(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    """Kendall's tau-b of two lists of values; NaN where one is constant, or has a single value.

    >>> round(kendall(np.array([1.0, 2.0, 3.0]), np.array([1.0, 3.0, 2.0])), 3)  # two of three pairs in one order
    0.333
    """
    if len(first) < 2 or np.ptp(first) == 0 or np.ptp(second) == 0:
        return np.nan
    return float(stats.kendalltau(first, second).statistic)


def _tau_interval(
    first: NDArray[np.float64], second: NDArray[np.float64], *, resamples: int = 500
) -> tuple[float, float, float]:
    tau = kendall(first.mean(axis=1), second.mean(axis=1))
    if min(first.shape[1], second.shape[1]) < 2:
        return tau, np.nan, np.nan
    draw = np.random.default_rng(0)
    found = []
    for _ in range(resamples):
        means = [
            values[:, draw.integers(0, values.shape[1], values.shape[1])].mean(axis=1) for values in (first, second)
        ]
        found.append(kendall(*means))
    if np.isnan(tau) or np.isnan(found).all():
        return tau, np.nan, np.nan
    low, high = np.nanquantile(found, [0.025, 0.975])
    return tau, float(low), float(high)


def effects(search: pd.DataFrame, factors: list[str]) -> pd.DataFrame:
    """What a level of a factor gains on the held-out images, over the mean of the factor's levels.

    The array meets every pair of levels of two factors once, so the mean over a level is free of the others. ``gain``
    is the mean over the cells (network, sparsity and method) that read the factor, ``low`` to ``high`` its t interval
    over these, in points; ``learned`` of ``n`` runs learned.

    Args:
        search: Of :func:`.search_table`.
        factors: Names of columns.
    """
    rows = []
    for factor in factors:
        read = search.dropna(subset=[factor])
        if read.empty:
            continue
        means = read.pivot_table(index=["network", "sparsity", "method"], columns=factor, values="accuracy")
        gains = means.sub(means.mean(axis=1), axis=0)
        for level in gains.columns:
            at = read[read[factor] == level]
            found = estimate(gains[level].dropna().to_numpy())
            rows.append(
                {
                    "factor": factor, "level": level, "cells": found.n, "gain": found.mean, "low": found.low,
                    "high": found.high, "learned": int(at["learned"].sum()), "n": len(at),
                    "chosen": int(at["chosen"].sum()),
                }
            )  # fmt: skip
    return pd.DataFrame(rows)
