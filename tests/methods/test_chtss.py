"""CHTss against its curve in closed form, its pruning with lists, and the promises of every method."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import sparseflow as sf
from sparseflow.methods.chtss import sigmoid_sparsity
from sparseflow.methods.topology import relative_importance
from sparseflow.rng import stream
from sparseflow.sparsifier.run_words import method_words
from sparseflow.testing import PROMISES, Trial
from tiny import OPTIMIZERS, SIZES, batch, tiny_model

OPTIONS: dict[str, Any] = {"sparsity": 0.9, "begin": 2, "end": 8, "update_every": 2, "update_until": 12}


@pytest.mark.parametrize("curvature", [0.01, 6.0, 40.0])
def test_the_curve(curvature: float) -> None:
    """The logistic function written out, scaled to its ends; nearly flat it is a line, and steep a step."""
    logistic = [1 / (1 + math.exp(-curvature * x)) for x in (-1, -0.5, 0, 0.5, 1)]
    for step, value in zip((10, 15, 20, 25, 30), logistic, strict=True):
        share = 0.5 + (value - 0.5) / (logistic[-1] - logistic[0])
        found = sigmoid_sparsity(step, initial=0.5, final=0.9, begin=10, end=30, curvature=curvature)
        assert found == pytest.approx(0.5 + 0.4 * share, abs=1e-12)
    ends = [sigmoid_sparsity(t, initial=0.5, final=0.9, begin=10, end=30, curvature=curvature) for t in (0, 10, 30, 99)]
    assert ends == [0.5, 0.5, 0.9, 0.9]
    assert sigmoid_sparsity(7, initial=0.5, final=0.9, begin=7, end=7) == 0.9


def test_what_is_pruned_is_of_least_relative_importance() -> None:
    """Without an exchange, in float64: a stable sort of lists; counts are those of the curve by hand."""
    layer = nn.Linear(10, 8, bias=False).double()
    nn.init.normal_(layer.weight, generator=stream(0, "weight"))
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    masks = sf.random_masks(layer, 0.5, seed=0)
    sparsifier = sf.Sparsifier(layer, optimizer, masks, sf.CHTss(**OPTIONS, drop_fraction=0.0), seed=0)
    wanted: list[list[int]] = []

    def choose(step: int) -> None:
        importance = relative_importance(layer.weight.detach()).flatten().tolist()
        active = sparsifier.masks["weight"].flatten().nonzero().flatten().tolist()
        x = 2 * (min(step, 8) - 2) / 6 - 1
        share = 0.5 + (1 / (1 + math.exp(-6 * x)) - 0.5) / (1 / (1 + math.exp(-6)) - 1 / (1 + math.exp(6)))
        wanted.append(sorted(sorted(active, key=lambda i: -importance[i])[: round(80 * (0.5 - 0.4 * share))]))

    sparsifier.before_update.append(choose)
    for step in range(1, 14):
        optimizer.zero_grad()
        layer(torch.randn(6, 10, generator=stream(step, "x"), dtype=torch.float64)).square().sum().backward()
        optimizer.step()
        if step % 2 == 0 and step <= 12:
            assert sparsifier.masks["weight"].flatten().nonzero().flatten().tolist() == wanted[-1]
    assert [len(each) for each in wanted] == [40, 36, 12, 8, 8, 8]  # shares 0.117 and 0.883: sparsities 0.547 and 0.853


def test_an_exchange_after_pruning_keeps_the_count() -> None:
    layer = nn.Linear(20, 12)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    masks = sf.receptive_field_masks(layer, 0.5, seed=0)
    sparsifier = sf.Sparsifier(layer, optimizer, masks, sf.CHTss(**OPTIONS), seed=0)
    counts, came_back = [], False
    for step in range(1, 13):
        before = sparsifier.masks["weight"].clone()
        optimizer.zero_grad()
        layer(torch.randn(6, 20, generator=stream(step, "x"))).square().sum().backward()
        optimizer.step()
        sparsifier.check()
        counts.append(int(sparsifier.masks["weight"].sum()))
        came_back |= bool((sparsifier.masks["weight"] & ~before).any())
    assert counts == [120, 120, 120, 109, 109, 35, 35, 24, 24, 24, 24, 24]
    assert came_back


def test_stored_weights_have_the_masks_of_masked_ones() -> None:
    """With a chain through a convolution; in float64."""
    chain, runs = ("0.weight", "3.weight", "5.weight"), []
    for stored in (True, False):
        model = tiny_model(dtype=torch.float64)
        masks = sf.random_masks(model, 0.5, seed=0)
        sf.apply_masks_(model, masks)
        model = sf.engine.convert(model, masks) if stored else model
        optimizer = OPTIMIZERS["momentum"](model.parameters())
        sparsifier = sf.Sparsifier(model, optimizer, masks, sf.CHTss(**OPTIONS, chain=chain), seed=0)
        for step in range(1, 14):
            x, y = batch(step, dtype=torch.float64)
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
            sparsifier.check()
        runs.append(dict(sparsifier.masks))
    for name, mask in runs[0].items():
        assert torch.equal(mask, runs[1][name]), name


@pytest.mark.parametrize("promise", PROMISES)
def test_it_keeps_every_promise(promise: str) -> None:
    def active(name: str, size: int, step: int) -> int:
        reached = max((update for update in (2, 4, 6, 8) if update <= step), default=None)
        if reached is None:
            return held[name]
        sparsity = sigmoid_sparsity(reached, initial=0.5, final=0.9, begin=2, end=8)
        return min(held[name], max(1, round(size * (1 - sparsity))))

    def masks(model: nn.Module) -> dict[str, torch.Tensor]:
        return sf.random_masks(model, 0.5, seed=0)

    held = {name: round(size / 2) for name, size in SIZES.items()}
    PROMISES[promise](Trial(make=lambda: sf.CHTss(**OPTIONS), masks=masks, active=active))


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"end": 13}, ValueError, "pruning ends at step 13, and weights are exchanged until step 12 alone"),
        ({"sparsity": 0.4}, ValueError, "initial_sparsity=0.5 is above the final sparsity"),
        ({"begin": 9}, ValueError, "pruning needs 0 <= begin <= end, in optimizer steps, got 9 and 8"),
        ({"curvature": 0}, ValueError, "curvature must be positive, got 0"),
        ({"curvature": "steep"}, TypeError, "curvature must be a number, got 'steep'"),
        ({"end": "8"}, TypeError, "end must be a whole number, got '8'"),
    ],
)
def test_options_that_cannot_be_met(changed: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        sf.CHTss(**{**OPTIONS, **changed})


def test_what_is_sparser_than_the_end_is_refused_and_an_early_end_told() -> None:
    layer = nn.Linear(20, 12)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    with pytest.raises(ValueError, match="pruning would end with 24; none comes back"):
        sf.Sparsifier(layer, optimizer, sf.random_masks(layer, 0.95, seed=0), sf.CHTss(**OPTIONS), seed=0)
    sparsifier = sf.Sparsifier(layer, optimizer, sf.random_masks(layer, 0.5, seed=0), sf.CHTss(**OPTIONS), seed=0)
    layer(torch.ones(1, 20)).sum().backward()
    optimizer.step()
    with pytest.warns(sf.updaters.run.UnfinishedWarning, match="pruning has not come to its end, at step 8"):
        sparsifier.remove()


def test_a_method_says_how_it_was_made() -> None:
    method = sf.CHTss(sparsity=0.9, end=80, update_until=100)
    assert method_words(method) == "CHTss(update_until=100, sparsity=0.9, end=80)"
