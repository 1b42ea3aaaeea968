"""Weights that are stored as their active values only, as the Sparsifier meets them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from sparseflow.sharded import is_sharded
from sparseflow.sparsifier.check import per_weight_state
from sparseflow.types import Masks


@runtime_checkable
class ActiveWeight(Protocol):
    """A layer that holds active weights only, such as ``sparseflow.engine.SparseLinear``."""

    values: nn.Parameter
    """``(active,)``, in the order of the flattened dense weight."""

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """Of the dense weight."""
        ...

    def positions(self) -> Tensor:
        """int64 ``(active,)``, ascending: where the values are in the flattened dense weight."""
        ...

    def mask(self) -> Tensor:
        """bool, of the dense weight's shape."""
        ...

    def move_(self, positions: Tensor) -> None:
        """Take other positions; as many values must follow."""
        ...

    def keep_gradients(self, keep: bool) -> None:
        """Whether backward passes from now on keep what the dense gradient is made of; ``False`` forgets it."""
        ...

    def gradient_rows(self) -> Callable[[int, int], Tensor] | None:
        """Dense gradient of the outputs [first, last) in the kept backward passes; ``None`` if there was none."""
        ...


def active_weights(model: nn.Module) -> dict[str, ActiveWeight]:
    """Name of the dense weight -> the layer that holds its active values.

    Raises:
        ValueError: if ``fully_shard`` has cut such a layer.

    >>> import sparseflow as sf
    >>> model = nn.Sequential(nn.Linear(4, 2))
    >>> list(active_weights(sf.engine.convert(model, sf.random_masks(model, 0.5, seed=0))))
    ['0.weight']
    """
    found = {
        f"{path}.weight" if path else "weight": module
        for path, module in model.named_modules()
        if isinstance(module, ActiveWeight)
    }
    if cut := [name for name, weight in found.items() if is_sharded(weight.values)]:
        raise ValueError(f"fully_shard cannot cut {cut[0]!r}, which is stored as active values alone. Keep it masked.")
    return found


class LiveMasks(Mapping[str, Tensor]):
    """Masks of which some are made from stored positions when they are asked for.

    Args:
        names: In the order of iteration.
        dense: Masks that exist.
        stored: Weights whose masks are made.
    """

    def __init__(self, names: Iterable[str], dense: Mapping[str, Tensor], stored: Mapping[str, ActiveWeight]) -> None:
        self._names, self._dense, self._stored = list(names), dense, stored

    def __getitem__(self, name: str) -> Tensor:
        return self._stored[name].mask() if name in self._stored else self._dense[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def check_positions(stored: Mapping[str, ActiveWeight], masks: Masks) -> None:
    """Raise ``ValueError`` unless weights that are stored alone lie where the masks say."""
    for name, weight in stored.items():
        if not torch.equal(masks[name].cpu(), weight.mask()):
            raise ValueError(
                f"the mask of {name!r} is not where the sparse layer has its weights. Convert the model with these "
                "masks, or load the model's state before the Sparsifier's."
            )


def move_(weight: ActiveWeight, positions: Tensor, optimizer: torch.optim.Optimizer) -> None:
    """Give a weight other positions: what stays keeps its value, gradient and state, what is new starts at zero.

    Args:
        weight: Changed in place; the parameter stays the same object.
        positions: int64, ascending.
        optimizer: Whose state of this parameter moves along.
    """
    before, parameter = weight.positions(), weight.values
    place = torch.searchsorted(before, positions).clamp_(max=max(0, len(before) - 1))
    stays = before[place] == positions if len(before) else torch.zeros(len(positions), dtype=torch.bool)
    source = place[stays]

    def moved(tensor: Tensor) -> Tensor:
        return torch.zeros(len(positions), dtype=tensor.dtype).masked_scatter_(stays, tensor[source])

    gradient, states = parameter.grad, list(per_weight_state(optimizer, parameter))
    values = moved(parameter.detach())
    if len(positions) == len(before):
        # In place: others, such as a reducer's buckets, may hold these tensors.
        for tensor in (gradient, *(state for _, state in states)):
            if tensor is not None:
                tensor.copy_(moved(tensor))
        parameter.data.copy_(values)
    else:
        parameter.grad = None
        parameter.data = values
        parameter.grad = None if gradient is None else moved(gradient)
        for key, state in states:
            optimizer.state[parameter][key] = moved(state)
    weight.move_(positions)


def check_can_move(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Raise ``ValueError`` where weights that are stored alone cannot change places."""
    if isinstance(optimizer, torch.optim.LBFGS):
        raise ValueError(
            "LBFGS remembers directions over all weights together, and active weights that are stored alone move. "
            "Use Static() or another optimizer, or keep the model masked."
        )
    if isinstance(model, nn.parallel.DistributedDataParallel):
        raise ValueError(
            "under DistributedDataParallel masks move on masked weights only: gradients that are reduced over all "
            "ranks decide what grows, and sparse layers have those of active weights. Keep the model masked, or use "
            "Static()."
        )
