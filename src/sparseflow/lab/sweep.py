"""Many runs over local processes, one thread each, with a live table; what is done is never trained again."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path
from queue import Empty
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column

from sparseflow.lab.config import RunConfig
from sparseflow.lab.data import fetch
from sparseflow.lab.models import build_model
from sparseflow.lab.runs import Run, is_done, load_run

#: Steps between two messages of a worker.
_REPORT_EVERY = 20

_messages: Any = None


def plan(configs: Sequence[RunConfig]) -> list[RunConfig]:
    """All runs that a list of runs needs, each once, those that others start from first.

    >>> pruning = RunConfig(method="prune")
    >>> [config.method for config in plan([RunConfig(mask_from=pruning), RunConfig(mask_from=pruning)])]
    ['prune', 'scratch']
    """
    ordered: dict[RunConfig, None] = {}
    for config in configs:
        if config.mask_from is not None:
            ordered.setdefault(config.mask_from)
    for config in configs:
        ordered.setdefault(config)
    return list(ordered)


def sweep(
    configs: Sequence[RunConfig],
    *,
    root: Path,
    jobs: int,
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
        jobs: Processes, at least 1.
        data_root: Folder of datasets.
        tensorboard: Also write TensorBoard events.
        console: Where the live table is drawn; default stderr.

    Raises:
        ValueError: if ``jobs`` is below 1, or a dataset or model is unknown; nothing is written then.
        ConnectionError: if a dataset is not here and cannot be fetched; nothing is written then.
        RuntimeError: after all other runs ended, if any failed; it names each with its error. At once, if the system
            killed a process.
    """
    if jobs < 1:
        raise ValueError(f"jobs must be at least 1, got {jobs}.")
    todo = [config for config in plan(configs) if not is_done(root, config)]
    if todo:
        for dataset in sorted({config.dataset for config in todo}):
            fetch(dataset, data_root)
        for model in sorted({config.model for config in todo}):
            build_model(model, generator=torch.Generator())
        root.mkdir(parents=True, exist_ok=True)
        failures = _run(todo, root=root, jobs=jobs, data_root=data_root, tensorboard=tensorboard, console=console)
        if failures:
            lines = [f"{config.name}: {type(error).__name__}: {error}" for config, error in failures.items()]
            title = f"{len(failures)} of {len(todo)} runs failed; the same command tries them again:"
            raise RuntimeError(f"run {lines[0]}" if len(todo) == 1 else "\n  ".join([title, *lines]))
    return [load_run(root / config.name) for config in configs]


def _run(
    todo: list[RunConfig],
    *,
    root: Path,
    jobs: int,
    data_root: Path | None,
    tensorboard: bool,
    console: Console | None,
) -> dict[RunConfig, BaseException]:
    failures: dict[RunConfig, BaseException] = {}
    context = multiprocessing.get_context("spawn")
    messages = context.Queue()
    table = _Table(todo, console or Console(stderr=True))
    others = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(
        min(jobs, len(todo)), mp_context=context, initializer=_begin_worker, initargs=(messages,)
    )
    waiting, running = list(todo), dict[Future[None], RunConfig]()
    try:
        with table.progress, _interrupts_noticed() as raise_if_interrupted:
            while waiting or running:
                raise_if_interrupted()
                for config in list(waiting):
                    parent = config.mask_from
                    if parent is not None and parent in failures:
                        waiting.remove(config)
                        failures[config] = RuntimeError(f"it starts from {parent.name}, which failed")
                        table.finish(config, failed=True)
                    elif parent is None or is_done(root, parent):
                        waiting.remove(config)
                        with _interrupts_held():
                            running[pool.submit(_work, config, root, data_root, tensorboard)] = config
                done, _ = wait(running, timeout=0.2, return_when=FIRST_COMPLETED)
                table.show(messages)
                # A killed process fails every run under way, and the pool with them; what ended before did end.
                for future in sorted(done, key=lambda future: isinstance(future.exception(), BrokenProcessPool)):
                    if isinstance(error := future.exception(), BrokenProcessPool):
                        raise error
                    config = running.pop(future)
                    if error is not None:
                        failures[config] = error
                    table.finish(config, failed=error is not None)
    except BaseException as error:
        pool.shutdown(wait=False, cancel_futures=True)
        for process in set(multiprocessing.active_children()) - others:
            process.terminate()
        if isinstance(error, BrokenProcessPool):
            names = "\n  ".join(config.name for config in running.values() if table.has_begun(config))
            raise RuntimeError(
                "a worker process was killed, perhaps for want of memory (then lower --jobs). The same command "
                f"continues where it was. Under way:\n  {names or 'no run yet'}"
            ) from None
        raise
    pool.shutdown()
    return failures


