"""Masks read from networks that are sparse already: the tables of torch.nn.utils.prune, and training on bit for bit."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune

import sparseflow as sf
from tiny import OPTIMIZERS, loss_of, tiny_model, train_step


def pruned() -> nn.Module:
    """The same each time: torch's pruning draws from the global generator."""
    torch.manual_seed(0)
    model = tiny_model()
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            prune.random_unstructured(module, "weight", 0.7)
    return model


def stored(model: nn.Module) -> dict[str, Tensor]:
    """Torch's own tables, by the names of the plain weights."""
    return {n.removesuffix("_mask"): b != 0 for n, b in model.named_buffers() if n.endswith("_mask")}


def same(a: sf.Masks, b: sf.Masks) -> bool:
    return a.keys() == b.keys() and all(torch.equal(mask, b[name]) for name, mask in a.items())


# --- torch.nn.utils.prune ---------------------------------------------------------------------------------------------


def test_the_masks_are_those_of_torch() -> None:
    model = pruned()
    expected = stored(model)
    assert expected
    before = copy.deepcopy(model.state_dict())
    assert same(sf.masks_of(model), expected)
    assert same(sf.masks_of(model.state_dict()), expected)
    assert same(sf.masks_of(nn.DataParallel(model)), expected)
    assert same(sf.masks_of(nn.DataParallel(model).state_dict()), expected)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())  # nothing is written


@pytest.mark.parametrize(
    "name", [name for name in OPTIMIZERS if name in ("sgd", "momentum", "nesterov", "adam", "adamw")]
)
def test_training_goes_on_bit_for_bit(name: str) -> None:
    """Three steps under torch's pruning, then five more there, and five under a Sparsifier with the same optimizer."""
    model, other = pruned(), pruned()
    optimizer, its_optimizer = (OPTIMIZERS[name](each.parameters()) for each in (model, other))
    for step in range(3):
        train_step(model, optimizer, step)
        train_step(other, its_optimizer, step)
    masks = sf.masks_of(model)
    sf.remove_pruning_(model)
    sparsifier = sf.Sparsifier(model, optimizer, masks, sf.Static(), seed=0)
    for step in range(3, 8):
        train_step(model, optimizer, step)
        train_step(other, its_optimizer, step)
        assert torch.equal(loss_of(model, step), loss_of(other, step))
    sparsifier.check()
    ours = dict(model.named_parameters())
    for n, value in sf.remove_pruning_(other).named_parameters():
        assert torch.equal(ours[n], value), n


def test_a_checkpoint_becomes_one_of_the_plain_model() -> None:
    model = pruned()
    plain = sf.remove_pruning(model.state_dict())
    assert plain.keys() == tiny_model().state_dict().keys()
    expected = sf.remove_pruning_(pruned()).state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in plain.items())
    other = tiny_model()
    other.load_state_dict(plain)
    masks = sf.masks_of(model.state_dict())
    optimizer = torch.optim.AdamW(other.parameters())
    sparsifier = sf.Sparsifier(other, optimizer, masks, sf.RigL(update_every=2, schedule="constant"), seed=0)
    for step in range(5):
        train_step(other, optimizer, step)
    sparsifier.check()


def test_the_parameters_stay_the_same_objects() -> None:
    layer = prune.l1_unstructured(nn.Linear(4, 3), "weight", 0.5)
    parameter = layer.weight_orig
    assert sf.remove_pruning_(layer) is layer
    assert layer.weight is parameter
    assert sf.remove_pruning_(layer).weight is parameter  # a second time is nothing


def test_other_tensors_than_weights_and_other_ways_of_pruning() -> None:
    layer = nn.Sequential(nn.Linear(6, 4), nn.MultiheadAttention(4, 2), nn.LSTM(4, 3))
    prune.ln_structured(layer[0], "weight", 0.5, n=2, dim=0)
    prune.l1_unstructured(layer[0], "weight", 0.25)  # in a container of both
    prune.l1_unstructured(layer[0], "bias", 0.5)
    prune.l1_unstructured(layer[1], "in_proj_weight", 0.5)
    expected = {"0.weight": layer[0].weight_mask != 0, "1.in_proj_weight": layer[1].in_proj_weight_mask != 0}
    assert same(sf.masks_of(layer), expected)
    names = {name for name, _ in sf.remove_pruning_(layer).named_parameters()}
    assert names == {
        n for n, _ in nn.ModuleList([nn.Linear(1, 1), nn.MultiheadAttention(2, 1), nn.LSTM(1, 1)]).named_parameters()
    }


