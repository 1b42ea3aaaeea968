"""Layers whose parameters are the active weights only."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import reduce
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from sparseflow.engine.kernels.compiling import said_aloud
from sparseflow.engine.layers.dense_gradient import gradient_rows
from sparseflow.engine.layers.functions import SparseProduct
from sparseflow.engine.layers.geometry import Window, convolution_window
from sparseflow.engine.layers.pattern import Pattern
from sparseflow.engine.layers.products import Product, warm_up

Dense = TypeVar("Dense", nn.Linear, nn.Conv1d, nn.Conv2d)
DenseConvolution = TypeVar("DenseConvolution", nn.Conv1d, nn.Conv2d)
SparseConvolution = TypeVar("SparseConvolution", "SparseConv1d", "SparseConv2d")
_FLOATS = (torch.float32, torch.float64)
#: Input sizes whose tables a layer keeps: training, evaluation, a last smaller batch.
_KEPT = 4


class SparseLayer(nn.Module):
    """The common part of linear layers and convolutions: a pattern, its values, a bias, and tables per input size.

    Parameters are ``values``, ``(nonzeros,)`` in the order of the flattened dense weight, and ``bias``. Inactive
    weights do not exist: gradients and optimizer state have the size of the values.

    Args:
        values: ``(nonzeros,)``, float32 or float64, on the CPU; taken over, not copied.
        bias: ``(outputs,)`` or ``None``.
    """

    def __init__(self, pattern: Pattern, values: Tensor, bias: Tensor | None, window: Window) -> None:
        super().__init__()
        if values.dtype not in _FLOATS or values.device.type != "cpu":
            raise TypeError(
                f"the sparse engine computes float32 and float64 on the CPU, got {values.dtype} on {values.device}. "
                "Convert the model first, or keep it masked."
            )
        if values.shape != (pattern.num_active,):
            raise ValueError(
                f"values must be one number for each of {pattern.num_active} active weights, got {tuple(values.shape)}."
            )
        self.pattern = pattern
        self.window = window
        self.values = nn.Parameter(values)
        self.bias = None if bias is None else nn.Parameter(bias)
        self.floor = -math.inf
        """0 if it computes the ReLU that follows, else minus infinity."""
        self.padding: Any = 0
        """Of the dense convolution, to make it again."""
        self._passes: list[tuple[Product, Tensor, Tensor]] | None = None
        self._products: dict[tuple[tuple[int, int], int, int], Product] = {}

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """Shape of the dense weight."""
        return self.pattern.shape

    @property
    def weight(self) -> Tensor:
        """The dense weight, made anew at each call, for code that looks at it; gradients reach the values."""
        flat = torch.zeros(math.prod(self.pattern.shape), dtype=self.values.dtype)
        return flat.index_copy(0, self.pattern.positions(), self.values).view(self.pattern.shape)

    def positions(self) -> Tensor:
        """int64 ``(nonzeros,)``, ascending: where the values are in the flattened dense weight."""
        return self.pattern.positions()

    def mask(self) -> Tensor:
        """bool, of the dense weight's shape."""
        return self.pattern.mask()

    def move_(self, positions: Tensor) -> None:
        """Take other positions; the caller must then set ``values`` to the same length.

        Raises:
            ValueError: if they are not ascending, repeat, or are outside the weight.
        """
        self.pattern = Pattern.at(positions, self.pattern.shape, groups=self.pattern.groups)
        self._products.clear()

    def is_watched(self) -> bool:
        """Whether it has hooks or keeps its gradients: then it must run by itself."""
        hooks = (self._forward_hooks, self._forward_pre_hooks, self._backward_hooks, self._backward_pre_hooks)
        return self._passes is not None or any(hooks)

    def keep_gradients(self, keep: bool) -> None:
        """Make each backward pass keep its input and the gradient of its output; ``False`` forgets them and stops."""
        self._passes = [] if keep else None

    def gradient_rows(self) -> Callable[[int, int], Tensor] | None:
        """The dense gradient of outputs [first, last) over the backward passes kept, as a function of both."""
        passes = self._passes
        if not passes:
            return None
        return lambda first, last: reduce(torch.add, (gradient_rows(*kept, first, last) for kept in passes))

    def _record(self, product: Product, x: Tensor, gradient: Tensor) -> None:
        assert self._passes is not None
        if self.values.grad is None or not self.values.grad.any():
            self._passes.clear()  # gradients were set to zero since
        self._passes.append((product, x, gradient))

    def dense_weight(self) -> Tensor:
        """The weight with its zeros, detached."""
        return self.pattern.scatter(self.values)

    def _fill(self, layer: Dense) -> Dense:
        """Give a layer without storage this one's weights."""
        layer.weight = nn.Parameter(self.dense_weight(), requires_grad=self.values.requires_grad)
        if self.bias is not None:
            layer.bias = nn.Parameter(self.bias.detach().clone(), requires_grad=self.bias.requires_grad)
        return layer

    def _apply_to(self, images: Tensor) -> Tensor:
        if images.dtype != self.values.dtype or images.device.type != "cpu" or self.values.device.type != "cpu":
            raise TypeError(
                f"a sparse layer of {self.values.dtype} on {self.values.device} needs an input of the same type on the "
                f"CPU, got {images.dtype} on {images.device}. Convert it with .to({self.values.dtype}); autocast "
                "and other devices need the masked form."
            )
        size = (images.shape[2], images.shape[3]) if images.dim() == 4 else (1, 1)
        if min(self.window.outputs(size)) < 1:
            raise ValueError(
                f"an input of {size[0]} x {size[1]} pixels is smaller than the kernel {self.window.kernel}."
            )
        key = (size, images.shape[0], images.element_size())
        product = self._products.get(key)
        if product is None:
            if len(self._products) >= _KEPT:
                self._products.pop(next(iter(self._products)))
            product = self._products[key] = Product(self.pattern, self.window, *key)
            with said_aloud():
                warm_up(images.dtype)
        record = None if self._passes is None else self._record
        arguments = (images, self.values, self.bias, product, self.floor, record)
        out: Tensor = SparseProduct.apply(*arguments)  # type: ignore[no-untyped-call]
        return out

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[prefix + "begins"] = torch.from_numpy(self.pattern.begins)
        destination[prefix + "indices"] = torch.from_numpy(self.pattern.indices)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Take a state of this layer with any pattern, or the dense ``weight`` of the layer that was converted."""
        weight = state_dict.pop(prefix + "weight", None)
        if weight is not None:
            if weight.shape != self.pattern.shape:
                raise ValueError(f"{prefix}weight must have shape {self.pattern.shape}, got {tuple(weight.shape)}.")
            values = self.pattern.gather(weight)
            if int(values.count_nonzero()) != int(weight.count_nonzero()):
                raise ValueError(
                    f"{prefix}weight is nonzero where this layer has no weights. Convert the dense model with its own "
                    "masks: sparseflow.engine.convert(model, masks)."
                )
            state_dict[prefix + "values"] = values
        elif prefix + "begins" in state_dict:
            begins, indices = state_dict.pop(prefix + "begins"), state_dict.pop(prefix + "indices")
            rows = torch.repeat_interleave(begins.long().diff())
            positions = rows * math.prod(self.pattern.shape[1:]) + indices
            self.move_(positions)
            self.values.data = state_dict[prefix + "values"].detach().to(self.values.dtype, copy=True)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def extra_repr(self) -> str:
        """Shape and sparsity."""
        total = math.prod(self.pattern.shape)
        return f"{list(self.pattern.shape)}, {self.pattern.num_active} of {total} weights, bias={self.bias is not None}"


class SparseLinear(SparseLayer):
    r"""``y = x W^T + b`` over the active weights of W.

    Input ``(..., in)``, output ``(..., out)`` with the batch innermost in memory.

    >>> layer = SparseLinear.of(nn.Linear(3, 1), torch.tensor([[True, False, True]]))
    >>> layer.values.shape, layer(torch.ones(2, 3)).shape
    (torch.Size([2]), torch.Size([2, 1]))
    """

    @classmethod
    def of(cls, layer: nn.Linear, mask: Tensor) -> SparseLinear:
        """The sparse form of a dense layer; weights off the mask are dropped."""
        pattern = Pattern.of(mask)
        return cls(pattern, pattern.gather(layer.weight.detach()), _copy(layer.bias), Window())

    def dense_form(self) -> nn.Linear:
        """The dense layer with zeros."""
        layer = nn.Linear(self.pattern.inputs, self.pattern.outputs, bias=self.bias is not None, device="meta")
        return self._fill(layer)

    def forward(self, x: Tensor) -> Tensor:
        """``(..., in)`` to ``(..., out)``."""
        if x.shape[-1:] != (self.pattern.inputs,):
            raise ValueError(f"this layer takes (..., {self.pattern.inputs}), got {tuple(x.shape)}.")
        if x.dim() == 2:
            return self._apply_to(x)
        return self._apply_to(x.reshape(-1, self.pattern.inputs)).view(*x.shape[:-1], self.pattern.outputs)


class SparseConv2d(SparseLayer):
    """A 2-d convolution (cross-correlation, zero padding) over the active weights.

    Input ``(batch, in, height, width)`` of any strides, output with the batch innermost in memory.

    >>> conv = nn.Conv2d(2, 4, 3, padding=1)
    >>> SparseConv2d.of(conv, torch.rand(4, 2, 3, 3) < 0.5)(torch.zeros(5, 2, 8, 8)).shape
    torch.Size([5, 4, 8, 8])
    """

    @classmethod
    def of(cls, layer: nn.Conv2d, mask: Tensor) -> SparseConv2d:
        """The sparse form of a dense layer; weights off the mask are dropped."""
        return _sparse_convolution(cls, layer, mask)

    def dense_form(self) -> nn.Conv2d:
        """The dense layer with zeros."""
        return _dense_convolution(nn.Conv2d, self, slice(0, 2))

    def forward(self, x: Tensor) -> Tensor:
        """``(batch, in, height, width)`` to ``(batch, out, height', width')``; without a batch alike."""
        if x.dim() == 3:
            return self.forward(x.unsqueeze(0)).squeeze(0)
        if x.dim() != 4 or x.shape[1] != self.pattern.inputs:
            raise ValueError(f"this layer takes (batch, {self.pattern.inputs}, height, width), got {tuple(x.shape)}.")
        return self._apply_to(x)


class SparseConv1d(SparseLayer):
    """A 1-d convolution over the active weights: :class:`SparseConv2d` of height 1.

    >>> conv = nn.Conv1d(2, 4, 3)
    >>> SparseConv1d.of(conv, torch.rand(4, 2, 3) < 0.5)(torch.zeros(5, 2, 8)).shape
    torch.Size([5, 4, 6])
    """

    @classmethod
    def of(cls, layer: nn.Conv1d, mask: Tensor) -> SparseConv1d:
        """The sparse form of a dense layer; weights off the mask are dropped."""
        return _sparse_convolution(cls, layer, mask)

    def dense_form(self) -> nn.Conv1d:
        """The dense layer with zeros."""
        return _dense_convolution(nn.Conv1d, self, slice(1, 2))

    def forward(self, x: Tensor) -> Tensor:
        """``(batch, in, length)`` to ``(batch, out, length')``; without a batch alike."""
        if x.dim() == 2:
            return self.forward(x.unsqueeze(0)).squeeze(0)
        if x.dim() != 3 or x.shape[1] != self.pattern.inputs:
            raise ValueError(f"this layer takes (batch, {self.pattern.inputs}, length), got {tuple(x.shape)}.")
        return self._apply_to(x.unsqueeze(2)).squeeze(2)


def _copy(bias: Tensor | None) -> Tensor | None:
    return None if bias is None else bias.detach().clone()


def _sparse_convolution(kind: type[SparseConvolution], layer: nn.Conv1d | nn.Conv2d, mask: Tensor) -> SparseConvolution:
    pattern = Pattern.of(mask, groups=layer.groups)
    sparse = kind(pattern, pattern.gather(layer.weight.detach()), _copy(layer.bias), convolution_window(layer))
    sparse.padding = layer.padding
    return sparse


def _dense_convolution(kind: type[DenseConvolution], sparse: SparseLayer, axes: slice) -> DenseConvolution:
    pattern, window = sparse.pattern, sparse.window
    return sparse._fill(
        kind(
            pattern.inputs, pattern.outputs, window.kernel[axes], window.stride[axes], sparse.padding,
            window.dilation[axes], pattern.groups, bias=sparse.bias is not None, device="meta",
        )
    )  # fmt: skip
