"""Every kind of file that the library writes, as a command that is interrupted and typed again."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

import sparseflow as sf
from faults import Scenario
from sparseflow.data import mirrors
from sparseflow.lab.page import page
from sparseflow.paper.measures import MEASURES
from sparseflow.paper.measures.measurement import FOLDER, Measurement
from sparseflow.sealed import read_with_digest, write_with_digest
from sparseflow.state_file import read_checkpoint, write_checkpoint
from sparseflow.training.checkpoint import load_checkpoint, save_checkpoint
from sparseflow.training.checkpoint_folder import latest_checkpoint, remove_others, verified
from sparseflow.training.digits import DigitRun
from sparseflow.training.images import ImageRun
from sparseflow.training.ranks import Ranks
from sparseflow.training.run import train
from sparseflow.training.runs import load_run, read_snapshot, require_config
from sparseflow.training.setup import set_up
from sparseflow.training.store import RunStore

MODEL = nn.Sequential(nn.Linear(30, 20), nn.Linear(20, 4))
#: A training of seconds, with every event: logs, checkpoints, snapshots, updates.
DIGITS = DigitRun(
    dataset="mnist-5k", model="mlp-small", method="rigl", steps=4, batch_size=16, update_every=2, log_every=2,
    eval_every=4, checkpoint_every=2, snapshots=(2,), prune_begin=1, prune_end=3, prune_every=1, engine="masked",
)  # fmt: skip
IMAGES = ImageRun(
    dataset="cifar10", network="vgg16", width=1 / 16, stem="cifar", num_classes=10, image_size=32, sparsity=0.5,
    steps=2, batch_size=8, micro_batch=4, update_every=1, update_until=1, learning_rate=0.05, prune_begin=1,
    prune_end=2, log_every=1, probe_images=6, eval_every=2, checkpoint_every=1, snapshots=(1,),
)  # fmt: skip


def plain(value: Any) -> Any:
    """Tensors as bytes, without what differs from run to run: seconds."""
    if isinstance(value, Tensor):
        return str(value.dtype), tuple(value.shape), value.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    if isinstance(value, dict):
        return {key: plain(inner) for key, inner in value.items() if key not in ("seconds", "measuring")}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    return value


# -- single files ---------------------------------------------------------------------------------------------------


def masks(value: float) -> dict[str, Tensor]:
    return sf.random_masks(MODEL, value, seed=0)


def read_if_there(read: Callable[[Path], Any], path: Path) -> Any:
    return plain(read(path)) if path.exists() else None


def one_file(name: str, write: Callable[[Path, float], object], read: Callable[[Path], Any]) -> Scenario:
    """A file that is replaced: made with sparsity 0.5 before, with 0.8 by the command."""
    return Scenario(
        name,
        command=lambda root: write(root / name, 0.8),
        content=lambda root: read_if_there(read, root / name),
        before=lambda root: write(root / name, 0.5),
    )


def write_engine_file(path: Path, sparsity: float) -> None:
    model = nn.Sequential(nn.Linear(30, 20), nn.Linear(20, 4))
    for number, parameter in enumerate(model.parameters()):
        nn.init.constant_(parameter, 1.0 + number)
    wanted = masks(sparsity)
    sf.engine.save(sf.apply_masks_(model, wanted), path, masks=wanted)


def read_table(path: Path) -> bytes:
    return read_with_digest(path, cure="")


# -- a run's folder, without the training -----------------------------------------------------------------------------

STORED = DigitRun(seed=1, steps=6)


def store_a_run(root: Path) -> None:
    """What a training does to its folder: resume, log, keep, save, end."""
    with RunStore(root, STORED) as store:
        if store.is_done:
            return
        found = store.latest_checkpoint()
        step = 0 if found is None else found[0]
        store.truncate_metrics(step)
        store.remove_older_checkpoints()
        for taken in range(step + 1, 7):
            store.log(taken, {"train/loss": 1 / taken, "flow/norm": taken / 3})
            if taken == 3:
                store.save_snapshot(3, {"model": {"weight": torch.full((40,), 3.0)}})
            if taken % 2 == 0:
                store.save_checkpoint(taken, {"weight": torch.full((50,), float(taken))})
        store.finish({"test/accuracy": 0.5}, seconds=1.0)


def stored(root: Path) -> dict[str, Any]:
    """All runs below a folder; reading what is damaged fails."""
    found = {}
    for folder in sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith(".")):
        config = json.loads((folder / "config.json").read_bytes())
        files = {path.name: plain(read_checkpoint(path)) for path in sorted(folder.glob("*/[0-9]*.pt"))}
        folders = {path.name: trained_parts(path) for path in folder.glob("checkpoints/*") if path.name.isdigit()}
        done = None
        if (folder / "done.json").is_file():
            run = load_run(folder)
            require_config(folder, run.config)
            done = (run.final, run.metrics.to_csv())
        found[folder.name] = (config, files, folders, done)
    return found


def trained_parts(path: Path) -> dict[str, Any]:
    """A checkpoint of parts, less the names of its files and their checksums, in which torch writes random numbers."""
    return {name: plain(value) for name, value in verified(path).items() if name != "files"}


# -- checkpoints that many processes write ----------------------------------------------------------------------------


def save_parts(root: Path, *, steps: int) -> None:
    trainer = set_up(IMAGES, Ranks())
    step = 0
    if (found := latest_checkpoint(root)) is not None:
        step = load_checkpoint(found, trainer)["step"]
        remove_others(found)
    for _ in range(step, steps):
        with torch.no_grad():
            for parameter in trainer.model.parameters():
                parameter.add_(0.5 * (parameter != 0))
        trainer.sparsifier.step_count += 1
        save_checkpoint(root, trainer, extra={"step": trainer.sparsifier.step_count})


def parts(root: Path) -> Any:
    found = latest_checkpoint(root)
    return None if found is None else trained_parts(found)


# -- the rest ---------------------------------------------------------------------------------------------------------


def measure(root: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(MEASURES, "squares", lambda source, runs: {"squares": pd.DataFrame({"x": [1, 4, 9]})})
        one = Measurement("squares", ())
        if not one.is_done(root):
            one.work(root, lambda done: None)


def measured(root: Path) -> Any:
    one = Measurement("squares", ())
    if not (root / FOLDER).is_dir() or not one.is_done(root):
        return None
    return one.read(root)["squares"].to_csv()


@contextmanager
def _one_template() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        loader = jinja2.DictLoader({"page": "<p>{{ title }}</p>{{ shown|length }}"})
        patch.setattr(page, "_environment", lambda: jinja2.Environment(loader=loader, autoescape=True))
        yield


def write_page(root: Path, *, number: int) -> None:
    files = {f"figures/f{number}.svg": b"<svg/>", "tables/t.csv": b"a\n1\n" * number}
    with _one_template():
        page.write_page(root / "report", "page", [], files=files, title=f"Page {number}")


def page_content(root: Path) -> Any:
    """The page's own file alone must be old or new: it is written last, and beside newer figures it is old."""
    return read_if_there(Path.read_bytes, root / "report" / "index.html")


