"""The two ends of a plan: images turned batch-innermost, and softmax cross-entropy with its gradient."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic
from numpy.typing import NDArray

from sparseflow.engine.kernels.compiling import part

Floats = NDArray[Any]
Integers = NDArray[np.int64]

#: Examples and numbers of a tile that is transposed in registers.
SIDE = 8


@intrinsic
def _transpose_tile(
    typingctx: Any, x: Any, rows: Any, n: Any, size: Any, f: Any, y: Any, y0: Any, step: Any
) -> Any:  # fmt: skip
    """``y[y0 + j * step + i] = x[rows[n + i] * size + f + j]``, i and j < SIDE."""
    signature = types.void(x, rows, n, size, f, y, y0, step)

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kinds = signature.args
        first, stride, column, place, distance = (arguments[k] for k in (2, 3, 4, 6, 7))
        number, bytes_each = (ir.FloatType(), 4) if kinds[0].dtype == types.float32 else (ir.DoubleType(), 8)
        vector = ir.VectorType(number, SIDE)
        data = {k: context.make_array(kinds[k])(context, builder, arguments[k]).data for k in (0, 1, 5)}
        rows = []
        for i in range(SIDE):
            row = builder.load(builder.gep(data[1], [builder.add(first, ir.Constant(ir.IntType(64), i))]))
            start = builder.gep(data[0], [builder.add(builder.mul(row, stride), column)])
            loaded = builder.load(builder.bitcast(start, vector.as_pointer()))
            loaded.align = bytes_each
            rows.append(loaded)
        half = SIDE // 2
        mix = [lane // 2 + SIDE * (lane % 2) for lane in range(SIDE)]
        low = ir.Constant(ir.VectorType(ir.IntType(32), SIDE), mix)
        high = ir.Constant(ir.VectorType(ir.IntType(32), SIDE), [lane + half for lane in mix])
        # Three times each row interleaved with the one half the rows further: a perfect shuffle, which is a transpose.
        for _ in range(SIDE.bit_length() - 1):
            pairs = list(zip(rows[:half], rows[half:], strict=True))
            rows = [builder.shuffle_vector(a, b, part) for a, b in pairs for part in (low, high)]
        for j, row in enumerate(rows):
            shift = builder.add(place, builder.mul(distance, ir.Constant(ir.IntType(64), j)))
            target = builder.bitcast(builder.gep(data[5], [shift]), vector.as_pointer())
            builder.store(row, target).align = bytes_each
        return context.get_dummy_value()

    return signature, codegen


@part
def take_images(
    images: Floats, chosen: Integers, begin: int, size: int, x: Floats, x0: int, pitch: int, x_row: int,
    channels: int, rows: int, length: int, batch: int,
) -> None:  # fmt: skip
    """Images ``chosen[begin], ...``, of ``size`` numbers each, become ``(channels, rows, length, batch)``."""
    whole_n, whole_f = batch - batch % SIDE, length - length % SIDE
    for c in range(channels):
        for i in range(rows):
            source, target = (c * rows + i) * length, x0 + c * pitch + i * x_row
            for f in range(0, whole_f, SIDE):
                for n in range(0, whole_n, SIDE):
                    _transpose_tile(  # type: ignore[call-arg]
                        images, chosen, begin + n, size, source + f, x, target + f * batch + n, np.int64(batch)
                    )
            for n in range(batch):
                image = chosen[begin + n] * size + source
                for f in range(whole_f if n < whole_n else 0, length):
                    x[target + f * batch + n] = images[image + f]


@part
def take(
    storage: Floats, begin: int, total: int, x: Floats, x0: int, pitch: int, x_row: int,
    channels: int, rows: int, length: int, batch: int,
) -> None:  # fmt: skip
    """Copy examples ``begin, ...`` of ``(channels, rows, length, total)`` into the workspace."""
    for c in range(channels):
        for i in range(rows):
            source, target = ((c * rows + i) * length) * total + begin, x0 + c * pitch + i * x_row
            for f in range(length):
                a, b = source + f * total, target + f * batch
                x[b : b + batch] = storage[a : a + batch]


@part
def give(
    x: Floats, x0: int, pitch: int, x_row: int, channels: int, rows: int, length: int, batch: int,
    storage: Floats, begin: int, total: int,
) -> None:  # fmt: skip
    """Copy the workspace to examples ``begin, ...`` of ``(channels, rows, length, total)``."""
    for c in range(channels):
        for i in range(rows):
            target, source = ((c * rows + i) * length) * total + begin, x0 + c * pitch + i * x_row
            for f in range(length):
                a, b = source + f * batch, target + f * total
                storage[b : b + batch] = x[a : a + batch]


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
