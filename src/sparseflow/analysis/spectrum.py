"""The spectrum of a Hessian: its eigenvalues, and the few numbers that describe them."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from sparseflow._checks import check_finite
from sparseflow.boundary import checked
from sparseflow.ranges import Range

#: ``product(v) = H v`` for a symmetric ``H``: both vectors are ``(P,)``.
Product = Callable[[Tensor], Tensor]


@checked()
def eigenvalues(hessian: Tensor) -> Tensor:
    r"""All eigenvalues of a symmetric matrix, ascending, in float64.

    .. math:: \lambda_1 \le \dots \le \lambda_P \text{ of } (H + H^\top) / 2

    Args:
        hessian: ``(P, P)``, symmetric up to rounding. With float64, each value is exact to about
            :math:`10^{-14} \max|\lambda|`: signs of smaller values are noise.

    Returns: ``(P,)``, float64, on the device of ``hessian``.

    Raises:
        ValueError: if ``hessian`` is not square, not finite, or not symmetric:
            :math:`\max|H - H^\top| > \sqrt{\varepsilon} \max|H|` with the :math:`\varepsilon` of its dtype.

    Note: the paper used ``numpy.linalg.eigh``, its code float32 (protocol H, J17).

    >>> eigenvalues(torch.tensor([[2.0, 1.0], [1.0, 2.0]])).tolist() == [1.0, 3.0]
    True
    """
    if hessian.ndim != 2 or len(hessian) != hessian.shape[-1] or not len(hessian):
        raise ValueError(f"hessian must be a square matrix (P, P) with P >= 1, got shape {tuple(hessian.shape)}.")
    check_finite(hessian, name="hessian")
    matrix = hessian.double()
    largest, gap = float(matrix.abs().max()), float((matrix - matrix.T).abs().max())
    rounding = torch.finfo(hessian.dtype if hessian.is_floating_point() else torch.float64).eps ** 0.5
    if gap > rounding * largest:
        raise ValueError(
            f"hessian is not symmetric: max|H - H'| = {gap:.3g} with max|H| = {largest:.3g}, where rounding explains "
            f"{rounding * largest:.1g}. Compute it in float64, in eval mode, from batches that stay the same."
        )
    found: Tensor = torch.linalg.eigvalsh((matrix + matrix.T) / 2)
    return found


class SpectrumSummary(NamedTuple):
    """The stored numbers of a spectrum; eigenvalues in the loss's unit per squared unit of the weights."""

    lambda_max: float
    lambda_min: float
    num_below: int
    r"""Number of eigenvalues below :math:`-\tau \lambda_\max`: those that are negative beyond numerical noise."""
    num_negative: int
    """Number of eigenvalues below 0; with ReLU, the sign of the many that are almost 0 is noise."""
    sum_negative: float
    """Sum of the eigenvalues below 0."""
    trace: float


@checked()
def summarize(eigenvalues: Tensor, *, threshold: float = 1e-3) -> SpectrumSummary:
    r"""The numbers of a spectrum in the paper's claims.

    Args:
        eigenvalues: ``(P,)``, in any order.
        threshold: :math:`\tau`; :math:`\lambda_\max` counts as 0 where it is negative. Default: protocol H.

    Raises:
        ValueError: if there are no eigenvalues, or one is not finite.

    Reference: Evci et al. (2022), section 4.2 and appendix E; protocol H.

    >>> summarize(torch.tensor([-2.0, -0.001, 0.0, 10.0]))[:4]
    (10.0, -2.0, 1, 2)
    """
    values = checked_spectrum(eigenvalues)
    largest = float(values.max())
    return SpectrumSummary(
        lambda_max=largest,
        lambda_min=float(values.min()),
        num_below=int((values < -threshold * max(largest, 0.0)).sum()),
        num_negative=int((values < 0).sum()),
        sum_negative=float(values.clamp(max=0).sum()),
        trace=float(values.sum()),
    )


