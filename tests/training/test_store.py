"""Run folders under kills, second writers, full disks and damage."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import resource
import signal
import subprocess
import sys
import textwrap
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch

from sparseflow.atomic import write_atomically
from sparseflow.disk import File
from sparseflow.sealed import read_json, to_json
from sparseflow.training import store as store_module
from sparseflow.training.digits import DigitRun
from sparseflow.training.runs import is_done, load_run, load_runs, unfinished_runs
from sparseflow.training.store import RunStore

CONFIG = DigitRun(seed=1, steps=300, method="set", mask_from=DigitRun(method="prune"))
FINAL = {"test/accuracy": 0.75, "sparsity": 0.95}


def state(value: float = 1.0) -> dict[str, object]:
    return {
        "model": OrderedDict(weight=torch.full((50, 50), value), bias=torch.zeros(3, dtype=torch.float64)),
        "optimizer": {"state": {0: {"momentum_buffer": torch.ones(2)}}, "param_groups": [{"lr": 0.1, "params": [0]}]},
        "generator": torch.Generator().manual_seed(3).get_state(),
        "masks": {"weight": torch.ones(2, 2, dtype=torch.bool)},
        "step": 7,
        "rest": (None, True, "text", b"bytes", [1.5]),
    }


def same(one: object, two: object) -> bool:
    """Equal in structure, types and bits."""
    if isinstance(one, torch.Tensor) and isinstance(two, torch.Tensor):
        return one.dtype == two.dtype and torch.equal(one, two)
    if isinstance(one, dict) and isinstance(two, dict):
        return list(one) == list(two) and all(same(one[key], two[key]) for key in one)
    if isinstance(one, list | tuple) and isinstance(two, list | tuple):
        return type(one) is type(two) and len(one) == len(two) and all(map(same, one, two))
    return type(one) is type(two) and one == two


def everything(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def finished(root: Path, config: DigitRun) -> Path:
    with RunStore(root, config) as store:
        store.log(0, {"train/loss": 2.5})
        store.finish(FINAL, seconds=1.5)
    return store.folder


def python(code: str, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True)


# A run from begin to end


def test_a_finished_run_comes_back_equal(tmp_path: Path) -> None:
    with RunStore(tmp_path, CONFIG) as store:
        assert not store.is_done
        assert not is_done(tmp_path, CONFIG)
        store.log(0, {"train/loss": 2.5, "flow/norm": 0.1})
        store.log(200, {"train/loss": torch.tensor(0.5)})  # type: ignore[dict-item]  # a 0-d tensor will do
        store.finish(FINAL, seconds=12.5)
        assert store.is_done
    assert store.folder == tmp_path / CONFIG.name
    assert is_done(tmp_path, CONFIG)
    run = load_run(store.folder)
    assert run.config == CONFIG
    assert run.folder == store.folder
    assert (run.final, run.seconds) == (FINAL, 12.5)
    assert run.metrics.to_dict("list") == {
        "step": [0, 0, 200],
        "name": ["train/loss", "flow/norm", "train/loss"],
        "value": [2.5, 0.1, 0.5],
    }
    assert (run.metrics.step.dtype, run.metrics.value.dtype) == (np.int64, np.float64)


def test_files_are_the_documented_ones(tmp_path: Path) -> None:
    with RunStore(tmp_path, CONFIG) as store:
        store.log(1000, {"test/accuracy": 0.971})
        store.save_checkpoint(1000, state())
        store.finish(FINAL, seconds=12.3)
    files = {"config.json", "env.json", "metrics.jsonl", "checkpoints", "checkpoints/001000.pt", "done.json", ".lock"}
    assert everything(store.folder) == files
    assert everything(tmp_path) == {CONFIG.name} | {f"{CONFIG.name}/{name}" for name in files}
    lines = (store.folder / "metrics.jsonl").read_text()
    assert lines == '{"step": 1000, "name": "test/accuracy", "value": 0.971}\n'
    logged = {"bytes": len(lines), "sha256": hashlib.sha256(lines.encode()).hexdigest()}
    assert read_json(store.folder / "done.json", cure="") == {
        "run": CONFIG.name, "final": FINAL, "seconds": 12.3, "measuring": 0.0, "steps": 300, "unreadable": {},
        "metrics": logged,
    }  # fmt: skip
    assert DigitRun.from_dict(read_json(store.folder / "config.json", cure="")) == CONFIG


def test_environment_is_recorded(tmp_path: Path) -> None:
    env = load_run(finished(tmp_path, CONFIG)).env
    assert env["torch"] == str(torch.__version__)
    assert env["numpy"] == np.__version__
    assert env["cpu_count"] == os.cpu_count()
    assert env["torch_threads"] == torch.get_num_threads()
    assert {"sparseflow", "python", "numba", "platform", "cpu"} <= set(env)


def test_values_that_are_not_finite_are_kept(tmp_path: Path) -> None:
    with RunStore(tmp_path, CONFIG) as store:
        store.log(5, {"train/loss": float("nan"), "flow/norm": float("inf")})
        store.log(6, {})
        store.finish({"test/loss": float("nan")}, seconds=1)
    run = load_run(store.folder)
    assert np.array_equal(run.metrics.value, [np.nan, np.inf], equal_nan=True)
    assert np.isnan(run.final["test/loss"])


def test_done_is_written_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda _: order.append("fsync"))
    monkeypatch.setattr(os, "replace", lambda old, new: (order.append(Path(new).name), os.rename(old, new)))
    with RunStore(tmp_path, CONFIG) as store:
        store.log(0, {"train/loss": 1.0})
        order.clear()
        store.finish(FINAL, seconds=1)
    # Metrics, the content of done.json, its name, the folder.
    assert order == ["fsync", "fsync", "done.json", "fsync"]


def test_runs_are_listed_by_name_and_unfinished_ones_apart(tmp_path: Path) -> None:
    configs = [CONFIG.with_(seed=seed) for seed in (3, 1, 2)]
    for config in configs:
        finished(tmp_path, config)
    begun = CONFIG.with_(seed=9)
    RunStore(tmp_path, begun).close()
    (tmp_path / "report").mkdir()
    (tmp_path / "signal.csv").write_text("scheme\n")
    assert [run.config.seed for run in load_runs(tmp_path)] == [1, 2, 3]
    assert unfinished_runs(tmp_path) == [tmp_path / begun.name]


def test_a_run_without_metrics_has_an_empty_table(tmp_path: Path) -> None:
    with RunStore(tmp_path, CONFIG) as store:
        store.finish(FINAL, seconds=1)
    metrics = load_run(store.folder).metrics
    assert list(metrics.columns) == ["step", "name", "value"]
    assert (len(metrics), metrics.value.dtype) == (0, np.float64)


# Checkpoints


def test_a_checkpoint_comes_back_bit_for_bit(tmp_path: Path) -> None:
    with RunStore(tmp_path, CONFIG) as store:
        assert store.latest_checkpoint() is None
        store.save_checkpoint(100, state())
    with RunStore(tmp_path, CONFIG) as store:
        found = store.latest_checkpoint()
    assert found is not None
    assert found[0] == 100
    assert same(found[1], state())
    generator = torch.Generator()
    generator.set_state(found[1]["generator"])


@pytest.mark.parametrize(("keep", "left"), [(1, [1_000_000]), (2, [999_999, 1_000_000]), (9, [2, 999_999, 1_000_000])])
def test_older_checkpoints_go(tmp_path: Path, keep: int, left: list[int]) -> None:
    with RunStore(tmp_path, CONFIG) as store:
        for step in (2, 999_999, 1_000_000):  # by number: as text, 1000000 comes before 999999
            store.save_checkpoint(step, state(step), keep=keep)
        found = store.latest_checkpoint()
        assert found is not None
        assert found[0] == 1_000_000
        names = sorted(path.name for path in (store.folder / "checkpoints").iterdir())
    assert names == sorted(f"{step:06d}.pt" for step in left)


def test_keeping_no_checkpoint_is_refused(tmp_path: Path) -> None:
    with RunStore(tmp_path, CONFIG) as store, pytest.raises(ValueError, match="keep must be at least 1, got 0"):
        store.save_checkpoint(1, state(), keep=0)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"a": [torch.Generator()]}, r"state\['state'\]\['a'\]\[0\] is a Generator"),
        ({"a": np.float64(1)}, r"state\['state'\]\['a'\] is a float64"),
        ({"a": np.zeros(2)}, "is a ndarray"),
        ({DigitRun(): 1}, r"a key of state\['state'\] is a DigitRun"),
    ],
)
def test_what_could_not_be_loaded_is_not_saved(tmp_path: Path, value: dict[str, object], message: str) -> None:
    with RunStore(tmp_path, CONFIG) as store:
        store.save_checkpoint(1, state())
        with pytest.raises(TypeError, match=message):
            store.save_checkpoint(2, value)
        found = store.latest_checkpoint()
    assert found is not None
    assert found[0] == 1


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "text", "pickle"])
def test_a_damaged_checkpoint_names_the_file_to_delete(tmp_path: Path, damage: str) -> None:
    with RunStore(tmp_path, CONFIG) as store:
        store.save_checkpoint(100, state(), keep=2)
        store.save_checkpoint(200, state(), keep=2)
        path = store.folder / "checkpoints" / "000200.pt"
        content = bytearray(path.read_bytes())
        weights = content.find(torch.full((50,), 1.0).numpy().tobytes())
        assert weights > 0
        content[weights + 40] ^= 1
        damaged = {
            "cut": content[:-100],
            "flipped": content,
            "empty": b"",
            "text": b"hello",
            "pickle": b"\x80\x02K\x01.",
        }
        path.write_bytes(damaged[damage])
        message = rf"{path} is damaged \(.*Delete that file and run again: the run continues from step 100"
        with pytest.raises(ValueError, match=message):
            store.latest_checkpoint()
        path.unlink()
        found = store.latest_checkpoint()
        assert found is not None
        assert found[0] == 100
        (store.folder / "checkpoints" / "000100.pt").write_bytes(b"")
        with pytest.raises(ValueError, match="the run continues from the beginning"):
            store.latest_checkpoint()


def test_kill_in_the_middle_of_a_checkpoint_leaves_the_one_before(tmp_path: Path) -> None:
    code = """
        import json, os, signal, sys
        from pathlib import Path
        import torch
        from sparseflow import atomic
        from sparseflow.training.digits import DigitRun
        from sparseflow.training.store import RunStore

        root, when = Path(sys.argv[1]), sys.argv[2]
        store = RunStore(root, DigitRun.from_dict(json.loads(sys.argv[3])))
        store.log(100, {"train/loss": 2.0})
        store.save_checkpoint(100, {"weight": torch.full((1000,), 100.0)})
        store.log(150, {"train/loss": 1.0})

        def die(*_):
            os.kill(os.getpid(), signal.SIGKILL)

        if when == "half":  # the bytes are on their way: half of the temporary file is there
            def fsync(descriptor):
                if os.fstat(descriptor).st_size > 4000:
                    os.ftruncate(descriptor, 2000)
                    die()
            os.fsync = fsync
        elif when == "rename":  # the temporary file is whole
            os.replace = die
        else:  # renamed, older ones not yet removed
            atomic.sync_folder = die
        store.save_checkpoint(200, {"weight": torch.full((1000,), 200.0)})
        """
    cases = {
        "half": (100, ["000100.pt"]),
        "rename": (100, ["000100.pt"]),
        "renamed": (200, ["000100.pt", "000200.pt"]),
    }
    processes = {when: python(code, tmp_path / when, when, json.dumps(CONFIG.to_dict())) for when in cases}
    errors = {when: process.communicate(timeout=60)[1] for when, process in processes.items()}
    for when, (step, names) in cases.items():
        root = tmp_path / when
        assert processes[when].returncode == -signal.SIGKILL, errors[when]
        checkpoints = root / CONFIG.name / "checkpoints"
        leftovers = [path for path in checkpoints.iterdir() if path.suffix != ".pt"]
        assert len(leftovers) == (when != "renamed")
        with RunStore(root, CONFIG) as store:  # the kernel has released the lock
            assert sorted(path.name for path in checkpoints.iterdir()) == names
            found = store.latest_checkpoint()
            assert found is not None
            assert found[0] == step
            assert torch.equal(found[1]["weight"], torch.full((1000,), float(step)))
            store.truncate_metrics(step)
            lines = (store.folder / "metrics.jsonl").read_text().splitlines()
            assert [json.loads(line)["step"] for line in lines] == ([100] if step == 100 else [100, 150])
            store.save_checkpoint(300, {"step": 300})
        assert [path.name for path in checkpoints.iterdir()] == ["000300.pt"]


# Metrics on resume


@pytest.mark.parametrize("log_first", [True, False])
def test_metrics_go_back_to_the_moment_of_the_checkpoint(tmp_path: Path, log_first: bool) -> None:
    # Whether a loop logs a step before or after its checkpoint, the resumed file is the uninterrupted one.
    def steps(store: RunStore, numbers: range) -> None:
        for step in numbers:
            if log_first:
                store.log(step, {"train/loss": step / 10})
            if step % 4 == 0 and step:
                store.save_checkpoint(step, {"step": step})
            if not log_first:
                store.log(step, {"train/loss": step / 10})

    with RunStore(tmp_path / "whole", CONFIG) as store:
        steps(store, range(12))
    whole = (store.folder / "metrics.jsonl").read_bytes()
    with RunStore(tmp_path / "resumed", CONFIG) as store:
        steps(store, range(7))
    with RunStore(tmp_path / "resumed", CONFIG) as store:
        found = store.latest_checkpoint()
        assert found is not None
        assert found[0] == 4
        store.truncate_metrics(4)
        if not log_first:
            store.log(4, {"train/loss": 0.4})
        steps(store, range(5, 12))
    assert (store.folder / "metrics.jsonl").read_bytes() == whole


def test_without_a_checkpoint_the_metrics_start_afresh(tmp_path: Path) -> None:
    with RunStore(tmp_path, CONFIG) as store:
        store.log(0, {"train/loss": 2.0})
    with RunStore(tmp_path, CONFIG) as store:
        store.truncate_metrics(0)
        store.log(0, {"train/loss": 3.0})
        store.finish(FINAL, seconds=1)
    assert load_run(store.folder).metrics.value.tolist() == [3.0]


def test_metrics_cannot_go_back_to_where_no_checkpoint_is(tmp_path: Path) -> None:
    with RunStore(tmp_path, CONFIG) as store:
        with pytest.raises(ValueError, match="has no checkpoint of step 5"):
            store.truncate_metrics(5)
        store.log(5, {"train/loss": 2.0})
        store.save_checkpoint(5, state())
        (store.folder / "metrics.jsonl").write_text("")
        with pytest.raises(ValueError, match="shorter than when the last checkpoint was saved: lines are lost"):
            store.truncate_metrics(5)


@pytest.mark.parametrize("torn", ['{"step": 2, "na', '{"step": 2, "name": "train/loss", "value": 1.0}', "\0"])
def test_a_torn_last_line_goes_when_the_folder_is_opened(tmp_path: Path, torn: str) -> None:
    with RunStore(tmp_path, CONFIG) as store:
        store.log(1, {"train/loss": 2.0})
    with (store.folder / "metrics.jsonl").open("a") as file:
        file.write(torn)
    with RunStore(tmp_path, CONFIG) as store:
        store.log(3, {"train/loss": 4.0})
        store.finish(FINAL, seconds=1)
    assert load_run(store.folder).metrics.step.tolist() == [1, 3]


# One writer at a time


def test_a_second_writer_is_refused_while_the_first_lives(tmp_path: Path) -> None:
    with RunStore(tmp_path, CONFIG):
        with pytest.raises(RuntimeError, match=rf"{CONFIG.name} is in use by another process \(id {os.getpid()}\)"):
            RunStore(tmp_path, CONFIG)
        RunStore(tmp_path, CONFIG.with_(seed=2)).close()
    RunStore(tmp_path, CONFIG).close()


@pytest.mark.parametrize("error", [FileExistsError, FileNotFoundError])
def test_another_process_makes_the_run_while_this_one_begins(
    error: type[OSError], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The staging folder vanishes under ``mkdir``: the other process named it, or found the run and removed it."""
    mkdir = Path.mkdir

    def vanishing(path: Path, *args: object, **options: object) -> None:
        if path.parent.name.startswith("."):
            monkeypatch.setattr(Path, "mkdir", mkdir)
            RunStore(tmp_path, CONFIG).close()
            raise error(path)
        mkdir(path, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Path, "mkdir", vanishing)
    with RunStore(tmp_path, CONFIG) as store:
        assert store.folder.is_dir()
    assert [path.name for path in tmp_path.iterdir()] == [CONFIG.name]


