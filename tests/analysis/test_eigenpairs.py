"""Extreme eigenpairs; oracle: eigenvalues in closed form and ARPACK."""

from __future__ import annotations

import pytest
import scipy.sparse.linalg
import torch

from known_spectra import SIZE, SPECTRA, ends, product_of, second_difference
from sparseflow.analysis.eigenpairs import Eigenpairs, extreme_eigenpairs
from sparseflow.analysis.lanczos import lanczos, lanczos_density
from sparseflow.rng import stream


@pytest.mark.parametrize("count", [1, 2, 4])
@pytest.mark.parametrize("name", SPECTRA)
def test_the_ends_of_a_known_spectrum(name: str, count: int) -> None:
    """Values are within the measured residuals of the right ones, copies included; vectors are orthonormal."""
    product, values = product_of(SPECTRA[name]), SPECTRA[name]
    calls = []
    found = extreme_eigenpairs(
        lambda v: calls.append(1) or product(v), SIZE, largest=count, smallest=count, generator=stream(0)
    )
    assert found.converged
    assert found.products == len(calls)
    assert float(found.residuals.max()) <= 1e-5 * float(values.abs().max())
    rounding = 1e-13
    assert bool(((found.values - ends(values, count)).abs() <= found.residuals + rounding).all())
    for value, vector, residual in zip(found.values, found.vectors, found.residuals, strict=True):
        assert float((product(vector) - value * vector).norm()) == pytest.approx(float(residual), rel=1e-6, abs=1e-14)
    gram = found.vectors @ found.vectors.T
    # Residuals of 1e-5 leave neighbours this far from orthogonal only where they are clustered.
    torch.testing.assert_close(gram, torch.eye(2 * count, dtype=torch.float64), rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["even", "second difference", "half zero"])
def test_restarts_change_nothing_but_the_number_of_products(name: str) -> None:
    """Twenty vectors or all of them, the same eigenvalues: errors of the order of the squared residual."""
    small, whole = (
        extreme_eigenpairs(
            product_of(SPECTRA[name]),
            SIZE,
            generator=stream(0),
            tolerance=1e-9,
            basis_size=basis_size,
            max_products=5_000,
        )
        for basis_size in (20, SIZE)
    )
    assert small.converged
    assert whole.converged
    assert small.products > whole.products
    torch.testing.assert_close(small.values, whole.values, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("largest", "smallest"), [(3, 0), (0, 2), (1, 0), (1, 4)])
def test_either_end_alone(largest: int, smallest: int) -> None:
    values = SPECTRA["network"]
    found = extreme_eigenpairs(
        product_of(values), SIZE, largest=largest, smallest=smallest, generator=stream(0), tolerance=1e-8
    )
    assert found.converged
    assert found.vectors.shape == (largest + smallest, SIZE)
    expected = torch.cat([values[:smallest], values[SIZE - largest :]])
    torch.testing.assert_close(found.values, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 8])
def test_matrices_smaller_than_the_basis(size: int) -> None:
    values = torch.arange(size, dtype=torch.float64) - 1
    for largest in range(size + 1):
        found = extreme_eigenpairs(
            product_of(values), size, largest=largest, smallest=size - largest, generator=stream(0)
        )
        assert found.converged
        torch.testing.assert_close(found.values, values, rtol=0, atol=1e-12)


def test_values_are_those_of_arpack() -> None:
    matrix = second_difference(SIZE)
    found = extreme_eigenpairs(
        lambda v: matrix @ v, SIZE, largest=3, smallest=3, generator=stream(0), tolerance=1e-9, max_products=20_000
    )
    assert found.converged
    arpack = scipy.sparse.linalg.eigsh(matrix.numpy(), k=6, which="BE", ncv=100, return_eigenvectors=False)
    torch.testing.assert_close(found.values, torch.from_numpy(arpack).sort().values, rtol=0, atol=1e-10)


