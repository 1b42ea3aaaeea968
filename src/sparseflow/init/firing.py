r"""Starts without units that never fire: a change of signs alone, after the weights are drawn.

A unit in front of a ReLU whose output is positive for no example hands on zeros and gets no gradient, for ever if
nothing else changes its inputs. Inputs that cannot be negative, such as pixels or what a ReLU hands on, make this
likely for units of few active weights and no bias: all :math:`n` of them are negative with probability :math:`2^{-n}`.
Negating them makes the unit fire and leaves the size of each weight, and with it every variance, as drawn.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, nn

from sparseflow.batches import forward, map_tensors
from sparseflow.boundary import checked
from sparseflow.gradients import undisturbed
from sparseflow.masks.fans import PLAIN, Layout, matrices, weight_of
from sparseflow.masks.layers import row
from sparseflow.masks.select import Weight, maskable, unwrap

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


@checked()
def flip_silent_(weight: Tensor, outputs: Tensor, *, layout: Layout = PLAIN, bias: Tensor | None = None) -> Tensor:
    r"""Negate the weights of each unit whose output is positive for no example, if that makes it fire, in place.

    .. math:: w_i \leftarrow -w_i \quad\text{if}\quad \max_x z_i(x) \le 0 < \max_x\, (2 b_i - z_i(x)),
              \qquad z_i(x) = w_i^\top x + b_i

    Args:
        weight: ``(units, inputs, *kernel)``, or as ``layout`` says; overwritten.
        outputs: :math:`z`, ``(examples and positions, units)``, of these weights.
        layout: Which axes are units and inputs (:class:`sparseflow.masks.fans.Layout`).
        bias: :math:`b`, ``(units,)``; default zero.

    Returns: bool, ``(units,)``: the units that were negated.

    Raises:
        ValueError: if outputs or bias are of another number of units, or there are no outputs.

    >>> weight = torch.tensor([[-1.0, -2.0], [-1.0, 2.0], [0.0, 0.0]])
    >>> inputs = torch.tensor([[1.0, 0.0], [0.5, 3.0]])
    >>> flip_silent_(weight, inputs @ weight.T), weight
    (tensor([ True, False, False]), tensor([[ 1.,  2.],
            [-1.,  2.],
            [ 0.,  0.]]))
    """
    rows = matrices(weight.detach(), layout)
    units = rows.shape[0] * rows.shape[1]
    if outputs.dim() != 2 or outputs.shape[1] != units or not len(outputs):
        raise ValueError(
            f"outputs must be (examples and positions, units) of at least one example and {units} units, got shape "
            f"{tuple(outputs.shape)}."
        )
    if bias is not None and bias.shape != (units,):
        raise ValueError(f"bias must have one number for each of {units} units, got shape {tuple(bias.shape)}.")
    twice = 0.0 if bias is None else 2 * bias.detach()
    flipped = (outputs.amax(0) <= 0) & ((twice - outputs).amax(0) > 0)
    signs = torch.where(flipped, -1.0, 1.0).to(rows.dtype).view(*rows.shape[:2], 1)
    with torch.no_grad():
        weight.copy_(weight_of(rows * signs, tuple(weight.shape), layout))
    return flipped


@checked()
def silence_unit_(weight: Tensor, *, generator: torch.Generator, layout: Layout = PLAIN) -> Tensor:
    r"""Make all weights of one unit negative, in place, so that inputs which are not negative never wake it.

    .. math:: w_i \leftarrow -|w_i|

    Args:
        weight: As :func:`flip_silent_`.
        generator: Chooses the unit among those with a positive weight, each with the same probability.
        layout: As there.

    Returns: bool, ``(units,)``: the unit that was silenced; none if no unit has a positive weight.

    Raises:
        ValueError: if there is no weight.

    >>> weight = torch.tensor([[-1.0, -2.0], [-1.0, 2.0]])
    >>> silence_unit_(weight, generator=torch.Generator().manual_seed(0)), weight
    (tensor([False,  True]), tensor([[-1., -2.],
            [-1., -2.]]))
    """
    if not weight.numel():
        raise ValueError(f"weight must have at least one unit with an input, got shape {tuple(weight.shape)}.")
    rows = matrices(weight.detach(), layout)
    awake = (rows > 0).any(2).flatten()
    chosen = torch.zeros_like(awake)
    if awake.any():
        places = awake.nonzero().flatten()
        chosen[places[torch.randint(len(places), (), generator=generator)]] = True
    with torch.no_grad():
        changed = torch.where(chosen.view(*rows.shape[:2], 1), -rows.abs(), rows)
        weight.copy_(weight_of(changed, tuple(weight.shape), layout))
    return chosen


def wake_(model: nn.Module, names: Collection[str], example_inputs: Any) -> dict[str, Tensor]:
    """:func:`flip_silent_` in each of some layers in forward order, on what the layers before, so changed, hand on.

    Linear and convolution layers alone, at their first use; not those whose output the network returns as it is, which
    need no positive one.

    Args:
        model: Its weights change in sign.
        names: Parameters that may change.
        example_inputs: One batch of what the model takes, see :mod:`sparseflow.batches`.

    Returns: parameter name -> the units that were negated, as bool.
    """
    bare = unwrap(model)
    weights = {name: weight for name, weight in maskable(model).items() if name in names and _is_plain(weight)}
    flipped: dict[str, Tensor] = {}
    with torch.no_grad(), undisturbed(model):
        last = _returned(bare, weights, example_inputs)
        handles = [
            weight.module.register_forward_hook(_waker(name, weight, flipped), with_kwargs=True)
            for name, weight in weights.items()
            if name not in last
        ]
        try:
            forward(bare, example_inputs)
        finally:
            for handle in handles:
                handle.remove()
    return flipped


def _is_plain(weight: Weight) -> bool:
    module = weight.module
    return isinstance(module, (nn.Linear, *_CONVOLUTIONS)) or row(module) == "transformers.*.Conv1D"


def _waker(name: str, weight: Weight, flipped: dict[str, Tensor]) -> Any:
    def wake(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> Tensor | None:
        if name in flipped:
            return None
        # Channels of a convolution are in front of the positions, with or without an axis of examples.
        outputs = output.movedim(1 - weight.parameter.dim(), -1) if isinstance(module, _CONVOLUTIONS) else output
        outputs = outputs.reshape(-1, outputs.shape[-1])
        bias = getattr(module, "bias", None)
        flipped[name] = flip_silent_(weight.parameter, outputs, layout=weight.layout or PLAIN, bias=bias)
        again: Tensor = module.forward(*args, **kwargs)
        return again

    return wake


def _returned(model: nn.Module, weights: dict[str, Weight], example_inputs: Any) -> set[str]:
    """The weights of layers whose output the network returns as it is."""
    outputs: list[tuple[str, Tensor]] = []

    def keep(name: str) -> Any:
        return lambda module, args, output: outputs.append((name, output))

    handles = [weight.module.register_forward_hook(keep(name)) for name, weight in weights.items()]
    found: set[str] = set()

    def see(tensor: Tensor) -> Tensor:
        found.update(name for name, output in outputs if output is tensor)
        return tensor

    try:
        map_tensors(see, forward(model, example_inputs))
    finally:
        for handle in handles:
            handle.remove()
    return found
