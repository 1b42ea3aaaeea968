"""Layers whose parameters are the active weights only."""

from __future__ import annotations

import math
from functools import partial
from typing import Any, ClassVar, NamedTuple, Self

import torch
from torch import Tensor, nn

from sparseflow.engine.kernels.compiling import said_aloud
from sparseflow.engine.layers.active import ActiveWeight
from sparseflow.engine.layers.dense_gradient import gradient_rows
from sparseflow.engine.layers.functions import apply
from sparseflow.engine.layers.geometry import Window, convolution_window
from sparseflow.engine.layers.pattern import Pattern
from sparseflow.engine.layers.products import Product, warm_up

Dense = nn.Linear | nn.Conv1d | nn.Conv2d
#: Input sizes whose tables a layer, or a part of one, keeps: training, evaluation, a last smaller batch.
_KEPT = 4


class Part(NamedTuple):
    """A range of a layer's outputs as a layer of its own, such as the queries that attention keeps with keys."""

    first: int
    """Its first output among those of the layer."""
    pattern: Pattern
    values: Tensor
    bias: Tensor | None


class SparseLayer(ActiveWeight):
    """The common part of linear layers and convolutions: a pattern, its values, a bias, and tables per input size.

    Args:
        values: ``(nonzeros,)``, float32 or float64, on the CPU; taken over, not copied.
        bias: ``(outputs,)`` or ``None``.
    """

    axes: ClassVar[int]
    """Axes of an input behind its channels."""

    def __init__(self, pattern: Pattern, values: Tensor, bias: Tensor | None, window: Window) -> None:
        super().__init__(pattern, values)
        self.window = window
        self.bias = None if bias is None else nn.Parameter(bias)
        self._products: dict[tuple[Pattern, tuple[int, int], int, int], Product] = {}

    @property
    def has_cover(self) -> bool:
        """Whether it computes with blocks that hold its weights, see :mod:`sparseflow.engine.layers.cover`."""
        return any(product.cover is not None for product in self._products.values())

    def move_(self, positions: Tensor) -> None:
        """As for any weight; tables are made anew."""
        super().move_(positions)
        self._products.clear()

    def _gradient_rows(self, *arguments: Any) -> Tensor:
        begin, product, x, gradient, first, last = arguments
        low, high = max(first, begin), min(last, begin + product.pattern.outputs)
        if (low, high) == (first, last):
            return gradient_rows(product, x, gradient, first - begin, last - begin)
        rows: Tensor = x.new_zeros(last - first, *self.weight_shape[1:])
        if low < high:
            rows[low - first : high - first] = gradient_rows(product, x, gradient, low - begin, high - begin)
        return rows

    @classmethod
    def bare(cls, layer: Dense, mask: Tensor) -> Self:
        """The sparse form with the layer's parameters alone, see :func:`take_over_`."""
        window = Window() if isinstance(layer, nn.Linear) else convolution_window(layer)
        pattern = Pattern.of(mask, groups=1 if isinstance(layer, nn.Linear) else layer.groups)
        own = layer.bias
        bias = None if own is None else own.detach().clone()
        sparse = cls(pattern, pattern.gather(layer.weight.detach()), bias, window)
        sparse.values.requires_grad_(layer.weight.requires_grad)
        if sparse.bias is not None and own is not None:
            sparse.bias.requires_grad_(own.requires_grad)
        return sparse

    def bare_dense(self) -> nn.Module:
        """The dense layer with this one's parameters alone, see :func:`take_over_`."""
        layer, bias = super().bare_dense(), None
        if self.bias is not None:
            bias = nn.Parameter(self.bias.detach().clone(), requires_grad=self.bias.requires_grad)
        layer.register_parameter("bias", bias)
        return layer

    def forward(self, input: Tensor, *, floor: float = -math.inf, part: Part | None = None) -> Tensor:
        """The output, or that of a part, not below ``floor``: 0 for that of the ReLU that follows.

        A linear layer takes ``(..., inputs)``, a convolution images, or one image without a batch.
        """
        axes, inputs = self.axes, self.pattern.inputs
        if input.dim() <= axes or (axes and input.dim() > axes + 2) or input.shape[-axes - 1] != inputs:
            spatial = ", ".join(["height", "width"][2 - axes :] if axes != 1 else ["length"])
            wanted = f"(batch, {inputs}, {spatial})" if axes else f"(..., {inputs})"
            raise ValueError(f"this layer takes {wanted}, got {tuple(input.shape)}.")
        lead, size = input.shape[: -axes - 1], input.shape[input.dim() - axes :]
        images = (lead.numel(), inputs, *((1,) * (2 - axes) if axes else ()), *size)
        return self._apply_to(input, images, lead, floor, part or Part(0, self.pattern, self.values, self.bias))

    def _apply_to(self, x: Tensor, images: tuple[int, ...], lead: tuple[int, ...], floor: float, part: Part) -> Tensor:
        values = part.values
        if x.dtype != values.dtype or x.device.type != "cpu" or values.device.type != "cpu":
            raise TypeError(
                f"a sparse layer of {values.dtype} on {values.device} needs an input of the same type on the CPU, got "
                f"{x.dtype} on {x.device}. Convert it with .to({values.dtype}); autocast and other devices need the "
                "masked form."
            )
        size = (images[2], images[3]) if len(images) == 4 else (1, 1)
        product = self.product(part.pattern, size, images[0], x.dtype)
        out = (*lead, part.pattern.outputs, *product.y.size[2 - self.axes :])
        record = None if self._passes is None else partial(self._record, part.first)
        return apply(x, images, values, part.bias, product, floor, record, out)

    def product(self, pattern: Pattern, size: tuple[int, int], batch: int, dtype: torch.dtype) -> Product:
        """The product of the pattern, or of a part of it, for a size of input; the last few are kept.

        Raises:
            ValueError: if there is no output, or the input is too large.
        """
        key = (pattern, size, batch, dtype.itemsize)
        if (known := self._products.get(key)) is not None:
            return known
        if min(self.window.outputs(size)) < 1:
            reach = [d * (k - 1) + 1 for d, k in zip(self.window.dilation, self.window.kernel, strict=True)]
            raise ValueError(
                f"an input of {size[0]} x {size[1]} pixels is smaller than the kernel, which reaches over {reach[0]} x "
                f"{reach[1]} with its dilation. Give larger images, or padding."
            )
        kept = [known for known in self._products if known[0] is pattern]
        if len(kept) >= _KEPT:
            self._products.pop(kept[0])
        made = self._products[key] = Product(pattern, self.window, size, batch, dtype.itemsize)
        with said_aloud():
            warm_up(dtype, made.pattern.block)
        return made

    def extra_repr(self) -> str:
        """Shape, sparsity and whether there is a bias."""
        return f"{super().extra_repr()}, bias={self.bias is not None}"


