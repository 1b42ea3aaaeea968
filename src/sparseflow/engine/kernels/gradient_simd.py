"""The inner loop of a backward pass by inputs: what is read of the output's gradient serves both gradients."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types

from sparseflow.engine.kernels.vectors import (
    I32,
    PIECE,
    WIDTH,
    ZERO,
    Sums,
    Vectors,
    data,
    i64,
    integer,
    intrinsic,
    loop,
    whole_groups,
)  # fmt: skip


def both_gradients(count: int, *, masked: bool = False) -> Callable[..., None]:
    """``gx[y0 + n] = sum_k v_k g_k[n]`` and ``out[order[k]] = sum_n x[x0 + n] g_k[n]``, n < WIDTH * count.

    ``v_k = values[order[k]]`` and ``g_k`` begins at ``g[g0 + columns[k] * pitch]``, k in [begin, end). With
    ``adds_inputs`` and ``adds_weights`` the sums are added to what is there. ``masked``: n < length <= WIDTH * count.

    The vectors of ``x`` and ``gx`` stay in registers. Few of them would wait for each other, so then several nonzeros
    go side by side; their dot products are
    reduced together, and added up in pieces of PIECE numbers.
    """
    beside = max(1, 4 // count)
    together = 4
    piece = min(count, PIECE // WIDTH)
    pieces = count // piece

    @intrinsic
    def emit(
        typingctx: Any, values: Any, order: Any, columns: Any, begin: Any, end: Any, g: Any, g0: Any, pitch: Any,
        x: Any, x0: Any, gx: Any, y0: Any, out: Any, adds_inputs: Any, adds_weights: Any, length: Any,
    ) -> Any:  # fmt: skip
        signature = types.void(
            values, order, columns, begin, end, g, g0, pitch, x, x0, gx, y0, out, adds_inputs, adds_weights, length
        )

        def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            kinds = signature.args
            begin, end, pitch, adds_inputs, adds_weights, length = (arguments[i] for i in (3, 4, 7, 13, 14, 15))
            v = Vectors(builder, kinds[0])
            vs, places, c, outs = (data(context, builder, kinds[i], arguments[i]) for i in (0, 1, 2, 12))
            gs, xs, ys = (data(context, builder, kinds[i], arguments[i], arguments[i + 1]) for i in (5, 8, 10))
            tiles = v.tiles(count, length if masked else None)
            inputs = [v.load(v.at(xs, shift), mask) for shift, mask in tiles]
            totals = [[v.local(v.zero) for _ in range(count)] for _ in range(beside)]
            with builder.if_then(adds_inputs):
                for total, (shift, mask) in zip(totals[0], tiles, strict=True):
                    builder.store(v.load(v.at(ys, shift), mask), total)

            def meet(k: Any, several: int) -> None:
                wheres, products = [], Sums(builder)
                for t in range(several):
                    place = builder.add(k, i64(t))
                    wheres.append(integer(builder, v.at(places, place)))
                    value = v.splat(builder.load(v.at(vs, wheres[t])))
                    row = v.at(gs, builder.mul(integer(builder, v.at(c, place)), pitch))
                    dot = v.zero
                    for i, ((shift, mask), total) in enumerate(zip(tiles, totals[t % beside], strict=True)):
                        part = v.load(v.at(row, shift), mask)
                        builder.store(v.fma(value, part, builder.load(total)), total)
                        dot = v.fma(inputs[i], part, dot) if i % piece else builder.fmul(inputs[i], part)
                        if i % piece == piece - 1:
                            products.add(dot)
                dots = products.result()
                for t, where in enumerate(wheres):
                    place = v.at(outs, where)
                    total = builder.select(adds_weights, builder.load(place), ir.Constant(v.number, 0.0))
                    for p in range(pieces):
                        total = v.then(total, builder.extract_element(dots, ir.Constant(I32, pieces * t + p)))
                    builder.store(total, place)

            whole = whole_groups(builder, begin, end, together)
            with loop(builder, begin, whole, together) as k:
                meet(k, together)
            with loop(builder, whole, end) as k:
                meet(k, 1)
            for i, (shift, mask) in enumerate(tiles):
                total = builder.load(totals[0][i])
                for others in totals[1:]:
                    total = builder.fadd(total, builder.load(others[i]))
                v.store(total, v.at(ys, shift), mask)
            return context.get_dummy_value()

        return signature, codegen

    return emit


@intrinsic
def gated_sum(typingctx: Any, y: Any, y0: Any, g: Any, g0: Any, length: Any, start: Any) -> Any:
    """``start`` and the sum of ``g[g0 + n]``, n < length, after those with ``y[y0 + n] <= 0`` became 0.

    NaN of either stays. In pieces of PIECE numbers.
    """
    signature = g.dtype(y, y0, g, g0, length, start)

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kinds, length = signature.args, arguments[4]
        v = Vectors(builder, kinds[0])
        ys, gs = (data(context, builder, kinds[i], arguments[i], arguments[i + 1]) for i in (0, 2))
        total = v.local(arguments[5])

        def gate(place: Any, mask: Any = None) -> Any:
            shut = builder.fcmp_ordered("<=", v.load(v.at(ys, place), mask), v.zero)
            passed = builder.select(shut, v.zero, v.load(v.at(gs, place), mask))
            v.store(passed, v.at(gs, place), mask)
            return passed

        def add(numbers: Any) -> None:
            builder.store(v.then(builder.load(total), v.total(numbers)), total)

        whole = whole_groups(builder, ZERO, length, PIECE)
        with loop(builder, ZERO, whole, PIECE) as n:
            add(functools.reduce(builder.fadd, [gate(builder.add(n, shift)) for shift, _ in v.tiles(PIECE // v.width)]))
        with builder.if_then(builder.icmp_signed("<", whole, length)):
            rest = v.local(v.zero)
            with loop(builder, whole, length, v.width) as n:
                builder.store(builder.fadd(builder.load(rest), gate(n, v.first(builder.sub(length, n)))), rest)
            add(builder.load(rest))
        return builder.load(total)

    return signature, codegen
