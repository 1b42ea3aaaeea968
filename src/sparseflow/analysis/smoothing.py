"""Smoothed densities of spectra."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from sparseflow.analysis.spectrum import checked_spectrum
from sparseflow.boundary import checked
from sparseflow.ranges import Range


class Density(NamedTuple):
    """A density over the real line, at the points of a grid."""

    grid: Tensor
    """Points, ascending, float64."""
    density: Tensor
    """Share of the eigenvalues per unit of the grid, float64."""


@checked(margin=Range(0))
def spectral_density(
    eigenvalues: Tensor,
    *,
    weights: Tensor | None = None,
    grid: Tensor | None = None,
    relative_variance: float = 1e-5,
    points: int = 10_000,
    margin: float = 0.01,
) -> Density:
    r"""The density of eigenvalues, smoothed by Gaussian kernels.

    .. math::
        \phi(t) = \sum_i w_i\, \mathcal N(t;\ \text{mean } \lambda_i,\ \text{var } \sigma^2), \qquad
        \sigma^2 = r \max(1,\ \lambda_\max - \lambda_\min)

    Args:
        eigenvalues: ``(n,)``, in any order.
        weights: ``(n,)``, not negative; their sum counts as 1. ``None`` gives all the same.
        grid: Points at which to evaluate :math:`\phi`, also on a part of the line. ``None`` makes ``points`` evenly
            spaced ones from ``margin`` below the smallest to ``margin`` above the largest eigenvalue, and scales the
            values there to integrate to 1 (trapezoids), which makes up for the tails that the margin cuts.
        relative_variance: ``r``; 1e-5 is the default of the reference implementation of Ghorbani et al. (2019), which
            advises to try 1e-5 to 1e-1.
        points: Length of the grid; 10000 as there.
        margin: Beyond the extreme eigenvalues; 0.01 as there.

    Raises:
        ValueError: if there are no eigenvalues, one is not finite, weights do not fit, the variance is not positive, or
            the grid is so coarse that kernels fall between its points.

    Reference: Ghorbani, Krishnan and Xiao (2019), *An Investigation into Neural Net Optimization via Hessian Eigenvalue
    Density*; protocol H; Evci et al. (2022), Figures 10 and 11b.

    >>> grid, density = spectral_density(torch.tensor([0.0, 0.0, 0.0, 1.0]))
    >>> upper = grid > 0.5
    >>> abs(float(torch.trapezoid(density[upper], grid[upper])) - 0.25) < 1e-3  # one of four eigenvalues
    True
    """
    values = checked_spectrum(eigenvalues)
    if weights is None:
        weights = torch.ones_like(values)
    if weights.shape != values.shape or bool((weights < 0).any()) or not float(weights.sum()) > 0:
        raise ValueError(
            f"weights must be {tuple(values.shape)} as the eigenvalues, not negative and not all 0, "
            f"got shape {tuple(weights.shape)}, smallest {float(weights.min()) if weights.numel() else None}."
        )
    weights = weights.to(values) / weights.double().sum().to(values)
    low, high = float(values.min()), float(values.max())
    variance = kernel_variance(low, high, relative_variance)
    if grid is not None:
        return Density(grid.to(values), gaussian_mixture(values, weights, grid.to(values), variance))
    grid = even_grid(low, high, variance, points=points, margin=margin, device=values.device)
    density = gaussian_mixture(values, weights, grid, variance)
    return Density(grid, density / torch.trapezoid(density, grid))


def kernel_variance(smallest: float, largest: float, relative_variance: float) -> float:
    r"""Variance of the kernels of :func:`spectral_density`: :math:`r \max(1, \lambda_\max - \lambda_\min)`.

    Raises:
        ValueError: if the relative variance is not positive.

    >>> round(kernel_variance(-1.0, 29.0, 1e-5) ** 0.5, 3)  # a standard deviation, in units of the eigenvalues
    0.017
    """
    if not relative_variance > 0:
        raise ValueError(f"relative_variance must be above 0, got {relative_variance!r}. Try 1e-5 to 1e-1.")
    return relative_variance * max(1.0, largest - smallest)


def even_grid(
    smallest: float, largest: float, variance: float, *, points: int, margin: float, device: torch.device | None = None
) -> Tensor:
    """Evenly spaced points over a spectrum, at least as dense as the kernels are wide.

    Arguments as :func:`spectral_density`.

    Raises:
        ValueError: if neighbours are further apart than one standard deviation of a kernel.

    >>> even_grid(0.0, 1.0, 1.0, points=3, margin=0.0).tolist()
    [0.0, 0.5, 1.0]
    """
    low, high, std = smallest - margin, largest + margin, variance**0.5
    if points < 2 or (high - low) / (points - 1) > std:
        raise ValueError(
            f"points={points} over [{low:.4g}, {high:.4g}] miss kernels whose standard deviation is {std:.3g}. "
            f"Give points={max(2, int((high - low) / std) + 2)} or more, or a larger relative_variance."
        )
    return torch.linspace(low, high, points, dtype=torch.float64, device=device)


#: Standard deviations from its centre beyond which a kernel is 0 in float64: exp(-39^2 / 2) underflows.
REACH = 39.0


def gaussian_mixture(centres: Tensor, weights: Tensor, grid: Tensor, variance: float) -> Tensor:
    r"""Values of :math:`\sum_i w_i\, \mathcal N(t;\ \text{mean } c_i,\ \text{var } \sigma^2)` at every point of a grid.

    ``centres`` and ``weights`` are ``(n,)``, the grid ``(points,)``.

    Returns: ``(points,)``.

    >>> round(float(gaussian_mixture(torch.zeros(1), torch.ones(1), torch.zeros(1), 1.0)), 4)  # 1 / sqrt(2 pi)
    0.3989
    """
    total = torch.zeros_like(grid)
    centres, order = centres.sort()
    reach = REACH * variance**0.5
    # In blocks: 2446 eigenvalues by 10000 points are 200 MB in float64.
    for block, weight in zip(centres.split(128), weights[order].split(128), strict=True):
        near = ((grid > block[0] - reach) & (grid < block[-1] + reach)).nonzero().squeeze(1)
        kernels = torch.exp((grid[near, None] - block).square_().mul_(-0.5 / variance))
        total.index_add_(0, near, kernels @ weight)
    return total.div_((2 * torch.pi * variance) ** 0.5)
