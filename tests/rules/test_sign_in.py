"""Sign-In against a network whose weights are products written out, trained by torch's optimizers; in float64."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import sparseflow as sf

OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": partial(torch.optim.SGD, lr=0.05),
    "momentum": partial(torch.optim.SGD, lr=0.05, momentum=0.9, weight_decay=0.1, nesterov=True),
    "adamw": partial(torch.optim.AdamW, lr=0.02, weight_decay=0.1),
}


@pytest.mark.parametrize("beta", [0.3, 1.0])
def test_balanced_factors(beta: float) -> None:
    """Their product and the difference of their squares, for weights of both signs, zero, and far from one."""
    weight = torch.tensor([0.0, 1e-9, -0.3, 2.0, -1e4], dtype=torch.float64)
    m, w = sf.rules.balanced_factors(weight, beta=beta)
    torch.testing.assert_close(m * w, weight, rtol=1e-15, atol=0)
    torch.testing.assert_close(m**2 - w**2, torch.full_like(weight, beta), rtol=0, atol=1e-6)
    assert bool((m > 0).all())


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_run_is_that_of_products_written_out(name: str) -> None:
    """With a schedule, biases, and a balancing every 4 steps that leaves the optimizer's state."""
    torch.manual_seed(0)
    mask = torch.rand(3, 5) < 0.5
    weight, bias = torch.randn(3, 5).double() * mask, torch.randn(3).double()
    x, y = torch.randn(20, 5).double(), torch.randn(20, 3).double()

    layer = nn.Linear(5, 3).double()
    layer.weight.data.copy_(weight)
    layer.bias.data.copy_(bias)
    optimizer = OPTIMIZERS[name](layer.parameters())
    rate = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
    rules = [sf.rules.SignIn(reset_every=4)]
    sf.Sparsifier(layer, optimizer, {"weight": mask}, sf.Static(), seed=0, rules=rules)

    m, w = (factor.requires_grad_() for factor in sf.rules.balanced_factors(weight))
    offset = bias.clone().requires_grad_()
    written = OPTIMIZERS[name]([m, w, offset])
    written_rate = torch.optim.lr_scheduler.ExponentialLR(written, 0.9)
    for step in range(11):
        if step % 4 == 0:
            fresh = sf.rules.balanced_factors((m * w).detach())
            m.data, w.data = fresh.m, fresh.w
        for each, output, schedule in (
            (optimizer, layer(x), rate),
            (written, F.linear(x, m * w * mask, offset), written_rate),
        ):
            each.zero_grad()
            (output - y).square().mean().backward()
            each.step()
            schedule.step()
        torch.testing.assert_close(layer.weight.detach(), (m * w * mask).detach(), rtol=1e-10, atol=1e-13)
        torch.testing.assert_close(layer.bias, offset, rtol=1e-10, atol=0)
    assert not bool(layer.weight.detach()[~mask].any())


def first_step(theta: Tensor, gradient: Tensor, *, rate: float, beta: float) -> Tensor:
    """The way of the weights in one step of SGD."""
    layer = nn.Linear(len(theta), 1, bias=False).double()
    layer.weight.data.copy_(theta[None])
    optimizer = torch.optim.SGD(layer.parameters(), lr=rate)
    rule = sf.rules.SignIn(reset_every=9, beta=beta)
    sf.Sparsifier(layer, optimizer, sf.dense_masks(layer), sf.Static(), seed=0, rules=[rule])
    (layer.weight * gradient).sum().backward()
    optimizer.step()
    return layer.weight.detach()[0] - theta


def test_small_steps_are_scaled_by_the_metric() -> None:
    """The way is -lr sqrt(beta^2 + 4 theta^2) g, with an error that falls as lr^2: theta gains lr^2 m w g^2."""
    theta = torch.tensor([-2.0, -0.1, 0.0, 0.5], dtype=torch.float64)
    gradient = torch.tensor([1.0, -1.0, 2.0, 0.5], dtype=torch.float64)
    for rate in (1e-2, 1e-4):
        found = first_step(theta, gradient, rate=rate, beta=0.7)
        flow = -rate * (0.7**2 + 4 * theta**2).sqrt() * gradient
        torch.testing.assert_close(found - flow, rate**2 * theta * gradient**2, rtol=1e-6, atol=1e-15)


def test_a_weight_near_zero_crosses_it_and_one_that_is_new_moves() -> None:
    """At beta = 1 a weight at zero has the step of plain SGD."""
    theta, gradient = torch.tensor([0.0, 1e-3], dtype=torch.float64), torch.tensor([0.5, 0.5], dtype=torch.float64)
    found = theta + first_step(theta, gradient, rate=0.1, beta=1.0)
    assert found.tolist() == pytest.approx([-0.05, 1e-3 - 0.05], rel=1e-3)


def test_the_gradient_is_left_as_it_was() -> None:
    layer = nn.Linear(4, 2)
    masks = sf.random_masks(layer, 0.5, seed=0)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    sf.Sparsifier(layer, optimizer, masks, sf.Static(), seed=0, rules=[sf.rules.SignIn(reset_every=3)])
    layer(torch.ones(1, 4)).sum().backward()
    before = layer.weight.grad.clone()
    optimizer.step()
    assert torch.equal(layer.weight.grad, before * masks["weight"])


def test_what_something_else_wrote_is_taken_for_the_weight() -> None:
    """Loading other values between steps goes on from these."""
    torch.manual_seed(1)
    layers = [nn.Linear(4, 2, bias=False).double() for _ in range(2)]
    optimizers = [torch.optim.SGD(layer.parameters(), lr=0.1) for layer in layers]
    for layer, optimizer in zip(layers, optimizers, strict=True):
        rule = sf.rules.SignIn(reset_every=100)
        sf.Sparsifier(layer, optimizer, sf.dense_masks(layer), sf.Static(), seed=0, rules=[rule])
    layers[0](torch.ones(1, 4).double()).sum().backward()
    optimizers[0].step()
    layers[0].weight.data.copy_(layers[1].weight.data)
    for layer, optimizer in zip(layers, optimizers, strict=True):
        optimizer.zero_grad()
        layer(torch.ones(1, 4).double()).sum().backward()
        optimizer.step()
    assert torch.equal(layers[0].weight, layers[1].weight)


class Own(torch.optim.SGD):
    """An optimizer that is none of torch's own."""


@pytest.mark.parametrize(("make", "options", "words"), [
    (Own, {"reset_every": 5}, "second optimizer of the same kind beside Own, which it can with those of torch.optim"),
    (torch.optim.SGD, {"reset_every": 0}, "reset_every must be at least 1, got 0"),
    (torch.optim.SGD, {"reset_every": 5, "beta": 0.0}, "beta must be positive, got 0"),
])  # fmt: skip
def test_what_cannot_be_is_refused(make: Any, options: dict[str, Any], words: str) -> None:
    layer = nn.Linear(4, 2)
    with pytest.raises(ValueError, match=words):  # noqa: PT012 - of the options, or of the optimizer
        rule = sf.rules.SignIn(**options)
        optimizer = make(layer.parameters(), lr=0.1)
        sf.Sparsifier(layer, optimizer, sf.random_masks(layer, 0.5, seed=0), sf.Static(), seed=0, rules=[rule])
