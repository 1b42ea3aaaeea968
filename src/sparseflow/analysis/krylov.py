"""The common parts of Lanczos methods: a product that is checked and counted, and vectors kept orthogonal."""

from __future__ import annotations

import torch
from torch import Tensor

from sparseflow.analysis.spectrum import Product

#: Long float32 sums lose digits (four over 5 million terms): blocks of this length are summed, their sums in float64.
BLOCK = 2**16


class Operator:
    """A symmetric matrix known by its products with vectors.

    Arguments as :func:`sparseflow.analysis.lanczos`.

    Raises:
        ValueError: if ``size`` is below 1.

    >>> operator = Operator(lambda v: 2 * v, 3, None, None)
    >>> operator(torch.ones(3, dtype=torch.float64)).tolist(), operator.products
    ([2.0, 2.0, 2.0], 1)
    """

    def __init__(
        self, product: Product, size: int, dtype: torch.dtype | None, device: torch.device | str | None
    ) -> None:
        check_count(size, name="size")
        self.product, self.size = product, size
        self.dtype: torch.dtype = getattr(product, "dtype", torch.float64) if dtype is None else dtype
        self.device: torch.device | str = getattr(product, "device", "cpu") if device is None else device
        self.products = 0
        self.scale = 0.0  # the largest |H v| of a unit vector so far

    @property
    def noise(self) -> float:
        """The norm below which a vector is nothing but rounding."""
        return 30 * torch.finfo(self.dtype).eps * self.scale

    def random(self, generator: torch.Generator) -> Tensor:
        """A vector uniform on the unit sphere."""
        draw = torch.randn(self.size, generator=generator, dtype=self.dtype, device=generator.device)
        return unit(draw.to(self.device))

    def __call__(self, vector: Tensor) -> Tensor:
        """The product ``H v`` with a unit vector, in memory of its own.

        Raises:
            ValueError: if it is not ``(P,)`` or not finite.
        """
        result = self.product(vector)
        if result.shape != (self.size,):
            raise ValueError(f"product must return shape ({self.size},), as it was given, got {tuple(result.shape)}.")
        self.products += 1
        result = result.detach().to(self.device, self.dtype, copy=True)  # it may be the argument itself
        length = norm(result)
        if not length < float("inf"):
            raise ValueError(
                f"product {self.products} is NaN or infinite: the loss or its derivatives overflow at these weights. "
                "Lower the learning rate, or look for the layer with sparseflow.analysis.signal()."
            )
        self.scale = max(self.scale, length)
        return result

    def step(self, vector: Tensor, previous: Tensor | None, coupling: float) -> tuple[Tensor, float]:
        r"""One step of the recurrence: :math:`H q_j - \alpha_j q_j - \beta_{j-1} q_{j-1}` and :math:`\alpha_j`.

        Raises:
            ValueError: if :math:`q_{j-1}^\top H q_j` is not :math:`\beta_{j-1}`.
        """
        rest = self(vector)
        alpha = float(dot(vector, rest))
        if previous is not None:
            back = float(dot(previous, rest))
            # Rounding is 1e-6 of the scale in float32; what is not symmetric is off by the order of the scale.
            if abs(back - coupling) > 1e-3 * self.scale:
                raise ValueError(
                    f"product is not symmetric: u'Hv = {back:.6g} but v'Hu = {coupling:.6g}, with |Hv| up to "
                    f"{self.scale:.3g}. Give batches that stay the same, and a model in eval mode."
                )
            rest.sub_(previous, alpha=coupling)
        return rest.sub_(vector, alpha=alpha), alpha


def orthogonalize_(vector: Tensor, basis: Tensor) -> float:
    """Subtract from a vector, ``(P,)``, in place its components along orthonormal rows, ``(m, P)``.

    Returns: the component along the last row.

    Reference: Daniel, Gragg, Kaufman and Stewart (1976), *Reorthogonalization and Stable Algorithms for Updating the
    Gram-Schmidt QR Factorization*.

    >>> v = torch.tensor([1.0, 2.0, 3.0])
    >>> orthogonalize_(v, torch.eye(3)[:2]), v.tolist()
    (2.0, [0.0, 0.0, 3.0])
    """
    before, component = norm(vector), 0.0
    # A second pass only if the first took much out: what is left then carries rounding of the size of what is gone.
    for _ in range(2):
        components = dot(basis, vector)
        component += float(components[-1])
        for rows, part in zip(basis.split(BLOCK, dim=1), vector.split(BLOCK), strict=True):
            part.addmv_(rows.T, components.to(vector.dtype), alpha=-1)
        after = norm(vector)
        if after > 0.7 * before:
            break
        before = after
    return component


def dot(rows: Tensor, vector: Tensor) -> Tensor:
    """Inner products of rows, ``(P,)`` or ``(m, P)``, with a vector, in float64.

    >>> dot(torch.eye(2), torch.tensor([3.0, 4.0])).tolist()
    [3.0, 4.0]
    """
    parts = zip(rows.split(BLOCK, dim=-1), vector.split(BLOCK), strict=True)
    return torch.stack([(part @ other).double() for part, other in parts]).sum(0)


def norm(vector: Tensor) -> float:
    """The Euclidean norm.

    >>> norm(torch.tensor([3.0, 4.0]))
    5.0
    """
    return float(torch.stack([torch.linalg.vector_norm(part) for part in vector.split(BLOCK)]).double().norm())


def unit(vector: Tensor) -> Tensor:
    """The vector scaled to norm 1.

    >>> unit(torch.tensor([0.0, 4.0])).tolist()
    [0.0, 1.0]
    """
    return vector / norm(vector)


def check_count(count: int, *, name: str) -> None:
    """Raise ``ValueError`` if a count is below 1."""
    if count < 1:
        raise ValueError(f"{name} must be 1 or more, got {count}.")
