"""``sparseflow reproduce``: the paper's MNIST experiments, all or some, and the page about them."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro
from rich import box
from rich.console import Console
from rich.table import Column, Table

if TYPE_CHECKING:
    from sparseflow.lab.pool import Task
    from sparseflow.lab.reproduce import Matrix

_out = Console()
_err = Console(stderr=True)

_OptionalPath = Annotated[Path | None, tyro.conf.arg(metavar="PATH")]


@dataclass(frozen=True)
class Reproduce:
    """Re-measure the paper on MNIST, and write a page about its tables, figures and claims."""

    items: tyro.conf.Positional[tuple[str, ...]] = ("all",)
    """all, fig1c ... fig11b, table1 ... table6, film, grid, C01 ... C53, or groups of runs such as lenet5/rigl/*."""
    scale: Literal["demo", "paper"] = "demo"
    """demo: 4000 digits, minutes. paper: MNIST, 11719 steps, hours on 2 cores."""
    only: tuple[str, ...] = ()
    """Of the items, only these."""
    seeds: Annotated[int | None, tyro.conf.arg(metavar="INT")] = None
    """Repetitions of every cell; None: as the claims need (5 to 20 at paper scale)."""
    jobs: Annotated[int | None, tyro.conf.arg(metavar="INT")] = None
    """Processes, one thread each; None: one a CPU."""
    ray: Annotated[str | None, tyro.conf.arg(metavar="ADDRESS")] = None
    """Ray cluster; its machines share --out."""
    out: _OptionalPath = None
    """Folder of the runs; None: runs/<scale>."""
    report: _OptionalPath = None
    """Folder of the page; None: <out>/report."""
    data: _OptionalPath = None
    """Folder of datasets; None: $SPARSEFLOW_DATA, else the user's cache."""
    list: bool = False
    """Show every item with its runs and cost, and train nothing."""

    def run(self) -> None:
        """Train and measure what is not there yet, judge the claims, write the page."""
        from sparseflow.lab.claims import judge
        from sparseflow.lab.paper.page import write_paper_report
        from sparseflow.lab.pool import check_jobs, local_jobs, run_tasks
        from sparseflow.lab.recipes.scales import SCALES
        from sparseflow.lab.reproduce import Matrix, seconds
        from sparseflow.lab.sweep import Training, prepare

        check_jobs(self.jobs)
        scale = SCALES[self.scale]
        if self.seeds is not None:
            scale = scale.with_seeds(self.seeds)
        root = self.out or Path("runs") / self.scale
        # Other machines have other working folders.
        data = self.data and self.data.absolute()
        matrix = Matrix.of(scale, data_root=data)
        if self.list:
            _out.print(_listing(matrix, root))
            return
        tasks = matrix.tasks(self.only or self.items, data_root=data)
        todo = [task for task in tasks if not task.is_done(root)]
        runs = sum(isinstance(task, Training) for task in tasks)
        jobs = 1 if self.ray and self.jobs is None else local_jobs(self.jobs)
        where = f"{jobs} processes" if self.jobs or not self.ray else "one CPU, shared by those of the cluster"
        _err.print(
            f"runs {runs}, measurements {len(tasks) - runs}; to do: {len(todo)}, about "
            f"{_duration(seconds(todo) / jobs)} on {where}",
            soft_wrap=True,
        )
        began = time.monotonic()
        prepare(todo, root=root, data_root=data)
        run_tasks(tasks, root=root, jobs=self.jobs, ray=self.ray, console=_err)
        with _err.status("reading runs, judging claims, drawing figures"):
            evidence = matrix.evidence(root)
            verdicts = judge(evidence)
            command = shlex.join(["sparseflow", *sys.argv[1:]])
            page = write_paper_report(evidence, verdicts, self.report or root / "report", command=command, scale=scale)
        counts = {kind: sum(v.verdict == kind for v in verdicts) for kind in ("held", "failed", "inconclusive")}
        _out.print(", ".join(f"{count} claims {kind}" for kind, count in counts.items()))
        _err.print(f"{_duration(time.monotonic() - began)}.")
        _out.print(f"Open [bold]{page}[/bold] in a browser.", soft_wrap=True)


def _listing(matrix: Matrix, root: Path) -> Table:
    from sparseflow.lab.paper.exhibits import EXHIBITS

    table = Table(
        Column("item", no_wrap=True),
        "what",
        *(Column(name, justify="right", no_wrap=True) for name in ("runs", "measured", "core time", "done")),
        title=f"sparseflow reproduce ITEM --scale {matrix.scale.name}",
        caption="What items share is computed once. Core time is that of one core.",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
        show_edge=False,
    )
    for name, exhibit in EXHIBITS.items():
        if exhibit.groups or exhibit.tables:
            _row(table, name, exhibit.title, matrix.tasks([name]), root)
    table.add_section()
    _row(table, "all", "", matrix.tasks(["all"]), root)
    return table


def _row(table: Table, name: str, title: str, tasks: Sequence[Task], root: Path) -> None:
    from sparseflow.lab.reproduce import seconds
    from sparseflow.lab.sweep import Training

    runs = sum(isinstance(task, Training) for task in tasks)
    done = sum(task.is_done(root) for task in tasks)
    table.add_row(name, title, str(runs), str(len(tasks) - runs), _duration(seconds(tasks)), f"{done}/{len(tasks)}")


def _duration(seconds: float) -> str:
    """Rounded for people.

    >>> _duration(40), _duration(340), _duration(8000)
    ('40 s', '6 min', '2.2 h')
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
