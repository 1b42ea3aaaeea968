"""The Sparsifier under every kind of optimizer: closures, schedulers, groups, fused, wrapped, not elementwise."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sparseflow as sf
from sparseflow.methods import DropGrow
from tiny import OPTIMIZERS, loss_of, masked, pull, snapshot, tiny_model, train_step

optim = torch.optim
Make = Callable[[Iterable[Tensor]], optim.Optimizer]


def rigl(**options: Any) -> DropGrow:
    return sf.RigL(**{"drop_fraction": 0.3, "update_every": 2, "schedule": "constant", **options})


# -- closures --------------------------------------------------------------------------------------------------------


def closure_of(model: nn.Module, optimizer: optim.Optimizer, step: int, *after: Callable[[], object]) -> Callable:
    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = loss_of(model, step)
        loss.backward()
        for call in after:
            call()
        return loss

    return closure


@pytest.mark.parametrize("as_keyword", [False, True])
@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("method", [sf.SET, sf.RigL, sf.SNFS])
def test_a_closure_equals_a_plain_loop(method: Callable[..., DropGrow], clip: bool, as_keyword: bool) -> None:
    """As Lightning steps: also with the gradients masked and clipped inside the closure."""
    ends = []
    for closures in (False, True):
        model = tiny_model()
        optimizer = OPTIMIZERS["momentum"](model.parameters())
        updater = method(drop_fraction=0.3, update_every=2)
        sparsifier = sf.Sparsifier(model, optimizer, masked(model), updater, seed=0)
        for step in range(6):
            if not closures:
                train_step(model, optimizer, step)
                continue
            clipping = [sparsifier.mask_gradients_, partial(nn.utils.clip_grad_norm_, model.parameters(), 1e6)]
            closure = closure_of(model, optimizer, step, *(clipping if clip else []))
            loss = optimizer.step(closure=closure) if as_keyword else optimizer.step(closure)
            assert isinstance(loss, Tensor)
            sparsifier.check()
        ends.append(snapshot(model, optimizer) + list(sparsifier.masks.values()))
    assert len(ends[0]) == len(ends[1])
    assert all(map(torch.equal, *ends))


@pytest.mark.parametrize("clip", ["", "inside", "before"])
@pytest.mark.parametrize("backward_inside", [False, True])
@pytest.mark.parametrize("method", [sf.SET, sf.RigL, sf.SNFS])
def test_a_closure_that_adds_to_gradients_or_only_looks_at_them(
    method: Callable[..., DropGrow], backward_inside: bool, clip: str
) -> None:
    """As Lightning accumulates, and as it steps in manual optimization, where the closure runs no backward pass."""
    ends = []
    for closures in (False, True):
        model = tiny_model()
        optimizer = OPTIMIZERS["momentum"](model.parameters())
        updater = method(drop_fraction=0.3, update_every=2)
        sparsifier = sf.Sparsifier(model, optimizer, masked(model), updater, seed=0)
        for step in range(6):
            optimizer.zero_grad()
            loss_of(model, step).backward()
            if clip == "before":
                sparsifier.mask_gradients_()
                nn.utils.clip_grad_norm_(model.parameters(), 0.1)

            def closure(model: nn.Module = model, step: int = step, sparsifier: Any = sparsifier) -> Tensor:
                loss = loss_of(model, step + 100)
                if backward_inside:
                    loss.backward()
                if clip == "inside":
                    sparsifier.mask_gradients_()
                    nn.utils.clip_grad_norm_(model.parameters(), 0.1)
                return loss

            if closures:
                optimizer.step(closure)
            else:
                closure()
                optimizer.step()
            sparsifier.check()
        ends.append(snapshot(model, optimizer) + list(sparsifier.masks.values()))
    assert all(map(torch.equal, *ends))


# LBFGS of torch 2.8 makes a number of a loss that has a gradient, which torch warns of.
@pytest.mark.filterwarnings("ignore:Converting a tensor with requires_grad=True to a scalar:UserWarning")
@pytest.mark.parametrize("line_search", [None, "strong_wolfe"])
@pytest.mark.parametrize("method", [sf.SET, sf.RigL, sf.SNFS])
def test_lbfgs_sees_the_sparse_network_only(method: Callable[..., DropGrow], line_search: str | None) -> None:
    """Its search directions remember weights that were dropped since; no evaluation may let them back in."""
    model = tiny_model()
    optimizer = optim.LBFGS(model.parameters(), lr=0.5, max_iter=4, line_search_fn=line_search)
    updater = method(drop_fraction=0.3, update_every=2, schedule="constant")
    sparsifier = sf.Sparsifier(model, optimizer, masked(model), updater, seed=0)
    start = {name: mask.clone() for name, mask in sparsifier.masks.items()}
    losses, evaluations = [], 0

    def closure() -> Tensor:
        nonlocal evaluations
        evaluations += 1
        sf.check(model, None, sparsifier.masks)
        return closure_of(model, optimizer, 0)()

    for _ in range(6):
        losses.append(optimizer.step(closure).item())
        sparsifier.check()
    assert (sparsifier.step_count, evaluations > 12) == (6, True)
    assert losses[-1] < losses[0] / 2
    assert all(not torch.equal(mask, start[name]) for name, mask in sparsifier.masks.items())


def test_a_step_of_many_evaluations_is_one_observation() -> None:
    """SNFS averages over steps: of several evaluations it takes the first, at the weights the step starts from."""
    model = tiny_model()
    optimizer = optim.LBFGS(model.parameters(), max_iter=4)
    sparsifier = sf.Sparsifier(model, optimizer, masked(model), sf.SNFS(decay=0.75), seed=0)
    loss_of(model, 0).backward()
    gradients = {name: model.get_parameter(name).grad.clone() for name in sparsifier.masks}
    optimizer.step(closure_of(model, optimizer, 0))
    for name, mean in sparsifier.state_dict()["gradient_mean"].items():
        assert torch.equal(mean, 0.25 * gradients[name])  # a power of two: exact


# -- one optimizer, several implementations --------------------------------------------------------------------------

IMPLEMENTATIONS = [
    *((name, {"foreach": True}) for name in OPTIMIZERS),
    *((name, {"fused": True}) for name in ("sgd", "momentum", "nesterov", "adam", "adamw", "adagrad")),
    # Without weight decay the foreach version of Nesterov adds the momentum to the gradients themselves.
    ("nesterov", {"foreach": True, "weight_decay": 0.0}),
]


@pytest.mark.parametrize(("name", "options"), IMPLEMENTATIONS)
@pytest.mark.parametrize("method", [sf.RigL, sf.SNFS])
def test_fused_and_foreach_equal_the_plain_one(
    method: Callable[..., DropGrow], name: str, options: dict[str, Any]
) -> None:
    """Same masks; weights equal up to the order of a few float64 roundings a step, over 9 steps."""
    ends = []
    for implementation in ({**options, "foreach": False, "fused": None}, options):
        model = tiny_model(dtype=torch.float64)
        known = {key: value for key, value in implementation.items() if value is not None}
        optimizer = OPTIMIZERS[name](model.parameters(), **known)
        updater = method(drop_fraction=0.3, update_every=2, schedule="constant")
        sparsifier = sf.Sparsifier(model, optimizer, masked(model), updater, seed=0)
        for step in range(9):
            train_step(model, optimizer, step)
            sparsifier.check()
        ends.append((sparsifier.masks, snapshot(model, optimizer)))
    (plain_masks, plain), (masks, other) = ends
    assert all(torch.equal(plain_masks[key], masks[key]) for key in masks)
    for a, b in zip(plain, other, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12, check_dtype=False)


@pytest.mark.parametrize("foreach", [False, True])
def test_nesterov_with_weight_decay_needs_no_copy_of_the_gradients(
    foreach: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Oracle: masking first, which keeps copies; the same to the last bit over 9 steps."""
    ends = []
    for masks_first in (True, False):
        model = tiny_model()
        optimizer = OPTIMIZERS["nesterov"](model.parameters(), foreach=foreach)
        sparsifier = sf.Sparsifier(model, optimizer, masked(model), rigl(), seed=0)
        if not masks_first:
            monkeypatch.setattr("sparseflow.sparsifier.dense_gradients.keep_dense", None)
        for step in range(9):
            optimizer.zero_grad()
            loss_of(model, step).backward()
            if masks_first:
                sparsifier.mask_gradients_()
            optimizer.step()
            sparsifier.check()
        ends.append([*snapshot(model, optimizer), *sparsifier.masks.values()])
    assert len(ends[0]) == len(ends[1])
    assert all(map(torch.equal, *ends))


