"""Transposes against NumPy's, of every small size, between arrays with gaps."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from kernel_cases import JUNK
from sparseflow.engine.kernels.transpose import transpose, transpose_chosen

SIZES = [(1, 1), (1, 40), (40, 1), (3, 5), (8, 8), (10, 128), (15, 17), (16, 16), (17, 15), (33, 47), (128, 1024)]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("rows", "columns"), SIZES)
def test_what_is_transposed_is_what_numpy_transposes(dtype: Any, rows: int, columns: int) -> None:
    draw = np.random.default_rng(rows + 1000 * columns)
    x, y = draw.standard_normal((rows, columns + 3)).astype(dtype), np.full((columns, rows + 5), JUNK, dtype)
    transpose(x.reshape(-1), 2, columns + 3, rows, columns, y.reshape(-1), 1, rows + 5)
    want = np.full_like(y, JUNK)
    want[:, 1 : rows + 1] = x[:, 2 : columns + 2].T
    np.testing.assert_array_equal(y, want)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("rows", "columns"), SIZES)
def test_chosen_rows_are_those_that_numpy_takes(dtype: Any, rows: int, columns: int) -> None:
    draw = np.random.default_rng(rows + 1000 * columns)
    size = columns + 6
    x, y = draw.standard_normal((9, size)).astype(dtype), np.full((columns, rows), JUNK, dtype)
    chosen = draw.integers(0, 9, rows + 2)
    transpose_chosen(x.reshape(-1), size, chosen, 2, 4, rows, columns, y.reshape(-1), 0, rows)
    np.testing.assert_array_equal(y, x[chosen[2:], 4 : columns + 4].T)


def test_nan_and_minus_zero_are_moved_as_they_are() -> None:
    x = np.array([np.nan, -0.0, np.inf, 1.0], np.float32).repeat(64)
    y = np.zeros(256, np.float32)
    transpose(x, 0, 16, 16, 16, y, 0, 16)
    np.testing.assert_array_equal(y.view(np.int32), x.view(np.int32).reshape(16, 16).T.reshape(-1))
