"""The paper on MNIST: which runs and measurements an item needs, what they cost, and what came of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import ClassVar

from sparseflow.lab.page.evidence import Evidence
from sparseflow.lab.page.exhibit import Exhibit
from sparseflow.lab.page.page import Watched
from sparseflow.paper.claims import judge
from sparseflow.paper.claims.verdict import Verdict
from sparseflow.paper.exhibits.all import EXHIBITS
from sparseflow.paper.matrix.measured import TABLES, measurements
from sparseflow.paper.matrix.mnist import Groups, groups
from sparseflow.paper.matrix.scales import Scale
from sparseflow.paper.measures.measurement import Measurement, read_tables
from sparseflow.paper.page import write_paper_report
from sparseflow.training.digits import DigitRun
from sparseflow.training.runs import is_done, load_run
from sparseflow.training.sweep import Training
from sparseflow.training.tasks import Task, in_order

#: Milliseconds a step takes on one core of a server of 2023, batch 128: (model, is it sparse from the start).
_STEP = {
    ("lenet5", True): 1.3, ("lenet5", False): 7.0, ("lenet5-small", False): 1.5,
    ("mlp", True): 0.5, ("mlp", False): 3.5, ("mlp-small", False): 0.4,
}  # fmt: skip
#: Pruning runs are dense for a quarter of their steps.
_PRUNING_SHARE = 0.6


@dataclass(frozen=True)
class Matrix:
    """All runs and measurements of a scale."""

    scale: Scale
    groups: Groups
    measurements: tuple[Measurement, ...]
    machine: ClassVar = "core"

    @classmethod
    def of(cls, scale: Scale, *, data_root: Path | None = None) -> Matrix:
        """The whole matrix.

        >>> from sparseflow.paper.matrix.scales import DEMO
        >>> len(Matrix.of(DEMO).groups) > 50
        True
        """
        found = groups(scale)
        return cls(scale, found, tuple(measurements(scale, found, data_root=data_root)))

    def items(self) -> dict[str, str]:
        """Items that need anything, with what they are about."""
        return {name: exhibit.title for name, exhibit in EXHIBITS.items() if exhibit.groups or exhibit.tables}

    def tasks(self, items: Iterable[str], *, data_root: Path | None = None) -> list[Task]:
        """What has to be computed for items, what they need included.

        Args:
            items: ``all``, keys of :data:`.EXHIBITS`, ids of claims, names of groups or of tables; ``*`` stands for
                anything.
            data_root: Folder of datasets.

        Raises:
            ValueError: if nothing has such a name.

        >>> from sparseflow.paper.matrix.scales import DEMO
        >>> [task.config.method for task in Matrix.of(DEMO).tasks(["lenet5/dense"])]
        ['dense', 'dense']
        """
        wanted_groups: dict[str, None] = {}
        measured: dict[Measurement, None] = {}
        for item in items:
            names, found = self._named(item)
            wanted_groups.update(dict.fromkeys(names))
            measured.update(dict.fromkeys(found))
        runs = dict.fromkeys(config for name in wanted_groups for config in self.groups[name])
        return in_order([*(Training(config, data_root) for config in runs), *measured])

    def _named(self, item: str) -> tuple[list[str], list[Measurement]]:
        """Groups and measurements of one item."""
        if item == "all":
            return list(self.groups), list(self.measurements)
        exhibits = [
            exhibit
            for name, exhibit in EXHIBITS.items()
            if fnmatchcase(name, item) or name.rstrip("abc") == item or item in exhibit.claims
        ]
        patterns = (item, *(pattern for exhibit in exhibits for pattern in exhibit.groups))
        matches = [name for name in self.groups if any(fnmatchcase(name, pattern) for pattern in patterns)]
        measured = [
            one
            for one in self.measurements
            if any(fnmatchcase(table, item) for table in TABLES[one.kind])
            or any(_is_shown(one, exhibit, self.scale) for exhibit in exhibits)
        ]
        if not (exhibits or matches or measured):
            raise ValueError(
                f"there is no item {item!r}. Items are {', '.join(EXHIBITS)}, claims such as C06, groups of runs "
                "such as 'lenet5/rigl/*'; see sparseflow reproduce --list."
            )
        return matches, measured

    def seconds(self, tasks: Sequence[Task]) -> float:
        """About how long tasks take on one core."""
        return seconds(tasks)

    def judge(self, evidence: Evidence) -> list[Verdict]:
        """Whether each claim holds."""
        return judge(evidence)

    def report(
        self, evidence: Evidence, verdicts: Sequence[Verdict], out: Path, *, command: str, watched: Watched = iter
    ) -> Path:
        """Write the page; ``watched`` is given the exhibits that are drawn in turn."""
        return write_paper_report(evidence, verdicts, out, command=command, scale=self.scale, watched=watched)

    def evidence(self, root: Path) -> Evidence:
        """What is finished, by the names that claims and figures ask for."""
        loaded = {
            config: load_run(root / config.name)
            for config in dict.fromkeys(config for configs in self.groups.values() for config in configs)
            if is_done(root, config)
        }
        found = {
            name: [loaded[config] for config in configs if config in loaded] for name, configs in self.groups.items()
        }
        return Evidence(found, read_tables(self.measurements, root=root), self.scale.name)


def _is_shown(measurement: Measurement, exhibit: Exhibit, scale: Scale) -> bool:
    """Whether it fills a table of the exhibit, with a row that is shown there."""
    row = dict(measurement.options) | dict(measurement.labels)
    return not set(exhibit.tables).isdisjoint(TABLES[measurement.kind]) and exhibit.shows(row, scale)


def seconds(tasks: Sequence[Task]) -> float:
    """About how long tasks take on one core; as good as the table of step times above.

    >>> from sparseflow.training.digits import DigitRun
    >>> 10 < seconds([Training(DigitRun())]) < 30
    True
    """
    total = 0.0
    for task in tasks:
        if isinstance(task, Training) and isinstance(task.config, DigitRun):
            config = task.config
            dense = _STEP.get((config.model, False), _STEP["lenet5", False])
            step = _STEP.get((config.model, True), dense) if config.method not in ("dense", "prune") else dense
            if config.method == "prune":
                step *= _PRUNING_SHARE
            total += config.steps * step * config.batch_size / 128 / 1000
        else:
            total += task.size / 1000
    return total
