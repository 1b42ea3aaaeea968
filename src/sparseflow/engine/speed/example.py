"""The example that a model is timed on: checked once, and made to any batch size."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from sparseflow.batches import map_tensors, num_examples
from sparseflow.engine.speed.steps import tensors_of

#: What the engine computes in.
DTYPES = (torch.float32, torch.float64)


def checked_size(example: Any) -> int:
    """The number of examples in a batch, the length of its first axis.

    Raises:
        ValueError: if it holds no tensor with a batch axis.
    """
    size = num_examples(example)
    if not size or not any(tensor.dim() for tensor in tensors_of(example)):
        shape = f"a tensor of shape {tuple(example.shape)}" if isinstance(example, Tensor) else type(example).__name__
        raise ValueError(
            f"the example must be a batch of inputs or a tuple with one, got {shape}. Its first axis runs over "
            "examples: write x[None] for a single one."
        )
    return size


def check_place(model: nn.Module, names: Iterable[str], example: Any) -> None:
    """Check that the engine can take a model's masked weights and the example at all.

    Raises:
        ValueError: if the model or the example is on another device, or in half precision.
    """
    weights = [model.get_parameter(name) for name in names]
    if weights and all(weight.device.type != "cpu" for weight in weights):
        raise ValueError(
            f"the model is on {weights[0].device}, and the sparse engine computes on the CPU: pass model.cpu()."
        )
    if weights and all(weight.dtype not in DTYPES for weight in weights):
        raise ValueError(
            f"the model is in {_named(weights[0].dtype)}, and the sparse engine computes in float32 and float64: pass "
            "model.float(); the table shows bfloat16 beside it."
        )
    for tensor in tensors_of(example):
        if tensor.device.type != "cpu":
            raise ValueError(
                f"the example is on {tensor.device}, and the sparse engine computes on the CPU: use .cpu()."
            )
        if tensor.dtype.is_floating_point and tensor.dtype not in DTYPES:
            raise ValueError(
                f"the example is in {_named(tensor.dtype)}, and the sparse engine computes in float32 and float64: use "
                ".float()."
            )


def resized(example: Any, size: int) -> Any:
    """The example with its batch repeated and cut to a number of examples.

    Tensors whose first axis is not as long as the batch, such as an attention mask for all, stay as they are.

    >>> resized({"x": torch.arange(3), "scale": torch.ones(1, 2)}, 5)
    {'x': tensor([0, 1, 2, 0, 1]), 'scale': tensor([[1., 1.]])}
    """
    old = checked_size(example)
    rows = torch.arange(size) % old

    def changed(tensor: Tensor) -> Tensor:
        if not tensor.dim() or len(tensor) != old:
            return tensor.detach().clone()
        made = tensor.detach()[rows]
        is_last = tensor.dim() == 4 and not tensor.is_contiguous()
        return made.contiguous(memory_format=torch.channels_last) if is_last else made

    return map_tensors(changed, example)


def _named(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