def test_a_network_takes_few_products() -> None:
    """30 at the top and -0.3 below a bulk of 290: two ends that stand out need no restart."""
    found = extreme_eigenpairs(product_of(SPECTRA["network"]), SIZE, generator=stream(0))
    assert found.converged
    assert found.products <= 25


def test_a_budget_that_ends_too_early_is_told() -> None:
    """The residuals still bound the error of what is there."""
    values = SPECTRA["second difference"]
    found = extreme_eigenpairs(product_of(values), SIZE, generator=stream(0), max_products=30)
    assert not found.converged
    assert found.products == 30
    assert float(found.residuals.max()) > 1e-5 * 4
    distance = (found.values[:, None] - values).abs().min(1).values
    assert bool((distance <= found.residuals).all())


def test_what_float32_cannot_reach_is_told() -> None:
    """The recurrence believes in 1e-12; the measured residual does not."""
    found = extreme_eigenpairs(
        product_of(SPECTRA["network"]), SIZE, generator=stream(0), dtype=torch.float32, tolerance=1e-12
    )
    assert not found.converged
    assert float(found.residuals.max()) > 1e-12 * 30


def test_float32_is_enough_for_the_default_tolerance() -> None:
    values = SPECTRA["network"]
    found = extreme_eigenpairs(product_of(values), SIZE, generator=stream(0), dtype=torch.float32)
    assert found.converged
    assert found.vectors.dtype == torch.float32
    # Rounding of the float32 matrix itself: 6e-8 * 30, over the rows of a basis of 25.
    torch.testing.assert_close(found.values, ends(values, 1), rtol=0, atol=1e-5)


def test_long_sums_keep_their_digits_in_float32() -> None:
    """A plain float32 dot product of 3 million terms is off by 1e-4; blocks keep the error of the values at 1e-6."""
    size = 3_000_000
    values = torch.rand(size, generator=stream(3)).mul_(0.9)
    values[0], values[1] = 30.0, -2.0
    found = extreme_eigenpairs(lambda v: values * v, size, generator=stream(0), dtype=torch.float32, basis_size=8)
    assert found.converged
    torch.testing.assert_close(found.values, torch.tensor([-2.0, 30.0]).double(), rtol=0, atol=30e-6)


def same(one: Eigenpairs, other: Eigenpairs) -> bool:
    return torch.equal(one.values, other.values) and torch.equal(one.vectors, other.vectors)


def test_the_generator_alone_decides() -> None:
    product = product_of(SPECTRA["repeated"])
    before = torch.get_rng_state()
    runs = [extreme_eigenpairs(product, SIZE, largest=2, smallest=1, generator=stream(seed)) for seed in (0, 0, 1)]
    assert same(runs[0], runs[1])
    assert not same(runs[0], runs[2])
    densities = [lanczos_density(product, SIZE, steps=20, probes=2, generator=stream(seed)) for seed in (0, 0, 1)]
    assert torch.equal(densities[0].density, densities[1].density)
    assert not torch.equal(densities[0].density, densities[2].density)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_product_that_returns_its_argument_is_not_overwritten() -> None:
    found = extreme_eigenpairs(lambda v: v, 50, generator=stream(0))
    assert found.values.tolist() == pytest.approx([1, 1], rel=1e-12)
    assert lanczos(lambda v: v, 50, steps=3, generator=stream(0)).alpha.tolist() == pytest.approx([1], rel=1e-12)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"largest": -1}, "largest=-1 and smallest=1 must be 1 to 50 pairs together, none negative"),
        ({"largest": 0, "smallest": 0}, "must be 1 to 50 pairs"),
        ({"largest": 50}, "must be 1 to 50 pairs"),
        ({"largest": 4, "basis_size": 7}, "basis_size=7 cannot hold 5 pairs; give 8 or more"),
        ({"max_products": 3}, "max_products=3 cannot give 2 pairs; give 4 or many more"),
    ],
)
def test_counts_that_do_not_fit_are_refused(options: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        extreme_eigenpairs(lambda v: v, 50, generator=stream(0), **options)
