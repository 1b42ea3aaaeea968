"""Hessian-vector products over active weights and all other trainable parameters, for any model and loss."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from sparseflow._checks import check_finite
from sparseflow.analysis.layout import ActiveLayout, active_parameters
from sparseflow.batches import Batch, arguments, each, loss_of, map_tensors
from sparseflow.boundary import checked
from sparseflow.gradients import trainable, twice_differentiable, undisturbed
from sparseflow.masks.select import unwrap
from sparseflow.ranges import Range
from sparseflow.sparsifier.stored import stored_weights
from sparseflow.types import Batches, LossFn, Masks


@checked(graph_bytes=Range(0))
def hessian_product(
    model: nn.Module,
    batches: Batches,
    masks: Masks | None = None,
    *,
    loss_fn: LossFn | None = F.cross_entropy,
    dtype: torch.dtype | None = None,
    training: bool = False,
    graph_bytes: int = 2**30,
) -> HessianProduct:
    r"""The Hessian of the mean loss as a function of a vector, without side effects.

    .. math:: v \mapsto H v = \nabla \langle g, v \rangle, \qquad g = \nabla \frac{1}{N} \sum_b n_b L_b

    By double backward: a product costs about twice the gradient where the graph of a batch is kept from one product to
    the next, else three times. Weights and buffers are copied: later changes of the model do not matter.

    Args:
        model: The network; its gradients, buffers, modes and random state stay as they are.
        batches: Pairs of inputs and targets, or mappings with ``labels``, see :mod:`sparseflow.batches`; kept. A batch
            of ``n_b`` of all ``N`` examples weighs ``n_b / N``.
        masks: Parameter name -> mask; a vector has active entries only, in the order of :func:`active_parameters`.
        loss_fn: Mean loss of a batch, without the L2 term; ``None`` for the one that the model returns.
        dtype: To compute in; ``None`` is the model's.
        training: Train or eval mode. Dropout draws the same noise in every product and for every batch.
        graph_bytes: Graphs are kept up to this many bytes; that of a single batch always.

    Raises:
        TypeError: if the model has sparse layers of the engine, which have first derivatives only.
        ValueError: if a mask does not fit, an inactive weight is not zero, there are no batches or the gradient is not
            finite.

    Reference: Pearlmutter (1994), *Fast exact multiplication by the Hessian*.

    >>> layer = nn.Linear(1, 1, bias=False)  # L = mean (w x)^2, so H = 2 mean x^2
    >>> batch = (torch.tensor([[1.0], [3.0]]), torch.zeros(2, 1))
    >>> hessian_product(layer, [batch], loss_fn=nn.functional.mse_loss)(torch.ones(1))
    tensor([10.])
    """
    objective = Objective.of(model, batches, masks, loss_fn=loss_fn, dtype=dtype, training=training)
    return HessianProduct(objective, graph_bytes=graph_bytes)


class HessianProduct:
    """``product(v)`` is ``H v``; made by :func:`hessian_product`.

    ``graph_bytes`` as in :func:`hessian_product`.
    """

    def __init__(self, objective: Objective, *, graph_bytes: int) -> None:
        self._objective = objective
        self._kept: list[GradientGraph] = []
        batches, left = len(objective.batches), graph_bytes
        while len(self._kept) < batches:
            graph = objective.graph(len(self._kept))
            left -= graph.bytes
            if left < 0 and batches > 1:
                break
            self._kept.append(graph)
        check_finite(self.gradient, name="the gradient")

    @property
    def layout(self) -> ActiveLayout:
        """The meaning of the entries of a vector."""
        return self._objective.layout

    @property
    def size(self) -> int:
        """Length of a vector: active weights and all other trainable parameters."""
        return self.layout.size

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of a vector."""
        return self.gradient.dtype

    @property
    def device(self) -> torch.device:
        """Device of a vector."""
        return self.gradient.device

    @cached_property
    def gradient(self) -> Tensor:
        """The gradient of the mean loss, ``(size,)``."""
        numbers = range(len(self._kept), len(self._objective.batches))
        parts = [graph.gradient() for graph in self._kept] + [self._objective.gradient(number) for number in numbers]
        return torch.stack(parts).sum(0)

    def __call__(self, vector: Tensor) -> Tensor:
        """The product ``H v``.

        Raises:
            ValueError: if the vector has another shape.
        """
        directions = self.layout.unflatten(vector.detach().to(self.device, self.dtype))
        total = torch.zeros_like(self.gradient)
        for number in range(len(self._objective.batches)):
            graph = self._kept[number] if number < len(self._kept) else self._objective.graph(number)
            total += graph.product(directions)
        return total


