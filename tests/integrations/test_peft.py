"""Adapters of the real PEFT on masks, and low-rank ones merged into sparse bases."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import sparseflow as sf

pytest.importorskip("peft", reason="peft is not installed")
pytest.importorskip("transformers", reason="transformers is not installed")

from peft import LoraConfig, PeftModel, get_peft_model

import trainer_runs as runs
from pages import run_page
from sparseflow.integrations.peft import load_sparse_adapter, merge_within_masks, sparse_adapter


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"(transformers|peft|torch)\.")
        yield


def sparse_base(allocation: str = "uniform") -> tuple[Any, dict[str, torch.Tensor]]:
    """A small language model at 90 %, and its masks."""
    model = runs.network(dropout=0.0)
    masks = sf.magnitude_masks(model, 0.9, allocation=allocation, exclude=["lm_head"])
    return sf.apply_masks_(model, masks), masks


def trained(model: nn.Module, steps: int = 5) -> nn.Module:
    """A few steps of Adam on real text, over what asks for gradients."""
    ids = torch.stack([row["input_ids"] for row in runs.data(count=8)])
    optimizer = torch.optim.Adam([each for each in model.parameters() if each.requires_grad], lr=1e-2)
    for _ in range(steps):
        optimizer.zero_grad()
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
    return model


def logits(model: nn.Module) -> torch.Tensor:
    ids = torch.stack([row["input_ids"] for row in runs.data(count=2)])
    with torch.no_grad():
        return model(input_ids=ids).logits


@pytest.mark.parametrize("allocation", ["uniform", "erk"])
def test_an_adapter_trains_the_active_weights_and_its_merge_keeps_the_zeros(allocation: str) -> None:
    base, masks = sparse_base(allocation)
    before = copy.deepcopy(base)
    adapted = sparse_adapter(base, masks)
    assert torch.equal(logits(adapted), logits(before))  # it begins as the base
    assert adapted.get_nb_trainable_parameters()[0] == sum(int(mask.sum()) for mask in masks.values())
    trained(adapted)
    moved = logits(adapted)
    merged = adapted.merge_and_unload()
    torch.testing.assert_close(logits(merged), moved, rtol=1e-5, atol=1e-5)
    for name, mask in masks.items():
        weight, old = merged.get_parameter(name), before.get_parameter(name)
        assert not weight[~mask].any(), name
        assert (weight[mask] != old[mask]).float().mean() > 0.8, name  # but those of units that are dead


def test_an_adapter_learns_what_training_the_masked_weights_learns() -> None:
    """The same gradients at the same weights: Adam on the values is Adam on the masked base, to rounding."""
    base, masks = sparse_base()
    by_hand = copy.deepcopy(base)
    for name, weight in by_hand.named_parameters():
        weight.requires_grad_(name in masks)
    optimizer = torch.optim.Adam([by_hand.get_parameter(name) for name in masks], lr=1e-2)
    sf.Sparsifier(by_hand, optimizer, masks, sf.Static(), seed=0)
    ids = torch.stack([row["input_ids"] for row in runs.data(count=8)])
    for _ in range(5):
        optimizer.zero_grad()
        by_hand(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
    merged = trained(sparse_adapter(base, masks)).merge_and_unload()  # type: ignore[operator]
    for name in masks:
        torch.testing.assert_close(merged.get_parameter(name), by_hand.get_parameter(name), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("allocation", ["uniform", "erk"])
def test_a_saved_adapter_is_loaded(tmp_path: Path, allocation: str) -> None:
    """By us whatever the shares; by PEFT itself where one sparsity gives each layer's count."""
    base, masks = sparse_base(allocation)
    plain = copy.deepcopy(base)
    adapted = trained(sparse_adapter(base, masks))
    adapted.save_pretrained(tmp_path)  # type: ignore[operator]
    assert torch.equal(logits(load_sparse_adapter(copy.deepcopy(plain), tmp_path)), logits(adapted))
    if allocation == "uniform":
        assert torch.equal(logits(PeftModel.from_pretrained(copy.deepcopy(plain), str(tmp_path))), logits(adapted))
    else:
        with pytest.raises(RuntimeError, match="size mismatch"):
            PeftModel.from_pretrained(copy.deepcopy(plain), str(tmp_path))


def test_a_low_rank_adapter_fills_the_zeros_and_merging_within_masks_does_not() -> None:
    """Against the product of the two matrices in float64, by hand."""
    base, masks = sparse_base()
    adapted = get_peft_model(base, LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "up_proj"]))
    name = "model.layers.0.mlp.up_proj.weight"
    layer = adapted.get_base_model().get_submodule(name.removesuffix(".weight"))
    trained(adapted)
    weight = layer.base_layer.weight.detach().double()  # type: ignore[union-attr]
    a, b = (getattr(layer, f"lora_{which}").default.weight.detach().double() for which in "AB")
    assert not weight[~masks[name]].any()  # the base is as sparse as before
    whole = weight + 8 / 4 * b @ a

    filled = copy.deepcopy(adapted).merge_and_unload()  # type: ignore[operator]
    assert (filled.get_parameter(name) != 0).float().mean() > 0.9  # but rows of units that are dead
    for given in (masks, None):
        merged = merge_within_masks(copy.deepcopy(adapted), given)
        kept = merged.get_parameter(name).double()
        torch.testing.assert_close(kept, (whole * masks[name]).to(kept), rtol=1e-5, atol=1e-6)
        found = sf.masks_of(merged)
        assert found.keys() == masks.keys()
        assert all(torch.equal(found[each], mask) for each, mask in masks.items())


def test_masks_that_no_adapter_takes() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(8, 4))
    masks = sf.magnitude_masks(model, 0.5)
    with pytest.raises(TypeError, match=r"'0\.weight' is in a Conv2d, and PEFT's Super-Tuning takes torch\.nn\.Linear"):
        sparse_adapter(model, masks)
    with pytest.raises(ValueError, match=r"'2\.weight' has no active weight"):
        sparse_adapter(model, {"2.weight": torch.zeros(4, 8, dtype=torch.bool)})


def test_a_folder_of_another_adapter(tmp_path: Path) -> None:
    base, _ = sparse_base()
    get_peft_model(copy.deepcopy(base), LoraConfig(target_modules=["q_proj"])).save_pretrained(str(tmp_path))
    with pytest.raises(ValueError, match=r"holds no positions of weights: it is an adapter of type .*LORA"):
        load_sparse_adapter(base, tmp_path)


def test_the_page(tmp_path: Path) -> None:
    shown = run_page("peft.md", tmp_path).splitlines()
    assert shown[0].startswith("trainable params: 7,940 ")  # 7,840 + 100
    assert shown[1:] == ["90.0% zeros", "90.0% zeros"]
