"""Write ``tests/golden/<version>``: ``PYTHONPATH=src:tests/helpers python tests/helpers/write_golden.py``.

A folder of a released version stays as it is; that of a version that is not released yet may be written again.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor, nn

import sparseflow as sf
from formats import MASKS, WEIGHTS, saved, sparsifier, state_of, write_run
from sparseflow.engine.files.export import save
from sparseflow.sealed import SUMS, sums

GOLDEN = Path(__file__).parent.parent / "golden"
MASK_FILE, ENGINE, STATE, RUNS = "masks.safetensors", "engine.safetensors", "sparsifier.pt", "runs"
BLOCKS = "engine_blocks.safetensors"


def tiny_network() -> nn.Sequential:
    """Two sparse linear layers in blocks of four outputs and a batch norm, of weights that are exact in float32."""
    made = nn.Sequential(nn.Linear(8, 4), nn.BatchNorm1d(4), nn.Linear(4, 8)).eval()
    with torch.no_grad():
        made[0].weight.copy_(WEIGHTS * MASKS["weight"])
        made[2].weight.copy_((WEIGHTS * MASKS["weight"]).view(8, 4))
        for parameter in (made[0].bias, made[2].bias):
            parameter.copy_(torch.arange(len(parameter)) / 4)
    return made


def places(mask: Tensor) -> list[list[int]]:
    """Row and column of each active weight."""
    found: list[list[int]] = mask.nonzero().tolist()
    return found


def write(folder: Path) -> None:
    """One file of each format, and their digests."""
    sf.save_masks(MASKS, folder / MASK_FILE)
    # Nothing writes a place for each weight of a block any more: the file that did is kept.
    shutil.copy(GOLDEN / "0.1.0" / ENGINE, folder / ENGINE)
    save(tiny_network(), folder / BLOCKS)
    made = sparsifier()
    (folder / STATE).write_bytes(saved(state_of(made)))
    after = {"masks at 5": places(made.masks["weight"])}
    sparsifier(made, steps=6)
    after |= {"masks at 11": places(made.masks["weight"]), "weights at 11": made.model.weight.tolist()}
    (folder / STATE).with_suffix(".json").write_text(f"{json.dumps(after)}\n")
    (folder / RUNS).mkdir()
    write_run(folder / RUNS)
    for lock in folder.rglob(".lock"):
        lock.unlink()
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    (folder / SUMS).write_bytes(sums({name: path.read_bytes() for name, path in files.items()}))


if __name__ == "__main__":
    place = GOLDEN / sf.__version__
    with TemporaryDirectory() as made:
        write(Path(made))
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(made, place)
    print(f"{place}: {sum(path.stat().st_size for path in place.rglob('*') if path.is_file()):,} bytes")
