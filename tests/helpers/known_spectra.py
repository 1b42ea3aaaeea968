"""Matrices with known eigenvalues, some of them hard for Lanczos."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor


def second_difference(size: int) -> Tensor:
    """The tridiagonal matrix of -1, 2, -1."""
    beside = -torch.ones(size - 1, dtype=torch.float64)
    return torch.diag(2 * torch.ones(size, dtype=torch.float64)) + torch.diag(beside, 1) + torch.diag(beside, -1)


def second_difference_eigenvalues(size: int) -> Tensor:
    """Eigenvalues in closed form: 2 - 2 cos(k pi / (n + 1))."""
    return 2 - 2 * torch.cos(torch.arange(1, size + 1, dtype=torch.float64) * math.pi / (size + 1))


def rotated(values: Tensor, *, seed: int = 0) -> Tensor:
    """A full symmetric matrix with these eigenvalues."""
    draw = torch.randn(len(values), len(values), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    basis, _ = torch.linalg.qr(draw)
    matrix = (basis * values) @ basis.T
    return (matrix + matrix.T) / 2


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
