"""The inner loops of products with blocks of four outputs: what is read of an input serves all four."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types

from sparseflow.engine.kernels.vectors import (
    I32,
    I64,
    WIDTH,
    ZERO,
    Sums,
    Vectors,
    collected,
    data,
    i64,
    integer,
    intrinsic,
    loop,
    splat,
    sums,
    unsigned,
    whole_groups,
)  # fmt: skip

#: Outputs of a block.
HEIGHT = 4


def block_sum(count: int, *, width: int = WIDTH, masked: bool = False) -> Callable[..., None]:
    """``y[y0 + j * y_pitch + n] = max(floor, start[s0 + j] + sum_k values[v0 + j * blocks + k] * x_k[n])``.

    ``x_k`` begins at ``x[x0 + columns[begin + k] * pitch]``; j < 4, k < blocks, n < width * count; without ``started``
    the sums start from 0. ``masked``: n < length <= width * count.
    """
    beside = 1 if count > 1 else 2

    @intrinsic
    def emit(
        typingctx: Any, values: Any, v0: Any, columns: Any, begin: Any, blocks: Any, x: Any, x0: Any, pitch: Any,
        y: Any, y0: Any, y_pitch: Any, start: Any, s0: Any, started: Any, floor: Any, length: Any,
    ) -> Any:  # fmt: skip
        signature = types.void(
            values, v0, columns, begin, blocks, x, x0, pitch, y, y0, y_pitch, start, s0, started, floor, length
        )

        def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            kinds = signature.args
            blocks, pitch, y_pitch, started, floor, length = (arguments[i] for i in (4, 7, 10, 13, 14, 15))
            v = Vectors(builder, kinds[0], width)
            vs, c, xs, ys, biases = (
                data(context, builder, kinds[i], arguments[i], arguments[i + 1]) for i in (0, 2, 5, 8, 11)
            )
            tiles = v.tiles(count, length if masked else None)
            streams = [v.at(vs, builder.mul(blocks, i64(j))) for j in range(HEIGHT)]
            totals = [[[v.local(v.zero) for _ in range(count)] for _ in range(HEIGHT)] for _ in range(beside)]
            with builder.if_then(started):
                for j, row in enumerate(totals[0]):
                    bias = v.splat(builder.load(v.at(biases, j)))
                    for total in row:
                        builder.store(bias, total)

            def add(k: Any, sums: list[list[Any]]) -> None:
                row = v.at(xs, builder.mul(integer(builder, v.at(c, k)), pitch))
                parts = [v.load(v.at(row, shift), mask) for shift, mask in tiles]
                for stream, several in zip(streams, sums, strict=True):
                    value = v.splat(builder.load(v.at(stream, k)))
                    for part, total in zip(parts, several, strict=True):
                        builder.store(v.fma(value, part, builder.load(total)), total)

            whole = whole_groups(builder, ZERO, blocks, beside)
            with loop(builder, ZERO, whole, beside) as k:
                for u, sums in enumerate(totals):
                    add(builder.add(k, i64(u)), sums)
            if beside > 1:
                with loop(builder, whole, blocks) as k:
                    add(k, totals[0])
            least = v.splat(floor)
            for j in range(HEIGHT):
                place = v.at(ys, builder.mul(y_pitch, i64(j)))
                for i, (shift, mask) in enumerate(tiles):
                    total = builder.load(totals[0][j][i])
                    for others in totals[1:]:
                        total = builder.fadd(total, builder.load(others[j][i]))
                    total = builder.select(builder.fcmp_ordered("<", total, least), least, total)
                    v.store(total, v.at(place, shift), mask)
            return context.get_dummy_value()

        return signature, codegen

    return emit


def block_gradient(count: int, *, inputs: bool, masked: bool = False) -> Callable[..., None]:
    """``out[v0 + j * stream + k] = sum_n g_j[n] x_k[n]``, and with ``inputs`` ``gx_k[n] += sum_j v_jk g_j[n]``.

    ``g_j`` begins at ``g[g0 + j * g_pitch]``, ``x_k`` at ``x[x0 + columns[begin + k] * pitch]`` and ``gx_k`` at
    ``gx[y0 + y_columns[begin + k] * pitch]``; values lie as their gradients do. j < 4, k < blocks, n < WIDTH * count.
    With ``adds`` dot products are added to ``out``. ``masked``: n < length <= WIDTH * count.

    The four rows of ``g`` stay in registers; the dot products of several blocks are reduced together.
    """
    together = WIDTH // HEIGHT  # their sums fill a vector

    @intrinsic
    def emit(
        typingctx: Any, values: Any, v0: Any, stream: Any, columns: Any, y_columns: Any, begin: Any, blocks: Any,
        g: Any, g0: Any, g_pitch: Any, x: Any, x0: Any, gx: Any, y0: Any, pitch: Any, out: Any, adds: Any, length: Any,
    ) -> Any:  # fmt: skip
        signature = types.void(
            values,
            v0,
            stream,
            columns,
            y_columns,
            begin,
            blocks,
            g,
            g0,
            g_pitch,
            x,
            x0,
            gx,
            y0,
            pitch,
            out,
            adds,
            length,
        )

        def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            kinds = signature.args
            v0, stream, begin, blocks = (arguments[i] for i in (1, 2, 5, 6))
            g_pitch, pitch, adds, length = (arguments[i] for i in (9, 14, 16, 17))
            v = Vectors(builder, kinds[7])

            def pointer(i: int, offset: Any) -> Any:
                return data(context, builder, kinds[i], arguments[i], offset)

            vs, c, yc, outs = pointer(0, v0), pointer(3, begin), pointer(4, begin), pointer(15, v0)
            gs, xs, ys = (pointer(i, arguments[i + 1]) for i in (7, 10, 12))
            tiles = v.tiles(count, length if masked else None)
            rows = [v.at(gs, builder.mul(g_pitch, i64(j))) for j in range(HEIGHT)]
            met = [[v.load(v.at(row, shift), mask) for shift, mask in tiles] for row in rows]
            streams = [builder.mul(stream, i64(j)) for j in range(HEIGHT)]

            def products(k: Any, several: int) -> Any:
                """The dot products of ``several`` blocks, four of each."""
                dots = Sums(builder)
                for t in range(several):
                    block = builder.add(k, i64(t))
                    row = v.at(xs, builder.mul(integer(builder, v.at(c, block)), pitch))
                    place = v.at(ys, builder.mul(integer(builder, v.at(yc, block)), pitch)) if inputs else None
                    weights = [v.splat(builder.load(v.at(vs, builder.add(s, block)))) for s in streams if inputs]
                    totals, grown = [], []
                    for i, (shift, mask) in enumerate(tiles):
                        part = v.load(v.at(row, shift), mask)
                        if i == 0:
                            totals = [builder.fmul(part, gradients[0]) for gradients in met]
                        else:
                            totals = [v.fma(part, met[j][i], total) for j, total in enumerate(totals)]
                        if inputs:
                            grown.append(v.load(v.at(place, shift), mask))
                            for weight, gradients in zip(weights, met, strict=True):
                                grown[i] = v.fma(weight, gradients[i], grown[i])
                    # Last: what is loaded after a store waits for it, in case that it is the same.
                    for total, (shift, mask) in zip(grown, tiles, strict=inputs):
                        v.store(total, v.at(place, shift), mask)
                    for total in totals:
                        dots.add(total)
                return dots.result()

            def keep(dots: Any, k: Any, several: int) -> None:
                own = Vectors(builder, kinds[7], several)
                # Of a mask and not of a condition, which would be a branch with half of the arithmetic behind it.
                before = splat(builder, adds, several)
                for j, stream in enumerate(streams):
                    place = v.at(outs, builder.add(stream, k))
                    lanes = ir.Constant(ir.VectorType(I32, several), [HEIGHT * t + j for t in range(several)])
                    dot = builder.shuffle_vector(dots, dots, lanes)
                    own.store(own.then(own.load(place, before), dot), place)

            whole = whole_groups(builder, ZERO, blocks, together)
            with loop(builder, ZERO, whole, together) as k:
                keep(products(k, together), k, together)
            with loop(builder, whole, blocks) as k:
                keep(products(k, 1), k, 1)
            return context.get_dummy_value()

        return signature, codegen

    return emit


#: Blocks whose inputs make one vector in :func:`block_dot`.
_GATHERED = 8


@intrinsic
def block_dot(
    typingctx: Any, values: Any, v0: Any, columns: Any, begin: Any, blocks: Any, x: Any,
    y: Any, y0: Any, start: Any, s0: Any, started: Any, floor: Any,
) -> Any:  # fmt: skip
    """``y[y0 + j] = max(floor, start[s0 + j] + sum_k values[v0 + j * blocks + k] * x[columns[begin + k]])``, j < 4.

    Inputs are collected into vectors, which serve the four outputs; columns are read as unsigned.
    """
    signature = types.void(values, v0, columns, begin, blocks, x, y, y0, start, s0, started, floor)

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kinds, blocks, started, floor = signature.args, *(arguments[i] for i in (4, 10, 11))
        wide, four = Vectors(builder, kinds[0], _GATHERED), Vectors(builder, kinds[0], HEIGHT)
        vs, c, ys, biases = (data(context, builder, kinds[i], arguments[i], arguments[i + 1]) for i in (0, 2, 6, 8))
        xs = data(context, builder, kinds[5], arguments[5])
        streams = [wide.at(vs, builder.mul(blocks, i64(j))) for j in range(HEIGHT)]
        totals = [wide.local(wide.zero) for _ in streams]
        rest = four.local(four.zero)
        with builder.if_then(started):
            builder.store(four.load(biases), rest)

        whole = whole_groups(builder, ZERO, blocks, _GATHERED)
        with loop(builder, ZERO, whole, _GATHERED) as k:
            places = unsigned(builder, wide.at(c, k), _GATHERED)
            inputs = collected(builder, [wide.at(xs, place) for place in places], wide)
            for stream, total in zip(streams, totals, strict=True):
                builder.store(wide.fma(wide.load(wide.at(stream, k)), inputs, builder.load(total)), total)
        with loop(builder, whole, blocks) as k:
            each = collected(builder, [four.at(stream, k) for stream in streams], four)
            shared = builder.load(four.at(xs, builder.zext(builder.load(four.at(c, k)), I64)))
            builder.store(four.fma(each, four.splat(shared), builder.load(rest)), rest)
        result = builder.fadd(builder.load(rest), sums(builder, [builder.load(total) for total in totals]))
        least = four.splat(floor)
        four.store(builder.select(builder.fcmp_ordered("<", result, least), least, result), ys)
        return context.get_dummy_value()

    return signature, codegen