@pytest.mark.slow
def test_of_processes_that_begin_at_once_one_gets_the_run(tmp_path: Path) -> None:
    code = """
        import json, sys
        from pathlib import Path
        from sparseflow.training.digits import DigitRun
        from sparseflow.training.store import RunStore

        config = DigitRun.from_dict(json.loads(sys.argv[2]))
        print("ready", flush=True)
        sys.stdin.readline()
        stores = []
        for seed in range(100):
            try:
                stores.append(RunStore(Path(sys.argv[1]), config.with_(seed=seed)))
            except RuntimeError:
                pass
        print(*[store.config.seed for store in stores], flush=True)
        sys.stdin.readline()  # nobody may release a lock before everybody has tried
        for store in stores:
            store.close()
        """
    processes = [python(code, tmp_path, json.dumps(CONFIG.to_dict())) for _ in range(2)]
    won: list[int] = []
    for answer in ("ready", "seeds"):
        for process in processes:
            assert process.stdout is not None
            line = process.stdout.readline()
            won += [int(seed) for seed in line.split()] if answer == "seeds" else []
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()
    assert [process.communicate(timeout=60)[1] for process in processes] == ["", ""]
    assert sorted(won) == list(range(100))
    assert len(unfinished_runs(tmp_path)) == len(list(tmp_path.iterdir())) == 100


