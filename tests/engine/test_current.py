"""Masks of the wrong time are refused where they come in, and right ones are not."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sparseflow as sf
from sparseflow import attached
from sparseflow.rng import stream

Call = Callable[[nn.Sequential, dict[str, Tensor], Path], Any]

CALLS: dict[str, Call] = {
    "convert": lambda model, masks, path: sf.engine.convert(model, masks),
    "plan": lambda model, masks, path: sf.engine.plan(model, masks),
    "compile_sparse": lambda model, masks, path: sf.compile_sparse(
        model, torch.ones(2, 20), masks=masks, training=False, seconds=0.0
    ),
    "save": lambda model, masks, path: sf.engine.save(model, path, masks=masks),
    "save of a state": lambda model, masks, path: sf.engine.save(model.state_dict(), path, masks=masks),
}


class Holder:
    """Holds a model's weights at masks, as a Sparsifier does."""

    def __init__(self, model: nn.Module, masks: dict[str, Tensor]) -> None:
        self.model, self.masks = model, masks
        attached.hold(self, {name: model.get_parameter(name) for name in masks}, made_from={})

    def name_of(self, parameter: Tensor) -> str | None:
        return next((name for name in self.masks if self.model.get_parameter(name) is parameter), None)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(20, 30), nn.ReLU(), nn.Linear(30, 5))


@pytest.fixture
def held() -> Iterator[tuple[nn.Sequential, dict[str, Tensor], dict[str, Tensor]]]:
    """A model at its present masks, these, and earlier ones."""
    model = network()
    now, then = (sf.random_masks(model, 0.8, seed=seed) for seed in (1, 2))
    sf.apply_masks_(model, now)
    holder = Holder(model, now)
    yield model, now, then
    attached.release(holder)


@pytest.mark.parametrize("name", [name for name in CALLS if name != "save of a state"])
def test_masks_of_an_earlier_time_are_refused(name: str, held: Any, tmp_path: Path) -> None:
    model, now, then = held
    CALLS[name](model, now, tmp_path / "model")
    CALLS[name](model, {key: mask.clone() for key, mask in now.items()}, tmp_path / "model")
    with pytest.raises(ValueError, match=r"the mask of '0\.weight' is not the one .* Pass sparsifier\.masks"):
        CALLS[name](model, then, tmp_path / "other")
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("name", CALLS)
def test_a_copy_is_held_by_nobody_and_knows_where_it_is_sparse(name: str, held: Any, tmp_path: Path) -> None:
    model, now, then = held
    twin = copy.deepcopy(model)
    CALLS[name](twin, now, tmp_path / "model")
    with pytest.raises(ValueError, match=r"the mask of '0\.weight' is not where the weight is.*sparsifier\.masks"):
        CALLS[name](twin, then, tmp_path / "other")
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("name", CALLS)
def test_a_dense_model_takes_fresh_masks(name: str, tmp_path: Path) -> None:
    model = network()
    assert CALLS[name](model, sf.random_masks(model, 0.8, seed=3), tmp_path / "model") is not None


def test_a_plan_notices_that_masks_have_moved(held: Any) -> None:
    model, now, then = held
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    plan = sf.engine.plan(model, now, optimizer)
    x, y = torch.randn(8, 20, generator=stream(0, "x")), torch.zeros(8, dtype=torch.int64)
    plan.step(x, y)
    attached.holder_of(model.get_parameter("0.weight")).masks = then  # type: ignore[union-attr, misc]
    before = copy.deepcopy(model.state_dict())
    for call in (plan.read, plan.write, lambda: plan.read(now)):
        with pytest.raises(ValueError, match=r"Pass sparsifier\.masks"):
            call()
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())
    sf.apply_masks_(model, then)
    plan.read(then)
    plan.step(x, y)
    plan.write()
    sf.check(model, optimizer, then)


def test_compile_sparse_knows_the_masks_of_the_sparsifier(held: Any) -> None:
    """Also those of weights that have just grown and are still zero."""
    model, now, _ = held
    with torch.no_grad():
        model[0].weight.zero_()
    _, table = sf.compile_sparse(model, torch.ones(2, 20), training=False, seconds=0.0)
    assert {layer.name: layer.num_active for layer in table.layers} == {name: int(m.sum()) for name, m in now.items()}
