"""Transposes: examples turned batch-innermost, and back; a square at a time in registers, by whole cache lines."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numpy.typing import NDArray

from sparseflow.engine.kernels.compiling import kernel, part
from sparseflow.engine.kernels.vectors import I32, WIDTH, Vectors, data, i64, intrinsic

Floats = NDArray[Any]
Integers = NDArray[np.int64]

#: Bytes of a side of the square: a register.
_SIDE = 4 * WIDTH


def _turned(builder: Any, rows: list[Any]) -> list[Any]:
    """The transpose of 2^m vectors of as many numbers."""
    side = len(rows)
    distance = side // 2
    while distance:
        # Of rows ``distance`` apart, the off-diagonal halves of each square of 2 * distance change places.
        low, high = (
            [lane + shift if not lane & distance else side + lane - distance + shift for lane in range(side)]
            for shift in (0, distance)
        )
        turned = list(rows)
        for i in range(side):
            if not i & distance:
                for place, lanes in ((i, low), (i + distance, high)):
                    turned[place] = builder.shuffle_vector(
                        rows[i], rows[i + distance], ir.Constant(ir.VectorType(I32, side), lanes)
                    )
        rows, distance = turned, distance // 2
    return rows


def _square(*, edge: bool) -> Callable[..., None]:
    """``y[y0 + j * y_row + i] = x[starts[i] * x_row + x0 + j]`` for the first ``height`` i and ``width`` j of a square.

    Without ``starts`` the rows of ``x`` follow each other. ``edge``: of a square that is not whole.
    """

    @intrinsic
    def emit(
        typingctx: Any, x: Any, x0: Any, x_row: Any, starts: Any, begin: Any, height: Any, width: Any,
        y: Any, y0: Any, y_row: Any,
    ) -> Any:  # fmt: skip
        signature = types.void(x, x0, x_row, starts, begin, height, width, y, y0, y_row)

        def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            kinds = signature.args
            xs, x0, x_row, chosen, begin, height, width, ys, y0, y_row = arguments
            side = _SIDE // Vectors(builder, kinds[0]).size
            v = Vectors(builder, kinds[0], side)
            xs, ys = data(context, builder, kinds[0], xs, x0), data(context, builder, kinds[7], ys, y0)
            places = None if kinds[3] == types.none else data(context, builder, kinds[3], chosen, begin)
            across: list[Any] = [v.first(width) if edge else None] * side
            down: list[Any] = [v.first(height) if edge else None] * side
            rows = []
            for i in range(side):
                if edge:
                    # Nothing is read of a row that is not there, nor which row it would be.
                    exists = builder.icmp_signed("<", i64(i), height)
                    across[i] = builder.select(exists, across[i], ir.Constant(across[i].type, [0] * side))
                    here = builder.select(exists, i64(i), i64(0))
                else:
                    here = i64(i)
                row = here if places is None else builder.load(builder.gep(places, [here]))
                rows.append(v.load(builder.gep(xs, [builder.mul(row, x_row)]), across[i]))
            for j, column in enumerate(_turned(builder, rows)):
                mask = down[j]
                if edge:
                    exists = builder.icmp_signed("<", i64(j), width)
                    mask = builder.select(exists, mask, ir.Constant(mask.type, [0] * side))
                v.store(column, builder.gep(ys, [builder.mul(i64(j), y_row)]), mask)
            return context.get_dummy_value()

        return signature, codegen

    return emit


_WHOLE, _EDGE = _square(edge=False), _square(edge=True)


@part
def _in_squares(
    x: Floats, x0: int, x_row: int, chosen: Any, begin: int, rows: int, columns: int, y: Floats, y0: int, y_row: int
) -> None:
    side = _SIDE // x.itemsize
    # Long rows are read as they lie, which memory foresees; short ones are written so.
    along = columns > rows
    outer, inner = (rows, columns) if along else (columns, rows)
    for p in range(0, outer, side):
        for q in range(0, inner, side):
            i, j = (p, q) if along else (q, p)
            height, width, b = rows - i, columns - j, y0 + j * y_row + i
            a = x0 + j + (i * x_row if chosen is None else 0)
            if height >= side and width >= side:
                _WHOLE(x, a, x_row, chosen, begin + i, height, width, y, b, y_row)
            else:
                _EDGE(x, a, x_row, chosen, begin + i, height, width, y, b, y_row)


@kernel
def transpose(x: Floats, x0: int, x_row: int, rows: int, columns: int, y: Floats, y0: int, y_row: int) -> None:
    """``y[y0 + j * y_row + i] = x[x0 + i * x_row + j]``, i < rows and j < columns."""
    if rows == 1:
        for j in range(columns):
            y[y0 + j * y_row] = x[x0 + j]
    elif columns == 1:
        for i in range(rows):
            y[y0 + i] = x[x0 + i * x_row]
    else:
        _in_squares(x, x0, x_row, None, np.int64(0), rows, columns, y, y0, y_row)


@kernel
def transpose_chosen(
    x: Floats, size: int, chosen: Integers, begin: int, column: int, rows: int, columns: int,
    y: Floats, y0: int, y_row: int,
) -> None:  # fmt: skip
    """``y[y0 + j * y_row + i] = x[chosen[begin + i] * size + column + j]``, i < rows and j < columns."""
    _in_squares(x, column, size, chosen, begin, rows, columns, y, y0, y_row)
