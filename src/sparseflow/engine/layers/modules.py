"""Layers whose parameters are the active weights only."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from functools import reduce
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from sparseflow.engine.kernels.compiling import said_aloud
from sparseflow.engine.layers.dense_gradient import gradient_rows
from sparseflow.engine.layers.dense_view import DenseView
from sparseflow.engine.layers.functions import apply
from sparseflow.engine.layers.geometry import Window, convolution_window
from sparseflow.engine.layers.pattern import BLOCK, Pattern
from sparseflow.engine.layers.products import Product, warm_up

Dense = nn.Linear | nn.Conv1d | nn.Conv2d
_FLOATS = (torch.float32, torch.float64)
#: Input sizes whose tables a layer keeps: training, evaluation, a last smaller batch.
_KEPT = 4
#: What a state has of a sparse layer beside ``values`` and the dense layer's own names.
PATTERN_NAMES = frozenset(["begins", "indices", "weight"])


class SparseLayer(nn.Module):
    """The common part of linear layers and convolutions: a pattern, its values, a bias, and tables per input size.

    Parameters are ``values``, ``(nonzeros,)`` in the order of the flattened dense weight, and ``bias``. Inactive
    weights do not exist: gradients and optimizer state have the size of the values. All other attributes of the dense
    layer are here too, such as ``in_features`` or ``stride``, and so are its hooks.

    Args:
        values: ``(nonzeros,)``, float32 or float64, on the CPU; taken over, not copied.
        bias: ``(outputs,)`` or ``None``.
    """

    dense_kind: ClassVar[type[Dense]]
    """The layer that it replaces."""
    axes: ClassVar[int]
    """Axes of an input behind its channels."""

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
        self._passes: list[tuple[Product, Tensor, Tensor]] | None = None
        self._products: dict[tuple[tuple[int, int], int, int], Product] = {}

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """Shape of the dense weight."""
        return self.pattern.shape

    @property
    def weight(self) -> Tensor:
        """The dense weight, for code that looks at it; see :class:`~sparseflow.engine.layers.dense_view.DenseView`."""
        return DenseView.of(self)

    def __getattr__(self, name: str) -> Any:
        """Raise an error that says why this layer has less than the dense one."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            raise AttributeError(
                f"{type(self).__name__} has no attribute {name!r}: it takes the place of an nn."
                f"{self.dense_kind.__name__} and has that layer's own attributes, its weight as a view and its bias. "
                "sparseflow.engine.to_dense(model) gives the dense layers back."
            ) from None

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

    @property
    def keeps_gradients(self) -> bool:
        """Whether backward passes keep their parts of the dense gradient."""
        return self._passes is not None

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

    @classmethod
    def of(cls, layer: Dense, mask: Tensor) -> Self:
        """The sparse form of a dense layer; weights off the mask are dropped.

        Raises:
            TypeError, ValueError: if the layer has no sparse form.
        """
        sparse = cls.bare(layer, mask)
        take_over_(sparse, layer, {})
        return sparse

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

    def dense_form(self) -> Dense:
        """The dense layer with zeros."""
        layer = self.bare_dense()
        take_over_(layer, self, {})
        return layer

    def bare_dense(self) -> Dense:
        """The dense layer with this one's parameters alone, see :func:`take_over_`."""
        layer = self.dense_kind.__new__(self.dense_kind)
        nn.Module.__init__(layer)
        layer.weight = nn.Parameter(self.dense_weight(), requires_grad=self.values.requires_grad)
        layer.bias = None
        if self.bias is not None:
            layer.bias = nn.Parameter(self.bias.detach().clone(), requires_grad=self.bias.requires_grad)
        return layer

    def forward(self, input: Tensor, *, floor: float = -math.inf) -> Tensor:
        """The output, not below ``floor``: 0 for that of the ReLU that follows.

        A linear layer takes ``(..., inputs)``, a convolution images, or one image without a batch.
        """
        axes, inputs = self.axes, self.pattern.inputs
        if input.dim() <= axes or (axes and input.dim() > axes + 2) or input.shape[-axes - 1] != inputs:
            spatial = ", ".join(["height", "width"][2 - axes :] if axes != 1 else ["length"])
            wanted = f"(batch, {inputs}, {spatial})" if axes else f"(..., {inputs})"
            raise ValueError(f"this layer takes {wanted}, got {tuple(input.shape)}.")
        lead, size = input.shape[: -axes - 1], input.shape[input.dim() - axes :]
        images = (lead.numel(), inputs, *((1,) * (2 - axes) if axes else ()), *size)
        return self._apply_to(input, images, lead, floor)

    def _apply_to(self, x: Tensor, images: tuple[int, ...], lead: tuple[int, ...], floor: float) -> Tensor:
        values = self.values
        if x.dtype != values.dtype or x.device.type != "cpu" or values.device.type != "cpu":
            raise TypeError(
                f"a sparse layer of {values.dtype} on {values.device} needs an input of the same type on the CPU, got "
                f"{x.dtype} on {x.device}. Convert it with .to({values.dtype}); autocast and other devices need the "
                "masked form."
            )
        key = ((images[2], images[3]) if len(images) == 4 else (1, 1), images[0], x.element_size())
        product = self._products.get(key)
        if product is None:
            product = self._product(*key)
            with said_aloud():
                warm_up(x.dtype, self.pattern.block)
        out = (*lead, self.pattern.outputs, *product.y.size[2 - self.axes :])
        record = None if self._passes is None else self._record
        return apply(x, images, values, self.bias, product, floor, record, out)

    def _product(self, size: tuple[int, int], batch: int, itemsize: int) -> Product:
        """The product for a size of input that is not among the last ones."""
        if min(self.window.outputs(size)) < 1:
            raise ValueError(
                f"an input of {size[0]} x {size[1]} pixels is smaller than the kernel {self.window.kernel}."
            )
        if len(self._products) >= _KEPT:
            self._products.pop(next(iter(self._products)))
        made = self._products[size, batch, itemsize] = Product(self.pattern, self.window, size, batch, itemsize)
        return made

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[prefix + "begins"] = torch.from_numpy(self.pattern.begins)
        destination[prefix + "indices"] = torch.from_numpy(self.pattern.indices)
        # A loader that skips names it does not know would leave the dense layer as it was made. This does not fit it.
        destination[prefix + "weight"] = torch.empty(0)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Take a state of this layer with any pattern, or the dense ``weight`` of the layer that was converted."""
        weight, begins, indices = (state_dict.pop(prefix + name, None) for name in ("weight", "begins", "indices"))
        values, pattern = state_dict.get(prefix + "values"), self.pattern
        if begins is not None and indices is not None:
            pattern = self._pattern_at(begins, indices, prefix)
        if weight is not None and values is None:
            if weight.shape != pattern.shape:
                raise ValueError(f"{prefix}weight must have shape {pattern.shape}, got {tuple(weight.shape)}.")
            values = pattern.gather(weight)
            if int(values.count_nonzero()) != int(weight.count_nonzero()):
                raise ValueError(
                    f"{prefix}weight is nonzero where this layer has no weights. Convert the dense model with its own "
                    "masks: sparseflow.engine.convert(model, masks)."
                )
        if values is not None:
            if values.shape != (pattern.num_active,):
                raise ValueError(
                    f"{prefix}values must have {pattern.num_active} numbers, as {prefix}indices says, got "
                    f"{tuple(values.shape)}. Load a state that state_dict() of a converted model gave."
                )
            state_dict[prefix + "values"] = values
            if pattern is not self.pattern:
                self.move_(pattern.positions())
                self.values.data = values.detach().to(self.values.dtype, copy=True)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def _pattern_at(self, begins: Tensor, indices: Tensor, prefix: str) -> Pattern:
        shape = self.pattern.shape
        block = 1 if len(begins) == shape[0] + 1 else BLOCK
        rows = torch.repeat_interleave(begins.long().diff())
        if len(begins) != shape[0] / block + 1 or len(rows) != len(indices):
            raise ValueError(
                f"{prefix}begins and {prefix}indices are of another layer than one of shape {shape}. Load "
                "the state into a model of the architecture that was saved."
            )
        return Pattern.at(rows * math.prod(shape[1:]) + indices, shape, groups=self.pattern.groups, block=block)

    def extra_repr(self) -> str:
        """Shape and sparsity."""
        total = math.prod(self.pattern.shape)
        return f"{list(self.pattern.shape)}, {self.pattern.num_active} of {total} weights, bias={self.bias is not None}"


def take_over_(layer: nn.Module, replaced: nn.Module, memo: dict[int, Any]) -> None:
    """Give a layer copies of what the one it replaces has beside parameters: attributes, buffers, hooks, its mode.

    ``memo`` is that of the copy of the whole model, see :func:`copy.deepcopy`: a hook may belong to another module.
    """
    vars(layer).update({key: copy.deepcopy(value, memo) for key, value in vars(replaced).items() if key not in _OWN})


#: What a sparse layer does not share with the dense one.
_OWN = frozenset(["_parameters", "pattern", "window", "_passes", "_products"])


class SparseLinear(SparseLayer):
    r"""``y = x W^T + b`` over the active weights of W.

    Input ``(..., in)``, output ``(..., out)``: with the batch innermost in memory where the input has it there, else
    contiguous.

    >>> layer = SparseLinear.of(nn.Linear(3, 1), torch.tensor([[True, False, True]]))
    >>> layer.values.shape, layer(torch.ones(2, 3)).shape, layer.in_features
    (torch.Size([2]), torch.Size([2, 1]), 3)
    """

    dense_kind, axes = nn.Linear, 0


class SparseConv1d(SparseLayer):
    """A 1-d convolution over the active weights: :class:`SparseConv2d` of height 1.

    Input ``(batch, in, length)``, or without a batch.

    >>> conv = nn.Conv1d(2, 4, 3)
    >>> SparseConv1d.of(conv, torch.rand(4, 2, 3) < 0.5)(torch.zeros(5, 2, 8)).shape
    torch.Size([5, 4, 6])
    """

    dense_kind, axes = nn.Conv1d, 1


class SparseConv2d(SparseLayer):
    """A 2-d convolution (cross-correlation, zero padding) over the active weights.

    Input ``(batch, in, height, width)`` of any strides, or without a batch; output with the batch innermost in memory.

    >>> conv = nn.Conv2d(2, 4, 3, padding=1)
    >>> SparseConv2d.of(conv, torch.rand(4, 2, 3, 3) < 0.5)(torch.zeros(5, 2, 8, 8)).shape
    torch.Size([5, 4, 8, 8])
    """

    dense_kind, axes = nn.Conv2d, 2
