"""PEFT: adapters of chosen weights alone, and low-rank adapters merged into a sparse base that stays sparse."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from sparseflow._checks import check_masks
from sparseflow.integrations import missing
from sparseflow.masks.imported import masks_of
from sparseflow.masks.make import apply_masks_, sparsity_of
from sparseflow.masks.select import maskable
from sparseflow.types import Masks

try:
    from peft import PeftConfig, PeftModel, SupertuningConfig, get_peft_model
    from peft.tuners.supertuning.layer import SupertuningLayer
    from peft.utils import load_peft_weights, set_peft_model_state_dict
except ImportError as error:
    raise missing("peft", error) from error

__all__ = ["load_sparse_adapter", "merge_within_masks", "sparse_adapter"]

_BASE = ".base_layer"
_INDICES = ".supertuning_indices"


def sparse_adapter(model: nn.Module, masks: Masks, **options: Any) -> PeftModel:
    """Put an adapter on a model that trains the active weights of its masks, and nothing else.

    PEFT's Super-Tuning, with these positions in place of those that it would choose by magnitude: of a sparse base its
    active weights, so that ``merge_and_unload()`` keeps the zeros; of a dense one whatever a score is highest at.

    Args:
        model: Changed in place, as by ``peft.get_peft_model``.
        masks: Parameter name -> bool tensor, of linear layers; ``True`` is trained.
        options: Of ``peft.SupertuningConfig``, such as ``modules_to_save``. ``r`` would add a dense part.

    Returns: the model with its adapter. ``save_pretrained`` writes positions and values; :func:`load_sparse_adapter`
        reads them, and so does ``PeftModel.from_pretrained`` where all layers have about the same share of weights.

    Raises:
        TypeError, ValueError: if a mask does not fit, is not of a linear layer, or has no active weight.

    Reference: *Super-Tuning* (2026), arXiv:2607.09287, as in PEFT 0.21.

    >>> import sparseflow as sf
    >>> model = nn.Sequential(nn.Linear(100, 10))
    >>> adapted = sparse_adapter(model, sf.magnitude_masks(model, 0.95))
    >>> adapted.get_nb_trainable_parameters()
    (50, 1060)
    """
    known = maskable(model)
    check_masks(masks, {name: weight.parameter for name, weight in known.items()})
    for name, mask in masks.items():
        if type(known[name].module) is not nn.Linear:
            raise TypeError(
                f"{name!r} is in a {type(known[name].module).__name__}, and PEFT's Super-Tuning takes torch.nn.Linear. "
                "Leave it out: {name: mask for name, mask in masks.items() if ...}."
            )
        if not mask.any():
            raise ValueError(f"the mask of {name!r} has no active weight, so nothing would be trained. Leave it out.")
    counts = {name: (int(mask.sum()), mask.numel()) for name, mask in masks.items()}
    layers = [name.removesuffix(".weight") for name in masks]
    config = SupertuningConfig(target_modules=layers, sparsity=_sparsity(counts, sparsity_of(masks)), **options)
    adapted: PeftModel = get_peft_model(model, config)
    _place_(adapted, {name.removesuffix(".weight"): mask.flatten().nonzero().flatten() for name, mask in masks.items()})
    return adapted


def load_sparse_adapter(model: nn.Module, folder: str | os.PathLike[str]) -> PeftModel:
    """Put an adapter on a model that ``save_pretrained`` of a :func:`sparse_adapter` wrote.

    Args:
        model: The base, with the weights that the adapter was made on; changed in place.
        folder: That of ``save_pretrained``.

    Raises:
        ValueError: if the folder holds another kind of adapter.
    """
    config, state = PeftConfig.from_pretrained(os.fspath(folder)), load_peft_weights(os.fspath(folder), device="cpu")
    places = {
        name.removeprefix("base_model.model.").removesuffix(_INDICES): indices
        for name, indices in state.items()
        if name.endswith(_INDICES)
    }
    if not places:
        raise ValueError(
            f"{folder} holds no positions of weights: it is an adapter of type {config.peft_type}. Load it by "
            "peft.PeftModel.from_pretrained(model, folder)."
        )
    adapted: PeftModel = get_peft_model(model, config)
    _place_(adapted, places)
    set_peft_model_state_dict(adapted, state)
    return adapted


def merge_within_masks(model: PeftModel, masks: Masks | None = None) -> nn.Module:
    r"""Merge the adapters into a sparse base, which stays sparse.

    .. math:: w \leftarrow m \odot (w + \Delta)

    ``merge_and_unload()`` alone adds a product of two dense matrices, after which no weight of an adapted layer is
    zero. What an adapter has learnt off the mask is lost: look at the loss afterwards, or train a
    :func:`sparse_adapter`, which learns nothing there.

    Args:
        model: From ``peft.get_peft_model`` or ``PeftModel.from_pretrained``; not to be used afterwards.
        masks: Parameter name of the base -> bool tensor. Default: where its weights are not zero.

    Returns: the base, without adapters.

    Raises:
        TypeError, ValueError: if a mask does not fit, or no weight of the base is sparse.

    >>> import sparseflow as sf
    >>> from peft import LoraConfig
    >>> base = nn.Sequential(nn.Linear(100, 10))
    >>> base = sf.apply_masks_(base, sf.magnitude_masks(base, 0.9))
    >>> adapted = get_peft_model(base, LoraConfig(target_modules=["0"], init_lora_weights=False))
    >>> int((merge_within_masks(adapted)[0].weight != 0).sum())
    100
    """
    if masks is None:
        named = model.get_base_model().named_parameters()
        prefix = f".{model.base_model.prefix}"  # of the adapter's own parameters
        masks = masks_of({name.replace(_BASE, ""): weight for name, weight in named if prefix not in name})
    merged: nn.Module = model.merge_and_unload()
    return apply_masks_(merged, masks)


def _sparsity(counts: Mapping[str, tuple[int, int]], mean: float) -> float:
    """One sparsity by which PEFT, which rounds down, counts every layer as it is; where there is none, the mean."""
    low = max(active / size for active, size in counts.values())
    high = min((active + 1) / size for active, size in counts.values())
    sparsity = 1 - (low + high) / 2
    fits = all(int(size * (1 - sparsity)) == active for active, size in counts.values())
    return sparsity if fits and 0 <= sparsity < 1 else min(max(mean, 0.0), math.nextafter(1.0, 0.0))


@torch.no_grad()
def _place_(model: PeftModel, places: Mapping[str, torch.Tensor]) -> None:
    """Let the adapter's values belong to other positions, flat ones in each layer."""
    (adapter,) = model.active_adapters
    base = model.get_base_model()
    for name, place in places.items():
        layer = base.get_submodule(name)
        assert isinstance(layer, SupertuningLayer)
        values = layer.supertuning_values[adapter]
        layer.supertuning_indices[adapter] = place.to(torch.int32).to(values.device)
        layer.supertuning_values[adapter] = nn.Parameter(values.new_zeros(len(place)))
