"""What a Sparsifier saves, refuses, proves and tells."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import sparseflow as sf
from sparseflow.sparsifier.optimizers import weight_states
from tiny import OPTIMIZERS, assert_same_bits, batch, masked, tiny_model, train_step


def attach(updater: Any = None, *, optimizer_name: str = "momentum") -> tuple[nn.Module, Any, sf.Sparsifier]:
    model = tiny_model()
    optimizer = OPTIMIZERS[optimizer_name](model.parameters())
    updater = updater or sf.RigL(drop_fraction=0.3, update_every=2)
    return model, optimizer, sf.Sparsifier(model, optimizer, masked(model), updater, seed=0)


# -- masks that do not fit -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("masks", "error", "message"),
    [
        ({"weight": torch.ones(1)}, ValueError, r"masks has 'weight', which is no weight of the model"),
        ({"3.bias": torch.ones(10).bool()}, ValueError, r"masks has '3\.bias', which is no weight of the model"),
        ({"3.weight": torch.ones(10, 48)}, TypeError, r"the mask of '3\.weight' must be a bool tensor, got torch"),
        ({"3.weight": [True]}, TypeError, r"the mask of '3\.weight' must be a bool tensor, got list"),
        ({"3.weight": torch.ones(48, 10).bool()}, ValueError, r"has shape \(48, 10\), its weight \(10, 48\)"),
    ],
)
def test_wrong_masks(masks: dict[str, Any], error: type[Exception], message: str) -> None:
    model = tiny_model()
    before = model[3].weight.detach().clone()
    with pytest.raises(error, match=message):
        sf.Sparsifier(model, torch.optim.SGD(model.parameters(), lr=0.1), masks, sf.Static(), seed=0)
    assert torch.equal(model[3].weight, before)


# -- state_dict ------------------------------------------------------------------------------------------------------


def test_a_state_is_a_copy() -> None:
    model, optimizer, sparsifier = attach(sf.SNFS(update_every=2))
    train_step(model, optimizer, 0)
    state = sparsifier.state_dict()
    copies = [tensor.clone() for part in ("masks", "gradient_mean") for tensor in state[part].values()]
    for step in range(1, 4):
        train_step(model, optimizer, step)
    assert_same_bits(copies, [tensor for part in ("masks", "gradient_mean") for tensor in state[part].values()])


@pytest.mark.parametrize("key", ["masks", "step_count", "last_update", "generator", "gradient_mean", "learning_rates"])
def test_a_state_that_lacks_something(key: str) -> None:
    _, _, sparsifier = attach()
    state = sparsifier.state_dict()
    del state[key]
    with pytest.raises(ValueError, match=f"this is no Sparsifier state: it lacks {key}"):
        sparsifier.load_state_dict(state)


def test_a_state_of_other_masks() -> None:
    _, _, sparsifier = attach()
    state = sparsifier.state_dict()
    masks: Mapping[str, Tensor] = state["masks"]
    with pytest.raises(ValueError, match=r"saved with masks of other weights; they differ in: 0\.weight"):
        sparsifier.load_state_dict({**state, "masks": {n: m for n, m in masks.items() if n != "0.weight"}})
    with pytest.raises(ValueError, match=r"the mask of '5\.weight' has shape \(2, 2\)"):
        sparsifier.load_state_dict({**state, "masks": {**masks, "5.weight": torch.ones(2, 2).bool()}})
    with pytest.raises(TypeError, match=r"the mask of '5\.weight' must be a bool tensor, got torch.float32"):
        sparsifier.load_state_dict({**state, "masks": {**masks, "5.weight": masks["5.weight"].float()}})
    sparsifier.load_state_dict(state)
    sparsifier.check()


def test_loading_counts_and_rates_and_zeroes() -> None:
    """A pruning run's state in a Sparsifier made dense: counts are the saved ones, weights zero off the masks."""
    model = tiny_model()
    optimizer = OPTIMIZERS["momentum"](model.parameters())
    state = sf.Sparsifier(model, optimizer, masked(model, sparsity=0.9), sf.Static(), seed=0).state_dict()
    fresh = tiny_model()
    fresh_optimizer = OPTIMIZERS["adam"](fresh.parameters())
    train_step(fresh, fresh_optimizer, 0)
    sparsifier = sf.Sparsifier(fresh, fresh_optimizer, sf.dense_masks(fresh), sf.Static(), seed=0)
    sparsifier.load_state_dict({**state, "learning_rates": [0.5]})
    sparsifier.check()
    assert [int(mask.sum()) for mask in sparsifier.masks.values()] == [3, 48, 4]
    assert sparsifier.state_dict()["learning_rates"] == [0.5]


# -- check -----------------------------------------------------------------------------------------------------------


