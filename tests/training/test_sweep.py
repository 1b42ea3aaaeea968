"""Sweeps in real processes: same bits as one by one, nothing twice, and every way to be stopped."""

from __future__ import annotations

import io
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from rich.console import Console

from sparseflow.lab.demo.recipe import demo
from sparseflow.training import pool as pool_module
from sparseflow.training import processes as processes_module
from sparseflow.training.config import pruning_parent
from sparseflow.training.digits import DigitRun
from sparseflow.training.run import train
from sparseflow.training.runs import METRICS, is_done, unfinished_runs
from sparseflow.training.sweep import Training, sweep
from sparseflow.training.tasks import in_order

BASE = DigitRun(
    dataset="mnist-5k",
    model="lenet5-small",
    batch_size=16,
    steps=20,
    update_every=5,
    prune_begin=5,
    prune_end=10,
    prune_every=5,
    log_every=10,
    eval_every=10,
    checkpoint_every=10,
)
LONG = BASE.with_(method="dense", steps=100_000, eval_every=100_000)


def quiet() -> Console:
    return Console(file=io.StringIO(), width=80)


def wait_for(condition: Callable[[], bool], what: str) -> None:
    until = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < until, f"in vain: {what}"
        time.sleep(0.01)


def plan(configs: list[DigitRun]) -> list[DigitRun]:
    return [task.config for task in in_order([Training(config) for config in configs]) if isinstance(task, Training)]


def test_parents_come_first_and_once() -> None:
    runs = [BASE.with_(method=m, mask_from=pruning_parent(BASE), seed=0) for m in ("set", "rigl")]
    assert plan([*runs, BASE, runs[0]]) == [pruning_parent(BASE), *runs, BASE]
    configs = demo(seeds=3)
    planned = plan(configs)
    assert len(planned) == len(configs) == 45
    assert set(planned) == set(configs)
    for config in planned:
        assert config.mask_from is None or planned.index(config.mask_from) < planned.index(config)


def test_in_parallel_as_one_by_one_and_nothing_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bit for bit the metrics of single runs; the second call starts no process; runs come in the order asked."""
    wanted = [
        BASE.with_(method=m, init=i, mask_from=pruning_parent(BASE)) for m, i in (("rigl", "liu"), ("set", "live"))
    ]
    wanted.insert(1, BASE.with_(method="dense", model="lenet5"))
    told = quiet()
    runs = sweep(wanted, root=tmp_path / "many", jobs=2, console=told)
    assert [run.config for run in runs] == wanted
    for config in plan(wanted):
        one = train(config, root=tmp_path / "one")
        assert (tmp_path / "many" / config.name / METRICS).read_bytes() == (one.folder / METRICS).read_bytes()
    lines = told.file.getvalue().splitlines()
    assert [line.split()[0] for line in lines if line] == ["1/4", "2/4", "3/4", "4/4"]
    assert all("done after" in line for line in lines if line)

    def no_pool(*args: object, **kwargs: object) -> None:
        raise AssertionError("a finished sweep needs no process")

    monkeypatch.setattr(processes_module, "ProcessPoolExecutor", no_pool)
    again = sweep(wanted, root=tmp_path / "many", jobs=2, console=quiet())
    assert [run.seconds for run in again] == [run.seconds for run in runs]


@contextmanager
def largest_file(num_bytes: int) -> Iterator[None]:
    """No file may grow further, in processes started from here too: to a writer the same as a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_failures_are_named_and_stop_nothing_else(tmp_path: Path) -> None:
    """A full disk, a folder that is no run's, and a child of the latter fail; the fourth run is trained."""
    full, parent, good = BASE.with_(method="dense", model="lenet5"), pruning_parent(BASE), BASE.with_(method="dense")
    child = BASE.with_(mask_from=parent)
    (tmp_path / parent.name).mkdir()
    told = quiet()
    with largest_file(200_000), pytest.raises(RuntimeError, match="3 of 4 runs failed; the same command") as failed:
        sweep([full, child, good], root=tmp_path, jobs=2, console=told)
    text = str(failed.value)
    assert f"{parent.name}: ValueError: {tmp_path / parent.name} has no config.json: it is not the folder" in text
    assert f"{child.name}: RuntimeError: it starts from {parent.name}, which failed" in text
    assert f"{full.name}: OSError: " in text
    assert "cannot write 000010.pt in" in text
    assert "raise your quota or file size limit" in text
    assert is_done(tmp_path, good)
    assert not (tmp_path / child.name).exists()
    assert [folder.name for folder in unfinished_runs(tmp_path)] == [full.name]
    assert list((tmp_path / full.name / "checkpoints").iterdir()) == []
    numbers = [line.split()[0] for line in told.file.getvalue().splitlines() if line]
    assert numbers == ["1/4", "2/4", "3/4", "4/4"]

    (tmp_path / parent.name).rmdir()
    assert train(full, root=tmp_path).config == full  # continues: there is room again


def test_a_killed_worker_ends_the_sweep_with_a_clear_error(tmp_path: Path) -> None:
    """As the kernel does when memory runs out: says what was under way; the same call continues it."""
    others = set(multiprocessing.active_children())
    log = tmp_path / LONG.name / METRICS

    def kill() -> None:
        wait_for(lambda: log.is_file() and log.stat().st_size > 10_000, "the run to be under way")
        for process in set(multiprocessing.active_children()) - others:
            process.kill()

    killer = threading.Thread(target=kill)
    killer.start()
    with pytest.raises(RuntimeError, match="a worker process was killed, perhaps for want of memory") as failed:
        sweep([LONG], root=tmp_path, jobs=1, console=quiet())
    killer.join()
    assert str(failed.value).endswith(f"The same command continues where it was. Under way:\n  {LONG.name}")
    wait_for(lambda: set(multiprocessing.active_children()) <= others, "the workers to end")
    assert continues_at(tmp_path, LONG) > 10


