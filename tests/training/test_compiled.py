"""A compiled network is one graph, whatever happens to its masks; oracle: the same run that is not compiled."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch._dynamo.utils import counters

from sparseflow.training.images import ImageRun
from sparseflow.training.ranks import Ranks
from sparseflow.training.setup import set_up
from sparseflow.training.step import Trainer

RUN = ImageRun(
    network="resnet14", stem="cifar", width=1 / 16, num_classes=3, sparsity=0.5, steps=5, batch_size=8, micro_batch=4,
    update_every=2, update_until=4, learning_rate=0.05, channels_last=True, image_size=8,
)  # fmt: skip


def losses(trainer: Trainer) -> list[float]:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(2, 4, 3, 8, 8, generator=generator)
    labels = torch.randint(0, 3, (2, 4), generator=generator)
    return [trainer.step(step, list(zip(images, labels, strict=True))) for step in range(RUN.steps)]


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_masks_move_without_another_graph(precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two micro-batches a step, updates after steps 2 and 4; the eager backend computes bit for bit what torch does."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    torch._dynamo.reset()
    counters.clear()
    run = RUN.with_(precision=precision)
    compiled, plain = (set_up(run.with_(compiled=compiled), Ranks()) for compiled in (True, False))
    start = {name: mask.clone() for name, mask in compiled.sparsifier.masks.items()}
    with torch._dynamo.config.patch(error_on_recompile=True):
        found = losses(compiled)
    assert counters["stats"]["unique_graphs"] == 1
    assert not counters["graph_break"]
    assert found == losses(plain)
    compiled.sparsifier.check()
    moved = [name for name, mask in compiled.sparsifier.masks.items() if not torch.equal(mask, start[name])]
    assert moved
    assert all(torch.equal(mask, plain.sparsifier.masks[name]) for name, mask in compiled.sparsifier.masks.items())
