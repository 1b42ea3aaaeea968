"""The inner loops of max-pooling as vector code: a window's maximum stays in registers, and so does where it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils as _cgutils
from numba.extending import intrinsic

#: Its annotations differ between versions of Numba.
cgutils: Any = _cgutils

_I64 = ir.IntType(64)
_ONE = ir.Constant(_I64, 1)


class _Vectors:
    """The types of a vector of numbers and of the positions that go with it, and how to move them."""

    def __init__(self, builder: Any, kind: Any, places: Any, width: int) -> None:
        single = kind.dtype == types.float32
        self.builder = builder
        self.number = ir.FloatType() if single else ir.DoubleType()
        self.index = ir.IntType(32 if single else 64)
        self.narrow = ir.IntType(places.dtype.bitwidth)
        self.numbers, self.indices = ir.VectorType(self.number, width), ir.VectorType(self.index, width)
        self.places = ir.VectorType(self.narrow, width)
        self.align, self.width = 4 if single else 8, width

    def splat(self, scalar: Any, vector: Any) -> Any:
        undefined = ir.Constant(vector, ir.Undefined)
        first = self.builder.insert_element(undefined, scalar, ir.Constant(ir.IntType(32), 0))
        zeros = ir.Constant(ir.VectorType(ir.IntType(32), self.width), [0] * self.width)
        return self.builder.shuffle_vector(first, undefined, zeros)

    def tap(self, value: Any) -> Any:
        return self.splat(self.builder.trunc(value, self.index) if self.index.width < 64 else value, self.indices)

    def load(self, pointer: Any, vector: Any, align: int) -> Any:
        loaded = self.builder.load(self.builder.bitcast(pointer, vector.as_pointer()))
        loaded.align = align
        return loaded

    def store(self, value: Any, pointer: Any, align: int) -> None:
        self.builder.store(value, self.builder.bitcast(pointer, value.type.as_pointer())).align = align


def _data(context: Any, builder: Any, kind: Any, value: Any, offset: Any) -> Any:
    return builder.gep(context.make_array(kind)(context, builder, value).data, [offset])


def window_max(width: int) -> Callable[..., None]:
    """``y[b + n] = max_{u, v} x[a + u * xu + v * xv + n]`` and ``where[w + n] = u * across + v``, n < width.

    u in [u0, u1), v in [v0, v1). With ``rectify`` what is not positive becomes 0, at -1.
    """

    @intrinsic
    def emit(
        typingctx: Any, x: Any, a: Any, xu: Any, xv: Any, u0: Any, u1: Any, v0: Any, v1: Any, across: Any,
        y: Any, b: Any, where: Any, w: Any, rectify: Any,
    ) -> Any:  # fmt: skip
        signature = types.void(x, a, xu, xv, u0, u1, v0, v1, across, y, b, where, w, rectify)

        def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            kinds = signature.args
            _, _, xu, xv, u0, u1, v0, v1, across, _, _, _, _, rectify = arguments
            v = _Vectors(builder, kinds[0], kinds[11], width)
            xs = _data(context, builder, kinds[0], arguments[0], arguments[1])
            ys = _data(context, builder, kinds[9], arguments[9], arguments[10])
            places = _data(context, builder, kinds[11], arguments[11], arguments[12])
            infinity = v.splat(ir.Constant(v.number, float("-inf")), v.numbers)
            top, tap = cgutils.alloca_once(builder, v.numbers), cgutils.alloca_once(builder, v.indices)
            builder.store(infinity, top)
            builder.store(v.tap(builder.add(builder.mul(u0, across), v0)), tap)
            with (
                cgutils.for_range_slice(builder, u0, u1, _ONE, _I64) as (i, _),
                cgutils.for_range_slice(builder, v0, v1, _ONE, _I64) as (j, _),
            ):
                shift = builder.add(builder.mul(i, xu), builder.mul(j, xv))
                number, best = v.load(builder.gep(xs, [shift]), v.numbers, v.align), builder.load(top)
                higher = builder.or_(
                    builder.fcmp_ordered(">", number, best), builder.fcmp_unordered("uno", number, number)
                )
                builder.store(builder.select(higher, number, best), top)
                here = v.tap(builder.add(builder.mul(i, across), j))
                builder.store(builder.select(higher, here, builder.load(tap)), tap)
            best, zero = builder.load(top), ir.Constant(v.numbers, [0.0] * width)
            cut = builder.and_(
                builder.fcmp_ordered("<=", best, zero), v.splat(rectify, ir.VectorType(ir.IntType(1), width))
            )
            nowhere = ir.Constant(v.indices, [-1] * width)
            v.store(builder.select(cut, zero, best), ys, v.align)
            found = builder.select(cut, nowhere, builder.load(tap))
            v.store(builder.trunc(found, v.places), places, 1)
            return context.get_dummy_value()

        return signature, codegen

    return emit


def window_spread(width: int, *, add: bool) -> Callable[..., None]:
    """``x[a + u * xu + v * xv + n]`` is, or with ``add`` grows by, ``g[b + n]`` if ``where[w + n] == u * across + v``.

    Else it is, or grows by, 0. u in [u0, u1), v in [v0, v1), n < width.
    """

    @intrinsic
    def emit(
        typingctx: Any, g: Any, b: Any, where: Any, w: Any, x: Any, a: Any, xu: Any, xv: Any,
        u0: Any, u1: Any, v0: Any, v1: Any, across: Any,
    ) -> Any:  # fmt: skip
        signature = types.void(g, b, where, w, x, a, xu, xv, u0, u1, v0, v1, across)

        def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            kinds = signature.args
            xu, xv, u0, u1, v0, v1, across = arguments[6:]
            v = _Vectors(builder, kinds[0], kinds[2], width)
            given = v.load(_data(context, builder, kinds[0], arguments[0], arguments[1]), v.numbers, v.align)
            places = _data(context, builder, kinds[2], arguments[2], arguments[3])
            taps = builder.sext(v.load(places, v.places, 1), v.indices)
            xs = _data(context, builder, kinds[4], arguments[4], arguments[5])
            zero = ir.Constant(v.numbers, [0.0] * width)
            with (
                cgutils.for_range_slice(builder, u0, u1, _ONE, _I64) as (i, _),
                cgutils.for_range_slice(builder, v0, v1, _ONE, _I64) as (j, _),
            ):
                place = builder.gep(xs, [builder.add(builder.mul(i, xu), builder.mul(j, xv))])
                is_here = builder.icmp_signed("==", taps, v.tap(builder.add(builder.mul(i, across), j)))
                part = builder.select(is_here, given, zero)
                v.store(builder.fadd(part, v.load(place, v.numbers, v.align)) if add else part, place, v.align)
            return context.get_dummy_value()

        return signature, codegen

    return emit
