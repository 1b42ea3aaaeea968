"""Conversion of a masked dense model to one that holds active weights only, and back."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Collection, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from sparseflow._checks import check_masks
from sparseflow.attached import check_current
from sparseflow.boundary import checked
from sparseflow.engine.files.pretrained import SavePretrained, give_save_pretrained_
from sparseflow.engine.layers.chain import SparseSequential, is_joined
from sparseflow.engine.layers.inner_forms import INNER_FORMS, PLAIN_FORMS, has_inner_form
from sparseflow.engine.layers.modules import (
    PATTERN_NAMES,
    SparseConv1d,
    SparseConv2d,
    SparseLayer,
    SparseLinear,
    take_over_,
)
from sparseflow.masks.make import apply_masks_
from sparseflow.masks.select import maskable, unwrap
from sparseflow.types import Masks

#: Dense layer -> its sparse form. Exact types: a subclass may use its weight in its own way.
SPARSE_FORMS: dict[type[nn.Module], Any] = {nn.Linear: SparseLinear, nn.Conv1d: SparseConv1d, nn.Conv2d: SparseConv2d}


def why_not(module: nn.Module, *, shared: bool = False) -> str | None:
    """The reason why the engine leaves a layer masked, or ``None`` if it can take it.

    ``shared`` says whether another layer uses the same weight.

    >>> why_not(nn.Linear(2, 2)), why_not(nn.Conv2d(1, 1, 3, padding=1, padding_mode="circular"))
    (None, "padding_mode='circular'")
    """
    kind = type(module)
    if kind not in SPARSE_FORMS:
        namesake = any(kind.__name__ == known.__name__ for known in SPARSE_FORMS)
        return f"no sparse form of {f'{kind.__module__}.' if namesake else ''}{kind.__name__}"
    if "forward" in vars(module):
        return "its forward was replaced by another function"
    own = {name: parameter for name, parameter in module._parameters.items() if parameter is not None}
    weight = own.get("weight")
    if weight is None:
        sources = " and ".join(name for name in (*own, *module._buffers) if name.startswith("weight"))
        mend = ": call torch.nn.utils.prune.remove(layer, 'weight') first" if hasattr(module, "weight_mask") else ""
        return f"a hook makes its weight from {sources} at each call{mend}"
    if more := sorted(own.keys() - {"weight", "bias"}):
        return f"it has parameters of its own: {', '.join(more)}"
    if shared:
        return "its weight is shared with another layer"
    if getattr(module, "padding_mode", "zeros") != "zeros":
        return f"padding_mode={module.padding_mode!r}"
    if type(weight) is not nn.Parameter or type(weight.data) is not Tensor:
        return f"its weight is a {type(weight.data).__name__}"
    if weight.device.type != "cpu" or weight.dtype not in (torch.float32, torch.float64):
        return f"{weight.dtype} on {weight.device}"
    return None


@checked()
def convertible(model: nn.Module, masks: Masks) -> dict[str, str | None]:
    """Masked weight -> the reason why the engine leaves it masked, or ``None`` if it can take it.

    Arguments as :func:`convert`.

    Raises:
        TypeError, ValueError: if a mask does not fit.

    >>> model = nn.Sequential(nn.Linear(4, 4), nn.Conv3d(1, 1, 1))
    >>> convertible(model, {"0.weight": torch.ones(4, 4).bool(), "1.weight": torch.ones(1, 1, 1, 1, 1).bool()})
    {'0.weight': None, '1.weight': 'no sparse form of Conv3d'}
    """
    model = unwrap(model)
    check_masks(masks, {name: weight.parameter for name, weight in maskable(model).items()})
    uses = Counter(id(parameter) for module in model.modules() for parameter in module.parameters(recurse=False))
    found = {}
    for name in masks:
        path, _, attribute = name.rpartition(".")
        module = model.get_submodule(path)
        reason = why_not(module, shared=uses[id(model.get_parameter(name))] > 1)
        found[name] = f"no sparse form of {attribute}" if reason is None and attribute != "weight" else reason
    return found


@checked()
def convert(model: nn.Module, masks: Masks, *, only: Collection[str] | None = None) -> nn.Module:
    """A copy of the model whose masked linear and convolution layers hold and compute active weights only.

    Layers without a sparse form (3-d and transposed convolutions, attention, recurrent, tied weights) stay dense with
    zeros; :func:`convertible` lists them with the reasons. Pools and batch normalisation of a model with sparse
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
    for name in chosen:
        module = model.get_submodule(name.rpartition(".")[0])
        memo[id(module)] = SPARSE_FORMS[type(module)].bare(module, masks[name])
    inner = [module for module in model.modules() if has_inner_form(module)]
    if not any(isinstance(made, SparseConv2d) for made in memo.values()):
        inner = []
    memo |= _computed(model)
    for module in model.modules():  # when all forms are known: a hook may belong to another module
        if isinstance(made := memo.get(id(module)), SparseLayer):
            take_over_(made, module, memo)
    converted = memo[id(model)] if id(model) in memo else copy.deepcopy(model, memo)
    remaining = {name: mask for name, mask in masks.items() if name not in chosen}
    apply_masks_(converted, remaining)
    for module in inner:
        memo[id(module)].__class__ = INNER_FORMS[type(module)]
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
def sparse_layers(model: nn.Module) -> dict[str, SparseLayer]:
    """Name of the dense weight -> the layer that holds its active values.

    >>> sparse_layers(convert(nn.Linear(2, 1), {"weight": torch.ones(1, 2).bool()}))
    {'weight': SparseLinear([1, 2], 2 of 2 weights, bias=True)}
    """
    return {
        f"{path}.weight" if path else "weight": module
        for path, module in unwrap(model).named_modules(remove_duplicate=False)
        if isinstance(module, SparseLayer)
    }


