"""Models that write into what a sparse layer returned, against the masked dense model in float64."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import sparseflow as sf
from sparseflow.rng import stream

BEFORE: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(6, 8), (5, 6)),
    "linear over tokens": (lambda: nn.Linear(6, 8), (2, 3, 6)),
    "conv1d": (lambda: nn.Conv1d(4, 8, 3), (3, 4, 9)),
    "conv2d": (lambda: nn.Conv2d(4, 8, 3, padding=1), (3, 4, 6, 5)),
    "conv2d without a batch": (lambda: nn.Conv2d(4, 8, 3), (4, 6, 5)),
    "conv2d, norm": (lambda: nn.Sequential(nn.Conv2d(4, 8, 3), nn.BatchNorm2d(8)), (3, 4, 6, 5)),
    "conv2d, max pool": (lambda: nn.Sequential(nn.Conv2d(4, 8, 3), nn.MaxPool2d(2)), (3, 4, 6, 6)),
    "conv2d, average pool": (lambda: nn.Sequential(nn.Conv2d(4, 8, 3), nn.AvgPool2d(2)), (3, 4, 6, 6)),
    "chain": (lambda: nn.Sequential(nn.Conv2d(4, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 1)), (3, 4, 6, 6)),
}


def add_in_place(y: Tensor) -> Tensor:
    y += torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view(y.shape)
    y *= 0.5
    y[..., 0] = 0
    return y


WRITES: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": nn.ReLU(inplace=True),
    "relu6": nn.ReLU6(inplace=True),
    "silu": nn.SiLU(inplace=True),
    "hardswish": nn.Hardswish(inplace=True),
    "hardsigmoid": nn.Hardsigmoid(inplace=True),
    "leaky relu": nn.LeakyReLU(0.1, inplace=True),
    "elu": nn.ELU(inplace=True),
    "dropout": lambda y: F.dropout(y, 0.5, inplace=True),
    "sums and parts": add_in_place,
    "twice": lambda y: F.silu(y, inplace=True).mul_(2),
}


class Net(nn.Module):
    """A layer, something in place behind it, and the layer's output as a function of its input again."""

    def __init__(self, before: nn.Module, write: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.before, self.write = before, write

    def forward(self, x: Tensor) -> Tensor:
        return self.write(self.before(x))


def step(model: nn.Module, x: Tensor) -> tuple[Tensor, Tensor | None]:
    x = x.clone().requires_grad_()
    torch.manual_seed(0)  # for dropout
    y = model(x)
    y.square().sum().backward()
    return y, x.grad


@pytest.mark.parametrize("write", WRITES)
@pytest.mark.parametrize("before", BEFORE)
def test_a_model_may_write_into_what_a_sparse_layer_returned(before: str, write: str) -> None:
    make, shape = BEFORE[before]
    model = Net(make(), WRITES[write]).double()
    for name, parameter in model.named_parameters():
        nn.init.normal_(parameter, generator=stream(0, name))
    masks = sf.random_masks(model, 0.6, seed=0)
    sf.apply_masks_(model, masks)
    sparse = sf.engine.convert(model, masks)
    x = torch.randn(shape, dtype=torch.float64, generator=stream(0, "x"))
    if write == "dropout":  # noise is drawn in the order of memory, so it is the same in the same layout only
        model = copy.deepcopy(sparse)  # type: ignore[assignment]
        model.write = lambda y: F.dropout(y, 0.5)
    for _ in range(2):
        (want, x_grad), (found, z_grad) = step(model, x), step(sparse, x)
        torch.testing.assert_close(found, want)
        torch.testing.assert_close(z_grad, x_grad)
    for name, layer in sf.engine.sparse_layers(sparse).items():
        dense: Any = model.get_submodule(name.rpartition(".")[0])
        gradient = dense.values.grad if write == "dropout" else layer.pattern.gather(dense.weight.grad)
        torch.testing.assert_close(layer.values.grad, gradient)


def test_writing_into_what_backward_needs_is_noticed_as_by_torch() -> None:
    """A ReLU that a sparse layer computes keeps its output, as torch's own does."""
    chain = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Dropout()).eval()
    sparse = sf.engine.convert(chain, sf.random_masks(chain, 0.5, seed=0))
    for model, x in ((chain, torch.ones(2, 4)), (sparse, torch.ones(2, 4)), (sparse, torch.ones(4, 2).t())):
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            model(x).mul_(2).sum().backward()


class Parts(nn.Module):
    """Layers of a ``nn.Sequential`` that are also used one at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.seq = nn.Sequential(nn.Linear(6, 6), nn.ReLU(inplace=True), nn.Linear(6, 6), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        inner = self.seq[0](x)
        return self.seq(x) + inner + self.seq[1:3](inner.clone())


def test_a_layer_of_a_chain_that_is_called_alone_has_no_relu() -> None:
    model = Parts().double()
    masks = sf.random_masks(model, 0.5, seed=0)
    sparse = sf.engine.convert(sf.apply_masks_(model, masks), masks)
    x = torch.randn(5, 6, dtype=torch.float64, generator=stream(0, "x"))
    for _ in range(2):
        (want, x_grad), (found, z_grad) = step(model, x), step(sparse, x)
        torch.testing.assert_close(found, want)
        torch.testing.assert_close(z_grad, x_grad)


@pytest.mark.parametrize("place", range(4))
def test_hooks_see_the_same_in_a_chain(place: int) -> None:
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(3, 3, 1)).double()
    masks = sf.random_masks(model, 0.5, seed=0)
    sparse = sf.engine.convert(sf.apply_masks_(model, masks), masks)
    x = torch.randn(2, 2, 6, 6, dtype=torch.float64, generator=stream(0, "x"))
    seen: list[Tensor] = []
    for each in (model, sparse):
        each[place].register_forward_hook(lambda module, inputs, output: seen.append(output.detach().clone()))  # type: ignore[index]
        each(x)
    torch.testing.assert_close(seen[1], seen[0])
    sparse[1] = nn.Tanh()  # type: ignore[index]
    model[1] = nn.Tanh()
    torch.testing.assert_close(sparse(x), model(x))


@pytest.mark.parametrize("chosen", [[], ["before"]])
def test_compiled_models_write_in_place_whatever_was_chosen(chosen: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sparseflow.engine.speed.auto.best_mix", lambda *_: (chosen, (2.0, 1.0)))
    monkeypatch.setattr("sparseflow.engine.speed.auto.turns", lambda steps, **_: [[1.0] * 6, [2.0] * 6])
    model = Net(nn.Conv2d(3, 8, 1), nn.SiLU(inplace=True)).double()
    masks = sf.random_masks(model, 0.8, seed=0)
    sf.apply_masks_(model, masks)
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64, generator=stream(0, "x"))
    fast, table = sf.compile_sparse(model, x, masks=masks, seconds=0.0)
    assert table.chosen == [f"{path}.weight" for path in chosen]
    torch.testing.assert_close(fast(x), model(x))
