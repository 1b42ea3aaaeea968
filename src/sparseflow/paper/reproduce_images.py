"""The paper's ImageNet half: which runs and measurements an item needs, what they cost, and what came of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path

from sparseflow.lab.page.evidence import Evidence
from sparseflow.lab.page.page import Watched
from sparseflow.paper.claims import CIFAR_CLAIMS, IMAGENET_CLAIMS, judge
from sparseflow.paper.claims.verdict import Verdict
from sparseflow.paper.cost import SUSTAINED, core_seconds, device_seconds
from sparseflow.paper.matrix.cifar import ImageGroups
from sparseflow.paper.matrix.image_measured import IMAGE_TABLES, image_measurements
from sparseflow.paper.matrix.image_scales import ImageScale
from sparseflow.paper.measures.measurement import Measurement, read_tables
from sparseflow.paper.page import write_image_report
from sparseflow.training.images import ImageRun
from sparseflow.training.runs import is_done, load_run
from sparseflow.training.sweep import Training
from sparseflow.training.tasks import Task, in_order

#: Seconds of one core that a unit of a measurement's size stands for; a training step takes about as long.
UNIT = 0.1
#: Scale -> what judges its runs.
_JUDGES: dict[str, Callable[[Evidence], list[Verdict]]] = {
    "smoke": lambda evidence: [],
    "cifar": lambda evidence: judge(evidence, CIFAR_CLAIMS),
    "imagenet": lambda evidence: judge(evidence, IMAGENET_CLAIMS),
}


@dataclass(frozen=True)
class ImageMatrix:
    """All runs and measurements of an image scale."""

    scale: ImageScale
    groups: ImageGroups
    measurements: tuple[Measurement, ...]
    rate: float = SUSTAINED
    """Operations a second that a device is taken to sustain."""

    @classmethod
    def of(cls, scale: ImageScale, *, data_root: Path | None = None, rate: float = SUSTAINED) -> ImageMatrix:
        """The whole matrix.

        >>> from sparseflow.paper.matrix.image_scales import IMAGE_SCALES
        >>> "vgg16-90/rigl/sparse" in ImageMatrix.of(IMAGE_SCALES["cifar"]).groups
        True
        """
        found = scale.groups
        return cls(scale, found, tuple(image_measurements(scale, found, data_root=data_root)), rate)

    def items(self) -> dict[str, str]:
        """Items with what they are: a network, its kinds of runs, and the measurements."""
        return {
            **{f"{name}/*": f"every run of {name}" for name in dict.fromkeys(key.split("/")[0] for key in self.groups)},
            **dict.fromkeys(dict.fromkeys(_kind(key) for key in self.groups), ""),
            **dict.fromkeys(self._tables(), "measured"),
        }

    def tasks(self, items: Iterable[str], *, data_root: Path | None = None) -> list[Task]:
        """What has to be computed for items, what they need included.

        Args:
            items: ``all``, names of groups or of tables; ``*`` stands for anything.
            data_root: Folder of datasets.

        Raises:
            ValueError: if nothing has such a name.
        """
        wanted: dict[Task, None] = {}
        for item in items:
            runs = [
                run
                for name, group in self.groups.items()
                if item == "all" or fnmatchcase(name, item) or name.startswith(f"{item}/")
                for run in group
            ]
            measured = [
                one
                for one in self.measurements
                if item == "all" or any(fnmatchcase(table, item) for table in IMAGE_TABLES[one.kind])
            ]
            if not (runs or measured):
                raise ValueError(
                    f"there is no item {item!r} at --scale {self.scale.name}. Items are all, groups of runs such as "
                    f"{next(iter(self.groups))!r}, and {', '.join(self._tables()) or 'nothing measured'}; see "
                    f"sparseflow reproduce --list --scale {self.scale.name}."
                )
            wanted.update(dict.fromkeys([*(Training(run, data_root) for run in runs), *measured]))
        return in_order(list(wanted))

    def _tables(self) -> Iterator[str]:
        return iter(dict.fromkeys(table for one in self.measurements for table in IMAGE_TABLES[one.kind]))

    def seconds(self, tasks: Sequence[Task]) -> float:
        """About how long tasks take on one core, or on one device where the scale needs one."""
        return sum(
            self._run_seconds(task.config)
            if isinstance(task, Training) and isinstance(task.config, ImageRun)
            else UNIT * task.size
            for task in tasks
        )

    def _run_seconds(self, run: ImageRun) -> float:
        return core_seconds(run) if self.scale.machine == "core" else device_seconds(run, rate=self.rate)

    def judge(self, evidence: Evidence) -> list[Verdict]:
        """Whether each claim holds that a scale can say something about."""
        return _JUDGES[self.scale.name](evidence)

    def report(
        self, evidence: Evidence, verdicts: Sequence[Verdict], out: Path, *, command: str, watched: Watched = iter
    ) -> Path:
        """Write the page; ``watched`` is given the exhibits that are drawn in turn."""
        return write_image_report(evidence, verdicts, out, command=command, scale=self.scale, watched=watched)

    @property
    def machine(self) -> str:
        """What :meth:`seconds` are told of: core or device."""
        return self.scale.machine

    def evidence(self, root: Path) -> Evidence:
        """What is finished, by the names that claims and figures ask for."""
        runs = dict.fromkeys(run for group in self.groups.values() for run in group)
        loaded = {run: load_run(root / run.name) for run in runs if is_done(root, run)}
        found = {name: [loaded[run] for run in group if run in loaded] for name, group in self.groups.items()}
        tables = read_tables(self.measurements, root=root)
        return replace(Evidence(found, tables, self.scale.name), collapse_percent=self.scale.collapse_percent)


def _kind(group: str) -> str:
    """A group without what tells its initialisation and masks apart.

    >>> _kind("vgg16-90/rigl/sparse"), _kind("resnet14/lottery/mask0")
    ('vgg16-90/rigl', 'resnet14/lottery')
    """
    return "/".join(group.split("/")[:2])
