"""Products of blocks against sums over gathered numbers in float64."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from kernel_cases import LENGTHS, TOLERANCES, Loops, random_begins, random_loops
from sparseflow.engine.kernels.blocks import (
    HEIGHT,
    block_dots,
    block_gradients,
    block_sums,
    block_vector_product,
)

ROWS, INPUTS, OFFSET = 5, 11, 3


@dataclass(frozen=True)
class Case:
    """A random pattern of blocks with activations and gradients in flat arrays.

    Inputs may overlap, as the taps of a convolution do: column ``c`` of ``x`` begins ``x_columns[c] * pitch`` further.
    """

    begins: Any
    inputs: Any
    x_columns: Any
    gx_columns: Any
    pitch: int
    values: Any
    start: Any
    x: Any
    gx: Any
    g: Any
    g_pitch: int
    strides: tuple[tuple[int, int], tuple[int, int], tuple[int, int]]
    loops: Loops

    def places(self, which: int) -> Any:
        """Of one channel in ``g``, ``x`` or ``gx``."""
        return self.loops.places(self.strides[which]) + OFFSET

    def value_of(self, o: int, j: int, k: int) -> int:
        """Where block ``k`` of row ``o`` has the value of its output ``j``."""
        begin, count = int(self.begins[o]), int(self.begins[o + 1] - self.begins[o])
        return HEIGHT * begin + j * count + k

    def blocks(self) -> list[tuple[int, int, int]]:
        """Row, place within the row, and number of each block."""
        return [
            (o, k, int(self.begins[o]) + k) for o in range(ROWS) for k in range(self.begins[o + 1] - self.begins[o])
        ]


def random_case(seed: int, length: int, dtype: Any, density: float) -> Case:
    draw = np.random.default_rng(seed)
    loops = random_loops(draw, length)
    mask = draw.random((ROWS, INPUTS)) < density
    mask[2], mask[:, 4] = False, False
    begins, inputs = random_begins(draw, mask)
    strides = [loops.strides(gap) for gap in draw.integers(0, 4, 3)]
    pitch, g_pitch = int(draw.choice([1, 2, length])), loops.pitch(strides[0])
    places = [np.sort(draw.permutation(4 * INPUTS)[:INPUTS]).astype(np.int32) for _ in range(2)]

    def room(step: tuple[int, int], columns: Any) -> Any:
        return draw.standard_normal(OFFSET + int(columns.max()) * pitch + loops.pitch(step)).astype(dtype)

    return Case(
        begins, inputs, places[0][inputs], places[1][inputs], pitch,
        draw.standard_normal(HEIGHT * len(inputs)).astype(dtype), draw.standard_normal(HEIGHT * ROWS).astype(dtype),
        room(strides[1], places[0]), room(strides[2], places[1]),
        draw.standard_normal(OFFSET + HEIGHT * ROWS * g_pitch).astype(dtype), g_pitch,
        (strides[0], strides[1], strides[2]), loops,
    )  # fmt: skip


def sums_of(case: Case, *, biased: bool, floor: float, cuts: tuple[int, ...] = (0, ROWS)) -> Any:
    """The output, in the frame of ``g``."""
    (yi, yj), (xi, xj), _ = case.strides
    y, start = case.g.copy(), case.start if biased else case.start[:0]
    for first, last in pairwise(cuts):
        block_sums(
            case.begins, case.x_columns, case.values, start, case.x, OFFSET, case.pitch, y, OFFSET, case.g_pitch,
            first, last, case.loops.rows, xi, yi, case.loops.parts, xj, yj, case.loops.length, floor,
        )  # fmt: skip
    return y


def gradients_of(case: Case, out: Any, *, adds: bool, cuts: tuple[int, ...] = (0, ROWS)) -> tuple[Any, Any]:
    (gi, gj), (xi, xj), (yi, yj) = case.strides
    gx, out = case.gx.copy(), out.copy()
    for first, last in pairwise(cuts):
        block_gradients(
            case.begins, case.x_columns, case.gx_columns, case.values, case.g, OFFSET, case.g_pitch, case.x, OFFSET,
            gx, OFFSET, case.pitch, out, first, last, case.loops.rows, gi, xi, yi, case.loops.parts, gj, xj, yj,
            case.loops.length, adds,
        )  # fmt: skip
    return gx, out


def dots_of(case: Case, out: Any, *, adds: bool, cuts: tuple[int, ...] = (0, ROWS)) -> Any:
    (gi, gj), (xi, xj), _ = case.strides
    out = out.copy()
    for first, last in pairwise(cuts):
        block_dots(
            case.begins, case.x_columns, case.g, OFFSET, case.g_pitch, case.x, OFFSET, case.pitch, out, first, last,
            case.loops.rows, gi, xi, case.loops.parts, gj, xj, case.loops.length, adds,
        )  # fmt: skip
    return out


def wanted_sums(case: Case, *, biased: bool, floor: float) -> Any:
    y, x = case.g.astype(np.float64), case.x.astype(np.float64)
    totals = np.zeros((HEIGHT * ROWS, case.loops.rows, case.loops.parts, case.loops.length))
    for o, k, b in case.blocks():
        for j in range(HEIGHT):
            value = float(case.values[case.value_of(o, j, k)])
            totals[HEIGHT * o + j] += value * x[case.places(1) + case.x_columns[b] * case.pitch]
    for row, total in enumerate(totals):
        y[case.places(0) + row * case.g_pitch] = np.maximum(total + (case.start[row] if biased else 0.0), floor)
    return y


def wanted_gradients(case: Case, out: Any, *, adds: bool) -> tuple[Any, Any]:
    gx, g, x = (array.astype(np.float64) for array in (case.gx, case.g, case.x))
    want = out.astype(np.float64) if adds else np.zeros(len(out))
    for o, k, b in case.blocks():
        for j in range(HEIGHT):
            met = g[case.places(0) + (HEIGHT * o + j) * case.g_pitch]
            v = case.value_of(o, j, k)
            want[v] += (met * x[case.places(1) + case.x_columns[b] * case.pitch]).sum()
            gx[case.places(2) + case.gx_columns[b] * case.pitch] += float(case.values[v]) * met
    return gx, want


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("density", [0.02, 0.5, 1.0])
def test_block_products_are_the_sums_that_define_them(length: int, density: float, dtype: Any) -> None:
    case = random_case(length, length, dtype, density)
    for biased, floor in ((False, -np.inf), (True, 0.0)):
        np.testing.assert_allclose(
            sums_of(case, biased=biased, floor=floor),
            wanted_sums(case, biased=biased, floor=floor),
            **TOLERANCES[dtype],
        )
    out = np.random.default_rng(1).standard_normal(len(case.values)).astype(dtype)
    for adds in (False, True):
        want = wanted_gradients(case, out, adds=adds)
        for found, wanted in zip(gradients_of(case, out, adds=adds), want, strict=True):
            np.testing.assert_allclose(found, wanted, **TOLERANCES[dtype])
        np.testing.assert_allclose(dots_of(case, out, adds=adds), want[1], **TOLERANCES[dtype])


@pytest.mark.parametrize("length", [1, 7, 16, 64, 100])
def test_blocks_give_the_same_bits_however_the_rows_are_divided(length: int) -> None:
    case = random_case(length, length, np.float32, 0.5)
    # Where inputs overlap, an input's sum goes over the rows of each tile, which a cut divides otherwise.
    room = np.resize(case.x, OFFSET + 44 * length)
    case = replace(case, x=room, gx=room.copy(), loops=Loops(1, 1, length), pitch=length)
    out = np.zeros_like(case.values)
    for cuts in ((0, 1, 4, ROWS), tuple(range(ROWS + 1)), (0, 0, ROWS)):
        np.testing.assert_array_equal(
            sums_of(case, biased=True, floor=0.0, cuts=cuts), sums_of(case, biased=True, floor=0.0)
        )
        whole = gradients_of(case, out, adds=True)
        for found, want in zip(gradients_of(case, out, adds=True, cuts=cuts), whole, strict=True):
            np.testing.assert_array_equal(found, want)
        np.testing.assert_array_equal(dots_of(case, out, adds=True, cuts=cuts), dots_of(case, out, adds=True))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("cuts", [(0, 64, 192), (0, 128, 192), (0, 64, 128, 192)])
def test_sums_over_the_batch_are_the_same_bits_in_pieces_of_64_examples(cuts: tuple[int, ...], dtype: Any) -> None:
    draw = np.random.default_rng(4)
    begins, columns = random_begins(draw, draw.random((ROWS, INPUTS)) < 0.5)
    g, x = (draw.standard_normal(channels * 192).astype(dtype) for channels in (HEIGHT * ROWS, INPUTS))
    values = draw.standard_normal(HEIGHT * len(columns)).astype(dtype)

    def gradients(spans: tuple[int, ...]) -> tuple[Any, Any, Any]:
        gx, out, dots = np.zeros_like(x), np.zeros_like(values), np.zeros_like(values)
        for a, b in pairwise(spans):
            block_gradients(begins, columns, columns, values, g, a, 192, x, a, gx, a, 192, out, 0, ROWS,
                            1, 0, 0, 0, 1, 0, 0, 0, b - a, True)  # fmt: skip
            block_dots(begins, columns, g, a, 192, x, a, 192, dots, 0, ROWS, 1, 0, 0, 1, 0, 0, b - a, True)
        return gx, out, dots

    for found, want in zip(gradients(cuts), gradients((0, 192)), strict=True):
        np.testing.assert_array_equal(found, want)


@pytest.mark.parametrize("length", [1, 3, 16, 64])
def test_blocks_keep_nan(length: int) -> None:
    case = random_case(length, length, np.float32, 1.0)
    case.g[case.places(0)] = np.nan  # the gradient of output 0
    gx, out = gradients_of(case, np.zeros_like(case.values), adds=False)
    of_first = [case.value_of(o, 0, k) for o, k, _ in case.blocks() if o == 0]
    assert np.isnan(out[of_first]).all()
    assert np.isfinite(np.delete(out, of_first)).all()
    for _, _, b in [block for block in case.blocks() if block[0] == 0]:
        assert np.isnan(gx[case.places(2) + case.gx_columns[b] * case.pitch]).all()
    case.values[0] = np.nan
    y = sums_of(case, biased=True, floor=0.0)
    assert np.isnan(y[case.places(0)]).all()
    for row in range(1, HEIGHT * ROWS):
        assert np.isfinite(y[case.places(0) + row * case.g_pitch]).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("narrow", [np.int32, np.uint16])
@pytest.mark.parametrize("inputs", [1, 3, 8, 15, 16, 17, 40, 1000])
def test_one_example_is_the_dense_product(inputs: int, narrow: Any, dtype: Any) -> None:
    draw = np.random.default_rng(inputs)
    mask = draw.random((6, inputs)) < 0.5
    mask[1], mask[2] = False, True
    begins, columns = random_begins(draw, mask)
    weight = draw.standard_normal((6, HEIGHT, inputs)).astype(dtype)
    values = np.concatenate([weight[o][:, mask[o]].reshape(-1) for o in range(6)])
    start, x = draw.standard_normal(24).astype(dtype), draw.standard_normal(inputs).astype(dtype)
    dense = (weight.astype(np.float64) * mask[:, None]).reshape(24, inputs) @ x.astype(np.float64)
    for bias, floor in ((start, 0.0), (start[:0], -np.inf)):
        y = np.empty(24, dtype)
        block_vector_product(begins, columns.astype(narrow), values, bias, x, y, 0, 4, floor)
        block_vector_product(begins, columns.astype(narrow), values, bias, x, y, 4, 6, floor)
        np.testing.assert_allclose(y, np.maximum(dense + (bias if len(bias) else 0.0), floor), **TOLERANCES[dtype])