@dataclass(frozen=True, eq=False)
class GradientGraph:
    """The gradient of one batch, which can be differentiated again any number of times."""

    layout: ActiveLayout
    parameters: Mapping[str, Tensor]
    gradients: Mapping[str, Tensor]
    bytes: int
    """Size of the memory that it keeps alive beside the parameters."""

    def gradient(self) -> Tensor:
        """The gradient of the batch, ``(size,)``, without the graph."""
        return self.layout.flatten(self.gradients).detach()

    def product(self, directions: Mapping[str, Tensor]) -> Tensor:
        """The product ``H v``, ``(size,)``, for ``v`` as whole tensors, zero where inactive."""
        curved = [name for name, gradient in self.gradients.items() if gradient.requires_grad]
        if not curved:  # a linear loss
            return torch.zeros_like(self.gradient())
        found = torch.autograd.grad(
            [self.gradients[name] for name in curved],
            list(self.parameters.values()),
            [directions[name] for name in curved],
            retain_graph=True,
            materialize_grads=True,
        )
        return self.layout.flatten(dict(zip(self.parameters, found, strict=True)))


@dataclass(frozen=True, eq=False)
class Objective:
    """A mean loss as a pure function of copies of a model's parameters."""

    model: nn.Module
    layout: ActiveLayout
    parameters: Mapping[str, Tensor]
    """Copies of the trainable parameters, which require a gradient."""
    fixed: Mapping[str, Tensor]
    """Copies of frozen parameters and buffers."""
    batches: Sequence[Batch]
    loss_fn: LossFn | None
    training: bool

    @classmethod
    def of(
        cls,
        model: nn.Module,
        batches: Batches,
        masks: Masks | None,
        *,
        loss_fn: LossFn | None,
        dtype: torch.dtype | None,
        training: bool,
    ) -> Objective:
        """The loss of a model at its present weights; arguments and errors as :func:`hessian_product`."""
        check_second_derivatives(model)

        def copied(tensor: Tensor) -> Tensor:
            return _as(tensor.detach(), dtype).clone()

        parameters = trainable(model)

        def converted(value: Any) -> Any:
            return map_tensors(lambda tensor: _as(tensor, dtype), value)

        named = [*unwrap(model).named_parameters(), *unwrap(model).named_buffers()]
        return cls(
            model=unwrap(model),
            layout=active_parameters(model, masks),
            parameters={name: copied(parameter).requires_grad_() for name, parameter in parameters.items()},
            fixed={name: copied(tensor) for name, tensor in named if name not in parameters},
            batches=[Batch(converted(inputs), converted(targets), size) for inputs, targets, size in each(batches)],
            loss_fn=loss_fn,
            training=training,
        )

    def loss(self, number: int, parameters: Mapping[str, Tensor]) -> Tensor:
        """The share of a batch in the mean loss."""
        inputs, targets, size = self.batches[number]
        positional, named = arguments(self.model, inputs)
        # Copies again: a forward pass may write to its buffers.
        fixed = {name: tensor.clone() for name, tensor in self.fixed.items()}
        with undisturbed(self.model, training=self.training), twice_differentiable():
            _same_noise(self.parameters.values())
            output = torch.func.functional_call(self.model, {**parameters, **fixed}, positional, named)
            return loss_of(self.loss_fn, output, targets) * (size / sum(batch.size for batch in self.batches))

    def gradient(self, number: int) -> Tensor:
        """The gradient of a batch, ``(size,)``."""
        with torch.enable_grad():
            loss = self.loss(number, self.parameters)
            found = torch.autograd.grad(loss, list(self.parameters.values()), materialize_grads=True)
        return self.layout.flatten(dict(zip(self.parameters, found, strict=True)))

    def graph(self, number: int) -> GradientGraph:
        """The gradient of a batch with its graph."""
        tensors = list(self.parameters.values())
        with torch.enable_grad(), _saved(tensors) as saved:
            loss = self.loss(number, self.parameters)
            found = torch.autograd.grad(loss, tensors, create_graph=True, materialize_grads=True)
        size = sum(saved.values()) + sum(gradient.nbytes for gradient in found)
        return GradientGraph(self.layout, self.parameters, dict(zip(self.parameters, found, strict=True)), size)


def check_second_derivatives(model: nn.Module) -> None:
    """Raise ``TypeError`` if the model has sparse layers of the engine."""
    if stored := stored_weights(model):
        raise TypeError(
            f"{', '.join(stored)}: sparse layers have first derivatives only. Give sparseflow.engine.to_dense(model) "
            "and its masks."
        )


def _as(tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    """The tensor in the dtype if it is floating point: tokens, labels and counters stay integers."""
    return tensor.to(dtype) if dtype is not None and tensor.is_floating_point() else tensor


def _same_noise(tensors: Iterable[Tensor]) -> None:
    """Start all draws from one seed, so that all products are of the same function."""
    torch.default_generator.manual_seed(0)
    for device in {tensor.device for tensor in tensors if tensor.is_cuda}:
        torch.cuda.default_generators[device.index].manual_seed(0)


@contextmanager
def _saved(but: Iterable[Tensor]) -> Iterator[dict[int, int]]:
    """Address -> bytes of each storage that autograd keeps, except those of the given tensors."""
    known = {tensor.untyped_storage().data_ptr() for tensor in but}
    found: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            found[storage.data_ptr()] = storage.nbytes()
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        yield found
