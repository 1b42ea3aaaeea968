"""What each process of tests/test_sharded.py does: every method on a small network, cut by FSDP2 where there are two."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

import sparseflow as sf
from sparseflow.analysis.flow import descent, gradient_flow
from sparseflow.rng import stream
from sparseflow.sharded import full, is_sharded, local
from sparseflow.vision.ranks import ranks_of_torchrun

STEPS, BATCH = 20, 8
_moving: dict[str, Any] = {"drop_fraction": 0.4, "update_every": 4}
METHODS: dict[str, sf.updaters.MaskUpdater] = {
    "static": sf.Static(),
    "set": sf.SET(**_moving),
    "rigl": sf.RigL(**_moving),
    "rigl_inverted": sf.RigLInverted(**_moving),
    "rigl_replaces_step": sf.RigL(**_moving, replaces_step=True),
    "snfs": sf.SNFS(**_moving),
    "gmp": sf.GMP(sparsity=0.8, begin=4, end=16, update_every=4),
    "gmp_global": sf.GMP(sparsity=0.8, begin=4, end=16, update_every=4, scope="global"),
}
OPTIMIZERS: dict[str, Any] = {
    "momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.01),
    "nesterov": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01),
}
#: Method, optimizer.
CASES = [*((method, "momentum") for method in METHODS), ("rigl", "nesterov"), ("rigl", "adam")]


def network() -> nn.Sequential:
    """5 outputs, and 1: neither can be halved; of the single row one of two processes holds nothing."""
    model = nn.Sequential(
        *(nn.Conv2d(1, 5, 3), nn.BatchNorm2d(5), nn.Tanh(), nn.Flatten(), nn.Linear(80, 7), nn.Tanh()),
        *(nn.Linear(7, 1, bias=False), nn.Linear(1, 3)),
    ).double()
    for name, parameter in model.named_parameters():
        if parameter.dim() > 1:
            nn.init.normal_(parameter, std=0.3, generator=stream(0, "sharded", name))
    # Statistics of a batch differ between a whole batch and its halves.
    model[1].eval()
    return model


def cut(model: nn.Sequential) -> nn.Sequential:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    for layer in (model[0], model[4], model[6]):
        fully_shard(layer, mesh=mesh)
    return fully_shard(model, mesh=mesh)


def examples(step: int, ranks: Any) -> tuple[Tensor, Tensor]:
    generator = stream(step, "batch")
    inputs = torch.randn(BATCH, 1, 6, 6, generator=generator, dtype=torch.float64)
    targets = torch.randint(3, (BATCH,), generator=generator)
    mine = slice(ranks.rank * BATCH // ranks.world, (ranks.rank + 1) * BATCH // ranks.world)
    return inputs[mine], targets[mine]


def made(
    ranks: Any, method: str, optimizer_name: str, **options: Any
) -> tuple[nn.Sequential, torch.optim.Optimizer, sf.Sparsifier]:
    model = network()
    masks = sf.dense_masks(model) if method.startswith("gmp") else sf.random_masks(model, 0.5, seed=0)
    if ranks.world > 1:
        cut(model)
    optimizer = OPTIMIZERS[optimizer_name](model.parameters())
    return model, optimizer, sf.Sparsifier(model, optimizer, masks, METHODS[method], **{"seed": 0, **options})


def train(ranks: Any, model: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
    for step in steps:
        inputs, targets = examples(step, ranks)
        optimizer.zero_grad()
        F.cross_entropy(model(inputs), targets).backward()
        optimizer.step()


def whole(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: full(tensor.detach()).clone() for name, tensor in tensors.items()}


def run(ranks: Any, method: str, optimizer_name: str) -> dict[str, Any]:
    model, optimizer, sparsifier = made(ranks, method, optimizer_name)
    moved = []
    sparsifier.after_update.append(
        lambda step, changes: moved.append((step, {name: int(full(c.grown.sum())) for name, c in changes.items()}))
    )
    train(ranks, model, optimizer, range(STEPS))
    sparsifier.check()
    off = {
        name: int(((local(parameter.detach()) != 0) & ~local(sparsifier.masks[name])).sum())
        for name, parameter in model.named_parameters()
        if name in sparsifier.masks
    }
    whole_batch = stream(99, "batch")
    inputs = torch.randn(BATCH, 1, 6, 6, generator=whole_batch, dtype=torch.float64)
    batch = (inputs, torch.randint(3, (BATCH,), generator=whole_batch))
    gained = descent(model, F.cross_entropy, [batch], sparsifier.masks, learning_rate=0.1)
    return {
        "masks": whole(sparsifier.masks),
        "weights": whole(dict(model.named_parameters())),
        "moved": moved,
        "off": off,
        "flow": gradient_flow(model, F.cross_entropy, [batch], sparsifier.masks).norm,
        "gained": tuple(gained),
        "sparsity": sf.sparsity_of(sparsifier.masks),
        "bytes": sum(local(mask).numel() for mask in sparsifier.masks.values()),
        "total": sum(mask.numel() for mask in sparsifier.masks.values()),
        "sharded": [name for name, mask in sparsifier.masks.items() if is_sharded(mask)],
    }


def main(folder: str) -> None:
    torch.set_num_threads(1)
    with ranks_of_torchrun() as ranks:
        results = {"/".join(case): run(ranks, *case) for case in CASES}
        torch.save(results, Path(folder) / f"{ranks.world}-{ranks.rank}.pt")


if __name__ == "__main__":
    main(sys.argv[1])
