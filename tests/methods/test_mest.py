"""MEST against its rule worked in float64 on dense tensors, and counts by hand."""

from __future__ import annotations

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import sparseflow as sf
from sparseflow.rng import stream
from sparseflow.sparsifier.run_words import method_words
from sparseflow.sparsifier.stored import stored_weights
from tiny import SIZES, active, batch, eight, masked, pull, tiny_model


def soft(**options: object) -> sf.updaters.DropGrow:
    return sf.MEST(soft=True, schedule="stages", drop_fraction=0.5, update_every=1, update_until=4, **options)


@pytest.mark.parametrize(
    ("gradient_weight", "gradient", "dropped"),
    [
        # |w| of the active four: 4, 3, 2, 1; |g|: 0, 0, 1, 9. Scores at 0: 4, 3, 2, 1; half of them go.
        (0.0, (0, 0, 1, -9, 5, 0, -3, 2), {2, 3}),
        # At 1/2: 4, 3, 2.5, 5.5.
        (0.5, (0, 0, 1, -9, 5, 0, -3, 2), {1, 2}),
        # At 2: 4, 3, 4, 19: the tie of 0 and 2 keeps the lower index.
        (2.0, (0, 0, 1, -9, 5, 0, -3, 2), {1, 2}),
    ],
)
def test_what_is_dropped(gradient_weight: float, gradient: tuple[float, ...], dropped: set[int]) -> None:
    method = sf.MEST(
        gradient_weight=gradient_weight, drop_fraction=0.5, update_every=1, schedule="constant", regrow=False
    )
    layer, optimizer, sparsifier = eight(method)
    pull(layer, *gradient)
    optimizer.step()
    assert {0, 1, 2, 3} - set(active(sparsifier)) == dropped
    assert len(active(sparsifier)) == 4


@pytest.mark.parametrize(
    "make",
    [
        partial(torch.optim.SGD, lr=0.1),
        partial(torch.optim.SGD, lr=0.1, momentum=0.9, nesterov=True, foreach=True),  # overwrites gradients
        partial(torch.optim.SGD, lr=0.1, momentum=0.9, nesterov=True, foreach=False),
        partial(torch.optim.AdamW, lr=0.01, weight_decay=0.1),
    ],
)
@pytest.mark.parametrize("stored", [False, True])
def test_the_rule_in_float64(make: partial[torch.optim.Optimizer], stored: bool) -> None:
    """The dropped are the lowest |w| + 2 |g| of active weights; g by autograd of the masked network before the step."""
    model = tiny_model(dtype=torch.float64)
    masks = masked(model)
    sf.apply_masks_(model, masks)
    if stored:
        model = sf.engine.convert(model, masks)
    optimizer = make(model.parameters())
    method = sf.MEST(gradient_weight=2.0, drop_fraction=0.3, update_every=1, schedule="constant", regrow=False)
    sparsifier = sf.Sparsifier(model, optimizer, masks, method, seed=0)
    weights: dict[str, Tensor] = {}
    now = sf.engine.dense_state_dict
    sparsifier.before_update.append(lambda step: weights.update({name: now(model)[name].clone() for name in SIZES}))
    told: dict[str, Tensor] = {}
    sparsifier.after_update.append(lambda step, changes: told.update({n: c.dropped for n, c in changes.items()}))
    dense = tiny_model(dtype=torch.float64)
    for step in range(1, 6):
        before = {name: mask.clone() for name, mask in sparsifier.masks.items()}
        dense.load_state_dict(now(model))
        x, y = batch(step, dtype=torch.float64)
        dense.zero_grad()
        F.cross_entropy(dense(x), y).backward()
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
        for name, mask in before.items():
            gradient = dense.get_parameter(name).grad
            assert gradient is not None
            score = weights[name].abs() + 2 * gradient.abs()
            number = int(mask.sum() * 0.3)
            lowest = score.masked_fill(~mask, torch.inf).flatten().sort(stable=True).indices[:number]
            expected = torch.zeros(mask.numel(), dtype=torch.bool).index_fill(0, lowest, True).view(mask.shape)
            assert torch.equal(told[name], expected), (step, name)


def test_no_dense_gradient_is_kept() -> None:
    masks = masked(tiny_model())
    model = sf.engine.convert(tiny_model(), masks)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sf.Sparsifier(model, optimizer, masks, sf.MEST(update_every=1, total_steps=8), seed=0)
    for step in (1, 2, 3):
        x, y = batch(step)
        F.cross_entropy(model(x), y).backward()
        assert all(weight.gradient_rows() is None for weight in stored_weights(model).values())
        optimizer.step()


def test_a_layer_without_a_gradient_sits_the_update_out() -> None:
    layer, optimizer, sparsifier = eight(sf.MEST(drop_fraction=0.5, update_every=1, schedule="constant"))
    layer.weight.grad = None
    optimizer.step()
    assert active(sparsifier) == [0, 1, 2, 3]


