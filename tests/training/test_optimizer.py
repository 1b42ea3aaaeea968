"""The optimizer against a hand-written loop of the update in the paper's Keras code (protocol G.6), in float64."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

import sparseflow as sf
from sparseflow.training.digits import DigitRun

STEPS = 30
# A large L2 term and rate, so that a wrong factor shows.
CONFIG = DigitRun(steps=STEPS, learning_rate=0.2, weight_decay=0.05)


def network() -> nn.Sequential:
    generator = torch.Generator().manual_seed(3)
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return model


def batch(step: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(100 + step)
    return torch.randn(5, 6, generator=generator, dtype=torch.float64), torch.randint(3, (5,), generator=generator)


def cross_entropy(weights: dict[str, Tensor], step: int) -> Tensor:
    """The same network written out."""
    inputs, labels = batch(step)
    hidden = torch.tanh(inputs @ weights["0.weight"].T + weights["0.bias"])
    logits = hidden @ weights["2.weight"].T + weights["2.bias"]
    return (torch.logsumexp(logits, 1) - logits[torch.arange(5), labels]).mean()


class Keras:
    """v <- 0.9 v - lr(t) g, w <- w + v; wd * sum(w^2) over kernels is part of the loss."""

    def __init__(self, model: nn.Module, config: DigitRun) -> None:
        self.config = config
        self.weights = {name: p.detach().clone() for name, p in model.named_parameters()}
        self.velocity = {name: torch.zeros_like(w) for name, w in self.weights.items()}

    def step(self, t: int, masks: dict[str, Tensor] | None = None) -> None:
        leaves = {name: w.clone().requires_grad_() for name, w in self.weights.items()}
        penalty = sum((leaves[name] ** 2).sum() for name in ("0.weight", "2.weight"))
        (cross_entropy(leaves, t) + self.config.weight_decay * penalty).backward()
        rate = self.config.learning_rate * (1 + math.cos(math.pi * t / self.config.steps)) / 2
        for name, leaf in leaves.items():
            gradient = leaf.grad if masks is None or name not in masks else leaf.grad * masks[name]
            self.velocity[name] = self.config.momentum * self.velocity[name] - rate * gradient
            self.weights[name] = self.weights[name] + self.velocity[name]

    def change_masks(self, masks: dict[str, Tensor], grown: dict[str, Tensor]) -> None:
        for name, mask in masks.items():
            self.weights[name] = self.weights[name] * (mask & ~grown[name])
            self.velocity[name] = self.velocity[name] * (mask & ~grown[name])


def step_ours(model: nn.Module, optimizer: torch.optim.SGD, t: int, config: DigitRun) -> None:
    config.learning_rates.set_(optimizer, t)
    optimizer.zero_grad()
    inputs, labels = batch(t)
    nn.functional.cross_entropy(model(inputs), labels).backward()
    optimizer.step()


def assert_same_weights(model: nn.Module, keras: Keras) -> None:
    for name, parameter in model.named_parameters():
        # float64 rounding over 30 steps, with room: one part in 1e10.
        torch.testing.assert_close(parameter.detach(), keras.weights[name], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("momentum", [0.9, 0.0])
def test_equals_the_keras_update_at_every_step(momentum: float) -> None:
    config = CONFIG.with_(momentum=momentum)
    model = network()
    keras, optimizer = Keras(model, config), config.optimizer(model)
    for t in range(STEPS):
        step_ours(model, optimizer, t, config)
        keras.step(t)
        assert_same_weights(model, keras)


def test_the_two_forms_would_differ_without_the_momentum_of_each_step() -> None:
    """The test above can fail: with torch's constant momentum the weights part by more than 1 % of their size."""
    model = network()
    keras, optimizer = Keras(model, CONFIG), CONFIG.optimizer(model)
    for t in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = CONFIG.learning_rates.at(t)
        optimizer.zero_grad()
        inputs, labels = batch(t)
        nn.functional.cross_entropy(model(inputs), labels).backward()
        optimizer.step()
        keras.step(t)
    apart = (model[0].weight.detach() - keras.weights["0.weight"]).norm() / keras.weights["0.weight"].norm()
    assert apart > 0.01


@pytest.mark.parametrize("updater", [sf.SET, sf.RigL])
def test_equals_the_keras_update_through_mask_changes(updater: type) -> None:
    """Dropped and grown weights have weight and velocity zero right after the change, and learn on from there."""
    model = network()
    optimizer = CONFIG.optimizer(model)
    masks = sf.random_masks(model, 0.5, seed=0)
    sf.apply_masks_(model, masks)
    keras = Keras(model, CONFIG)
    sparsifier = sf.Sparsifier(model, optimizer, masks, updater(drop_fraction=0.3, update_every=4), seed=0)
    grown_in_all = 0
    for t in range(STEPS):
        before = {name: mask.clone() for name, mask in sparsifier.masks.items()}
        step_ours(model, optimizer, t, CONFIG)
        keras.step(t, before)
        grown = {name: mask & ~before[name] for name, mask in sparsifier.masks.items()}
        dropped = {name: before[name] & ~mask for name, mask in sparsifier.masks.items()}
        grown_in_all += sum(int(mask.sum()) for mask in grown.values())
        keras.change_masks(sparsifier.masks, grown)
        assert_same_weights(model, keras)
        for name, parameter in model.named_parameters():
            if name in grown:
                velocity = optimizer.state[parameter]["momentum_buffer"]
                assert not velocity[grown[name] | dropped[name] | ~sparsifier.masks[name]].any()
                assert not parameter[grown[name] | ~sparsifier.masks[name]].any()
    assert grown_in_all > 20


def test_learning_rate_end_points_and_shape() -> None:
    """Closed form: eta_0 at 0, half in the middle, 0 at T, symmetric about the middle."""
    rates = [CONFIG.learning_rates.at(t) for t in range(STEPS + 1)]
    assert rates[0] == 0.2
    assert rates[15] == pytest.approx(0.1, abs=1e-15)
    assert rates[STEPS] == 0.0
    assert all(a > b for a, b in pairwise(rates))
    assert [a + b for a, b in zip(rates, reversed(rates), strict=True)] == pytest.approx([0.2] * 31, abs=1e-15)


def test_momentum_rises_to_four_times_its_value_at_the_end() -> None:
    """Near T the rate is eta_0 (pi (T - t) / 2T)^2, so the last ratio of rates is 4 and the momentum 0.9 * 4."""
    optimizer = DigitRun().optimizer(nn.Linear(2, 1))
    DigitRun().learning_rates.set_(optimizer, DigitRun().steps - 1)
    for group in optimizer.param_groups:
        assert group["momentum"] == pytest.approx(3.6, rel=1e-6)
        assert 0 < group["lr"] < 1e-8


@pytest.mark.parametrize("steps", [1, 2])
def test_the_shortest_runs(steps: int) -> None:
    """One step: w - eta_0 g. The rate of no step is zero, which would divide."""
    config = CONFIG.with_(steps=steps)
    model = network()
    keras, optimizer = Keras(model, config), config.optimizer(model)
    for t in range(steps):
        step_ours(model, optimizer, t, config)
        keras.step(t)
    assert_same_weights(model, keras)


def test_l2_is_on_every_kernel_and_on_nothing_else() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 3))
    kernels, others = DigitRun(weight_decay=5e-4).optimizer(model).param_groups
    assert [p.shape for p in kernels["params"]] == [model[0].weight.shape, model[3].weight.shape]
    assert len(others["params"]) == 4
    assert (kernels["weight_decay"], others["weight_decay"]) == (1e-3, 0.0)
