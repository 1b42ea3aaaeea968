"""Units and layers that carry nothing: without inputs, shut for every example, or without a gradient."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import takewhile

import torch
from torch import Tensor, nn

from sparseflow.analysis.dead_units import DeadUnits
from sparseflow.analysis.signal import layer_modules
from sparseflow.doctor.causes import CAUSES
from sparseflow.doctor.finding import Finding
from sparseflow.masks.fans import PLAIN, matrices, matrices_shape
from sparseflow.masks.select import maskable
from sparseflow.sharded import full
from sparseflow.types import Masks


def share_without_inputs(model: nn.Module, masks: Masks) -> dict[str, float]:
    """Weight -> share of its units that no active weight enters; of embeddings 0, whose units read one row at a time.

    >>> share_without_inputs(nn.Linear(2, 4), {"weight": torch.tensor([[True, False]] + [[False, False]] * 3)})
    {'weight': 0.75}
    """
    weights = maskable(model)
    found = {}
    for name, mask in masks.items():
        layout = weights[name].layout or PLAIN
        entered = matrices(full(mask), layout).any(2)
        found[name] = 0.0 if layout.lookup else 1 - int(entered.sum()) / entered.numel()
    return found


def share_dead(model: nn.Module, masks: Masks, found: Mapping[str, DeadUnits]) -> dict[str, float]:
    """Module -> share of its units with inputs that never fire.

    Args:
        model: The network.
        masks: Parameter name -> mask.
        found: Of :func:`sparseflow.analysis.dead_units`.
    """
    shares = {}
    for name, layer in found.items():
        candidates = _with_inputs(model, masks, name, layer.units)
        dead = sum(bool(candidates[unit]) for unit in layer.never_fire)
        shares[name] = dead / max(1, int(candidates.sum()))
    return shares


def without_inputs(model: nn.Module, masks: Masks) -> Iterator[Finding]:
    """Layers of which most units have no active weight.

    Args:
        model: The network.
        masks: Parameter name -> mask.
    """
    weights = maskable(model)
    for name, share in share_without_inputs(model, masks).items():
        if share > CAUSES["units_without_inputs"].threshold:
            count, outputs, inputs = matrices_shape(tuple(masks[name].shape), weights[name].layout or PLAIN)
            units = count * outputs
            by_chance = units * (1 - float(masks[name].double().mean())) ** inputs
            yield Finding(
                "units_without_inputs",
                name,
                f"{share * units:.0f} of {units} units have no input, so they output a constant; a random mask of this "
                f"density would leave about {by_chance:.0f}.",
                share,
                'make masks that keep more weights here: sf.random_masks(model, sparsity, allocation="erk", seed=0), '
                f"a lower sparsity, or exclude=[{name!r}]; sf.sparsity_report(model, masks) shows every layer",
            )


def silent(
    model: nn.Module, masks: Masks, found: Mapping[str, DeadUnits], *, reported: frozenset[str]
) -> Iterator[Finding]:
    """The first layer that passes no signal, the last one that gets no gradient, and layers with mostly dead units.

    A layer without a signal has none behind it and no gradient before it, so only the first is named.

    Args:
        model: The network.
        masks: Parameter name -> mask.
        found: Of :func:`sparseflow.analysis.dead_units`.
        reported: Names of weights whose units without inputs are a finding already.
    """
    modules = layer_modules(model)
    known = {name for name, weight in _module_weights(model).items() if set(weight) & reported}
    trainable = [name for name in found if any(p.requires_grad for p in modules[name].parameters(recurse=False))]
    # A cut takes the gradient from every layer before it; a branch that the loss does not see, from itself alone.
    stuck = list(takewhile(lambda name: _stuck(found[name]) == found[name].units, trainable))[-1:]
    # What nothing reads, such as a pooler whose output is not used, is no reason why the others do not learn.
    read = {name: layer for name, layer in found.items() if len(layer.no_path_out) < layer.units}
    shut = next((name for name, layer in read.items() if len(layer.never_fire) == layer.units == _stuck(layer)), None)
    if shut is not None and shut not in known and not _is_behind(known, shut, found):
        yield _shut(model, shut, found[shut])
    elif shut is None and stuck and not known:
        layer = found[stuck[0]]
        yield Finding(
            "no_gradient",
            stuck[0],
            f"its {layer.units} units fire, and the gradient of the loss at all of them is zero for every example: "
            "something behind this layer cuts the graph, or the masks leave no path to the output "
            f"({len(layer.no_path_out)} units have none).",
            1.0,
            "look behind this layer for .detach(), torch.no_grad() or .data, and for a loss that does not depend on "
            "the output; for paths: sf.analysis.dead_units(model, batches, masks)",
        )
    for name, number in share_dead(model, masks, read).items() if shut is None else ():
        if name in known or number < CAUSES["dead_units"].threshold:
            continue
        never = set(found[name].never_fire)
        yield Finding(
            "dead_units",
            name,
            f"{number:.0%} of its units with inputs hand on the same number for every example, so they never learn: "
            f"{len(never)} of {found[name].units} in all, {len(never & set(found[name].no_path_in))} of them without a "
            "live path from the input.",
            number,
            "move weights to other units with sf.RigL(total_steps=...), which can grow a positive one; or start anew: "
            "sf.initialize_(model, masks, seed=...) with another seed; check that no bias is large and negative, and "
            "lower the learning rate if they died in training",
        )


def _stuck(layer: DeadUnits) -> int:
    return len(layer.no_gradient)


def _shut(model: nn.Module, name: str, layer: DeadUnits) -> Finding:
    return Finding(
        "no_signal",
        name,
        f"all {layer.units} units hand on the same number for every example and get no gradient, so nothing before or "
        f"behind this layer learns; {len(layer.no_path_in)} of them have no live path from the input.",
        1.0,
        "sf.initialize_(model, masks, seed=0) draws weights and sets biases to zero; if units have no path, make other "
        'masks: sf.random_masks(model, sparsity, allocation="erk", seed=0)',
    )


def _is_behind(names: set[str], name: str, found: Mapping[str, DeadUnits]) -> bool:
    """Whether one of the layers comes before a layer, in forward order."""
    order = list(found)
    return any(other in order and order.index(other) < order.index(name) for other in names)


def _module_weights(model: nn.Module) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, weight in maskable(model).items():
        found.setdefault(weight.module_name, []).append(name)
    return found


def _with_inputs(model: nn.Module, masks: Masks, module: str, units: int) -> Tensor:
    """Units of a module with an active weight; all where its weights' units are not those of its output."""
    every = torch.ones(units, dtype=torch.bool)
    weights = maskable(model)
    own = [name for name, weight in weights.items() if weight.module_name == module and name in masks]
    if len(own) != 1:
        return every
    layout = weights[own[0]].layout or PLAIN
    entered = matrices(full(masks[own[0]]), layout).any(2).flatten().cpu()
    return entered if entered.numel() == units and not layout.lookup else every
