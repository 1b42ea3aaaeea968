"""Top-KAST against its equations worked in float64 by hand, and what it keeps, says and refuses."""

from __future__ import annotations

import io
import itertools
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import sparseflow as sf
from sparseflow.rng import stream

RATE, MOMENTUM, DECAY = 0.05, 0.9, 0.02
SETTINGS: dict[str, Any] = {"sparsity": 0.75, "backward_sparsity": 0.5, "update_every": 2, "update_until": 9}
UPDATES, USED, TRAINED = (2, 4, 6, 8, 9), 6, 12


def layer_of(seed: int = 0) -> nn.Linear:
    layer = nn.Linear(6, 4, bias=False).double()
    nn.init.normal_(layer.weight, generator=stream(seed, "weight"))
    return layer


def data(step: int) -> tuple[Tensor, Tensor]:
    inputs = torch.randn(16, 6, generator=stream(step, "inputs"), dtype=torch.float64)
    return inputs, torch.randn(16, 4, generator=stream(step, "targets"), dtype=torch.float64)


def largest(values: Tensor, count: int) -> Tensor:
    places = sorted(range(values.numel()), key=lambda place: -float(values.flatten()[place].abs()))[:count]
    return torch.zeros(values.numel(), dtype=torch.float64).index_fill(0, torch.tensor(places), 1.0).view_as(values)


def by_hand(start: Tensor, steps: int, *, kind: str) -> list[tuple[Tensor, Tensor, Tensor]]:
    """After each step all values, what the network uses of them, and the masks; gradients written out.

    The penalty is DECAY / 2 times the squares of A and, over D = 1/4, of B without A.
    """
    values, used, trained = start.clone(), largest(start, USED), largest(start, TRAINED)
    mean = torch.zeros_like(values)
    path = []
    for step in range(1, steps + 1):
        inputs, targets = data(step)
        gradient = 2 * (inputs @ (values * used).T - targets).T @ inputs / targets.numel()
        decay = DECAY * (used + 4 * (trained - used)) * values
        if kind == "sgd":
            mean = MOMENTUM * mean + (gradient + decay) * trained
            values = values - RATE * mean * trained
        else:  # AdamW without its means: sign descent
            values = values - RATE * decay
            values = values - RATE * trained * gradient / (gradient.abs() + 1e-8)
        if step in UPDATES:
            used = largest(values, USED)
            trained = largest(values, TRAINED) if step < 9 else used
            mean = mean * trained
        path.append((values.clone(), used.clone(), trained.clone()))
    return path


OPTIMIZERS: dict[str, Any] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=RATE, momentum=MOMENTUM, weight_decay=DECAY),
    "adamw": lambda p: torch.optim.AdamW(p, lr=RATE, betas=(0.0, 0.0), weight_decay=DECAY),
}


@pytest.mark.parametrize("kind", OPTIMIZERS)
@pytest.mark.parametrize("closure", [False, True])
def test_every_step_is_the_rule_by_hand(kind: str, closure: bool) -> None:
    layer = layer_of()
    want = by_hand(layer.weight.detach(), 13, kind=kind)
    optimizer = OPTIMIZERS[kind](layer.parameters())
    sparsifier = sf.Sparsifier(layer, optimizer, sf.dense_masks(layer), sf.TopKAST(**SETTINGS), seed=0)
    for step, (values, used, trained) in enumerate(want, start=1):

        def loss(step: int = step) -> Tensor:
            optimizer.zero_grad()
            inputs, targets = data(step)
            found = F.mse_loss(layer(inputs), targets)
            found.backward()
            return found

        if closure:
            optimizer.step(loss)
        else:
            loss()
            optimizer.step()
        torch.testing.assert_close(layer.weight.detach(), values * used, rtol=1e-11, atol=1e-13)
        kept = sparsifier.state_dict()["reserve"]["weight"]
        assert torch.equal(kept.isnan(), used.bool())
        torch.testing.assert_close(
            torch.where(kept.isnan(), layer.weight.detach(), kept), values, rtol=1e-11, atol=1e-13
        )
        assert torch.equal(sparsifier.masks["weight"], trained.bool())
        assert int(layer.weight.count_nonzero()) == USED
        sparsifier.check()
    assert any(not torch.equal(one[1], other[1]) for one, other in itertools.pairwise(want)), "nothing moved"
    assert sparsifier.sparsity == 0.75
    sparsifier.remove()  # no warning: the end was reached


