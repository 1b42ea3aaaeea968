"""One process of tests/training/test_loop.py: train a run on images of a folder, write what rank 0 logged."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from sparseflow.data import open_images
from sparseflow.sharded import fingerprint
from sparseflow.training.images import ImageRun
from sparseflow.training.loop import train_images
from sparseflow.training.ranks import ranks_of_torchrun
from sparseflow.training.setup import set_up


def main(run: ImageRun, data: Path, split: str, out: Path) -> None:
    torch.set_num_threads(1)
    logged: list[tuple[int, dict[str, float]]] = []
    with ranks_of_torchrun() as ranks:
        trainer = train_images(
            run,
            open_images(data, split),
            open_images(data, split),
            trainer=set_up(run, ranks),
            log=lambda step, values: logged.append((step, dict(values))),
        )
        if ranks.is_first:
            found = {
                "logged": logged,
                "masks": {name: fingerprint(mask) for name, mask in trainer.sparsifier.masks.items()},
            }
            out.write_text(json.dumps(found))
