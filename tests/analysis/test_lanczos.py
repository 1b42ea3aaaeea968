"""Lanczos against eigenvalues in closed form, exact densities and the dense Hessian of a network."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import pytest
import scipy.sparse.linalg
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import sparseflow as sf
from known_spectra import rotated, second_difference, second_difference_eigenvalues
from sparseflow.analysis.eigenpairs import Eigenpairs, extreme_eigenpairs
from sparseflow.analysis.krylov import orthogonalize_
from sparseflow.analysis.lanczos import lanczos, lanczos_density, lanczos_spectrum
from sparseflow.analysis.smoothing import gaussian_mixture, kernel_variance
from sparseflow.analysis.spectrum import eigenvalues, rayleigh_quotient
from sparseflow.rng import stream
from tiny import batch, masked, tiny_model

SIZE = 300
#: Name -> eigenvalues, ascending: what makes Lanczos hard, and what a network looks like.
SPECTRA = {
    "even": torch.linspace(-1, 3, SIZE, dtype=torch.float64),
    "second difference": second_difference_eigenvalues(SIZE),
    "network": torch.cat(
        [torch.tensor([-0.3, -0.2]), torch.linspace(-0.05, 0.05, 290), torch.tensor([1.0, 2, 3, 5, 7, 9, 12, 30])]
    ).double(),
    "repeated": torch.cat([torch.tensor([-2.0, -2]), torch.linspace(-1, 3, 295), torch.tensor([5.0, 5, 5])]).double(),
    "clustered": torch.cat(
        [
            torch.tensor([-2.0, -2 + 1e-7]).double(),
            torch.linspace(-1, 3, 296).double(),
            torch.tensor([5 - 1e-6, 5]).double(),
        ]
    ),
    "half zero": torch.cat([torch.zeros(150), torch.linspace(0.01, 1, 150)]).double(),
    "rank 3": torch.cat([torch.tensor([-2.0]), torch.zeros(297), torch.tensor([1.0, 4])]).double(),
    "two values": torch.cat([-torch.ones(100), torch.ones(200)]).double(),
    "identity": torch.ones(SIZE).double(),
    "zero": torch.zeros(SIZE).double(),
}


def product_of(values: Tensor) -> Callable[[Tensor], Tensor]:
    matrix = rotated(values)
    return lambda v: matrix.to(v.dtype) @ v


def ends(values: Tensor, count: int) -> Tensor:
    return torch.cat([values[:count], values[-count:]])


# --- the recurrence ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-13), (torch.float32, 1e-5)])
@pytest.mark.parametrize("name", ["even", "network", "second difference"])
def test_the_basis_is_orthonormal_and_turns_the_matrix_tridiagonal(
    name: str, dtype: torch.dtype, tolerance: float
) -> None:
    """To rounding of the dtype times the largest eigenvalue, also long after the extremes have converged."""
    matrix = rotated(SPECTRA[name])
    run = lanczos(product_of(SPECTRA[name]), SIZE, steps=120, generator=stream(0), dtype=dtype)
    assert run.alpha.dtype == run.beta.dtype == torch.float64
    assert run.basis is not None
    assert run.basis.dtype == dtype
    basis = run.basis.double()
    torch.testing.assert_close(basis @ basis.T, torch.eye(120, dtype=torch.float64), rtol=0, atol=tolerance)
    tridiagonal = torch.diag(run.alpha) + torch.diag(run.beta[:-1], 1) + torch.diag(run.beta[:-1], -1)
    scale = float(SPECTRA[name].abs().max())
    torch.testing.assert_close(basis @ matrix @ basis.T, tridiagonal, rtol=0, atol=10 * tolerance * scale)


@pytest.mark.parametrize("name", ["even", "network", "second difference"])
def test_as_many_steps_as_rows_give_the_spectrum(name: str) -> None:
    run = lanczos(product_of(SPECTRA[name]), SIZE, steps=SIZE + 5, generator=stream(0))
    nodes, weights = run.quadrature()
    torch.testing.assert_close(nodes, SPECTRA[name], rtol=0, atol=1e-12)
    assert float(weights.sum()) == pytest.approx(1, rel=1e-12)


@pytest.mark.parametrize("reorthogonalize", [True, False])
def test_a_rule_of_m_nodes_gives_the_first_2m_moments_of_its_start(reorthogonalize: bool) -> None:
    """Gauss quadrature is exact for polynomials up to degree 2 m - 1: here 9."""
    values = SPECTRA["even"]
    start = torch.randn(SIZE, generator=stream(1), dtype=torch.float64)
    run = lanczos(
        lambda v: values * v, SIZE, steps=5, generator=stream(0), start=start, reorthogonalize=reorthogonalize
    )
    nodes, weights = run.quadrature()
    shares = start.square() / start.square().sum()
    for power in range(10):
        assert float(weights @ nodes**power) == pytest.approx(float(shares @ values**power), rel=1e-11)
    assert (run.basis is None) == (not reorthogonalize)


@pytest.mark.parametrize(("name", "distinct"), [("zero", 1), ("identity", 1), ("two values", 2), ("rank 3", 4)])
def test_the_recurrence_ends_with_the_distinct_eigenvalues(name: str, distinct: int) -> None:
    run = lanczos(product_of(SPECTRA[name]), SIZE, steps=50, generator=stream(0))
    assert len(run.alpha) == len(run.beta) == distinct
    torch.testing.assert_close(run.quadrature()[0], SPECTRA[name].unique(), rtol=0, atol=1e-12)


def test_a_start_is_used_and_left_alone() -> None:
    """From an eigenvector, one step is all there is."""
    start = torch.zeros(9, dtype=torch.float32)
    start[2] = -4
    run = lanczos(lambda v: torch.arange(9.0) * v, 9, steps=5, generator=stream(0), start=start)
    assert run.alpha.tolist() == [2.0]
    assert start.tolist() == [0, 0, -4, 0, 0, 0, 0, 0, 0]


def test_what_is_almost_in_the_space_comes_out_orthogonal_to_it() -> None:
    """One pass leaves rounding of what was taken out, 1e-16 of 1: as much as 1e-6 of the 1e-10 that remain."""
    basis = rotated_basis(20)[:10]
    vector = basis[4] + 1e-10 * torch.randn(20, generator=stream(0), dtype=torch.float64)
    assert orthogonalize_(vector, basis[:5]) == pytest.approx(1, rel=1e-9)
    assert 1e-11 < float(vector.norm()) < 1e-9
    assert float((basis[:5] @ vector).abs().max()) <= 1e-14 * float(vector.norm())


def rotated_basis(size: int) -> Tensor:
    return torch.linalg.qr(torch.randn(size, size, generator=stream(7), dtype=torch.float64)).Q


# --- extreme eigenpairs -----------------------------------------------------------------------------------------------


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


# --- density ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["even", "network", "second difference"])
def test_enough_steps_resolve_every_kernel(name: str) -> None:
    """At ``steps = range / sigma``, one probe's rule gives its kernel sums to 1e-3 of a kernel's height, anywhere."""
    values = SPECTRA[name]
    span = float(values[-1] - values[0])
    variance = kernel_variance(0.0, span, (1 / 60) ** 2 * span)  # sigma = range / 60
    start = torch.randn(SIZE, generator=stream(1), dtype=torch.float64)
    run = lanczos(lambda v: values * v, SIZE, steps=60, generator=stream(0), start=start)
    grid = torch.linspace(float(values[0]) - 0.1, float(values[-1]) + 0.1, 2000, dtype=torch.float64)
    exact = gaussian_mixture(values, start.square() / start.square().sum(), grid, variance)
    found = gaussian_mixture(*run.quadrature(), grid, variance)
    assert float((found - exact).abs().max()) <= 1e-3 / math.sqrt(2 * math.pi * variance)


PROBES = 40


@pytest.mark.parametrize("name", ["even", "network", "second difference"])
@pytest.mark.parametrize("reorthogonalize", [True, False])
def test_the_density_is_right_within_its_own_standard_error(name: str, reorthogonalize: bool) -> None:
    """Closed form: a probe on the unit sphere has variance 2 v / (P + 2), v that of the kernel over the spectrum.

    At 20 points the mean of 40 probes is within 5 standard errors. The worst tail is that of a kernel over a single
    eigenvalue, chi-square with 40 degrees of freedom, 5e-5 each: a false alarm of 1e-3. Estimated variances have a
    standard deviation of 0.6 of the true ones there (a kurtosis of 15), so errors are held to 0.4 and 3 times.
    """
    values = SPECTRA[name]
    span = float(values[-1] - values[0])
    found = lanczos_density(
        lambda v: values * v,
        SIZE,
        steps=100,
        probes=PROBES,
        generator=stream(0),
        relative_variance=span / 60**2,
        margin=span / 4,
        points=2000,
        reorthogonalize=reorthogonalize,
    )
    assert found.resolved
    assert found.products == 100 * PROBES
    variance = kernel_variance(float(found.nodes[0]), float(found.nodes[-1]), span / 60**2)
    kernels = gaussian_mixture_terms(values, found.grid, variance)
    mean = kernels.mean(1)
    error = (2 / (SIZE + 2) * kernels.var(1, correction=0) / PROBES).sqrt()
    somewhere = mean > 1e-3 * mean.max()
    points = somewhere.nonzero().flatten()[:: max(1, int(somewhere.sum()) // 20)][:20]
    z = ((found.density - mean) / error)[points]
    assert float(z.abs().max()) < 5
    ratio = (found.standard_error / error)[points]
    assert 0.4 < float(ratio.min()) <= float(ratio.max()) < 3
    assert float(torch.trapezoid(found.density, found.grid)) == pytest.approx(1, rel=1e-12)


def gaussian_mixture_terms(values: Tensor, grid: Tensor, variance: float) -> Tensor:
    """(points, eigenvalues): each kernel on its own."""
    normal = torch.distributions.Normal(values, math.sqrt(variance))
    return normal.log_prob(grid[:, None]).exp()


@pytest.mark.parametrize("name", ["even", "network", "half zero", "zero"])
def test_trace_and_squares_are_right_within_their_standard_errors(name: str) -> None:
    """z-scores of 20 sets of 30 probes: standard deviation 1, none beyond 8.

    The network's sums are squares of one Gaussian times 30: skew, so that the tails are heavier than those of a normal.
    """
    values = SPECTRA[name]
    z = []
    for seed in range(20):
        found = lanczos_density(
            lambda v: values * v, SIZE, steps=2, probes=30, generator=stream(seed), points=100, relative_variance=1e-1
        )
        for estimate, exact in ((found.trace, values.sum()), (found.trace_of_square, values.square().sum())):
            z.append((estimate.value - float(exact)) / max(estimate.standard_error, 1e-9))
    if name == "zero":
        assert z == [0.0] * 40
    else:
        assert float(torch.tensor(z).std()) == pytest.approx(1, abs=0.5)
        assert max(map(abs, z)) < 8


def test_too_few_steps_are_told_and_outliers_are_right_anyway() -> None:
    values = SPECTRA["network"]
    found = lanczos_density(lambda v: values * v, SIZE, steps=40, probes=5, generator=stream(0))
    assert not found.resolved
    assert float(found.nodes[-1]) == pytest.approx(30, rel=1e-10)
    assert float(found.nodes[0]) == pytest.approx(-0.3, rel=1e-6)
    assert (float(found.grid[0]), float(found.grid[-1])) == pytest.approx((-0.31, 30.01), abs=1e-6)


def test_without_reorthogonalisation_copies_share_their_weight() -> None:
    """Rounding brings 30 back many times in 150 steps; the weight near it is that of the start all the same."""
    values = SPECTRA["network"]
    start = torch.ones(SIZE)
    run = lanczos(lambda v: values * v, SIZE, steps=150, generator=stream(0), start=start, reorthogonalize=False)
    nodes, weights = run.quadrature()
    near = (nodes - 30).abs() < 1e-6
    assert int(near.sum()) > 1
    assert float(weights[near].sum()) == pytest.approx(1 / SIZE, rel=1e-6)


def test_nodes_and_weights_count_negative_eigenvalues() -> None:
    """With as many steps as rows the rules are exact for their probes; 100 of 300 are -1."""
    values = SPECTRA["two values"]
    found = lanczos_density(lambda v: values * v, SIZE, probes=50, generator=stream(0), points=2000)
    assert found.resolved
    assert found.products == 2 * 50  # each ends with the two distinct values
    assert float(found.weights.sum()) == pytest.approx(1, rel=1e-12)
    # A probe's share has variance 2 (1/3)(2/3) / 302: five standard errors of 50 probes.
    error = math.sqrt(2 * 2 / 9 / (SIZE + 2) / 50)
    assert abs(float(found.weights[found.nodes < 0].sum()) - 1 / 3) < 5 * error


# --- what is refused --------------------------------------------------------------------------------------------------


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


@pytest.mark.parametrize("method", [extreme_eigenpairs, lanczos, lanczos_density])
@pytest.mark.parametrize(
    ("product", "message"),
    [
        (lambda v: v[:3], r"product must return shape \(50,\), as it was given, got \(3,\)"),
        (lambda v: v * math.nan, "product 1 is NaN or infinite.*Lower the learning rate"),
        (lambda v: v * math.inf, "product 1 is NaN or infinite"),
        (lambda v: v.cumsum(0), "product is not symmetric: u'Hv = .*batches that stay the same"),
    ],
)
def test_products_that_are_no_symmetric_matrix_are_refused(
    method: Callable[..., object], product: Callable[[Tensor], Tensor], message: str
) -> None:
    steps = {} if method is extreme_eigenpairs else {"steps": 10}
    with pytest.raises(ValueError, match=message):
        method(product, 50, generator=stream(0), **steps)


def test_a_product_that_changes_is_refused() -> None:
    """As that of a network whose batches or noise are drawn anew each time."""
    values, noise = torch.linspace(-1, 3, 50), stream(5)
    with pytest.raises(ValueError, match="product is not symmetric"):
        extreme_eigenpairs(lambda v: values * v * (1 + 0.1 * torch.randn(50, generator=noise)), 50, generator=stream(0))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps must be 1 or more, got 0"),
        (
            {"start": torch.zeros(50)},
            r"start must be a vector \(50,\), finite and not 0, got shape \(50,\) and norm 0.0",
        ),
        ({"start": torch.full((50,), math.nan)}, "norm nan"),
        ({"start": torch.ones(49)}, r"got shape \(49,\)"),
    ],
)
def test_a_recurrence_that_cannot_start_is_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        lanczos(lambda v: v, 50, generator=stream(0), **{"steps": 5, **options})


def test_no_matrix_has_no_rows() -> None:
    with pytest.raises(ValueError, match="size must be 1 or more, got 0"):
        lanczos(lambda v: v, 0, steps=1, generator=stream(0))


@pytest.mark.parametrize(
    ("options", "message"),
    [({"probes": 1}, "probes must be 2 or more, got 1"), ({"steps": 0}, "steps must be 1 or more")],
)
def test_a_density_needs_probes_and_steps(options: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        lanczos_density(lambda v: v, 50, generator=stream(0), **options)


# --- networks ---------------------------------------------------------------------------------------------------------


def sparse_network(
    dtype: torch.dtype = torch.float64,
) -> tuple[nn.Module, dict[str, Tensor], list[tuple[Tensor, Tensor]]]:
    """A small convolutional network, its masks, and 40 examples in batches of 30 and 10."""
    model = tiny_model(dtype=dtype)
    masks = masked(model)
    sf.apply_masks_(model, masks)
    return model, masks, [batch(0, size=30, dtype=dtype), batch(1, size=10, dtype=dtype)]


def dense_hessian(
    model: nn.Module, masks: dict[str, Tensor], data: list[tuple[Tensor, Tensor]]
) -> tuple[Tensor, Tensor]:
    """Reverse over reverse in float64, all examples at once, rows and columns of active entries; and the gradient."""
    model = copy.deepcopy(model).double()
    shapes = {name: p.shape for name, p in model.named_parameters()}
    inputs, targets = (torch.cat(parts) for parts in zip(*data, strict=True))

    def loss(flat: Tensor) -> Tensor:
        parts = flat.split([shape.numel() for shape in shapes.values()])
        values = {name: part.view(shapes[name]) for name, part in zip(shapes, parts, strict=True)}
        return F.cross_entropy(torch.func.functional_call(model, values, (inputs.double(),)), targets)

    flat = torch.cat([p.detach().flatten() for p in model.parameters()])
    active = torch.cat([masks.get(name, torch.ones(shape) > 0).flatten() for name, shape in shapes.items()])
    gradient = torch.func.grad(loss)
    return torch.func.jacrev(gradient)(flat)[active][:, active], gradient(flat)[active]


def test_the_spectrum_of_a_sparse_network_is_that_of_its_dense_hessian() -> None:
    model, masks, data = sparse_network()
    hessian, gradient = dense_hessian(model, masks, data)
    exact = eigenvalues(hessian)
    found = lanczos_spectrum(model, data, masks, generator=stream(0), largest=3, smallest=3, steps=60, probes=5)
    assert found.extremes.converged
    assert bool(((found.extremes.values - ends(exact, 3)).abs() <= found.extremes.residuals + 1e-12).all())
    assert found.rayleigh_quotient == pytest.approx(rayleigh_quotient(hessian, gradient), rel=1e-9)
    assert float(found.density.nodes[0]) == pytest.approx(float(exact[0]), rel=1e-9)
    assert float(found.density.nodes[-1]) == pytest.approx(float(exact[-1]), rel=1e-9)
    # The variance of the trace over probes in closed form; five standard errors, a false alarm of 6e-7.
    error = math.sqrt(2 * len(exact) / (len(exact) + 2) * len(exact) * float(exact.var(correction=0)) / 5)
    assert abs(found.density.trace.value - float(exact.sum())) < 5 * error


def test_in_float32_the_ends_are_those_of_float64() -> None:
    """The default tolerance, 1e-5 of the largest eigenvalue, is above what float32 rounds."""
    model, masks, data = sparse_network(torch.float32)
    exact = eigenvalues(dense_hessian(model, masks, data)[0])
    found = lanczos_spectrum(model, data, masks, generator=stream(0), steps=5, probes=2)
    assert found.extremes.converged
    assert found.extremes.vectors.dtype == torch.float32
    torch.testing.assert_close(found.extremes.values, ends(exact, 1), rtol=0, atol=1e-5 * float(exact[-1]))


def test_nothing_of_the_network_changes() -> None:
    model, masks, data = sparse_network()
    model.train()
    before, random = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    lanczos_spectrum(model, data, masks, generator=stream(0), steps=3, probes=2)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    assert all(module.training for module in model.modules())
    assert torch.equal(torch.get_rng_state(), random)
