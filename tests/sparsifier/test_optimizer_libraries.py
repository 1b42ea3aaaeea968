"""Optimizers of other libraries, where these are installed: masking by hand, grown weights, wrappers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sparseflow as sf
from optimizer_loops import rigl
from sparseflow.rng import stream
from sparseflow.sparsifier.optimizers import weight_states

pytestmark = pytest.mark.filterwarnings("ignore")


def po(name: str, **options: Any) -> Callable[[Any], Any]:
    def make(parameters: Any) -> Any:
        return getattr(pytest.importorskip("pytorch_optimizer"), name)(parameters, **options)

    return make


def around(module: str, name: str, **options: Any) -> Callable[[Any], Any]:
    def make(parameters: Any) -> Any:
        inside = torch.optim.SGD(parameters, lr=0.05, momentum=0.9)
        return getattr(pytest.importorskip(module), name)(inside, **options)

    return make


def of(module: str, name: str, **options: Any) -> Callable[[Any], Any]:
    def make(parameters: Any) -> Any:
        return getattr(pytest.importorskip(module), name)(parameters, **options)

    return make


LIBRARIES: dict[str, Callable[[Any], Any]] = {
    "SOAP": po("SOAP", lr=3e-3, precondition_frequency=2),
    "Shampoo": po("Shampoo", lr=1e-3),
    "CAME": po("CAME", lr=1e-3),
    "AggMo": po("AggMo", lr=1e-2),
    "GaLore": lambda p: po("GaLore", lr=1e-2)([{"params": list(p), "rank": 8, "update_proj_gap": 2, "scale": 1.0,
                                               "projection_type": "std"}]),
    "Yogi": po("Yogi", lr=1e-2),
    "Lookahead": around("pytorch_optimizer", "Lookahead"),
    "ScheduleFreeWrapper": around("schedulefree", "ScheduleFreeWrapper"),
    "AdamWScheduleFree": of("schedulefree", "AdamWScheduleFree", lr=1e-2),
    "Prodigy": of("prodigyopt", "Prodigy"),
    "AdamW8bit": of("bitsandbytes.optim", "AdamW8bit", lr=3e-3),
    "Lion8bit": of("bitsandbytes.optim", "Lion8bit", lr=1e-3),
}  # fmt: skip


def network() -> nn.Sequential:
    model = nn.Sequential(nn.Linear(64, 64, bias=False), nn.Tanh(), nn.Linear(64, 10, bias=False))
    for name, parameter in model.named_parameters():
        nn.init.normal_(parameter, std=0.3, generator=stream(0, name))
    return model


def run(make: Callable[[Any], Any], method: Any, *, by_hand: bool = False) -> tuple[list[Tensor], list[float]]:
    """Weights after 15 steps, and how far grown weights moved at their first step, relative to the others' largest."""
    model = network()
    masks = sf.random_masks(model, 0.8, seed=0)
    sf.apply_masks_(model, masks)
    optimizer = make(model.parameters())
    grown: dict[str, Tensor] = {}
    moves: list[float] = []
    if not by_hand:
        sparsifier = sf.Sparsifier(model, optimizer, masks, method, seed=0)
        sparsifier.after_update.append(lambda step, changes: grown.update({n: c.grown for n, c in changes.items()}))
    if hasattr(optimizer, "train"):
        optimizer.train()
    for step in range(15):
        inputs = torch.randn(32, 64, generator=stream(step, "x"))
        targets = torch.randint(10, (32,), generator=stream(step, "y"))
        model.zero_grad()
        nn.functional.cross_entropy(model(inputs), targets).backward()
        before = [parameter.detach().clone() for parameter in model.parameters()]
        new = dict(grown)
        grown.clear()
        if by_hand:
            for name, mask in masks.items():
                model.get_parameter(name).grad.mul_(mask)
        optimizer.step()
        if by_hand:
            sf.apply_masks_(model, masks)
            continue
        sparsifier.check()
        for (name, where), old in zip(new.items(), before, strict=False):
            moved = (model.get_parameter(name) - old).abs()
            moves.append(float(moved[where].max() / moved[~where].max()))
    return [parameter.detach() for parameter in model.parameters()], moves


@pytest.mark.parametrize("name", LIBRARIES)
def test_static_equals_masking_by_hand_to_the_last_bit(name: str) -> None:
    (ours, _), (by_hand, _) = (run(LIBRARIES[name], sf.Static(), by_hand=hand) for hand in (False, True))
    assert all(map(torch.equal, ours, by_hand))


@pytest.mark.parametrize("name", LIBRARIES)
def test_grown_weights_move_and_do_not_jump(name: str) -> None:
    """The first steps of grown weights are between a hundredth and five times the largest step of the others."""
    _, moves = run(LIBRARIES[name], rigl())
    assert moves
    assert 0.01 < min(moves) <= max(moves) < 5


@pytest.mark.parametrize(("name", "keys"), [("AdamW8bit", ["state1", "state2"]), ("Lion8bit", ["state1"])])
def test_codes_of_grown_weights_mean_zero(name: str, keys: list[str]) -> None:
    """By the optimizer's own table, where the byte 0 is minus 0.993 of the block's largest; its kernel writes 131."""
    model = network()
    optimizer = LIBRARIES[name](model.parameters())
    sf.Sparsifier(model, optimizer, sf.random_masks(model, 0.8, seed=0), sf.Static(), seed=0)
    model(torch.randn(32, 64, generator=stream(0, "x"))).square().mean().backward()
    optimizer.step()
    weight = model[0].weight  # the other is too small to be quantised
    found = {each.key: int(each.fresh) for each in weight_states(optimizer, weight)}
    assert sorted(found) == keys
    for key, code in found.items():
        assert float(optimizer.state[weight][f"qmap{key[-1]}"][code]) == 0.0


def test_lomo_is_refused_by_name() -> None:
    library = pytest.importorskip("pytorch_optimizer")
    model = network()
    with pytest.raises(ValueError, match=r"LOMO updates weights inside backward\(\), before masks can act. Use SGD"):
        sf.Sparsifier(model, library.LOMO(model), sf.random_masks(model, 0.8, seed=0), sf.Static(), seed=0)