def continues_at(root: Path, config: DigitRun) -> int:
    """The first step that training goes on with, which also proves that nobody holds the folder."""

    class SeenError(Exception):
        pass

    def stop(step: int, steps: int) -> None:
        seen.append(step)
        raise SeenError

    seen: list[int] = []
    with pytest.raises(SeenError):
        train(config, root=root, progress=stop)
    return seen[0]


def command(root: Path) -> subprocess.Popen[str]:
    """``sparseflow train`` of LONG in a process group of its own, as a terminal starts it; returns when under way."""
    log = root / LONG.name / METRICS
    before = log.stat().st_size if log.is_file() else 0
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in LONG.changed().items()]
    process = subprocess.Popen(
        [sys.executable, "-m", "sparseflow", "train", *flags, "--out", str(root)],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    wait_for(lambda: log.is_file() and log.stat().st_size > before + 10_000, "the command to be under way")
    return process


def group_is_gone(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return True
    return False


def test_killed_and_interrupted_commands_leave_no_worker_and_continue(tmp_path: Path) -> None:
    """SIGKILL to the command alone, then Ctrl-C (SIGINT to its whole group) to the same command."""
    process = command(tmp_path)
    process.kill()
    process.wait(10)
    wait_for(lambda: group_is_gone(process.pid), "workers to follow their killed parent")
    process.communicate()

    process = command(tmp_path)
    began = time.monotonic()
    os.killpg(process.pid, signal.SIGINT)
    _, told = process.communicate(timeout=20)
    assert time.monotonic() - began < 10
    assert process.returncode == 130
    assert told.strip() == "sparseflow: stopped; the same command continues where it was."
    wait_for(lambda: group_is_gone(process.pid), "the workers to end")
    assert continues_at(tmp_path, LONG) > 20


def test_interrupted_before_its_workers_are_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C while workers still import: the sweep ends at once and nothing runs on."""
    others = set(multiprocessing.active_children())

    def interrupt(*args: object, **kwargs: object) -> None:
        assert set(multiprocessing.active_children()) - others
        raise KeyboardInterrupt

    monkeypatch.setattr(pool_module, "wait", interrupt)
    with pytest.raises(KeyboardInterrupt):
        sweep([LONG], root=tmp_path, jobs=1, console=quiet())
    wait_for(lambda: set(multiprocessing.active_children()) <= others, "the workers to end")
    assert not list(tmp_path.glob("*/done.json"))


class Interrupted:
    """Ctrl-C while it is finalised, where Python prints exceptions and goes on."""

    def __del__(self) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.01)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_interrupt_that_python_drops_is_raised_at_the_next_turn() -> None:
    before = signal.getsignal(signal.SIGINT)
    with pool_module._interrupts_noticed() as raise_if_interrupted:
        raise_if_interrupted()
        Interrupted()  # dropped: the next line is reached
        with pytest.raises(KeyboardInterrupt):
            raise_if_interrupted()
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize("jobs", [0, -1])
def test_jobs_must_be_positive(jobs: int, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"jobs must be at least 1, got {jobs}"):
        sweep([BASE], root=tmp_path / "runs", jobs=jobs)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"dataset": "letters"}, "there is no dataset 'letters'"), ({"model": "lenet6"}, "there is no model 'lenet6'")],
)
def test_what_cannot_be_trained_starts_nothing(changes: dict[str, str], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        sweep([BASE, BASE.with_(**changes)], root=tmp_path / "runs", jobs=2)
    assert not (tmp_path / "runs").exists()


def test_the_live_table_fits_80_columns() -> None:
    """The longest name, the longest run: one line each, with steps and the time left."""
    configs = [DigitRun(method="rigl_inverted", model="lenet5-small", seed=seed) for seed in range(97, 125)]
    console = Console(file=io.StringIO(), width=80, force_terminal=True, color_system=None)
    table = pool_module._Table(tasks := [Training(config) for config in configs], console)
    table.show([(configs[0].name, 20), (configs[20].name, 11_700)])
    console.print(table.progress.get_renderable())
    lines = console.file.getvalue().splitlines()
    assert len(lines) == 3
    assert all(len(line) <= 80 and " left " in line for line in lines)
    assert lines[0].startswith("0 of 28 runs done")
    assert lines[1].startswith("rigl_inverted-spar")
    assert "20/11719" in lines[1]
    assert "11720/328132" in lines[0]
    table.finish(tasks[20], failed=False)
    table.show([(configs[20].name, 11_719)])  # words that came late
    console.file.truncate(0)
    console.print(table.progress.get_renderable())
    lines = console.file.getvalue().splitlines()
    assert len(lines) == 2
    assert "1 of 28 runs done" in lines[0]
    assert "11739/328132" in lines[0]


def test_a_log_says_now_and_then_how_far_runs_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a terminal, at most every five minutes by the clock: each run under way with its steps."""
    clock = iter([0.0, 200.0, 301.0, 400.0, 602.0])
    monkeypatch.setattr(pool_module.time, "monotonic", lambda: next(clock))
    tasks = [Training(LONG), Training(LONG.with_(seed=5))]
    table = pool_module._Table(tasks, told := quiet())
    for steps in (20, 40, 60, 80):
        table.show([(tasks[0].name, steps), (tasks[1].name, 2 * steps)])
    lines = told.file.getvalue().splitlines()
    whole = LONG.steps
    assert lines == [
        f"after {seconds} s: {tasks[0].name} {steps} of {whole}, {tasks[1].name} {2 * steps} of {whole}"
        for seconds, steps in ((301, 40), (602, 80))
    ]
