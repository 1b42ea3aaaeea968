"""Both gradients of one pass against sums over gathered numbers in float64."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from kernel_cases import JUNK, LENGTHS, TOLERANCES, Loops, random_begins, random_loops
from sparseflow.engine.kernels.gradients import column_gradients, gated_sums
from sparseflow.engine.kernels.sums import row_sums, sampled_dots

INPUTS, OUTPUTS, OFFSET = 9, 13, 5


@dataclass(frozen=True)
class Columns:
    """A random call of :func:`column_gradients`, and what must come out."""

    tables: tuple[Any, Any, Any, Any]
    values: Any
    arrays: tuple[tuple[Any, int, int], ...]
    out: Any
    loops: tuple[int, ...]
    adds: tuple[bool, bool]
    want: tuple[Any, Any]

    def run(self, cuts: tuple[int, ...] = (0, INPUTS)) -> tuple[Any, Any]:
        """``gx`` and ``out`` as the kernel leaves them, called for the inputs between each two cuts."""
        (g, g0, pitch), (x, x0, x_pitch), (gx, y0, y_pitch) = self.arrays
        gx, out = gx.copy(), self.out.copy()
        for first, last in pairwise(cuts):
            column_gradients(
                *self.tables, self.values, g, g0, pitch, x, x0, x_pitch, gx, y0, y_pitch, out, first, last,
                *self.loops, *self.adds,
            )  # fmt: skip
        return gx, out


def random_columns(seed: int, length: int, dtype: Any, density: float, *, adds: tuple[bool, bool]) -> Columns:
    draw = np.random.default_rng(seed)
    loops = random_loops(draw, length)
    mask = draw.random((INPUTS, OUTPUTS)) < density
    mask[3] = False
    begins, columns = random_begins(draw, mask)
    count = len(columns)
    order = draw.permutation(count + 4)[:count].astype(np.int32)
    numbers: list[tuple[Any, int, int]] = []
    strides = [loops.strides(gap) for gap in draw.integers(0, 4, 3)]
    for channels, step in zip((OUTPUTS, INPUTS, INPUTS), strides, strict=True):
        pitch = loops.pitch(step)
        numbers.append((draw.standard_normal(OFFSET + channels * pitch).astype(dtype), OFFSET, pitch))
    (g, _, g_pitch), (x, _, x_pitch), (gx, _, y_pitch) = numbers
    values, out = draw.standard_normal((2, count + 4)).astype(dtype)
    g_at, x_at, y_at = (loops.places(step) + OFFSET for step in strides)
    want_x, want = gx.astype(np.float64), out.astype(np.float64)
    for c in range(INPUTS):
        total = want_x[y_at + c * y_pitch] if adds[0] else 0.0
        for k in range(begins[c], begins[c + 1]):
            met = g[g_at + columns[k] * g_pitch].astype(np.float64)
            total = total + values[order[k]] * met
            dot = (met * x[x_at + c * x_pitch]).sum()
            want[order[k]] = dot + (out[order[k]] if adds[1] else 0.0)
        want_x[y_at + c * y_pitch] = total
    (gi, gj), (xi, xj), (yi, yj) = strides
    numbers_of_loops = (loops.rows, gi, xi, yi, loops.parts, gj, xj, yj, length)
    return Columns(
        (begins[:-1], begins[1:], columns, order), values, tuple(numbers), out, numbers_of_loops, adds, (want_x, want)
    )


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("density", [0.1, 0.6, 1.0])
def test_column_gradients_are_the_sums_that_define_them(length: int, density: float, dtype: Any) -> None:
    for adds in ((False, False), (True, False), (False, True), (True, True)):
        case = random_columns(length, length, dtype, density, adds=adds)
        for found, want in zip(case.run(), case.want, strict=True):
            np.testing.assert_allclose(found, want, **TOLERANCES[dtype])


@pytest.mark.parametrize("length", [1, 7, 16, 128, 200])
def test_column_gradients_are_the_same_bits_however_the_inputs_are_divided(length: int) -> None:
    case = random_columns(length, length, np.float32, 0.6, adds=(False, True))
    whole = case.run()
    for cuts in ((0, 1, 5, INPUTS), tuple(range(INPUTS + 1)), (0, 0, 8, INPUTS)):
        for found, want in zip(case.run(cuts), whole, strict=True):
            np.testing.assert_array_equal(found, want)


def sums_over(spans: list[tuple[int, int]], dtype: Any) -> tuple[Any, ...]:
    """Gradients of 9 inputs, 13 outputs and 192 examples, from calls for the examples [first, last) of each span."""
    draw = np.random.default_rng(5)
    g, x, y = (draw.standard_normal(channels * 192).astype(dtype) for channels in (OUTPUTS, INPUTS, OUTPUTS))
    mask = draw.random((INPUTS, OUTPUTS)) < 0.6
    begins, columns = random_begins(draw, mask)
    order = np.argsort(draw.random(len(columns))).astype(np.int32)
    values = draw.standard_normal(len(columns)).astype(dtype)
    by_output, inputs = random_begins(draw, mask.T)
    gx, fused, dots, biases, gated = (
        np.zeros(size, dtype) for size in (len(x), len(values), len(values), OUTPUTS, OUTPUTS)
    )
    for a, b in spans:
        row_sums(g, a, 192, biases, 0, OUTPUTS, 1, 0, 1, 0, b - a)
        sampled_dots(by_output[:-1], by_output[1:], inputs, g, a, 192, x, a, 192, dots, 0, OUTPUTS,
                     1, 0, 0, 1, 0, 0, b - a, 1)  # fmt: skip
        column_gradients(begins[:-1], begins[1:], columns, order, values, g, a, 192, x, a, 192, gx, a, 192, fused,
                         0, INPUTS, 1, 0, 0, 0, 1, 0, 0, 0, b - a, False, True)  # fmt: skip
    for a, b in spans:
        gated_sums(y, a, 192, 0, g, a, 192, 0, gated, 0, OUTPUTS, 1, b - a)
    return gx, fused, dots, biases, gated


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("cuts", [[0, 64, 192], [0, 128, 192], [0, 64, 128, 192]])
def test_sums_over_the_batch_are_the_same_bits_in_pieces_of_64_examples(cuts: list[int], dtype: Any) -> None:
    for found, want in zip(sums_over(list(pairwise(cuts)), dtype), sums_over([(0, 192)], dtype), strict=True):
        np.testing.assert_array_equal(found, want)


@pytest.mark.parametrize("length", [3, 16, 128])
def test_column_gradients_keep_nan(length: int) -> None:
    case = random_columns(length, length, np.float32, 1.0, adds=(False, False))
    case.arrays[0][0][OFFSET] = np.nan  # of output 0, which all inputs but one meet
    gx, out = case.run()
    begins, _, columns, order = case.tables
    _, y0, y_pitch = case.arrays[2]
    rows = [c for c in range(INPUTS) if begins[c] < case.tables[1][c]]
    assert np.isnan(gx[[y0 + c * y_pitch for c in rows]]).all()
    assert np.isnan(out[order[columns == 0]]).all()
    assert np.isfinite(out[order[columns != 0]]).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("length", LENGTHS)
def test_gated_sums_gate_and_add(length: int, dtype: Any) -> None:
    draw = np.random.default_rng(length)
    loops = Loops(3, 1, length)
    (y_row, _), (g_row, _) = loops.strides(2), loops.strides(1)
    y_pitch, pitch = 3 * y_row + 1, 3 * g_row + 2
    y = np.maximum(draw.standard_normal(4 + 6 * y_pitch), 0).astype(dtype)
    y[4 + y_pitch] = np.nan
    g = draw.standard_normal(OFFSET + 6 * pitch).astype(dtype)
    at_y, at_g = loops.places((y_row, 0)) + 4, loops.places((g_row, 0)) + OFFSET
    want, sums = g.astype(np.float64), np.full(6, JUNK)
    for row in range(1, 5):
        here = at_g + row * pitch
        want[here] = np.where(y[at_y + row * y_pitch] <= 0, 0, want[here])
        sums[row] += want[here].sum()
    out = np.full(6, JUNK, dtype)
    gated_sums(y, 4, y_pitch, y_row, g, OFFSET, pitch, g_row, out, 1, 5, 3, length)
    np.testing.assert_array_equal(g, want.astype(dtype))
    np.testing.assert_allclose(out, sums, **TOLERANCES[dtype])
