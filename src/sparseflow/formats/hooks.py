"""Masks that tools keep beside dense weights: NNCF, SparseML, sparsimony and ``torch.nn.utils.prune``."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from sparseflow.formats.stored import Stored, Taken, masked, without
from sparseflow.masks.imported import stored_masks

#: NNCF 3: ``__nncf_hooks.post_hooks.block:3:weight__0.0.binary_mask``, of magnitude pruning, or ``...mask``, a logit.
_HOOK = re.compile(r"(?P<root>.*?)__nncf_hooks\.post_hooks\.(?P<weight>.+)__0\.\d+\.(?P<kind>binary_mask|mask)")
#: NNCF 2: ``block.3.pre_ops.0.op._binary_mask``; beside it pruning by regularisation has what the mask is made from.
_PRE_OP = re.compile(r"(?P<layer>.+)\.pre_ops\.\d+\.op\.(?P<kind>_binary_mask|_mask|uniform)")
_OF_NNCF_2 = "nncf_module."
#: What NNCF 2 adds to convolutions, which no plain model has.
_PADDING = ".nncf_padding_value"
#: sparsimony: ``fc.parametrizations.weight.0.mask`` beside ``fc.parametrizations.weight.original``.
_FAKE = re.compile(r"(?P<layer>.*)parametrizations\.(?P<weight>\w+)\.(?P<index>\d+)\.mask")
_OF_SPARSEML = ".sparsity_mask"


def nncf(state: Mapping[str, Tensor]) -> Taken:
    """Take the weights that NNCF prunes: it keeps them dense, and multiplies by the mask in each forward pass.

    Of pruning by magnitude it keeps a binary mask; of the one by regularisation a logit, active where its sigmoid is
    above 0.5.

    Args:
        state: Tensors by name, of NNCF 3 or of NNCF 2.

    Raises:
        ValueError: if a mask has no weight or another shape, or the model is quantised.

    Reference: NNCF 3.4.0, ``nncf/torch/function_hook/pruning``, and 2.19.0, ``nncf/torch/sparsity``.

    >>> state = {"fc.weight": torch.tensor([[1.0, 2.0]])}
    >>> state["__nncf_hooks.post_hooks.fc:weight__0.0.binary_mask"] = torch.tensor([[True, False]])
    >>> nncf(state).weights["fc.weight"].weight
    tensor([[1., 0.]])
    """
    weights: dict[str, Stored] = {}
    used: list[str] = []
    for name, mask in state.items():
        if name.endswith(_PADDING):
            used.append(name)
            continue
        if found := _HOOK.fullmatch(name):
            weight, kind = found["root"] + found["weight"].replace(":", "."), found["kind"]
        elif found := _PRE_OP.fullmatch(name):
            weight, kind = f"{found['layer']}.weight", "binary_mask"
            if found["kind"] != "_binary_mask":
                used.append(name)
                continue
        elif "__nncf_hooks." in name or ".pre_ops." in name:
            raise ValueError(f"{name!r} is no mask: of NNCF models that are quantised too nothing can be read")
        else:
            continue
        if weight not in state:
            raise ValueError(f"{name!r} is the mask of {weight!r}, which is not there")
        plain = weight.removeprefix(_OF_NNCF_2)
        before = weights[plain].weight if plain in weights else state[weight]  # pruned twice: both masks hold
        now = masked(weight, before, mask if kind == "binary_mask" else torch.sigmoid(mask) > 0.5)
        weights[plain] = Stored(now.weight, now.mask & weights[plain].mask) if plain in weights else now
        used += [name, weight]
    rest = without(state, used)
    if any(name.startswith(_OF_NNCF_2) for name in used):
        rest = {name.removeprefix(_OF_NNCF_2): tensor for name, tensor in rest.items()}
    return Taken(weights, rest)


def sparseml(state: Mapping[str, Tensor]) -> Taken:
    """Take the weights whose masks SparseML keeps in the ``manager`` of a checkpoint, as ``fc.weight.sparsity_mask``.

    Raises:
        ValueError: if a mask has no weight or another shape.

    Reference: SparseML 1.8.0, ``pytorch/sparsification/pruning/mask_params.py``.

    >>> state = {"fc.weight": torch.ones(1, 2), "fc.weight.sparsity_mask": torch.tensor([[1.0, 0.0]])}
    >>> sparseml(state).weights["fc.weight"].mask
    tensor([[ True, False]])
    """
    weights: dict[str, Stored] = {}
    for name in state:
        if name.endswith(_OF_SPARSEML):
            weight = name.removesuffix(_OF_SPARSEML)
            if weight not in state:
                raise ValueError(f"{name!r} is the mask of {weight!r}, which is not there")
            weights[weight] = masked(weight, state[weight], state[name])
    return Taken(weights, without(state, [*weights, *(f"{name}{_OF_SPARSEML}" for name in weights)]))


def torch_prune(state: Mapping[str, Tensor]) -> Taken:
    """Take the weights under ``torch.nn.utils.prune``: ``fc.weight_orig`` and ``fc.weight_mask``.

    Torchao and Lightning prune by the same names.

    Raises:
        ValueError: if a mask has another shape than its weight.

    >>> state = {"weight_orig": torch.ones(1, 2), "weight_mask": torch.tensor([[1.0, 0.0]])}
    >>> torch_prune(state).weights["weight"].weight
    tensor([[1., 0.]])
    """
    masks = stored_masks(state)
    weights = {name: masked(name, state[f"{name}_orig"], mask) for name, mask in masks.items()}
    return Taken(weights, without(state, [f"{name}{end}" for name in masks for end in ("_orig", "_mask")]))


def sparsimony(state: Mapping[str, Tensor]) -> Taken:
    """Take the weights that sparsimony masks in a parametrization; ``torch.ao.pruning`` saves no masks by such names.

    Raises:
        ValueError: if a mask has no weight or another shape.

    Reference: sparsimony 0.1.0, ``parametrization/fake_sparsity.py``.

    >>> state = {"fc.parametrizations.weight.original": torch.ones(1, 2)}
    >>> state["fc.parametrizations.weight.0.mask"] = torch.tensor([[1.0, 0.0]])
    >>> sparsimony(state).weights["fc.weight"].mask
    tensor([[ True, False]])
    """
    weights: dict[str, Stored] = {}
    used: list[str] = []
    for name, mask in state.items():
        if not (found := _FAKE.fullmatch(name)):
            continue
        weight, place = found["layer"] + found["weight"], f"{found['layer']}parametrizations.{found['weight']}."
        if f"{place}original" not in state:
            raise ValueError(f"{name!r} is the mask of {place + 'original'!r}, which is not there")
        weights[weight] = masked(weight, state[f"{place}original"], mask)
        # The dense gradient is there too.
        used += [each for each in state if each == f"{place}original" or each.startswith(f"{place}{found['index']}.")]
    return Taken(weights, without(state, used))