# -- optimizers that write where they should not ---------------------------------------------------------------------


class Mixing(optim.Optimizer):
    """Moves every weight by the mean gradient of its column, with momentum: nothing stays zero by itself."""

    def __init__(self, params: Iterable[Tensor]) -> None:
        super().__init__(params, {"lr": 0.1})

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> None:
        for group in self.param_groups:
            for parameter in group["params"]:
                state = self.state[parameter]
                buffer = state.setdefault("buffer", torch.zeros_like(parameter))
                buffer.mul_(0.5).add_(parameter.grad.mean(dim=0, keepdim=True).expand_as(parameter))
                parameter.sub_(buffer, alpha=group["lr"])


class Noisy(optim.SGD):
    """A subclass of a known class is not trusted to be like it."""

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> None:
        super().step()
        for parameter in self.param_groups[0]["params"]:
            parameter.add_(0.01)


OTHERS: dict[str, Make] = {
    "mixing": Mixing,
    "noisy": partial(Noisy, lr=0.1, momentum=0.9),
    "rprop": partial(optim.Rprop, lr=0.01),  # a smallest step size, in the state of every weight
    "adamax": partial(optim.Adamax, lr=0.01),  # a smallest norm, likewise
    "asgd": partial(optim.ASGD, lr=0.1, weight_decay=0.1),
    "adafactor": partial(optim.Adafactor, lr=0.01),
    "radam": partial(optim.RAdam, lr=0.01),
    "adadelta": partial(optim.Adadelta, lr=1.0),
    "amsgrad": partial(optim.Adam, lr=0.01, amsgrad=True),
    "maximize": partial(optim.AdamW, lr=0.01, maximize=True),
}
if hasattr(optim, "Muon"):
    OTHERS["muon"] = partial(optim.Muon, lr=0.01)


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("updater", [sf.Static(), rigl(), sf.GMP(sparsity=0.9, begin=1, end=5, update_every=2)])
def test_any_optimizer_keeps_the_promises(updater: Any, name: str) -> None:
    model = nn.Sequential(nn.Linear(12, 10, bias=False), nn.Tanh(), nn.Linear(10, 5, bias=False))
    optimizer = OTHERS[name](model.parameters())
    sparsifier = sf.Sparsifier(model, optimizer, masked(model), updater, seed=0)
    start = {key: model.get_parameter(key).detach().clone() for key in sparsifier.masks}
    for _ in range(6):
        optimizer.zero_grad()
        model(torch.randn(16, 12)).square().mean().backward()
        optimizer.step()
        sparsifier.check()
    for key, before in start.items():
        assert (model.get_parameter(key) != before)[sparsifier.masks[key]].any()


