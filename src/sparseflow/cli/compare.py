"""``sparseflow compare``: every method on one budget, and the page about it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro
from rich import box
from rich.console import Console
from rich.table import Column, Table

from sparseflow.cli.options import OptionalPath
from sparseflow.cli.words import duration, typed_command
from sparseflow.ranges import Count

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sparseflow.compare.comparison import Comparison
    from sparseflow.training.config import RunConfig
    from sparseflow.training.trial import Trial

_out = Console()
_err = Console(stderr=True)


@dataclass(frozen=True)
class Compare:
    """Compare methods on one budget, paired by seed, and write a page."""

    methods: str = "all"
    """Names of methods with commas between, or all that can be met."""
    networks: str = "lenet5,mlp"
    """lenet5, mlp or resnet20, with commas between."""
    sparsity: str = "0.8,0.9,0.95,0.98"
    """Zero fractions with commas between."""
    budget: str = "steps"
    """steps, flops or seconds, with commas between: what all have the same; static masks set the last two."""
    seeds: Count = 5
    """Runs of each method, each on the same images in the same order."""
    steps: Annotated[Count | None, tyro.conf.arg(metavar="INT")] = None
    """Optimizer steps; None: 2000, and 1560 for resnet20."""
    dataset: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """Of lenet5 and mlp: mnist, mnist-5k or fashion-mnist; None: mnist."""
    jobs: Annotated[Count | None, tyro.conf.arg(metavar="INT")] = None
    """Processes, one thread each; None: one per CPU."""
    out: Path = Path("runs/compare")
    """Folder of the runs; one that was stopped continues."""
    report: OptionalPath = None
    """Folder of the page; None: <out>/report."""
    data: OptionalPath = None
    """Folder of datasets; None: $SPARSEFLOW_DATA, or a cache."""
    list: bool = False
    """Show what it costs, and train nothing."""

    def run(self) -> None:
        """Search, compare, and write the page."""
        from sparseflow.compare.comparison import comparison
        from sparseflow.compare.page import write_comparison
        from sparseflow.disk import make_folder
        from sparseflow.training.pool import check_jobs
        from sparseflow.training.trial import Trial

        check_jobs(self.jobs)
        plan = comparison(
            networks=self.networks, methods=self.methods, sparsity=self.sparsity, budget=self.budget,
            seeds=self.seeds, steps=self.steps, dataset=self.dataset,
        )  # fmt: skip
        plan.check()
        if self.list:
            _out.print(_listing(plan, self.out, jobs=self._jobs))
        for cell, reason in plan.unmet.items():
            _err.print(f"left out: {cell.method} on {cell.network} at {cell.sparsity:g}: {reason}", soft_wrap=True)
        if self.list:
            return
        report = self.report or self.out / "report"
        make_folder(report)  # before hours of training, where it cannot be made
        began = time.monotonic()
        data = self.data and self.data.absolute()
        search = [Trial(config, data) for found in plan.search().values() for _, config in found]
        self._compute("search", search)
        searched = plan.searched(self.out)
        compared = plan.compared(searched)
        runs = [Trial(config, data) for cells in compared.values() for of in cells.values() for config in of]
        self._compute("comparison", runs)
        page = write_comparison(
            plan, searched, compared, root=self.out, out=report,
            command=typed_command(),
        )  # fmt: skip
        _err.print(f"{duration(time.monotonic() - began)}.")
        _out.print(f"Open [bold]{page}[/bold] in a browser.", soft_wrap=True)

    @property
    def _jobs(self) -> int:
        from sparseflow.training.pool import local_jobs

        return local_jobs(self.jobs)

    def _compute(self, what: str, trials: Sequence[Trial]) -> None:
        from sparseflow.training.pool import run_tasks
        from sparseflow.training.sweep import prepare

        todo = [trial for trial in dict.fromkeys(trials) if not trial.is_done(self.out)]
        _err.print(f"{what}: runs {len(dict.fromkeys(trials))}, to do {len(todo)}, by {self._jobs} processes")
        prepare(todo, root=self.out, data_root=self.data and self.data.absolute())
        run_tasks(todo, root=self.out, jobs=self.jobs, console=_err)


def _listing(plan: Comparison, root: Path, *, jobs: int) -> Table:
    table = Table(
        Column("network", no_wrap=True),
        Column("method", no_wrap=True),
        *(Column(name, justify="right", no_wrap=True) for name in ("runs", "search done", "core time to do")),
        title="sparseflow compare",
        caption="Runs of all sparsities and budgets together. Core time is that of one core, as estimated.",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
        show_edge=False,
    )
    rows: dict[tuple[str, str], tuple[int, int, float]] = {}
    for cell, runs, done, seconds in plan.seconds(root, _seconds):
        key = cell.network, cell.method
        before = rows.get(key, (0, 0, 0.0))
        rows[key] = (before[0] + runs, before[1] + done, before[2] + seconds)
    for (network, method), (runs, done, seconds) in rows.items():
        table.add_row(network, method, str(runs), str(done), duration(seconds))
    table.add_section()
    totals = [sum(row[index] for row in rows.values()) for index in range(3)]
    table.add_row("all", "", str(totals[0]), str(totals[1]), duration(totals[2]))
    table.add_row("all", f"by {jobs} processes", "", "", duration(totals[2] / jobs))
    return table


def _seconds(config: RunConfig) -> float:
    """Estimated seconds of a run on one core."""
    from sparseflow.paper.cost import START_AND_END, core_seconds, digit_seconds
    from sparseflow.training.digits import DigitRun
    from sparseflow.training.images import ImageRun

    if isinstance(config, DigitRun):
        return START_AND_END + digit_seconds(config)
    assert isinstance(config, ImageRun)
    return core_seconds(config)
