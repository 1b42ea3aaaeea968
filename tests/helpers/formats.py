"""A small example of each format that this version writes: how it is written, and what is read from it."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import pandas as pd
import torch
from torch import Tensor, nn

import sparseflow as sf
from sparseflow.cli import lab
from sparseflow.engine.files.export import load_state, save
from sparseflow.paper import published
from sparseflow.paper.measures import MEASURES
from sparseflow.paper.measures.measurement import Measurement
from sparseflow.sealed import SUMS, sums, write_with_digest
from sparseflow.training.checkpoint import save_checkpoint
from sparseflow.training.checkpoint_folder import latest_checkpoint, verified
from sparseflow.training.digits import DigitRun
from sparseflow.training.runs import final_state, load_run, read_snapshot
from sparseflow.training.setup import set_up
from sparseflow.training.store import RunStore

#: A run of no network at all: a store takes any tensors.
CONFIG = DigitRun(seed=1, steps=20, snapshots=(10,))
FINAL = {"test/accuracy": 0.235, "sparsity": 0.75}
#: Every weight and mask of the examples, exact in float32.
WEIGHTS = torch.arange(1.0, 33.0).view(4, 8) / 8
MASKS = {"weight": torch.arange(32).view(4, 8) % 4 == 0, "head.weight": torch.tensor([[True, False, True]])}


class Format(NamedTuple):
    """How a format is written and read."""

    write: Callable[[Path], Any]
    """Into an empty folder."""
    read: Callable[[Path], Any]
    """From it."""
    damaged: str
    """Pattern of the files in it that damage is done to."""


def plain(value: Any) -> Any:
    """A value as one that ``==`` compares, bit for bit."""
    if isinstance(value, Tensor):
        return (str(value.dtype), tuple(value.shape), value.contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    if isinstance(value, pd.DataFrame):
        return plain(value.to_dict("list"))
    if isinstance(value, dict):
        return [(key, plain(item)) for key, item in value.items()]
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return repr(value)


def sparsifier(made: sf.Sparsifier | None = None, *, steps: int = 5) -> sf.Sparsifier:
    """A tiny one, or the given one, after so many more steps; after five its masks have moved twice."""
    made = made or _at_step_0()
    (optimizer,) = made.optimizers
    for _ in range(steps):
        optimizer.zero_grad()
        images = WEIGHTS.roll(made.step_count, 1) / 4  # of every step its own
        (made.model(images) - 1).square().mean().backward()
        optimizer.step()
    return made


def _at_step_0() -> sf.Sparsifier:
    model = nn.Linear(8, 4, bias=False)
    model.weight.data.copy_(WEIGHTS)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.03125, momentum=0.5)
    masks = {"weight": MASKS["weight"].clone()}
    return sf.Sparsifier(model, optimizer, masks, sf.SNFS(update_every=2, update_until=100, drop_fraction=0.5), seed=0)


def state_of(made: sf.Sparsifier) -> dict[str, Any]:
    """All that a user saves."""
    return {
        "model": made.model.state_dict(),
        "optimizer": made.optimizers[0].state_dict(),
        "sparsifier": made.state_dict(),
        "seconds": 1.5,
    }


def write_run(folder: Path, *, finished: bool = True) -> None:
    """A run folder with a snapshot and a checkpoint."""
    made = sparsifier(steps=0)
    with RunStore(folder, CONFIG) as store:
        store.log(0, {"train/loss": 2.5, "flow/norm": 0.125})
        store.save_snapshot(10, {"model": dict(made.model.state_dict()), "masks": dict(made.masks)})
        store.log(10, {"train/loss": 0.1, "test/accuracy": 0.235})
        store.save_checkpoint(20, state_of(made))
        if finished:
            store.finish(FINAL, seconds=1.5)


def read_run(folder: Path) -> Any:
    """All of a finished run."""
    run = load_run(folder / CONFIG.name)
    state = read_snapshot(CONFIG, 10, root=folder), final_state(CONFIG, root=folder)
    return run.config.to_dict(), run.metrics, run.final, run.env, run.seconds, state


def continue_run(folder: Path) -> Any:
    """Where an unfinished run goes on from, and the metrics that it keeps."""
    with RunStore(folder, CONFIG) as store:
        found = store.latest_checkpoint()
        assert found is not None
        store.truncate_metrics(found[0])
        return found, (store.folder / "metrics.jsonl").read_bytes()


def _table() -> pd.DataFrame:
    return pd.DataFrame({"scheme": ["dense", "liu"], "logit_std": [0.1, 2.5]})


_MEASUREMENT = Measurement("spectrum", (CONFIG,), (("step", 10),), (("group", "lenet5/set"),))


def _write_measurement(folder: Path) -> None:
    tables = {"spectrum": _table(), "numbers": pd.DataFrame({"n": [1, 2], "value": [0.1, float("nan")]})}
    with patch.dict(MEASURES, {"spectrum": lambda source, runs, **options: tables}):
        _MEASUREMENT.work(folder, lambda done: None)


def _write_printed(folder: Path) -> None:
    (folder / "printed").mkdir()
    data = _table().to_csv(index=False).encode()
    (folder / "printed" / "table9.csv").write_bytes(data)
    (folder / "printed" / SUMS).write_bytes(sums({"table9.csv": data}))


def _read_printed(folder: Path) -> Any:
    with patch.object(published, "files", lambda package: folder):
        return published._read.__wrapped__("table9")


def _write_folder_checkpoint(folder: Path) -> None:
    save_checkpoint(folder, set_up(DigitRun(model="mlp-small", method="set")), extra={"marks": {"seconds": 1.5}})


def _read_folder_checkpoint(folder: Path) -> Any:
    path = latest_checkpoint(folder)
    assert path is not None
    return verified(path)


#: By name; every file that the library writes and reads again is of one of these.
FORMATS = {
    "masks": Format(
        lambda folder: sf.save_masks(MASKS, folder / "masks.safetensors"),
        lambda folder: sf.load_masks(folder / "masks.safetensors"),
        "masks.safetensors",
    ),
    "engine file": Format(
        lambda folder: save({"weight": WEIGHTS * MASKS["weight"], "bias": torch.ones(4)}, folder / "net.safetensors"),
        lambda folder: load_state(folder / "net.safetensors"),
        "net.safetensors",
    ),
    "config of a run": Format(write_run, read_run, "*/config.json"),
    "environment of a run": Format(write_run, read_run, "*/env.json"),
    "metrics of a run": Format(write_run, read_run, "*/metrics.jsonl"),
    "results of a run": Format(write_run, read_run, "*/done.json"),
    "snapshot of a run": Format(write_run, read_run, "*/snapshots/*.pt"),
    "end of a run": Format(write_run, read_run, "*/checkpoints/*.pt"),
    "checkpoint": Format(lambda folder: write_run(folder, finished=False), continue_run, "*/checkpoints/*.pt"),
    "metrics before a checkpoint": Format(
        lambda folder: write_run(folder, finished=False), continue_run, "*/metrics.jsonl"
    ),
    "index of a checkpoint folder": Format(_write_folder_checkpoint, _read_folder_checkpoint, "*/index.json"),
    "tensors of a checkpoint folder": Format(_write_folder_checkpoint, _read_folder_checkpoint, "*/*.distcp"),
    "metadata of a checkpoint folder": Format(_write_folder_checkpoint, _read_folder_checkpoint, "*/.metadata"),
    "measurement": Format(_write_measurement, _MEASUREMENT.read, "measurements/*.json"),
    "signal": Format(
        lambda folder: write_with_digest(folder / "signal.csv", _table().to_csv(index=False).encode()),
        lambda folder: lab._read_signal(folder / "signal.csv"),
        "signal.csv",
    ),
    "digest beside a file": Format(
        lambda folder: write_with_digest(folder / "signal.csv", _table().to_csv(index=False).encode()),
        lambda folder: lab._read_signal(folder / "signal.csv"),
        "signal.csv.sha256",
    ),
    "table of the paper": Format(_write_printed, _read_printed, "printed/table9.csv"),
    "digests of the paper's tables": Format(_write_printed, _read_printed, f"printed/{SUMS}"),
}


def saved(state: dict[str, Any]) -> bytes:
    """What ``torch.save`` makes of a state."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()
