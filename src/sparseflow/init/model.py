"""Initialise a whole masked model, each weight from its own random stream."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from sparseflow._checks import check_choice, check_masks
from sparseflow.init.fill import INITIALIZERS, Scaling
from sparseflow.init.live import live_inputs
from sparseflow.init.schemes import SCHEMES
from sparseflow.masks.fans import PLAIN
from sparseflow.masks.select import Weight, maskable
from sparseflow.rng import stream
from sparseflow.types import Masks


def initialize_(
    model: nn.Module,
    masks: Masks,
    *,
    scheme: str = "sparse",
    seed: int,
    base: str | Callable[..., Tensor] = "kaiming_normal",
    keep: Iterable[str] = (),
    zero_biases: bool = True,
    example_inputs: Any = None,
) -> nn.Module:
    r"""Re-draw every masked weight so that the signal survives the mask, in place.

    ========  ======================================================  =========================================
    scheme    variance of an active weight (``base`` kaiming_normal)   known as
    ========  ======================================================  =========================================
    dense     :math:`2 / n_{dense}`                                    the masked dense original ("Original")
    liu       :math:`2 / (n_{dense}\, D_{layer})`                      Liu et al. (2019)
    sparse    :math:`2 / n_i`, active inputs of unit :math:`i`         Evci et al. (2022) ("Ours")
    live      :math:`2 / n_i^{live}`, inputs with a path only          this library
    ========  ======================================================  =========================================

    Args:
        model: Its masked weights are overwritten; weights without a mask stay as they are.
        masks: Parameter name -> mask.
        scheme: ``"dense"``, ``"liu"``, ``"sparse"`` or ``"live"``.
        seed: Each weight draws from ``stream(seed, "init", name)``: the same base draw under every scheme and mask.
        base: Key of ``sparseflow.init.INITIALIZERS``, or one of its functions with options bound:
            ``functools.partial(sparseflow.init.kaiming_normal_, mode="fan_out", nonlinearity="tanh")``.
            The default is He's for ReLU (Eq. 1); the paper's MNIST runs use ``"xavier_uniform"``.
        keep: Name patterns of weights that keep their values, pretrained ones for instance; they are only masked.
        zero_biases: Set the biases of re-drawn layers to zero, as the paper does.
        example_inputs: For ``"live"``, see :func:`sparseflow.init.live.live_inputs`.

    Returns: ``model``.

    Raises:
        TypeError, ValueError: if a mask does not fit, a choice is unknown, or a ``keep`` pattern matches no mask.

    >>> from sparseflow import random_masks
    >>> model = nn.Linear(1000, 50)
    >>> masks = random_masks(model, 0.95, seed=0)
    >>> weight = initialize_(model, masks, scheme="sparse", seed=0).weight
    >>> bool(abs((weight**2).sum(1).mean() - 2) < 0.2)  # fan-in times 2 / fan-in
    True
    """
    check_choice(scheme, SCHEMES, name="scheme")
    if isinstance(base, str):
        check_choice(base, INITIALIZERS, name="base")
        base = INITIALIZERS[base]
    weights = maskable(model)
    check_masks(masks, {name: weight.parameter for name, weight in weights.items()})
    keep = list(keep)
    if missed := [pattern for pattern in keep if not fnmatch.filter(masks, pattern)]:
        raise ValueError(f"keep has {missed[0]!r}, which matches no masked weight. Masked: {', '.join(masks)}.")
    live = live_inputs(model, masks, example_inputs=example_inputs) if scheme == "live" else {}
    with torch.no_grad():
        for name, mask in masks.items():
            weight = weights[name]
            if any(fnmatch.fnmatchcase(name, pattern) for pattern in keep):
                weight.parameter.masked_fill_(~mask, 0)
                continue
            _draw_(weight, mask, base, scaling=SCHEMES[scheme].scaling, seed=seed, live=live.get(name))
            if zero_biases:
                _zero_biases_(weight.module)
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


def _zero_biases_(module: nn.Module) -> None:
    for name, parameter in module.named_parameters(recurse=False):
        if "bias" in name and parameter.dim() == 1:
            parameter.zero_()
