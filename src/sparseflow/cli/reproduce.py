"""``sparseflow reproduce``: the paper's experiments, all or some, and the page about them."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro
from rich import box
from rich.console import Console
from rich.progress import track
from rich.table import Column, Table

from sparseflow.cli.words import duration, typed_command
from sparseflow.ranges import Count, Positive

if TYPE_CHECKING:
    from sparseflow.paper.reproduce import Matrix

_out = Console()
_err = Console(stderr=True)

_CAPTIONS = {
    "core": "Core time is that of one core.",
    "device": "Device time is that of one GPU at the rate of --tflops, for training steps alone.",
}
_OptionalPath = Annotated[Path | None, tyro.conf.arg(metavar="PATH")]


@dataclass(frozen=True)
class Reproduce:
    """Re-measure the paper, and write a page about its claims."""

    items: tyro.conf.Positional[tuple[str, ...]] = ("all",)
    """all, fig1c ... fig11b, table1 ... table6, film, grid, C01 ... C53, or groups of runs such as lenet5/rigl/*."""
    scale: Literal["demo", "paper", "smoke", "cifar", "cifar-long", "imagenet"] = "demo"
    """MNIST: demo, paper (hours). Images: smoke, cifar (hours), cifar-long (a day), imagenet (GPU months)."""
    only: tuple[str, ...] = ()
    """Of the items, only these."""
    set: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME=VALUE")] = ()
    """Changed settings, such as sparsity=0.9."""
    seeds: Annotated[Count | None, tyro.conf.arg(metavar="INT")] = None
    """Repetitions of every cell; None: as the claims need."""
    jobs: Annotated[Count | None, tyro.conf.arg(metavar="INT")] = None
    """Processes, one thread each; None: one per CPU."""
    ray: Annotated[str | None, tyro.conf.arg(metavar="ADDRESS")] = None
    """Ray cluster; its machines share --out."""
    out: _OptionalPath = None
    """Folder of the runs; None: runs/<scale>, and what is --set."""
    report: _OptionalPath = None
    """Folder of the page; None: <out>/report."""
    data: _OptionalPath = None
    """Folder of datasets; None: $SPARSEFLOW_DATA, or a cache."""
    verdicts: _OptionalPath = None
    """A page's folder: judge again from its tables, train nothing."""
    list: bool = False
    """Show every item and its cost, and train nothing."""
    tflops: Annotated[Positive | None, tyro.conf.arg(metavar="FLOAT")] = None
    """Of a GPU, for the cost of imagenet; None: 60."""

    def run(self) -> None:
        """Train and measure what is missing, judge the claims, and write the page."""
        from sparseflow.paper.changed import check_read, in_words, parsed_settings
        from sparseflow.paper.matrix.scales import SCALES
        from sparseflow.training.pool import check_jobs, local_jobs, run_tasks
        from sparseflow.training.sweep import Training, prepare

        if self.verdicts is not None:
            if self != Reproduce(verdicts=self.verdicts):
                raise ValueError(
                    "--verdicts judges a page as it was made and takes no items and no other option. Type sparseflow "
                    f"reproduce --verdicts {self.verdicts}"
                )
            _judge_again(self.verdicts)
            return
        check_jobs(self.jobs)
        settings = parsed_settings(self.set, SCALES[self.scale])
        root = self.out or Path("runs") / "-".join([self.scale, *(f"{name}-{to}" for name, to in settings.items())])
        # Other machines have other working folders.
        data = self.data and self.data.absolute()
        matrix = self._matrix(data)
        if self.list:
            _out.print(_listing(matrix, root))
            return
        items = self.only or self.items
        tasks = matrix.tasks(items, data_root=data)
        check_read(settings, tasks)
        todo = [task for task in tasks if not task.is_done(root)]
        runs = sum(isinstance(task, Training) for task in tasks)
        jobs = 1 if self.ray and self.jobs is None else local_jobs(self.jobs)
        where = f"{jobs} processes" if self.jobs or not self.ray else "one CPU, shared by those of the cluster"
        if matrix.scale.machine == "device":
            jobs, where = 1, "one GPU"
        _err.print(
            f"runs {runs}, measurements {len(tasks) - runs}; to do: {len(todo)}, about "
            f"{duration(matrix.seconds(todo) / jobs)} on {where}",
            soft_wrap=True,
        )
        began = time.monotonic()
        prepare(todo, root=root, data_root=data)
        run_tasks(tasks, root=root, jobs=self.jobs, ray=self.ray, console=_err)
        with _err.status("reading runs, judging claims"):
            evidence = matrix.evidence(root)
            verdicts = matrix.judge(evidence)
        command, asked = typed_command(), matrix.asked(items)
        drawing = partial(track, description="drawing", console=_err, transient=True)
        page = matrix.report(
            evidence,
            verdicts,
            self.report or root / "report",
            command=command,
            asked=asked,
            changes=in_words(settings, SCALES[self.scale]),
            watched=drawing,
        )
        if verdicts:
            _out.print(matrix.opening(verdicts, asked), markup=False, soft_wrap=True)
        _err.print(f"{duration(time.monotonic() - began)}.")
        _out.print(f"Open [bold]{page}[/bold] in a browser.", soft_wrap=True)

    def _matrix(self, data: Path | None) -> Matrix:
        from sparseflow.paper.changed import as_planned
        from sparseflow.paper.cost import SUSTAINED
        from sparseflow.paper.matrix.scales import SCALES
        from sparseflow.paper.reproduce import Matrix

        scale = as_planned(SCALES[self.scale], seeds=self.seeds, set=self.set)
        rate = SUSTAINED if self.tflops is None else self.tflops * 1e12
        return Matrix.of(scale, data_root=data, rate=rate)


def _judge_again(folder: Path) -> None:
    """Compare a page's verdicts with what its tables say.

    Raises:
        ValueError: if there are no tables; SystemExit(1) if a verdict differs.
    """
    from sparseflow.paper.reproduce import Matrix

    if found := Matrix.of_page(folder).rejudged(folder):
        _err.print("\n".join(found), markup=False, soft_wrap=True)
        raise SystemExit(1)
    _out.print(f"Every verdict in {folder / 'claims.csv'} is what the tables beside it say.", soft_wrap=True)


def _listing(matrix: Matrix, root: Path) -> Table:
    time = f"{matrix.scale.machine} time"
    table = Table(
        Column("item", no_wrap=True),
        "what",
        *(Column(name, justify="right", no_wrap=True) for name in ("runs", "measured", time, "done")),
        title=f"sparseflow reproduce ITEM --scale {matrix.scale.name}",
        caption=f"What items share is computed once. {_CAPTIONS[matrix.scale.machine]}",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
        show_edge=False,
    )
    for name, title in matrix.items().items():
        _row(table, name, title, matrix, root)
    table.add_section()
    _row(table, "all", "", matrix, root)
    return table


def _row(table: Table, name: str, title: str, matrix: Matrix, root: Path) -> None:
    from sparseflow.training.sweep import Training

    tasks = matrix.tasks([name])
    runs = sum(isinstance(task, Training) for task in tasks)
    done = sum(task.is_done(root) for task in tasks)
    cost = duration(matrix.seconds(tasks))
    table.add_row(name, title, str(runs), str(len(tasks) - runs), cost, f"{done}/{len(tasks)}")
