"""One batch of whatever form a model takes: what is fed to the model, what comes out, and how many examples it counts.

A *batch* is a pair ``(inputs, targets)``, or a mapping such as Hugging Face's that holds the targets itself, as
``labels``. *Inputs* are what the model takes: a tensor, a tuple or list of several (``model(*inputs)``), a mapping
(``model(**inputs)``), or any one object (``model(inputs)``).
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from sparseflow.masks.select import unwrap
from sparseflow.types import Batches, LossFn


class Batch(NamedTuple):
    """The parts of one batch."""

    inputs: Any
    targets: Any
    """``None`` where a mapping holds no ``labels``."""
    size: int
    """Number of examples."""


def each(batches: Batches, *, name: str = "batches") -> Iterator[Batch]:
    """Go through batches and check the form of each.

    Args:
        batches: Pairs or mappings, or what this function has given before.
        name: Of the argument in error messages.

    Raises:
        TypeError: if one is neither a pair nor a mapping.
        ValueError: if there are none, or one has no examples.

    >>> import torch
    >>> x, y = torch.ones(3, 2), torch.zeros(3)
    >>> [batch.size for batch in each([(x, y), {"x": x, "labels": y}])]
    [3, 3]
    """
    if isinstance(batches, Tensor | Mapping):
        raise TypeError(f"{name} must be a list of batches, got one {type(batches).__name__}: write [batch].")
    if not isinstance(batches, Iterable):
        raise TypeError(f"{name} must be a list of batches, got {type(batches).__name__}: write {name}=[(x, y)].")
    number = -1
    for number, batch in enumerate(batches):
        if isinstance(batch, Batch):
            found = batch
        elif isinstance(batch, Mapping):
            found = Batch(batch, batch.get("labels"), _size(batch.get("labels"), batch, name=f"{name}[{number}]"))
        elif isinstance(batch, tuple | list) and len(batch) == 2:
            found = Batch(batch[0], batch[1], _size(batch[1], batch[0], name=f"{name}[{number}]"))
        else:
            kind = type(batch).__name__
            parts = f"{kind} of {len(batch)} parts" if isinstance(batch, tuple | list) else kind
            raise TypeError(
                f"{name}[{number}] must be a pair (inputs, targets) or a mapping with 'labels', got a {parts}. Write "
                f"{name}=[(x, y)], or [((u, v), y)] for a model of several inputs."
            )
        if not found.size:
            raise ValueError(f"{name}[{number}] has no examples; leave it out.")
        yield found
    if number < 0:
        raise ValueError(
            f"{name} is empty; give at least one (inputs, targets) pair, and a list where you use it twice: a "
            "generator is empty after its first use."
        )


def num_examples(value: Any) -> int | None:
    """The number of examples in targets or inputs: the length of the first tensor; ``None`` if there is none.

    >>> import torch
    >>> num_examples({"tokens": torch.zeros(4, 7)}), num_examples((torch.zeros(5, 2), torch.zeros(5)))
    (4, 5)
    """
    if isinstance(value, Tensor):
        return len(value) if value.dim() else None
    if isinstance(value, PackedSequence):
        return int(value.batch_sizes[0])
    if isinstance(value, Mapping):
        return next((size for part in value.values() if (size := num_examples(part)) is not None), None)
    if isinstance(value, tuple | list):
        # Boxes, texts and the like: one item for each example.
        several = any(isinstance(part, Tensor | tuple | list) for part in value)
        return next((n for part in value if (n := num_examples(part)) is not None), None) if several else len(value)
    return None


def arguments(model: nn.Module, inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The positional and keyword arguments of ``model.forward`` that the inputs stand for.

    A tuple, list or mapping that its parameters do not fit is one argument, as it is. ``labels`` are left out where the
    model takes none.

    Raises:
        TypeError: if the keys of a mapping are some of the model's parameters, but do not fit.

    >>> class Two(nn.Module):
    ...     def forward(self, u, v): return u + v
    >>> arguments(Two(), (1, 2)), arguments(Two(), {"u": 1, "v": 2, "labels": 3}), arguments(nn.ReLU(), (1, 2))
    (((1, 2), {}), ((), {'u': 1, 'v': 2}), (((1, 2),), {}))
    """
    if isinstance(inputs, Mapping) and all(isinstance(key, str) for key in inputs):
        named = dict(inputs)
        unlabelled = {key: value for key, value in named.items() if key != "labels"}
        for found in (named, unlabelled):
            if _mismatch(model, (), found) is None:
                return (), found
        if set(inspect.signature(unwrap(model).forward).parameters) & unlabelled.keys():
            raise TypeError(
                f"{type(unwrap(model)).__name__} does not take this batch: {_mismatch(model, (), unlabelled)}. A "
                f"mapping is given as model(**inputs), and this one has {', '.join(map(repr, named))}."
            )
    several = isinstance(inputs, tuple | list) and not isinstance(inputs, PackedSequence)
    if several and _mismatch(model, tuple(inputs), {}) is None:
        return tuple(inputs), {}
    return (inputs,), {}


def forward(model: nn.Module, inputs: Any) -> Any:
    """What the model returns for one batch of inputs; errors as :func:`arguments`.

    >>> import torch
    >>> forward(nn.Identity(), torch.ones(1)), forward(nn.Bilinear(2, 2, 1), (torch.ones(3, 2), torch.ones(3, 2))).shape
    (tensor([1.]), torch.Size([3, 1]))
    """
    positional, named = arguments(model, inputs)
    return model(*positional, **named)


