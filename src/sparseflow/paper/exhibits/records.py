"""The files beside the paper's pages: every run in one table, and the machine and versions that made it all."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

import pandas as pd

from sparseflow.lab.page.evidence import Evidence
from sparseflow.lab.page.groups import group_of
from sparseflow.lab.page.page import hardware
from sparseflow.lab.page.summary import accuracy_percent, onset_step
from sparseflow.lab.page.table import Column, Table
from sparseflow.paper.changed import as_typed
from sparseflow.paper.matrix.scale import Scale
from sparseflow.paper.matrix.scales import SCALES
from sparseflow.training.environment import describe_environment
from sparseflow.training.runs import Run


class Member(NamedTuple):
    """A run as a member of a group."""

    group: str
    run: Run
    collapse_percent: float

    @property
    def variant(self) -> str:
        """The parts of the group's name that are neither network, method nor initialisation."""
        named = (*group_of(self.run.config), self.run.config.family)
        return "/".join(part for part in self.group.split("/") if part not in named)


_GROUP = Column("group", lambda of: of.group)
_SEED = Column("seed", lambda of: of.run.config.seed)
_ACCURACY = Column("accuracy", lambda of: accuracy_percent(of.run))
_LOSS = Column("loss", lambda of: of.run.final["test/loss"])
_SECONDS = Column("seconds", lambda of: of.run.seconds)
_CONFIG = Column("config", lambda of: of.run.config.hash)
#: Columns of ``runs.csv``. ``accuracy`` is percent, ``onset`` the first step with a loss below 2.2 (infinity if never),
#: ``config`` the hash at the end of the name of the run's folder.
RUN_COLUMNS = (
    _GROUP,
    Column("network", lambda of: of.run.config.model),
    Column("method", lambda of: group_of(of.run.config).method),
    Column("init", lambda of: group_of(of.run.config).init),
    _SEED,
    Column("variant", lambda of: of.variant),
    _ACCURACY,
    _LOSS,
    Column("collapsed", lambda of: accuracy_percent(of.run) < of.collapse_percent),
    Column("onset", lambda of: onset_step(of.run.metrics)),
    _SECONDS,
    _CONFIG,
)
#: The same for runs on images.
IMAGE_RUN_COLUMNS = (
    _GROUP,
    Column("network", lambda of: of.run.config.network),
    Column("width", lambda of: of.run.config.width),
    Column("method", lambda of: of.run.config.method),
    Column("init", lambda of: of.run.config.init),
    Column("sparsity", lambda of: of.run.final["sparsity"]),
    _SEED,
    _ACCURACY,
    _LOSS,
    _SECONDS,
    _CONFIG,
)


def runs_csv(evidence: Evidence, columns: tuple[Column, ...] = RUN_COLUMNS) -> pd.DataFrame:
    """One row per run and group; a run that two groups share is in both.

    >>> runs_csv(Evidence({}, {})).columns[0]
    'group'
    """
    members = [Member(name, run, evidence.collapse_percent) for name, runs in evidence.groups.items() for run in runs]
    return Table.of(columns, members, name="runs", caption="").data


def distinct_runs(evidence: Evidence) -> list[Run]:
    """The runs of all groups, each once."""
    return list({run.config: run for runs in evidence.groups.values() for run in runs}.values())


def environment_json(evidence: Evidence, *, command: str, scale: Scale) -> dict[str, Any]:
    """Machine and versions of the runs and of this page, what was typed, and the seconds of training."""
    runs = distinct_runs(evidence)
    return {
        "command": command,
        "scale": scale.name,
        **as_typed(scale, SCALES[scale.name]),
        "num_runs": len(runs),
        "training_seconds": sum(run.seconds for run in runs),
        "runs": hardware(runs),
        "report": describe_environment(),
    }


def as_json(values: dict[str, Any]) -> bytes:
    """Values as readable JSON, the same bytes for the same values."""
    return (json.dumps(values, indent=2) + "\n").encode()
