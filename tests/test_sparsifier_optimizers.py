"""The Sparsifier under every kind of optimizer: closures, schedulers, groups, fused, wrapped, not elementwise."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sparseflow as sf
from sparseflow.updaters import DropGrow
from tiny import OPTIMIZERS, active, eight, loss_of, masked, pull, snapshot, tiny_model, train_step

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
        losses.append(float(optimizer.step(closure)))
        sparsifier.check()
    assert (sparsifier.step_count, evaluations > 12) == (6, True)
    assert losses[-1] < losses[0] / 2
    assert all(not torch.equal(mask, start[name]) for name, mask in sparsifier.masks.items())


# -- learning rate schedulers ----------------------------------------------------------------------------------------


def recording(ratios: list[float]) -> DropGrow:
    def schedule(step: int, *, until: int | None, learning_rate_ratio: float) -> float:
        ratios.append(learning_rate_ratio)
        return 0.0

    return sf.SET(update_every=1, schedule=schedule)


@pytest.mark.parametrize("scheduler_first", [True, False])
def test_schedulers_made_before_and_after(scheduler_first: bool) -> None:
    # The rates of steps 1 .. 4 are 1/4, 1/2, 1, 1/2 of the one the optimizer was made with, by any order of making.
    ratios: list[float] = []
    factors = [0.25, 0.5, 1.0, 0.5, 0.5]
    layer = nn.Linear(8, 1, bias=False)
    optimizer = optim.SGD(layer.parameters(), lr=0.3)
    make = partial(optim.lr_scheduler.LambdaLR, optimizer, lambda step: factors[step])
    scheduler = make() if scheduler_first else None
    sf.Sparsifier(layer, optimizer, masked(layer), recording(ratios), seed=0)
    scheduler = scheduler or make()
    for _ in range(4):
        optimizer.step()
        scheduler.step()
    assert ratios == pytest.approx(factors[:4], rel=1e-15)


def test_each_parameter_group_has_its_own_ratio_capped_at_one() -> None:
    # Two of eight: at rates 1/4, 3 and 1 of the initial ones 0.5 * 8 * ratio weights are swapped: 1, 4 (capped), 4.
    model = nn.Sequential(*(nn.Linear(8, 2, bias=False) for _ in range(3)))
    groups = [{"params": [layer.weight], "lr": 0.1 * (i + 1)} for i, layer in enumerate(model)]
    optimizer = optim.SGD(groups)
    swapped: dict[str, int] = {}
    updater = sf.SET(drop_fraction=0.5, update_every=1, regrow=False)
    sparsifier = sf.Sparsifier(model, optimizer, masked(model, sparsity=0.5), updater, seed=0)
    sparsifier.after_update.append(
        lambda _, changes: swapped.update({n: int(c.grown.sum()) for n, c in changes.items()})
    )
    for group, factor in zip(optimizer.param_groups, (0.25, 3.0, 1.0), strict=True):
        group["lr"] *= factor
    optimizer.step()
    assert swapped == {"0.weight": 1, "1.weight": 4, "2.weight": 4}


def test_a_learning_rate_that_starts_at_zero_counts_as_one() -> None:
    ratios: list[float] = []
    layer = nn.Linear(8, 1)
    optimizer = optim.SGD(layer.parameters(), lr=0.0)
    sf.Sparsifier(layer, optimizer, masked(layer), recording(ratios), seed=0)
    optimizer.step()
    assert ratios == [1.0]


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


class Wrapper:
    """As accelerate's: it has the optimizer that really steps."""

    def __init__(self, optimizer: Any) -> None:
        self.optimizer = optimizer


def test_wrapped_optimizers_are_unwrapped() -> None:
    layer = nn.Linear(8, 1)
    inner = optim.SGD(layer.parameters(), lr=0.1)
    sparsifier = sf.Sparsifier(layer, Wrapper(Wrapper(inner)), masked(layer), sf.Static(), seed=0)
    assert sparsifier.optimizer is not inner  # two wrappers: only real optimizers are looked through


def test_a_parameter_that_the_optimizer_does_not_hold() -> None:
    model = tiny_model()
    optimizer = optim.SGD([p for n, p in model.named_parameters() if n != "3.weight"], lr=0.1)
    with pytest.raises(ValueError, match=r"the optimizer does not hold '3\.weight', so its mask could not be kept"):
        sf.Sparsifier(model, optimizer, masked(model), sf.Static(), seed=0)


# -- updates that replace a step -------------------------------------------------------------------------------------


@pytest.mark.parametrize("early", [False, True])
@pytest.mark.parametrize("name", ["momentum", "nesterov", "adam"])
def test_an_update_that_replaces_the_step_leaves_everything_else_alone(name: str, early: bool) -> None:
    """Protocol C.4: the first update comes before any training, the counter stands still while masks change."""
    model = tiny_model()
    optimizer = OPTIMIZERS[name](model.parameters())
    updater = rigl(first_update=0, replaces_step=True)
    sparsifier = sf.Sparsifier(model, optimizer, masked(model), updater, seed=0)
    updates: list[int] = []
    counts: list[int] = []
    sparsifier.after_update.append(lambda step, changes: updates.append(step))
    for step in range(7):
        old = {key: mask.clone() for key, mask in sparsifier.masks.items()}
        before = snapshot(model, optimizer)
        optimizer.zero_grad()
        loss_of(model, step).backward()
        if early:
            sparsifier.mask_gradients_()
        optimizer.step()
        counts.append(sparsifier.step_count)
        sparsifier.check()
        assert all(parameter.grad is not None for parameter in model.parameters())
        if step in (0, 3, 6):
            # Weights and states that stay active, biases and step counts are as they were.
            stays = {key: old[key] & mask for key, mask in sparsifier.masks.items()}
            assert any(not torch.equal(old[key], sparsifier.masks[key]) for key in old)
            shapes = {mask.shape: mask for mask in stays.values()}
            for a, b in zip(before, snapshot(model, optimizer), strict=True):
                kept = shapes.get(a.shape)
                assert torch.equal(a, b) if kept is None else torch.equal(a * kept, b)
    assert updates == [0, 2, 4]
    assert counts == [0, 1, 2, 2, 3, 4, 4]


def test_an_update_that_replaces_the_step_grows_by_the_dense_gradient_at_hand() -> None:
    updater = rigl(drop_fraction=0.25, first_update=0, replaces_step=True)
    layer, optimizer, sparsifier = eight(updater, make=partial(optim.SGD, lr=0.1))
    pull(layer, 1, 1, 1, 1, 0, 5, 2, 0)
    optimizer.step()
    assert active(sparsifier) == [0, 1, 2, 5]
    assert layer.weight.tolist() == [[4, -3, 2, 0, 0, 0, 0, 0]]
    assert layer.weight.grad.tolist() == [[1, 1, 1, 0, 0, 5, 0, 0]]


def test_a_closure_cannot_be_replaced() -> None:
    layer, optimizer, _ = eight(rigl(replaces_step=True))
    with pytest.raises(ValueError, match="replaces_step=True cannot skip a step that runs a closure"):
        optimizer.step(lambda: layer.weight.sum())
