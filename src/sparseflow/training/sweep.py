"""Many runs over processes, one thread each, with a live table; finished runs are never trained again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from rich.console import Console

from sparseflow.data.text import load_text
from sparseflow.disk import make_folder
from sparseflow.training.config import RunConfig
from sparseflow.training.datasets import check_data
from sparseflow.training.pool import check_jobs, run_tasks
from sparseflow.training.ranks import Ranks
from sparseflow.training.runs import AnyRun, Run, is_done, load_run
from sparseflow.training.setup import dense_network
from sparseflow.training.tasks import Task, in_order
from sparseflow.training.text import TextRun


@dataclass(frozen=True)
class Training:
    """A run as a task of a pool.

    >>> from sparseflow.training.digits import DigitRun
    >>> pruning = DigitRun(method="prune")
    >>> runs = [Training(DigitRun(mask_from=pruning, seed=seed)) for seed in (0, 1)]
    >>> [task.config.method for task in in_order(runs)]
    ['prune', 'scratch', 'scratch']
    """

    config: AnyRun
    data_root: Path | None = None
    """Folder of datasets; text is in a package."""
    tensorboard: bool = False
    """Of a run on images."""

    @property
    def name(self) -> str:
        """Name of the run."""
        return self.config.name

    @property
    def size(self) -> int:
        """Steps of the run."""
        return self.config.steps

    @property
    def needs(self) -> tuple[Training, ...]:
        """The pruning run that it starts from."""
        parent = None if isinstance(self.config, TextRun) else self.config.mask_from
        return () if parent is None else (replace(self, config=parent),)

    def is_done(self, root: Path) -> bool:
        """Whether the run is finished."""
        return is_done(root, self.config)

    def work(self, root: Path, report: Callable[[int], None]) -> None:
        """Train the run, and report its steps."""
        from sparseflow.training.run import train
        from sparseflow.training.text_loop import train_text

        if isinstance(self.config, TextRun):
            train_text(self.config, root=root, progress=lambda step, steps: report(step))
            return
        # Networks for smaller images are as fast on a core, where all runs of a comparison then are.
        on_gpu = self.config.stem == "imagenet" and torch.cuda.is_available()
        train(
            self.config,
            root=root,
            data_root=self.data_root,
            ranks=Ranks(device=torch.device("cuda" if on_gpu else "cpu")),
            tensorboard=self.tensorboard,
            progress=lambda step, steps: report(step),
        )


def sweep(
    configs: Sequence[RunConfig],
    *,
    root: Path,
    jobs: int | None = None,
    ray: str | None = None,
    data_root: Path | None = None,
    tensorboard: bool = False,
    console: Console | None = None,
) -> list[Run]:
    """Train runs side by side, each in a single-threaded process, and return them in order.

    Networks of this size are too small to share among threads. Killed at any moment, the same
    call continues every run from its last checkpoint.

    Args:
        configs: The runs; the pruning runs they start from are added and trained first.
        root: Folder of all runs.
        jobs: Processes, at least 1; default one for each CPU of this machine, or of the cluster.
        ray: Address of a Ray cluster, see :func:`~sparseflow.training.pool.run_tasks`; default this machine alone.
        data_root: Folder of datasets.
        tensorboard: Also write TensorBoard events.
        console: Where the live table is drawn; default stderr.

    Raises:
        ValueError: if ``jobs`` is below 1, or a dataset or model is unknown; nothing is written then.
        ConnectionError: if a dataset is not here and cannot be fetched; nothing is written then.
        RuntimeError: after all other runs ended, if any failed; it names each with its error. At once, if the system
            killed a process of this machine.
        ModuleNotFoundError, ConnectionError, OSError: with ``ray``, as ``run_tasks`` says.
    """
    check_jobs(jobs)
    tasks = [Training(config, data_root, tensorboard) for config in configs]
    prepare([task for task in in_order(tasks) if not task.is_done(root)], root=root, data_root=data_root)
    run_tasks(tasks, root=root, jobs=jobs, ray=ray, console=console)
    runs = [load_run(root / config.name) for config in configs]
    for line in dict.fromkeys(line for run in runs for line in run.warnings()):
        (console or Console(stderr=True)).print(line, soft_wrap=True, markup=False)
    return runs


def prepare(tasks: Sequence[Task], *, root: Path, data_root: Path | None = None) -> None:
    """Fetch the data that trainings need and make their folder; raise for unknown models before anything is written.

    Args:
        tasks: Trainings among other tasks.
        root: Folder of all runs, made if there are tasks.
        data_root: Folder of datasets.

    Raises:
        ValueError: if a dataset or model is unknown, or the text is not the one that was published.
        ConnectionError: if a dataset is not here and cannot be fetched.
        ModuleNotFoundError: if the package of the text is not installed.
    """
    found = [task.config for task in tasks if isinstance(task, Training)]
    runs = [config for config in found if not isinstance(config, TextRun)]
    for package in {config.package for config in found if isinstance(config, TextRun)}:
        load_text(package)
    for config in {(run.dataset, run.num_classes): run for run in runs}.values():
        check_data(config, root=data_root)
    for config in {run.architecture: run for run in runs}.values():
        dense_network(config)
    if tasks:
        make_folder(root)