def test_a_value_outside_comes_back_with_what_it_had() -> None:
    """Of 4, 3, 2, 1 and 0.5 the second falls below the last while it is trained and the last is not."""
    layer = nn.Linear(5, 1, bias=False)
    layer.weight.data = torch.tensor([[4.0, 3.0, 2.0, 1.0, 0.5]])
    optimizer = torch.optim.SGD(layer.parameters(), lr=1.0)
    method = sf.TopKAST(sparsity=0.8, backward_sparsity=0.4, update_every=1, update_until=9)
    sparsifier = sf.Sparsifier(layer, optimizer, sf.dense_masks(layer), method, seed=0)
    assert layer.weight.tolist() == [[4.0, 0.0, 0.0, 0.0, 0.0]]
    assert sparsifier.masks["weight"].tolist() == [[True, True, True, False, False]]
    (layer.weight * torch.tensor([0.0, 2.75, 0.0, 7.0, 7.0])).sum().backward()
    optimizer.step()
    assert sparsifier.masks["weight"].tolist() == [[True, False, True, True, False]]
    layer.weight.grad = torch.tensor([[3.5, 0.0, 0.0, 0.0, 0.0]])
    optimizer.step()
    assert layer.weight.tolist() == [[0.0, 0.0, 2.0, 0.0, 0.0]]
    assert sparsifier.masks["weight"].tolist() == [[True, False, True, True, False]]


