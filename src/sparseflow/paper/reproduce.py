"""The paper at a scale: the runs and measurements that items need, their cost, and the evidence from them."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from operator import itemgetter
from pathlib import Path
from typing import Any

import pandas as pd

from sparseflow.disk import read_bytes
from sparseflow.lab.page.evidence import Evidence
from sparseflow.lab.page.exhibit import Exhibit
from sparseflow.lab.page.page import Watched, as_csv
from sparseflow.paper.changed import as_planned
from sparseflow.paper.claims import CIFAR_CLAIMS, CIFAR_LONG_CLAIMS, CLAIMS, IMAGENET_CLAIMS, Judge, judge
from sparseflow.paper.claims.pruning_runs import mask_of
from sparseflow.paper.claims.verdict import Verdict
from sparseflow.paper.committed import PER_RUN, read_committed
from sparseflow.paper.cost import SUSTAINED, device_seconds
from sparseflow.paper.exhibits.all import EXHIBITS
from sparseflow.paper.exhibits.verdicts import claims_csv, judged
from sparseflow.paper.matrix.measured import TABLES
from sparseflow.paper.matrix.scale import Groups, Scale
from sparseflow.paper.matrix.scales import SCALES
from sparseflow.paper.measures.measurement import Measurement, read_tables
from sparseflow.paper.page import Asked, at_scale, opening, write_image_report, write_paper_report
from sparseflow.suggest import did_you_mean
from sparseflow.training.runs import is_done, load_run
from sparseflow.training.sweep import Training
from sparseflow.training.tasks import Task, in_order

#: Scale -> the claims that its runs can decide.
_CLAIMS: Mapping[str, Mapping[str, Judge]] = {
    "demo": CLAIMS,
    "paper": CLAIMS,
    "smoke": {},
    "cifar": CIFAR_CLAIMS,
    "cifar-long": CIFAR_LONG_CLAIMS,
    "imagenet": IMAGENET_CLAIMS,
}
_PAGES: Mapping[str, Callable[..., Path]] = {"paper": write_paper_report, "images": write_image_report}


@dataclass(frozen=True)
class Matrix:
    """All runs and measurements of a scale."""

    scale: Scale
    measurements: tuple[Measurement, ...]
    rate: float = SUSTAINED
    """Operations per second that a device is taken to sustain."""

    @classmethod
    def of(cls, scale: Scale, *, data_root: Path | None = None, rate: float = SUSTAINED) -> Matrix:
        """The whole matrix.

        >>> from sparseflow.paper.matrix.scales import CIFAR, DEMO
        >>> len(Matrix.of(DEMO).groups) > 50, "vgg16-90/rigl/sparse" in Matrix.of(CIFAR).groups
        (True, True)
        """
        return cls(scale, scale.measurements(data_root=data_root), rate)

    @classmethod
    def of_page(cls, folder: Path) -> Matrix:
        """The matrix whose runs a page was written about.

        Raises:
            ValueError: if the folder has no page of ``sparseflow reproduce``, or one whose verdicts cannot be judged
                again.
        """
        stored = folder / "environment.json"
        if not stored.is_file():
            raise ValueError(f"{folder} has no page of sparseflow reproduce. Name its folder, such as results/paper.")
        made = json.loads(read_bytes(stored))
        if not {"seeds", "set"} <= made.keys() or not (folder / PER_RUN).is_file():
            raise ValueError(
                f"{folder} has a page, but no {PER_RUN} that its verdicts can be judged from again. Write it once "
                f"more: {made['command']}"
            )
        return cls.of(as_planned(SCALES[made["scale"]], seeds=made["seeds"], set=made["set"]))

    @property
    def groups(self) -> Groups:
        """Name of a group -> its runs."""
        return self.scale.groups

    @property
    def exhibits(self) -> Mapping[str, Exhibit]:
        """The exhibits that are items, with what they need; those of runs on images are asked for by group."""
        return EXHIBITS if self.scale.page == "paper" else {}

    def items(self) -> dict[str, str]:
        """Items with what they are about: exhibits that need anything, or networks, kinds of runs and tables."""
        if self.exhibits:
            return {name: one.title for name, one in self.exhibits.items() if one.groups or one.tables}
        networks = dict.fromkeys(name.split("/")[0] for name in self.groups)
        return {
            **{f"{name}/*": f"every run of {name}" for name in networks},
            **dict.fromkeys(map(_kind, self.groups), ""),
            **dict.fromkeys(self._tables(), "measured"),
        }

    def tasks(self, items: Iterable[str], *, data_root: Path | None = None) -> list[Task]:
        """The runs and measurements that items need, in order: one run of every group before the second of any.

        Args:
            items: ``all``, exhibits, ids of claims, names of groups or of tables; ``*`` stands for anything.
            data_root: Folder of datasets.

        Raises:
            ValueError: if nothing has such a name.

        >>> from sparseflow.paper.matrix.scales import DEMO
        >>> [task.config.method for task in Matrix.of(DEMO).tasks(["lenet5/dense"])]
        ['dense', 'dense']
        """
        wanted: dict[str, None] = {}
        measured: dict[Measurement, None] = {}
        for item in items:
            names, found = self._named(item)
            wanted.update(dict.fromkeys(names))
            measured.update(dict.fromkeys(found))
        # Those on other masks count as repetitions of those on the first.
        rounds = [(mask_of(name) + place, config) for name in wanted for place, config in enumerate(self.groups[name])]
        runs = dict.fromkeys(config for _, config in sorted(rounds, key=itemgetter(0)))
        return in_order([*(Training(config, data_root) for config in runs), *measured])

    def _named(self, item: str) -> tuple[list[str], list[Measurement]]:
        """Groups and measurements of one item."""
        if item == "all":
            return list(self.groups), list(self.measurements)
        exhibits = self._exhibits_named(item)
        patterns = (item, *(pattern for exhibit in exhibits for pattern in exhibit.groups))
        matches = [
            name
            for name in self.groups
            if any(fnmatchcase(name, pattern) for pattern in patterns)
            or (not self.exhibits and name.startswith(f"{item}/"))
        ]
        measured = [
            one
            for one in self.measurements
            if any(fnmatchcase(table, item) for table in TABLES[one.kind])
            or any(_is_shown(one, exhibit, self.scale) for exhibit in exhibits)
        ]
        if not (exhibits or matches or measured):
            known = [*self.exhibits, *(["ids of claims such as C06"] if self.exhibits else []), *self._tables()]
            raise ValueError(
                f"there is no item {item!r} at --scale {self.scale.name}. Items are all, groups of runs such as "
                f"{next(iter(self.groups))!r}, {', '.join(known) or 'and nothing measured'}; see sparseflow reproduce "
                f"--list --scale {self.scale.name}.{did_you_mean(item, [*known, *self.groups, *self._claims])}"
            )
        return matches, measured

    def asked(self, items: Sequence[str]) -> Asked | None:
        """What a page about these items is headed with; None for everything.

        >>> from sparseflow.paper.matrix.scales import DEMO
        >>> Matrix.of(DEMO).asked(["fig3b"]).claims, Matrix.of(DEMO).asked(["all"])
        (('C17', 'C18', 'C19'), None)
        """
        if "all" in items:
            return None
        about = [claim for item in items for one in self._exhibits_named(item) for claim in one.claims]
        named = [item for item in items if item in self._claims]
        return Asked(tuple(items), tuple(sorted({*(named or about)})))

    @property
    def _claims(self) -> Mapping[str, Judge]:
        return _CLAIMS[self.scale.name]

    def _exhibits_named(self, item: str) -> list[Exhibit]:
        return [
            exhibit
            for name, exhibit in self.exhibits.items()
            if fnmatchcase(name, item) or name.rstrip("abc") == item or item in exhibit.claims
        ]

    def _tables(self) -> list[str]:
        return list(dict.fromkeys(table for one in self.measurements for table in TABLES[one.kind]))

    def seconds(self, tasks: Sequence[Task]) -> float:
        """Estimated time of tasks on one core, or on one device where the scale needs one."""
        return sum(
            self._run_seconds(task.config) if isinstance(task, Training) else self.scale.unit_seconds * task.size
            for task in tasks
        )

    def _run_seconds(self, run: Any) -> float:
        return device_seconds(run, rate=self.rate) if self.scale.machine == "device" else self.scale.cost(run)

    def judge(self, evidence: Evidence) -> list[Verdict]:
        """The verdicts on the claims that the scale's runs can decide; what their notes say to type is at the scale."""
        found = judge(evidence, self._claims)
        return [replace(verdict, note=at_scale(verdict.note, self.scale)) for verdict in found]

    @staticmethod
    def opening(verdicts: Sequence[Verdict], asked: Asked | None) -> str:
        """What the page begins with: how many claims held, of those that were asked for."""
        return opening([claim for claim in judged(verdicts) if claim.verdict != "not judged"], asked)

    def rejudged(self, folder: Path) -> list[str]:
        """Judge every claim again from the tables beside a page, and say in a line each what differs from its CSV.

        Raises:
            ValueError: if the folder has no such tables, or they are of other runs.
        """
        verdicts = self.judge(read_committed(folder, self.groups, self.scale))
        table = as_csv(claims_csv(verdicts))
        ours, theirs = (
            pd.read_csv(source, dtype=str, keep_default_na=False).set_index("id")
            for source in (io.BytesIO(table), folder / "claims.csv")
        )
        if list(ours.index) != list(theirs.index) or list(ours.columns) != list(theirs.columns):
            return [f"{folder / 'claims.csv'} is about other claims, or says other things of them."]
        differs = ours != theirs
        return [
            f"{id} {column}: {ours.loc[id, column]!r}, but the page has {theirs.loc[id, column]!r}"
            for id in ours.index[differs.any(axis=1)]
            for column in ours.columns[differs.loc[id]]
        ]

    def report(
        self,
        evidence: Evidence,
        verdicts: Sequence[Verdict],
        out: Path,
        *,
        command: str,
        asked: Asked | None = None,
        changes: str = "",
        watched: Watched = iter,
    ) -> Path:
        """Write the page.

        Args:
            evidence: What there is.
            verdicts: Of :meth:`judge`.
            out: Folder of the page.
            command: What was typed.
            asked: Of :meth:`asked`.
            changes: How the runs differ from the scale's; it stands at the head of the page.
            watched: Iterates over the exhibits as they are drawn.
        """
        write = _PAGES[self.scale.page]
        said = {"command": command, "asked": asked, "changes": changes}
        return write(evidence, verdicts, out, scale=self.scale, watched=watched, **said)

    def evidence(self, root: Path) -> Evidence:
        """The finished runs and measurements, by the names that claims and figures ask for."""
        runs = dict.fromkeys(config for group in self.groups.values() for config in group)
        loaded = {config: load_run(root / config.name) for config in runs if is_done(root, config)}
        found = {
            name: [loaded[config] for config in configs if config in loaded] for name, configs in self.groups.items()
        }
        tables = read_tables(self.measurements, root=root)
        return Evidence(found, tables, self.scale.name, self.scale.collapse_percent)


def _is_shown(measurement: Measurement, exhibit: Exhibit, scale: Scale) -> bool:
    """Whether it fills a table of the exhibit, with a row that is shown there."""
    row = dict(measurement.options) | dict(measurement.labels)
    return not set(exhibit.tables).isdisjoint(TABLES[measurement.kind]) and exhibit.shows(row, scale)


def _kind(group: str) -> str:
    """A group's name without its initialisation and masks.

    >>> _kind("vgg16-90/rigl/sparse"), _kind("resnet14/lottery/mask0")
    ('vgg16-90/rigl', 'resnet14/lottery')
    """
    return "/".join(group.split("/")[:2])
