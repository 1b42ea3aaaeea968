"""Methods that are broken in one way each, and the promise that ``check_method`` names."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

import sparseflow as sf
from own_method import OneByOne
from sparseflow.methods import Layer, Swap
from sparseflow.methods.scores import magnitude, uniform_random
from sparseflow.testing import PROMISES, Trial, check_method


class Exchange:
    """A healthy method: two of the smallest weights leave, two drawn ones come, at every third step."""

    needs_gradient = False
    gradient_decay = 0.0
    replaces_step = False
    block = (1, 1)

    def due(self, step: int) -> bool:
        return step % 3 == 0

    def update(
        self, layers: Iterable[Layer], *, step: int, generator: torch.Generator
    ) -> Iterator[tuple[str, Swap | Tensor]]:
        for layer in layers:
            yield layer.name, self.request(layer, step, generator)

    def request(self, layer: Layer, step: int, generator: torch.Generator) -> Swap | Tensor:
        return Swap(2, 2, drop_score=magnitude, grow_score=uniform_random)


class GrowsMore(Exchange):
    def request(self, layer: Layer, step: int, generator: torch.Generator) -> Swap | Tensor:
        return Swap(1, 2, drop_score=magnitude, grow_score=uniform_random)


class DrawsElsewhere(Exchange):
    def request(self, layer: Layer, step: int, generator: torch.Generator) -> Swap | Tensor:
        chosen = torch.randperm(layer.mask.numel())[: layer.num_active]
        return torch.zeros(layer.mask.numel(), dtype=torch.bool).index_fill(0, chosen, True).view(layer.shape)


class Forgets(Exchange):
    """Turns masks around at every second update, and counts updates by itself."""

    def __init__(self) -> None:
        self.updates = 0

    def request(self, layer: Layer, step: int, generator: torch.Generator) -> Swap | Tensor:
        self.updates += layer.name == "0.weight"
        return layer.mask.flip(-1) if self.updates % 2 else layer.mask.clone()


class WritesToWeights(Exchange):
    def request(self, layer: Layer, step: int, generator: torch.Generator) -> Swap | Tensor:
        layer.weight.add_(layer.mask)
        return super().request(layer, step, generator)


class AnswersWithTheOldMask(Exchange):
    def request(self, layer: Layer, step: int, generator: torch.Generator) -> Swap | Tensor:
        return layer.mask.flip(-1) if step != 10 else layer.mask


class LeavesOneOut(Exchange):
    def update(
        self, layers: Iterable[Layer], *, step: int, generator: torch.Generator
    ) -> Iterator[tuple[str, Swap | Tensor]]:
        for layer in list(layers)[1:]:
            yield layer.name, self.request(layer, step, generator)


class NeverDue(Exchange):
    def due(self, step: int) -> bool:
        return False


class BreaksBlocks(Exchange):
    def request(self, layer: Layer, step: int, generator: torch.Generator) -> Swap | Tensor:
        return layer.mask.roll(1, 0)


class OtherShape(Exchange):
    def request(self, layer: Layer, step: int, generator: torch.Generator) -> Swap | Tensor:
        return layer.mask.flatten()


BROKEN = {
    GrowsMore: "counts are exact",
    DrawsElsewhere: "same seed, same masks",
    Forgets: "saved and continued is never having stopped",
    WritesToWeights: "inputs stay unchanged",
    AnswersWithTheOldMask: "inputs stay unchanged",
    NeverDue: "updates are told",
}


def test_a_healthy_method_keeps_all() -> None:
    assert check_method(Exchange) == list(PROMISES)
    assert check_method(lambda: OneByOne(every=3, turned="3.weight")) == list(PROMISES)


@pytest.mark.parametrize(("method", "promise"), BROKEN.items(), ids=lambda value: getattr(value, "__name__", ""))
def test_a_broken_method_breaks_one_promise_which_is_named(method: Any, promise: str) -> None:
    broken = []
    for name, check in PROMISES.items():
        try:
            check(Trial(make=method))
        except sf.BrokenPromiseError:
            broken.append(name)
    assert broken[:1] == [promise]
    with pytest.raises(sf.BrokenPromiseError, match=f"^'{promise}' is not kept: "):
        check_method(method)


@pytest.mark.parametrize(
    ("method", "words"),
    [
        (LeavesOneOut, r"update told of \['3.weight', '5.weight'\]; it should yield each layer in turn"),
        (OtherShape, "shape"),
    ],
)
def test_what_the_sparsifier_refuses_is_a_broken_promise_too(method: Any, words: str) -> None:
    with pytest.raises(sf.BrokenPromiseError, match=words):
        check_method(method)


def test_blocks_that_are_broken_up() -> None:
    blocks = {"3.weight": (2, 4), "5.weight": (4, 1), "*": (1, 1)}
    assert check_method(lambda: sf.RigL(update_every=3, block=blocks), block=blocks) == list(PROMISES)
    trial = Trial(make=BreaksBlocks, block=blocks)
    with pytest.raises(sf.BrokenPromiseError, match=r"step 3 broke the blocks of '3.weight' up"):
        PROMISES["blocks are kept"](trial)
    PROMISES["blocks are kept"](replace(trial, make=lambda: sf.RigL(update_every=3, block=blocks)))


@pytest.mark.parametrize("wrong", [sf.RigL(), dict, lambda: None])
def test_what_is_no_function_that_makes_a_method(wrong: Any) -> None:
    with pytest.raises(TypeError, match=r"such as lambda: MyMethod\(update_every=3\)"):
        check_method(wrong)


def test_weights_that_move_where_none_should() -> None:
    with pytest.raises(sf.BrokenPromiseError, match=r"'updates are told' .*: \d+ weights moved, and none should"):
        check_method(Exchange, moves=False)
