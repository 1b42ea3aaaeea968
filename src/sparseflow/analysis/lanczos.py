"""Spectra of matrices too large to write down, such as the Hessian of a network: Lanczos from random vectors."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparseflow.analysis.eigenpairs import Eigenpairs, extreme_eigenpairs
from sparseflow.analysis.krylov import Operator, check_count, norm, orthogonalize_, unit
from sparseflow.analysis.products import hessian_product
from sparseflow.analysis.smoothing import even_grid, gaussian_mixture, kernel_variance
from sparseflow.analysis.spectrum import Product, rayleigh_quotient
from sparseflow.boundary import checked
from sparseflow.ranges import Range
from sparseflow.types import Batches, LossFn, Masks


class Tridiagonal(NamedTuple):
    r"""The result of Lanczos for ``H``: :math:`Q H Q^\top = T`, tridiagonal."""

    alpha: Tensor
    """``(m,)``, the diagonal of ``T``; float64 on the CPU."""
    beta: Tensor
    """``(m,)``, beside the diagonal; the last is the norm of the rest: 0 if ``H`` maps the space to itself."""
    basis: Tensor | None
    """``(m, P)``, the orthonormal rows ``Q``; ``None`` without reorthogonalisation, where they are not kept."""

    def quadrature(self) -> tuple[Tensor, Tensor]:
        r"""Nodes and weights of a Gauss rule: :math:`\sum_i w_i f(\theta_i) \approx q_1^\top f(H)\, q_1`."""
        beside = self.beta[:-1]
        nodes, vectors = torch.linalg.eigh(torch.diag(self.alpha) + torch.diag(beside, 1) + torch.diag(beside, -1))
        return nodes, vectors[0].square()


@checked()
def lanczos(
    product: Product,
    size: int,
    *,
    steps: int,
    generator: torch.Generator,
    start: Tensor | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    reorthogonalize: bool = True,
) -> Tridiagonal:
    r"""The Lanczos recurrence, with one product per step.

    .. math:: \beta_j q_{j+1} = H q_j - \alpha_j q_j - \beta_{j-1} q_{j-1}

    Args:
        product: ``v -> H v`` for a symmetric ``H``.
        size: ``P``, the length of ``v``.
        steps: ``m`` at most; fewer come back once ``H`` maps the space so far to itself.
        generator: Draws the first vector, uniform in direction, if there is no ``start``.
        start: ``(P,)``, of any norm but 0.
        dtype: Of all vectors; ``None`` is ``product.dtype``, or float64 if it has none. Scalars are float64 anyway.
        device: Of all vectors; ``None`` is ``product.device``, or the CPU if it has none.
        reorthogonalize: Make each vector orthogonal to all before it, with ``steps`` vectors of memory. Without, three
            are enough; rounding then brings eigenvalues back as copies, which share their weight.

    Raises:
        ValueError: if the product is not finite, not symmetric or not ``(P,)``, or ``start`` does not fit.

    Reference: Golub and Van Loan (2013), *Matrix Computations*, section 10.1.

    >>> diagonal = torch.tensor([1.0, 2.0, 4.0], dtype=torch.float64)
    >>> found = lanczos(lambda v: diagonal * v, 3, steps=3, generator=torch.Generator().manual_seed(0))
    >>> torch.allclose(found.quadrature()[0], diagonal)
    True
    """
    operator = Operator(product, size, dtype, device)
    check_count(steps, name="steps")
    if start is not None and (start.shape != (size,) or not 0 < norm(start) < float("inf")):
        raise ValueError(
            f"start must be a vector ({size},), finite and not 0, got shape {tuple(start.shape)} and norm "
            f"{norm(start)}. Leave it out for a random one."
        )
    vector = operator.random(generator) if start is None else unit(start.to(operator.device, operator.dtype))
    steps = min(steps, size)
    basis = vector.new_empty(steps, size) if reorthogonalize else None
    alphas: list[float] = []
    betas: list[float] = []
    previous = None
    for step in range(steps):
        rest, alpha = operator.step(vector, previous, betas[-1] if betas else 0.0)
        if basis is not None:
            basis[step] = vector
            alpha += orthogonalize_(rest, basis[: step + 1])
        alphas.append(alpha)
        betas.append(norm(rest))
        if betas[-1] <= operator.noise:
            break
        previous, vector = vector, rest.div_(betas[-1])
    diagonal, beside = (torch.tensor(values, dtype=torch.float64) for values in (alphas, betas))
    return Tridiagonal(diagonal, beside, None if basis is None else basis[: len(alphas)])


class Estimate(NamedTuple):
    """A mean over random probes."""

    value: float
    standard_error: float


class LanczosDensity(NamedTuple):
    """A smoothed spectral density from random probes, with its errors."""

    grid: Tensor
    """``(points,)``, ascending, float64 on the CPU."""
    density: Tensor
    """``(points,)``, integrates to 1."""
    standard_error: Tensor
    """``(points,)``, of ``density``, over the choice of probes; for the number of steps see ``resolved``."""
    resolved: bool
    """Whether the steps resolve kernels everywhere; if not, only isolated eigenvalues are right."""
    nodes: Tensor
    """Nodes of the quadratures of all probes, ascending."""
    weights: Tensor
    """Weights of the nodes, sum 1: ``size * weights[nodes < 0].sum()`` estimates the count of negative eigenvalues."""
    trace: Estimate
    r"""Estimate of :math:`\operatorname{tr} H`."""
    trace_of_square: Estimate
    r"""Estimate of :math:`\operatorname{tr} H^2`, the sum of all squared entries."""
    products: int


@checked(margin=Range(0))
def lanczos_density(
    product: Product,
    size: int,
    *,
    steps: int = 80,
    probes: int = 10,
    generator: torch.Generator,
    relative_variance: float = 1e-5,
    points: int = 10_000,
    margin: float = 0.01,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    reorthogonalize: bool = True,
) -> LanczosDensity:
    r"""The smoothed spectral density by stochastic Lanczos quadrature.

    .. math:: \phi(t) = \frac1P \sum_i \mathcal N(t;\ \text{mean } \lambda_i,\ \text{var } \sigma^2) \approx
        \frac1k \sum_{j=1}^k \sum_{i=1}^m w_i^{(j)} \mathcal N(t;\ \text{mean } \theta_i^{(j)},\ \text{var } \sigma^2)

    Each probe is uniform on the unit sphere, so that with enough steps its expectation is :math:`\phi`, its variance
    :math:`2 v / (P + 2)` with ``v`` the variance of the kernel at ``t`` over the eigenvalues.

    Args:
        steps: ``m``. With :math:`m \ge (\lambda_\max - \lambda_\min) / \sigma` every feature is resolved, to about 3e-4
            of a kernel's height. With fewer, isolated eigenvalues are where they should be; the rest shows nodes.
            Default, as for ``probes``, ``relative_variance``, ``points`` and ``margin``: Ghorbani et al. (2019).
        probes: ``k``, 2 or more.
        generator: Draws the probes.
        relative_variance: As in :func:`sparseflow.analysis.spectral_density`; the extremes are those of all nodes.
        points: Length of the grid.
        margin: Of the grid beyond the extreme nodes.

    The others as :func:`lanczos`.

    Raises:
        ValueError: if the counts do not fit, the grid is too coarse, or the product is not finite, not symmetric or
            not ``(P,)``.

    Reference: Ghorbani, Krishnan and Xiao (2019), *An Investigation into Neural Net Optimization via Hessian Eigenvalue
    Density*, algorithm 1; Ubaru, Chen and Saad (2017), *Fast Estimation of tr(f(A)) via Stochastic Lanczos Quadrature*.

    >>> diagonal = torch.linspace(0, 1, 200, dtype=torch.float64)
    >>> found = lanczos_density(lambda v: diagonal * v, 200, generator=torch.Generator().manual_seed(0))
    >>> abs(found.trace.value - 100) < 5 * found.trace.standard_error
    True
    """
    check_count(steps, name="steps")
    if probes < 2:
        raise ValueError(f"probes must be 2 or more, got {probes}: their scatter gives the standard error.")
    runs = []
    for _ in range(probes):
        run = lanczos(
            product, size, steps=steps, generator=generator, dtype=dtype, device=device, reorthogonalize=reorthogonalize
        )
        runs.append(run._replace(basis=None))
    rules = [run.quadrature() for run in runs]
    nodes, order = torch.cat([nodes for nodes, _ in rules]).sort()
    weights = torch.cat([weights for _, weights in rules])[order] / probes
    low, high = float(nodes[0]), float(nodes[-1])
    variance = kernel_variance(low, high, relative_variance)
    grid = even_grid(low, high, variance, points=points, margin=margin)
    each = torch.stack([gaussian_mixture(*rule, grid, variance) for rule in rules])
    area = torch.trapezoid(each.mean(0), grid)
    ends = [len(run.alpha) for run in runs]
    is_exact = all(end < min(steps, size) or (reorthogonalize and end == size) for end in ends)
    return LanczosDensity(
        grid=grid,
        density=each.mean(0) / area,
        standard_error=each.std(0) / probes**0.5 / area,
        resolved=is_exact or steps * variance**0.5 >= high - low,
        nodes=nodes,
        weights=weights,
        # v' H v and |H v|^2 of the probes themselves.
        trace=_estimate([size * float(run.alpha[0]) for run in runs]),
        trace_of_square=_estimate([size * float(run.alpha[0] ** 2 + run.beta[0] ** 2) for run in runs]),
        products=sum(ends),
    )


def _estimate(samples: list[float]) -> Estimate:
    values = torch.tensor(samples, dtype=torch.float64)
    return Estimate(float(values.mean()), float(values.std()) / len(samples) ** 0.5)


class LanczosSpectrum(NamedTuple):
    """Properties of the Hessian of a network, found without its matrix."""

    extremes: Eigenpairs
    density: LanczosDensity
    rayleigh_quotient: float
    """Curvature along the gradient, see :func:`sparseflow.analysis.rayleigh_quotient`."""


def lanczos_spectrum(
    model: nn.Module,
    batches: Batches,
    masks: Masks | None = None,
    *,
    loss_fn: LossFn | None = F.cross_entropy,
    generator: torch.Generator,
    largest: int = 1,
    smallest: int = 1,
    steps: int = 80,
    probes: int = 10,
    dtype: torch.dtype | None = None,
    training: bool = False,
) -> LanczosSpectrum:
    """Extreme eigenvalues, density and curvature along the gradient of a network's Hessian, without side effects.

    Rows and columns are active weights and all other trainable parameters, as in the exact Hessian. For other limits of
    memory and products, call :func:`extreme_eigenpairs` and :func:`lanczos_density` with ``hessian_product(...)``.

    Args:
        generator: Draws start vectors and probes.
        largest: Eigenpairs at the upper end.
        smallest: Eigenpairs at the lower end.
        steps: Of each probe of the density.
        probes: Of the density; with ``steps``, the cost is ``steps * probes`` products.

    The others as :func:`hessian_product`.

    Raises:
        TypeError, ValueError: as :func:`sparseflow.analysis.hessian_product` and :func:`extreme_eigenpairs`.

    Reference: Evci et al. (2022), section 4.2 and appendix E; protocol H.

    >>> layer = nn.Linear(2, 1, bias=False)  # L = mean (w x)^2, so H = 2 mean x x'
    >>> batch = (torch.tensor([[1.0, 0.0], [0.0, 3.0]]), torch.zeros(2, 1))
    >>> found = lanczos_spectrum(layer, [batch], loss_fn=F.mse_loss, generator=torch.Generator().manual_seed(0))
    >>> [round(value, 4) for value in found.extremes.values.tolist()]
    [1.0, 9.0]
    """
    product = hessian_product(model, batches, masks, loss_fn=loss_fn, dtype=dtype, training=training)
    return LanczosSpectrum(
        extremes=extreme_eigenpairs(product, product.size, largest=largest, smallest=smallest, generator=generator),
        density=lanczos_density(product, product.size, steps=steps, probes=probes, generator=generator),
        rayleigh_quotient=rayleigh_quotient(product, product.gradient),
    )
