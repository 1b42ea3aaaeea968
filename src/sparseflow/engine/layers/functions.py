"""A sparse layer as one autograd function, and the way of activations into the engine's layout and out of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from sparseflow.engine.kernels.sums import put_in_frame
from sparseflow.engine.layers.geometry import Frame
from sparseflow.engine.layers.memory import shared_pool
from sparseflow.engine.layers.products import Product

#: Called in the backward pass with the product, its input as a storage, and the gradient of its output as images.
Recorder = Callable[[Product, Tensor, Tensor], None]


def to_storage(images: Tensor, frame: Frame) -> Tensor:
    """Images of any strides as a flat ``(channels, height, width, batch)`` in its border.

    No copy is made where the batch is innermost already and there is no border.

    Images are ``(batch, channels, height, width)``, or ``(batch, channels)`` for one pixel.
    """
    bordered = (frame.height, frame.width) != frame.size
    if not bordered and images.stride() == _strides(frame)[: images.dim()]:
        return images.as_strided((images.numel(),), (1,))
    inner = images.permute(*range(1, images.dim()), 0)
    if images.is_contiguous() and not inner.is_contiguous():
        # torch's blocked transpose
        inner = images.detach().reshape(images.shape[0], -1).t().contiguous().view(inner.shape)
    if not bordered:
        # The gradient of a sum is one number with strides of 0, for which all kernels would be compiled once more.
        return inner.reshape(-1).contiguous()
    storage = shared_pool().empty(images.shape[1] * frame.pitch, images.dtype)
    put_in_frame(
        inner.reshape(-1).numpy(), images.shape[1], *frame.size, frame.batch, *frame.border[0], *frame.border[1],
        storage.numpy(),
    )  # fmt: skip
    return storage


def to_images(storage: Tensor, channels: int, frame: Frame, *, dims: int = 4) -> Tensor:
    """A flat storage without a border as images; shapes as :func:`to_storage`, with 4 or 2 ``dims``.

    They are a tensor of their own, not a view: autograd lets nobody write into views that a function returns, and
    activations in place do.
    """
    shape = (frame.batch, channels, *frame.size)
    return storage.as_strided(shape[:dims], _strides(frame)[:dims]).data


def _strides(frame: Frame) -> tuple[int, int, int, int]:
    return 1, frame.pitch, frame.width * frame.batch, frame.batch


class SparseProduct(torch.autograd.Function):
    """``max(floor, W x + b)`` with gradients for x, the active values of W, and b. First derivatives only."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, values: Tensor, bias: Tensor | None, product: Product, floor: float,
        record: Recorder | None, images: tuple[int, ...], out: tuple[int, ...],
    ) -> Tensor:  # fmt: skip
        """``x`` seen in the shape ``images``, as :func:`to_storage` takes it, to an output of shape ``out``.

        ``record`` is called in the backward pass. Shapes change in here, so that the output is nobody's view.
        """
        source = to_storage(x if x.shape == images else x.reshape(images), product.x)
        y = to_images(
            product.forward(values, bias, source, floor=floor), product.pattern.outputs, product.y, dims=len(images)
        )
        if y.shape != out:
            y = y.view(out).data
        ctx.product, ctx.record, ctx.is_cut = product, record, floor == 0
        ctx.shapes = tuple(x.shape), (images[0], product.pattern.outputs, *product.y.size)[: len(images)]
        ctx.save_for_backward(source, values, y if ctx.is_cut else None)
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of ``x``, ``values`` and ``bias``.

        Raises:
            RuntimeError: under ``create_graph=True``.
        """
        check_first_order()
        product: Product = ctx.product
        source, values, y = ctx.saved_tensors
        (x_shape, shape), gradient = ctx.shapes, gradients[0]
        if ctx.is_cut:
            gradient = torch.ops.aten.threshold_backward(gradient, y, 0)
        if gradient.shape != shape:
            gradient = gradient.reshape(shape)
        # Only the input's gradient needs the border.
        frame = product.g if ctx.needs_input_grad[0] else product.y
        g = to_storage(gradient, frame)
        if ctx.record is not None:
            ctx.record(product, source, gradient)
        gx = None
        if ctx.needs_input_grad[0]:
            gx = to_images(product.input_gradient(values, g), product.pattern.inputs, product.gx, dims=gradient.dim())
            gx = gx if gx.shape == x_shape else gx.view(x_shape)
        gv = product.weight_gradient(source, g, frame) if ctx.needs_input_grad[1] else None
        gb = product.bias_gradient(g, frame) if ctx.needs_input_grad[2] else None
        return gx, gv, gb, None, None, None, None, None


def check_first_order() -> None:
    """Raise ``RuntimeError`` in a backward pass under ``create_graph=True``."""
    if torch.is_grad_enabled():
        raise RuntimeError(
            "the sparse engine has first derivatives only, and create_graph=True asks for more. Use the masked "
            "form: sparseflow.engine.to_dense(model)."
        )