@checked()
def rayleigh_quotient(hessian: Tensor | Product, gradient: Tensor) -> float:
    r"""Curvature along the gradient, which gives the second-order term of one gradient step.

    .. math:: \frac{g^\top H g}{g^\top g}, \qquad \Delta L \approx -\eta\, g^\top g + \frac{\eta^2}{2}\, g^\top H g

    Args:
        hessian: ``(P, P)``, or a function ``v -> H v``.
        gradient: ``(P,)``.

    Raises:
        ValueError: if the gradient is zero, which is no direction.

    Reference: Evci et al. (2022), equation 28.

    >>> rayleigh_quotient(torch.diag(torch.tensor([1.0, 3.0])), torch.tensor([2.0, 2.0]))
    2.0
    """
    if gradient.dim() != 1 or (isinstance(hessian, Tensor) and hessian.shape != (len(gradient), len(gradient))):
        shape = tuple(hessian.shape) if isinstance(hessian, Tensor) else "a function"
        raise ValueError(f"hessian must be (P, P) and gradient (P,), got {shape} and {tuple(gradient.shape)}.")
    squared = float(gradient.double().square().sum())
    if squared == 0:
        raise ValueError("gradient is zero, so it has no direction to measure the curvature along.")
    product = hessian.double() @ gradient.double() if isinstance(hessian, Tensor) else hessian(gradient)
    return float(gradient.double() @ product.double()) / squared


@checked(outliers=Range(0))
def positive_bulk(eigenvalues: Tensor, *, floor: float, outliers: int = 10) -> Tensor:
    """The positive eigenvalues without those near zero and without the largest ones, ascending.

    Args:
        eigenvalues: ``(P,)``, in any order.
        floor: Only eigenvalues above it; an absolute value.
        outliers: Number of the largest to leave out. Default: one for each of ten classes, the number that stands out
            of the bulk of classifiers.

    Reference: Sagun et al. (2018), *Empirical Analysis of the Hessian of Over-Parametrized Neural Networks*; Papyan
    (2019), *Measurements of Three-Level Hierarchical Structure in the Outliers in the Spectrum of Deepnet Hessians*.

    >>> positive_bulk(torch.tensor([-1.0, 9.0, 0.5, 0.0, 0.25]), floor=0.1, outliers=1).tolist()
    [0.25, 0.5]
    """
    values = checked_spectrum(eigenvalues).sort().values[: max(len(eigenvalues) - outliers, 0)]
    return values[values > floor]


@checked(outliers=Range(0))
def bulk_distance(a: Tensor, b: Tensor, *, threshold: float = 1e-3, outliers: int = 10) -> float:
    r"""Kolmogorov-Smirnov distance between the positive bulks of two spectra: 0 if alike, 1 if apart.

    .. math:: \sup_t |F_a(t) - F_b(t)|, \qquad F(t) = \text{share of the bulk at or below } t

    The bulk is all eigenvalues above :math:`\tau` times the larger :math:`\lambda_\max` of the two, the same floor for
    both, except the largest ``outliers``. Values are compared as they are, not rescaled: two bulks of
    the same shape at different scales are apart. The numbers of eigenvalues may differ.

    Args:
        a: ``(P,)``, in any order.
        b: ``(Q,)``.
        threshold: :math:`\tau`; the same as for negative eigenvalues in :func:`summarize`.
        outliers: See :func:`positive_bulk`.

    Raises:
        ValueError: if nothing of a spectrum is in its bulk.

    Reference: claim on Figure 11b of Evci et al. (2022): "similar shapes for each method on the positive side".

    >>> bulk_distance(torch.tensor([1.0, 2.0, 3.0, 9.0]), torch.tensor([1.0, 2.5, 3.0, 9.0]), outliers=1) == 1 / 3
    True
    """
    floor = threshold * max(float(checked_spectrum(a).max()), float(checked_spectrum(b).max()), 0.0)
    bulks = [positive_bulk(spectrum, floor=floor, outliers=outliers) for spectrum in (a, b)]
    for name, bulk, spectrum in zip(("first", "second"), bulks, (a, b), strict=True):
        if not len(bulk):
            raise ValueError(
                f"the {name} spectrum has no positive bulk: none of its {len(spectrum)} eigenvalues is above "
                f"{floor:.3g} and outside the {outliers} largest. Give a smaller threshold or fewer outliers."
            )
    points = torch.cat(bulks)
    first, second = (torch.searchsorted(bulk, points, right=True).double() / len(bulk) for bulk in bulks)
    return float((first - second).abs().max())


def checked_spectrum(eigenvalues: Tensor) -> Tensor:
    """Eigenvalues in float64; raises ``ValueError`` if they are not a vector, or one is NaN or infinite."""
    if eigenvalues.ndim != 1 or not len(eigenvalues):
        raise ValueError(f"eigenvalues must be a vector (P,) with P >= 1, got shape {tuple(eigenvalues.shape)}.")
    check_finite(eigenvalues, name="eigenvalues")
    return eigenvalues.double()
