"""Masks of networks that are sparse already: from ``torch.nn.utils.prune``, or from zeros."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Mapping

from torch import Tensor, nn
from torch.nn.utils import prune

from sparseflow._checks import check_fraction
from sparseflow.attached import holder_of
from sparseflow.masks.layers import layouts
from sparseflow.masks.select import Rule, unwrap, weights
from sparseflow.sharded import full

#: What wrappers put before the names of a checkpoint.
_PREFIXES = ("module.", "_orig_mod.")


def masks_of(
    source: nn.Module | Mapping[str, Tensor],
    *,
    at_least: float = 0.01,
    include: Iterable[Rule] = (),
    exclude: Iterable[Rule] = (),
) -> dict[str, Tensor]:
    """Read the masks of a network that is sparse already, so that it can be trained on.

    A weight that a :class:`sparseflow.Sparsifier` holds has that one's mask, and one under ``torch.nn.utils.prune`` the
    mask that is stored there, by the name it has once the pruning is made permanent (:func:`remove_pruning_`). Of all
    others, zeros are inactive: active weights that happen to be exactly zero cannot be told from them.

    Args:
        source: A model, or its ``state_dict``. Of the latter every floating tensor with two axes or more counts that is
            not called a bias: its layers are not known. Prefixes of wrappers are taken off.
        at_least: Fraction of zeros from which a weight counts as sparse; the others get no mask and stay dense. Nor
            does a matrix that is zero altogether, such as that of an adapter: nothing of it would be active.
        include, exclude: See :func:`sparseflow.masks.select.weights`; of a ``state_dict`` its names, patterns only.

    Returns: parameter name -> mask, in the order of the model.

    Raises:
        TypeError: if ``source`` is neither.
        ValueError: if nothing in it is sparse, or a rule matches nothing.

    >>> import torch
    >>> layer = nn.Linear(4, 1)
    >>> _ = layer.weight.data.copy_(torch.tensor([[1.0, 0.0, 2.0, 0.0]]))
    >>> masks_of(layer)
    {'weight': tensor([[ True, False,  True, False]])}
    >>> list(masks_of(prune.l1_unstructured(nn.Linear(4, 1), "weight", 0.5)))
    ['weight']
    """
    check_fraction(at_least, name="at_least")
    if isinstance(source, nn.Module):
        found = masks_of_model(source, include=include, exclude=exclude, at_least=at_least)
    elif isinstance(source, Mapping):
        found = masks_of_state(source, include=include, exclude=exclude, at_least=at_least)
    else:
        raise TypeError(f"masks_of takes a model or its state_dict, got {type(source).__name__}.")
    if not found:
        raise ValueError(
            f"no weight has a fraction of {at_least} zeros or more, so there are no masks to read. To make a dense "
            "network sparse use sparseflow.magnitude_masks(model, sparsity)."
        )
    return found


def remove_pruning_(model: nn.Module) -> nn.Module:
    """Make ``torch.nn.utils.prune`` permanent in every layer, in place: plain weights, zero where they were pruned.

    The parameters stay the same objects, so an optimizer that has them goes on with its state. Read the masks first:
    ``masks = sf.masks_of(model)``.

    Args:
        model: Also wrapped. Layers that are not pruned stay as they are.

    Returns: ``model``.

    >>> layer = prune.l1_unstructured(nn.Linear(4, 1), "weight", 0.5)
    >>> [name for name, _ in remove_pruning_(layer).named_parameters()]
    ['bias', 'weight']
    """
    for module in unwrap(model).modules():
        for name in _pruned(module):
            prune.remove(module, name)
    return model


def remove_pruning(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A ``state_dict`` of a model under ``torch.nn.utils.prune`` as one of the plain model, zero where it was pruned.

    >>> import torch
    >>> state = {"weight_orig": torch.ones(1, 2), "weight_mask": torch.tensor([[1.0, 0.0]]), "bias": torch.ones(1)}
    >>> remove_pruning(state)
    {'weight': tensor([[1., 0.]]), 'bias': tensor([1.])}
    """
    masks = stored_masks(state)
    plain = {name if (short := name.removesuffix("_orig")) not in masks else short: t for name, t in state.items()}
    return {
        name: value * masks[name].to(value.dtype) if name in masks else value
        for name, value in plain.items()
        if not (name.endswith("_mask") and name.removesuffix("_mask") in masks)
    }


