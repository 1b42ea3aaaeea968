"""Selection of the tensors of a model that may be sparse, with the reason for each of the others."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

from torch import nn
from torch.nn.parameter import UninitializedParameter
from torch.optim.swa_utils import AveragedModel

from sparseflow.masks.fans import PLAIN, Layout
from sparseflow.sharded import reshard_

#: A name pattern such as ``"encoder.*"``, or a module class.
Rule = str | type[nn.Module]


def _weight(layout: Layout = PLAIN) -> Callable[[nn.Module], dict[str, Layout]]:
    return lambda module: {"weight": layout}


def _grouped(*, transposed: bool) -> Callable[[nn.Module], dict[str, Layout]]:
    return lambda module: {"weight": Layout(transposed=transposed, blocks=int(module.groups))}  # type: ignore[arg-type]


def _attention(module: nn.Module) -> dict[str, Layout]:
    separate = {f"{letter}_proj_weight": PLAIN for letter in "qkv"}
    return {"in_proj_weight": Layout(blocks=3), **separate}


def _recurrent(gates: int) -> Callable[[nn.Module], dict[str, Layout]]:
    def layouts(module: nn.Module) -> dict[str, Layout]:
        names = [name for name, _ in module.named_parameters(recurse=False) if name.startswith("weight_")]
        return {name: PLAIN if name.startswith("weight_hr") else Layout(blocks=gates) for name in names}

    return layouts


#: Module class -> the weights of it that multiply activations, with their layouts. Add your own class here.
LAYERS: dict[type[nn.Module], Callable[[nn.Module], dict[str, Layout]]] = {
    nn.Linear: _weight(),
    nn.Bilinear: _weight(),
    nn.Conv1d: _grouped(transposed=False),
    nn.Conv2d: _grouped(transposed=False),
    nn.Conv3d: _grouped(transposed=False),
    nn.ConvTranspose1d: _grouped(transposed=True),
    nn.ConvTranspose2d: _grouped(transposed=True),
    nn.ConvTranspose3d: _grouped(transposed=True),
    nn.MultiheadAttention: _attention,
    nn.RNN: _recurrent(1),
    nn.LSTM: _recurrent(4),
    nn.GRU: _recurrent(3),
    nn.RNNCell: _recurrent(1),
    nn.LSTMCell: _recurrent(4),
    nn.GRUCell: _recurrent(3),
    nn.Embedding: _weight(Layout(lookup=True)),
    nn.EmbeddingBag: _weight(Layout(lookup=True)),
}

#: Their parameters are scales and shifts, whatever the shape.
_NORMS = (nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.modules.batchnorm._NormBase)

#: Prunable only when ``include`` names them: a row is looked up, nothing is multiplied.
OPT_IN: tuple[type[nn.Module], ...] = (nn.Embedding, nn.EmbeddingBag)


@dataclass(frozen=True)
class Weight:
    """One parameter of the model, whether it may be sparse, and why."""

    name: str
    parameter: nn.Parameter
    module_name: str
    module: nn.Module
    layout: Layout | None
    """``None`` where the layer type is unknown or the tensor does not multiply activations."""
    prunable: bool
    reason: str


def unwrap(model: nn.Module) -> nn.Module:
    """The model inside ``torch.compile``, ``DistributedDataParallel`` or an EMA's ``AveragedModel``, without prefixes.

    >>> unwrap(nn.DataParallel(nn.Linear(1, 1)))
    Linear(in_features=1, out_features=1, bias=True)
    """
    while True:
        if hasattr(model, "_orig_mod"):
            model = model._orig_mod  # type: ignore[assignment]
        elif isinstance(model, nn.parallel.DistributedDataParallel | nn.DataParallel | AveragedModel):
            model = model.module
        else:
            return model


def _layouts(module: nn.Module) -> dict[str, Layout]:
    for kind in type(module).__mro__:
        if kind in LAYERS:
            return LAYERS[kind](module)
    return {}


def _matches(rule: Rule, *, names: Iterable[str], module: nn.Module) -> bool:
    if isinstance(rule, str):
        return any(fnmatch.fnmatchcase(name, rule) for name in names)
    return isinstance(module, rule)


def _rule_name(rule: Rule) -> str:
    return repr(rule) if isinstance(rule, str) else rule.__name__


def _rules(rules: Iterable[Rule], *, name: str) -> list[Rule]:
    if isinstance(rules, str | type):
        raise TypeError(f"{name}= takes a list of rules, got {_rule_name(rules)} alone. Write {name}=[...] around it.")
    return list(rules)


def weights(
    model: nn.Module, *, include: Iterable[Rule] = (), exclude: Iterable[Rule] = (), first_layer_dense: bool = False
) -> list[Weight]:
    """Every parameter of the model, in its order, with whether it is prunable and why.

    Prunable is what multiplies activations: weights of linear, bilinear and convolution layers (also transposed,
    grouped and depthwise), the projections of attention, the matrices of RNN, LSTM and GRU. Norms, biases and
    everything else never are. Embeddings are when ``include`` names them. A weight shared by several layers counts
    once; shared with an embedding it stays dense unless included.

    Args:
        model: Any module, also inside ``torch.compile`` or ``DistributedDataParallel``, or after ``fully_shard``, whose
            gathered weights it lets go of.
        include: Name patterns (of parameter or module, ``fnmatch``) or module classes. Adds opt-in layers; wins over
            ``exclude``.
        exclude: Name patterns or module classes to keep dense.
        first_layer_dense: Keep the first prunable weight dense, as the paper does for ResNet-50.

    Raises:
        TypeError: if ``include`` or ``exclude`` is a single string, which would be read letter by letter.
        ValueError: if a rule matches nothing, an ``include`` rule nothing that can be masked, or the model has
            uninitialised (lazy) parameters.
    """
    include, exclude = _rules(include, name="include"), _rules(exclude, name="exclude")
    unused = {*include, *exclude}
    found = []
    reshard_(model)
    for parameter, places in _places(unwrap(model)):
        known = [place for place in places if place.layout is not None]
        opt_in = [place for place in known if isinstance(place.module, OPT_IN)]
        place = (opt_in or known or places)[0]
        names = {name for each in places for name in (each.name, each.module_name)}
        included = [rule for rule in include if any(_matches(rule, names=names, module=p.module) for p in places)]
        excluded = [rule for rule in exclude if any(_matches(rule, names=names, module=p.module) for p in places)]
        unused -= {*(included if known else ()), *excluded}
        reason = type(place.module).__name__ + (f", shared by {len(places)} layers" if len(places) > 1 else "")
        is_prunable = False
        if not known:
            never = parameter.dim() < 2 or isinstance(place.module, _NORMS) or "bias" in place.name.rpartition(".")[2]
            reason = "norms, biases and scales are never masked" if never else f"unknown layer: {reason}"
        elif included:
            is_prunable, reason = True, f"included by {_rule_name(included[0])}"
        elif excluded:
            reason = f"excluded by {_rule_name(excluded[0])}"
        elif opt_in:
            reason = f"embeddings are opt-in: {reason}"
        elif first_layer_dense:
            first_layer_dense, reason = False, "first layer"
        else:
            is_prunable = True
        found.append(
            Weight(places[0].name, parameter, place.module_name, place.module, place.layout, is_prunable, reason)
        )
    if unused:
        raise ValueError(
            f"{', '.join(map(_rule_name, unused))} in include= or exclude= matches no parameter, or includes none that "
            f"can be masked. Names: {', '.join(weight.name for weight in found)}. Layers of your own become known by a "
            "row in sparseflow.masks.select.LAYERS."
        )
    return found


class _Place(NamedTuple):
    name: str
    module_name: str
    module: nn.Module
    layout: Layout | None


def _places(model: nn.Module) -> list[tuple[nn.Parameter, list[_Place]]]:
    """Each parameter once, with every place where the model uses it."""
    places: dict[nn.Parameter, list[_Place]] = {}
    for module_name, module in model.named_modules():
        layouts = _layouts(module)
        for local, parameter in module.named_parameters(recurse=False):
            name = f"{module_name}.{local}" if module_name else local
            if isinstance(parameter, UninitializedParameter):
                raise ValueError(f"{name!r} has no shape yet. Run one batch through the model before making masks.")
            places.setdefault(parameter, []).append(_Place(name, module_name, module, layouts.get(local)))
    return list(places.items())


def prunable(
    model: nn.Module, *, include: Iterable[Rule] = (), exclude: Iterable[Rule] = (), first_layer_dense: bool = False
) -> dict[str, Weight]:
    """The weights that may be sparse, by parameter name.

    Arguments as :func:`weights`.

    Raises:
        ValueError: if there is none.

    >>> list(prunable(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)), exclude=["0.*"]))
    ['2.weight']
    """
    rules = {"include": include, "exclude": exclude, "first_layer_dense": first_layer_dense}
    chosen = {weight.name: weight for weight in weights(model, **rules) if weight.prunable}  # type: ignore[arg-type]
    if not chosen:
        raise ValueError(
            f"{type(model).__name__} has no prunable weight under these rules. Known layers: "
            f"{', '.join(kind.__name__ for kind in LAYERS)}; add yours to sparseflow.masks.select.LAYERS."
        )
    return chosen


def maskable(model: nn.Module) -> dict[str, Weight]:
    """Every weight with a known layout, prunable by default or only when included.

    >>> list(maskable(nn.Sequential(nn.Embedding(3, 4), nn.Linear(4, 2))))
    ['0.weight', '1.weight']
    """
    return {weight.name: weight for weight in weights(model) if weight.layout is not None}
