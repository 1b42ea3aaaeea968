"""An update that no step has followed: what it left untrained, and that taking it back leaves no trace."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import sparseflow as sf
from sparseflow.methods import drop_and_grow
from sparseflow.sparsifier.check import check_weights
from sparseflow.sparsifier.last_update import before_update, num_untrained, take_back_
from sparseflow.sparsifier.weights import MaskedWeights
from tiny import OPTIMIZERS, masked, snapshot, tiny_model, train_step


def trained(optimizer_name: str, *, convert: bool = False) -> tuple[nn.Module, torch.optim.Optimizer, MaskedWeights]:
    """A model after three masked steps, stored whole or as active values alone."""
    model: nn.Module = tiny_model()
    masks = masked(model)
    if convert:
        model = sf.engine.convert(sf.apply_masks_(model, masks), masks)
    optimizer = OPTIMIZERS[optimizer_name](model.parameters())
    weights = MaskedWeights(model, [optimizer], masks)
    for step in range(3):
        weights.clear_(weights.masks)
        train_step(model, optimizer, step)
    weights.clear_(weights.masks)
    return model, optimizer, weights


@pytest.mark.parametrize("convert", [False, True])
@pytest.mark.parametrize("optimizer_name", ["sgd", "momentum", "adamw"])
def test_taking_back_restores_masks_and_weights_bit_for_bit(optimizer_name: str, convert: bool) -> None:
    model, optimizer, weights = trained(optimizer_name, convert=convert)
    assert num_untrained(weights) == 0
    old = {name: mask.clone() for name, mask in weights.masks.items()}
    values, counts = snapshot(model, optimizer)[: len(list(model.parameters()))], dict(weights.counts)
    new, grown = {}, 0
    for name, mask in old.items():
        generator = torch.Generator().manual_seed(0)
        update = drop_and_grow(mask, torch.rand(mask.shape, generator=generator), torch.rand(mask.shape), 3, 3)
        grown += int(update.grown.sum())
        new[name] = update.mask.flatten().nonzero().flatten() if convert else update.mask
    kept = before_update(weights)
    weights.change_(new.items(), want_changes=False)
    assert num_untrained(weights) == grown > 0
    assert take_back_(weights, kept) == grown
    assert dict(weights.counts) == counts
    assert all(torch.equal(weights.masks[name], mask) for name, mask in old.items())
    for now, before in zip(model.parameters(), values, strict=True):
        assert torch.equal(now, before)
    check_weights(model, weights)
    train_step(model, optimizer, 4)  # the optimizer's state fits the weights that are back
    weights.clear_(weights.masks)
    check_weights(model, weights)


def test_what_only_pruned_stays() -> None:
    _, _, weights = trained("momentum")
    kept = before_update(weights)
    name, mask = next(iter(weights.dense.items()))
    pruned = mask.clone()
    pruned[tuple(mask.nonzero()[0])] = False
    weights.change_([(name, pruned)], want_changes=False)
    assert take_back_(weights, kept) == 0
    assert torch.equal(weights.dense[name], pruned)


def test_memory_follows_strides() -> None:
    """A channels-last weight, whose flat order is not that of memory."""
    model = nn.Conv2d(4, 6, 3, bias=False).to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    weights = MaskedWeights(model, [optimizer], masked(model, sparsity=0.5))
    weights.clear_(weights.masks)
    before, kept = model.weight.detach().clone(), before_update(weights)
    weights.change_([("weight", ~weights.dense["weight"])], want_changes=False)
    assert torch.count_nonzero(model.weight) == 0
    assert take_back_(weights, kept) == 108
    assert torch.equal(model.weight, before)
