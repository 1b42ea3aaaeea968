"""GraNet against its two steps done one after the other in float64, and counts by hand."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import sparseflow as sf
from sparseflow.sparsifier.run_words import method_words
from tiny import OPTIMIZERS, SIZES, batch, tiny_model

TOTAL = sum(SIZES.values())
OPTIONS = {"sparsity": 0.8, "begin": 2, "end": 8, "update_every": 2, "drop_fraction": 0.4, "update_until": 12}


def one_after_the_other(
    weights: Mapping[str, Tensor], gradients: Mapping[str, Tensor], masks: Mapping[str, Tensor], *, step: int
) -> dict[str, Tensor]:
    """The two steps of an update, with stable sorts of everything: all layers are pruned, then each regenerates."""
    share = 1 - max(0.0, 1 - (step - 2) / 6) ** 3
    left = min(round(TOTAL * (1 - 0.8 * share)), sum(int(mask.sum()) for mask in masks.values()))
    scores = torch.cat([weights[name].abs().masked_fill(~masks[name], -1).flatten() for name in masks])
    stays = torch.zeros(TOTAL, dtype=torch.bool)
    stays[scores.sort(descending=True, stable=True).indices[:left]] = True
    found = {}
    for name, pruned in zip(masks, stays.split([mask.numel() for mask in masks.values()]), strict=True):
        count = int(round(int(pruned.sum()) * 0.4 * (1 + torch.cos(torch.tensor(torch.pi * step / 12)).item()) / 2, 6))
        weight, gradient = weights[name].abs().flatten(), gradients[name].abs().flatten()
        kept = weight.masked_fill(~pruned, -1).sort(descending=True, stable=True).indices[: int(pruned.sum()) - count]
        new = torch.zeros_like(pruned).index_fill(0, kept, True)
        grown = gradient.masked_fill(new, -1).sort(descending=True, stable=True).indices[:count]
        found[name] = new.index_fill(0, grown, True).view(masks[name].shape)
    return found


@pytest.mark.parametrize("stored", [False, True])
@pytest.mark.parametrize("optimizer_name", ["momentum", "adamw"])
def test_the_rule(optimizer_name: str, stored: bool) -> None:
    model = tiny_model(dtype=torch.float64)
    masks = sf.dense_masks(model)
    if stored:
        model = sf.engine.convert(model, masks)
    optimizer = OPTIMIZERS[optimizer_name](model.parameters())
    sparsifier = sf.Sparsifier(model, optimizer, masks, sf.GraNet(**OPTIONS), seed=0)
    dense, now = tiny_model(dtype=torch.float64), sf.engine.dense_state_dict
    weights: dict[str, Tensor] = {}
    sparsifier.before_update.append(lambda step: weights.update({name: now(model)[name].clone() for name in SIZES}))
    updates, totals = [], []
    sparsifier.after_update.append(lambda step, changes: updates.append(step))
    for step in range(1, 15):
        before = {name: mask.clone() for name, mask in sparsifier.masks.items()}
        dense.load_state_dict(now(model))
        x, y = batch(step, dtype=torch.float64)
        dense.zero_grad()
        F.cross_entropy(dense(x), y).backward()
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
        sparsifier.check()
        if updates and updates[-1] == step:
            gradients = {name: dense.get_parameter(name).grad for name in SIZES}
            for name, mask in one_after_the_other(weights, gradients, before, step=step).items():
                assert torch.equal(sparsifier.masks[name], mask), (step, name)
            totals.append(sum(int(mask.sum()) for mask in sparsifier.masks.values()))
    assert updates == [2, 4, 6, 8, 10, 12]
    # By hand, of 547 weights: 1 - 0.8 * (1 - (2/3)^3) = 0.4370, 0.2296, and from the end on 0.2.
    assert totals == [547, 239, 126, 109, 109, 109]


def test_a_start_at_half_of_the_weights() -> None:
    """Random masks at 0.5 lose nothing at the first update: the schedule begins there."""
    model = tiny_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    masks = sf.random_masks(model, 0.5, seed=0)
    held = sum(int(mask.sum()) for mask in masks.values())
    method = sf.GraNet(**OPTIONS, initial_sparsity=0.5)
    sparsifier = sf.Sparsifier(model, optimizer, masks, method, seed=0)
    for step in (1, 2):
        x, y = batch(step)
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    assert sum(int(mask.sum()) for mask in sparsifier.masks.values()) == min(held, round(TOTAL / 2))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"update_until": None}, "schedule='cosine' needs its end: give total_steps= or update_until="),
        ({"end": 13}, "pruning ends at step 13, and weights are exchanged until step 12 alone. Lower end="),
        ({"end": 1}, "pruning needs 0 <= begin <= end, in optimizer steps, got 2 and 1"),
        ({"sparsity": 1.0}, r"sparsity must be in \[0, 1\), got 1"),
        ({"initial_sparsity": 0.9}, "initial_sparsity=0.9 is above the final sparsity"),
    ],
)
def test_options_that_cannot_be_met(changed: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sf.GraNet(**{**OPTIONS, **changed})


def test_what_is_no_number_is_named() -> None:
    with pytest.raises(TypeError, match="begin must be a whole number, got '2'"):
        sf.GraNet(**{**OPTIONS, "begin": "2"})


def test_masks_that_are_sparser_than_the_end_are_refused() -> None:
    model = tiny_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(ValueError, match="pruning would end with 109; none comes back"):
        sf.Sparsifier(model, optimizer, sf.random_masks(model, 0.9, seed=0), sf.GraNet(**OPTIONS), seed=0)


def test_a_method_says_how_it_was_made() -> None:
    method = sf.GraNet(sparsity=0.9, begin=0, end=500, update_until=800)
    assert method_words(method) == "GraNet(update_until=800, sparsity=0.9, begin=0, end=500)"
