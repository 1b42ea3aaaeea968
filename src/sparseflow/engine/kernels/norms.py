"""Batch normalisation with the batch innermost, alone or with what follows it: an addition and a ReLU.

An image is where :mod:`sparseflow.engine.kernels.pooling` has it: the place of its first pixel, the numbers from one
channel to the next and from one row of pixels to the next. A channel is ``rows`` rows of ``length`` neighbouring
numbers: pixels times the batch. Each is read from memory once a pass, and again from the cache. Channels [first, last)
are computed, each by one thread, so threads change no bit.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparseflow.engine.kernels.compiling import kernel, part

Floats = NDArray[Any]
Doubles = NDArray[np.float64]


@part
def _moments(x: Floats, begin: int, x_row: int, rows: int, length: int) -> tuple[float, float]:
    # Distances to the first number: its square is at most n times the variance, so the variance's relative error is
    # below n times float64's rounding, whatever the mean.
    origin = np.float64(x[begin])
    total, squares = 0.0, 0.0
    for i in range(rows):
        row = x[begin + i * x_row : begin + i * x_row + length]
        for n in range(length):
            distance = np.float64(row[n]) - origin
            total += distance
            squares += distance * distance
    count = rows * length
    shift = total / count
    variance = squares / count - shift * shift
    return origin + shift, 0.0 if variance < 0.0 else variance


@part
def _normalised(x: Any, mean: Any, scale: Any, bias: Any) -> Any:
    return (x - mean) * scale + bias


@kernel
def batch_norm(
    x: Floats, x0: int, x_pitch: int, x_row: int, other: Floats, o0: int, o_pitch: int, o_row: int, adds: bool,
    y: Floats, y0: int, y_pitch: int, y_row: int, rows: int, length: int, weight: Floats, bias: Floats, epsilon: float,
    mean: Doubles, variance: Doubles, measures: bool, rectifies: bool, first: int, last: int,
) -> None:  # fmt: skip
    r"""Normalised channels, plus another image, through a ReLU.

    .. math:: y_{c,n} = \max(0,\ (x_{c,n} - m_c)\, w_c / \sqrt{v_c + \epsilon} + b_c + o_{c,n})

    Args:
        x, y: Input and output.
        other: What is added, where ``adds``.
        weight, bias: ``(channels,)``, or empty for 1 and 0.
        mean, variance: ``(channels,)``: m and v. With ``measures`` they are written: those of each channel, the
            variance biased.
        rectifies: Whether there is a ReLU. NaN stays NaN.
    """
    number = y.dtype.type
    zero = number(0)
    for c in range(first, last):
        if measures:
            mean[c], variance[c] = _moments(x, x0 + c * x_pitch, x_row, rows, length)
        deviation = 1.0 / np.sqrt(variance[c] + epsilon)
        scale = (np.float64(weight[c]) if weight.shape[0] else 1.0) * deviation
        m, s, t = number(mean[c]), number(scale), bias[c] if bias.shape[0] else zero
        for i in range(rows):
            a, b = x0 + c * x_pitch + i * x_row, y0 + c * y_pitch + i * y_row
            given, out = x[a : a + length], y[b : b + length]
            if adds:
                d = o0 + c * o_pitch + i * o_row
                more = other[d : d + length]
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
    g: Floats, g0: int, g_pitch: int, g_row: int, x: Floats, x0: int, x_pitch: int, x_row: int,
    y: Floats, y0: int, y_pitch: int, y_row: int, added: bool,
    gx: Floats, gx0: int, gx_pitch: int, gx_row: int, wants_x: bool,
    gated: Floats, h0: int, h_pitch: int, h_row: int, wants_gated: bool, rows: int, length: int,
    weight: Floats, bias: Floats, epsilon: float, mean: Doubles, variance: Doubles, measured: bool, rectified: bool,
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
        g, x, gx: The output's gradient, the input, and its gradient, which is written where ``wants_x``.
        y: The output, read behind a ReLU where something was ``added``; else its sign is computed anew.
        gated: h, written where ``wants_gated``, behind a ReLU.
        measured: Whether mean and variance were those of ``x``.
        rectified: Whether there was a ReLU.
        weight_gradient, bias_gradient: ``(channels,)``, added to; empty where there is no such parameter.
    """
    number = x.dtype.type
    zero = number(0)
    keeps = wants_gated and rectified
    own = np.empty(rows * length if rectified and not keeps else 0, x.dtype)
    for c in range(first, last):
        deviation = 1.0 / np.sqrt(variance[c] + epsilon)
        scale = (np.float64(weight[c]) if weight.shape[0] else 1.0) * deviation
        m, s, t = number(mean[c]), number(scale), bias[c] if bias.shape[0] else zero
        total, product = 0.0, 0.0
        for i in range(rows):
            a, b = x0 + c * x_pitch + i * x_row, g0 + c * g_pitch + i * g_row
            given, gradient = x[a : a + length], g[b : b + length]
            if rectified:
                d = h0 + c * h_pitch + i * h_row
                cut = gated[d : d + length] if keeps else own[i * length : (i + 1) * length]
                if added:
                    e = y0 + c * y_pitch + i * y_row
                    result = y[e : e + length]
                    for n in range(length):
                        cut[n] = zero if result[n] <= zero else gradient[n]
                else:
                    for n in range(length):
                        cut[n] = zero if _normalised(given[n], m, s, t) <= zero else gradient[n]
                gradient = cut
            sums = _products(gradient, given, mean[c])
            total += sums[0]
            product += sums[1]
        if weight_gradient.shape[0]:
            weight_gradient[c] += number(product * deviation)
        if bias_gradient.shape[0]:
            bias_gradient[c] += number(total)
        if not wants_x:
            continue
        count = rows * length
        shift = number(scale * total / count) if measured else zero
        slope = number(scale * deviation * deviation * product / count) if measured else zero
        for i in range(rows):
            a, b = x0 + c * x_pitch + i * x_row, gx0 + c * gx_pitch + i * gx_row
            given, out = x[a : a + length], gx[b : b + length]
            if keeps:
                d = h0 + c * h_pitch + i * h_row
                gradient = gated[d : d + length]
            elif rectified:
                gradient = own[i * length : (i + 1) * length]
            else:
                d = g0 + c * g_pitch + i * g_row
                gradient = g[d : d + length]
            if measured:
                for n in range(length):
                    out[n] = s * gradient[n] - (given[n] - m) * slope - shift
            else:
                for n in range(length):
                    out[n] = s * gradient[n]
