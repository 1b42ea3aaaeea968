r"""The Gauss-Newton part of the Hessian, :math:`\sum_n J_n^\top S_n J_n` with :math:`S = \mathrm{diag}(p) - p p^\top`.

A weight from input ``b`` to unit ``a`` of a dense layer changes the logits by :math:`M_{ka} h_b`, where ``M`` is the
derivative of the logits by the unit, so two of them have

.. math:: \sum_n Q^n_{aa'} h^n_b h^n_{b'}, \qquad Q^n = M^{n\top} S^n M^n :

one product per example, not one per class. A bias is a weight with input 1.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sparseflow.analysis.closed_form.columns import Columns

#: Columns of the product of convolution parameters that are computed at a time: the half below is left out.
PANEL = 256


def softmax_rows(probabilities: Tensor) -> Tensor:
    r"""``C - 1`` rows ``R`` with :math:`R^\top R = \mathrm{diag}(p) - p p^\top`, by an exact Cholesky factorisation.

    The probabilities ``p``, ``(C, B)``, are positive and of sum 1.

    Returns: ``(C - 1, C, B)``.

    >>> p = torch.tensor([[0.2], [0.3], [0.5]], dtype=torch.float64)
    >>> rows = softmax_rows(p)[..., 0]
    >>> torch.allclose(rows.T @ rows, torch.diag(p[:, 0]) - p @ p.T)
    True
    """
    rest = probabilities.flip(0).cumsum(0).flip(0)  # of this class and all behind it
    tiny = torch.finfo(probabilities.dtype).tiny
    share = (probabilities / rest.clamp_min(tiny)).sqrt()[:-1]
    behind = rest[1:].sqrt()
    below = torch.where(rest[1:] > 0, share / behind.clamp_min(tiny), 0)
    rows = -below[:, None] * probabilities.expand(len(below), *probabilities.shape)
    rows = rows * torch.ones(len(rest), len(rest), dtype=rows.dtype, device=rows.device).triu(1)[:-1, :, None]
    rows.diagonal(dim1=0, dim2=1).copy_((share * behind).T)
    return rows


def add_gauss_newton(total: Tensor, columns: Columns, jacobian: Tensor, features: Tensor) -> None:
    """Add the upper triangle of the part of some examples; below the diagonal some of it is added, too.

    Args:
        jacobian: ``(K, units, B)``: the root of ``S`` times the derivative of the logits by each unit.
        features: ``(num_dense, B)``: the factor of each parameter of a dense layer.
    """
    dense, unit = columns.num_dense, columns.unit
    start = 0
    for number, end in enumerate(columns.ends):
        if end > start:
            products = (jacobian[:, number : number + 1] * jacobian[:, number:]).sum(0)
            right = products.index_select(0, unit[start:] - number)
            right[: dense - start].mul_(features[start:])
            total[start:end, start:].addmm_(features[start:end], right.T)
        start = end
    tail = jacobian[:, columns.num_units :].transpose(0, 1).flatten(1)
    for first in range(0, len(tail), PANEL):
        rows = slice(dense + first, dense + min(first + PANEL, len(tail)))
        total[rows, rows.start :].addmm_(tail[first : first + PANEL], tail[first:].T)
