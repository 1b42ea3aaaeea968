"""Two processes hold the same masks as each other and as one process with the whole batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import sparseflow as sf
from makers import SETTINGS, masks_of, method_of
from processes import run_ranks
from tiny import batch, tiny_model

STEPS, BATCH = 9, 16


def train(method: str, *, rank: int = 0, world_size: int = 1) -> dict[str, Any]:
    """Every process takes its share of the same batches; float64 keeps the order of summation from turning choices."""
    model: nn.Module = tiny_model(dtype=torch.float64)
    if world_size > 1:
        model = nn.parallel.DistributedDataParallel(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
    masks = masks_of(method, model)
    sparsifier = sf.Sparsifier(model, optimizer, masks, method_of(method), seed=0)
    losses = []
    for step in range(STEPS):
        inputs, targets = (part[rank::world_size] for part in batch(step, size=BATCH, dtype=torch.float64))
        optimizer.zero_grad()
        loss = F.cross_entropy(model(inputs), targets)
        loss.backward()
        optimizer.step()
        sparsifier.check()
        losses.append(loss.item())
    moved = sum(int((mask ^ masks[name]).sum()) for name, mask in sparsifier.masks.items())
    return {"masks": sparsifier.masks, "losses": torch.tensor(losses), "moved": moved}


def run_rank(folder: Path) -> None:
    """What each process does."""
    torch.distributed.init_process_group("gloo")
    rank, world_size = torch.distributed.get_rank(), torch.distributed.get_world_size()
    try:
        ends = {method: train(method, rank=rank, world_size=world_size) for method in SETTINGS}
        torch.save(ends, folder / f"{rank}.pt")
    finally:
        torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("ranks")
    done = run_ranks(run_rank, folder)
    assert [end.returncode for end in done] == [0, 0], done
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.mark.parametrize("method", SETTINGS)
@pytest.mark.status("DDP")
def test_two_processes_equal_one(ranks: list[dict[str, Any]], method: str) -> None:
    alone, first, second = train(method), ranks[0][method], ranks[1][method]
    assert (alone["moved"] > 0) == (method != "static")
    for name, mask in alone["masks"].items():
        assert torch.equal(first["masks"][name], mask)
        assert torch.equal(second["masks"][name], mask)
    # Each process sees half of the batch: the mean of the two mean losses is the whole batch's.
    torch.testing.assert_close((first["losses"] + second["losses"]) / 2, alone["losses"], rtol=0, atol=1e-5)
    assert not torch.equal(first["losses"], second["losses"])
