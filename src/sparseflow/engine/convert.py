"""Conversion of a masked dense model to one that holds active weights only, and back."""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterator
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from sparseflow._checks import check_masks
from sparseflow.attached import check_current
from sparseflow.boundary import checked
from sparseflow.engine.files.pretrained import SavePretrained, give_save_pretrained_
from sparseflow.engine.forms import SPARSE_FORMS
from sparseflow.engine.forms import convertible as convertible
from sparseflow.engine.layers.active import ActiveWeight, take_over_
from sparseflow.engine.layers.attention import (
    MultiheadAttention,
    Projection,
    hold_dense_,
    hold_sparse_,
)
from sparseflow.engine.layers.chain import SparseSequential, is_joined
from sparseflow.engine.layers.inner_forms import INNER_FORMS, PLAIN_FORMS, has_inner_form
from sparseflow.engine.layers.modules import SparseConv2d
from sparseflow.engine.layers.names import layers_by_path, weights_of_state
from sparseflow.engine.layers.transformer import AROUND_DENSE, AROUND_SPARSE
from sparseflow.masks.make import apply_masks_
from sparseflow.masks.select import maskable, unwrap
from sparseflow.types import Masks


@checked()
def convert(model: nn.Module, masks: Masks, *, only: Collection[str] | None = None) -> nn.Module:
    """A copy of the model whose masked linear, convolution, attention and embedding layers hold active weights only.

    Layers without a sparse form (3-d and transposed convolutions, recurrent, tied weights) stay dense with zeros;
    :func:`convertible` lists them with the reasons. torch's transformer layers compute with what is converted in them,
    and not by their own fast path, which reads dense weights. Pools and batch normalisation of a model with sparse
    convolutions keep the engine's layout. In a ``nn.Sequential``, a ReLU behind a sparse layer is computed by it, or by
    the pool that follows; a chain of only such layers, ReLUs, pools and Flatten runs as a single autograd function.
    Dense weights are not copied, so memory grows by the sparse model only.

    Args:
        model: On the CPU; not changed.
        masks: Parameter name -> bool tensor.
        only: Names of the weights to convert. Default: all that can be.

    Returns: a module with the same submodule names; ``nn.Module.parameters()`` gives values and biases.

    Raises:
        TypeError, ValueError: if a mask does not fit or is of an earlier time, see
            :func:`sparseflow.attached.check_current`, or ``only`` names a weight that has no mask or no sparse form.

    >>> import torch
    >>> import sparseflow as sf
    >>> model = nn.Sequential(nn.Linear(100, 10), nn.ReLU())
    >>> sparse = convert(model, sf.random_masks(model, 0.9, seed=0))
    >>> sum(p.numel() for p in sparse.parameters()), sparse(torch.ones(2, 100)).shape
    (110, torch.Size([2, 10]))
    """
    model = unwrap(model)
    check_masks(masks, {name: weight.parameter for name, weight in maskable(model).items()})
    check_current(masks, {name: model.get_parameter(name) for name in masks})
    return replaced(model, masks, only=only)


def replaced(model: nn.Module, masks: Masks, *, only: Collection[str] | None = None) -> nn.Module:
    """:func:`convert` of a model whose weights need not be those of the masks, since others are loaded into it."""
    reasons = convertible(model, masks)
    if only is not None:
        for name in only:
            if reasons.get(name, "it has no mask") is not None:
                raise ValueError(
                    f"{name!r} cannot be converted: {reasons.get(name, 'it has no mask')}. Leave it out of only=."
                )
    chosen = [name for name, reason in reasons.items() if reason is None and (only is None or name in only)]
    # A copy that has already met these modules takes their sparse forms instead.
    memo: dict[int, Any] = {}
    attentions: dict[nn.Module, dict[str, Projection]] = {}
    for name in chosen:
        path, _, attribute = name.rpartition(".")
        module = model.get_submodule(path)
        if type(module) is nn.MultiheadAttention:
            weight = model.get_parameter(name)
            projection = Projection.of_weight(weight, masks[name])
            attentions.setdefault(module, {})[attribute.removesuffix("_weight")] = projection
            memo[id(weight)] = None
            continue
        memo[id(module)] = SPARSE_FORMS[type(module)].bare(module, masks[name])
        if type(module) is NonDynamicallyQuantizableLinear:
            attentions.setdefault(model.get_submodule(path.rpartition(".")[0]), {})
    inner = [module for module in model.modules() if has_inner_form(module)]
    if not any(isinstance(made, SparseConv2d) for made in memo.values()):
        inner = []
    memo |= _computed(model)
    for module in model.modules():  # when all forms are known: a hook may belong to another module
        if isinstance(made := memo.get(id(module)), ActiveWeight):
            take_over_(made, module, memo)
    converted = memo[id(model)] if id(model) in memo else copy.deepcopy(model, memo)
    for module, projections in attentions.items():
        hold_sparse_(memo[id(module)], projections)
    remaining = {name: mask for name, mask in masks.items() if name not in chosen}
    apply_masks_(converted, remaining)
    for module in inner:
        memo[id(module)].__class__ = INNER_FORMS[type(module)]
    for module in converted.modules():
        if type(module) in AROUND_SPARSE and any(isinstance(each, ActiveWeight) for each in module.modules()):
            module.__class__ = AROUND_SPARSE[type(module)]
    for chain in [module for module in converted.modules() if type(module) is nn.Sequential]:
        if is_joined(chain):
            chain.__class__ = SparseSequential
    give_save_pretrained_(converted)
    return converted


