"""Vectors of numbers in LLVM's terms: how kernels that emit their own code load, store, multiply and add them up."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from llvmlite import binding, ir
from numba import config, extending, types
from numba.core import cgutils as _cgutils

#: Numba's own types speak of calls from Python; this is called from kernels.
cgutils: Any = _cgutils


def intrinsic(emit: Callable[..., Any]) -> Any:
    """Numba's decorator, without its types: they speak of calls from Python, and these are called from kernels."""
    return extending.intrinsic(emit)


def _has_wide_registers() -> bool:
    """Of the machine that Numba compiles for: what NUMBA_CPU_FEATURES says, else this one."""
    asked: str | None = config.CPU_FEATURES  # type: ignore[attr-defined]
    return bool(binding.get_host_cpu_features().get("avx512f")) if asked is None else "+avx512f" in asked.split(",")


_WIDE = _has_wide_registers()
#: Numbers in one vector: of float32, a 512-bit register where there are any, else 256 bits.
WIDTH = 16 if _WIDE else 8
#: Numbers whose sum is made on its own, then added to those before: so two threads that take half of the examples each
#: get the bits of one that takes all, if the halves are multiples of it.
PIECE = 64
#: Vectors of float32 that fit in the registers.
REGISTERS = 32 if _WIDE else 16

I1, I32, I64 = ir.IntType(1), ir.IntType(32), ir.IntType(64)
ZERO, ONE = ir.Constant(I64, 0), ir.Constant(I64, 1)


def i64(value: int) -> Any:
    """A constant."""
    return ir.Constant(I64, value)


class Vectors:
    """Vectors of the numbers of an array.

    Args:
        builder: Of the function that is emitted.
        kind: Numba's type of the array.
        width: Numbers of a vector.
    """

    def __init__(self, builder: Any, kind: Any, width: int = WIDTH) -> None:
        self.builder, self.width = builder, width
        self.number, self.size = (ir.FloatType(), 4) if kind.dtype == types.float32 else (ir.DoubleType(), 8)
        self.vector = ir.VectorType(self.number, width)
        self.zero = ir.Constant(self.vector, [0.0] * width)

    def at(self, pointer: Any, place: Any) -> Any:
        """The pointer to ``place``, an integer or an emitted one."""
        return self.builder.gep(pointer, [i64(place) if isinstance(place, int) else place])

    def splat(self, scalar: Any) -> Any:
        """A number in all lanes."""
        return splat(self.builder, scalar, self.width)

    def load(self, pointer: Any, mask: Any = None) -> Any:
        """The numbers from a place on; with a mask those of its lanes, and 0 in the others, where nothing is read."""
        if mask is None:
            loaded = self.builder.load(self.builder.bitcast(pointer, self.vector.as_pointer()))
            loaded.align = self.size
            return loaded
        place = self.builder.bitcast(pointer, self.vector.as_pointer())
        kind = ir.FunctionType(self.vector, [place.type, I32, mask.type, self.vector])
        function = self._function(kind, f"llvm.masked.load.v{self.width}f{8 * self.size}.p0")
        return self.builder.call(function, [place, ir.Constant(I32, self.size), mask, self.zero])

    def store(self, value: Any, pointer: Any, mask: Any = None) -> None:
        """Write a vector, or the lanes of a mask and nothing beside them."""
        place = self.builder.bitcast(pointer, value.type.as_pointer())
        if mask is None:
            self.builder.store(value, place).align = self.size
            return
        kind = ir.FunctionType(ir.VoidType(), [value.type, place.type, I32, mask.type])
        function = self._function(kind, f"llvm.masked.store.v{self.width}f{8 * self.size}.p0")
        self.builder.call(function, [value, place, ir.Constant(I32, self.size), mask])

    def first(self, count: Any) -> Any:
        """The mask of the first ``count`` lanes; an emitted int64, of any size."""
        lanes = ir.Constant(ir.VectorType(I64, self.width), list(range(self.width)))
        return self.builder.icmp_signed("<", lanes, splat(self.builder, count, self.width))

    def tiles(self, count: int, length: Any = None) -> list[tuple[Any, Any]]:
        """The offset of each of ``count`` vectors, and the mask of what it has of ``length`` numbers, if given."""
        shifts = [i64(self.width * i) for i in range(count)]
        return [(s, None if length is None else self.first(self.builder.sub(length, s))) for s in shifts]

    def total(self, vector: Any) -> Any:
        """The sum over the numbers of a vector."""
        return self.builder.extract_element(sums(self.builder, [vector]), ir.Constant(I32, 0))

    def dot(self, pairs: list[tuple[Any, Any]]) -> Any:
        """The lanes' sums over the products of pairs of vectors."""
        total = self.builder.fmul(*pairs[0])
        for a, b in pairs[1:]:
            total = self.fma(a, b, total)
        return total

    def fma(self, a: Any, b: Any, c: Any) -> Any:
        """``a * b + c``, rounded once."""
        function = self._function(
            ir.FunctionType(self.vector, [self.vector] * 3), f"llvm.fma.v{self.width}f{self.size * 8}"
        )
        return self.builder.call(function, [a, b, c])

    def then(self, total: Any, piece: Any) -> Any:
        """``total + piece``, of numbers or vectors, each as it is: kernels let LLVM add in any order otherwise."""
        kind = total.type
        name = f"llvm.arithmetic.fence.{f'v{kind.count}' if isinstance(kind, ir.VectorType) else ''}f{8 * self.size}"
        fence = self._function(ir.FunctionType(kind, [kind]), name)
        return self.builder.call(fence, [self.builder.fadd(total, self.builder.call(fence, [piece]))])

    def local(self, value: Any) -> Any:
        """A variable, which the compiler keeps in a register."""
        return cgutils.alloca_once_value(self.builder, value)

    def _function(self, kind: Any, name: str) -> Any:
        return cgutils.get_or_insert_function(self.builder.module, kind, name)