@contextmanager
def _interrupts_noticed() -> Iterator[Callable[[], None]]:
    """Ctrl-C raises as ever, and what is yielded raises again: Python drops exceptions that fall into a finaliser."""
    if threading.current_thread() is not threading.main_thread():
        yield lambda: None
        return
    noticed = threading.Event()

    def notice(number: int, frame: object) -> None:
        noticed.set()
        raise KeyboardInterrupt

    def raise_if_interrupted() -> None:
        if noticed.is_set():
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, notice)
    try:
        yield raise_if_interrupted
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Start processes that Ctrl-C, which a terminal sends to all, does not reach: the one in charge ends them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _begin_worker(messages: Any) -> None:
    global _messages
    _messages = messages
    threading.Thread(target=_end_with_parent, daemon=True).start()
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
        os.environ[name] = "1"
    torch.set_num_threads(1)


def _end_with_parent() -> None:
    # A worker that outlives a killed sweep would hold its run's lock, and the same command could not continue.
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _work(config: RunConfig, root: Path, data_root: Path | None, tensorboard: bool) -> None:
    from sparseflow.lab.train import train

    def report(step: int, steps: int) -> None:
        if step % _REPORT_EVERY == 0 or step == steps:
            _messages.put((config.name, step))

    _messages.put((config.name, 0))
    train(config, root=root, data_root=data_root, tensorboard=tensorboard, progress=report)


class _Table:
    """One bar over all steps of all runs, and a line for each run under way."""

    def __init__(self, todo: Sequence[RunConfig], console: Console) -> None:
        self.progress = Progress(
            TextColumn("{task.description}", table_column=Column(no_wrap=True, overflow="ellipsis")),
            BarColumn(bar_width=16),
            MofNCompleteColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            refresh_per_second=4,
        )
        self._steps = {config.name: config.steps for config in todo}
        self._done: dict[str, int] = {}
        self._lines: dict[str, Any] = {}
        self._ended = 0
        self._began = time.monotonic()
        self._total = self.progress.add_task(self._title(), total=sum(self._steps.values()))

    def _title(self) -> str:
        return f"[bold]{self._ended} of {len(self._steps)} runs done, steps"

    def show(self, messages: Any) -> None:
        """Draw all that the workers have said since."""
        while True:
            try:
                name, step = messages.get_nowait()
            except Empty:
                break
            if name not in self._lines:
                self._lines[name] = self.progress.add_task(name.rsplit("-", 1)[0], total=self._steps[name])
            self._done[name] = step
            self.progress.update(self._lines[name], completed=step)
        self.progress.update(self._total, completed=sum(self._done.values()), description=self._title())

    def has_begun(self, config: RunConfig) -> bool:
        """Whether a worker is at it, as far as the workers have said."""
        return config.name in self._lines

    def finish(self, config: RunConfig, *, failed: bool) -> None:
        """Take a run's line away; a line of its own remains where there is no live display."""
        self._ended += 1
        self._done[config.name] = config.steps
        line = self._lines.pop(config.name, None)
        if line is not None:
            self.progress.remove_task(line)
        if not self.progress.console.is_terminal:
            verb = "failed" if failed else "done"
            seconds = time.monotonic() - self._began
            self.progress.console.print(f"{self._ended}/{len(self._steps)} {verb} after {seconds:.0f} s: {config.name}")
