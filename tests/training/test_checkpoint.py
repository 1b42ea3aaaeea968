"""Checkpoints of several processes. The oracle is a training that nothing interrupts; processes are really killed."""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import sparseflow as sf
import vision_worker
import vision_worker_checkpoint
from processes import ends_of, run_ranks, start_ranks
from sparseflow.training.checkpoint import load_checkpoint, save_checkpoint
from sparseflow.training.checkpoint_folder import latest_checkpoint, verified
from sparseflow.training.images import ImageRun
from sparseflow.training.ranks import Ranks
from sparseflow.training.resume import FolderCheckpoints
from sparseflow.training.setup import set_up
from sparseflow.training.step import Trainer
from starts import starting
from vision_worker_checkpoint import PLACES, train, whole

#: Two micro-batches. RigL's updates at steps 0, 2 and 4 use batches and take no step.
RUN = ImageRun(
    width=1 / 16, num_classes=3, sparsity=0.5, steps=6, batch_size=8, micro_batch=4, update_every=2, update_until=5,
    learning_rate=0.05, prune_begin=1, prune_end=5, updates="authors",
    image_size=32, log_every=1, probe_images=4, checkpoint_every=2,
)  # fmt: skip
EVERY = RUN.checkpoint_every
Logged = list[tuple[int, dict[str, float]]]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes of eight images of noise."""
    root = tmp_path_factory.mktemp("images")
    noise = np.random.default_rng(0)
    for name in "abc":
        (root / "train" / name).mkdir(parents=True)
        for number in range(8):
            Image.fromarray(noise.integers(0, 255, (40, 40, 3), dtype=np.uint8)).save(
                root / "train" / name / f"{number}.png"
            )
    return root


@pytest.fixture(scope="module")
def uninterrupted(data: Path) -> tuple[dict[str, Any], Logged]:
    trainer, logged = train(RUN, data, None)
    return whole(trainer), logged


def torchrun(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The launcher itself, which ends the other process where one dies."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    return subprocess.run(
        [*command, str(Path(vision_worker_checkpoint.__file__)), *arguments],
        capture_output=True,
        timeout=300,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def assert_same(one: Mapping[str, Any], two: Mapping[str, Any]) -> None:
    assert one.keys() == two.keys()
    assert not [name for name, value in one.items() if not torch.equal(value, two[name])]


def assert_same_log(logged: Logged, expected: Logged, *, since: int) -> None:
    """To the last bit, but for sums over test images, which two processes add in another order.

    What the update at the last step before the checkpoint did was logged before it.
    """
    tail = expected[-len(logged) :]
    assert [step for step, _ in logged] == [step for step, _ in tail]
    assert not [step for step, values in expected[: -len(logged)] if step >= since and "update/before" not in values]
    for (_, values), (_, others) in zip(logged, tail, strict=True):
        assert values == (pytest.approx(others, rel=1e-6) if "test/loss" in others else others)


# -- killed ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", PLACES)
def test_a_process_that_dies_in_a_save(
    place: str, data: Path, uninterrupted: tuple[dict[str, Any], Logged], tmp_path: Path
) -> None:
    """The others end with an error. What continues, on one process and on two, ends as if nothing had happened."""
    folder = tmp_path / "checkpoints"
    if place == "after_own_share":
        assert torchrun(json.dumps(RUN.to_dict()), str(data), str(folder), place).returncode != 0
    else:
        done = run_ranks(vision_worker_checkpoint.main, RUN, data, folder, place)
        assert done[PLACES[place]].returncode == -signal.SIGKILL
        other = done[1 - PLACES[place]]
        assert other.returncode > 0
        assert "Error" in other.stderr
    assert [path.name for path in folder.iterdir() if not path.name.endswith(".new")] == ["000002"]
    path = latest_checkpoint(folder)
    assert path is not None
    assert verified(path)["extra"]["batches"] == 3

    if place == "after_own_share":
        shutil.copytree(folder, tmp_path / "two" / "checkpoints")
        done = run_ranks(vision_worker_checkpoint.main, RUN, data, tmp_path / "two" / "checkpoints")
        assert [end.returncode for end in done] == [0, 0], done
        first, second = (torch.load(tmp_path / "two" / f"2-{rank}.pt", weights_only=True) for rank in range(2))
        assert_same(first["end"], uninterrupted[0])
        assert_same(second["end"], uninterrupted[0])
        assert_same_log(json.loads(first["logged"]), uninterrupted[1], since=2)
        files = {file.name for file in (tmp_path / "two" / "checkpoints" / "000006").iterdir()}
        assert {"__0_0.distcp", "__1_0.distcp", "index.json"} < files

    trainer, logged = train(RUN, data, folder)
    assert_same(whole(trainer), uninterrupted[0])
    assert_same_log(logged, uninterrupted[1], since=2)
    assert [path.name for path in folder.iterdir()] == ["000006"]


def test_a_job_killed_at_any_moment(data: Path, uninterrupted: tuple[dict[str, Any], Logged], tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    delay = random.Random(int.from_bytes(os.urandom(4))).uniform(0, 1)  # another moment each time: all must do
    jobs, _store = start_ranks(vision_worker_checkpoint.main, RUN, data, folder)
    deadline = time.monotonic() + 100
    while not folder.is_dir() and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(delay)
    for job in jobs:
        job.kill()
    ends_of(jobs)
    trainer, _ = train(RUN, data, folder)
    assert_same(whole(trainer), uninterrupted[0])
    assert [path.name for path in folder.iterdir()] == ["000006"]


def test_four_processes_continue_what_one_began_and_one_what_four_did(data: Path, tmp_path: Path) -> None:
    """Loading is exact for any number; steps of four parts are equal up to rounding (see Trainer).

    Without batch norm, which blows rounding up where it sees two images at a time.
    """
    run = RUN.with_(network="vgg16", batch_size=8, micro_batch=2, label_smoothing=0.0)
    expected = train(run, data, None)[1]
    folder = tmp_path / "checkpoints"
    begun = begin(run, data, folder)
    done = run_ranks(vision_worker_checkpoint.main, run, data, folder, processes=4)
    assert [end.returncode for end in done] == [0] * 4, done
    found = [torch.load(tmp_path / f"4-{rank}.pt", weights_only=True) for rank in range(4)]
    for rank in range(4):
        assert_same(found[rank]["loaded"], begun)
        assert_same(found[rank]["end"], found[0]["end"])
    logged = json.loads(found[0]["logged"])
    for (step, values), (other, others) in zip(logged, expected[-len(logged) :], strict=True):
        assert (step, values) == (other, pytest.approx(others, rel=1e-3))
    assert_same(whole(train(run, data, folder)[0]), found[0]["end"])


class StoppedError(Exception):
    """A training was stopped right after its first checkpoint."""


def begin(run: ImageRun, data: Path, folder: Path) -> dict[str, Any]:
    """What was saved by a training that was stopped right after."""
    saved: list[dict[str, Any]] = []
    save = FolderCheckpoints.save

    def then_stop(checkpoints: FolderCheckpoints, trainer: Trainer, **where: int) -> None:
        save(checkpoints, trainer, **where)
        saved.append(whole(trainer))
        raise StoppedError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FolderCheckpoints, "save", then_stop)
        with pytest.raises(StoppedError):
            train(run, data, folder)
    return saved[0]


@pytest.mark.parametrize("method", starting("dense", "masked"))
def test_every_method_continues(method: str, data: Path, tmp_path: Path) -> None:
    run = RUN.with_(method=method, network="vgg16", steps=4, updates="after_step", channels_last=method == "set")
    whole_run, expected = train(run, data, None)
    begin(run, data, tmp_path)
    trainer, logged = train(run, data, tmp_path)
    assert_same(whole(trainer), whole(whole_run))
    assert_same_log(logged, expected, since=2)


# -- one small trainer ----------------------------------------------------------------------------------------------


def small(steps: int, *, adam: bool = False) -> Trainer:
    """With a method that remembers gradients, where it has an optimizer of three states for each weight."""
    made = vision_worker.trainer(Ranks(), steps=24)
    if adam:
        made.sparsifier.remove()
        model = made.sparsifier.model
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
        updater = sf.SNFS(drop_fraction=0.3, update_every=2, update_until=20)
        masks = sf.random_masks(model, 0.8, seed=0)
        sparsifier = sf.Sparsifier(model, optimizer, masks, updater, seed=0)
        made = Trainer(**{**vars(made), "optimizer": optimizer, "sparsifier": sparsifier})
    advance(made, steps)
    return made


def advance(trainer: Trainer, steps: int) -> list[float]:
    first = trainer.sparsifier.step_count
    return [
        trainer.step(step, [vision_worker.micro_batch(step, index) for index in range(vision_worker.MICRO_BATCHES)])
        for step in range(first, first + steps)
    ]


@pytest.mark.parametrize("adam", [False, True])
@pytest.mark.parametrize("used", [0, 3])
def test_all_state_comes_back(adam: bool, used: int, tmp_path: Path) -> None:
    """Into a fresh trainer and into one that went elsewhere."""
    one, two = small(7, adam=adam), small(used, adam=adam)
    path = save_checkpoint(tmp_path, one, extra={"loss": 0.1, "names": ["a"]})
    assert load_checkpoint(path, two) == {"loss": 0.1, "names": ["a"]}
    assert_same(whole(one), whole(two))
    assert advance(one, 6) == advance(two, 6)
    assert_same(whole(one), whole(two))


def test_a_fresh_trainer_is_saved_without_optimizer_state(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, small(0), extra={})
    other = small(2)
    load_checkpoint(path, other)
    assert_same(whole(other), whole(small(0)))


def test_only_the_last_complete_checkpoint_is_kept(tmp_path: Path) -> None:
    trainer = small(1)
    save_checkpoint(tmp_path, trainer, extra={})
    (tmp_path / "000009.new").mkdir()
    (tmp_path / "000000.old").mkdir()
    assert latest_checkpoint(tmp_path) == tmp_path / "000001"
    with pytest.raises(FileExistsError, match=r"has a checkpoint of step 1, and this training is at step 1. Load that"):
        save_checkpoint(tmp_path, trainer, extra={})
    advance(trainer, 1)
    assert save_checkpoint(tmp_path, trainer, extra={}) == tmp_path / "000002"
    assert [path.name for path in tmp_path.iterdir()] == ["000002"]


def test_old_checkpoints_stay_until_the_new_one_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = small(1)
    before = save_checkpoint(tmp_path, trainer, extra={})
    seen = []
    rename = os.replace

    def look(source: Path, target: Path) -> None:
        seen.append(sorted(path.name for path in tmp_path.iterdir()))
        rename(source, target)

    monkeypatch.setattr(os, "replace", look)
    advance(trainer, 1)
    save_checkpoint(tmp_path, trainer, extra={})
    # Files of the checkpoint take their names too; the last to be renamed is the old folder.
    assert all(before.name in names for names in seen)
    assert seen[-1] == [before.name, "000002"]


def test_one_bit_of_any_file_is_noticed(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, small(1), extra={})
    trainer = small(0)
    before, content = whole(trainer), verified(path)
    for file in path.iterdir():
        data = file.read_bytes()
        for place in range(0, len(data), 1 + len(data) // 300):
            file.write_bytes(data[:place] + bytes([data[place] ^ 1 << place % 8]) + data[place + 1 :])
            with pytest.raises(ValueError, match=rf"{file.name} is damaged \(.*Copy .* again from where it is whole"):
                verified(path)
        with pytest.raises(ValueError, match=f"{file.name} is damaged"):
            load_checkpoint(path, trainer)
        file.write_bytes(data[:-2])  # the last byte of the index is the end of its line
        with pytest.raises(ValueError, match=rf"{file.name} is damaged"):
            verified(path)
        file.unlink()
        with pytest.raises(ValueError, match=f"{file.name} is damaged"):
            verified(path)
        file.write_bytes(data)
    assert_same(whole(trainer), before)
    assert verified(path) == content


def test_a_checkpoint_of_another_network_is_refused(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, set_up(RUN, Ranks()), extra={})
    with pytest.raises(
        ValueError, match=r"of another network or method: mask.fc.weight is bool \[3, 128\] there and bool \[4"
    ):
        load_checkpoint(path, set_up(RUN.with_(num_classes=4, sparsity=0.0), Ranks()))
    with pytest.raises(ValueError, match=r"is absent there and .* here .*give another folder"):
        load_checkpoint(path, set_up(RUN.with_(network="vgg16"), Ranks()))


def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    FolderCheckpoints(run=RUN, folder=tmp_path).save(_at_step_1(), batches=1)
    other = RUN.with_(sparsity=0.6, seed=1)
    with pytest.raises(
        ValueError, match=r"another run: sparsity is 0.5 there and 0.6 here, seed is 0 there and 1 here"
    ):
        FolderCheckpoints(run=other, folder=tmp_path).resume(set_up(other, Ranks()))


def test_marks_come_back(tmp_path: Path) -> None:
    found: list[Mapping[str, Any]] = []
    checkpoints = FolderCheckpoints(run=RUN, folder=tmp_path, mark=lambda: {"bytes": 7}, restore=found.append)
    assert checkpoints.resume(_at_step_1()) == 0
    assert found == []
    checkpoints.save(_at_step_1(), batches=3)
    assert checkpoints.resume(set_up(RUN, Ranks())) == 3
    assert found == [{"bytes": 7}]


def _at_step_1() -> Trainer:
    trainer = set_up(RUN, Ranks())
    trainer.sparsifier.step_count = 1
    return trainer


def test_what_is_not_plain_is_refused(tmp_path: Path) -> None:
    trainer = small(1)
    with pytest.raises(TypeError, match="not JSON serializable"):
        save_checkpoint(tmp_path, trainer, extra={"model": trainer.model})
    trainer.optimizer.state[next(trainer.model.parameters())]["count"] = 3
    with pytest.raises(TypeError, match=r"the optimizer keeps 'count' of 0.weight as int; checkpoints hold tensors"):
        save_checkpoint(tmp_path, trainer, extra={})
    assert not list(tmp_path.iterdir())


def test_a_full_disk_leaves_the_last_checkpoint(tmp_path: Path) -> None:
    """A limit on the size of a file stands for it: the kernel refuses to write in the same place."""
    trainer = small(1)
    path = save_checkpoint(tmp_path, trainer, extra={})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    advance(trainer, 1)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (3000, limits[1]))
        with pytest.raises(OSError, match=r"cannot write __0_0.distcp in .*000002.new: File too large .* Free"):
            save_checkpoint(tmp_path, trainer, extra={})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(tmp_path.iterdir()) == [path]
    load_checkpoint(path, small(0))
    save_checkpoint(tmp_path, trainer, extra={})
