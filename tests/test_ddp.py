"""Two processes hold the same masks as each other and as one process with the whole batch."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import sparseflow as sf
from sparseflow.updaters import UPDATERS
from tiny import batch, masked, tiny_model

STEPS, BATCH = 9, 16
SETTINGS = {"drop_fraction": 0.3, "update_every": 2, "schedule": "constant"}
METHODS = ("rigl", "set")


def train(method: str, *, rank: int = 0, world_size: int = 1) -> dict[str, Any]:
    """Every process takes its share of the same batches; float64 keeps the order of summation from turning choices."""
    model: nn.Module = tiny_model(dtype=torch.float64)
    if world_size > 1:
        model = nn.parallel.DistributedDataParallel(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
    masks = masked(model)
    sparsifier = sf.Sparsifier(model, optimizer, masks, UPDATERS[method](**SETTINGS), seed=0)
    losses = []
    for step in range(STEPS):
        inputs, targets = (part[rank::world_size] for part in batch(step, size=BATCH, dtype=torch.float64))
        optimizer.zero_grad()
        loss = F.cross_entropy(model(inputs), targets)
        loss.backward()
        optimizer.step()
        sparsifier.check()
        losses.append(loss.item())
    moved = sum(int((mask & ~masks[name]).sum()) for name, mask in sparsifier.masks.items())
    return {"masks": sparsifier.masks, "losses": torch.tensor(losses), "moved": moved}


def run_rank(rank: int, world_size: int, folder: str) -> None:
    """What each subprocess does; they meet at a file, so that no port can be taken by someone else."""
    store = torch.distributed.FileStore(str(Path(folder) / "store"), world_size)
    torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=world_size)
    try:
        ends = {method: train(method, rank=rank, world_size=world_size) for method in METHODS}
        torch.save(ends, Path(folder) / f"{rank}.pt")
    finally:
        torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("ranks")
    program = textwrap.dedent("""
        import sys
        import torch
        sys.path.insert(0, sys.argv[1])
        import test_ddp
        torch.set_num_threads(1)
        test_ddp.run_rank(int(sys.argv[2]), 2, sys.argv[3])
    """)
    tests = str(Path(__file__).parent)
    commands = [[sys.executable, "-c", program, tests, str(rank), str(folder)] for rank in range(2)]
    processes = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for command in commands]
    try:
        errors = [process.communicate(timeout=120)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], "\n".join(errors)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.mark.parametrize("method", METHODS)
def test_two_processes_equal_one(ranks: list[dict[str, Any]], method: str) -> None:
    alone, first, second = train(method), ranks[0][method], ranks[1][method]
    assert alone["moved"] > 0
    for name, mask in alone["masks"].items():
        assert torch.equal(first["masks"][name], mask)
        assert torch.equal(second["masks"][name], mask)
    # Each process sees half of the batch: the mean of the two mean losses is the whole batch's.
    torch.testing.assert_close((first["losses"] + second["losses"]) / 2, alone["losses"], rtol=0, atol=1e-5)
    assert not torch.equal(first["losses"], second["losses"])
