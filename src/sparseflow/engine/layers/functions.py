"""A sparse layer as one autograd function, and the way of activations into the engine's layout and out of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sparseflow.engine.kernels.sums import put_in_frame
from sparseflow.engine.layers.geometry import Frame
from sparseflow.engine.layers.memory import shared_pool
from sparseflow.engine.layers.products import Product
from sparseflow.engine.layers.row_products import forward_by_rows, gradients_by_rows, in_strips, out_of_strips, turned

#: Called in the backward pass with the product, its input, and the gradient of its output as images. The input is a
#: storage for a convolution, and ``(batch, inputs)`` for a linear layer.
Recorder = Callable[[Product, Tensor, Tensor], None]


def to_storage(images: Tensor, frame: Frame) -> Tensor:
    """Images of any strides as a flat ``(channels, height, width, batch)`` in its border.

    No copy is made where the batch is innermost already and there is no border.

    Images are ``(batch, channels, height, width)``, or ``(batch, channels)`` for one pixel.
    """
    images = images.detach()
    if frame.batch == 1 and frame.pitch == 1 and images.is_contiguous():
        return images.view(-1)  # one example of a linear layer, where each microsecond counts
    inner = images.permute(*range(1, images.dim()), 0)
    if not inner.is_contiguous() and _has_rows(images):
        flat = turned(images.view(frame.batch, -1))
    else:
        # The gradient of a sum is one number with strides of 0, for which all kernels would be compiled once more.
        flat = inner.reshape(-1).contiguous()
    if (frame.height, frame.width) == frame.size:
        return flat
    storage = shared_pool().empty(images.shape[1] * frame.pitch, images.dtype)
    put_in_frame(
        flat.numpy(), images.shape[1], *frame.size, frame.batch, *frame.border[0], *frame.border[1], storage.numpy()
    )
    return storage


def to_images(storage: Tensor, channels: int, frame: Frame, *, dims: int = 4) -> Tensor:
    """What a flat storage has within its border as images; shapes as :func:`to_storage`, with 4 or 2 ``dims``.

    They are a tensor of their own, not a view: autograd lets nobody write into views that a function returns, and
    activations in place do.
    """
    shape, strides = (frame.batch, channels, *frame.size), (1, frame.pitch, frame.width * frame.batch, frame.batch)
    return storage.as_strided(shape[:dims], strides[:dims], frame.place(0, 0)).data


def _has_rows(images: Tensor) -> bool:
    """Whether the numbers of each example are neighbours in memory."""
    return images.is_contiguous() or (images.dim() == 2 and images.stride(1) == 1)


class Call(NamedTuple):
    """What a layer computes from an input, beside the numbers."""

    product: Product
    floor: float
    """0 for the output of a ReLU, else minus infinity."""
    record: Recorder | None
    """Called in the backward pass."""
    out: tuple[int, ...]
    """Shape of the output."""
    dims: int
    """2 for a linear layer, whose image is one pixel, else 4."""
    by_rows: bool
    """Whether the output is contiguous, as a linear layer's is unless its input has the batch innermost."""


def apply(
    x: Tensor, images: tuple[int, ...], values: Tensor, bias: Tensor | None, product: Product, floor: float,
    record: Recorder | None, out: tuple[int, ...],
) -> Tensor:  # fmt: skip
    """``max(floor, W x + b)`` of shape ``out``, with ``x`` seen in the shape ``images`` of :func:`to_storage`."""
    seen = x if x.shape == images else x.reshape(images)
    by_rows = len(images) == 2 and images[0] > 1 and seen.stride() != (1, images[0])
    source = in_strips(seen if seen.stride(1) == 1 else seen.contiguous()) if by_rows else to_storage(seen, product.x)
    call = Call(product, floor, record, out, len(images), by_rows)
    if torch.is_grad_enabled() and (
        x.requires_grad or values.requires_grad or (bias is not None and bias.requires_grad)
    ):
        y: Tensor = SparseProduct.apply(x, values, bias, source, call)  # type: ignore[no-untyped-call]
        return y
    return _output(source, values, bias, call)