@pytest.mark.parametrize("make", [optim.Adam, optim.AdamW, optim.RMSprop, optim.Adagrad, optim.NAdam, optim.Adadelta])
@pytest.mark.parametrize(("eps", "dtype"), [(0.0, torch.float32), (1e-8, torch.float16)])
def test_without_a_usable_eps_inactive_weights_are_not_nan(
    make: Callable[..., optim.Optimizer], eps: float, dtype: torch.dtype
) -> None:
    """0 / (0 + eps) is NaN where eps is zero, and 1e-8 is zero in float16."""
    layer = nn.Linear(8, 1, bias=False).to(dtype)
    optimizer = make(layer.parameters(), eps=eps)
    sparsifier = sf.Sparsifier(layer, optimizer, masked(layer, sparsity=0.5), sf.Static(), seed=0)
    for _ in range(3):
        optimizer.zero_grad()
        pull(layer, *[1.0, -2.0] * 4)
        optimizer.step()
        sparsifier.check()


# -- who holds what --------------------------------------------------------------------------------------------------


class Accelerated(optim.Optimizer):
    """As accelerate's: an optimizer by class, which leaves the work to the one that it has."""

    def __init__(self, optimizer: optim.Optimizer) -> None:
        self.optimizer = optimizer

    def step(self, closure: Callable[[], Tensor] | None = None) -> None:
        self.optimizer.step(closure)


class Handle:
    """As Lightning's: no optimizer by class."""

    def __init__(self, optimizer: optim.Optimizer) -> None:
        self.optimizer = optimizer

    def step(self) -> None:
        self.optimizer.step()


@pytest.mark.parametrize("wrap", [Accelerated, Handle, lambda o: Accelerated(Accelerated(o))])
def test_wrapped_optimizers_are_unwrapped(wrap: Callable[[optim.Optimizer], Any]) -> None:
    layer = nn.Linear(8, 1, bias=False)
    inner = optim.SGD(layer.parameters(), lr=0.1, momentum=0.9)
    wrapped = wrap(inner)
    sparsifier = sf.Sparsifier(layer, wrapped, masked(layer), sf.Static(), seed=0)
    assert sparsifier.optimizers == (inner,)
    pull(layer, *[1.0] * 8)
    wrapped.step()
    assert sparsifier.step_count == 1
    assert inner.state[layer.weight]["momentum_buffer"].sum() == 2
    sparsifier.check()


def test_a_parameter_that_the_optimizer_does_not_hold() -> None:
    model = tiny_model()
    optimizer = optim.SGD([p for n, p in model.named_parameters() if n != "3.weight"], lr=0.1)
    with pytest.raises(ValueError, match=r"the optimizer does not hold '3\.weight', so its mask could not be kept"):
        sf.Sparsifier(model, optimizer, masked(model), sf.Static(), seed=0)
