"""Gradients of a loss over given examples, measured without leaving a trace."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from sparseflow.batches import each, forward, loss_of
from sparseflow.masks.select import unwrap
from sparseflow.sharded import full, is_sharded, reshard_
from sparseflow.types import Batches, LossFn


@contextmanager
def undisturbed(model: nn.Module, *, training: bool | None = None) -> Iterator[None]:
    """Run a measurement on a model and leave everything as it was.

    Buffers (batch-norm statistics), train/eval flags and the random state of CPU and CUDA come back bit for bit;
    gradients are never written by what uses ``torch.autograd.grad``.

    Args:
        training: Train or eval mode during the measurement; ``None`` keeps every module's own.

    >>> norm = nn.BatchNorm1d(2)
    >>> with undisturbed(norm, training=True):
    ...     _ = norm(torch.ones(4, 2))
    >>> int(norm.num_batches_tracked)
    0
    """
    flags = [(module, module.training) for module in model.modules()]
    buffers = [
        (module, name, buffer, buffer.detach().clone())
        for module in model.modules()
        for name, buffer in module.named_buffers(recurse=False)
    ]
    devices = sorted({p.device.index or 0 for p in model.parameters() if p.device.type == "cuda"})
    with torch.random.fork_rng(devices=devices):
        try:
            if training is not None:
                model.train(training)
            yield
        finally:
            for module, flag in flags:
                module.training = flag
            with torch.no_grad():
                for module, name, buffer, value in buffers:
                    buffer.copy_(value)
                    setattr(module, name, buffer)  # some modules rebind theirs
            reshard_(model)


@contextmanager
def twice_differentiable() -> Iterator[None]:
    """Run attention as plain products and a softmax: the fused kernels have no second derivative.

    >>> q = torch.ones(1, 2, 4, requires_grad=True)
    >>> with twice_differentiable():
    ...     out = nn.functional.scaled_dot_product_attention(q, q, q).square().sum()
    >>> (first,) = torch.autograd.grad(out, q, create_graph=True)
    >>> torch.autograd.grad(first.sum(), q)[0].shape
    torch.Size([1, 2, 4])
    """
    with sdpa_kernel(SDPBackend.MATH):
        yield


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that require a gradient, each once, without the prefix of a wrapper.

    >>> list(trainable(nn.Linear(2, 1)))
    ['weight', 'bias']
    """
    reshard_(model)
    return {name: p for name, p in unwrap(model).named_parameters() if p.requires_grad}


def norm_of(gradient: Tensor) -> float:
    r""":math:`\|g\|_2` of a gradient, of all its parts if it is sharded.

    In float64: squares of small float32 gradients underflow from 1e-23 on.

    >>> norm_of(torch.tensor([3e-30, 4e-30]))
    5...e-30
    """
    return float(full(gradient.double().norm()))


def loss_gradient(
    model: nn.Module, loss_fn: LossFn | None, batches: Batches, *, training: bool | None = None
) -> tuple[float, dict[str, Tensor]]:
    r"""Mean loss over all given examples and its *dense* gradient, without side effects.

    .. math:: L = \frac{1}{N} \sum_b n_b L_b, \qquad g = \nabla L

    Args:
        model: Masked or dense; its gradients, buffers, modes and random state stay as they are.
        loss_fn: Mean loss of a batch, without any L2 term; ``None`` for the one that the model returns, see
            :func:`sparseflow.batches.loss_of`.
        batches: Pairs of inputs and targets, or mappings with ``labels``, see :mod:`sparseflow.batches`; a batch of
            ``n_b`` examples weighs ``n_b``. Of a sharded model the same on all ranks.
        training: Train or eval mode for the measurement; ``None`` keeps the model's.

    Returns: the loss, and name -> gradient of every trainable parameter (zeros where the loss does not depend on it).

    Raises:
        TypeError: if a batch, the model's output and the loss do not fit together.
        ValueError: if there are no batches or no trainable parameter, or the loss is not one number with a gradient.

    >>> layer = nn.Linear(1, 1, bias=False)
    >>> _, g = loss_gradient(layer, lambda out, y: ((out - y) ** 2).mean(), [(torch.ones(4, 1), torch.zeros(4, 1))])
    >>> torch.allclose(g["weight"], 2 * layer.weight)
    True
    """
    parameters = trainable(model)
    if not parameters:
        raise ValueError(f"{type(model).__name__} has no parameter that requires a gradient.")
    total, loss_sum, sums = 0, 0.0, None
    with undisturbed(model, training=training), torch.enable_grad():
        for inputs, targets, size in each(batches):
            loss = loss_of(loss_fn, forward(model, inputs), targets)
            gradients = _gradients(loss, list(parameters.values()))
            sums = _accumulate(sums, gradients, size)
            loss_sum += float(loss.detach()) * size
            total += size
    assert sums is not None  # there is a batch, else each() has raised
    return loss_sum / total, {name: s / total for name, s in zip(parameters, sums, strict=True)}


def _gradients(loss: Tensor, parameters: Sequence[nn.Parameter]) -> list[Tensor]:
    """Zeros where the loss does not depend on the parameter."""
    if not loss.requires_grad:
        raise ValueError(
            "the loss has no gradient: the model or loss_fn detaches it (.detach(), .data, no_grad or inference_mode "
            "inside), or it depends on frozen parameters only."
        )
    if not any(map(is_sharded, parameters)):
        found = torch.autograd.grad(loss, parameters, allow_unused=True)
        return [torch.zeros_like(p) if g is None else g.to_dense() for g, p in zip(found, parameters, strict=True)]
    # The graph ends at whole weights that are gone by then; only a backward pass brings gradients to the parts.
    kept = [parameter.grad for parameter in parameters]
    try:
        for parameter in parameters:
            parameter.grad = None
        loss.backward()
        return [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    finally:
        for parameter, gradient in zip(parameters, kept, strict=True):
            parameter.grad = gradient


def _accumulate(sums: list[Tensor] | None, gradients: Sequence[Tensor], size: int) -> list[Tensor]:
    if sums is None:
        return [gradient * size for gradient in gradients]
    for total, gradient in zip(sums, gradients, strict=True):
        total.add_(gradient, alpha=size)
    return sums
