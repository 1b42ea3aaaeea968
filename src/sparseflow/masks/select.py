"""Selection of the tensors of a model that may be sparse, with the reason for each of the others."""

from __future__ import annotations

import fnmatch
from collections.abc import Container, Iterable
from dataclasses import dataclass

from torch import nn
from torch.optim.swa_utils import AveragedModel

from sparseflow.boundary import checked
from sparseflow.masks.fans import Layout
from sparseflow.masks.layers import LAYERS as LAYERS
from sparseflow.masks.layers import row_name
from sparseflow.masks.places import OPT_IN, is_matrix, parameter_places
from sparseflow.sharded import reshard_
from sparseflow.warn import warn

#: A name pattern such as ``"encoder.*"``, or a module class.
Rule = str | type[nn.Module]


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
    left_out: bool = False
    """It probably multiplies activations, and stays dense though no rule of the user says so."""
    others: tuple[str, ...] = ()
    """Its other names, where several layers share it."""


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
    grouped and depthwise), the projections of attention, the matrices of RNN, LSTM and GRU, GPT-2's ``Conv1D``,
    experts, and whatever has a row in ``LAYERS``. Norms, biases and everything else never are, nor weights from which
    a layer computes the matrix that it uses. Embeddings and adapters are when ``include`` names them. A weight shared
    by several layers counts once; shared with an embedding it stays dense unless included.

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
    found, refused = [], []
    reshard_(model)
    for parameter, places in parameter_places(unwrap(model)):
        blocked = [place for place in places if place.blocked]
        known = [place for place in places if place.layout is not None and not blocked]
        opt_in = [place for place in known if place.opt_in]
        place = (opt_in or known or blocked or places)[0]
        names = {name for each in places for name in (each.name, each.module_name)}
        included = [rule for rule in include if any(_matches(rule, names=names, module=p.module) for p in places)]
        excluded = [rule for rule in exclude if any(_matches(rule, names=names, module=p.module) for p in places)]
        unused -= {*(included if known else ()), *excluded}
        shared = f", shared by {len(places)} layers" if len(places) > 1 else ""
        reason = type(place.module).__name__ + shared
        is_prunable = is_left_out = False
        if not known:
            reason = place.why + shared if place.why else "norms, biases and scales are never masked"
            is_left_out = bool(place.why) and not excluded and is_matrix(place.name, parameter)
        elif included:
            is_prunable, reason = True, f"included by {_rule_name(included[0])}"
        elif excluded:
            reason = f"excluded by {_rule_name(excluded[0])}"
        elif opt_in:
            reason, is_left_out = place.opt_in + shared, not isinstance(place.module, OPT_IN)
        elif first_layer_dense:
            first_layer_dense, reason = False, "first layer"
        else:
            is_prunable = True
        if not known and included:
            refused.append((place.name, reason))
        layout, others = place.layout if known else None, tuple(each.name for each in places[1:])
        found.append(
            Weight(
                places[0].name,
                parameter,
                place.module_name,
                place.module,
                layout,
                is_prunable,
                reason,
                left_out=is_left_out,
                others=others,
            )
        )
    if unused:
        raise ValueError(
            f"{', '.join(map(_rule_name, unused))} in include= or exclude= matches no parameter, or includes none that "
            f"can be masked. Names: {', '.join(weight.name for weight in found)}. Layers of your own become known by a "
            "row in sparseflow.masks.select.LAYERS." + "".join(f" {name}: {reason}." for name, reason in refused)
        )
    return found


@checked()
def prunable(
    model: nn.Module, *, include: Iterable[Rule] = (), exclude: Iterable[Rule] = (), first_layer_dense: bool = False
) -> dict[str, Weight]:
    """The weights that may be sparse, by parameter name.

    Arguments as :func:`weights`.

    Raises:
        ValueError: if there is none.

    Warns:
        UserWarning: with the share of the weights in matrices that stay dense in layers that are not known or cannot be
            masked (see :func:`left_out`), unless ``exclude`` names them.

    >>> list(prunable(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)), exclude=["0.*"]))
    ['2.weight']
    """
    rules = {"include": include, "exclude": exclude, "first_layer_dense": first_layer_dense}
    found = weights(model, **rules)  # type: ignore[arg-type]
    chosen = {weight.name: weight for weight in found if weight.prunable}
    missing = left_out(found)
    if not chosen:
        raise ValueError(
            f"{type(model).__name__} has no prunable weight under these rules. Known layers: "
            f"{', '.join(map(row_name, LAYERS))}; add yours to sparseflow.masks.select.LAYERS. {missing}".rstrip()
        )
    if missing:
        warn(missing)
    return chosen


#: Below it, what is left out is not worth a warning: a router among experts, a table of relative positions.
_SMALL_SHARE = 0.01


def left_out(found: Iterable[Weight], *, masked: Container[str] = ()) -> str:
    """One line on matrices that stay dense though no rule says so: their share, names and reasons; ``""`` if none.

    The share is of the weights in all matrices that multiply activations; embeddings do not count.

    Args:
        found: What :func:`weights` says of the model.
        masked: Names of weights that have a mask all the same.

    >>> found = weights(nn.Sequential(nn.Linear(3, 4), nn.utils.parametrizations.orthogonal(nn.Linear(4, 3))))
    >>> left_out(found)[:71]
    '0.50 of the weights in matrices are in layers I do not know or cannot m'
    """
    found = list(found)
    missing = [weight for weight in found if weight.left_out and weight.name not in masked]
    known = [weight for weight in found if weight.layout is not None and not isinstance(weight.module, OPT_IN)]
    total = sum(weight.parameter.numel() for weight in {id(weight): weight for weight in [*known, *missing]}.values())
    share = sum(weight.parameter.numel() for weight in missing) / max(1, total)
    if share < _SMALL_SHARE:
        return ""
    reasons: dict[str, list[str]] = {}
    for weight in missing:
        reasons.setdefault(weight.reason, []).append(weight.name)
    listed = "; ".join(
        names[0] + (f" and {len(names) - 1} more" if len(names) > 1 else "") + f" ({reason})"
        for reason, names in reasons.items()
    )
    return (
        f"{share:.2f} of the weights in matrices are in layers I do not know or cannot mask, and stay dense: {listed}. "
        "A row in sparseflow.masks.select.LAYERS makes a layer known (docs/layers.md); exclude=[...] says that it is "
        "meant."
    )


def maskable(model: nn.Module) -> dict[str, Weight]:
    """Every weight with a known layout, prunable by default or only when included.

    >>> list(maskable(nn.Sequential(nn.Embedding(3, 4), nn.Linear(4, 2))))
    ['0.weight', '1.weight']
    """
    return {weight.name: weight for weight in weights(model) if weight.layout is not None}
