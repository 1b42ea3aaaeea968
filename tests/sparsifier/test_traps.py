"""What a loop does to gradients before the Sparsifier sees them: accumulation, clipping, scaling, NaN, None."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

import sparseflow as sf
from sparseflow.methods import DropGrow
from tiny import (
    OPTIMIZERS,
    active,
    assert_same_bits,
    eight,
    loss_of,
    masked,
    pull,
    snapshot,
    states,
    tiny_model,
    train_step,
)

INF, NAN = float("inf"), float("nan")
Method = Callable[..., DropGrow]


def swap_one(method: Method = sf.RigL, **options: Any) -> DropGrow:
    """One of the four active weights is exchanged: 3, the smallest, leaves unless it grows best."""
    return method(**{"drop_fraction": 0.25, "update_every": 1, "schedule": "constant", **options})


def swap_tiny(method: Method, **options: Any) -> DropGrow:
    return method(**{"drop_fraction": 0.3, "update_every": 2, "schedule": "constant", **options})


# -- gradient accumulation -------------------------------------------------------------------------------------------


def test_rigl_grows_by_the_accumulated_gradient_and_counts_optimizer_steps() -> None:
    # Off the mask g1 = 5, -4, 3, 0 and g2 = -5, 0, 3, 0: alone either grows 4, their sum 0, -4, 6, 0 grows 6.
    layer, optimizer, sparsifier = eight(swap_one())
    pull(layer, 0, 0, 0, 0, 5, -4, 3, 0)
    pull(layer, 0, 0, 0, 0, -5, 0, 3, 0)
    optimizer.step()
    assert active(sparsifier) == [0, 1, 2, 6]
    assert sparsifier.step_count == 1


@pytest.mark.parametrize("optimizer_name", ["momentum", "nesterov", "adam"])
@pytest.mark.parametrize("method", [sf.SET, sf.RigL, sf.SNFS])
def test_gradients_are_masked_after_every_step(method: Method, optimizer_name: str) -> None:
    """A loop that never zeroes gradients, or logs their norm, sees those of active weights only."""
    model = tiny_model()
    optimizer = OPTIMIZERS[optimizer_name](model.parameters())
    sparsifier = sf.Sparsifier(model, optimizer, masked(model), swap_tiny(method), seed=0)
    for step in range(4):
        train_step(model, optimizer, step)
        for name, mask in sparsifier.masks.items():
            gradient = model.get_parameter(name).grad
            assert torch.count_nonzero(gradient[~mask]) == 0
            assert torch.count_nonzero(gradient[mask]) > 0


# -- clipping --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", [sf.RigL, sf.SNFS])
def test_clipping_counts_active_weights_only_and_growth_still_sees_the_rest(method: Method) -> None:
    layer, optimizer, sparsifier = eight(swap_one(method))
    pull(layer, 3, 4, 0, 0, 0, 0, 100, 0)
    for _ in range(2):  # idempotent
        sparsifier.mask_gradients_()
        assert layer.weight.grad.tolist() == [[3, 4, 0, 0, 0, 0, 0, 0]]
    assert nn.utils.clip_grad_norm_(layer.parameters(), 1.0) == 5.0
    sparsifier.mask_gradients_()
    optimizer.step()
    assert active(sparsifier) == [0, 1, 2, 6]


@pytest.mark.parametrize("method", [sf.Static, *(partial(swap_tiny, m) for m in (sf.SET, sf.RigL, sf.SNFS))])
@pytest.mark.parametrize("optimizer_name", ["momentum", "adam"])
def test_masking_early_changes_nothing_else(method: Callable[..., Any], optimizer_name: str) -> None:
    """Two runs, one calls ``mask_gradients_`` and clips at a bound never reached: equal bit for bit."""
    ends = []
    for early in (False, True):
        model = tiny_model()
        optimizer = OPTIMIZERS[optimizer_name](model.parameters())
        sparsifier = sf.Sparsifier(model, optimizer, masked(model), method(), seed=0)
        for step in range(8):
            optimizer.zero_grad()
            loss_of(model, step).backward()
            if early:
                sparsifier.mask_gradients_()
                nn.utils.clip_grad_norm_(model.parameters(), 1e6)
            optimizer.step()
        ends.append(snapshot(model, optimizer) + list(sparsifier.masks.values()))
    assert_same_bits(*ends)


@pytest.mark.parametrize("set_to_none", [True, False])
@pytest.mark.parametrize("again", [True, False])
@pytest.mark.parametrize("method", [sf.RigL, sf.SNFS])
def test_a_copy_from_a_step_that_never_came_is_not_used(method: Method, again: bool, set_to_none: bool) -> None:
    layer, optimizer, sparsifier = eight(swap_one(method))
    pull(layer, 0, 0, 0, 0, 9, 0, 0, 0)
    sparsifier.mask_gradients_()
    optimizer.zero_grad(set_to_none=set_to_none)  # the loop found something wrong and gave this batch up
    pull(layer, 0, 0, 0, 0, 0, 0, 0, 1)
    if again:
        sparsifier.mask_gradients_()
    optimizer.step()
    assert active(sparsifier) == [0, 1, 2, 7]


# -- GradScaler ------------------------------------------------------------------------------------------------------


def _filled(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.fill_(1e6) if tensor.is_floating_point() else tensor


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("replaces_step", [False, True])
def test_a_step_that_the_scaler_skips_skips_the_update_too(
    fused: bool, replaces_step: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Memory that nobody initialised, such as fused SGD takes for its buffers before it skips, may hold anything.
    garbage = torch.empty_like
    monkeypatch.setattr(torch, "empty_like", lambda x, **options: _filled(garbage(x, **options)))
    make = partial(torch.optim.SGD, lr=0.125, momentum=0.5, fused=fused)
    updater = swap_one(first_update=0 if replaces_step else 1, replaces_step=replaces_step)
    layer, optimizer, sparsifier = eight(updater, make=make)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    updates: list[int] = []
    sparsifier.after_update.append(lambda step, changes: updates.append(step))
    before = layer.weight.detach().clone()
    for gradient in (INF, 1.0):
        optimizer.zero_grad()
        scaler.scale((layer.weight * torch.tensor([0, 0, 0, 0, 0, 0, gradient, 0])).sum()).backward()
        scaler.step(optimizer)
        scaler.update()
        sparsifier.check()
        if gradient == INF:
            assert (sparsifier.step_count, updates, active(sparsifier)) == (0, [], [0, 1, 2, 3])
            assert torch.equal(layer.weight, before)
    assert (sparsifier.step_count, updates) == ((0, [0]) if replaces_step else (1, [1]))
    assert active(sparsifier) == [0, 1, 2, 6]


@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("method", [sf.RigL, sf.SNFS])
def test_a_scaled_run_equals_an_unscaled_one(method: Method, fused: bool, clip: bool) -> None:
    """The scale is a power of two, so that scaling and unscaling are exact and the runs equal bit for bit."""
    ends = []
    for enabled in (False, True):
        model = tiny_model()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, fused=fused)
        sparsifier = sf.Sparsifier(model, optimizer, masked(model), swap_tiny(method), seed=0)
        # The scale doubles every other step: a mean of gradients that are still scaled would be another one.
        scaler = torch.amp.GradScaler("cpu", init_scale=64.0, growth_interval=2, enabled=enabled)
        for step in range(7):
            optimizer.zero_grad()
            scaler.scale(loss_of(model, step)).backward()
            if clip:
                scaler.unscale_(optimizer)
                sparsifier.mask_gradients_()
                nn.utils.clip_grad_norm_(model.parameters(), 1e6)
            scaler.step(optimizer)
            scaler.update()
        mean = sparsifier.state_dict()["gradient_mean"]
        assert bool(mean) == (method is sf.SNFS)
        ends.append(snapshot(model, optimizer) + list(sparsifier.masks.values()) + list(mean.values()))
    assert_same_bits(*ends)


# -- NaN and infinity ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [NAN, INF, -INF])
@pytest.mark.parametrize("updater", [sf.Static(), swap_one(update_every=5), swap_one(sf.SNFS, update_every=5)])
@pytest.mark.parametrize("optimizer_name", OPTIMIZERS)
def test_bad_gradients_off_the_mask_never_poison(optimizer_name: str, updater: Any, bad: float) -> None:
    layer, optimizer, sparsifier = eight(updater, make=OPTIMIZERS[optimizer_name])
    start = 0.1 if optimizer_name == "adagrad" else 0.0  # its initial accumulator value
    for _ in range(3):
        optimizer.zero_grad()
        layer.weight.grad = torch.tensor([[1.0, -1.0, 0.5, 2.0, bad, 0.0, bad, 1.0]])
        optimizer.step()
    sparsifier.check()
    assert torch.isfinite(layer.weight).all()
    assert torch.count_nonzero(layer.weight[:, 4:]) == 0
    for tensor in states(optimizer, layer.weight):
        assert torch.isfinite(tensor).all()
        assert torch.equal(tensor[:, 4:], torch.full((1, 4), start))


@pytest.mark.parametrize("optimizer_name", ["momentum", "nesterov", "adam"])
@pytest.mark.parametrize("method", [sf.RigL, sf.RigLInverted, sf.SNFS])
def test_bad_gradients_at_an_update_raise_and_change_no_mask(method: Method, optimizer_name: str) -> None:
    layer, optimizer, sparsifier = eight(swap_one(method), make=OPTIMIZERS[optimizer_name])
    pull(layer, 1, 1, 1, 1, 0, NAN, 0, INF)
    with pytest.raises(ValueError, match="the gradient of 'weight' at the mask update of step 1 has 2 of 8 entries"):
        optimizer.step()
    assert active(sparsifier) == [0, 1, 2, 3]
    sparsifier.check()
    assert torch.isfinite(layer.weight).all()


@pytest.mark.parametrize("updater", [swap_tiny(sf.SET, update_every=1), sf.OneShot(sparsity=0.8, at=1)])
def test_a_weight_that_is_not_finite_at_an_update_raises_before_any_layer_changes(updater: Any) -> None:
    model = tiny_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sparsifier = sf.Sparsifier(model, optimizer, masked(model), updater, seed=0)
    before = {name: mask.clone() for name, mask in sparsifier.masks.items()}
    with torch.no_grad():
        model[5].weight[sparsifier.masks["5.weight"]] = NAN  # the last layer: the others come first
    with pytest.raises(ValueError, match="scores has 12 of 12 entries that are NaN or infinite"):
        optimizer.step()
    assert_same_bits(list(sparsifier.masks.values()), list(before.values()))
    sparsifier.check()


# --- autocast ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", [sf.Static(), swap_tiny(sf.RigL)], ids=["static", "rigl"])
def test_a_loop_inside_one_autocast_block_trains_as_one_with_a_block_for_each_step(method: Any) -> None:
    def losses(*, one_block: bool) -> list[float]:
        model = tiny_model()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        sf.Sparsifier(model, optimizer, masked(model), method, seed=0)
        found = []
        with torch.autocast("cpu", torch.bfloat16) if one_block else nullcontext():
            for step in range(5):
                with torch.autocast("cpu", torch.bfloat16):
                    loss = loss_of(model, step)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                found.append(loss.item())
        return found

    assert losses(one_block=True) == losses(one_block=False)


def test_weights_zeroed_inside_an_autocast_block_are_those_of_the_next_forward_pass() -> None:
    layer, x = nn.Linear(4, 2, bias=False), torch.ones(1, 4)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert layer(x).any()
        sf.apply_masks_(layer, {"weight": torch.zeros(2, 4, dtype=torch.bool)})
        assert not layer(x).any()
        layer.reset_parameters()
        torch.clear_autocast_cache()
        assert layer(x).any()
        masks = {"weight": torch.zeros(2, 4, dtype=torch.bool)}
        sf.Sparsifier(layer, torch.optim.SGD(layer.parameters()), masks, sf.Static(), seed=0)
        assert not layer(x).any()
