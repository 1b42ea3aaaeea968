"""Conversion of a masked dense model to one that holds active weights only, and back."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Collection, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from sparseflow._checks import check_masks
from sparseflow.engine.layers.chain import SparseSequential, read_stages
from sparseflow.engine.layers.modules import SparseConv1d, SparseConv2d, SparseLayer, SparseLinear
from sparseflow.engine.layers.pools import MaxPool2d, inner_form, plain_form
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
    if type(module) not in SPARSE_FORMS:
        return f"no sparse form of {type(module).__name__}"
    weight = module.weight
    assert isinstance(weight, Tensor)
    if shared:
        return "its weight is shared with another layer"
    if getattr(module, "padding_mode", "zeros") != "zeros":
        return f"padding_mode={module.padding_mode!r}"
    if weight.device.type != "cpu" or weight.dtype not in (torch.float32, torch.float64):
        return f"{weight.dtype} on {weight.device}"
    if hasattr(module, "weight_orig"):
        return "torch.nn.utils.prune holds its weight: call prune.remove first"
    return None


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
        TypeError, ValueError: if a mask does not fit, or ``only`` names a weight that has no mask or no sparse form.

    >>> import sparseflow as sf
    >>> model = nn.Sequential(nn.Linear(100, 10), nn.ReLU())
    >>> sparse = convert(model, sf.random_masks(model, 0.9, seed=0))
    >>> sum(p.numel() for p in sparse.parameters()), sparse(torch.ones(2, 100)).shape
    (110, torch.Size([2, 10]))
    """
    model = unwrap(model)
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
        sparse = SPARSE_FORMS[type(module)].of(module, masks[name])
        sparse.train(module.training)
        for parameter, origin in ((sparse.values, module.weight), (sparse.bias, module.bias)):
            if parameter is not None:
                parameter.requires_grad_(origin.requires_grad)
        memo[id(module)] = sparse
    if id(model) in memo:
        return memo[id(model)]  # type: ignore[no-any-return]
    if any(isinstance(made, SparseConv2d) for made in memo.values()):
        memo |= {id(module): made for module in model.modules() if (made := inner_form(module)) is not None}
    converted = copy.deepcopy(model, memo)
    remaining = {name: mask for name, mask in masks.items() if name not in chosen}
    apply_masks_(converted, remaining)
    chains = [module for module in converted.modules() if type(module) is nn.Sequential]
    for chain in chains:
        _fuse_relus(chain)
    for chain in chains:
        if read_stages(chain) is not None:
            chain.__class__ = SparseSequential
    return converted


class FusedReLU(nn.Identity):
    """The place of a ReLU that the layer before it or the pool behind it computes now."""


def _fuse_relus(chain: nn.Sequential) -> None:
    """Let the pool behind a ReLU compute it, for its backward pass is the cheapest, or else the layer before."""
    names = list(chain._modules)
    for i, name in enumerate(names[1:], start=1):
        before, after = chain._modules[names[i - 1]], chain._modules.get(names[i + 1]) if i + 1 < len(names) else None
        if type(chain._modules[name]) is not nn.ReLU or not isinstance(before, SparseLayer):
            continue
        (after if isinstance(after, MaxPool2d) else before).floor = 0.0
        chain._modules[name] = FusedReLU().train(chain.training)


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


def masks_of(model: nn.Module) -> dict[str, Tensor]:
    """The masks of a model's sparse layers, by the name of the dense weight."""
    return {name: layer.pattern.mask() for name, layer in sparse_layers(model).items()}


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
        if layer is None or attribute == "bias":
            yield name, tensor
        elif attribute == "values":
            yield prefix + "weight", layer.dense_weight()


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
    memo: dict[int, Any] = {}
    for module in model.modules():
        if isinstance(module, SparseLayer):
            memo[id(module)] = module.dense_form().train(module.training)  # type: ignore[operator]
        elif isinstance(module, FusedReLU):
            memo[id(module)] = nn.ReLU().train(module.training)
        elif (plain := plain_form(module)) is not None:
            memo[id(module)] = plain
    dense: nn.Module = memo[id(model)] if id(model) in memo else copy.deepcopy(model, memo)
    for chain in dense.modules():
        if type(chain) is SparseSequential:
            chain.__class__ = nn.Sequential  # type: ignore[assignment]
    return dense
