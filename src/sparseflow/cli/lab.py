"""``sparseflow demo`` and ``sparseflow report``: pages about runs on digits."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import pandas as pd
import tyro
from rich.console import Console

from sparseflow.cli.words import typed_command
from sparseflow.ranges import Count

if TYPE_CHECKING:
    from sparseflow.training.runs import Run

_out = Console()
_err = Console(stderr=True)

_OptionalPath = Annotated[Path | None, tyro.conf.arg(metavar="PATH")]
_TITLE = "Why a sparse network does not learn, and what helps"


@dataclass(frozen=True)
class Demo:
    """Train 95 %-sparse networks on real digits (offline, minutes), and write a page."""

    out: Path = Path("runs/demo")
    """Folder of the runs; the page is <out>/report/index.html."""
    seeds: Count = 10
    """Repetitions of every network."""
    steps: Count = 800
    """Optimizer steps of each run."""
    jobs: Annotated[Count | None, tyro.conf.arg(metavar="INT")] = None
    """Processes, one thread each; None: one per CPU."""
    ray: Annotated[str | None, tyro.conf.arg(metavar="ADDRESS")] = None
    """Ray cluster; its machines share --out."""
    quick: bool = False
    """250 steps and 1 network per point: seconds per run, every code path."""
    tensorboard: bool = False
    """Also write TensorBoard events into each run's folder."""

    def run(self) -> None:
        """Train, measure the signal at initialisation, print the table, write the page."""
        from sparseflow.lab.demo.page import write_report
        from sparseflow.lab.demo.recipe import demo
        from sparseflow.training.sweep import sweep

        configs = demo(seeds=self.seeds, steps=self.steps, quick=self.quick)
        runs = sweep(configs, root=self.out, jobs=self.jobs, ray=self.ray, tensorboard=self.tensorboard, console=_err)
        signal = _signal(self.out / "signal.csv", networks=1 if self.quick else 5)
        page = write_report(runs, self.out / "report", signal=signal, title=_TITLE, command=typed_command())
        _tell(runs, page)


@dataclass(frozen=True)
class Report:
    """Write the page about a folder of finished runs; trains nothing."""

    runs: tyro.conf.Positional[Path]
    """Folder of runs, as given to --out of demo or train."""
    out: _OptionalPath = None
    """Folder of the page; None: <runs>/report."""

    def run(self) -> None:
        """Read, summarise, write."""
        from sparseflow.lab.demo.page import write_report
        from sparseflow.training.runs import load_runs, unfinished_runs

        runs = load_runs(self.runs)
        if not runs:
            raise ValueError(f"{self.runs} holds no finished run. Make some with sparseflow demo --out {self.runs}")
        table = self.runs / "signal.csv"
        signal = _read_signal(table) if table.is_file() else None
        unfinished = unfinished_runs(self.runs)
        out = self.out or self.runs / "report"
        page = write_report(runs, out, signal=signal, title=_TITLE, command=typed_command(), unfinished=unfinished)
        _tell(runs, page)


def _tell(runs: Sequence[Run], page: Path) -> None:
    """Print the tables, the finding and where the page is."""
    from sparseflow.lab.demo.headline import headline, split_by_masks
    from sparseflow.lab.page.summary import summarize, terminal_table

    main, pruned = split_by_masks(runs)
    table = summarize(main)
    _out.print(terminal_table(table, title="From random masks" if pruned else ""))
    if pruned:
        _out.print(terminal_table(summarize(pruned), title="About pruned networks, and their masks"))
    _out.print(f"\n[bold]{headline(table)}[/bold]", soft_wrap=True)
    _out.print(f"\nOpen [bold]{page}[/bold] in a browser.", soft_wrap=True)


def _signal(path: Path, *, networks: int) -> pd.DataFrame:
    """The signal table of Figure 1c, measured once for a folder of runs, or again for more networks."""
    from sparseflow.lab.demo.signal import signal_at_init
    from sparseflow.sealed import DamagedError, write_with_digest

    try:
        if path.is_file() and (stored := _read_signal(path))["network"].nunique() >= networks:
            return stored
    except DamagedError as error:
        _err.print(f"{error} It is being made again.", soft_wrap=True)
    with _err.status("signal at initialisation") as status:
        table = signal_at_init(
            networks=networks, progress=lambda done, of: status.update(f"signal at initialisation, {done} of {of}")
        )
    write_with_digest(path, table.to_csv(index=False).encode())
    return table


def _read_signal(path: Path) -> pd.DataFrame:
    from sparseflow.sealed import read_with_digest

    data = read_with_digest(path, cure=f"Make it again: sparseflow demo --out {path.parent}")
    return pd.read_csv(io.BytesIO(data))