def test_check_finds_weights_state_and_counts_that_are_wrong() -> None:
    model, optimizer, sparsifier = attach(optimizer_name="adam")
    train_step(model, optimizer, 0)
    sparsifier.check()
    counts = {name: int(mask.sum()) for name, mask in sparsifier.masks.items()}
    off = (~sparsifier.masks["5.weight"]).nonzero()
    one, two = tuple(off[0]), tuple(off[1])
    weight = model[5].weight.data
    weight[one], weight[two] = 1.0, -1.0  # a sum would not notice
    with pytest.raises(sf.BrokenPromiseError, match=r"2 inactive weights of '5\.weight' are not zero. Something wrote"):
        sparsifier.check()
    weight[one] = 0.0
    weight[two] = float("nan")
    with pytest.raises(sf.BrokenPromiseError, match=r"1 inactive weight of '5\.weight' is not zero"):
        sparsifier.check()
    weight[two] = -0.0
    sparsifier.check()
    optimizer.state[model[5].weight]["exp_avg_sq"][one] = 1e-30
    with pytest.raises(
        sf.BrokenPromiseError, match=r"'exp_avg_sq' of '5\.weight' has 1 inactive entries that are not 0,"
    ):
        sparsifier.check()
    sf.check(model, None, sparsifier.masks)  # without the optimizer all is well
    optimizer.state[model[5].weight]["exp_avg_sq"][one] = 0.0
    sparsifier.masks["5.weight"][one] = True
    with pytest.raises(sf.BrokenPromiseError, match=r"something wrote to the mask of '5\.weight'"):
        sparsifier.check()
    with pytest.raises(sf.BrokenPromiseError, match=r"'5\.weight' has 13 active weights, it must have 12"):
        sf.check(model, optimizer, sparsifier.masks, active_counts=counts)


def test_check_refuses_masks_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match="masks has 'x', which is no weight of the model"):
        sf.check(tiny_model(), None, {"x": torch.ones(1).bool()})
    with pytest.raises(TypeError, match=r"the mask of '0\.weight' must be a bool tensor"):
        sf.check(tiny_model(), None, {"0.weight": torch.ones(3, 1, 3, 3)})


@pytest.mark.parametrize(
    ("optimizer_name", "keys"),
    [
        ("sgd", []),
        ("momentum", ["momentum_buffer"]),
        ("adam", ["exp_avg", "exp_avg_sq"]),
        ("rmsprop", ["square_avg", "momentum_buffer", "grad_avg"]),
        ("adagrad", ["sum"]),
    ],
)
def test_per_weight_state_is_found(optimizer_name: str, keys: list[str]) -> None:
    model, optimizer, _ = attach(optimizer_name=optimizer_name)
    train_step(model, optimizer, 0)
    # SGD without momentum keeps a buffer that is None.
    found = [state.key for state in weight_states(optimizer, model[3].weight)]
    assert sorted(found) == sorted(keys)


def test_state_from_before_the_sparsifier_is_masked_too() -> None:
    model = tiny_model()
    optimizer = OPTIMIZERS["adam"](model.parameters())
    for step in range(2):
        train_step(model, optimizer, step)
    sf.Sparsifier(model, optimizer, masked(model), sf.Static(), seed=0).check()


# -- callbacks -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("replaces_step", [False, True])
def test_callbacks_measure_just_before_and_just_after(replaces_step: bool) -> None:
    """At both moments the promises hold and a gradient flow can be measured; the second sees the new masks."""
    updater = sf.RigL(drop_fraction=0.3, update_every=2, schedule="constant", replaces_step=replaces_step)
    model, optimizer, sparsifier = attach(updater)
    events: list[tuple[str, int]] = []
    flows: list[float] = []

    def measure(when: str, step: int) -> None:
        events.append((when, step))
        sparsifier.check()
        flows.append(float(sf.gradient_flow(model, F.cross_entropy, [batch(99)], sparsifier.masks).norm))

    sparsifier.before_update.append(lambda step: measure("before", step))
    sparsifier.after_update.append(lambda step, changes: measure(f"after {len(changes)}", step))
    for step in range(4 + 2 * replaces_step):
        train_step(model, optimizer, step)
    assert events == [("before", 2), ("after 3", 2), ("before", 4), ("after 3", 4)]
    assert flows[0] != flows[1]
    assert flows[2] != flows[3]
    assert all(flow > 0 for flow in flows)


def test_one_shot_prunes_once_and_training_goes_on() -> None:
    model = tiny_model()
    optimizer = OPTIMIZERS["adam"](model.parameters())
    sparsifier = sf.Sparsifier(model, optimizer, sf.dense_masks(model), sf.OneShot(sparsity=0.8, at=3), seed=0)
    sparsity = []
    for step in range(6):
        train_step(model, optimizer, step)
        sparsifier.check()
        sparsity.append([int(mask.sum()) for mask in sparsifier.masks.values()])
    assert sparsity == [[27, 480, 40]] * 2 + [[5, 96, 8]] * 4  # 27 * 0.2 = 5.4