def output_of(output: Any) -> Tensor:
    """The tensor among what a model returns.

    A tensor itself; ``output.logits`` or ``output["logits"]``; else the first tensor of a tuple, list or mapping
    that is not a scalar, as a loss in front of it is.

    Raises:
        TypeError: if there is none.
        ValueError: if it is on the meta device.

    >>> import torch
    >>> output_of({"loss": torch.tensor(2.0), "logits": torch.ones(1)}), output_of((torch.zeros(1), "state"))
    (tensor([1.]), tensor([0.]))
    """
    parts = output.values() if isinstance(output, Mapping) else output if isinstance(output, tuple | list) else ()
    choices = (output, _field(output, "logits"), *parts)
    found = next((part for part in choices if isinstance(part, Tensor) and (part is output or part.dim())), None)
    if found is None:
        raise TypeError(
            f"the model returns {type(output).__name__}, which has no .logits and is no tuple or mapping of tensors: "
            "give a loss_fn that takes it, or a model that returns a tensor."
        )
    _check_values(found)
    return found


def loss_of(loss_fn: LossFn | None, output: Any, targets: Any) -> Tensor:
    """The mean loss of one batch, a scalar.

    ``loss_fn(output, targets)`` with what the model returns; a function that takes only a tensor gets
    ``output_of(output)``. ``None`` stands for the loss that the model returns itself: ``output.loss``,
    ``output["loss"]``, or the one scalar of a tuple.

    Raises:
        TypeError: if there is no loss, or no targets where the function needs them.
        ValueError: if the loss is not a scalar, or is on the meta device.

    >>> import torch
    >>> output = {"loss": torch.tensor(2.0), "logits": torch.ones(3, 1)}
    >>> loss_of(None, output, None), loss_of(nn.functional.mse_loss, output, torch.zeros(3, 1))
    (tensor(2.), tensor(1.))
    """
    loss = _own_loss(output) if loss_fn is None else _loss(loss_fn, output, targets)
    if not isinstance(loss, Tensor):
        raise TypeError(
            f"loss_fn must return a scalar tensor, got {type(loss).__name__}: leave out .item() or float()."
        )
    if loss.numel() != 1:
        raise ValueError(
            f"loss_fn must return the mean loss of a batch, one number, got shape {tuple(loss.shape)}: use "
            "reduction='mean' or write .mean()."
        )
    _check_values(loss)
    return loss


def map_tensors(function: Callable[[Tensor], Tensor], value: Any) -> Any:
    """The same inputs or targets with a function applied to each tensor in them.

    >>> import torch
    >>> map_tensors(torch.neg, {"a": (torch.ones(1), "text")})
    {'a': (tensor([-1.]), 'text')}
    """
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, Mapping):
        return {key: map_tensors(function, part) for key, part in value.items()}
    if isinstance(value, tuple | list):
        parts = [map_tensors(function, part) for part in value]
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = [field.name for field in dataclasses.fields(value) if field.init]
        return dataclasses.replace(value, **{name: map_tensors(function, getattr(value, name)) for name in fields})
    return value


def _size(targets: Any, inputs: Any, *, name: str) -> int:
    size = num_examples(targets)
    size = num_examples(inputs) if size is None else size
    if size is None:
        raise TypeError(
            f"the number of examples in {name} is not known: it holds no tensor whose first dimension runs over "
            "examples. Write (inputs, targets)."
        )
    return size


def _mismatch(model: nn.Module, positional: tuple[Any, ...], named: Mapping[str, Any]) -> str | None:
    """Why ``model.forward`` does not take these arguments."""
    try:
        inspect.signature(unwrap(model).forward).bind(*positional, **named)
    except TypeError as error:
        return str(error)
    return None


def _field(output: Any, name: str) -> Any:
    return output.get(name) if isinstance(output, Mapping) else getattr(output, name, None)


def _loss(loss_fn: LossFn, output: Any, targets: Any) -> Any:
    if not isinstance(output, Tensor):
        try:
            return loss_fn(output, targets)
        except (TypeError, AttributeError):
            output = output_of(output)
    try:
        return loss_fn(output, targets)
    except (TypeError, AttributeError) as error:
        if targets is not None:
            raise
        raise TypeError(
            "the batch has no targets for the loss: give pairs (inputs, targets), a mapping with 'labels', or "
            "loss_fn=None if the model returns its own loss."
        ) from error


def _own_loss(output: Any) -> Any:
    loss = None if isinstance(output, Tensor) else _field(output, "loss")
    parts = output if isinstance(output, tuple | list) else (output,)
    scalars = [part for part in parts if isinstance(part, Tensor) and not part.dim()]
    if loss is None and len(scalars) == 1:
        loss = scalars[0]
    if loss is None:
        raise TypeError(
            f"loss_fn=None stands for the loss that the model returns, and its {type(output).__name__} has no .loss. "
            "Put 'labels' into the batch, or give loss_fn=."
        )
    return loss


def _check_values(tensor: Tensor) -> None:
    if tensor.is_meta:
        raise ValueError(
            "the model is on the meta device and has no values to measure: call model.to_empty(device='cpu') and load "
            "or initialise its weights first."
        )
