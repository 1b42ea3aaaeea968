"""One process of tests/rules/test_contract.py: a network, which FSDP2 shards if there are two, trained with rules."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import torch

import sparseflow as sf
from rule_cases import TOGETHER, made
from sharded_worker import cut, network, train, whole
from sparseflow.training.ranks import ranks_of_torchrun

METHODS: dict[str, sf.updaters.Method] = {
    "set": sf.SET(drop_fraction=0.4, update_every=4),
    "rigl": sf.RigL(drop_fraction=0.4, update_every=4),
}
#: Growth at random with each rule alone, by gradients with those that go together.
NAMES = [f"{rule}/{'rigl' if len(names) > 1 else 'set'}" for rule, names in TOGETHER.items()]


def start(ranks: Any, name: str, *, seed: int) -> tuple[Any, ...]:
    rule, method = name.split("/")
    model = network()
    masks = sf.random_masks(model, 0.5, seed=0)
    if ranks.world > 1:
        cut(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    return model, optimizer, sf.Sparsifier(model, optimizer, masks, METHODS[method], seed=seed, rules=made(rule))


def run(ranks: Any, name: str) -> dict[str, Any]:
    """Six steps, saved, and eight more in fresh objects."""
    parts = start(ranks, name, seed=0)
    train(ranks, parts[0], parts[1], range(6))
    file = io.BytesIO()
    torch.save([part.state_dict() for part in parts], file)
    file.seek(0)
    resumed = start(ranks, name, seed=1)
    for part, state in zip(resumed, torch.load(file, weights_only=False), strict=True):
        part.load_state_dict(state)
    train(ranks, resumed[0], resumed[1], range(6, 14))
    resumed[2].check()
    return whole(dict(resumed[0].named_parameters())) | {
        f"mask of {name}": mask for name, mask in whole(resumed[2].masks).items()
    }


def main(folder: str) -> None:
    torch.set_num_threads(1)
    with ranks_of_torchrun() as ranks:
        results = {name: run(ranks, name) for name in NAMES}
        torch.save(results, Path(folder) / f"{ranks.world}-{ranks.rank}.pt")
