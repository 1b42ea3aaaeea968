"""The optimizer steps of a plan, on flat vectors; the formulas are those of ``torch.optim``."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparseflow.engine.kernels.compiling import kernel

Floats = NDArray[Any]
Integers = NDArray[np.int64]


@kernel
def sgd(values: Floats, gradient: Floats, velocity: Floats, edges: Integers, settings: Floats) -> None:
    r"""One step of SGD on each part of a vector.

    .. math:: d = g + \lambda w, \quad b \leftarrow \mu b + d, \quad
        w \leftarrow w - \eta (d + \mu b \text{ if Nesterov else } b)

    Args:
        values, gradient, velocity: ``w``, ``g`` and ``b``, ``(size,)``; with ``mu = 0`` the velocity is left alone.
        edges: ``(parts + 1,)``: part ``s`` is [edges[s], edges[s + 1]).
        settings: float64 ``(parts, 4)``: learning rate, momentum, weight decay, and 1 for Nesterov.
    """
    number = values.dtype.type
    for s in range(edges.shape[0] - 1):
        first, last = edges[s], edges[s + 1]
        w, g, b = values[first:last], gradient[first:last], velocity[first:last]
        rate, momentum, decay = number(settings[s, 0]), number(settings[s, 1]), number(settings[s, 2])
        if momentum == 0:
            for i in range(w.shape[0]):
                w[i] -= rate * (g[i] + decay * w[i])
        elif settings[s, 3] == 1:
            for i in range(w.shape[0]):
                d = g[i] + decay * w[i]
                b[i] = momentum * b[i] + d
                w[i] -= rate * (d + momentum * b[i])
        else:
            for i in range(w.shape[0]):
                b[i] = momentum * b[i] + (g[i] + decay * w[i])
                w[i] -= rate * b[i]


@kernel
def adam(
    values: Floats, gradient: Floats, mean: Floats, square: Floats, edges: Integers, settings: Floats, step: int
) -> None:
    r"""One step of Adam or AdamW on each part of a vector.

    .. math:: m \leftarrow m + (1 - \beta_1)(d - m), \quad v \leftarrow \beta_2 v + (1 - \beta_2) d^2, \quad
        w \leftarrow w - \frac{\eta}{1 - \beta_1^t} \frac{m}{\sqrt{v} / \sqrt{1 - \beta_2^t} + \epsilon}

    with :math:`d = g + \lambda w` (Adam), or :math:`d = g` after :math:`w \leftarrow (1 - \eta \lambda) w` (AdamW).

    Args:
        values, gradient, mean, square: ``w``, ``g``, ``m`` and ``v``, ``(size,)``.
        edges: ``(parts + 1,)``: part ``s`` is [edges[s], edges[s + 1]).
        settings: float64 ``(parts, 6)``: learning rate, both betas, epsilon, weight decay, and 1 for AdamW.
        step: ``t``, 1 at the first step.
    """
    number = values.dtype.type
    for s in range(edges.shape[0] - 1):
        first, last = edges[s], edges[s + 1]
        w, g, m, v = values[first:last], gradient[first:last], mean[first:last], square[first:last]
        beta, gamma = settings[s, 1], settings[s, 2]
        rate = number(settings[s, 0] / (1 - beta**step))
        root = number(np.sqrt(1 - gamma**step))
        epsilon, decay = number(settings[s, 3]), number(settings[s, 4])
        fresh, kept, new = number(1 - beta), number(gamma), number(1 - gamma)
        shrink = number(1 - settings[s, 0] * settings[s, 4])
        if settings[s, 5] == 1:
            decay = number(0)
        else:
            shrink = number(1)
        for i in range(w.shape[0]):
            weight = w[i] * shrink
            d = g[i] + decay * weight
            m[i] += fresh * (d - m[i])
            v[i] = kept * v[i] + new * d * d
            w[i] = weight - rate * (m[i] / (np.sqrt(v[i]) / root + epsilon))