def test_a_folder_that_appears_while_it_is_being_made_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with RunStore(tmp_path / "other", CONFIG) as other:
        other.log(1, {"train/loss": 2.0})
    take_lock = store_module._take_lock

    def appear_and_lock(lock: File, folder: Path) -> None:
        if not folder.exists():
            other.folder.rename(folder)
        take_lock(lock, folder)

    monkeypatch.setattr(store_module, "_take_lock", appear_and_lock)
    with RunStore(tmp_path / "runs", CONFIG) as store:
        store.finish(FINAL, seconds=1)
    assert load_run(store.folder).metrics.value.tolist() == [2.0]
    assert [path.name for path in (tmp_path / "runs").iterdir()] == [CONFIG.name]


def test_a_folder_half_made_by_a_killed_process_is_made_again(tmp_path: Path) -> None:
    staging = tmp_path / f".{CONFIG.name}.new"
    staging.mkdir()
    (staging / "env.json").write_text("{")
    assert unfinished_runs(tmp_path) == []
    RunStore(tmp_path, CONFIG).close()
    assert [path.name for path in tmp_path.iterdir()] == [CONFIG.name]
    assert unfinished_runs(tmp_path) == [tmp_path / CONFIG.name]


# Other configs, other folders, damage


def test_a_folder_of_another_config_is_refused(tmp_path: Path) -> None:
    folder = finished(tmp_path, CONFIG)
    other = CONFIG.with_(learning_rate=0.2)
    folder.rename(tmp_path / other.name)
    message = f"{other.name} holds a run of another config .*Move or delete it, or choose another folder"
    with pytest.raises(ValueError, match=message):
        RunStore(tmp_path, other)
    with pytest.raises(ValueError, match=message):
        is_done(tmp_path, other)


