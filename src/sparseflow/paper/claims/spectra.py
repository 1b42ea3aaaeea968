"""Hessian spectra by run and step, from the measured tables."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import stats

from sparseflow.lab.page.evidence import Evidence
from sparseflow.paper.claims.intervals import Values
from sparseflow.paper.claims.run_statistics import log_of
from sparseflow.paper.claims.tables import rows

#: Positive eigenvalues apart from the bulk: as many as classes. What is below this share of the largest counts as zero.
OUTLIERS, ZERO = 10, 1e-3


def log_spectra(evidence: Evidence, group: str, moment: str, name: str, *, examples: int) -> pd.DataFrame:
    """Log magnitude of the ``largest`` or ``smallest`` (most negative) eigenvalue: seeds in rows, steps in columns.

    Args:
        evidence: What was measured.
        group: Of the networks.
        moment: ``before``, ``after`` or ``at``.
        name: Of the eigenvalue.
        examples: Training images behind the spectra: from fewer images the extremes are larger.
    """
    table = rows(evidence, "spectra")
    table = table[(table["group"] == group) & (table["moment"] == moment) & (table["examples"] == examples)]
    logs = table.assign(value=log_of(table[name] if name == "largest" else -table[name]))
    return logs.pivot_table(index="seed", columns="step", values="value")


def at_step(spectra: pd.DataFrame, step: int) -> pd.Series[float]:
    """A column of :func:`log_spectra`, without the seeds that lack it."""
    return spectra[step].dropna() if step in spectra else pd.Series(dtype=np.float64)


def largest(evidence: Evidence, group: str, moment: str, step: int, *, examples: int) -> pd.Series[float]:
    """Log of the largest eigenvalue by seed."""
    return at_step(log_spectra(evidence, group, moment, "largest", examples=examples), step)


def log_change(evidence: Evidence, group: str, name: str, step: int, *, examples: int) -> pd.Series[float]:
    """Log of the factor of an update on an eigenvalue, by seed."""
    after, before = (
        at_step(log_spectra(evidence, group, moment, name, examples=examples), step) for moment in ("after", "before")
    )
    return (after - before).dropna()


def mean_log_smallest(evidence: Evidence, group: str, moment: str, steps: Sequence[int], *, examples: int) -> Values:
    """Mean over steps of the log magnitude of the most negative eigenvalue, of each run measured at all of them."""
    found = log_spectra(evidence, group, moment, "smallest", examples=examples).reindex(columns=list(steps)).dropna()
    return found.mean(axis=1).to_numpy(dtype=np.float64)


def bulk_distances(evidence: Evidence, groups: tuple[str, str], steps: Sequence[int], *, examples: int) -> list[float]:
    """Kolmogorov-Smirnov distance of the positive bulks of two groups, at the steps that have eigenvalues of both."""
    if evidence.tables.get("eigenvalues") is None:
        return []
    table = evidence.tables["eigenvalues"]
    table = table[(table["moment"] == "at") & (table["examples"] == examples)]
    found = []
    for step in steps:
        first, second = (_bulk(table[(table["step"] == step) & (table["group"] == group)]) for group in groups)
        if len(first) and len(second):
            found.append(float(stats.ks_2samp(first.tolist(), second.tolist()).statistic))
    return found


def _bulk(eigenvalues: pd.DataFrame) -> Values:
    """Positive eigenvalues that are neither outliers nor zero, of all seeds."""
    parts = [np.empty(0)]
    for _, of_seed in eigenvalues.groupby("seed"):
        values = np.sort(np.asarray(of_seed["eigenvalue"], dtype=np.float64))
        parts.append(values[:-OUTLIERS][values[:-OUTLIERS] > ZERO * values[-1]])
    return np.concatenate(parts)
