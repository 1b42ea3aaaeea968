"""The two ends of a spectrum from products with vectors, each value with a bound on its error."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from sparseflow.analysis.krylov import BLOCK, Operator, norm, orthogonalize_, unit
from sparseflow.analysis.spectrum import Product
from sparseflow.boundary import checked
from sparseflow.ranges import Range


class Eigenpairs(NamedTuple):
    """Eigenvalues of the two ends of a spectrum, ascending: first the smallest, then the largest."""

    values: Tensor
    """``(smallest + largest,)``, float64 on the CPU."""
    vectors: Tensor
    """``(smallest + largest, P)``: row ``i``, of norm 1, belongs to ``values[i]``."""
    residuals: Tensor
    r"""``(smallest + largest,)``, measured: :math:`\|H x - \theta x\|`; within it of ``values`` is an eigenvalue."""
    converged: bool
    """Whether all residuals are within the tolerance; if not, ``values`` are the best that ``max_products`` allowed."""
    products: int
    """Number of products, those for the residuals included."""


@checked(tolerance=Range(0, with_low=False), max_products=Range(1))
def extreme_eigenpairs(
    product: Product,
    size: int,
    *,
    largest: int = 1,
    smallest: int = 1,
    generator: torch.Generator,
    tolerance: float = 1e-5,
    max_products: int = 1000,
    basis_size: int = 40,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> Eigenpairs:
    r"""The (algebraically) largest and smallest eigenvalues, by Lanczos with thick restarts.

    .. math:: |\lambda - \theta| \le \|H x - \theta x\| \le \text{tolerance} \cdot \max_i |\theta_i|

    A Lanczos space of ``basis_size`` vectors is built, shrunk to the Ritz vectors nearest the ends, and built up again
    until all wanted pairs have converged; then one more product each measures the residuals.

    The bound says that *an* eigenvalue is near. Copies of a repeated eigenvalue are not in the space of one start
    vector, so where two or more pairs are wanted at an end, the search goes on from a fresh vector, orthogonal to those
    found, until a whole space has brought nothing new. That makes a missed copy unlikely, not impossible.

    Args:
        largest: Pairs wanted at the upper end.
        smallest: Pairs wanted at the lower end.
        generator: Draws start vectors.
        tolerance: Relative to the largest :math:`|\theta|`; float32 reaches about 1e-6. The error of a separate
            eigenvalue is of the order of the squared residual over its distance to the next.
        max_products: Stop there, converged or not.
        basis_size: Vectors kept, ``basis_size * P`` numbers of memory; more take fewer products.

    The others as :func:`lanczos`.

    Raises:
        ValueError: if the counts do not fit, or the product is not finite, not symmetric or not ``(P,)``.

    Reference: Wu and Simon (2000), *Thick-Restart Lanczos Method for Large Symmetric Eigenvalue Problems*.

    >>> diagonal = torch.linspace(-1, 3, 100, dtype=torch.float64)
    >>> found = extreme_eigenpairs(lambda v: diagonal * v, 100, generator=torch.Generator().manual_seed(0))
    >>> found.converged, [round(value, 6) for value in found.values.tolist()]
    (True, [-1.0, 3.0])
    """
    pairs, capacity = largest + smallest, min(basis_size, size)
    _check_counts(size, largest, smallest, basis_size, max_products)
    operator = Operator(product, size, dtype, device)
    space = _Space(operator, capacity, generator)
    known: Tensor | None = None
    since = 0  # products since the last fresh vector
    while True:
        space.extend()
        since += 1
        if space.filled < pairs:
            continue
        ritz, rotation = torch.linalg.eigh(space.projection)
        wanted = torch.cat([torch.arange(smallest), torch.arange(len(ritz) - largest, len(ritz))])
        values, limit = ritz[wanted], tolerance * float(ritz.abs().max())
        found = float(space.left * rotation[-1, wanted].abs().max()) <= limit
        searched = max(largest, smallest) == 1 or (known is not None and since >= capacity - pairs)
        unchanged = known is None or float((values - known).abs().max()) <= limit
        done = space.filled == size or (found and searched and unchanged)
        if done or operator.products >= max_products - pairs:
            break
        if found and (known is None or since >= capacity - pairs):
            known, since = values, 0
            space.shrink_(wanted, ritz, rotation)
            space.freshen_()
        elif space.filled == capacity:
            space.shrink_(_kept(capacity, smallest, largest), ritz, rotation)
    vectors = rotation[:, wanted].T.to(space.basis) @ space.basis[: space.filled]
    residuals = []
    for vector, value in zip(vectors, values.tolist(), strict=True):
        vector /= norm(vector)
        residuals.append(norm(operator(vector).sub_(vector, alpha=value)))
    converged = done and max(residuals) <= limit
    return Eigenpairs(values, vectors, torch.tensor(residuals, dtype=torch.float64), converged, operator.products)


class _Space:
    """Orthonormal rows, the matrix projected on them, and the row that comes next."""

    def __init__(self, operator: Operator, capacity: int, generator: torch.Generator) -> None:
        self.operator, self.generator = operator, generator
        self.next = operator.random(generator)
        self.basis = self.next.new_empty(capacity, operator.size)
        self.matrix = torch.zeros(capacity, capacity, dtype=torch.float64)
        self.filled = 0
        self.left = 0.0  # the norm of what the product leaves outside the space
        self.is_chain = False  # whether the next row is coupled to the last one alone

    @property
    def projection(self) -> Tensor:
        return self.matrix[: self.filled, : self.filled]

    def extend(self) -> None:
        """Take in the next row: one product."""
        j = self.filled
        self.basis[j] = self.next
        rest, alpha = self.operator.step(self.basis[j], self.basis[j - 1] if self.is_chain else None, self.left)
        self.matrix[j, j] = alpha + orthogonalize_(rest, self.basis[: j + 1])
        self.filled, self.is_chain, self.left = j + 1, True, norm(rest)
        if self.left > self.operator.noise:
            self.next = rest.div_(self.left)
        elif self.filled < self.operator.size:
            self.freshen_()
        if self.filled < len(self.basis):
            self.matrix[j, j + 1] = self.matrix[j + 1, j] = self.left

    def freshen_(self) -> None:
        """Make the next row a random one, to which nothing so far is coupled."""
        self.next = self.operator.random(self.generator)
        orthogonalize_(self.next, self.basis[: self.filled])
        self.next = unit(self.next)
        self.left, self.is_chain = 0.0, False
        if self.filled < len(self.basis):
            self.matrix[self.filled] = self.matrix[:, self.filled] = 0

    def shrink_(self, kept: Tensor, ritz: Tensor, rotation: Tensor) -> None:
        """Keep some Ritz vectors; the next row is coupled to each of them by its residual."""
        number, turn = len(kept), rotation[:, kept].T.to(self.basis)
        # Column by column: there is no memory for a second basis.
        for columns in self.basis.split(BLOCK, dim=1):
            columns[:number] = turn @ columns[: self.filled]
        self.matrix.zero_()
        self.matrix[range(number), range(number)] = ritz[kept]
        self.matrix[number, :number] = self.matrix[:number, number] = self.left * rotation[-1, kept]
        self.filled, self.is_chain = number, False


def _kept(filled: int, smallest: int, largest: int) -> Tensor:
    """Indices of the Ritz values to restart with: the wanted, and half of the others, from the ends that are wanted."""
    pairs = smallest + largest
    kept = pairs + (filled - pairs) // 2
    low = kept * smallest // pairs
    return torch.cat([torch.arange(low), torch.arange(filled - kept + low, filled)])


def _check_counts(size: int, largest: int, smallest: int, basis_size: int, max_products: int) -> None:
    pairs = largest + smallest
    if min(largest, smallest) < 0 or not 1 <= pairs <= size:
        raise ValueError(
            f"largest={largest} and smallest={smallest} must be 1 to {size} pairs together, none negative."
        )
    if basis_size < min(pairs + 3, size):
        raise ValueError(f"basis_size={basis_size} cannot hold {pairs} pairs; give {min(pairs + 3, size)} or more.")
    if max_products < 2 * pairs:
        raise ValueError(f"max_products={max_products} cannot give {pairs} pairs; give {2 * pairs} or many more.")