@checked()
def masks_of(model: nn.Module) -> dict[str, Tensor]:
    """The masks of a model's sparse layers, by the name of the dense weight."""
    return {name: layer.pattern.mask() for name, layer in sparse_layers(model).items()}


@checked()
def dense_state_dict(model: nn.Module) -> dict[str, Tensor]:
    """The state of the dense model with its own plain names: zeros where there are no weights.

    >>> model = nn.Linear(2, 1)
    >>> sparse = convert(model, {"weight": torch.tensor([[True, False]])})
    >>> {name: tensor.shape for name, tensor in dense_state_dict(sparse).items()}
    {'weight': torch.Size([1, 2]), 'bias': torch.Size([1])}
    """
    return dict(_dense_state(unwrap(model)))


def _dense_state(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    layers = sparse_layers(model)
    for name, tensor in model.state_dict().items():
        path, _, attribute = name.rpartition(".")
        prefix = f"{path}." if path else ""
        layer = layers.get(prefix + "weight")
        if layer is not None and attribute == "values":
            yield prefix + "weight", layer.dense_weight()
        elif layer is None or attribute not in PATTERN_NAMES:
            yield name, tensor


@checked()
def to_dense(model: nn.Module) -> nn.Module:
    """A copy of the model with dense layers and zeros, as it was before :func:`convert`.

    >>> model = nn.Sequential(nn.Linear(2, 1), nn.ReLU())
    >>> to_dense(convert(model, {"0.weight": torch.tensor([[True, False]])}))
    Sequential(
      (0): Linear(in_features=2, out_features=1, bias=True)
      (1): ReLU()
    )
    """
    model = unwrap(model)
    layers = [module for module in model.modules() if isinstance(module, SparseLayer)]
    memo: dict[int, Any] = _computed(model) | {id(layer): layer.bare_dense() for layer in layers}
    for layer in layers:
        take_over_(memo[id(layer)], layer, memo)
    dense: nn.Module = memo[id(model)] if id(model) in memo else copy.deepcopy(model, memo)
    for module in dense.modules():
        if isinstance(vars(module).get("save_pretrained"), SavePretrained):
            del vars(module)["save_pretrained"]
        if type(module) is SparseSequential:
            module.__class__ = nn.Sequential  # type: ignore[assignment]
        elif type(module) in PLAIN_FORMS:
            module.__class__ = PLAIN_FORMS[type(module)]
    return dense
