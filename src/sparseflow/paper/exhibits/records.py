"""What is written beside the page: every run in one table, and what it was all computed with."""

from __future__ import annotations

import json
from typing import Any

import pandas as pd

from sparseflow.lab.demo.page import hardware
from sparseflow.lab.page.evidence import Evidence
from sparseflow.lab.page.groups import group_of
from sparseflow.lab.page.summary import accuracy_percent, onset_step
from sparseflow.paper.matrix.image_scales import ImageScale
from sparseflow.paper.matrix.scales import Scale
from sparseflow.training.environment import describe_environment
from sparseflow.training.runs import Run

RUN_COLUMNS = (
    "group", "network", "method", "init", "seed", "variant", "accuracy", "loss", "collapsed", "onset", "seconds",
    "config",
)  # fmt: skip


def runs_csv(evidence: Evidence) -> pd.DataFrame:
    """One row a run and group, columns ``RUN_COLUMNS``; a run that two groups share is in both.

    ``accuracy`` is percent, ``onset`` the first step with a loss below 2.2 (infinity if never), ``config`` the hash at
    the end of the name of the run's folder.

    >>> runs_csv(Evidence({}, {})).columns[0]
    'group'
    """
    rows = [_row(name, run, evidence.collapse_percent) for name, runs in evidence.groups.items() for run in runs]
    return pd.DataFrame(rows, columns=list(RUN_COLUMNS))


def _row(name: str, run: Run, collapse_percent: float) -> tuple[object, ...]:
    method, init = group_of(run.config)
    network = run.config.model.removesuffix("-small")
    variant = "/".join(part for part in name.split("/") if part not in (method, init, network))
    accuracy = accuracy_percent(run)
    return (
        name, run.config.model, method, init, run.config.seed, variant, accuracy, run.final["test/loss"],
        accuracy < collapse_percent, onset_step(run.metrics), run.seconds, run.config.hash,
    )  # fmt: skip


def distinct_runs(evidence: Evidence) -> list[Run]:
    """Every run once."""
    return list({run.config: run for runs in evidence.groups.values() for run in runs}.values())


def environment_json(evidence: Evidence, *, command: str, scale: Scale | ImageScale) -> dict[str, Any]:
    """Machine and versions of the runs and of this page, the command, and how long training took."""
    runs = distinct_runs(evidence)
    return {
        "command": command,
        "scale": scale.name,
        "num_runs": len(runs),
        "training_seconds": sum(run.seconds for run in runs),
        "runs": hardware(runs),
        "report": describe_environment(),
    }


def as_json(values: dict[str, Any]) -> bytes:
    """Readable, the same bytes for the same values."""
    return (json.dumps(values, indent=2) + "\n").encode()
