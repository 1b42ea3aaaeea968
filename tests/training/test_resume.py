"""A run that is killed with SIGKILL and continued ends byte for byte where one that was never stopped ends."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from processes import Job
from sparseflow.sealed import read_json
from sparseflow.training import run as train_module
from sparseflow.training.digits import DigitRun
from sparseflow.training.run import train
from sparseflow.training.runs import CHECKPOINTS, DONE, METRICS
from sparseflow.training.store import RunStore
from tiny import the_same

CONFIG = DigitRun(
    dataset="mnist-5k",
    model="lenet5-small",
    batch_size=16,
    steps=60,
    update_every=10,
    log_every=10,
    eval_every=30,
    checkpoint_every=15,
)


class StoppedError(Exception):
    """Stands for a crash in this process."""


def outcome(root: Path, config: DigitRun) -> tuple[bytes, dict[str, object], dict[str, float], set[str]]:
    """Metrics as bytes, final checkpoint and results less seconds, and the names of all files."""
    folder = root / config.name
    saved = torch.load(folder / CHECKPOINTS / f"{config.steps:06d}.pt", weights_only=True)
    assert saved["state"].pop("seconds") > saved["state"].pop("measuring") >= 0
    done = read_json(folder / DONE, cure="")
    assert done.pop("seconds") > done.pop("measuring") > 0
    return (folder / METRICS).read_bytes(), saved, done, {str(p.relative_to(folder)) for p in folder.rglob("*")}


def in_a_process(config: DigitRun, root: Path, dies_in_a_checkpoint: bool = False) -> None:
    """SIGKILL while the temporary file of the third checkpoint is there and holds half of its bytes."""
    count, sync = 0, os.fsync

    def fsync(descriptor: int) -> None:
        nonlocal count
        name = os.readlink(f"/proc/self/fd/{descriptor}")
        count += ".pt." in name
        if count == 3:
            os.ftruncate(descriptor, os.fstat(descriptor).st_size // 2)
            os.kill(os.getpid(), signal.SIGKILL)
        sync(descriptor)

    if dies_in_a_checkpoint:
        os.fsync = fsync  # type: ignore[assignment]
    train(config, root=root)


def kill_anywhere(config: DigitRun, root: Path) -> None:
    """Continue a run in another process for a while and end it; any moment will do, the outcome is the same."""
    log = root / config.name / METRICS
    process = Job(in_a_process, config, root)
    logged = log.stat().st_size
    until = time.monotonic() + 60
    while log.stat().st_size <= logged and process.poll() is None and time.monotonic() < until:
        time.sleep(0.002)
    time.sleep(random.Random(0).random() * 0.1)
    process.kill()
    process.wait()


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs /proc to know which file is being written")
@pytest.mark.parametrize("method", ["rigl", "set"])
def test_killed_in_a_checkpoint(method: str, tmp_path: Path) -> None:
    config = CONFIG.with_(method=method)
    train(config, root=tmp_path / "whole")
    folder = tmp_path / "killed" / config.name

    assert Job(in_a_process, config, tmp_path / "killed", True).wait().returncode == -signal.SIGKILL
    names = sorted(path.name for path in (folder / CHECKPOINTS).iterdir())
    assert len(names) == 2  # a torn temporary file, and the checkpoint before
    assert names[0].startswith(".000045.pt.")
    assert names[1] == "000030.pt"

    if method == "rigl":
        kill_anywhere(config, tmp_path / "killed")
    train(config, root=tmp_path / "killed")
    assert the_same(outcome(tmp_path / "killed", config), outcome(tmp_path / "whole", config))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run of SNFS that was never stopped; SNFS has the most state."""
    root = tmp_path_factory.mktemp("whole")
    train(CONFIG.with_(method="snfs"), root=root)
    return root


@pytest.mark.parametrize("last_step", [1, 15, 16, 59, 60])
def test_stopped_after_any_step(last_step: int, tmp_path: Path, whole: Path) -> None:
    """The first, at and after a checkpoint, before the last step, and the last, whose checkpoint is missing."""
    config = CONFIG.with_(method="snfs")

    def stop(step: int, steps: int) -> None:
        if step == last_step:
            raise StoppedError

    with pytest.raises(StoppedError):
        train(config, root=tmp_path / "stopped", progress=stop)
    train(config, root=tmp_path / "stopped")
    assert the_same(outcome(tmp_path / "stopped", config), outcome(whole, config))


def test_stopped_between_the_last_checkpoint_and_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is measured at the end is logged once."""
    config = CONFIG.with_(method="dense", steps=10)
    train(config, root=tmp_path / "whole")

    def finish(*_: object, **__: object) -> None:
        raise StoppedError

    with monkeypatch.context() as patch:
        patch.setattr(RunStore, "finish", finish)
        with pytest.raises(StoppedError):
            train(config, root=tmp_path / "stopped")
    told: list[int] = []
    train(config, root=tmp_path / "stopped", progress=lambda step, steps: told.append(step))
    assert told == []
    assert the_same(outcome(tmp_path / "stopped", config), outcome(tmp_path / "whole", config))


def test_a_run_continues_where_it_was(tmp_path: Path) -> None:
    config = CONFIG.with_(method="dense", steps=40)

    def stop(step: int, steps: int) -> None:
        if step == 33:
            raise StoppedError

    with pytest.raises(StoppedError):
        train(config, root=tmp_path, progress=stop)
    told: list[tuple[int, int]] = []
    train(config, root=tmp_path, progress=lambda step, steps: told.append((step, steps)))
    assert told == [(step, 40) for step in range(31, 41)]


def test_a_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    config = CONFIG.with_(method="dense", steps=20)

    def stop(step: int, steps: int) -> None:
        if step == 16:
            raise StoppedError

    with pytest.raises(StoppedError):
        train(config, root=tmp_path, progress=stop)
    path = tmp_path / config.name / CHECKPOINTS / "000015.pt"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"000015\.pt is damaged .* Delete that file and run again"):
        train(config, root=tmp_path)
    path.unlink()
    train(config, root=tmp_path)
    train(config, root=tmp_path / "whole")
    assert the_same(outcome(tmp_path, config), outcome(tmp_path / "whole", config))


@pytest.mark.parametrize("stopped_at", [None, 16])
def test_tensorboard_holds_every_metric_once(stopped_at: int | None, tmp_path: Path) -> None:
    """Also when the run is stopped and continued, and what was logged after the checkpoint is logged again."""
    config = CONFIG.with_(method="dense", steps=20)

    def stop(step: int, steps: int) -> None:
        if step == stopped_at:
            raise StoppedError

    if stopped_at is not None:
        with pytest.raises(StoppedError):
            train(config, root=tmp_path, tensorboard=True, progress=stop)
    run = train(config, root=tmp_path, tensorboard=True)
    events = EventAccumulator(str(run.folder / "tensorboard"), size_guidance={"scalars": 0}).Reload()
    assert set(events.Tags()["scalars"]) == set(run.metrics["name"])
    for name, rows in run.metrics.groupby("name"):
        scalars = events.Scalars(name)
        assert [event.step for event in scalars] == rows.step.tolist()
        assert [event.value for event in scalars] == pytest.approx(rows.value.tolist(), rel=1e-6)  # stored as float32


def test_no_tensorboard_unless_asked(tmp_path: Path) -> None:
    run = train(CONFIG.with_(method="dense", steps=1), root=tmp_path)
    assert not (run.folder / "tensorboard").exists()
    assert train_module.is_done(tmp_path, run.config)