def test_a_folder_that_is_no_run_is_left_alone(tmp_path: Path) -> None:
    folder = tmp_path / CONFIG.name
    folder.mkdir()
    (folder / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"has no config.json: it is not the folder of a run"):
        RunStore(tmp_path, CONFIG)
    assert everything(folder) == {"thesis.txt"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "config.json is damaged"),
        (b'{"seed": 1}', "it carries no SHA-256, as files of earlier versions do"),
        (to_json({"colour": "red"}), "fields this version does not know: colour"),
    ],
)
def test_a_config_that_cannot_be_read_names_its_file(tmp_path: Path, content: bytes, message: str) -> None:
    folder = finished(tmp_path, CONFIG)
    (folder / "config.json").write_bytes(content)
    for attempt in (lambda: RunStore(tmp_path, CONFIG), lambda: load_runs(tmp_path)):
        with pytest.raises(ValueError, match=f"{folder}/config.json is not the config of a run.*{message}"):
            attempt()


def test_damaged_results_name_their_file(tmp_path: Path) -> None:
    folder = finished(tmp_path, CONFIG)
    metrics = folder / "metrics.jsonl"
    logged = metrics.read_text()
    for text in (logged.replace("2.5", "9.5"), f"{logged}garbage\n", logged[:-1], ""):
        metrics.write_text(text)
        message = rf"{metrics} is damaged \(it is not the \d+ bytes that done.json names\). Delete {folder} and run ag"
        with pytest.raises(ValueError, match=message):
            load_run(folder)
    metrics.write_text(logged)
    other = finished(tmp_path, CONFIG.with_(seed=2))
    for name in ("done.json", "metrics.jsonl"):
        (folder / name).write_bytes((other / name).read_bytes())
    with pytest.raises(ValueError, match=rf"done.json is of another run, {other.name}. Delete {folder} and run again"):
        load_run(folder)
    (folder / "done.json").write_text("")
    with pytest.raises(ValueError, match=f"{folder}/done.json is damaged"):
        load_run(folder)


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"there is no folder .*runs. Name the folder that the runs were"):
        load_runs(tmp_path / "runs")
    with pytest.raises(FileNotFoundError, match=r"has no config.json: it is not the folder of a run"):
        load_run(tmp_path)
    RunStore(tmp_path, CONFIG).close()
    with pytest.raises(FileNotFoundError, match=r"has no done.json: the run is not finished"):
        load_run(tmp_path / CONFIG.name)