class SparseLinear(SparseLayer):
    r"""``y = x W^T + b`` over the active weights of W.

    Input ``(..., in)``, output ``(..., out)``: with the batch innermost in memory where the input has it there, else
    contiguous.

    >>> import torch
    >>> layer = SparseLinear.of(nn.Linear(3, 1), torch.tensor([[True, False, True]]))
    >>> layer.values.shape, layer(torch.ones(2, 3)).shape, layer.in_features
    (torch.Size([2]), torch.Size([2, 1]), 3)
    """

    dense_kind, axes = nn.Linear, 0


class SparseConv1d(SparseLayer):
    """A 1-d convolution over the active weights: :class:`SparseConv2d` of height 1.

    Input ``(batch, in, length)``, or without a batch.

    >>> import torch
    >>> conv = nn.Conv1d(2, 4, 3)
    >>> SparseConv1d.of(conv, torch.rand(4, 2, 3) < 0.5)(torch.zeros(5, 2, 8)).shape
    torch.Size([5, 4, 6])
    """

    dense_kind, axes = nn.Conv1d, 1


class SparseConv2d(SparseLayer):
    """A 2-d convolution (cross-correlation, zero padding) over the active weights.

    Input ``(batch, in, height, width)`` of any strides, or without a batch; output with the batch innermost in memory.

    >>> import torch
    >>> conv = nn.Conv2d(2, 4, 3, padding=1)
    >>> SparseConv2d.of(conv, torch.rand(4, 2, 3, 3) < 0.5)(torch.zeros(5, 2, 8, 8)).shape
    torch.Size([5, 4, 8, 8])
    """

    dense_kind, axes = nn.Conv2d, 2