def _output(source: Tensor, values: Tensor, bias: Tensor | None, call: Call) -> Tensor:
    product = call.product
    if call.by_rows:
        return forward_by_rows(product, values, bias, source, call.out, floor=call.floor)
    storage = product.forward(values, bias, source, floor=call.floor)
    y = to_images(storage, product.pattern.outputs, product.y, dims=call.dims)
    return y if y.shape == call.out else y.view(call.out).data


class SparseProduct(torch.autograd.Function):
    """``max(floor, W x + b)`` with gradients for x, the active values of W, and b. First derivatives only."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, values: Tensor, bias: Tensor | None, source: Tensor, call: Call) -> Tensor:
        """The output; ``source`` is ``x`` as a storage, or in strips for a layer by rows."""
        y = _output(source, values, bias, call)
        ctx.call, ctx.x_shape = call, tuple(x.shape)
        ctx.save_for_backward(source, values, y if call.floor == 0 else None)
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of ``x``, ``values`` and ``bias``.

        Raises:
            RuntimeError: under ``create_graph=True``.
        """
        check_first_order()
        call: Call = ctx.call
        source, values, y = ctx.saved_tensors
        product, wanted = call.product, ctx.needs_input_grad
        # Only the input's gradient needs the border.
        frame = product.g if wanted[0] else product.y
        shape = (frame.batch, product.pattern.outputs, *frame.size)[: call.dims]
        gradient = gradients[0].reshape(shape)
        y = None if y is None else y.view(shape)
        found = (_from_rows if call.by_rows else _from_images)(call, wanted, source, values, y, gradient, frame)
        gx, gv, gb = found
        if gx is not None and gx.shape != ctx.x_shape:
            gx = gx.view(ctx.x_shape)
        return gx, gv, gb, None, None


#: The gradients of the input, the active weights and the biases; ``None`` where they are not wanted.
Gradients = tuple[Tensor | None, Tensor | None, Tensor | None]


def _from_rows(
    call: Call, wanted: tuple[bool, ...], source: Tensor, values: Tensor, y: Tensor | None, gradient: Tensor, _: Frame
) -> Gradients:
    if y is not None:
        gradient = torch.ops.aten.threshold_backward(gradient, y, 0)
    if gradient.stride(1) != 1:
        gradient = gradient.contiguous()
    if call.record is not None:
        call.record(call.product, out_of_strips(source, gradient.shape[0]), gradient)
    gx, gv, gb = gradients_by_rows(call.product, values, source, gradient, inputs=wanted[0], bias=wanted[2])
    return gx, gv if wanted[1] else None, gb


def _from_images(
    call: Call, wanted: tuple[bool, ...], source: Tensor, values: Tensor, y: Tensor | None, gradient: Tensor,
    frame: Frame,
) -> Gradients:  # fmt: skip
    product, pattern = call.product, call.product.pattern
    g = to_storage(gradient, frame)
    gx, gv, gb = None, None, None
    if y is not None:
        y = to_storage(y, product.y)
        if g.data_ptr() == gradient.data_ptr():
            g = torch.ops.aten.threshold_backward(g, y, 0)  # others have the gradient too
        else:
            gb = product.gate_(g, y, frame)
    if call.record is not None:
        x = to_images(source, pattern.inputs, product.x, dims=2) if call.dims == 2 else source
        call.record(product, x, to_images(g, pattern.outputs, frame, dims=call.dims))
    if wanted[0]:
        storage, gv = product.gradients(values, source, g)
        gx = to_images(storage, pattern.inputs, product.gx, dims=call.dims)
    elif wanted[1]:
        gv = product.weight_gradient(source, g, frame)
    if wanted[2] and gb is None:
        gb = product.bias_gradient(g, frame)
    return gx, gv if wanted[1] else None, gb if wanted[2] else None


def check_first_order() -> None:
    """Raise ``RuntimeError`` in a backward pass under ``create_graph=True``."""
    if torch.is_grad_enabled():
        raise RuntimeError(
            "the sparse engine has first derivatives only, and create_graph=True asks for more. Use the masked "
            "form: sparseflow.engine.to_dense(model)."
        )
