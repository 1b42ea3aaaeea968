"""Densities by Lanczos quadrature; oracle: exact densities, within the standard errors."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from known_spectra import SIZE, SPECTRA
from sparseflow.analysis.lanczos import lanczos, lanczos_density
from sparseflow.analysis.smoothing import gaussian_mixture, kernel_variance
from sparseflow.rng import stream


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


@pytest.mark.parametrize(
    ("options", "message"),
    [({"probes": 1}, "probes must be 2 or more, got 1"), ({"steps": 0}, "steps must be 1 or more")],
)
def test_a_density_needs_probes_and_steps(options: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        lanczos_density(lambda v: v, 50, generator=stream(0), **options)