# Full disk


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    def fsync(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fsync)
    return monkeypatch


def test_full_disk_when_a_file_is_replaced(tmp_path: Path, full_disk: pytest.MonkeyPatch) -> None:
    path = tmp_path / "done.json"
    path.write_bytes(b"old")
    message = (
        rf"cannot write done.json in {tmp_path}: No space left on device \(3 bytes to write, .* free\). Free space"
    )
    with pytest.raises(OSError, match=message) as caught:
        write_atomically(path, b"new")
    assert caught.value.errno == errno.ENOSPC
    assert path.read_bytes() == b"old"
    assert everything(tmp_path) == {"done.json"}


def test_full_disk_when_a_run_begins_leaves_no_folder(tmp_path: Path, full_disk: pytest.MonkeyPatch) -> None:
    with pytest.raises(OSError, match=r"No space left on device .*type the same command again"):
        RunStore(tmp_path / "runs", CONFIG)
    assert everything(tmp_path) == {"runs"}
    full_disk.undo()
    RunStore(tmp_path / "runs", CONFIG).close()


def test_full_disk_in_a_run_keeps_what_was_stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with RunStore(tmp_path, CONFIG) as store:
        store.save_checkpoint(100, state(1))
        before = everything(store.folder)

        def fsync(descriptor: int) -> None:
            raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

        monkeypatch.setattr(os, "fsync", fsync)
        with pytest.raises(OSError, match="raise your quota"):
            store.save_checkpoint(200, state(2))
        with pytest.raises(OSError, match="raise your quota"):
            store.finish(FINAL, seconds=1)
        monkeypatch.undo()
        assert everything(store.folder) == before
        assert not store.is_done
        found = store.latest_checkpoint()
        assert found is not None
        assert same(found[1], state(1))