def _pruned(module: nn.Module) -> list[str]:
    """A module's own tensors under ``torch.nn.utils.prune``."""
    hooks = module._forward_pre_hooks.values()
    return [hook._tensor_name for hook in hooks if isinstance(hook, prune.BasePruningMethod)]


def masks_of_model(
    model: nn.Module, *, include: Iterable[Rule] = (), exclude: Iterable[Rule] = (), at_least: float = 0.01
) -> dict[str, Tensor]:
    """The masks of a model as :func:`masks_of` reads them; none if nothing in it is sparse.

    >>> masks_of_model(nn.Linear(2, 2))
    {}
    """
    masks = {}
    for weight in weights(model, include=include, exclude=exclude):
        local = weight.name.rpartition(".")[2].removesuffix("_orig")
        if local in _pruned(weight.module) and local in layouts(weight.module):
            stored: Tensor = getattr(weight.module, f"{local}_mask")
            masks[weight.name.removesuffix("_orig")] = stored != 0
        elif weight.prunable:
            holder = holder_of(weight.parameter)
            held = None if holder is None else holder.name_of(weight.parameter)
            if holder is not None and held is not None:
                masks[weight.name] = holder.masks[held].clone()
            elif (mask := _zeros(weight.parameter, at_least)) is not None:
                masks[weight.name] = mask
    return masks


def masks_of_state(
    state: Mapping[str, Tensor], *, include: Iterable[Rule] = (), exclude: Iterable[Rule] = (), at_least: float = 0.01
) -> dict[str, Tensor]:
    """The masks of a ``state_dict`` as :func:`masks_of` reads them; none if nothing in it is sparse.

    >>> import torch
    >>> masks_of_state({"weight": torch.ones(2, 2)})
    {}
    """
    if wrong := [name for name, value in state.items() if not isinstance(value, Tensor)]:
        raise TypeError(
            f"masks_of takes the state_dict of a model, whose values are tensors; {wrong[0]!r} is "
            f"{type(state[wrong[0]]).__name__}. Pass the part of the checkpoint that is the model's."
        )
    patterns = [*include, *exclude]
    if list(include) or not all(isinstance(rule, str) for rule in patterns):
        raise TypeError(
            "a state_dict has names and no layers: exclude= takes name patterns, and include= needs the model. "
            "Load the checkpoint into its model and call masks_of(model)."
        )
    stored = stored_masks(state)
    masks: dict[str, Tensor] = {}
    seen: set[int] = set()  # a tied weight is in it twice
    for key, value in state.items():
        name = key.removesuffix("_orig")
        place = value.data_ptr()
        if name in stored:
            masks[plain_name(name)] = stored[name] != 0
        elif _is_weight(key, value) and not (name.removesuffix("_mask") in stored or place in seen):
            seen.add(place)
            if (mask := _zeros(value, at_least)) is not None:
                masks[plain_name(key)] = mask
    for pattern in patterns:
        if not (matched := fnmatch.filter(masks, str(pattern))):
            raise ValueError(f"exclude has {pattern!r}, which matches no sparse weight. Sparse: {', '.join(masks)}.")
        masks = {name: mask for name, mask in masks.items() if name not in matched}
    return masks


def _is_weight(key: str, value: Tensor) -> bool:
    matrix = value.is_floating_point() and sum(size > 1 for size in value.shape) >= 2 and value.shape[0] > 1
    return matrix and "bias" not in key.rpartition(".")[2]


def stored_masks(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The masks of ``torch.nn.utils.prune`` in a ``state_dict``, by the names of the plain weights.

    >>> import torch
    >>> stored_masks({"weight_orig": torch.ones(1), "weight_mask": torch.zeros(1)})
    {'weight': tensor([0.])}
    """
    names = (name.removesuffix("_orig") for name in state if name.endswith("_orig"))
    return {name: state[f"{name}_mask"] for name in names if f"{name}_mask" in state}


def plain_name(name: str) -> str:
    """A name without what wrappers put before it.

    >>> plain_name("module._orig_mod.fc.weight")
    'fc.weight'
    """
    while prefix := next((prefix for prefix in _PREFIXES if name.startswith(prefix)), None):
        name = name.removeprefix(prefix)
    return name


def _zeros(weight: Tensor, at_least: float) -> Tensor | None:
    mask = full(weight.detach()) != 0
    active = int(mask.sum())
    return mask if active and mask.numel() - active >= at_least * mask.numel() else None
