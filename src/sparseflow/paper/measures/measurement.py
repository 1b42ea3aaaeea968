"""A measurement is a pure function of finished runs, computed once and stored beside them, as a task of the pool."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from sparseflow.atomic import write_atomically
from sparseflow.disk import make_folder
from sparseflow.lab.page.evidence import Option
from sparseflow.paper.measures import MEASURES
from sparseflow.paper.measures.source import Source, Tables
from sparseflow.sealed import read_json, to_json
from sparseflow.training.config import RunConfig
from sparseflow.training.sweep import Training

FOLDER = "measurements"


@dataclass(frozen=True)
class Measurement:
    """A computation on finished runs, with the labels of its rows.

    >>> from sparseflow.training.digits import DigitRun
    >>> one = Measurement("spectrum", (DigitRun(snapshots=(200,)),), (("step", 200),), (("group", "lenet5/rigl"),))
    >>> one.name.startswith("spectrum-"), one.name == Measurement(one.kind, one.runs, (("step", 300),), one.labels).name
    (True, False)
    """

    kind: str
    """Key of :data:`~sparseflow.paper.measures.MEASURES`."""
    runs: tuple[RunConfig, ...]
    options: tuple[tuple[str, Option], ...] = ()
    """Arguments by name."""
    labels: tuple[tuple[str, Option], ...] = ()
    """Columns that every row gets, such as the group's name."""
    size: int = 1000
    """Its cost, in units of the scale's ``unit_seconds``."""
    data_root: Path | None = None
    """Folder of datasets; no part of the name."""

    @property
    def name(self) -> str:
        """File name without ending: kind and hash of runs, options and labels."""
        said = {
            "runs": [run.hash for run in self.runs],
            "options": dict(self.options),
            "labels": dict(self.labels),
        }
        digest = hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:12]
        return f"{self.kind}-{digest}"

    @property
    def needs(self) -> tuple[Training, ...]:
        """The trainings that it reads."""
        return tuple(Training(run, self.data_root) for run in self.runs)

    def path(self, root: Path) -> Path:
        """The file of its tables."""
        return root / FOLDER / f"{self.name}.json"

    def is_done(self, root: Path) -> bool:
        """Whether the file is there."""
        return self.path(root).is_file()

    def work(self, root: Path, report: Callable[[int], None]) -> None:
        """Compute and store it."""
        source = Source(root, self.data_root, lambda share: report(int(share * self.size)))
        tables = MEASURES[self.kind](source, self.runs, **dict(self.options))
        path = self.path(root)
        make_folder(path.parent)
        columns = {name: table.to_dict("list") for name, table in tables.items()}
        write_atomically(path, to_json(columns))
        report(self.size)

    def read(self, root: Path) -> Tables:
        """Its tables with labels and options as columns.

        Raises:
            ValueError: if the file is damaged.
        """
        columns = read_json(self.path(root), cure="Delete it and type the same command again.")
        added = dict(self.options) | dict(self.labels)
        return {name: pd.DataFrame(columns[name]).assign(**added) for name in columns}


def read_tables(measurements: Sequence[Measurement], *, root: Path) -> Tables:
    """All tables of the measurements that are done, by name, rows in the order given."""
    parts: defaultdict[str, list[pd.DataFrame]] = defaultdict(list)
    for measurement in measurements:
        if measurement.is_done(root):
            for name, table in measurement.read(root).items():
                parts[name].append(table)
    return {name: pd.concat(tables, ignore_index=True) for name, tables in parts.items()}
