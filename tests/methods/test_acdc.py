"""AC/DC against its rule worked in float64 by hand, its authors' schedules, and what it refuses."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import sparseflow as sf
from sparseflow.rng import stream

RATE, MOMENTUM = 0.05, 0.9
PHASES = {"begin": 2, "phase_steps": 3, "end": 12}
COMPRESSED, DENSE = (2, 8, 12), (5, 11)


def data() -> tuple[Tensor, Tensor]:
    inputs, targets = (
        torch.randn(16, size, generator=stream(0, "data", str(size)), dtype=torch.float64) for size in (6, 4)
    )
    return inputs, targets


def by_hand(weight: Tensor, bias: Tensor, *, keep: int, reset: bool, steps: int) -> list[tuple[Tensor, Tensor]]:
    """Squared error of a linear layer; heavy-ball SGD; the gradients written out."""
    inputs, targets = data()
    weight, bias = weight.clone(), bias.clone()
    mask = torch.ones_like(weight)
    means = [torch.zeros_like(weight), torch.zeros_like(bias)]
    path = []
    for step in range(1, steps + 1):
        error = 2 * (inputs @ weight.T + bias - targets) / targets.numel()
        for parameter, mean, gradient in ((weight, means[0], error.T @ inputs * mask), (bias, means[1], error.sum(0))):
            mean.mul_(MOMENTUM).add_(gradient)
            parameter.sub_(RATE * mean)
        if step in COMPRESSED:
            largest = sorted(range(weight.numel()), key=lambda place: -float(weight.flatten()[place].abs()))[:keep]
            mask = (
                torch.zeros(weight.numel(), dtype=torch.float64).index_fill(0, torch.tensor(largest), 1).view_as(weight)
            )
            weight *= mask
            means[0] *= mask
        elif step in DENSE:
            mask = torch.ones_like(weight)
            if reset:
                means = [torch.zeros_like(mean) for mean in means]
        path.append((weight.clone(), bias.clone()))
    return path


@pytest.mark.parametrize("reset", [True, False])
def test_every_step_is_the_rule_by_hand(reset: bool) -> None:
    layer = nn.Linear(6, 4).double()
    for name, parameter in layer.named_parameters():
        nn.init.normal_(parameter, generator=stream(0, name))
    want = by_hand(layer.weight.detach(), layer.bias.detach(), keep=6, reset=reset, steps=15)
    optimizer = torch.optim.SGD(layer.parameters(), lr=RATE, momentum=MOMENTUM)
    method = sf.ACDC(sparsity=0.75, reset_momentum=reset, **PHASES)
    sf.Sparsifier(layer, optimizer, sf.dense_masks(layer), method, seed=0)
    inputs, targets = data()
    for weight, bias in want:
        optimizer.zero_grad()
        nn.functional.mse_loss(layer(inputs), targets).backward()
        optimizer.step()
        torch.testing.assert_close(layer.weight.detach(), weight, rtol=1e-12, atol=1e-14)
        torch.testing.assert_close(layer.bias.detach(), bias, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(
    ("total", "given", "compressed", "dense"),
    [
        (100, {}, [10, 20, 30, 40, 50, 60, 70, 85], [15, 25, 35, 45, 55, 65, 75]),
        (200, {"begin": 10, "phase_steps": 20, "end": 170}, [10, 50, 90, 130, 170], [30, 70, 110, 150]),
        (1, {}, [1], []),
    ],
)
def test_phases_are_those_of_the_authors_configs(
    total: int, given: dict[str, int], compressed: list[int], dense: list[int]
) -> None:
    """In epochs: ResNet-50 on ImageNet, and ResNet-20 on CIFAR-10; a run of one step is pruned at its end."""
    method = sf.ACDC(sparsity=0.9, total_steps=total, **given)
    assert [step for step in range(total + 1) if method.due(step)] == sorted(compressed + dense)
    assert [step for step in range(total + 1) if method.resets_momentum(step)] == dense


def test_momentum_of_other_optimizers_is_known_by_its_name() -> None:
    """Adam forgets the mean of gradients, also of biases, and keeps that of their squares."""
    layer = nn.Linear(6, 4)
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.01)
    sparsifier = sf.Sparsifier(layer, optimizer, sf.dense_masks(layer), sf.ACDC(sparsity=0.5, **PHASES), seed=0)
    for _ in range(DENSE[0]):
        optimizer.zero_grad()
        layer(torch.ones(2, 6)).square().sum().backward()
        optimizer.step()
    assert sparsifier.sparsity == 0
    for parameter in layer.parameters():
        assert not optimizer.state[parameter]["exp_avg"].any()
        assert optimizer.state[parameter]["exp_avg_sq"].any()


def test_a_dense_phase_begins_without_the_momentum_of_both_factors() -> None:
    """Sign-In steps the second factor of each weight by an optimizer of its own."""
    layer = nn.Linear(6, 4)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.01, momentum=0.9)
    rule = sf.rules.SignIn(reset_every=100)
    sf.Sparsifier(layer, optimizer, sf.dense_masks(layer), sf.ACDC(sparsity=0.5, **PHASES), seed=0, rules=[rule])
    for step in range(1, DENSE[0] + 1):
        optimizer.zero_grad()
        layer(torch.ones(2, 6)).square().sum().backward()
        optimizer.step()
        momenta = [state["momentum_buffer"] for each in rule.optimizers for state in each.state.values()]
        assert len(momenta) == 1
        assert bool(momenta[0].any()) == (step != DENSE[0])


def test_a_run_says_what_is_left_of_it() -> None:
    layer = nn.Linear(6, 4)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    sparsifier = sf.Sparsifier(layer, optimizer, sf.dense_masks(layer), sf.ACDC(sparsity=0.5, **PHASES), seed=0)
    layer(torch.ones(1, 6)).sum().backward()
    optimizer.step()
    with pytest.warns(sf.updaters.run.UnfinishedWarning, match="pruning has not come to its end, at step 12"):
        sparsifier.remove()


def test_what_cannot_be_is_refused_when_it_is_made() -> None:
    with pytest.raises(ValueError, match="begin is missing: give total_steps="):
        sf.ACDC(sparsity=0.9)
    with pytest.raises(ValueError, match="phase_steps is missing"):
        sf.ACDC(sparsity=0.9, begin=1, end=5)
    with pytest.raises(ValueError, match="begin=9, comes after the last, end=5"):
        sf.ACDC(sparsity=0.9, begin=9, phase_steps=1, end=5)
    with pytest.raises(ValueError, match="end=50, comes after total_steps=20"):
        sf.ACDC(sparsity=0.9, total_steps=20, end=50)
    with pytest.raises(ValueError, match="sparsity"):
        sf.ACDC(sparsity=1.0, total_steps=20)
    with pytest.raises(TypeError, match="total_steps must be a whole number, got '20'"):
        sf.ACDC(sparsity=0.9, total_steps="20")
    layer = nn.Linear(6, 4)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    with pytest.raises(ValueError, match=r"Start from sparseflow\.dense_masks"):
        sf.Sparsifier(
            layer, optimizer, sf.random_masks(layer, 0.9, seed=0), sf.ACDC(sparsity=0.5, total_steps=20), seed=0
        )