def test_attention_computes_with_what_was_loaded_once_the_pruning_is_removed() -> None:
    # Under prune it computes with the one of before: findings/torch_pruned_attention_computes_with_its_first_weight.sh
    def attention(seed: int) -> nn.MultiheadAttention:
        torch.manual_seed(seed)
        made = nn.MultiheadAttention(4, 2)
        prune.l1_unstructured(made.out_proj, "weight", 0.5)
        return made

    trained, loaded, x = attention(0), attention(1), torch.randn(3, 1, 4)
    loaded.load_state_dict(trained.state_dict())
    assert not torch.equal(trained(x, x, x)[0], loaded(x, x, x)[0])
    assert same(sf.masks_of(loaded), sf.masks_of(trained))
    sf.remove_pruning_(loaded)
    assert torch.equal(trained(x, x, x)[0], loaded(x, x, x)[0])


# --- zeros ------------------------------------------------------------------------------------------------------------


def sparse_model() -> tuple[nn.Module, dict[str, Tensor]]:
    model = tiny_model()
    masks = sf.random_masks(model, 0.7, seed=0)
    return sf.apply_masks_(model, masks), masks


def test_zeros_of_a_model_and_of_its_checkpoint() -> None:
    model, masks = sparse_model()
    assert same(sf.masks_of(model), masks)
    assert same(sf.masks_of(model.state_dict()), masks)
    assert same(sf.masks_of({f"module._orig_mod.{n}": t for n, t in model.state_dict().items()}), masks)


def test_a_sparsifiers_masks_count_not_the_zeros() -> None:
    model, masks = sparse_model()
    sparsifier = sf.Sparsifier(model, torch.optim.SGD(model.parameters(), lr=0.1), masks, sf.Static(), seed=0)
    with torch.no_grad():
        next(iter(sf.prunable(model).values())).parameter.zero_()
    assert same(sf.masks_of(model), sparsifier.masks)


def test_dense_and_empty_weights_have_no_mask() -> None:
    model = nn.Sequential(nn.Linear(100, 100), nn.Linear(100, 100), nn.Linear(100, 100), nn.Linear(100, 100))
    with torch.no_grad():
        model[0].weight[0, 0] = 0  # one of 10,000
        model[1].weight[0] = 0  # a hundredth
        model[2].weight.zero_()
    assert list(sf.masks_of(model)) == list(sf.masks_of(model.state_dict())) == ["1.weight"]
    assert list(sf.masks_of(model, at_least=1e-4)) == ["0.weight", "1.weight"]


def test_a_checkpoint_counts_matrices_once_and_no_biases() -> None:
    weight = torch.eye(4)
    state = {
        "head.weight": weight,
        "embed.weight": weight,
        "bias": weight.clone(),
        "causal": torch.eye(4)[None],
        "n": torch.ones(()),
    }
    assert list(sf.masks_of(state)) == ["head.weight"]
    with pytest.raises(ValueError, match=r"no weight has a fraction of 0.01 zeros or more"):
        sf.masks_of(state, exclude=["head*"], at_least=0.01)


def test_rules() -> None:
    model, masks = sparse_model()
    first, *others = masks
    assert list(sf.masks_of(model, exclude=[first])) == list(sf.masks_of(model.state_dict(), exclude=[first])) == others


@pytest.mark.parametrize(
    ("source", "options", "error", "match"),
    [
        ([1], {}, TypeError, "masks_of takes a model or its state_dict, got list"),
        (
            {"model": {}, "step": 1},
            {},
            TypeError,
            "'model' is dict. Pass the part of the checkpoint that is the model's",
        ),
        (nn.Linear(4, 4), {}, ValueError, "no weight has a fraction of 0.01 zeros or more.*sparseflow.magnitude_masks"),
        (nn.Linear(4, 4), {"at_least": 2}, ValueError, r"at_least must be in \[0, 1\], got 2"),
        ({"w": torch.eye(4)}, {"include": ["w"]}, TypeError, "a state_dict has names and no layers"),
        ({"w": torch.eye(4)}, {"exclude": [nn.Linear]}, TypeError, "a state_dict has names and no layers"),
        (
            {"w": torch.eye(4)},
            {"exclude": ["v"]},
            ValueError,
            "exclude has 'v', which matches no sparse weight. Sparse: w",
        ),
        (nn.Linear(4, 4), {"exclude": ["v"]}, ValueError, "'v' in include= or exclude= matches no parameter"),
    ],
)
def test_bad_input(source: Any, options: dict[str, Any], error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        sf.masks_of(source, **options)