def test_a_soft_bound_holds_more_until_its_end() -> None:
    """By hand: 4 weights, half of them grow first; from step 3 of 4 on a quarter; the last update only drops."""
    layer, optimizer, sparsifier = eight(soft())
    held = []
    for _ in range(5):
        pull(layer, 1, 1, 1, 1, 1, 1, 1, 1)
        optimizer.step()
        held.append(len(active(sparsifier)))
    assert held == [6, 6, 5, 4, 4]
    assert {0, 1, 2, 3} == set(active(sparsifier))  # at a rate of 0 what grew stays 0 and is dropped again


def test_a_soft_bound_never_passes_the_layer() -> None:
    layer, optimizer, sparsifier = eight(sf.MEST(soft=True, drop_fraction=1.0, update_every=1, update_until=9))
    sparsifier.remove()
    full = {"weight": torch.ones(1, 8, dtype=torch.bool)}
    sparsifier = sf.Sparsifier(layer, optimizer, full, soft(), seed=0)
    pull(layer, 1, 1, 1, 1, 1, 1, 1, 1)
    optimizer.step()
    assert len(active(sparsifier)) == 8


def test_a_run_that_goes_on_from_a_state_knows_its_budget() -> None:
    """Saved while it holds six of four weights; the copy drops to four at the end, however it gets the state."""
    layer, optimizer, sparsifier = eight(soft())
    pull(layer, 1, 1, 1, 1, 1, 1, 1, 1)
    optimizer.step()
    state = sparsifier.state_dict()
    assert state["budgets"] == {"weight": 4}
    for given in (True, False):
        other, stepped, resumed = eight(soft())
        if given:
            resumed.remove()
            resumed = sf.Sparsifier(other, stepped, state["masks"], soft(), seed=0, state=state)
        else:
            resumed.load_state_dict(state)
        for _ in range(3):
            pull(other, 1, 1, 1, 1, 1, 1, 1, 1)
            stepped.step()
        assert len(active(resumed)) == 4


def test_a_state_with_budgets_of_other_weights_is_refused() -> None:
    _, _, sparsifier = eight(soft())
    with pytest.raises(ValueError, match=r"the state's budgets must be a number of weights for each mask, got \{\}"):
        sparsifier.load_state_dict({**sparsifier.state_dict(), "budgets": {}})


def test_training_that_ends_with_the_bound_open_is_told() -> None:
    layer, optimizer, sparsifier = eight(soft())
    pull(layer, 1, 1, 1, 1, 1, 1, 1, 1)
    optimizer.step()
    with pytest.warns(UserWarning, match="more weights than their masks began with until step 4"):
        sparsifier.check()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gradient_weight": -0.1}, "gradient_weight must be at least 0, got -0.1"),
        ({"gradient_weight": float("nan")}, "gradient_weight must be at least 0, got nan"),
        ({"soft": True}, "a soft bound holds more weights than the masks until the last update: give total_steps="),
        ({"schedule": "stages"}, "schedule='stages' needs its end: give total_steps="),
    ],
)
def test_options_that_cannot_be_met(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sf.MEST(**options)


def test_what_is_no_number_is_named() -> None:
    with pytest.raises(TypeError, match="gradient_weight must be a number, got 'half'"):
        sf.MEST(gradient_weight="half")


def test_a_method_says_how_it_was_made() -> None:
    assert method_words(sf.MEST(total_steps=100)) == "MEST(total_steps=100)"
    assert method_words(sf.MEST(gradient_weight=0.0)) == "MEST(gradient_weight=0.0)"


@pytest.mark.parametrize("rules", [[], [sf.rules.SparseOpt]])
def test_a_gradient_scaler_changes_no_score(rules: list[type[sf.rules.StepRule]]) -> None:
    """A fused optimizer divides by the scale itself; where a rule changes gradients, copies from before it are read."""
    ends = []
    for scale in (None, 1024.0):  # a power of two: exact
        layer = nn.Linear(12, 8, bias=False)
        nn.init.normal_(layer.weight, generator=stream(0, "weight"))
        optimizer = torch.optim.SGD(layer.parameters(), lr=0.05, fused=True)
        method = sf.MEST(update_every=1, update_until=9, gradient_weight=1.0)
        masks = sf.random_masks(layer, 0.5, seed=0)
        sparsifier = sf.Sparsifier(layer, optimizer, masks, method, seed=0, rules=[make() for make in rules])
        scaler = torch.amp.GradScaler("cpu", init_scale=scale or 1.0, enabled=scale is not None)
        for step in range(5):
            optimizer.zero_grad()
            scaler.scale(layer(torch.randn(8, 12, generator=stream(step, "x"))).square().mean()).backward()
            scaler.step(optimizer)
            scaler.update()
        ends.append(sparsifier.masks["weight"].clone())
    assert torch.equal(*ends)