@pytest.mark.parametrize("order", [("model", "optimizer", "sparsifier"), ("sparsifier", "optimizer", "model")])
def test_a_resumed_run_is_the_one_left_alone(order: tuple[str, ...]) -> None:
    def made(seed: int) -> dict[str, Any]:
        layer = layer_of(seed)
        optimizer = OPTIMIZERS["sgd"](layer.parameters())
        sparsifier = sf.Sparsifier(layer, optimizer, sf.dense_masks(layer), sf.TopKAST(**SETTINGS), seed=0)
        return {"model": layer, "optimizer": optimizer, "sparsifier": sparsifier}

    def train(run: dict[str, Any], steps: range) -> None:
        for step in steps:
            inputs, targets = data(step)
            run["optimizer"].zero_grad()
            F.mse_loss(run["model"](inputs), targets).backward()
            run["optimizer"].step()

    alone, resumed = made(0), made(1)
    train(alone, range(1, 6))
    file = io.BytesIO()
    torch.save({name: part.state_dict() for name, part in alone.items()}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    for name in order:
        resumed[name].load_state_dict(saved[name])
    for run in (alone, resumed):
        train(run, range(6, 13))
    assert torch.equal(alone["model"].weight, resumed["model"].weight)
    saved["sparsifier"]["reserve"]["weight"] = torch.ones(2)
    with pytest.raises(ValueError, match=r"the state's reserve of 'weight' does not fit a weight of \(4, 6\)"):
        resumed["sparsifier"].load_state_dict(saved["sparsifier"])


@pytest.mark.parametrize("is_used", [True, False])
def test_an_update_that_fails_leaves_the_masks_as_they_were(is_used: bool) -> None:
    layer = layer_of()
    optimizer = torch.optim.SGD(layer.parameters(), lr=RATE)
    sparsifier = sf.Sparsifier(layer, optimizer, sf.dense_masks(layer), sf.TopKAST(**SETTINGS), seed=0)
    before = sparsifier.state_dict()
    (place, *_) = (sparsifier.masks["weight"] & ((layer.weight != 0) == is_used)).nonzero().tolist()
    layer.weight.grad = torch.zeros(4, 6, dtype=torch.float64)
    layer.weight.grad[tuple(place)] = torch.nan
    optimizer.step()
    words = r"scores has 1 of|scores have" if is_used else "weights of 'weight' that are trained and not used are NaN"
    with pytest.raises(ValueError, match=words):
        optimizer.step()
    assert torch.equal(sparsifier.masks["weight"], before["masks"]["weight"])
    assert int((layer.weight != 0).sum()) == USED + (not is_used)  # what is NaN shows in the model


def test_what_cannot_be_is_refused_when_made() -> None:
    with pytest.raises(ValueError, match=r"backward_sparsity=0\.9 is above sparsity=0\.5"):
        sf.TopKAST(sparsity=0.5, backward_sparsity=0.9, update_until=5)
    with pytest.raises(ValueError, match="sparsity must be in"):
        sf.TopKAST(sparsity=1.0, update_until=5)
    with pytest.raises(ValueError, match="update_until"):
        sf.TopKAST(sparsity=0.5, update_until=0)
    layer = layer_of()
    masks = sf.random_masks(layer, 0.9, seed=0)
    optimizer = torch.optim.SGD(layer.parameters(), lr=RATE)
    with pytest.raises(
        ValueError, match=r"weight has 2 active weights and the network is to compute with 6\. Start from"
    ):
        sf.Sparsifier(layer, optimizer, masks, sf.TopKAST(**SETTINGS), seed=0)


def test_rules_of_the_step_are_refused() -> None:
    layer = layer_of()
    optimizer = torch.optim.SGD(layer.parameters(), lr=RATE)
    with pytest.raises(ValueError, match="TopKAST trains weights that the network does not use, and rules such as"):
        sf.Sparsifier(
            layer, optimizer, sf.dense_masks(layer), sf.TopKAST(**SETTINGS), seed=0, rules=[sf.rules.SparseOpt()]
        )


def test_stored_weights_are_refused() -> None:
    pytest.importorskip("numba")
    model = nn.Sequential(nn.Linear(6, 4))
    masks = sf.dense_masks(model)
    stored = sf.engine.convert(model, masks)
    optimizer = torch.optim.SGD(stored.parameters(), lr=RATE)
    with pytest.raises(
        ValueError, match=r"TopKAST keeps a value for every weight, and '0\.weight' is stored as its active"
    ):
        sf.Sparsifier(stored, optimizer, masks, sf.TopKAST(**SETTINGS), seed=0)


def test_a_run_that_ends_early_says_so() -> None:
    layer = layer_of()
    optimizer = torch.optim.SGD(layer.parameters(), lr=RATE)
    sparsifier = sf.Sparsifier(layer, optimizer, sf.dense_masks(layer), sf.TopKAST(**SETTINGS), seed=0)
    F.mse_loss(layer(data(1)[0]), data(1)[1]).backward()
    optimizer.step()
    with pytest.warns(sf.updaters.run.UnfinishedWarning, match="Top-KAST has not come to its end, at step 9"):
        sparsifier.remove()


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW])
@pytest.mark.parametrize(
    "method",
    [
        sf.TopKAST(sparsity=0.5, update_every=2, update_until=9),
        sf.SRSTE(pattern=(1, 2), update_every=2, update_until=9, decay=0.5),
    ],
)
def test_a_gradient_scaler_changes_no_decay(method: sf.updaters.Method, optimizer: type[torch.optim.Optimizer]) -> None:
    """Fused optimizers divide by the scale within their kernel, after the decay of unused weights is added."""
    ends = []
    for scale in (None, 1024.0):  # a power of two: exact
        layer = nn.Linear(6, 4)
        for name, parameter in layer.named_parameters():
            nn.init.normal_(parameter, generator=stream(0, name))
        fused = optimizer(layer.parameters(), lr=0.05, weight_decay=0.3, fused=True)
        sparsifier = sf.Sparsifier(layer, fused, sf.dense_masks(layer), method, seed=0)
        scaler = torch.amp.GradScaler("cpu", init_scale=scale or 1.0, enabled=scale is not None)
        for step in range(5):
            fused.zero_grad()
            scaler.scale(layer(torch.randn(8, 6, generator=stream(step, "x"))).square().mean()).backward()
            scaler.step(fused)
            scaler.update()
        ends.append([layer.weight.detach(), *sparsifier.state_dict()["reserve"].values()])
    for one, other in zip(*ends, strict=True):
        assert torch.equal(one.nan_to_num(9.0), other.nan_to_num(9.0))
