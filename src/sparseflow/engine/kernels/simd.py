"""The two inner loops of the engine as vector code: weighted sums of rows, and several dot products at once.

LLVM vectorises plain loops, but keeps no sums in registers across a loop over nonzeros. These emit the vectors and
their sums directly; a sum is loaded and stored once for all nonzeros of a row.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import binding, ir
from numba import extending, types
from numba.core import cgutils as _cgutils

#: Numba's own types speak of calls from Python; these are called from kernels.
_intrinsic: Any = extending.intrinsic
cgutils: Any = _cgutils

_FEATURES = binding.get_host_cpu_features()
#: Numbers in one vector: of float32, a 512-bit register where there are any, else 256 bits.
WIDTH = 16 if _FEATURES.get("avx512f") else 8

_I32, _I64 = ir.IntType(32), ir.IntType(64)
_ZERO, _ONE = ir.Constant(_I64, 0), ir.Constant(_I64, 1)


def _i64(value: int) -> Any:
    return ir.Constant(_I64, value)


def _float(kind: Any) -> tuple[Any, int]:
    return (ir.FloatType(), 4) if kind.dtype == types.float32 else (ir.DoubleType(), 8)


def _pointer(context: Any, builder: Any, kind: Any, value: Any, offset: Any = None) -> Any:
    data = context.make_array(kind)(context, builder, value).data
    return data if offset is None else builder.gep(data, [offset])


def _splat(builder: Any, scalar: Any, width: int) -> Any:
    undefined = ir.Constant(ir.VectorType(scalar.type, width), ir.Undefined)
    first = builder.insert_element(undefined, scalar, ir.Constant(_I32, 0))
    return builder.shuffle_vector(first, undefined, ir.Constant(ir.VectorType(_I32, width), [0] * width))


def _load(builder: Any, pointer: Any, vector: Any, align: int) -> Any:
    loaded = builder.load(builder.bitcast(pointer, vector.as_pointer()))
    loaded.align = align
    return loaded


def _integer(builder: Any, pointer: Any) -> Any:
    return builder.sext(builder.load(pointer), _I64)


def _fma(builder: Any, vector: Any, width: int, size: int) -> Any:
    signature = ir.FunctionType(vector, [vector] * 3)
    return cgutils.get_or_insert_function(builder.module, signature, f"llvm.fma.v{width}f{size * 8}")


def weighted_sum(width: int, count: int) -> Callable[..., None]:
    """``y[y0 + n] = max(floor, start + sum_k values[k] * x[x0 + columns[k] * pitch + n])``, n < width * count.

    k runs over [begin, end); ``start`` is a number, or with ``accumulate`` what ``y`` holds. Few sums would wait for
    each other, so then several nonzeros go side by side.
    """
    unroll = max(1, 4 // count)

    @_intrinsic  # type: ignore[untyped-decorator]
    def emit(
        typingctx: Any, values: Any, columns: Any, begin: Any, end: Any, x: Any, x0: Any, pitch: Any,
        y: Any, y0: Any, start: Any, accumulate: Any, floor: Any,
    ) -> Any:  # fmt: skip
        signature = types.void(values, columns, begin, end, x, x0, pitch, y, y0, start, accumulate, floor)

        def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            kinds = signature.args
            v, c, first, last, xs, x_offset, step, ys, y_offset, begin_with, adds, least = arguments
            number, size = _float(kinds[0])
            vector = ir.VectorType(number, width)
            v, c = _pointer(context, builder, kinds[0], v), _pointer(context, builder, kinds[1], c)
            xs = _pointer(context, builder, kinds[4], xs, x_offset)
            ys = _pointer(context, builder, kinds[7], ys, y_offset)
            fma = _fma(builder, vector, width, size)
            places = [builder.gep(ys, [_i64(i * width)]) for i in range(count)]
            sums = [[cgutils.alloca_once(builder, vector) for _ in range(count)] for _ in range(unroll)]
            with builder.if_else(adds) as (then, otherwise):
                with then:
                    for total, place in zip(sums[0], places, strict=True):
                        builder.store(_load(builder, place, vector, size), total)
                with otherwise:
                    for total in sums[0]:
                        builder.store(_splat(builder, begin_with, width), total)
            for totals in sums[1:]:
                for total in totals:
                    builder.store(ir.Constant(vector, [0.0] * width), total)

            def add(k: Any, totals: list[Any]) -> None:
                value = _splat(builder, builder.load(builder.gep(v, [k])), width)
                row = builder.gep(xs, [builder.mul(_integer(builder, builder.gep(c, [k])), step)])
                for i, total in enumerate(totals):
                    part = _load(builder, builder.gep(row, [_i64(i * width)]), vector, size)
                    builder.store(builder.call(fma, [value, part, builder.load(total)]), total)

            length = builder.sub(last, first)
            whole = builder.add(first, builder.sub(length, builder.srem(length, _i64(unroll))))
            with cgutils.for_range_slice(builder, first, whole, _i64(unroll), _I64) as (k, _):
                for u, totals in enumerate(sums):
                    add(builder.add(k, _i64(u)), totals)
            if unroll > 1:
                with cgutils.for_range_slice(builder, whole, last, _ONE, _I64) as (k, _):
                    add(k, sums[0])
            least = _splat(builder, least, width)
            for i, place in enumerate(places):
                total = builder.load(sums[0][i])
                for totals in sums[1:]:
                    total = builder.fadd(total, builder.load(totals[i]))
                total = builder.select(builder.fcmp_ordered("<", total, least), least, total)
                builder.store(total, builder.bitcast(place, vector.as_pointer())).align = size
            return context.get_dummy_value()

        return signature, codegen

    return emit  # type: ignore[no-any-return]


def dots(count: int) -> Callable[..., None]:
    """``out[k + t] += sum_{i,j,n} g[g0 + i gi + j gj + n] * x[x0 + i xi + j xj + n + columns[k + t] * pitch]``.

    t < count, i < rows, j < parts, n < length. A vector of ``g`` is loaded once for all ``count`` sums.
    """

    @_intrinsic  # type: ignore[untyped-decorator]
    def emit(
        typingctx: Any, g: Any, g0: Any, columns: Any, k: Any, x: Any, x0: Any, pitch: Any,
        rows: Any, gi: Any, xi: Any, parts: Any, gj: Any, xj: Any, length: Any, out: Any,
    ) -> Any:  # fmt: skip
        signature = types.void(g, g0, columns, k, x, x0, pitch, rows, gi, xi, parts, gj, xj, length, out)

        def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            kinds = signature.args
            gs, g_offset, c, first, xs, x_offset, step, ni, gi, xi, nj, gj, xj, nn, outs = arguments
            number, size = _float(kinds[0])
            vector = ir.VectorType(number, WIDTH)
            gs = _pointer(context, builder, kinds[0], gs, g_offset)
            xs = _pointer(context, builder, kinds[4], xs, x_offset)
            c = _pointer(context, builder, kinds[2], c, first)
            outs = _pointer(context, builder, kinds[14], outs, first)
            vector_fma = _fma(builder, vector, WIDTH, size)
            scalar_fma = cgutils.get_or_insert_function(
                builder.module, ir.FunctionType(number, [number] * 3), f"llvm.fma.f{size * 8}"
            )
            sums, tails, shifts = [], [], []
            for t in range(count):
                sums.append(cgutils.alloca_once(builder, vector))
                tails.append(cgutils.alloca_once(builder, number))
                builder.store(ir.Constant(vector, [0.0] * WIDTH), sums[t])
                builder.store(ir.Constant(number, 0.0), tails[t])
                shifts.append(builder.mul(_integer(builder, builder.gep(c, [_i64(t)])), step))
            whole = builder.sub(nn, builder.srem(nn, _i64(WIDTH)))
            with (
                cgutils.for_range_slice(builder, _ZERO, ni, _ONE, _I64) as (i, _),
                cgutils.for_range_slice(builder, _ZERO, nj, _ONE, _I64) as (j, _),
            ):
                g_row = builder.gep(gs, [builder.add(builder.mul(i, gi), builder.mul(j, gj))])
                x_row = builder.gep(xs, [builder.add(builder.mul(i, xi), builder.mul(j, xj))])
                with cgutils.for_range_slice(builder, _ZERO, whole, _i64(WIDTH), _I64) as (n, _):
                    shared = _load(builder, builder.gep(g_row, [n]), vector, size)
                    for total, shift in zip(sums, shifts, strict=True):
                        part = _load(builder, builder.gep(x_row, [builder.add(n, shift)]), vector, size)
                        builder.store(builder.call(vector_fma, [shared, part, builder.load(total)]), total)
                with cgutils.for_range_slice(builder, whole, nn, _ONE, _I64) as (n, _):
                    single = builder.load(builder.gep(g_row, [n]))
                    for total, shift in zip(tails, shifts, strict=True):
                        other = builder.load(builder.gep(x_row, [builder.add(n, shift)]))
                        builder.store(builder.call(scalar_fma, [single, other, builder.load(total)]), total)
            several = ir.VectorType(number, count)
            place = builder.bitcast(outs, several.as_pointer())
            before = _load(builder, outs, several, size)
            builder.store(builder.fadd(before, _sums(builder, [builder.load(s) for s in sums])), place).align = size
            with builder.if_then(builder.icmp_signed("<", whole, nn)):
                for t, tail in enumerate(tails):
                    single = builder.gep(outs, [_i64(t)])
                    builder.store(builder.fadd(builder.load(single), builder.load(tail)), single)
            return context.get_dummy_value()

        return signature, codegen

    return emit  # type: ignore[no-any-return]


@_intrinsic  # type: ignore[untyped-decorator]
def prefetch(typingctx: Any, array: Any, place: Any) -> Any:
    """Ask for the cache line of ``array[place]``; nothing is read, so any place will do."""
    signature = types.void(array, place)

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointer = _pointer(context, builder, signature.args[0], *arguments)
        byte = builder.bitcast(pointer, ir.IntType(8).as_pointer())
        kind = ir.FunctionType(ir.VoidType(), [byte.type, _I32, _I32, _I32])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        builder.call(function, [byte, ir.Constant(_I32, 0), ir.Constant(_I32, 3), ir.Constant(_I32, 1)])
        return context.get_dummy_value()

    return signature, codegen


@_intrinsic  # type: ignore[untyped-decorator]
def span_sum(typingctx: Any, g: Any, g0: Any, length: Any) -> Any:
    """``sum_n g[g0 + n]``, n < length."""
    signature = g.dtype(g, g0, length)

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kinds = signature.args
        number, size = _float(kinds[0])
        vector = ir.VectorType(number, WIDTH)
        gs = _pointer(context, builder, kinds[0], arguments[0], arguments[1])
        length = arguments[2]
        sums = [cgutils.alloca_once(builder, vector) for _ in range(4)]
        for total in sums:
            builder.store(ir.Constant(vector, [0.0] * WIDTH), total)
        rest = cgutils.alloca_once_value(builder, ir.Constant(number, 0.0))
        whole = builder.sub(length, builder.srem(length, _i64(4 * WIDTH)))
        with cgutils.for_range_slice(builder, _ZERO, whole, _i64(4 * WIDTH), _I64) as (n, _):
            for u, total in enumerate(sums):
                part = _load(builder, builder.gep(gs, [builder.add(n, _i64(u * WIDTH))]), vector, size)
                builder.store(builder.fadd(part, builder.load(total)), total)
        with cgutils.for_range_slice(builder, whole, length, _ONE, _I64) as (n, _):
            builder.store(builder.fadd(builder.load(rest), builder.load(builder.gep(gs, [n]))), rest)
        four = _sums(builder, [builder.load(total) for total in sums])
        for lane in range(4):
            total = builder.fadd(builder.load(rest), builder.extract_element(four, ir.Constant(_I32, lane)))
            builder.store(total, rest)
        return builder.load(rest)

    return signature, codegen


#: Sums side by side in :func:`gathered_dot`; one alone would wait four cycles for each addition.
_SIDE_BY_SIDE = 8


@_intrinsic  # type: ignore[untyped-decorator]
def gathered_dot(typingctx: Any, values: Any, columns: Any, begin: Any, end: Any, x: Any) -> Any:
    """``sum_k values[k] * x[columns[k]]`` for k in [begin, end); columns are read as unsigned."""
    signature = values.dtype(values, columns, begin, end, x)

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kinds = signature.args
        number, size = _float(kinds[0])
        v, c, xs = (_pointer(context, builder, kinds[i], arguments[i]) for i in (0, 1, 4))
        first, last = arguments[2], arguments[3]
        fma = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(number, [number] * 3), f"llvm.fma.f{size * 8}"
        )
        sums = [cgutils.alloca_once(builder, number) for _ in range(_SIDE_BY_SIDE)]
        for total in sums:
            builder.store(ir.Constant(number, 0.0), total)

        def add(k: Any, total: Any) -> None:
            column = builder.zext(builder.load(builder.gep(c, [k])), _I64)
            value, other = builder.load(builder.gep(v, [k])), builder.load(builder.gep(xs, [column]))
            builder.store(builder.call(fma, [value, other, builder.load(total)]), total)

        length = builder.sub(last, first)
        whole = builder.add(first, builder.sub(length, builder.srem(length, _i64(_SIDE_BY_SIDE))))
        with cgutils.for_range_slice(builder, first, whole, _i64(_SIDE_BY_SIDE), _I64) as (k, _):
            for u, total in enumerate(sums):
                add(builder.add(k, _i64(u)), total)
        with cgutils.for_range_slice(builder, whole, last, _ONE, _I64) as (k, _):
            add(k, sums[0])
        totals = [builder.load(total) for total in sums]
        while len(totals) > 1:
            totals = [builder.fadd(a, b) for a, b in zip(totals[::2], totals[1::2], strict=True)]
        return totals[0]

    return signature, codegen


def _sums(builder: Any, vectors: list[Any]) -> Any:
    """The sum over each of 2^m vectors, as one vector: two vectors share an addition of their halves."""
    width, blocks = WIDTH, 1  # a vector holds parts of ``blocks`` sums, each in neighbouring lanes
    while blocks < width or len(vectors) > 1:
        size = width // blocks // 2
        low = [2 * size * block + lane for block in range(blocks) for lane in range(size)]
        if len(vectors) > 1:
            pairs = list(zip(vectors[::2], vectors[1::2], strict=True))
            low += [width + lane for lane in low]
            blocks *= 2
        else:
            pairs = [(vectors[0], vectors[0])]
            width //= 2
        halves = [ir.Constant(ir.VectorType(_I32, len(low)), [lane + shift for lane in low]) for shift in (0, size)]
        vectors = [builder.fadd(*(builder.shuffle_vector(a, b, half) for half in halves)) for a, b in pairs]
    return vectors[0]
