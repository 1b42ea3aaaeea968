"""SμPar: initial sizes and learning rates that let one setting serve networks of every width and density."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from sparseflow._checks import check_masks
from sparseflow.boundary import checked
from sparseflow.masks.fans import PLAIN, dense_fans
from sparseflow.masks.select import Weight, maskable, unwrap
from sparseflow.ranges import Range
from sparseflow.rng import stream
from sparseflow.sharded import num_true, shard_like
from sparseflow.types import Masks


class Ratio(NamedTuple):
    """A weight's active inputs over those that its base has, and whether its outputs are the network's."""

    inputs: float
    is_output: bool = False


@checked()
def supar_ratios(
    model: nn.Module, masks: Masks, base: nn.Module, base_masks: Masks | None = None, *, output: Iterable[str]
) -> dict[str, Ratio]:
    r"""How many times the inputs of its base a weight has: width times density.

    .. math:: m = m_d \, m_\rho = \frac{d_{in}}{d_{in}^{base}} \cdot \frac{\rho}{\rho^{base}}

    1 for embeddings, of which one row is read at a time, however many there are.

    Args:
        model: The network to be trained.
        masks: Its masks, random and to stay as they are; weights without one are dense.
        base: A network of the same layers in the width for which the settings were found; not changed.
        base_masks: Its masks; default: dense.
        output: Names or patterns of the weights whose units are the network's outputs: the last layer's.

    Returns: parameter name -> :class:`Ratio`, of all weights of a known layer.

    Raises:
        TypeError, ValueError: if the layers are others, a mask does not fit or is empty, a pattern matches nothing, or
            an embedding makes the outputs.

    Reference: Dey, Bergsma and Hestness (2024), *Sparse maximal update parameterization*, arXiv 2405.15743, Table 1.

    >>> import sparseflow as sf
    >>> wide, narrow = (nn.Sequential(nn.Linear(10, n), nn.ReLU(), nn.Linear(n, 3)) for n in (80, 20))
    >>> masks = sf.random_masks(wide, 0.75, exclude=["0.weight"], seed=0)
    >>> supar_ratios(wide, masks, narrow, output=["2.weight"])
    {'0.weight': Ratio(inputs=1.0, is_output=False), '2.weight': Ratio(inputs=1.0, is_output=True)}
    """
    weights, based = maskable(model), maskable(base)
    if list(weights) != list(based):
        different = ", ".join(sorted(set(weights) ^ set(based))) or "their order"
        raise ValueError(f"base must have the layers of the model in another width; they differ in {different}.")
    for which, given in ((weights, masks), (based, base_masks or {})):
        check_masks(given, {name: weight.parameter for name, weight in which.items()})
    if not isinstance(output, str | list | tuple) or not output:
        raise TypeError(f"output must be a list of names of weights, such as ['head.weight'], got {output!r}.")
    patterns = [output] if isinstance(output, str) else list(output)
    if missed := [pattern for pattern in patterns if not fnmatch.filter(weights, pattern)]:
        raise ValueError(f"output has {missed[0]!r}, which matches no weight. Weights: {', '.join(weights)}.")
    found = {}
    for name, weight in weights.items():
        ours, theirs = (
            _active_inputs(weight, masks.get(name)),
            _active_inputs(based[name], (base_masks or {}).get(name)),
        )
        is_output = any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
        is_lookup = weight.layout is not None and weight.layout.lookup
        if is_lookup and is_output:
            raise ValueError(
                f"{name!r} is an embedding and makes the network's outputs too, which start by other sizes. Give the "
                "last layer a weight of its own."
            )
        found[name] = Ratio(1.0 if is_lookup else ours / theirs, is_output)
    return found


@checked(std=Range(0, with_low=False))
def supar_initialize_(
    model: nn.Module, masks: Masks, ratios: Mapping[str, Ratio], *, std: Mapping[str, float] | float, seed: int
) -> nn.Module:
    r"""Draw every weight of a known layer by the size that its base has, in place.

    .. math:: w \sim m \odot \mathcal N(0,\ \sigma_{base}^2 / m), \quad
              \text{the outputs'}\ \mathcal N(0,\ \sigma_{base}^2 / m^2)

    The paper multiplies the network's outputs by :math:`1 / m_d` instead and draws their weights by
    :math:`\sigma_{base}`; under Adam that is the same network, step by step, as :func:`supar_groups` divides their
    learning rate too. Biases become zero.

    Args:
        model: Overwritten.
        masks: As :func:`supar_ratios`.
        ratios: From :func:`supar_ratios`.
        std: :math:`\sigma_{base}`, the standard deviation in the base network, for all weights or name -> its own.
        seed: Each weight draws from ``stream(seed, "init", name)``.

    Returns: ``model``.

    Raises:
        TypeError, ValueError: if a mask does not fit, or a weight has no ratio or no ``std``.

    Reference: Dey et al. (2024), arXiv 2405.15743, Table 1; github.com/EleutherAI/nanoGPT-mup, branch supar.

    >>> import sparseflow as sf
    >>> wide, narrow = (nn.Sequential(nn.Linear(n, 4 * n), nn.Linear(4 * n, 3)) for n in (400, 100))
    >>> masks = sf.random_masks(wide, 0.5, seed=0)
    >>> ratios = supar_ratios(wide, masks, narrow, output=["1.weight"])
    >>> weight = supar_initialize_(wide, masks, ratios, std=0.1, seed=0)[0].weight
    >>> bool(abs(weight[masks["0.weight"]].std() - 0.1 / 2**0.5) < 0.001)
    True
    """
    weights = maskable(model)
    check_masks(masks, {name: weight.parameter for name, weight in weights.items()})
    sizes = std if isinstance(std, Mapping) else dict.fromkeys(weights, std)
    _check_ratios(ratios)
    for known, what in ((ratios, "ratio. Give what supar_ratios returns"), (sizes, "std. Give one for each weight")):
        if missing := [name for name in weights if name not in known]:
            raise ValueError(f"{missing[0]!r} has no {what}.")
    for name, size in sizes.items():
        Range(0, with_low=False).check(size, name=f"std of {name!r}")
    with torch.no_grad():
        for name, weight in weights.items():
            ratio = ratios[name]
            scale = ratio.inputs if ratio.is_output else ratio.inputs**0.5
            drawn = torch.empty(weight.parameter.shape, dtype=weight.parameter.dtype)
            drawn.normal_(0, float(sizes[name]) / scale, generator=stream(seed, "init", name))
            weight.parameter.copy_(shard_like(drawn.to(weight.parameter.device), weight.parameter))
            if name in masks:
                weight.parameter.masked_fill_(~shard_like(masks[name].to(weight.parameter.device), weight.parameter), 0)
        for name, parameter in unwrap(model).named_parameters():
            if name.endswith("bias") and parameter.dim() == 1 and _is_of_a_weight(name, weights):
                parameter.zero_()
    return model


@checked(lr=Range(0, with_low=False))
def supar_groups(model: nn.Module, ratios: Mapping[str, Ratio], *, lr: float, **settings: Any) -> list[dict[str, Any]]:
    r"""Parameter groups with the learning rate of the base network, divided by each weight's ratio.

    .. math:: \eta = \eta_{base} / m

    For Adam and its kin, whose steps have a length of their own; SGD's scale otherwise. Biases, norms, embeddings and
    all else keep the base's. Schedulers that multiply rates keep the ratios. The weight decay of AdamW is multiplied by
    the rate, so that it is divided too, as in the authors' code.

    Args:
        model: All that require a gradient are in one of the groups. Also after ``sparseflow.engine.convert``.
        ratios: From :func:`supar_ratios`.
        lr: :math:`\eta_{base}`.
        settings: Others, the same in each group, such as ``weight_decay=0.1``.

    Returns: groups for the optimizer, one for each ratio.

    Raises:
        TypeError, ValueError: naming the option.

    Reference: Dey et al. (2024), arXiv 2405.15743, Table 1. The paper finds that rates so divided are too small while
    masks move (RigL, GMP): it is meant for static random masks.

    >>> model = nn.Sequential(nn.Linear(8, 4), nn.Linear(4, 2))
    >>> groups = supar_groups(model, {"0.weight": Ratio(2.0), "1.weight": Ratio(4.0, True)}, lr=0.1)
    >>> [(group["lr"], len(group["params"])) for group in groups]
    [(0.05, 1), (0.1, 2), (0.025, 1)]
    >>> optimizer = torch.optim.AdamW(groups)
    """
    _check_ratios(ratios)
    parameters = _by_weight(unwrap(model))
    if odd := [name for name in ratios if name not in parameters]:
        raise ValueError(f"ratios has {odd[0]!r}, which is no parameter of the model: {', '.join(parameters)}.")
    groups: dict[float, dict[str, Any]] = {}
    for name, parameter in parameters.items():
        if parameter.requires_grad:
            inputs = ratios[name].inputs if name in ratios else 1.0
            group = groups.setdefault(inputs, {**settings, "params": [], "lr": lr / inputs})
            group["params"].append(parameter)
    return list(groups.values())


def _by_weight(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters by name, those that are a weight's stored active values by the name of the dense weight."""
    stored = ((path, each) for path, each in model.named_modules() if hasattr(each, "weight_suffix"))
    of = {f"{path}.values": f"{path}{each.weight_suffix}" for path, each in stored}
    return {of.get(name, name): parameter for name, parameter in model.named_parameters()}


def _check_ratios(ratios: Mapping[str, Ratio]) -> None:
    if odd := [each for each in ratios.values() if not isinstance(each, Ratio)]:
        raise TypeError(f"ratios must be what sparseflow.init.supar_ratios returns, got {odd[0]!r} in it.")


def _active_inputs(weight: Weight, mask: Tensor | None) -> float:
    """Active inputs of an average unit."""
    inputs = dense_fans(weight.parameter.shape, weight.layout or PLAIN)[0]
    active = weight.parameter.numel() if mask is None else num_true(mask)
    if not active:
        raise ValueError(f"{weight.name!r} has no active weight, so its size cannot be chosen. Leave it dense.")
    return inputs * active / weight.parameter.numel()


def _is_of_a_weight(name: str, weights: Mapping[str, Weight]) -> bool:
    return any(weight.module_name == name.rpartition(".")[0] for weight in weights.values())
