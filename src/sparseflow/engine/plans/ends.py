"""The two ends of a program: examples in and out of the workspace, and softmax cross-entropy with its gradient."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic
from numpy.typing import NDArray

from sparseflow.engine.kernels.compiling import part
from sparseflow.engine.kernels.transpose import transpose, transpose_chosen

Floats = NDArray[Any]
Integers = NDArray[np.int64]


@part
def _is_gapless(pitch: int, x_row: int, rows: int, length: int, batch: int) -> bool:
    # Then all numbers of an example are one long row.
    return pitch == rows * length * batch and (rows == 1 or x_row == length * batch)


@part
def take(
    given: Floats, begin: int, total: int, chosen: Integers, inner: bool,
    x: Floats, x0: int, pitch: int, x_row: int, channels: int, rows: int, length: int, batch: int,
) -> None:  # fmt: skip
    """Copy examples ``chosen[begin], ...`` into the workspace, as ``(channels, rows, length, batch)``.

    ``given`` is ``(examples, numbers)``. Where ``inner`` it is ``(numbers, total)``, and all of them are chosen.
    """
    if inner:
        for c in range(channels):
            for i in range(rows):
                source, target = ((c * rows + i) * length) * total + begin, x0 + c * pitch + i * x_row
                for f in range(length):
                    a, b = source + f * total, target + f * batch
                    x[b : b + batch] = given[a : a + batch]
        return
    size = channels * rows * length
    if _is_gapless(pitch, x_row, rows, length, batch):
        channels, rows, length = 1, 1, size
    for c in range(channels):
        for i in range(rows):
            source, target = (c * rows + i) * length, x0 + c * pitch + i * x_row
            transpose_chosen(given, size, chosen, begin, source, batch, length, x, target, batch)


@part
def give(
    x: Floats, x0: int, pitch: int, x_row: int, channels: int, rows: int, length: int, batch: int,
    out: Floats, begin: int, total: int, inner: bool,
) -> None:  # fmt: skip
    """Copy the workspace to examples ``begin, ...`` of ``out``: arguments as :func:`take`."""
    if inner:
        for c in range(channels):
            for i in range(rows):
                target, source = ((c * rows + i) * length) * total + begin, x0 + c * pitch + i * x_row
                for f in range(length):
                    a, b = source + f * batch, target + f * total
                    out[b : b + batch] = x[a : a + batch]
        return
    size = channels * rows * length
    if _is_gapless(pitch, x_row, rows, length, batch):
        channels, rows, length = 1, 1, size
    for c in range(channels):
        for i in range(rows):
            target, source = begin * size + (c * rows + i) * length, x0 + c * pitch + i * x_row
            transpose(x, source, batch, length, batch, out, target, size)


@intrinsic
def _power_of_two(typingctx: Any, k: Any) -> Any:
    """``2 ** k`` of a float64 that holds a whole number in [-1022, 1023]."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        # The sum's lowest bits are k + 1023, the exponent's.
        shifted = builder.fadd(arguments[0], ir.Constant(ir.DoubleType(), 1.5 * 2.0**52 + 1023))
        bits = builder.shl(builder.bitcast(shifted, ir.IntType(64)), ir.Constant(ir.IntType(64), 52))
        return builder.bitcast(bits, ir.DoubleType())

    return types.float64(types.float64), codegen


_LOG2_E, _LN2_HIGH, _LN2_LOW = 1.4426950408889634, 6.93147180369123816490e-01, 1.90821492927058770002e-10
#: 1 / n! from 13 down: exp by its series on [-ln 2 / 2, ln 2 / 2] to the last bit but one of float64.
_SERIES = tuple(1 / math.factorial(n) for n in range(13, -1, -1))


@part
def _exp(x: float) -> float:
    # The mathematical library's exp is not the same function in every process, and does not vectorise.
    bounded = -708.0 if x < -708.0 else x
    k = np.floor(bounded * _LOG2_E + 0.5)
    r = (bounded - k * _LN2_HIGH) - k * _LN2_LOW
    total = _SERIES[0]
    for n in range(1, len(_SERIES)):
        total = total * r + _SERIES[n]
    return total * _power_of_two(k)  # type: ignore[call-arg]


@part
def _log(x: float) -> float:
    # Halley's method for exp(y) = x, from the series of 2 artanh; x in [1, 2^64).
    y = 0.0
    while x >= 1.5:
        x *= 0.5
        y += 1.0
    z = (x - 1) / (x + 1)
    near = 2 * z + (2 / 3) * z * z * z
    for _ in range(2):
        e = _exp(near)
        near += 2 * (x - e) / (x + e)
    return near + y * 0.6931471805599453


@part
def cross_entropy(
    x: Floats, z0: int, classes: int, batch: int, labels: Integers, chosen: Integers, begin: int,
    g0: int, scale: float,
) -> float:  # fmt: skip
    """Sum over the examples of softmax cross-entropy, in nats; ``scale`` times its gradient goes to ``g0``."""
    top, summed = np.empty(batch, np.float64), np.zeros(batch, np.float64)
    top[:] = x[z0 : z0 + batch]
    for c in range(1, classes):
        z = x[z0 + c * batch : z0 + (c + 1) * batch]
        for n in range(batch):
            top[n] = z[n] if z[n] > top[n] else top[n]
    for c in range(classes):
        z, g = x[z0 + c * batch : z0 + (c + 1) * batch], x[g0 + c * batch : g0 + (c + 1) * batch]
        for n in range(batch):
            weight = _exp(z[n] - top[n])
            g[n] = weight
            summed[n] += weight
    for c in range(classes):
        g = x[g0 + c * batch : g0 + (c + 1) * batch]
        for n in range(batch):
            g[n] = g[n] * (scale / summed[n])
    total = 0.0
    for n in range(batch):
        label = labels[chosen[begin + n]]
        x[g0 + label * batch + n] -= x.dtype.type(scale)
        total += _log(summed[n]) + top[n] - x[z0 + label * batch + n]
    return total
