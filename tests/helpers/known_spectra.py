"""Matrices whose eigenvalues are known."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def second_difference(size: int) -> Tensor:
    """Tridiagonal -1, 2, -1."""
    beside = -torch.ones(size - 1, dtype=torch.float64)
    return torch.diag(2 * torch.ones(size, dtype=torch.float64)) + torch.diag(beside, 1) + torch.diag(beside, -1)


def second_difference_eigenvalues(size: int) -> Tensor:
    """Closed form: 2 - 2 cos(k pi / (n + 1))."""
    return 2 - 2 * torch.cos(torch.arange(1, size + 1, dtype=torch.float64) * math.pi / (size + 1))


def rotated(values: Tensor, *, seed: int = 0) -> Tensor:
    """A full symmetric matrix with these eigenvalues."""
    draw = torch.randn(len(values), len(values), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    basis, _ = torch.linalg.qr(draw)
    matrix = (basis * values) @ basis.T
    return (matrix + matrix.T) / 2