def test_other_errors_of_the_disk_are_not_called_a_full_one(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="absent"):
        write_atomically(tmp_path / "absent" / "file", b"")


def test_a_limit_on_the_file_size_stops_metrics_and_checkpoint_whole(tmp_path: Path) -> None:
    # A real failing write, some bytes into the file, in a process of its own.
    code = """
        import json, resource, sys
        from pathlib import Path
        import torch
        from sparseflow.training.digits import DigitRun
        from sparseflow.training.store import RunStore

        with RunStore(Path(sys.argv[1]), DigitRun.from_dict(json.loads(sys.argv[2]))) as store:
            store.save_checkpoint(1, {"step": 1})
            resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, resource.RLIM_INFINITY))
            try:
                store.save_checkpoint(2, {"weight": torch.zeros(100_000)})
            except OSError as error:
                print(error)
            try:
                for step in range(1000):
                    store.log(step, {"train/loss": 1.0, "flow/norm": 1.0, "test/loss": 1.0})
            except OSError as error:
                print(error)
        """
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY
    with python(code, tmp_path, json.dumps(CONFIG.to_dict())) as process:
        stdout, stderr = process.communicate(timeout=60)
    assert (process.returncode, stderr) == (0, "")
    checkpoint, metrics = stdout.splitlines()
    folder = tmp_path / CONFIG.name
    assert f"cannot write 000002.pt in {folder}/checkpoints: File too large" in checkpoint
    assert f"cannot write metrics.jsonl in {folder}: File too large" in metrics
    assert [path.name for path in (folder / "checkpoints").iterdir()] == ["000001.pt"]
    lines = (folder / "metrics.jsonl").read_text()
    assert lines.endswith("}\n")
    assert 9_800 < len(lines) <= 10_000
    # All of a step's values or none.
    assert len(lines.splitlines()) % 3 == 0
