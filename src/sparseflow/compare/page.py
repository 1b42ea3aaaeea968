"""The page of a comparison, with the tables that everything on it is computed from."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from sparseflow.compare.budget import BUDGETS
from sparseflow.compare.comparison import Candidate, Cell, Comparison
from sparseflow.compare.exhibits import EXHIBITS, leaders
from sparseflow.compare.figures import percent
from sparseflow.compare.search import FACTORS
from sparseflow.compare.statistics import effects, outcomes, stability
from sparseflow.compare.tables import run_table, search_table
from sparseflow.lab.page.evidence import Evidence
from sparseflow.lab.page.page import as_csv, hardware, show_all, write_page
from sparseflow.lab.page.words import DATASETS_IN_WORDS, count, listed
from sparseflow.training.config import RunConfig
from sparseflow.training.environment import describe_environment
from sparseflow.training.names import METHODS
from sparseflow.training.runs import load_run


def evidence_of(runs: pd.DataFrame, search: pd.DataFrame) -> Evidence:
    """Everything that the page shows, from its two tables.

    Args:
        runs: Of :func:`.run_table`.
        search: Of :func:`.search_table`.
    """
    tables = {
        "runs": runs,
        "search": search,
        "outcomes": outcomes(runs),
        "stability": stability(runs),
        "effects": effects(search, list(FACTORS)),
    }
    return Evidence({}, tables, scale="compare")


def write_comparison(
    plan: Comparison,
    searched: Mapping[Cell, Sequence[Candidate]],
    compared: Mapping[str, Mapping[Cell, Sequence[RunConfig]]],
    *,
    root: Path,
    out: Path,
    command: str,
) -> Path:
    """Write the page of a comparison whose runs are done; return its path.

    Beside it ``runs.csv``, ``search.csv`` and ``environment.json``, as :func:`.write_page` writes files.

    Args:
        plan: The comparison.
        searched, compared: Of its methods of these names.
        root: Folder of all runs.
        out: Folder of the page.
        command: What was typed.
    """
    search = search_table(searched)
    evidence = evidence_of(run_table(plan, compared, searched, root=root), search)
    runs = evidence.tables["runs"]
    labels = {name: setting.label for name, setting in plan.settings.items()}
    finished = _first_runs(compared, root)
    networks = {name: _in_words(plan, name) for name in plan.networks}
    environment = {
        "command": command,
        "runs": hardware(finished),
        "report": describe_environment(),
        "networks": networks,
        "unmet": {f"{cell.network} {cell.sparsity:g} {cell.method}": why for cell, why in plan.unmet.items()},
    }
    trained = pd.concat([runs, search])[["config", "seconds"]].drop_duplicates("config")
    return write_page(
        out,
        "compare.html.j2",
        show_all(EXHIBITS, evidence, labels),
        files={
            # To the last bit: everything on the page is computed from these two.
            "runs.csv": as_csv(runs, digits=None),
            "search.csv": as_csv(search, digits=None),
            "environment.json": (json.dumps(environment, indent=2) + "\n").encode(),
        },
        headline=_headline(plan, runs),
        leaders=leaders(evidence.table("outcomes"), labels),
        networks=list(networks.values()),
        budgets=[BUDGETS[name] for name in plan.budgets],
        names=[METHODS[name] for name in plan.methods],
        unmet=[
            (METHODS[cell.method].label, labels[cell.network], percent(cell.sparsity), why)
            for cell, why in plan.unmet.items()
        ],
        seeds=plan.seeds,
        hours=float(trained["seconds"].sum()) / 3600,
        command=command,
        environment=environment,
    )


def _first_runs(compared: Mapping[str, Mapping[Cell, Sequence[RunConfig]]], root: Path) -> list[Any]:
    """A run of each cell that has one that did not diverge, for what they were trained with."""
    configs = [config for cells in compared.values() for of in cells.values() for config in of[:1]]
    return [load_run(root / config.name) for config in configs if (root / config.name / "done.json").is_file()]


def _headline(plan: Comparison, runs: pd.DataFrame) -> str:
    methods = len(set(runs["method"]))
    sparsities = listed([percent(value) for value in plan.sparsities])
    return (
        f"{count(methods, 'method')} on {count(len(plan.networks), 'network')} at {sparsities} zeros: each searched "
        f"alike, {count(plan.seeds, 'seed')}, the same images in the same order."
    )


def _in_words(plan: Comparison, name: str) -> str:
    setting = plan.settings[name]
    _, training, test = DATASETS_IN_WORDS[setting.usual.dataset]
    return (
        f"{setting.label}: {setting.steps} steps of {setting.usual.batch_size} images from {training:,}, {test:,} "
        f"others to be tested on; in the search {setting.search_steps} steps, without the {setting.holdout:,} images "
        "that it chooses by"
    )