def data(context: Any, builder: Any, kind: Any, value: Any, offset: Any = None) -> Any:
    """The pointer to an array's numbers, or to the one at ``offset``."""
    pointer = context.make_array(kind)(context, builder, value).data
    return pointer if offset is None else builder.gep(pointer, [offset])


def integer(builder: Any, pointer: Any) -> Any:
    """An index from a table, as int64."""
    return builder.sext(builder.load(pointer), I64)


def splat(builder: Any, scalar: Any, width: int) -> Any:
    """A scalar in all lanes of a vector."""
    undefined = ir.Constant(ir.VectorType(scalar.type, width), ir.Undefined)
    first = builder.insert_element(undefined, scalar, ir.Constant(I32, 0))
    return builder.shuffle_vector(first, undefined, ir.Constant(ir.VectorType(I32, width), [0] * width))


def unsigned(builder: Any, pointer: Any, count: int) -> list[Any]:
    """Neighbouring indices from a table, as int64; a word of 64 bits is read at once and taken apart."""
    bits = pointer.type.pointee.width
    each, found = 64 // bits, []
    mask = ir.Constant(I64, 2**bits - 1)
    for first in range(0, count, each):
        word = builder.load(builder.bitcast(builder.gep(pointer, [i64(first)]), I64.as_pointer()))
        word.align = bits // 8
        found += [builder.and_(builder.lshr(word, i64(bits * t)), mask) for t in range(each)]
    return found


def collected(builder: Any, pointers: list[Any], v: Vectors) -> Any:
    """The numbers at some places, as one vector: sooner than the instruction that gathers."""
    numbers = v.zero
    for lane, pointer in enumerate(pointers):
        numbers = builder.insert_element(numbers, builder.load(pointer), ir.Constant(I32, lane))
    return numbers


def pick(builder: Any, vector: Any, lanes: list[int]) -> Any:
    """Some lanes of a vector, as a vector."""
    return builder.shuffle_vector(vector, vector, ir.Constant(ir.VectorType(I32, len(lanes)), lanes))


def whole_groups(builder: Any, first: Any, last: Any, size: int) -> Any:
    """Where the last whole group of ``size`` of [first, last) ends."""
    count = builder.sub(last, first)
    return builder.add(first, builder.sub(count, builder.srem(count, i64(size))))


@contextmanager
def loop(builder: Any, first: Any, last: Any, step: int = 1) -> Iterator[Any]:
    """The body of a loop over int64 in [first, last)."""
    with cgutils.for_range_slice(builder, first, last, i64(step), I64) as (k, _):
        yield k


class Sums:
    """The sums over each of 2^m vectors, as one vector: two vectors share an addition of their halves.

    Vectors are added up as they come, so that few registers hold what is not yet one sum.
    """

    def __init__(self, builder: Any) -> None:
        self.builder = builder
        self._waiting: list[tuple[int, Any]] = []  # a vector holds parts of ``blocks`` sums, in neighbouring lanes each

    def add(self, vector: Any) -> None:
        """The next vector to sum over."""
        blocks = 1
        while self._waiting and self._waiting[-1][0] == blocks:
            _, other = self._waiting.pop()
            vector, blocks = self._halved(other, vector, blocks), 2 * blocks
        self._waiting.append((blocks, vector))

    def result(self) -> Any:
        """The sums, in the order in which their vectors came."""
        ((blocks, vector),) = self._waiting
        while blocks < vector.type.count:
            vector = self._halved(vector, None, blocks)
        return vector

    def _halved(self, a: Any, b: Any, blocks: int) -> Any:
        width = a.type.count
        size = width // blocks // 2
        low = [2 * size * block + lane for block in range(blocks) for lane in range(size)]
        if b is not None:
            low += [width + lane for lane in low]
        halves = [ir.Constant(ir.VectorType(I32, len(low)), [lane + shift for lane in low]) for shift in (0, size)]
        return self.builder.fadd(*(self.builder.shuffle_vector(a, a if b is None else b, half) for half in halves))


def sums(builder: Any, vectors: list[Any]) -> Any:
    """The sum over each of 2^m vectors, as one vector."""
    totals = Sums(builder)
    for vector in vectors:
        totals.add(vector)
    return totals.result()
