"""Optimizer state by its meaning: what belongs to one weight is fresh when it grows, all else is as masked by hand."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sparseflow as sf
from odd_optimizers import (
    ODD,
    Averaged,
    Bytes,
    Elsewhere,
    HalfBytes,
    LateMixing,
    Nested,
    Rotated,
    StepSizes,
    Uncopyable,
    Unrepeatable,
)
from optimizer_loops import backward, network, rigl, trained
from sparseflow.rng import stream
from sparseflow.sparsifier.optimizer_state import findings
from sparseflow.sparsifier.optimizers import switches_of, weight_states
from sparseflow.sparsifier.tensors import name_of

optim = torch.optim
Make = Callable[[Any], optim.Optimizer]

#: Every optimizer of torch that takes dense gradients and needs no closure.
TORCH: dict[str, Make] = {
    "SGD": lambda p: optim.SGD(p, 0.1, momentum=0.9),
    "Adagrad": lambda p: optim.Adagrad(p, 0.05, initial_accumulator_value=0.25),
    "Rprop": lambda p: optim.Rprop(p, 0.003),
    "Adamax": lambda p: optim.Adamax(p, 0.01),
    "RMSprop": lambda p: optim.RMSprop(p, 0.01, momentum=0.9, centered=True),
    **{name: partial(getattr(optim, name), lr=0.01) for name in ("Adam", "AdamW", "NAdam", "RAdam", "ASGD")},
    "Adadelta": optim.Adadelta,
    "Adafactor": lambda p: optim.Adafactor(p, 0.01),
}
if hasattr(optim, "Muon"):
    TORCH["Muon"] = lambda p: optim.Muon(p, 0.01)


# -- masking by hand ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*ODD, *TORCH])
def test_static_equals_masking_by_hand_to_the_last_bit(name: str) -> None:
    """Oracle: gradients and weights times the mask, before and after each step of the bare optimizer, in float64."""
    make = {**ODD, **TORCH}[name]
    for with_sparsifier, by_hand in zip(trained(make, by_hand=False), trained(make, by_hand=True), strict=True):
        assert torch.equal(with_sparsifier, by_hand)


# -- what a new weight has ---------------------------------------------------------------------------------------------

#: State -> what each optimizer gives a new weight, by its documentation; by the formats above for the odd ones.
FRESH: dict[str, Mapping[str, float]] = {
    "SGD": {"momentum_buffer": 0.0},
    "Adagrad": {"sum": 0.25},
    "Rprop": {"prev": 0.0, "step_size": 0.003},
    "Adamax": {"exp_avg": 0.0, "exp_inf": 1e-8},
    "RMSprop": {"square_avg": 0.0, "momentum_buffer": 0.0, "grad_avg": 0.0},
    "Adam": {"exp_avg": 0.0, "exp_avg_sq": 0.0},
    "Adadelta": {"square_avg": 0.0, "acc_delta": 0.0},
    "ASGD": {"ax": 0.0},
    "Adafactor": {},
    "Rotated": {},
    "Factored": {"momentum": 0.0},
    "Nested": {
        "momenta[0]": 0.0, "momenta[1].slow": 0.0, "moments.square": 0.0, "stacked[0]": 0.0, "stacked[1]": 0.0,
    },
    "Bytes": {"codes": 128},
    "HalfBytes": {"codes": 8},
    "StepSizes": {"gain": 0.9, "before": 0.0},  # the first step without agreement
    "Indices": {"steps": 0},
    "Chosen": {},
    "Elsewhere": {},
    "Unrepeatable": {"momentum": 0.0},
}  # fmt: skip


@pytest.mark.parametrize("name", FRESH)
def test_the_trial_finds_what_belongs_to_a_weight(name: str) -> None:
    layer = nn.Linear(16, 12, bias=False).double()
    found = findings({**ODD, **TORCH}[name](layer.parameters()), layer.weight).per_weight
    assert {name_of(path): kept.fresh for path, kept in found.items()} == pytest.approx(FRESH[name])


@pytest.mark.parametrize("name", FRESH)
def test_a_weight_that_grows_has_the_state_of_a_new_one(name: str) -> None:
    """Oracle: the table; looked at right after each update, in the first tensor of each optimizer's own state."""
    model = network()
    optimizer = {**ODD, **TORCH}[name](model.parameters())
    sparsifier = sf.Sparsifier(model, optimizer, sf.random_masks(model, 0.8, seed=0), rigl(), seed=0)
    seen: list[int] = []

    def look(step: int, changes: Mapping[str, Any]) -> None:
        for weight, change in changes.items():
            parameter = model.get_parameter(weight)
            for state in weight_states(optimizer, parameter):
                values = unpacked(state.tensor, parameter) if name == "HalfBytes" else state.tensor.view_as(parameter)
                expected = torch.full_like(values[change.grown], FRESH[name][state.key])
                torch.testing.assert_close(values[change.grown], expected, rtol=1e-7, atol=0)
            seen.append(int(change.grown.sum()))

    sparsifier.after_update.append(look)
    for step in range(12):
        backward(model, step)
        optimizer.step()
        sparsifier.check()
    assert len(seen) == 6
    assert min(seen) > 0


