"""The command line: one typed dataclass per command; bad input ends with one line and exit code 2."""

from __future__ import annotations

import io
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import pandas as pd
import tyro
from rich.console import Console
from rich.table import Column, Table

from sparseflow._fast import has_numba
from sparseflow.cli.engine import Bench, Export
from sparseflow.cli.importing import Import
from sparseflow.cli.reproduce import Reproduce
from sparseflow.ranges import Count, checked_fields
from sparseflow.training.config import pruning_parent
from sparseflow.training.digits import DigitRun

_out = Console()
_err = Console(stderr=True)

_OptionalPath = Annotated[Path | None, tyro.conf.arg(metavar="PATH")]


@dataclass(frozen=True)
class Demo:
    """Train 95 %-sparse networks on real digits (offline, minutes) and write a page about them."""

    out: Path = Path("runs/demo")
    """Folder of the runs; the page is <out>/report/index.html."""
    seeds: Count = 3
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
        from sparseflow.lab.demo.headline import headline
        from sparseflow.lab.demo.page import write_report
        from sparseflow.lab.demo.recipe import demo
        from sparseflow.lab.page.summary import summarize, terminal_table
        from sparseflow.training.sweep import sweep

        configs = demo(seeds=self.seeds, steps=self.steps, quick=self.quick)
        runs = sweep(configs, root=self.out, jobs=self.jobs, ray=self.ray, tensorboard=self.tensorboard, console=_err)
        signal = _signal(self.out / "signal.csv", networks=1 if self.quick else 5)
        table = summarize(runs)
        _out.print(terminal_table(table))
        _out.print(f"\n[bold]{headline(table)}[/bold]", soft_wrap=True)
        page = write_report(runs, self.out / "report", signal=signal, title=_TITLE, command=_typed())
        _out.print(f"\nOpen [bold]{page}[/bold] in a browser.", soft_wrap=True)


_TITLE = "Why a sparse network does not learn, and what helps"


@dataclass(frozen=True)
class Train:
    """Train one run, or continue it. For images: train images."""

    config: Annotated[DigitRun, tyro.conf.arg(name="")]
    out: Path = Path("runs/train")
    """Folder of all runs."""
    data: _OptionalPath = None
    """Folder of datasets; None: $SPARSEFLOW_DATA, else the user's cache."""
    pruned_mask: bool = False
    """Start from a pruning run's masks."""
    tensorboard: bool = False
    """Also write TensorBoard events."""

    def run(self) -> None:
        """Train with a progress bar and print where the run is and how it ended."""
        from sparseflow.training.sweep import sweep

        config = self.config.with_(mask_from=pruning_parent(self.config)) if self.pruned_mask else self.config
        if config.engine == "auto" and not has_numba():
            _err.print("engine: masked, because Numba is not there; pip install numba computes no zeros")
        (run,) = sweep([config], root=self.out, jobs=1, data_root=self.data, tensorboard=self.tensorboard, console=_err)
        for name, value in run.final.items():
            _out.print(f"{name}: {value:.4f}")
        _out.print(f"{run.seconds:.0f} s, in {run.folder}", soft_wrap=True)


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
        from sparseflow.lab.page.summary import summarize, terminal_table
        from sparseflow.training.runs import load_runs, unfinished_runs

        runs = load_runs(self.runs)
        if not runs:
            raise ValueError(f"{self.runs} holds no finished run. Make some with sparseflow demo --out {self.runs}")
        table = self.runs / "signal.csv"
        signal = _read_signal(table) if table.is_file() else None
        unfinished = unfinished_runs(self.runs)
        out = self.out or self.runs / "report"
        page = write_report(runs, out, signal=signal, title=_TITLE, command=_typed(), unfinished=unfinished)
        _out.print(terminal_table(summarize(runs)))
        _out.print(f"\nOpen [bold]{page}[/bold] in a browser.", soft_wrap=True)


@dataclass(frozen=True)
class Data:
    """List the datasets, fetch one, or print where it is."""

    action: tyro.conf.Positional[Literal["list", "fetch", "path"]]
    """What to do."""
    name: tyro.conf.Positional[str] = "mnist"
    """mnist-5k, mnist or fashion-mnist."""
    root: _OptionalPath = None
    """Folder of datasets; None: $SPARSEFLOW_DATA, else the user's cache."""

    def run(self) -> None:
        """Print the answer."""
        from sparseflow.data.digits import data_path, dataset_status, fetch

        if self.action == "path":
            print(data_path(self.name, self.root))
        elif self.action == "fetch":
            print(fetch(self.name, self.root))
        else:
            table = Table("dataset", "here", "size", Column("where it is, or would be", overflow="fold"))
            for status in dataset_status(self.root):
                size = f"{status.num_bytes / 1e6:.1f} MB" if status.is_present else "-"
                table.add_row(status.name, "yes" if status.is_present else "no", size, str(status.path))
            _out.print(table)


@dataclass(frozen=True)
class Info:
    """Print versions, threads and hardware, for a bug report."""

    def run(self) -> None:
        """Print one line per fact."""
        from sparseflow.training.environment import describe_environment

        for name, value in describe_environment().items():
            print(f"{name}: {value}")
        print(f"engine: {'sparse on the CPU' if has_numba() else 'masked only; pip install numba'}")


_COMMANDS: dict[str, Callable[..., Any]] = {
    "demo": Demo,
    "train": Train,
    "reproduce": Reproduce,
    "report": Report,
    "export": Export,
    "import": Import,
    "bench": Bench,
    "data": Data,
    "info": Info,
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse, run, and turn errors that a user can mend into one line on stderr and exit code 2.

    ``SPARSEFLOW_TRACEBACK=1`` shows where an error came from instead.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        if given[:2] == ["train", "images"]:
            from sparseflow.cli.images import train_images_command

            images = train_images_command(given[2:])
            checked_fields(images)
            images.run()
            return
        command = tyro.extras.subcommand_cli_from_dict(
            _COMMANDS,
            prog="sparseflow",
            description="Train sparse neural networks, and see why they learn or do not.",
            args=given,
            config=(tyro.conf.FlagCreatePairsOff,),
        )
        checked_fields(command)
        command.run()
    except KeyboardInterrupt:
        _err.print("sparseflow: stopped; the same command continues where it was.")
        raise SystemExit(130) from None
    except (ValueError, OSError, RuntimeError, FloatingPointError, ModuleNotFoundError) as error:
        # A missing package without a name is one whose text says what to type.
        is_bare = isinstance(error, ModuleNotFoundError) and error.name is not None
        if is_bare or os.environ.get("SPARSEFLOW_TRACEBACK"):
            raise
        _tell(error)
        raise SystemExit(2) from None


def _tell(error: Exception) -> None:
    """Print an error as one line on stderr; once if all processes of ``torchrun`` raise it together."""
    from sparseflow.types import OnEveryRankError

    rank = os.environ.get("RANK", "0")
    if rank != "0" and isinstance(error, OnEveryRankError | FloatingPointError):
        return
    said = " ".join([str(error), *getattr(error, "__notes__", [])])
    print(f"sparseflow: {'' if rank == '0' else f'rank {rank}: '}{said}", file=sys.stderr)


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


def _typed() -> str:
    return shlex.join(["sparseflow", *sys.argv[1:]])
