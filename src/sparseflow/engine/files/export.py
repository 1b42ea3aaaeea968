"""A sparse model as a file of the size that its sparsity promises: values and gaps between them."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sparseflow._checks import check_masks
from sparseflow.atomic import write_atomically
from sparseflow.attached import check_current
from sparseflow.engine.convert import replaced, sparse_layers
from sparseflow.engine.files.packing import Content, Entry, dense_bytes, dense_tensor, read, to_bytes
from sparseflow.engine.layers.names import layers_by_path, weights_of_state
from sparseflow.engine.layers.pattern import Pattern
from sparseflow.masks.select import maskable, unwrap
from sparseflow.types import Masks


def save(
    model: nn.Module | Mapping[str, Tensor], path: str | os.PathLike[str], *, masks: Masks | None = None
) -> tuple[int, int]:
    """Write a model's state to a safetensors file in which sparse weights have only their active entries.

    An active float32 weight takes 5 bytes, 4 for the value and 1 for its place (6 below a density of about 0.003), so
    a weight takes about 1.25 times the density of its dense bytes. Biases, buffers and all else are written as they
    are. In the file, ``<weight>:values`` holds the active entries in the order of the flattened weight and
    ``<weight>:gaps`` their places, see :func:`~sparseflow.engine.files.packing.pack`; weights in blocks of 4 outputs
    have one place a block, in a weight of a quarter of the outputs, and take 4.25 bytes. Metadata hold the shapes,
    which weights are in blocks, the groups of convolutions, tied names and a SHA-256 over everything.

    Args:
        model: With sparse layers, dense with zeros, or a state dict.
        path: Replaced atomically.
        masks: Active entries of dense weights, parameter name -> bool tensor. Default: the nonzeros of each weight that
            takes less room that way. Entries off a mask are dropped.

    Returns: bytes of the tensors of the dense model, and of the file.

    Raises:
        TypeError, ValueError: if a mask does not fit or is of an earlier time, or the state holds something that is no
            tensor.
        ModuleNotFoundError: if safetensors is not installed.

    >>> from tempfile import TemporaryDirectory
    >>> import sparseflow as sf
    >>> model = nn.Linear(1000, 100)
    >>> model = sf.apply_masks_(model, sf.random_masks(model, 0.95, seed=0))
    >>> with TemporaryDirectory() as folder:
    ...     dense, sparse = save(model, f"{folder}/model.safetensors")
    ...     state = load_state(f"{folder}/model.safetensors")
    >>> dense, sparse < 0.07 * dense, torch.equal(state["weight"], model.weight)
    (400400, True, True)
    """
    content = _content(model, masks or {})
    data = to_bytes(content)
    write_atomically(Path(path), data)
    return sum(dense_bytes(entry) for entry in content.entries.values()), len(data)


def load(model: nn.Module, path: str | os.PathLike[str], *, only: Collection[str] | None = None) -> nn.Module:
    """The sparse model in a file that :func:`save` wrote.

    A file holds numbers and names, no code: the architecture that you give is what runs.

    Args:
        model: Dense, of the architecture that was saved, on the CPU; its weights are not read, and it is not changed.
        path: The file.
        only: Names of the weights to hold sparse, as for :func:`sparseflow.engine.convert`. Default: all that the file
            has sparse and the engine can take; the others become dense with zeros.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is damaged, or of another model: names, shapes, groups or dtypes differ.

    >>> from tempfile import TemporaryDirectory
    >>> model = nn.Linear(4, 1)
    >>> import sparseflow as sf
    >>> sparse = sf.engine.convert(model, {"weight": torch.tensor([[True, False, False, True]])})
    >>> with TemporaryDirectory() as folder:
    ...     _ = save(sparse, f"{folder}/model.safetensors")
    ...     loaded = load(nn.Linear(4, 1), f"{folder}/model.safetensors")
    >>> torch.equal(loaded(torch.ones(2, 4)), sparse(torch.ones(2, 4))), loaded.values.shape
    (True, torch.Size([2]))
    """
    if isinstance(model, str | os.PathLike):
        raise TypeError("load takes the model first, then the path: sparseflow.engine.load(model, path).")
    content, model = read(Path(path)), unwrap(model)
    _check_fit(content, model, os.fspath(path))
    entries, weights = content.entries, maskable(model)
    masks = {name: entry[0].mask() for name, entry in entries.items() if isinstance(entry, tuple) and name in weights}
    sparse = replaced(model, masks, only=only)
    prefixes = {weight: prefix for prefix, weight, _ in layers_by_path(sparse)}
    state: dict[str, Tensor] = {}
    for name, entry in entries.items():
        if isinstance(entry, tuple) and name in prefixes:
            pattern, prefix = entry[0], prefixes[name]
            places = torch.from_numpy(pattern.begins), torch.from_numpy(pattern.indices)
            state |= {f"{prefix}values": entry[1], f"{prefix}begins": places[0], f"{prefix}indices": places[1]}
        else:
            state[name] = dense_tensor(entry)
    sparse.load_state_dict(state)
    return sparse


def load_state(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """The state dict of the dense model, with zeros, from a file that :func:`save` wrote; no model is needed.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is damaged.
    """
    return {name: dense_tensor(entry) for name, entry in read(Path(path)).entries.items()}


def _content(model: nn.Module | Mapping[str, Tensor], masks: Masks) -> Content:
    if not isinstance(model, nn.Module):
        return Content(_compacted(model, masks, {}, {}), {})
    model = unwrap(model)
    layers, weights = sparse_layers(model), weights_of_state(model)
    groups = {name: int(getattr(weight.module, "groups", 1)) for name, weight in maskable(model).items()}
    groups |= {name: layer.pattern.groups for name, layer in layers.items()}
    state: dict[str, Entry] = {}
    for name, tensor in model.state_dict().items():
        if name not in weights:
            state[name] = tensor
        elif name.endswith("values"):
            state[weights[name]] = layers[weights[name]].pattern, tensor
    return Content(_compacted(state, masks, groups, dict(model.named_parameters())), groups)


def _compacted(
    state: Mapping[str, Entry], masks: Masks, groups: Mapping[str, int], parameters: Mapping[str, Tensor]
) -> dict[str, Entry]:
    """The state in which each weight is sparse that has a mask, or that takes less room that way."""
    for name, tensor in state.items():
        if not isinstance(tensor, Tensor | tuple):
            raise TypeError(
                f"the state must hold tensors, got {name!r}: {type(tensor).__name__}. Give model.state_dict()."
            )
    weights = {name: entry for name, entry in state.items() if isinstance(entry, Tensor)}
    check_masks(masks, weights)
    check_current(masks, parameters or weights)
    entries: dict[str, Entry] = {}
    met: dict[tuple[Any, ...], Entry] = {}
    for name, entry in state.items():
        tensor = entry[1] if isinstance(entry, tuple) else entry
        place = (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype)
        if tensor.numel() == 0 or place not in met:
            met[place] = entry if isinstance(entry, tuple) else _smaller(entry, masks.get(name), groups.get(name, 1))
        entries[name] = met[place]
    return entries


def _smaller(tensor: Tensor, mask: Tensor | None, groups: int) -> Entry:
    tensor = tensor.detach().cpu()
    if mask is not None and bool(mask.all()):
        return tensor
    if mask is None:
        if tensor.dim() < 2 or not tensor.is_floating_point():
            return tensor
        mask = tensor != 0
        if int(mask.sum()) * (tensor.element_size() + 1) >= tensor.numel() * tensor.element_size():
            return tensor
    pattern = Pattern.of(mask, groups=groups)
    return pattern, pattern.gather(tensor)


def _check_fit(content: Content, model: nn.Module, path: str) -> None:
    if sparse_layers(model):
        raise ValueError(
            "the model to load into must be the dense architecture; give sparseflow.engine.to_dense(model)."
        )
    own = model.state_dict()
    if differing := sorted(set(own) ^ set(content.entries)):
        missing, more = [[name for name in differing if name in names] for names in (own, content.entries)]
        raise ValueError(
            f"{path} is of another model: it lacks {_some(missing)} and has {_some(more)} beyond it. "
            "Give the architecture that was saved."
        )
    for name, entry in content.entries.items():
        shape = entry[0].shape if isinstance(entry, tuple) else tuple(entry.shape)
        dtype = (entry[1] if isinstance(entry, tuple) else entry).dtype
        if shape != tuple(own[name].shape):
            raise ValueError(
                f"{path} is of another model: {name!r} has shape {shape} there, {tuple(own[name].shape)} here."
            )
        if dtype != own[name].dtype:
            raise ValueError(
                f"{path} has {name!r} as {dtype}, the model as {own[name].dtype}. Convert it: model.to({dtype})."
            )
    for name, weight in maskable(model).items():
        groups = int(getattr(weight.module, "groups", 1))
        if content.groups.get(name, groups) != groups:
            raise ValueError(
                f"{path} is of another model: {name!r} has {content.groups[name]} groups there, {groups} here."
            )


def _some(names: list[str]) -> str:
    return ", ".join(map(repr, names[:3])) + (f" and {len(names) - 3} more" if len(names) > 3 else "") or "nothing"