def unpacked(tensor: Tensor, parameter: Tensor) -> Tensor:
    return torch.stack([tensor // 16, tensor % 16], 1).view_as(parameter)


@pytest.mark.parametrize("name", [*ODD, *TORCH])
def test_grown_weights_learn(name: str) -> None:
    """Each moves at its first step, and by no more than ten times what the others move by."""
    model = network()
    optimizer = {**ODD, **TORCH}[name](model.parameters())
    masks = sf.random_masks(model, 0.8, seed=0)
    sparsifier = sf.Sparsifier(model, optimizer, masks, rigl(update_until=8), seed=0)
    grown: dict[str, Tensor] = {}
    sparsifier.after_update.append(lambda step, changes: grown.update({n: c.grown for n, c in changes.items()}))
    for step in range(8):
        backward(model, step)
        optimizer.step()
    before = {n: model.get_parameter(n).detach().clone() for n in masks}
    backward(model, 8)
    optimizer.step()
    for n, mask in sparsifier.masks.items():
        moved = (model.get_parameter(n) - before[n]).abs()
        others = moved[mask & ~grown[n]]
        assert moved[grown[n]].max() <= 10 * others.max()
        if name not in {"Indices", "Chosen"}:  # which move a part of the weights only
            assert moved[grown[n]].max() > 0.01 * others.median()


# -- one line that says so ---------------------------------------------------------------------------------------------


def lines(make: Make, caplog: pytest.LogCaptureFixture) -> list[str]:
    layer = nn.Linear(16, 12, bias=False)
    with caplog.at_level(logging.WARNING, "sparseflow"):
        sf.Sparsifier(layer, make(layer.parameters()), sf.random_masks(layer, 0.5, seed=0), sf.Static(), seed=0)
    return [record.getMessage() for record in caplog.records]


def test_an_optimizer_nobody_knows_is_described_in_one_line(caplog: pytest.LogCaptureFixture) -> None:
    assert lines(Rotated, caplog) == [
        "Rotated: state per weight, and its value for a new weight: nothing. Left to the optimizer: covariance, "
        "square. Weights are cleared after each step."
    ]


def test_one_that_cannot_be_tried_out_says_why(caplog: pytest.LogCaptureFixture) -> None:
    (line,) = lines(lambda p: Uncopyable(p, lambda _: 0.05), caplog)
    assert "Uncopyable could not be tried out (TypeError: Uncopyable needs 'schedule', which it does not keep" in line


def test_those_of_torch_say_nothing(caplog: pytest.LogCaptureFixture) -> None:
    assert [line for make in TORCH.values() for line in lines(make, caplog)] == []


def test_state_that_mixes_weights_late_is_left_alone_from_then_on(caplog: pytest.LogCaptureFixture) -> None:
    model = network()
    optimizer = LateMixing(model.parameters())
    masks = sf.random_masks(model, 0.8, seed=0)
    sparsifier = sf.Sparsifier(model, optimizer, masks, sf.SET(update_every=12), seed=0)
    with caplog.at_level(logging.WARNING, "sparseflow"):
        for step in range(14):
            backward(model, step)
            optimizer.step()
    said = [record.getMessage() for record in caplog.records]
    assert sum("changed 'momentum' of inactive weights" in line for line in said) == 2  # one for each weight
    sparsifier.check()
    for name, mask in sparsifier.masks.items():
        assert optimizer.state[model.get_parameter(name)]["momentum"][~mask].any()


# -- the trial leaves no trace -----------------------------------------------------------------------------------------


@pytest.fixture
def generators() -> Iterator[None]:
    before = torch.get_rng_state()
    yield
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.usefixtures("generators")
@pytest.mark.parametrize("make", [Nested, Bytes, HalfBytes, StepSizes, Elsewhere, *TORCH.values()])
def test_the_trial_changes_no_weight_no_state_and_no_generator(make: Make) -> None:
    with torch.random.fork_rng():
        layer = nn.Linear(16, 12, bias=False)
    before = layer.weight.detach().clone()
    optimizer = make(layer.parameters())
    state = {key: value.clone() for key, value in optimizer.state[layer.weight].items()}
    findings(optimizer, layer.weight)
    assert torch.equal(layer.weight, before)
    assert layer.weight.grad is None
    assert optimizer.state[layer.weight].keys() == state.keys()
    assert getattr(optimizer, "momenta", {}) == {}


def test_settings_of_groups_and_schedules_reach_the_trial() -> None:
    """A group's own rate, and the rate before any schedule: what the optimizer gives to weights at its first step."""
    one, two = (nn.Parameter(torch.ones(8)) for _ in range(2))
    optimizer = optim.Rprop([{"params": [one], "lr": 0.5}, {"params": [two]}], lr=0.25)
    optim.lr_scheduler.LinearLR(optimizer, start_factor=0.1)
    keys = {each: switches_of(optimizer, each) for each in (one, two)}
    found = [findings(optimizer, each, keys[each]).per_weight[0, "step_size"].fresh for each in (one, two)]
    assert found == [0.5, 0.25]


# -- check -------------------------------------------------------------------------------------------------------------


def test_check_compares_with_fresh_state() -> None:
    layer = nn.Linear(16, 12, bias=False)
    optimizer = optim.Rprop(layer.parameters(), lr=0.25)
    sparsifier = sf.Sparsifier(layer, optimizer, sf.random_masks(layer, 0.5, seed=0), sf.Static(), seed=0)
    layer(torch.randn(4, 16, generator=stream(0, "x"))).square().sum().backward()
    optimizer.step()
    sparsifier.check()
    optimizer.state[layer.weight]["step_size"][~sparsifier.masks["weight"]] = 0.0  # what used to be right
    with pytest.raises(
        sf.BrokenPromiseError, match=r"'step_size' of 'weight' has 96 inactive entries that are not 0\.25"
    ):
        sparsifier.check()


def test_values_that_are_stored_alone_refuse_state_that_depends_on_places() -> None:
    layer = nn.Sequential(nn.Linear(16, 12, bias=False))
    model = sf.engine.convert(layer, sf.random_masks(layer, 0.5, seed=0))
    masks = sf.random_masks(layer, 0.5, seed=0)
    with pytest.raises(ValueError, match="Bytes keeps state scales that cannot follow active weights"):
        sf.Sparsifier(model, Bytes(model.parameters()), masks, sf.SET(), seed=0)
    sf.Sparsifier(model, Bytes(model.parameters()), masks, sf.Static(), seed=0)


def test_the_name_of_one_that_takes_no_dense_gradients() -> None:
    layer = nn.Linear(16, 12, bias=False)
    with pytest.raises(ValueError, match=r"SparseAdam takes sparse gradient tensors only, .* Use torch\.optim\.Adam"):
        sf.Sparsifier(
            layer, optim.SparseAdam(layer.parameters()), sf.random_masks(layer, 0.5, seed=0), sf.Static(), seed=0
        )


def test_one_whose_eval_puts_dense_weights_in_place_is_refused() -> None:
    model = network()
    with pytest.raises(ValueError, match=r"Averaged keeps an average of weights before masks act .* eval\(\) puts it"):
        sf.Sparsifier(model, Averaged(model.parameters()), sf.random_masks(model, 0.5, seed=0), sf.Static(), seed=0)


def test_unrepeatable_is_one_of_the_odd_ones() -> None:
    """Its constructor's function is not kept, so this test file tries what it says it tries."""
    assert isinstance(ODD["Unrepeatable"]([nn.Parameter(torch.ones(2))]), Unrepeatable)
