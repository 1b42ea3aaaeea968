"""Masks from prior knowledge: which unit may see which input is known before anything is trained."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sparseflow.boundary import checked
from sparseflow.masks.fans import Layout, weight_of
from sparseflow.masks.select import Weight, maskable
from sparseflow.suggest import did_you_mean
from sparseflow.warn import warn

#: From an input to an output, each by its index or its name.
Edge = tuple[int | str, int | str]


@checked()
def masks_from_edges(
    model: nn.Module,
    edges: Mapping[str, Iterable[Edge]],
    *,
    inputs: Mapping[str, Sequence[str]] | None = None,
    outputs: Mapping[str, Sequence[str]] | None = None,
) -> dict[str, Tensor]:
    r"""Masks that allow the edges given and no others, as from genes to the pathways that they are known to be in.

    .. math:: m_{ij} = 1 \quad\text{where } (j, i) \in E,\quad 0 \text{ elsewhere}

    Args:
        model: With linear layers or convolutions (ungrouped), of which an edge allows all positions of the kernel.
        edges: Parameter name -> pairs ``(input, output)``; a tensor of shape ``(edges, 2)`` too. Weights that are not
            named get no mask and stay dense.
        inputs, outputs: Parameter name -> the names of its inputs, and of its outputs, in their order. Edges of a
            weight may then have names in place of indices.

    Returns: parameter name -> mask, in the order of the model; for :class:`sparseflow.Sparsifier` with
    :class:`sparseflow.Static`, whose connections stay, and :func:`sparseflow.initialize_`.

    Raises:
        TypeError: if an end of an edge is neither an index nor a name.
        ValueError: if a weight or a unit is unknown, an index out of range, an edge there twice, or there are no edges.

    Warns:
        UserWarning: with the inputs that no edge leaves, and the outputs that none reaches, whose value is their bias.

    Reference: Elmarakeby et al. (2021), *Biologically informed deep neural network for prostate cancer discovery*.

    >>> model = nn.Linear(3, 2)
    >>> names = {"inputs": {"weight": ["TP53", "MYC", "PTEN"]}, "outputs": {"weight": ["cycle", "growth"]}}
    >>> masks_from_edges(model, {"weight": [("TP53", "cycle"), ("MYC", "growth"), ("PTEN", "growth")]}, **names)
    {'weight': tensor([[ True, False, False],
            [False,  True,  True]])}
    """
    weights = maskable(model)
    for argument, given in (("edges", edges), ("inputs", inputs or {}), ("outputs", outputs or {})):
        if unknown := [name for name in given if name not in weights]:
            known = f"Weights: {', '.join(weights)}.{did_you_mean(unknown[0], weights)}"
            raise ValueError(f"{argument} has {unknown[0]!r}, which is no weight that can be masked. {known}")
    for argument, given in (("inputs", inputs or {}), ("outputs", outputs or {})):
        if unused := [name for name in given if name not in edges]:
            raise ValueError(f"{argument} names the units of {unused[0]!r}, which has no edges. Leave it out.")
    masks = {
        name: _mask(weight, edges[name], (inputs or {}).get(name), (outputs or {}).get(name))
        for name, weight in weights.items()
        if name in edges
    }
    if not masks:
        raise ValueError("edges is empty. Give a weight's edges: {'0.weight': [(input, output), ...]}.")
    for name, mask in masks.items():
        _report_unconnected(weights[name], mask, (inputs or {}).get(name), (outputs or {}).get(name))
    return masks


def _mask(weight: Weight, edges: Iterable[Edge], inputs: Sequence[str] | None, outputs: Sequence[str] | None) -> Tensor:
    shape, layout = tuple(weight.parameter.shape), _layout(weight)
    first, second = shape[:2]
    num_out, num_in = (second, first) if layout.transposed else (first, second)
    places = [
        _places(weight.name, "inputs", inputs, num_in),
        _places(weight.name, "outputs", outputs, num_out),
    ]
    matrix = torch.zeros(num_out, num_in, dtype=torch.bool)
    count = 0
    for edge in edges.tolist() if isinstance(edges, Tensor) else edges:
        if isinstance(edge, str) or not isinstance(edge, Sequence) or len(edge) != 2:
            raise TypeError(f"an edge of {weight.name!r} must be a pair (input, output), got {edge!r}.")
        source, target = (
            _index(weight.name, kind, end, place, size)
            for kind, end, place, size in zip(("input", "output"), edge, places, (num_in, num_out), strict=True)
        )
        if matrix[target, source]:
            raise ValueError(f"the edge {tuple(edge)} of {weight.name!r} is there twice. Give each once: set(edges).")
        matrix[target, source] = True
        count += 1
    if not count:
        raise ValueError(f"{weight.name!r} has no edges. Leave it out to keep it dense.")
    kernel = shape[2:]
    columns = matrix.reshape(num_out, num_in, *[1] * len(kernel)).expand(-1, -1, *kernel)
    return weight_of(columns.flatten(1)[None], shape, layout)


def _layout(weight: Weight) -> Layout:
    assert weight.layout is not None
    layout = weight.layout
    if layout.blocks != 1 or layout.stacked or layout.lookup:
        raise ValueError(
            f"{weight.name!r} of {type(weight.module).__name__} is not one matrix from inputs to outputs, so edges do "
            "not say which weights they mean. Use linear layers and ungrouped convolutions, or write the mask yourself."
        )
    return layout


def _places(weight: str, argument: str, names: Sequence[str] | None, size: int) -> dict[str, int]:
    """Index by name; of nothing if there are no names."""
    if names is None:
        return {}
    places = {name: index for index, name in enumerate(names)}
    if len(names) != size:
        raise ValueError(f"{argument} has {len(names)} names for {weight!r}, which has {size} {argument}.")
    if len(places) < size:
        twice = next(name for index, name in enumerate(names) if places[name] != index)
        raise ValueError(f"{argument} of {weight!r} has the name {twice!r} twice.")
    return places


def _index(weight: str, kind: str, end: Any, places: Mapping[str, int], size: int) -> int:
    if isinstance(end, str):
        if not places:
            raise ValueError(f"an edge of {weight!r} has the {kind} {end!r}, and {kind}s= does not name its {kind}s.")
        if end not in places:
            suggestion = did_you_mean(end, places)
            raise ValueError(f"an edge of {weight!r} has the {kind} {end!r}, and no {kind} is called so.{suggestion}")
        return places[end]
    if isinstance(end, bool) or not hasattr(end, "__index__"):
        raise TypeError(f"the {kind} of an edge of {weight!r} must be an index or a name, got {end!r}.")
    index: int = end.__index__()
    if not 0 <= index < size:
        raise ValueError(f"an edge of {weight!r} has the {kind} {index}, and there are {size}, from 0 to {size - 1}.")
    return index


def _report_unconnected(
    weight: Weight, mask: Tensor, inputs: Sequence[str] | None, outputs: Sequence[str] | None
) -> None:
    """Warn of units that no edge touches."""
    layout = _layout(weight)
    matrix = mask.flatten(2).any(2) if mask.dim() > 2 else mask
    matrix = matrix.T if layout.transposed else matrix
    found = []
    for names, used, text in (
        (inputs, matrix.any(0), "inputs have no edge, so nothing sees them"),
        (outputs, matrix.any(1), "outputs have no edge, so they are their bias"),
    ):
        if missing := (~used).nonzero().flatten().tolist():
            shown = ", ".join(names[index] if names is not None else str(index) for index in missing[:5])
            found.append(f"{len(missing)} of {len(used)} {text} ({shown}{', ...' if len(missing) > 5 else ''})")
    if found:
        warn(f"of {weight.name!r} {'; '.join(found)}.")
