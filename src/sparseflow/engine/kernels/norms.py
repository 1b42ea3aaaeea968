"""Batch normalisation with the batch innermost, alone or with what follows it: an addition and a ReLU.

A channel is ``length`` neighbouring numbers: its pixels times the batch. Each is read from memory once a pass, and
again from the cache. Channels [first, last) are computed, each by one thread, so threads change no bit.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparseflow.engine.kernels.compiling import kernel, part

Floats = NDArray[Any]
Doubles = NDArray[np.float64]


@part
def _moments(channel: Floats) -> tuple[float, float]:
    # Distances to the first number: its square is at most n times the variance, so the variance's relative error is
    # below n times float64's rounding, whatever the mean.
    origin = np.float64(channel[0])
    total, squares = 0.0, 0.0
    for n in range(channel.shape[0]):
        distance = np.float64(channel[n]) - origin
        total += distance
        squares += distance * distance
    shift = total / channel.shape[0]
    variance = squares / channel.shape[0] - shift * shift
    return origin + shift, 0.0 if variance < 0.0 else variance


@part
def _normalised(x: Any, mean: Any, scale: Any, bias: Any) -> Any:
    return (x - mean) * scale + bias


@kernel
def batch_norm(
    x: Floats, other: Floats, y: Floats, length: int, weight: Floats, bias: Floats, epsilon: float,
    mean: Doubles, variance: Doubles, measures: bool, rectifies: bool, first: int, last: int,
) -> None:  # fmt: skip
    r"""Normalised channels, plus another tensor, through a ReLU.

    .. math:: y_{c,n} = \max(0,\ (x_{c,n} - m_c)\, w_c / \sqrt{v_c + \epsilon} + b_c + o_{c,n})

    Args:
        x, y: ``(channels, length)``, flat; input and output.
        other: As ``x``, or empty for none.
        weight, bias: ``(channels,)``, or empty for 1 and 0.
        mean, variance: ``(channels,)``: m and v. With ``measures`` they are written: those of each channel, the
            variance biased.
        rectifies: Whether there is a ReLU. NaN stays NaN.
    """
    number = y.dtype.type
    zero = number(0)
    for c in range(first, last):
        a, b = c * length, (c + 1) * length
        given, out = x[a:b], y[a:b]
        if measures:
            mean[c], variance[c] = _moments(given)
        deviation = 1.0 / np.sqrt(variance[c] + epsilon)
        scale = (np.float64(weight[c]) if weight.shape[0] else 1.0) * deviation
        m, s, t = number(mean[c]), number(scale), bias[c] if bias.shape[0] else zero
        if other.shape[0]:
            more = other[a:b]
            if rectifies:
                for n in range(length):
                    value = _normalised(given[n], m, s, t) + more[n]
                    out[n] = zero if value <= zero else value
            else:
                for n in range(length):
                    out[n] = _normalised(given[n], m, s, t) + more[n]
        elif rectifies:
            for n in range(length):
                value = _normalised(given[n], m, s, t)
                out[n] = zero if value <= zero else value
        else:
            for n in range(length):
                out[n] = _normalised(given[n], m, s, t)


@part
def _products(g: Floats, x: Floats, mean: float) -> tuple[float, float]:
    total, product = 0.0, 0.0
    for n in range(g.shape[0]):
        gradient = np.float64(g[n])
        total += gradient
        product += gradient * (np.float64(x[n]) - mean)
    return total, product


@kernel
def batch_norm_backward(
    g: Floats, x: Floats, y: Floats, gx: Floats, gated: Floats, length: int, weight: Floats, bias: Floats,
    epsilon: float, mean: Doubles, variance: Doubles, measured: bool, rectified: bool,
    weight_gradient: Floats, bias_gradient: Floats, first: int, last: int,
) -> None:  # fmt: skip
    r"""Gradients of :func:`batch_norm`, where :math:`h = g` where y > 0, or everywhere without a ReLU.

    .. math::
        \partial b_c = \sum_n h_{c,n}, \quad
        \partial w_c = \frac{1}{\sqrt{v_c + \epsilon}} \sum_n h_{c,n} (x_{c,n} - m_c), \quad
        \partial o = h, \quad
        \partial x_{c,n} = \frac{w_c}{\sqrt{v_c + \epsilon}} \Bigl(h_{c,n} - \frac{\partial b_c}{N}
        - \frac{x_{c,n} - m_c}{\sqrt{v_c + \epsilon}} \frac{\partial w_c}{N}\Bigr)

    The last two terms are those of measured moments.

    Args:
        g, x, gx: ``(channels, length)``, flat: the output's gradient, the input, and its gradient, which may be empty.
        y: The output, behind a ReLU and an addition; else empty, and its sign is computed anew.
        gated: The same: h is written here, or empty if nobody wants it.
        measured: Whether mean and variance were those of ``x``.
        rectified: Whether there was a ReLU.
    """
    number = x.dtype.type
    zero = number(0)
    own = np.empty(length if rectified and not gated.shape[0] else 0, x.dtype)
    for c in range(first, last):
        a, b = c * length, (c + 1) * length
        given, gradient = x[a:b], g[a:b]
        deviation = 1.0 / np.sqrt(variance[c] + epsilon)
        scale = (np.float64(weight[c]) if weight.shape[0] else 1.0) * deviation
        m, s = number(mean[c]), number(scale)
        if rectified:
            cut = gated[a:b] if gated.shape[0] else own
            if y.shape[0]:
                result = y[a:b]
                for n in range(length):
                    cut[n] = zero if result[n] <= zero else gradient[n]
            else:
                t = bias[c] if bias.shape[0] else zero
                for n in range(length):
                    cut[n] = zero if _normalised(given[n], m, s, t) <= zero else gradient[n]
            gradient = cut
        total, product = _products(gradient, given, mean[c])
        weight_gradient[c], bias_gradient[c] = number(product * deviation), number(total)
        if gx.shape[0]:
            out = gx[a:b]
            if measured:
                shift = number(scale * total / length)
                slope = number(scale * deviation * deviation * product / length)
                for n in range(length):
                    out[n] = s * gradient[n] - (given[n] - m) * slope - shift
            else:
                for n in range(length):
                    out[n] = s * gradient[n]
