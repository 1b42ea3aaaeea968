"""HAM against its equation, written out in NumPy over a whole run of SGD, and worked by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

import sparseflow as sf


def test_by_hand() -> None:
    """exp(0.1 (-2 * 1 * 0.5 - 0.3)) for a weight that is asked to shrink, and the cut of large exponents at 5."""
    weight = torch.tensor([3.0, -3.0, 0.0, 1.0], dtype=torch.float64)
    gradient = torch.tensor([0.5, 0.5, 9.0, -1e6], dtype=torch.float64)
    found = sf.rules.hyperbolic_step_(weight.clone(), gradient, rate=0.1, alpha=2.0, beta=0.3)
    want = [3 * math.exp(-0.13), -3 * math.exp(0.07), 0.0, math.exp(5)]
    assert found.tolist() == pytest.approx(want, rel=1e-14)


def test_a_run_of_sgd_is_the_two_steps_in_turn() -> None:
    """A step w - lr g, then the hyperbolic step by the same gradient, of a least-squares problem.

    The second layer has no mask and moves by the rule too; biases do not.
    """
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 4), nn.Linear(4, 2)).double()
    mask = torch.rand(4, 5) < 0.5
    x, y = torch.randn(7, 5).double(), torch.randn(7, 2).double()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    sf.Sparsifier(model, optimizer, {"0.weight": mask}, sf.Static(), seed=0, rules=[sf.rules.HAM(alpha=3.0, beta=0.2)])
    a, b, c, d = (parameter.detach().clone().numpy() for parameter in model.parameters())
    for _ in range(6):
        optimizer.zero_grad()
        ((model(x) - y) ** 2).sum().backward()
        optimizer.step()
        hidden = x.numpy() @ a.T + b
        error = 2 * (hidden @ c.T + d - y.numpy())
        through = error @ c
        gradients = [through.T @ x.numpy() * mask.numpy(), through.sum(0), error.T @ hidden, error.sum(0)]
        for array, gradient in zip((a, b, c, d), gradients, strict=True):
            array -= 0.05 * gradient
            if array.ndim == 2:
                array *= np.exp(np.clip(0.05 * (-3 * np.sign(array) * gradient - 0.2), -5, 5))
    for array, parameter in zip((a, b, c, d), model.parameters(), strict=True):
        assert parameter.detach().numpy() == pytest.approx(array, rel=1e-10, abs=1e-12)


def test_a_gain_that_is_maximised_moves_weights_as_its_negative_loss() -> None:
    ends = []
    for maximize in (False, True):
        torch.manual_seed(0)
        layer = nn.Linear(5, 4)
        optimizer = torch.optim.SGD(layer.parameters(), lr=0.1, maximize=maximize)
        sf.Sparsifier(layer, optimizer, sf.dense_masks(layer), sf.Static(), seed=0, rules=[sf.rules.HAM(alpha=10.0)])
        loss = layer(torch.ones(2, 5)).square().sum()
        (-loss if maximize else loss).backward()
        optimizer.step()
        ends.append(layer.weight.detach())
    assert torch.equal(*ends)


def test_sparse_gradients_of_an_embedding_are_gradients_too() -> None:
    ends = []
    for sparse in (False, True):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Embedding(6, 4, sparse=sparse), nn.Linear(4, 2))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        masks = sf.random_masks(model, 0.5, seed=0)
        sf.Sparsifier(model, optimizer, masks, sf.Static(), seed=0, rules=[sf.rules.HAM(alpha=10.0)])
        model(torch.tensor([1, 3, 3])).square().sum().backward()
        optimizer.step()
        ends.append(model[0].weight.detach())
    torch.testing.assert_close(*ends)  # rows that are read twice add up in another order


@pytest.mark.parametrize(("options", "words"), [
    ({"alpha": -1.0}, "alpha must be at least 0, got -1.0"), ({"beta": "much"}, "beta must be a number, got 'much'"),
])  # fmt: skip
def test_options_out_of_range(options: dict[str, float], words: str) -> None:
    with pytest.raises((TypeError, ValueError), match=words):
        sf.rules.HAM(**options)


class WithoutRate(torch.optim.Optimizer):
    """An optimizer whose step has no learning rate."""

    def __init__(self, parameters: object) -> None:
        super().__init__(parameters, {})

    def step(self, closure: object = None) -> None:
        for parameter in self.param_groups[0]["params"]:
            parameter.data -= 0.1 * parameter.grad


class DecaysInPlace(torch.optim.Optimizer):
    """An optimizer that adds its weight decay to the gradients themselves, as several outside of torch do."""

    def __init__(self, parameters: object) -> None:
        super().__init__(parameters, {"lr": 0.1})

    def step(self, closure: object = None) -> None:
        for parameter in self.param_groups[0]["params"]:
            parameter.grad.add_(parameter.data, alpha=0.5)
            parameter.data.sub_(parameter.grad, alpha=0.1)


def test_the_gradient_is_the_one_before_an_optimizer_writes_to_it() -> None:
    """By hand, with w = 2 and g = -1: 2 - 0.1 (-1 + 0.5 * 2) = 2, times exp(0.1 * 3)."""
    layer = nn.Linear(1, 1, bias=False)
    layer.weight.data.fill_(2.0)
    rules = [sf.rules.HAM(alpha=3.0, beta=0.0)]
    optimizer = DecaysInPlace(layer.parameters())
    sf.Sparsifier(layer, optimizer, sf.dense_masks(layer), sf.Static(), seed=0, rules=rules)
    layer.weight.grad = torch.tensor([[-1.0]])
    optimizer.step()
    assert float(layer.weight.detach()) == pytest.approx(2 * math.exp(0.3), rel=1e-6)


def test_an_optimizer_without_a_learning_rate_is_refused() -> None:
    layer = nn.Linear(4, 2)
    with pytest.raises(ValueError, match="HAM multiplies by the learning rate, and WithoutRate has none"):
        sf.Sparsifier(
            layer, WithoutRate(layer.parameters()), sf.random_masks(layer, 0.5, seed=0), sf.Static(), seed=0,
            rules=[sf.rules.HAM()],
        )  # fmt: skip
