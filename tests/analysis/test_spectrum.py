"""Spectra against matrices whose eigenvalues are known, densities against the normal density itself."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats
from torch import Tensor

from known_spectra import rotated, second_difference, second_difference_eigenvalues
from sparseflow.analysis.smoothing import kernel_variance, spectral_density
from sparseflow.analysis.spectrum import (
    SpectrumSummary,
    bulk_distance,
    eigenvalues,
    positive_bulk,
    rayleigh_quotient,
    summarize,
)

# --- eigenvalues ------------------------------------------------------------------------------------------------------

SPECTRA = {
    "repeated": [-2.0, -2.0, 0.5, 3.0, 3.0, 3.0],
    "clustered": [-1.0, -1.0 + 1e-10, 1.0, 1.0 + 1e-12],
    "negative": [-9.0, -3.0, -1e-8],
    "rank-deficient": [0.0, 0.0, 0.0, 0.0, 7.0],
    "zero": [0.0, 0.0, 0.0],
    "single": [4.0],
}


@pytest.mark.parametrize("name", SPECTRA)
def test_eigenvalues_of_a_rotated_diagonal(name: str) -> None:
    values = torch.tensor(SPECTRA[name], dtype=torch.float64)
    torch.testing.assert_close(eigenvalues(rotated(values)), values, rtol=0, atol=1e-14 * max(1, len(values) * 9))


def test_eigenvalues_in_closed_form() -> None:
    torch.testing.assert_close(
        eigenvalues(second_difference(200)), second_difference_eigenvalues(200), rtol=0, atol=1e-13
    )


def test_eigenvalues_of_a_kronecker_sum_are_the_sums() -> None:
    one, other = second_difference(7), rotated(torch.tensor([-1.0, 0.0, 5.0], dtype=torch.float64))
    unit = torch.eye(7, dtype=torch.float64), torch.eye(3, dtype=torch.float64)
    sums = second_difference_eigenvalues(7)[:, None] + torch.tensor([-1.0, 0.0, 5.0], dtype=torch.float64)
    found = eigenvalues(torch.kron(one, unit[1]) + torch.kron(unit[0], other))
    torch.testing.assert_close(found, sums.flatten().sort().values, rtol=0, atol=1e-13)


@pytest.mark.parametrize("dtype", [torch.float32, torch.int64])
def test_eigenvalues_are_float64_whatever_comes(dtype: torch.dtype) -> None:
    assert eigenvalues(torch.tensor([[2, 1], [1, 2]], dtype=dtype)).tolist() == [1.0, 3.0]


def test_rounding_is_averaged_away_and_the_matrix_left_alone() -> None:
    """[[0, 1 + d], [1 - d, 0]] has the symmetric part [[0, 1], [1, 0]]."""
    matrix = torch.tensor([[0.0, 1.0 + 1e-9], [1.0 - 1e-9, 0.0]], dtype=torch.float64)
    before = matrix.clone()
    torch.testing.assert_close(eigenvalues(matrix).tolist(), [-1.0, 1.0], rtol=0, atol=1e-15)
    assert torch.equal(matrix, before)


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        (torch.zeros(3, 2), r"square matrix \(P, P\).*got shape \(3, 2\)"),
        (torch.zeros(0, 0), r"P >= 1, got shape \(0, 0\)"),
        (torch.zeros(4), r"got shape \(4,\)"),
        (torch.tensor([[1.0, math.nan], [math.inf, 1.0]]), "hessian has 2 of 4 entries that are NaN or infinite"),
        (torch.tensor([[1.0, 2.0], [2.01, 1.0]]), r"not symmetric: max\|H - H'\| = 0.01 .* Compute it in float64"),
    ],
)
def test_a_matrix_that_is_no_hessian_is_refused(matrix: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        eigenvalues(matrix)


# --- density ----------------------------------------------------------------------------------------------------------


def test_the_density_of_one_eigenvalue_is_the_normal_density() -> None:
    """Variance 1e-5 (the range counts as 1), from 0.01 below to 0.01 above: 3.16 standard deviations hold 99.84 %."""
    grid, density = spectral_density(torch.tensor([2.0]))
    assert grid.dtype == density.dtype == torch.float64
    assert len(grid) == 10_000
    assert (float(grid[0]), float(grid[-1])) == pytest.approx((1.99, 2.01), rel=1e-15)
    std = math.sqrt(1e-5)
    expected = stats.norm.pdf(grid.numpy(), 2.0, std) / (2 * stats.norm.cdf(0.01 / std) - 1)
    torch.testing.assert_close(density, torch.from_numpy(expected), rtol=1e-8, atol=0)  # trapezoids, 10000 of them


def test_the_density_is_the_weighted_sum_of_normal_densities() -> None:
    values, weights = torch.tensor([-1.0, 0.5, 0.6, 9.0]), torch.tensor([3.0, 1.0, 0.0, 4.0])
    grid = torch.linspace(-2, 10, 777, dtype=torch.float64)
    found = spectral_density(values, weights=weights, grid=grid, relative_variance=1e-2)
    std = math.sqrt(1e-2 * 10)
    terms = [
        w / 8 * stats.norm.pdf(grid.numpy(), v, std)
        for v, w in zip(values.double().tolist(), weights.tolist(), strict=True)
    ]
    torch.testing.assert_close(found.density, torch.from_numpy(sum(terms)), rtol=1e-12, atol=1e-300)
    assert torch.equal(found.grid, grid)


@pytest.mark.parametrize("name", SPECTRA)
@pytest.mark.parametrize("relative_variance", [1e-5, 1e-4, 1e-1])
def test_the_density_integrates_to_one(name: str, relative_variance: float) -> None:
    grid, density = spectral_density(torch.tensor(SPECTRA[name]), relative_variance=relative_variance)
    assert float(torch.trapezoid(density, grid)) == pytest.approx(1, rel=1e-12)
    assert bool((density >= 0).all())


def test_on_a_grid_of_ones_own_the_density_is_not_rescaled() -> None:
    """Half of the line holds half of a symmetric spectrum."""
    half = torch.linspace(0, 10, 20_001, dtype=torch.float64)
    _, density = spectral_density(torch.tensor([-5.0, 5.0]), grid=half)
    assert float(torch.trapezoid(density, half)) == pytest.approx(0.5, rel=1e-9)


def test_a_repeated_eigenvalue_is_one_with_its_weight() -> None:
    many = spectral_density(torch.tensor([0.0] * 300 + [1.0]))
    two = spectral_density(torch.tensor([1.0, 0.0]), weights=torch.tensor([1.0, 300.0]))
    torch.testing.assert_close(many.density, two.density, rtol=1e-12, atol=1e-300)


def test_the_width_of_the_protocol() -> None:
    """Protocol H: for a range of 30, sigma is about 0.017; below a range of 1 it stays as for 1."""
    assert kernel_variance(-1.0, 29.0, 1e-5) ** 0.5 == pytest.approx(0.0173, abs=5e-5)
    assert kernel_variance(0.0, 0.0, 1e-5) == kernel_variance(0.2, 1.2, 1e-5) == 1e-5


@pytest.mark.parametrize(
    ("values", "options", "message"),
    [
        (torch.zeros(0), {}, r"vector \(P,\) with P >= 1, got shape \(0,\)"),
        (torch.zeros(2, 2), {}, r"got shape \(2, 2\)"),
        (torch.tensor([1.0, math.nan]), {}, "eigenvalues has 1 of 2 entries that are NaN"),
        (torch.ones(2), {"weights": torch.ones(3)}, r"weights must be \(2,\).*got shape \(3,\)"),
        (torch.ones(2), {"weights": torch.tensor([1.0, -1.0])}, "not negative.*smallest -1.0"),
        (torch.ones(2), {"weights": torch.zeros(2)}, "not all 0"),
        (torch.ones(2), {"relative_variance": 0.0}, "relative_variance must be above 0, got 0.0. Try 1e-5"),
        (torch.tensor([0.0, 5000.0]), {}, "points=10000 over .* miss kernels .* Give points=22362 or more"),
        (torch.ones(2), {"points": 1}, "points=1 over"),
    ],
)
def test_a_density_that_cannot_be_right_is_refused(values: Tensor, options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        spectral_density(values, **options)


def test_the_points_asked_for_are_enough() -> None:
    grid, _ = spectral_density(torch.tensor([0.0, 5000.0]), points=22362)
    assert float(grid[1] - grid[0]) <= kernel_variance(0.0, 5000.0, 1e-5) ** 0.5


# --- scalars ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        # -0.03 is beyond -0.001 * 20, -0.02 is not beyond it but at it, -0.01 is noise.
        ([20.0, -0.03, -0.02, 0.0, -0.01, 1.0], SpectrumSummary(20.0, -0.03, 1, 3, -0.06, 20.94)),
        ([-1.0, -4.0], SpectrumSummary(-1.0, -4.0, 2, 2, -5.0, -5.0)),  # no positive one: any negative counts
        ([0.0, 0.0], SpectrumSummary(0.0, 0.0, 0, 0, 0.0, 0.0)),
        ([2.0, 3.0], SpectrumSummary(3.0, 2.0, 0, 0, 0.0, 5.0)),
    ],
)
def test_the_summary_by_hand(values: list[float], expected: SpectrumSummary) -> None:
    found = summarize(torch.tensor(values, dtype=torch.float64))
    assert found == pytest.approx(expected, rel=1e-14)
    assert summarize(torch.tensor(values, dtype=torch.float64).flip(0)) == pytest.approx(expected, rel=1e-14)


def test_the_threshold_of_the_summary() -> None:
    assert summarize(torch.tensor([10.0, -1.0, -2.0]), threshold=0.15).num_below == 1


def test_a_spectrum_that_is_not_finite_has_no_summary() -> None:
    with pytest.raises(ValueError, match="eigenvalues has 1 of 2 entries"):
        summarize(torch.tensor([math.inf, 0.0]))


@pytest.mark.parametrize("as_product", [False, True])
def test_the_rayleigh_quotient_is_the_curvature_along_the_gradient(as_product: bool) -> None:
    """Of an eigenvector: its eigenvalue. Of any direction: the second difference of a quadratic function."""
    matrix = second_difference(9)
    hessian = (lambda v: matrix @ v) if as_product else matrix
    _, vectors = torch.linalg.eigh(matrix)
    for value, vector in zip(second_difference_eigenvalues(9).tolist(), vectors.T, strict=True):
        assert rayleigh_quotient(hessian, -3 * vector) == pytest.approx(value, rel=1e-12)
    g = torch.arange(9, dtype=torch.float64)

    def loss(step: float) -> float:
        return float((step * g) @ matrix @ (step * g)) / 2

    assert rayleigh_quotient(hessian, g) == pytest.approx((loss(1) - 2 * loss(0) + loss(-1)) / float(g @ g), rel=1e-12)


def test_no_gradient_has_no_curvature_along_it() -> None:
    with pytest.raises(ValueError, match="gradient is zero"):
        rayleigh_quotient(torch.eye(2), torch.zeros(2))


# --- the bulk ---------------------------------------------------------------------------------------------------------


def test_the_bulk_by_hand() -> None:
    values = torch.tensor([0.5, -7.0, 100.0, 0.05, 0.2, 50.0, 0.1, 0.0], dtype=torch.float64)
    assert positive_bulk(values, floor=0.05, outliers=2).tolist() == [0.1, 0.2, 0.5]
    assert positive_bulk(values, floor=0.05, outliers=8).tolist() == []


@pytest.mark.parametrize("sizes", [(400, 400), (2446, 2399), (11, 500)])
def test_the_distance_is_that_of_scipy(sizes: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(size, generator=generator, dtype=torch.float64).exp() for size in sizes)
    floor = 1e-3 * max(float(a.max()), float(b.max()))
    bulks = [values.sort().values[:-10] for values in (a, b)]
    kept = [bulk[bulk > floor].numpy() for bulk in bulks]
    assert bulk_distance(a, b) == pytest.approx(stats.ks_2samp(*kept).statistic, rel=1e-12)


def test_what_is_outside_the_bulk_does_not_count() -> None:
    """Same bulk, other negative values, other zeros, other outliers (but the largest, which sets the floor)."""
    bulk = torch.linspace(0.1, 1, 50, dtype=torch.float64)
    one = torch.cat([bulk, torch.tensor([-3.0, 1e-9, 30.0, 20.0])])
    other = torch.cat([torch.tensor([30.0, 5.0, -0.1, 0.0, 0.02]), bulk])
    assert bulk_distance(one, other, outliers=2) == bulk_distance(other, one, outliers=2) == 0


def test_bulks_at_other_scales_are_apart() -> None:
    a = torch.linspace(1, 2, 50)
    assert bulk_distance(a, 3 * a, outliers=0) == 1


def test_a_spectrum_without_bulk_is_named() -> None:
    with pytest.raises(ValueError, match=r"the second spectrum has no positive bulk: none of its 5 .* above 0.02"):
        bulk_distance(torch.linspace(1, 20, 50), torch.linspace(0, 0.01, 5))
