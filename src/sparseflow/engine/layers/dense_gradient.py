"""The dense gradient of a sparse layer, a few outputs at a time: what RigL looks at when an update is due."""

from __future__ import annotations

import torch
from torch import Tensor

from sparseflow.engine.layers.products import Product


def gradient_rows(product: Product, x: Tensor, gradient: Tensor, first: int, last: int) -> Tensor:
    r"""Rows [first, last) of the gradient of the dense weight.

    .. math:: G_{o c u v} = \sum_{n, i, j} g_{n, o, i, j}\, x_{c,\ i s_y + u d_y,\ j s_x + v d_x,\ n}

    Args:
        x: Flat input, in frame ``product.x``; that of a linear layer is ``(batch, inputs)``.
        gradient: Of the output, ``(batch, out, height, width)`` or ``(batch, out)``.

    Returns: ``(last - first, in / groups, *kernel)``.

    >>> from sparseflow.engine.layers.geometry import Window
    >>> from sparseflow.engine.layers.pattern import Pattern
    >>> product = Product(Pattern.of(torch.eye(2).bool()), Window(), (1, 1), batch=1, itemsize=4)
    >>> gradient_rows(product, torch.tensor([[3.0, 4.0]]), torch.tensor([[1.0, 2.0]]), 1, 2)
    tensor([[6., 8.]])
    """
    pattern, window = product.pattern, product.window
    batch, inputs = product.x.batch, pattern.shape[1]
    if gradient.dim() == 2:
        return gradient[:, first:last].t() @ x
    image = x.view(pattern.inputs, product.x.height, product.x.width, batch)
    (height, width), outputs = product.y.size, pattern.outputs // pattern.groups
    rows = torch.empty(last - first, inputs, *window.kernel, dtype=x.dtype)
    for group in range(first // outputs, -(-last // outputs)):
        low, high = max(first, group * outputs), min(last, (group + 1) * outputs)
        g = gradient[:, low:high].permute(1, 2, 3, 0).reshape(high - low, -1)
        channels = image[group * inputs : (group + 1) * inputs]
        for u in range(window.kernel[0]):
            for v in range(window.kernel[1]):
                top, left = u * window.dilation[0], v * window.dilation[1]
                tap = channels[
                    :,
                    top : top + (height - 1) * window.stride[0] + 1 : window.stride[0],
                    left : left + (width - 1) * window.stride[1] + 1 : window.stride[1],
                ]
                rows[low - first : high - first, :, u, v] = g @ tap.reshape(inputs, -1).t()
    return rows.view(last - first, *pattern.shape[1:])
