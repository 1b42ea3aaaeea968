"""Initialise a whole masked model, each weight from its own random stream."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from sparseflow._checks import check_choice, check_masks, check_values
from sparseflow.batches import num_examples
from sparseflow.boundary import checked
from sparseflow.init.fill import INITIALIZERS, Scaling
from sparseflow.init.firing import wake_
from sparseflow.init.live import live_inputs
from sparseflow.init.schemes import SCHEMES
from sparseflow.masks.fans import PLAIN
from sparseflow.masks.layers import layouts
from sparseflow.masks.select import Weight, maskable, unwrap
from sparseflow.rng import stream
from sparseflow.sharded import full, is_sharded
from sparseflow.types import Masks
from sparseflow.warn import warn


@checked()
def initialize_(
    model: nn.Module,
    masks: Masks,
    *,
    scheme: str = "sparse",
    seed: int,
    base: str | Callable[..., Tensor] = "kaiming_normal",
    keep: Iterable[str] = (),
    overwrite: Iterable[str] = (),
    zero_biases: bool = True,
    avoid_dead: bool = False,
    example_inputs: Any = None,
) -> nn.Module:
    r"""Re-draw every masked weight so that the signal survives the mask, in place, and set its own bias to zero.

    Nothing else changes: no weight without a mask, nor the bias of one. What was set on purpose is not drawn over but
    only masked, with a warning: a matrix that is zero altogether, as an adapter's or a residual branch's last one is;
    an embedding that another layer shares; and a bias with an entry of size 1 or more, which no layer is born with.

    ========  ======================================================  =========================================
    scheme    variance of an active weight (``base`` kaiming_normal)   known as
    ========  ======================================================  =========================================
    dense     :math:`2 / n_{dense}`                                    "Original": a dense network's, masked
    liu       :math:`2 / (n_{dense}\, D_{layer})`                      "Liu": Liu et al. (2019)
    sparse    :math:`2 / n_i`, active inputs of unit :math:`i`         "Ours": Evci et al. (2022)
    live      :math:`2 / n_i^{live}`, inputs with a path only          "Live": this library
    ========  ======================================================  =========================================

    Args:
        model: Its masked weights are overwritten, and the biases of their units.
        masks: Parameter name -> mask.
        scheme: ``"dense"``, ``"liu"``, ``"sparse"`` or ``"live"``.
        seed: Each weight draws from ``stream(seed, "init", name)``: the same base draw under every scheme and mask.
        base: Key of ``sparseflow.init.INITIALIZERS``, or one of its functions with options bound:
            ``functools.partial(sparseflow.init.kaiming_normal_, mode="fan_out", nonlinearity="tanh")``.
            The default is He's for ReLU (Eq. 1); the paper's MNIST runs use ``"xavier_uniform"``.
        keep: Name patterns of weights that keep their values, pretrained ones for instance; they are only masked.
        overwrite: Name patterns of weights and biases that are drawn, or set to zero, whatever they are.
        zero_biases: Set the biases of re-drawn weights to zero, as the paper does.
        avoid_dead: Negate the weights of each unit whose output is positive for no example, which a ReLU would silence
            for ever: in linear and convolution layers that were drawn, in forward order, but where the network returns
            the output as it is. Sizes stay, and so do all variances above; see :func:`.flip_silent_`. Units that no
            input reaches stay as they are.
        example_inputs: For ``avoid_dead``, one batch of what the model takes, some hundred examples of the data; for
            ``"live"``, see :func:`sparseflow.init.live.live_inputs`.

    Returns: ``model``.

    Raises:
        TypeError, ValueError: if a mask does not fit, a choice is unknown, a ``keep`` pattern matches no mask, an
            ``overwrite`` pattern no parameter, a weight has no values, or ``avoid_dead`` comes without examples.

    Warns:
        UserWarning: naming what is left as it was because it looks set on purpose.

    >>> from sparseflow import random_masks
    >>> model = nn.Linear(1000, 50)
    >>> masks = random_masks(model, 0.95, seed=0)
    >>> weight = initialize_(model, masks, scheme="sparse", seed=0).weight
    >>> bool(abs((weight**2).sum(1).mean() - 2) < 0.2)  # fan-in times 2 / fan-in
    True
    >>> pixels = torch.rand(64, 1000, generator=torch.Generator().manual_seed(0))
    >>> model = initialize_(nn.Sequential(model, nn.ReLU()), {"0.weight": masks["weight"]}, seed=0, avoid_dead=True,
    ...                     example_inputs=pixels)
    >>> bool((model(pixels) > 0).any(0).all())
    True
    """
    check_choice(scheme, SCHEMES, name="scheme")
    if avoid_dead and example_inputs is None:
        raise ValueError("avoid_dead=True looks at what units do: give one batch of the data, example_inputs=x.")
    if num_examples(example_inputs) == 0:
        raise ValueError("example_inputs has no examples: give one batch of what the model takes.")
    if isinstance(base, str):
        check_choice(base, INITIALIZERS, name="base")
        base = INITIALIZERS[base]
    weights = maskable(model)
    check_masks(masks, {name: weight.parameter for name, weight in weights.items()})
    check_values({name: weights[name].parameter for name in masks})
    keep, overwrite = list(keep), list(overwrite)
    names = [name for name, _ in unwrap(model).named_parameters()]
    if missed := [pattern for pattern in overwrite if not fnmatch.filter(names, pattern)]:
        raise ValueError(f"overwrite has {missed[0]!r}, which matches no parameter. Parameters: {', '.join(names)}.")
    if missed := [pattern for pattern in keep if not fnmatch.filter(masks, pattern)]:
        raise ValueError(f"keep has {missed[0]!r}, which matches no masked weight. Masked: {', '.join(masks)}.")
    live = live_inputs(model, masks, example_inputs=example_inputs) if scheme == "live" else {}
    left: dict[str, list[str]] = {}
    drawn: list[str] = []
    with torch.no_grad():
        for name, mask in masks.items():
            weight = weights[name]
            meaning = "" if _matches(name, overwrite) else _meaning(weight)
            if meaning and not _matches(name, keep):
                left.setdefault(meaning, []).append(name)
            if meaning or _matches(name, keep):
                weight.parameter.masked_fill_(~mask, 0)
                continue
            _draw_(weight, mask, base, scaling=SCHEMES[scheme].scaling, seed=seed, live=live.get(name))
            drawn.append(name)
            for bias, parameter in biases_of(weight).items() if zero_biases else ():
                if float(full(parameter.detach()).abs().max()) < 1 or _matches(bias, overwrite):
                    parameter.zero_()
                else:
                    left.setdefault("biases of size 1 or more", []).append(bias)
    if avoid_dead:
        wake_(model, drawn, example_inputs)
    if left:
        found = "; ".join(f"{', '.join(dict.fromkeys(names))} ({meaning})" for meaning, names in left.items())
        warn(
            f"initialize_ left values that look set on purpose: {found}. To draw over them, or set biases to zero, "
            "write overwrite=[names or patterns]; without this warning they stay with keep=[...] for weights, "
            "zero_biases=False for biases.",
        )
    return model


def _draw_(
    weight: Weight, mask: Tensor, base: Callable[..., Tensor], *, scaling: Scaling, seed: int, live: Tensor | None
) -> None:
    # Numbers are drawn on the CPU in the default memory format, so that every device and format gets the same ones.
    direct = weight.parameter.device.type == "cpu" and weight.parameter.is_contiguous()
    target = weight.parameter if direct else torch.empty(weight.parameter.shape, dtype=weight.parameter.dtype)
    base(
        target,
        mask.to(target.device),
        generator=stream(seed, "init", weight.name),
        scaling=scaling,
        layout=weight.layout or PLAIN,
        live_inputs=None if live is None else live.to(target.device),
    )
    if not direct:
        weight.parameter.copy_(target)


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def _meaning(weight: Weight) -> str:
    """What would be lost by drawing over a weight; ``""`` for ordinary ones."""
    if weight.layout is not None and weight.layout.lookup and weight.others:
        return f"an embedding that is also {', '.join(weight.others)}"
    numbers = weight.parameter.detach()
    if not is_sharded(numbers) and bool(numbers[:1].any()):
        return ""  # the rest of an ordinary weight need not be read
    return "" if bool(full((numbers != 0).any())) else "all zeros"


def biases_of(weight: Weight) -> dict[str, Tensor]:
    """The biases of a weight's units, by parameter name: those of its module, but for what another weight's units have.

    Experts have a row of biases each.
    """
    axes = 2 if weight.layout is not None and weight.layout.stacked else 1
    local = weight.name.rpartition(".")[2]
    others = {own: name for name in layouts(weight.module) for own in (f"{name}_bias", name.replace("weight", "bias"))}
    return {
        f"{weight.module_name}.{name}" if weight.module_name else name: parameter
        for name, parameter in weight.module.named_parameters(recurse=False)
        if "bias" in name and parameter.dim() == axes and others.get(name, local) == local and parameter.numel()
    }
