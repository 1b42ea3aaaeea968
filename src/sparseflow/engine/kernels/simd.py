"""The inner loops of the engine as vector code: weighted sums of rows, and several dot products at once.

LLVM vectorises plain loops, but keeps no sums in registers across a loop over nonzeros. These emit the vectors and
their sums directly; a sum is loaded and stored once for all nonzeros of a row.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types

from sparseflow.engine.kernels.vectors import (
    I32,
    I64,
    PIECE,
    WIDTH,
    ZERO,
    Sums,
    Vectors,
    cgutils,
    collected,
    data,
    i64,
    integer,
    intrinsic,
    loop,
    pick,
    sums,
    unsigned,
    whole_groups,
)  # fmt: skip


def weighted_sum(count: int, *, width: int = WIDTH, masked: bool = False) -> Callable[..., None]:
    """``y[y0 + n] = max(floor, start + sum_k values[k] * x[x0 + columns[k] * pitch + n])``, n < width * count.

    k runs over [begin, end); ``start`` is a number, or with ``accumulate`` what ``y`` holds. ``masked``: n < length <=
    width * count. Few sums would wait for each other, so then several nonzeros go side by side.
    """
    beside = max(1, 4 // count)

    @intrinsic
    def emit(
        typingctx: Any, values: Any, columns: Any, begin: Any, end: Any, x: Any, x0: Any, pitch: Any,
        y: Any, y0: Any, start: Any, accumulate: Any, floor: Any, length: Any,
    ) -> Any:  # fmt: skip
        signature = types.void(values, columns, begin, end, x, x0, pitch, y, y0, start, accumulate, floor, length)

        def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            kinds = signature.args
            begin, end, pitch, start, accumulate, floor, length = (arguments[i] for i in (2, 3, 6, 9, 10, 11, 12))
            v = Vectors(builder, kinds[0], width)
            vs, c = (data(context, builder, kinds[i], arguments[i]) for i in (0, 1))
            xs, ys = (data(context, builder, kinds[i], arguments[i], arguments[i + 1]) for i in (4, 7))
            tiles = v.tiles(count, length if masked else None)
            totals = [[v.local(v.zero) for _ in tiles] for _ in range(beside)]
            with builder.if_else(accumulate) as (then, otherwise):
                with then:
                    for total, (shift, mask) in zip(totals[0], tiles, strict=True):
                        builder.store(v.load(v.at(ys, shift), mask), total)
                with otherwise:
                    for total in totals[0]:
                        builder.store(v.splat(start), total)

            def add(k: Any, several: list[Any]) -> None:
                value = v.splat(builder.load(v.at(vs, k)))
                row = v.at(xs, builder.mul(integer(builder, v.at(c, k)), pitch))
                for total, (shift, mask) in zip(several, tiles, strict=True):
                    builder.store(v.fma(value, v.load(v.at(row, shift), mask), builder.load(total)), total)

            whole = whole_groups(builder, begin, end, beside)
            with loop(builder, begin, whole, beside) as k:
                for u, several in enumerate(totals):
                    add(builder.add(k, i64(u)), several)
            if beside > 1:
                with loop(builder, whole, end) as k:
                    add(k, totals[0])
            least = v.splat(floor)
            for i, (shift, mask) in enumerate(tiles):
                total = builder.load(totals[0][i])
                for others in totals[1:]:
                    total = builder.fadd(total, builder.load(others[i]))
                total = builder.select(builder.fcmp_ordered("<", total, least), least, total)
                v.store(total, v.at(ys, shift), mask)
            return context.get_dummy_value()

        return signature, codegen

    return emit


def span_dots(count: int) -> Callable[..., None]:
    """``out[k] += sum_n g[g0 + n] * x[x0 + columns[k] * pitch + n]``, n < WIDTH * count, k in [begin, end).

    The span of ``g`` stays in registers; the dot products of four nonzeros are reduced together, and added up in
    pieces of PIECE numbers.
    """
    piece = min(count, PIECE // WIDTH)
    pieces = count // piece

    @intrinsic
    def emit(
        typingctx: Any, g: Any, g0: Any, columns: Any, begin: Any, end: Any, x: Any, x0: Any, pitch: Any, out: Any
    ) -> Any:
        signature = types.void(g, g0, columns, begin, end, x, x0, pitch, out)

        def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            kinds = signature.args
            begin, end, pitch = (arguments[i] for i in (3, 4, 7))
            v = Vectors(builder, kinds[0])
            c, outs = (data(context, builder, kinds[i], arguments[i]) for i in (2, 8))
            gs, xs = (data(context, builder, kinds[i], arguments[i], arguments[i + 1]) for i in (0, 5))
            span = [v.load(v.at(gs, shift)) for shift, _ in v.tiles(count)]

            def dots(k: Any, several: int) -> None:
                found = Sums(builder)
                for t in range(several):
                    row = v.at(xs, builder.mul(integer(builder, v.at(c, builder.add(k, i64(t)))), pitch))
                    pairs = [(part, v.load(v.at(row, i * v.width))) for i, part in enumerate(span)]
                    for p in range(pieces):
                        found.add(v.dot(pairs[p * piece : (p + 1) * piece]))
                own, place, result = Vectors(builder, kinds[0], several), v.at(outs, k), found.result()
                total = own.load(place)
                for p in range(pieces):
                    lanes = [pieces * t + p for t in range(several)]
                    total = v.then(total, pick(builder, result, lanes))
                own.store(total, place)

            whole = whole_groups(builder, begin, end, 4)
            with loop(builder, begin, whole, 4) as k:
                dots(k, 4)
            with loop(builder, whole, end) as k:
                dots(k, 1)
            return context.get_dummy_value()

        return signature, codegen

    return emit


def dots(count: int) -> Callable[..., None]:
    """``out[k + t] += sum_{i,j,n} g[g0 + i gi + j gj + n] * x[x0 + i xi + j xj + n + columns[k + t] * pitch]``.

    t < count, i < rows, j < parts, n < length. A vector of ``g`` is loaded once for all ``count`` sums, which stay in
    registers through the loops: for spans so short that reducing each would take longer than they do.
    """

    @intrinsic
    def emit(
        typingctx: Any, g: Any, g0: Any, columns: Any, k: Any, x: Any, x0: Any, pitch: Any,
        rows: Any, gi: Any, xi: Any, parts: Any, gj: Any, xj: Any, length: Any, out: Any,
    ) -> Any:  # fmt: skip
        signature = types.void(g, g0, columns, k, x, x0, pitch, rows, gi, xi, parts, gj, xj, length, out)

        def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            kinds = signature.args
            first, pitch, rows, gi, xi, parts, gj, xj, length = (arguments[i] for i in (3, *range(6, 14)))
            v = Vectors(builder, kinds[0])
            gs, xs = (data(context, builder, kinds[i], arguments[i], arguments[i + 1]) for i in (0, 4))
            c, outs = (data(context, builder, kinds[i], arguments[i], first) for i in (2, 14))
            totals = [v.local(v.zero) for _ in range(count)]
            shifts = [builder.mul(integer(builder, v.at(c, t)), pitch) for t in range(count)]
            whole = whole_groups(builder, ZERO, length, v.width)
            rest = v.first(builder.sub(length, whole))

            def meet(g_row: Any, x_row: Any, n: Any, mask: Any = None) -> None:
                shared = v.load(v.at(g_row, n), mask)
                for total, shift in zip(totals, shifts, strict=True):
                    part = v.load(v.at(x_row, builder.add(n, shift)), mask)
                    builder.store(v.fma(shared, part, builder.load(total)), total)

            with loop(builder, ZERO, rows) as i, loop(builder, ZERO, parts) as j:
                g_row = v.at(gs, builder.add(builder.mul(i, gi), builder.mul(j, gj)))
                x_row = v.at(xs, builder.add(builder.mul(i, xi), builder.mul(j, xj)))
                with loop(builder, ZERO, whole, v.width) as n:
                    meet(g_row, x_row, n)
                with builder.if_then(builder.icmp_signed("<", whole, length)):
                    meet(g_row, x_row, whole, rest)
            own = Vectors(builder, kinds[0], count)
            own.store(builder.fadd(own.load(outs), sums(builder, [builder.load(total) for total in totals])), outs)
            return context.get_dummy_value()

        return signature, codegen

    return emit


def _prefetch(cache: int) -> Callable[..., None]:
    """Ask for the cache line of ``array[place]`` in a cache, 1 or 2; nothing is read, so any place will do."""

    @intrinsic
    def emit(typingctx: Any, array: Any, place: Any) -> Any:
        signature = types.void(array, place)

        def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            pointer = data(context, builder, signature.args[0], *arguments)
            byte = builder.bitcast(pointer, ir.IntType(8).as_pointer())
            kind = ir.FunctionType(ir.VoidType(), [byte.type, I32, I32, I32])
            function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
            builder.call(function, [byte, ir.Constant(I32, 0), ir.Constant(I32, 4 - cache), ir.Constant(I32, 1)])
            return context.get_dummy_value()

        return signature, codegen

    return emit


prefetch, prefetch_far = _prefetch(1), _prefetch(2)


@intrinsic
def move(typingctx: Any, x: Any, x0: Any, y: Any, y0: Any, count: Any) -> Any:
    """``y[y0 : y0 + count] = x[x0 : x0 + count]``, which may overlap; Numba's own slices go number by number."""
    signature = types.void(x, x0, y, y0, count)

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        source, target = (data(context, builder, signature.args[i], *arguments[i : i + 2]) for i in (0, 2))
        size = Vectors(builder, signature.args[0]).size
        cgutils.raw_memmove(builder, target, source, arguments[4], size)
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def span_sum(typingctx: Any, g: Any, g0: Any, length: Any, start: Any) -> Any:
    """``start + sum_n g[g0 + n]``, n < length, in pieces of PIECE numbers."""
    signature = g.dtype(g, g0, length, start)

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        v, length = Vectors(builder, signature.args[0]), arguments[2]
        gs = data(context, builder, signature.args[0], arguments[0], arguments[1])
        total = v.local(arguments[3])

        def add(numbers: Any) -> None:
            builder.store(v.then(builder.load(total), v.total(numbers)), total)

        whole = whole_groups(builder, ZERO, length, PIECE)
        with loop(builder, ZERO, whole, PIECE) as n:
            parts = [v.load(v.at(gs, builder.add(n, shift))) for shift, _ in v.tiles(PIECE // v.width)]
            add(functools.reduce(builder.fadd, parts))
        with builder.if_then(builder.icmp_signed("<", whole, length)):
            rest = v.local(v.zero)
            with loop(builder, whole, length, v.width) as n:
                part = v.load(v.at(gs, n), v.first(builder.sub(length, n)))
                builder.store(builder.fadd(builder.load(rest), part), rest)
            add(builder.load(rest))
        return builder.load(total)

    return signature, codegen


#: Numbers that :func:`gathered_dot` collects into a vector, and such vectors side by side.
_COLLECTED, _SIDE_BY_SIDE = 8, 2


@intrinsic
def gathered_dot(typingctx: Any, values: Any, columns: Any, begin: Any, end: Any, x: Any, start: Any) -> Any:
    """``start + sum_k values[k] * x[columns[k]]`` for k in [begin, end); columns are read as unsigned."""
    signature = values.dtype(values, columns, begin, end, x, start)

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kinds = signature.args
        v = Vectors(builder, kinds[0], _COLLECTED)
        vs, c, xs = (data(context, builder, kinds[i], arguments[i]) for i in (0, 1, 4))
        first, last = arguments[2], arguments[3]
        totals, rest = [v.local(v.zero) for _ in range(_SIDE_BY_SIDE)], v.local(arguments[5])

        def add(k: Any, total: Any) -> None:
            inputs = collected(builder, [v.at(xs, place) for place in unsigned(builder, v.at(c, k), _COLLECTED)], v)
            builder.store(v.fma(v.load(v.at(vs, k)), inputs, builder.load(total)), total)

        whole = whole_groups(builder, first, last, _COLLECTED * _SIDE_BY_SIDE)
        with loop(builder, first, whole, _COLLECTED * _SIDE_BY_SIDE) as k:
            for u, total in enumerate(totals):
                add(builder.add(k, i64(u * _COLLECTED)), total)
        nearly = whole_groups(builder, whole, last, _COLLECTED)
        with loop(builder, whole, nearly, _COLLECTED) as k:
            add(k, totals[0])
        with loop(builder, nearly, last) as k:
            place = builder.zext(builder.load(v.at(c, k)), I64)
            product = builder.fmul(builder.load(v.at(vs, k)), builder.load(v.at(xs, place)))
            builder.store(builder.fadd(product, builder.load(rest)), rest)
        return builder.fadd(builder.load(rest), v.total(functools.reduce(builder.fadd, map(builder.load, totals))))

    return signature, codegen
