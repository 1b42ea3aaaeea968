"""One process of tests/training/test_ranks.py: a small network with batch norm, RigL on a global batch."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

import sparseflow as sf
from sparseflow.training.optimizer import StepSchedule, sgd
from sparseflow.training.ranks import Ranks, ranks_of_torchrun
from sparseflow.training.statistics import StepStatistics
from sparseflow.training.step import Trainer, distributed

MICRO_BATCHES, SIZE = 2, 8


def network() -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(
            *(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 16, 3), nn.BatchNorm2d(16)),
            *(nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5)),
        )


def micro_batch(step: int, index: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(100 * step + index)
    labels = torch.randint(0, 5, (SIZE,), generator=generator)
    images = torch.randn(SIZE, 3, 8, 8, generator=generator) + labels[:, None, None, None] / 5
    return images, labels


def trainer(ranks: Ranks, *, steps: int, mask_seed: int = 0, replaces_step: bool = False) -> Trainer:
    model = distributed(network().train(), ranks)
    masks = sf.random_masks(model, 0.8, seed=mask_seed)
    optimizer = sgd(model, learning_rate=0.1)
    updater = sf.RigL(
        drop_fraction=0.3, update_every=5, schedule="cosine", update_until=steps, replaces_step=replaces_step
    )
    return Trainer(
        model=model,
        optimizer=optimizer,
        sparsifier=sf.Sparsifier(model, optimizer, masks, updater, seed=0),
        schedule=StepSchedule.of_paper(peak=0.1, steps=steps),
        micro_batches=MICRO_BATCHES,
        statistics=StepStatistics(model, micro_batches=MICRO_BATCHES),
        ranks=ranks,
    )


def main(folder: str, steps: int, mode: str) -> None:
    torch.set_num_threads(1)
    with ranks_of_torchrun() as ranks:
        made = trainer(ranks, steps=steps, mask_seed=ranks.rank if mode == "disagree" else 0)
        each = MICRO_BATCHES // ranks.world
        losses = []
        for step in range(steps):
            mine = range(ranks.rank * each, (ranks.rank + 1) * each)
            losses.append(made.step(step, [micro_batch(step, index) for index in mine]))
        made.sparsifier.check()
        state = {
            "losses": torch.tensor(losses, dtype=torch.float64),
            "model": made.sparsifier.model.state_dict(),
            "masks": dict(made.sparsifier.masks),
        }
        torch.save(state, Path(folder) / f"{ranks.world}-{ranks.rank}.pt")
