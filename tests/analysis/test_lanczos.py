"""The Lanczos recurrence and the spectrum of a network; oracle: closed forms and the dense Hessian."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import sparseflow as sf
from known_spectra import SIZE, SPECTRA, ends, product_of, rotated
from sparseflow.analysis.eigenpairs import extreme_eigenpairs
from sparseflow.analysis.krylov import orthogonalize_
from sparseflow.analysis.lanczos import lanczos, lanczos_density, lanczos_spectrum
from sparseflow.analysis.spectrum import eigenvalues, rayleigh_quotient
from sparseflow.rng import stream
from tiny import batch, masked, tiny_model


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
