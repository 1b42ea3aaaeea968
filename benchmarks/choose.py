"""``python -m benchmarks.choose``: write what results/compare/ says into docs/how-to-choose.md.

Each folder of results/compare/ is a page of ``sparseflow compare``, whose ``environment.json`` has its command.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from benchmarks.table import ROOT, filled
from sparseflow.compare.figures import percent
from sparseflow.compare.search import FACTORS
from sparseflow.compare.statistics import by_seed, difference, effects, outcomes
from sparseflow.compare.tables import read_tables
from sparseflow.lab.page.table import records
from sparseflow.lab.page.words import fixed, interval, listed
from sparseflow.training.names import METHODS

KEPT = ROOT / "results" / "compare"
PAGE = ROOT / "docs" / "how-to-choose.md"
#: What makes a page that is read here.
MAKES = "sparseflow compare --report results/compare/digits"
#: Factors that a reader chooses by; learning rate and weight decay depend on the usual ones of each network.
CHOSEN = ("init", "drop_fraction", "period", "prune_end")


def pages(kept: Path = KEPT) -> list[Path]:
    """The folders that are read, by name."""
    return sorted(path.parent for path in kept.glob("*/runs.csv"))


def block(kept: Path = KEPT) -> str:
    """The part of the manual that the tables of all pages make."""
    found = pages(kept)
    if not found:
        return f"No comparison is kept in the repository yet. Make one: `{MAKES}`"
    return "\n\n".join(line for folder in found for line in _part(folder) if line)


def _part(folder: Path) -> Iterator[str]:
    runs, search = read_tables(folder)
    environment = json.loads((folder / "environment.json").read_text())
    link = f"../results/compare/{folder.name}/index.html"
    yield f"### Measured: [{folder.name}]({link})"
    words = ". ".join(environment["networks"].values())
    yield (
        f"{words}. {len(runs)} runs of {runs['seed'].nunique()} seeds, {len(search)} of the search. "
        f"`{environment['command']}`"
    )
    yield "\n".join(methods(runs))
    yield "\n".join(sparsities(runs))
    yield "\n".join(settings(search))


def methods(runs: pd.DataFrame) -> list[str]:
    """The method to start from in each contest, with those that are not clearly worse.

    A method is clearly worse where the 95 % interval of its difference to the best, paired by seed, lies below zero.

    Args:
        runs: Of :func:`sparseflow.compare.tables.run_table`.
    """
    lines = [
        "| network | zeros | budget | start from | accuracy | rank | not clearly worse |",
        "|---|---|---|---|---|---|---|",
    ]
    for (network, sparsity, budget), of in outcomes(runs).groupby(["network", "sparsity", "budget"], sort=False):
        of = of[of["method"] != "dense"]
        best = max(records(of), key=lambda row: row["mean"])
        contest = runs[(runs["network"] == network) & (runs["sparsity"] == sparsity) & (runs["budget"] == budget)]
        accuracy = by_seed(contest)
        near = [
            METHODS[name].label
            for name in of["method"]
            if name != best["method"] and not _is_below(difference(accuracy, name, to=best["method"]))
        ]
        lines.append(
            f"| {network} | {percent(float(str(sparsity)))} | {budget} | {METHODS[best['method']].label} | "
            f"{fixed(best['mean'], 2)} % ({interval(best['low'], best['high'], 2) or 'one seed'}) | "
            f"{interval(best['rank_low'], best['rank_high'], 1) or 'one seed'} | {listed(near) if near else 'none'} |"
        )
    return lines


def _is_below(found: dict[str, float]) -> bool:
    return found["difference_high"] < 0


def sparsities(runs: pd.DataFrame) -> list[str]:
    """What the best sparse method loses to the dense network with as many steps.

    Args:
        runs: Of :func:`sparseflow.compare.tables.run_table`.
    """
    lines = ["| network | zeros | best sparse method | points above dense | 95 % interval |", "|---|---|---|---|---|"]
    rows = runs[runs["budget"] == "steps"]
    for (network, sparsity), of in rows.groupby(["network", "sparsity"], sort=False):
        accuracy = by_seed(of)
        if "dense" not in accuracy.index or len(accuracy) < 2:
            continue
        best = accuracy.drop("dense").mean(axis=1).idxmax()
        found = difference(accuracy, str(best), to="dense")
        lines.append(
            f"| {network} | {percent(float(str(sparsity)))} | {METHODS[str(best)].label} | "
            f"{fixed(found['difference'], 2)} | "
            f"{interval(found['difference_low'], found['difference_high'], 2) or 'one seed'} |"
        )
    return lines if len(lines) > 2 else []


def settings(search: pd.DataFrame) -> list[str]:
    """What each level of a setting gains, and how sure that is.

    Args:
        search: Of :func:`sparseflow.compare.tables.search_table`.
    """
    lines = [
        "| setting | level | points above the setting's mean | 95 % interval | learned | chosen | so |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in records(effects(search, list(CHOSEN))):
        sure = "better" if row["low"] > 0 else "worse" if row["high"] < 0 else "not clear"
        level = f"{row['level']:g}" if isinstance(row["level"], float) else f"`{row['level']}`"
        lines.append(
            f"| {FACTORS[row['factor']].label} | {level} | {fixed(row['gain'], 2)} | "
            f"{interval(row['low'], row['high'], 2) or 'one cell'} | {row['learned']} of {row['n']} | "
            f"{row['chosen']} | {sure} |"
        )
    return lines


def main() -> None:
    PAGE.write_text(filled(PAGE.read_text(), "compare", block()))


if __name__ == "__main__":
    main()
