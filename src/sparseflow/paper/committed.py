"""What verdicts are judged from, as tables that lie beside the page: a row per run, and what was measured.

They are a few megabytes where runs and their weights are gigabytes, so that every verdict can be computed again from
the repository, without training.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from sparseflow.lab.page.evidence import Evidence
from sparseflow.paper.claims.curvature import SHOWN, SMALL_DENSE
from sparseflow.paper.claims.updates import RIGL
from sparseflow.paper.matrix.scale import Groups, Scale
from sparseflow.training.runs import Run

PER_RUN = "per_run.csv"
MEASURED = "measured"
#: Tables that figures read and no claim does.
_OF_FIGURES = ("paths", "mds")
#: Columns that are text where it looks like a number: the seeds of an ensemble of one.
_TEXT = {"seeds": str}


def committed_files(evidence: Evidence, scale: Scale) -> dict[str, bytes]:
    """``per_run.csv`` and ``measured/*.csv`` by name, every number to the last bit.

    A column of ``per_run.csv`` is a statistic that some claim read, named with its arguments; so judge first.
    """
    rows: dict[str, dict[str, float]] = {}
    for run in (run for runs in evidence.groups.values() for run in runs):
        rows.setdefault(run.config.hash, {"seconds": run.seconds}).update(run.statistics)
    files = {PER_RUN: _csv(pd.DataFrame([{"config": hash, **row} for hash, row in rows.items()]))} if rows else {}
    for name, measured in evidence.tables.items():
        if name not in _OF_FIGURES:
            files[f"{MEASURED}/{name}.csv"] = _csv(_of_claims(name, measured, scale))
    return files


def _of_claims(name: str, table: pd.DataFrame, scale: Scale) -> pd.DataFrame:
    """Of all eigenvalues those that C28 compares, a twentieth of the rows."""
    if name != "eigenvalues":
        return table
    compared = table["group"].isin((RIGL, SMALL_DENSE)) & table["step"].isin([scale.often * step for step in SHOWN])
    return table[compared & (table["moment"] == "at") & (table["examples"] == scale.all_examples)]


def _csv(table: pd.DataFrame) -> bytes:
    return table.to_csv(index=False).encode()


def read_committed(folder: Path, groups: Groups, scale: Scale) -> Evidence:
    """The evidence that :func:`committed_files` wrote; its runs have statistics and nothing else.

    Args:
        folder: With ``per_run.csv`` and ``measured/``.
        groups: Name of a group -> its runs, as planned; they are found by the hash of their configuration.
        scale: Its scale.

    Raises:
        ValueError: if the folder has no such table, or one of runs that are not planned.
    """
    if not (folder / PER_RUN).is_file():
        raise ValueError(
            f"{folder} has no {PER_RUN}. Name a folder with a page of sparseflow reproduce, such as results/paper."
        )
    rows = pd.read_csv(folder / PER_RUN, dtype={"config": str}).set_index("config")  # a hash may be all digits
    configs = {config.hash: config for members in groups.values() for config in members}
    if unknown := [hash for hash in rows.index if hash not in configs]:
        raise ValueError(
            f"{len(unknown)} of {len(rows)} runs in {folder / PER_RUN} are in no group of --scale {scale.name}, such "
            f"as {unknown[0]}: the page is of another version of sparseflow. Write it once more with this one."
        )
    found = {str(hash): _run(configs[str(hash)], row) for hash, row in rows.iterrows()}
    runs = {name: [found[config.hash] for config in of if config.hash in found] for name, of in groups.items()}
    tables = {path.stem: pd.read_csv(path, dtype=_TEXT) for path in sorted((folder / MEASURED).glob("*.csv"))}
    return Evidence(runs, tables, scale.name, scale.collapse_percent)


def _run(config: Any, row: pd.Series[float]) -> Run:
    silent = pd.DataFrame({"step": [], "name": [], "value": []})
    statistics = {str(name): float(value) for name, value in row.drop("seconds").dropna().items()}
    return Run(config, Path(), silent, {}, {}, float(row["seconds"]), statistics=statistics)