def fetch(root: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mirrors, "_from_mirrors", lambda file, urls, progress: file.name.encode() * 100)
        source = mirrors.Source(files=tuple(mirrors.IdxFile(name, (1,), "") for name in ("a", "b")), mirrors=())
        mirrors.download(mirrors.missing_files(root / "data", source), source, root / "data")


def fetched(root: Path) -> Any:
    return {path.name: path.read_bytes() for path in (root / "data").glob("[ab]*")}


#: Those that take milliseconds.
SMALL = [
    one_file("masks.safetensors", lambda path, sparsity: sf.save_masks(masks(sparsity), path), sf.load_masks),
    one_file("state.pt", lambda path, sparsity: write_checkpoint(path, {"masks": masks(sparsity)}), read_checkpoint),
    one_file("model.safetensors", write_engine_file, sf.engine.load_state),
    one_file("signal.csv", lambda path, sparsity: write_with_digest(path, f"{sparsity}\n".encode()), read_table),
    Scenario("a run's folder", store_a_run, stored, either=False),
    Scenario("a measurement", measure, measured),
    Scenario("a page", partial(write_page, number=2), page_content, before=partial(write_page, number=1)),
    Scenario("datasets", fetch, fetched, either=False),
    Scenario("a checkpoint in parts", partial(save_parts, steps=2), parts, before=partial(save_parts, steps=1)),
]


def trainings(data: Path) -> list[Scenario]:
    """Those that train: seconds for each fault.

    Args:
        data: Of :func:`noise_images.noise_images`.
    """
    sweep = DIGITS.with_(
        method="scratch", mask_from=DIGITS.with_(method="prune", update_every=500, snapshots=()), snapshots=()
    )
    return [
        Scenario("a training on digits", lambda root: train(DIGITS, root=root), stored, either=False),
        Scenario("a sweep of two trainings", lambda root: train(sweep, root=root), stored, either=False),
        Scenario("a training on images", lambda root: train(IMAGES, root=root, data_root=data), stored, either=False),
    ]


__all__ = ["SMALL", "read_snapshot", "trainings"]
