r"""Initialise masked weights so that each unit's variance follows its own number of active inputs.

Every function mirrors its twin in ``torch.nn.init`` and takes the mask as its second argument. Under an all-ones mask
it is the twin, bit for bit, with the same generator: the dense tensor is drawn first, then each weight is scaled by

.. math:: \sqrt{d_{dense} / d_{ij}}, \quad d_{ij} = n_i^{in},\ n_j^{out}\ \text{or}\ (n_i^{in} + n_j^{out})/2

and masked. ``scaling`` chooses what ``d`` counts:

========  ===========================================================================================================
unit      active inputs and outputs of this very unit: the paper's sparsity-aware initialisation ("Ours")
layer     the layer's average: dense fans times density ("Liu"; Liu et al., 2019)
dense     no correction: the dense initialisation, masked ("Original")
========  ===========================================================================================================

Reference: Evci et al. (2022), *Gradient Flow in Sparse Neural Networks and How Lottery Tickets Win*,
Eqs. 1-2, 12-14, 24-26.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor
from torch.nn.init import calculate_gain

from sparseflow._checks import check_choice, check_mask
from sparseflow._fast import count_true, zero_inactive_
from sparseflow.boundary import checked
from sparseflow.masks.fans import PLAIN, Layout, dense_fans, fan_in, fan_out

Mode = Literal["fan_in", "fan_out", "fan_avg"]
Scaling = Literal["unit", "layer", "dense"]

#: Standard deviation of a unit normal cut at two of its standard deviations (as in Keras).
_TRUNCATED_STD = 0.87962566103423978


def _combine(inputs: float, outputs: float, mode: Mode) -> float:
    return {"fan_in": inputs, "fan_out": outputs, "fan_avg": (inputs + outputs) / 2}[mode]


def _check(weight: Tensor, mask: Tensor, *, mode: str, scaling: str) -> None:
    check_choice(mode, ("fan_in", "fan_out", "fan_avg"), name="mode")
    check_choice(scaling, ("unit", "layer", "dense"), name="scaling")
    check_mask(mask)
    if mask.shape != weight.shape:
        raise ValueError(
            f"the mask has shape {tuple(mask.shape)}, the weight {tuple(weight.shape)}; they must be equal."
        )


@checked()
def scale_to_mask_(
    weight: Tensor,
    mask: Tensor,
    *,
    mode: Mode = "fan_in",
    scaling: Scaling = "unit",
    layout: Layout = PLAIN,
    live_inputs: Tensor | None = None,
) -> Tensor:
    r"""Turn a densely initialised weight into a sparsity-aware one, in place.

    .. math:: w_{ij} \leftarrow m_{ij}\, w_{ij} \sqrt{d_{dense} / d_{ij}}

    so that a variance of :math:`g^2/d_{dense}` becomes :math:`g^2/d_{ij}`. A unit without active inputs gets zeros.

    Args:
        weight: Drawn for the dense layer; overwritten.
        mask: bool, same shape.
        mode: Which fans ``d`` counts.
        scaling: ``"unit"``, ``"layer"`` or ``"dense"``, see the module.
        layout: Which axes are units and inputs (:class:`sparseflow.masks.fans.Layout`).
        live_inputs: bool, the weight's shape: the active inputs that can be nonzero at all, for ``scaling="unit"``.
            Fan-in counts only those; a unit without any falls back to its active inputs. See
            :func:`sparseflow.init.live.live_inputs`.

    Returns: ``weight``.

    Raises:
        ValueError: if the shapes differ or a choice is unknown.

    >>> scale_to_mask_(torch.ones(2, 4), torch.tensor([[1, 1, 1, 1], [1, 0, 0, 0]]).bool())
    tensor([[1., 1., 1., 1.],
            [2., 0., 0., 0.]])
    """
    _check(weight, mask, mode=mode, scaling=scaling)
    with torch.no_grad():
        if scaling == "unit":
            weight.mul_(_unit_factor(mask, mode=mode, layout=layout, live_inputs=live_inputs).to(weight.dtype))
        elif scaling == "layer":
            active = count_true(mask)
            weight.mul_(math.sqrt(mask.numel() / active) if active else 0.0)
        return zero_inactive_(weight, mask)


def _gain(nonlinearity: str, a: float) -> float:
    try:
        return calculate_gain(nonlinearity, a)  # type: ignore[arg-type]
    except ValueError as error:
        raise ValueError(
            f"nonlinearity must be one that torch.nn.init.calculate_gain knows, such as 'relu', got {nonlinearity!r}."
        ) from error


def _unit_factor(mask: Tensor, *, mode: Mode, layout: Layout, live_inputs: Tensor | None) -> Tensor:
    dense = _combine(*dense_fans(mask.shape, layout), mode)
    inputs = fan_in(mask, layout)
    if live_inputs is not None:
        live = fan_in(mask & live_inputs, layout)
        inputs = torch.where(live > 0, live, inputs)
    if mode == "fan_in":
        fans = inputs
    elif mode == "fan_out":
        fans = fan_out(mask, layout)
    else:
        fans = (inputs + fan_out(mask, layout)) / 2
    return torch.where(fans > 0, dense / fans, 0.0).sqrt_()


def _draw_(
    weight: Tensor,
    *,
    gain: float,
    distribution: Literal["normal", "uniform", "truncated_normal"],
    mode: Mode,
    generator: torch.Generator | None,
    layout: Layout,
) -> None:
    """Draw the dense tensor exactly as ``torch.nn.init`` does."""
    inputs, outputs = dense_fans(weight.shape, layout)
    # The average in Glorot's form, which rounds differently.
    std = (
        gain * math.sqrt(2.0 / (inputs + outputs))
        if mode == "fan_avg"
        else gain / math.sqrt(_combine(inputs, outputs, mode))
    )
    with torch.no_grad():
        if distribution == "normal":
            weight.normal_(0, std, generator=generator)
        elif distribution == "uniform":
            bound = math.sqrt(3.0) * std
            weight.uniform_(-bound, bound, generator=generator)
        else:
            wide = std / _TRUNCATED_STD
            torch.nn.init.trunc_normal_(weight, 0.0, wide, -2 * wide, 2 * wide, generator=generator)


@checked()
def kaiming_normal_(
    weight: Tensor,
    mask: Tensor,
    *,
    a: float = 0,
    mode: Mode = "fan_in",
    nonlinearity: str = "leaky_relu",
    generator: torch.Generator | None = None,
    scaling: Scaling = "unit",
    layout: Layout = PLAIN,
    live_inputs: Tensor | None = None,
) -> Tensor:
    r"""He's normal initialisation with each unit's own fan, untruncated.

    .. math:: w_{ij} = m_{ij} z_{ij},\quad z_{ij} \sim \mathcal{N}(0,\ \mathrm{variance} = g^2 / n_i),\quad
              n_i = \sum_j m_{ij}

    Args:
        weight: ``(out, in, *kernel)``, or as ``layout`` says; overwritten.
        mask: bool, same shape. A unit with :math:`n_i = 0` gets zeros.
        a: Negative slope, for ``"leaky_relu"``.
        mode: ``"fan_in"`` keeps the variance of activations, ``"fan_out"`` that of gradients, ``"fan_avg"`` splits it.
        nonlinearity: Gives the gain :math:`g` by ``torch.nn.init.calculate_gain``; :math:`\sqrt 2` for ReLU.
        generator: Where the numbers come from; the same base draw for every ``scaling`` and mask.
        scaling: ``"unit"`` (the paper), ``"layer"`` (Liu et al.), ``"dense"`` (masked original).
        layout: Which axes are units and inputs.
        live_inputs: See :func:`scale_to_mask_`.

    Returns: ``weight``; with ``mask.all()`` equal to ``torch.nn.init.kaiming_normal_`` bit for bit.

    Raises:
        ValueError: if the shapes differ or a choice is unknown.

    Reference: He et al. (2015); Evci et al. (2022), Eq. 1.

    >>> mask = torch.rand(64, 1000, generator=torch.Generator().manual_seed(0)) < 0.05
    >>> generator = torch.Generator().manual_seed(1)
    >>> w = kaiming_normal_(torch.empty(64, 1000), mask, nonlinearity="relu", generator=generator)
    >>> ratio = (w**2).sum(1).mean() / 2  # a unit's n_i weights of variance 2 / n_i
    >>> bool(abs(ratio - 1) < 0.1)
    True
    """
    gain = _gain(nonlinearity, a)
    _check(weight, mask, mode=mode, scaling=scaling)
    _draw_(weight, gain=gain, distribution="normal", mode=mode, generator=generator, layout=layout)
    return scale_to_mask_(weight, mask, mode=mode, scaling=scaling, layout=layout, live_inputs=live_inputs)


@checked()
def kaiming_uniform_(
    weight: Tensor,
    mask: Tensor,
    *,
    a: float = 0,
    mode: Mode = "fan_in",
    nonlinearity: str = "leaky_relu",
    generator: torch.Generator | None = None,
    scaling: Scaling = "unit",
    layout: Layout = PLAIN,
    live_inputs: Tensor | None = None,
) -> Tensor:
    r"""He's uniform initialisation with each unit's own fan.

    .. math:: w_{ij} = m_{ij} z_{ij},\quad z_{ij} \sim \mathcal{U}(-b_i, b_i),\quad b_i = g \sqrt{3 / n_i}

    Arguments and errors as :func:`kaiming_normal_`.

    Returns: ``weight``; with ``mask.all()`` equal to ``torch.nn.init.kaiming_uniform_`` bit for bit.

    Reference: He et al. (2015); Evci et al. (2022), Eq. 1.

    >>> kaiming_uniform_(torch.empty(1, 4), torch.tensor([[True, False, False, False]]))[0, 1:]
    tensor([0., 0., 0.])
    """
    gain = _gain(nonlinearity, a)
    _check(weight, mask, mode=mode, scaling=scaling)
    _draw_(weight, gain=gain, distribution="uniform", mode=mode, generator=generator, layout=layout)
    return scale_to_mask_(weight, mask, mode=mode, scaling=scaling, layout=layout, live_inputs=live_inputs)


@checked()
def kaiming_truncated_normal_(
    weight: Tensor,
    mask: Tensor,
    *,
    a: float = 0,
    mode: Mode = "fan_in",
    nonlinearity: str = "leaky_relu",
    generator: torch.Generator | None = None,
    scaling: Scaling = "unit",
    layout: Layout = PLAIN,
    live_inputs: Tensor | None = None,
) -> Tensor:
    r"""He's normal initialisation cut at two standard deviations, widened so that the variance is right.

    .. math:: \mathrm{variance}(w_{ij}) = m_{ij}\, g^2 / n_i

    Arguments and errors as :func:`kaiming_normal_`.

    Returns: ``weight``; with ``mask.all()`` equal to ``torch.nn.init.trunc_normal_`` of standard deviation
    :math:`g / (0.8796 \sqrt{n})`, cut at two of them, bit for bit.

    Reference: protocol B.4-B.5: the "normal" of Keras' VarianceScaling, the paper's VGG16 base.

    >>> kaiming_truncated_normal_(torch.empty(1, 4), torch.tensor([[True, False, False, False]]))[0, 1:]
    tensor([0., 0., 0.])
    """
    gain = _gain(nonlinearity, a)
    _check(weight, mask, mode=mode, scaling=scaling)
    _draw_(weight, gain=gain, distribution="truncated_normal", mode=mode, generator=generator, layout=layout)
    return scale_to_mask_(weight, mask, mode=mode, scaling=scaling, layout=layout, live_inputs=live_inputs)


@checked()
def xavier_normal_(
    weight: Tensor,
    mask: Tensor,
    gain: float = 1.0,
    *,
    generator: torch.Generator | None = None,
    scaling: Scaling = "unit",
    layout: Layout = PLAIN,
    live_inputs: Tensor | None = None,
) -> Tensor:
    r"""Glorot's normal initialisation with the fans of each connection's own two ends, untruncated.

    .. math:: \mathrm{variance}(w_{ij}) = m_{ij}\, \frac{2 g^2}{n_i^{in} + n_j^{out}}

    Arguments and errors as :func:`kaiming_normal_`.

    Returns: ``weight``; with ``mask.all()`` equal to ``torch.nn.init.xavier_normal_`` bit for bit.

    Reference: Glorot and Bengio (2010); Evci et al. (2022), Eq. 2.

    >>> xavier_normal_(torch.empty(1, 4), torch.tensor([[True, False, False, False]]))[0, 1:]
    tensor([0., 0., 0.])
    """
    _check(weight, mask, mode="fan_avg", scaling=scaling)
    _draw_(weight, gain=gain, distribution="normal", mode="fan_avg", generator=generator, layout=layout)
    return scale_to_mask_(weight, mask, mode="fan_avg", scaling=scaling, layout=layout, live_inputs=live_inputs)


@checked()
def xavier_uniform_(
    weight: Tensor,
    mask: Tensor,
    gain: float = 1.0,
    *,
    generator: torch.Generator | None = None,
    scaling: Scaling = "unit",
    layout: Layout = PLAIN,
    live_inputs: Tensor | None = None,
) -> Tensor:
    r"""Glorot's uniform initialisation with the fans of each connection's own two ends.

    .. math:: w_{ij} = m_{ij} z_{ij},\quad z_{ij} \sim \mathcal{U}(-b_{ij}, b_{ij}),\quad
              b_{ij} = g \sqrt{6 / (n_i^{in} + n_j^{out})}

    Arguments and errors as :func:`kaiming_normal_`.

    Returns: ``weight``; with ``mask.all()`` equal to ``torch.nn.init.xavier_uniform_`` bit for bit.

    Reference: Glorot and Bengio (2010); Evci et al. (2022), Eq. 2: the base of the paper's MNIST runs.

    >>> xavier_uniform_(torch.empty(1, 4), torch.tensor([[True, False, False, False]]))[0, 1:]
    tensor([0., 0., 0.])
    """
    _check(weight, mask, mode="fan_avg", scaling=scaling)
    _draw_(weight, gain=gain, distribution="uniform", mode="fan_avg", generator=generator, layout=layout)
    return scale_to_mask_(weight, mask, mode="fan_avg", scaling=scaling, layout=layout, live_inputs=live_inputs)


#: Name -> function, for ``base=`` arguments and configs.
INITIALIZERS: dict[str, Callable[..., Tensor]] = {
    "kaiming_normal": kaiming_normal_,
    "kaiming_uniform": kaiming_uniform_,
    "kaiming_truncated_normal": kaiming_truncated_normal_,
    "xavier_normal": xavier_normal_,
    "xavier_uniform": xavier_uniform_,
}