def _computed(model: nn.Module) -> dict[int, Tensor]:
    """Copies of the tensors that modules keep and other tensors made: a pruned weight, which its hook makes anew.

    :func:`copy.deepcopy` refuses them.
    """
    kept = (value for module in model.modules() for value in vars(module).values())
    return {
        id(value): value.detach().clone()
        for value in kept
        if isinstance(value, Tensor) and value.requires_grad and not value.is_leaf
    }


@checked()
def sparse_layers(model: nn.Module) -> dict[str, ActiveWeight]:
    """Name of the dense weight -> the layer that holds its active values.

    >>> import torch
    >>> sparse_layers(convert(nn.Linear(2, 1), {"weight": torch.ones(1, 2).bool()}))
    {'weight': SparseLinear([1, 2], 2 of 2 weights, bias=True)}
    """
    return {name: layer for _, name, layer in layers_by_path(unwrap(model))}


@checked()
def masks_of(model: nn.Module) -> dict[str, Tensor]:
    """The masks of a model's sparse layers, by the name of the dense weight."""
    return {name: layer.pattern.mask() for name, layer in sparse_layers(model).items()}


@checked()
def dense_state_dict(model: nn.Module) -> dict[str, Tensor]:
    """The state of the dense model with its own plain names: zeros where there are no weights.

    >>> import torch
    >>> model = nn.Linear(2, 1)
    >>> sparse = convert(model, {"weight": torch.tensor([[True, False]])})
    >>> {name: tensor.shape for name, tensor in dense_state_dict(sparse).items()}
    {'weight': torch.Size([1, 2]), 'bias': torch.Size([1])}
    """
    return dict(_dense_state(unwrap(model)))


def _dense_state(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    layers, weights = sparse_layers(model), weights_of_state(model)
    met = set()
    for name, tensor in model.state_dict().items():
        weight = weights.get(name)
        if weight is None:
            yield name, tensor
        elif weight not in met:
            met.add(weight)
            yield weight, layers[weight].dense_weight()


@checked()
def to_dense(model: nn.Module) -> nn.Module:
    """A copy of the model with dense layers and zeros, as it was before :func:`convert`.

    >>> import torch
    >>> model = nn.Sequential(nn.Linear(2, 1), nn.ReLU())
    >>> to_dense(convert(model, {"0.weight": torch.tensor([[True, False]])}))
    Sequential(
      (0): Linear(in_features=2, out_features=1, bias=True)
      (1): ReLU()
    )
    """
    model = unwrap(model)
    layers = [module for module in model.modules() if isinstance(module, ActiveWeight)]
    memo: dict[int, Any] = _computed(model) | {id(layer): layer.bare_dense() for layer in layers}
    for layer in layers:
        take_over_(memo[id(layer)], layer, memo)
    dense: nn.Module = memo[id(model)] if id(model) in memo else copy.deepcopy(model, memo)
    for module in dense.modules():
        if isinstance(vars(module).get("save_pretrained"), SavePretrained):
            del vars(module)["save_pretrained"]
        if type(module) is SparseSequential:
            module.__class__ = nn.Sequential  # type: ignore[assignment]
        elif type(module) in AROUND_DENSE:
            module.__class__ = AROUND_DENSE[type(module)]
        elif type(module) is MultiheadAttention:
            hold_dense_(module)
        elif type(module) in PLAIN_FORMS:
            module.__class__ = PLAIN_FORMS[type(module)]
    return dense
