"""Points in the plane whose distances are as near as possible to those in weight space."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sparseflow._checks import check_finite
from sparseflow.boundary import checked
from sparseflow.ranges import Range


@dataclass(frozen=True)
class Embedding:
    """A point for each object, and the error of the distances between them."""

    points: Tensor
    """``(n, dimensions)``, float64, centred; axis 0 has the largest variance."""
    stress: float
    r"""Raw stress :math:`\sum_{i<j} (d_{ij} - \delta_{ij})^2`, in squared units of the distances."""
    normalised_stress: float
    r"""Kruskal's stress-1, :math:`\sqrt{\mathrm{stress} / \sum_{i<j} d_{ij}^2}`; Kruskal: 0.05 is good, 0.2 poor."""


@checked(tolerance=Range(0, with_low=False), max_iterations=Range(1))
def metric_mds(
    distances: Tensor,
    *,
    dimensions: int = 2,
    restarts: int = 20,
    generator: torch.Generator,
    tolerance: float = 1e-12,
    max_iterations: int = 10_000,
) -> Embedding:
    r"""Metric multidimensional scaling by SMACOF from several starts; the one of lowest stress wins.

    .. math:: \min_X \sum_{i<j} (d_{ij}(X) - \delta_{ij})^2, \qquad X \leftarrow \tfrac{1}{n} B(X) X, \qquad
              b_{ij} = -\delta_{ij} / d_{ij}(X), \quad b_{ii} = -\sum_{j \ne i} b_{ij}

    The Guttman transform never raises the stress. The first start is classical scaling, the others are Gaussian; a
    start must be better by more than rounding to win over an earlier one. Orientation has no meaning; it is fixed by
    turning to principal axes and making the entry of largest size positive in each.

    Args:
        distances: ``(n, n)``, symmetric with a zero diagonal, such as from :func:`~.distances.distance_matrix`.
        dimensions: Of the embedding; 2 as in the paper's figure.
        restarts: Random starts besides classical scaling.
        generator: Draws the random starts; CPU.
        tolerance: A start is done when a step lowers its stress by less than this, relative to
            :math:`\sum_{i<j} \delta_{ij}^2`; the iteration ends when all are.
        max_iterations: Largest number of steps.

    Raises:
        ValueError: if the matrix is no distance matrix, ``dimensions`` is below 1 or ``restarts`` below 0.

    Reference: de Leeuw (1977), *Applications of Convex Analysis to Multidimensional Scaling*; Evci et al. (2022),
    Figure 5 a, d; protocol I.1.

    >>> square = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, -1.0], [-1.0, 1.0]], dtype=torch.float64)
    >>> found = metric_mds(torch.cdist(square, square), generator=torch.Generator().manual_seed(0))
    >>> found.stress < 1e-12, torch.allclose(torch.cdist(found.points, found.points), torch.cdist(square, square))
    (True, True)
    """
    wanted = _checked(distances)
    if dimensions < 1 or restarts < 0:
        raise ValueError(
            f"dimensions must be at least 1 and restarts at least 0, got {dimensions!r} and {restarts!r}. The paper's "
            "figure has dimensions=2."
        )
    starts = torch.randn(restarts, len(wanted), dimensions, generator=generator, dtype=torch.float64)
    points = torch.cat([classical_scaling(wanted, dimensions)[None], starts])
    scale = float(wanted.square().sum()) / 2
    stress, points = _guttman(points, wanted)
    for _ in range(max_iterations):
        lower, points = _guttman(points, wanted)
        gained, stress = float((stress - lower).max()), lower
        if gained <= tolerance * scale:
            break
    stress, _ = _guttman(points, wanted)
    best = int((stress <= stress.min() + 1e-9 * scale).nonzero()[0])
    found = points[best]
    spread = float(torch.pdist(found).square().sum())
    return Embedding(_oriented(found), float(stress[best]), (float(stress[best]) / spread) ** 0.5 if spread else 0.0)


def classical_scaling(distances: Tensor, dimensions: int = 2) -> Tensor:
    r"""Torgerson's embedding: exact where the distances are Euclidean in ``dimensions`` dimensions.

    .. math:: -\tfrac{1}{2} J \Delta^2 J = V \Lambda V^\top, \qquad X = V_+ \Lambda_+^{1/2}, \qquad J = I - 11^\top / n

    Arguments as :func:`metric_mds`; columns without a positive eigenvalue are zero.

    Returns: ``(n, dimensions)``, float64.

    Reference: Torgerson (1952), *Multidimensional Scaling: I. Theory and Method*.

    >>> classical_scaling(torch.tensor([[0.0, 2.0], [2.0, 0.0]]), 1).abs()
    tensor([[1.],
            [1.]], dtype=torch.float64)
    """
    squares = distances.double().square()
    centred = squares - squares.mean(0) - squares.mean(1, keepdim=True) + squares.mean()
    values, vectors = torch.linalg.eigh(-centred / 2)
    points = (vectors * values.clamp_min(0).sqrt()).flip(-1)[:, :dimensions]
    return torch.nn.functional.pad(points, (0, dimensions - points.shape[1]))


def _guttman(points: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """Raw stress of each start, and all starts one step on; ``points`` is ``(starts, n, dimensions)``."""
    found = torch.cdist(points, points, compute_mode="donot_use_mm_for_euclid_dist")
    stress = (found - wanted).square().sum((1, 2)) / 2
    # Where points coincide, any direction is a subgradient; none is the usual choice.
    ratio = torch.where(found > 0, wanted / found.clamp_min(torch.finfo(found.dtype).tiny), 0.0)
    return stress, (ratio.sum(-1, keepdim=True) * points - ratio @ points) / len(wanted)


def _oriented(points: Tensor) -> Tensor:
    centred = points - points.mean(0)
    axes = torch.linalg.svd(centred, full_matrices=True)[2]
    turned = centred @ axes.T
    largest = turned.gather(0, turned.abs().argmax(0, keepdim=True))
    signed: Tensor = turned * torch.where(largest < 0, -1.0, 1.0)
    return signed


def _checked(distances: Tensor) -> Tensor:
    if distances.dim() != 2 or distances.shape[0] != distances.shape[1] or len(distances) < 2:
        raise ValueError(f"distances must be (n, n) with n of at least 2, got {tuple(distances.shape)}.")
    check_finite(distances, name="distances")
    wanted = distances.detach().cpu().double()
    largest = float(wanted.abs().max())
    if (
        bool((wanted < 0).any())
        or bool(wanted.diagonal().any())
        or not torch.allclose(wanted, wanted.T, rtol=0, atol=1e-9 * largest)
    ):
        raise ValueError(
            "distances must be symmetric and not negative, with a zero diagonal. Make it with distance_matrix(vectors)."
        )
    return (wanted + wanted.T) / 2
