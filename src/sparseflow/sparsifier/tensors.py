"""Tensors inside an optimizer's state, wherever they are, and how one of them holds a value for each weight."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from sparseflow._fast import zero_inactive_
from sparseflow.sharded import is_sharded, local, num_true

#: Where a tensor is: keys of dicts, places in lists, names of attributes.
Path = tuple[Any, ...]

#: Which of two weights that share a byte has its upper four bits, for two ways of packing; whole entries otherwise.
WHOLE, UPPER_FIRST, LOWER_FIRST = "whole", "upper first", "lower first"

_DEEPEST = 8
#: Entries of a tensor that are looked at after each step.
_SAMPLE = 4096


def tensors_in(value: Any, path: Path = ()) -> Iterator[tuple[Path, Tensor]]:
    """Every tensor inside dicts, lists, tuples, objects and tensors that consist of others, with its path.

    Tensors that consist of others, such as quantised ones, show their parts: codes, scales, tables.

    >>> [path for path, _ in tensors_in({"step": 1, "moments": [torch.ones(1), {"square": torch.ones(1)}]})]
    [('moments', 0), ('moments', 1, 'square')]
    """
    if isinstance(value, nn.Parameter) or len(path) > _DEEPEST:
        return
    if isinstance(value, Tensor):
        parts = [] if is_sharded(value) else _parts(value)
        for name in parts:
            yield from tensors_in(getattr(value, name), (*path, name))
        if not parts:
            yield path, value
    elif isinstance(value, Mapping):
        for key, each in value.items():
            yield from tensors_in(each, (*path, key))
    elif isinstance(value, (list, tuple)):
        for place, each in enumerate(value):
            yield from tensors_in(each, (*path, place))
    elif not isinstance(value, (type, nn.Module, torch.optim.Optimizer, str)) and not callable(value):
        for name in [*getattr(type(value), "__slots__", ()), *getattr(value, "__dict__", ())]:
            yield from tensors_in(getattr(value, name, None), (*path, name))


def _parts(tensor: Tensor) -> list[str]:
    flatten = getattr(tensor, "__tensor_flatten__", None) if type(tensor) is not Tensor else None
    return [] if flatten is None else list(flatten()[0])


def inner_optimizers(optimizer: Any) -> list[torch.optim.Optimizer]:
    """The optimizers that an object holds directly.

    >>> inner_optimizers(torch.optim.SGD([nn.Parameter(torch.ones(1))]))
    []
    """
    found: list[torch.optim.Optimizer] = []
    for value in vars(optimizer).values():
        for each in value if isinstance(value, (list, tuple)) else [value]:
            if isinstance(each, torch.optim.Optimizer) and not any(each is other for other in found):
                found.append(each)
    return found


def chain(optimizer: Any) -> list[Any]:
    """An optimizer and those it holds, directly and through others, from the outside in.

    >>> optimizer = torch.optim.SGD([nn.Parameter(torch.ones(1))])
    >>> chain(optimizer) == [optimizer]
    True
    """
    found = [optimizer]
    for each in found:  # grows on the way
        found += [inner for inner in inner_optimizers(each) if not any(inner is other for other in found)]
    return found


class Kept(NamedTuple):
    """A place in the state where a trial found one value for each weight; fields as :class:`WeightState`."""

    layout: str
    dtype: torch.dtype
    fresh: float
    steady: bool


class WeightState(NamedTuple):
    """A tensor of optimizer state that holds one value for each weight."""

    path: Path
    """Where it is in ``optimizer.state[parameter]``, after the number of the optimizer in its chain of wrappers."""
    tensor: Tensor
    """The tensor itself, in any of the shapes that :func:`layouts` knows."""
    layout: str
    """How it holds the values."""
    fresh: float
    """What the optimizer gives a new weight, in the tensor's own units: a code, if it is quantised."""
    steady: bool
    """Whether it stays so while the weight is inactive."""
    zeroed: bool
    """Whether resetting it is what is done to weights and gradients: writing +0.0, in a tensor of their shape."""

    @property
    def key(self) -> str:
        """Name for people."""
        return name_of(self.path)

    @torch.no_grad()
    def reset_(self, mask: Tensor) -> None:
        """Make it fresh off a mask of the weight's shape, a part of the weight where this process holds one.

        >>> state = WeightState((0, "code"), torch.tensor([0x75], dtype=torch.uint8), UPPER_FIRST, 7, True, False)
        >>> state.reset_(torch.tensor([True, False]))
        >>> hex(state.tensor.item())
        '0x77'
        """
        tensor = local(self.tensor).data  # a version is for what others write
        if self.layout == WHOLE:
            held = tensor if tensor.shape == mask.shape else tensor.view(mask.shape)
            if self.fresh == 0:
                zero_inactive_(held, mask)
            else:
                held.masked_fill_(~mask, self.fresh)
            return
        values = entries(tensor, self.layout, mask.shape).masked_fill(~mask, int(self.fresh)).view(-1, 2)
        upper, lower = values.unbind(1) if self.layout == UPPER_FIRST else values.flip(1).unbind(1)
        tensor.copy_(((upper << 4) | lower).view_as(tensor))

    def is_stale(self, mask: Tensor, *, everywhere: bool) -> bool:
        """Whether entries off the mask are not fresh, in all of it or in some thousands; of all processes together."""
        if everywhere or is_sharded(self.tensor):
            return self.num_stale(~mask) > 0
        rows = -(-_SAMPLE // max(1, mask[0].numel()))
        values = entries(self.tensor.detach(), self.layout, mask.shape)[:rows]
        return bool(((values != self.fresh) & ~mask[:rows]).any())

    def num_stale(self, inactive: Tensor) -> int:
        """Number of entries that are not fresh where they should be; ``inactive`` may be in parts on many processes."""
        values = self.tensor.detach()
        if not is_sharded(values):
            values = entries(values, self.layout, inactive.shape)
        return num_true((values != self.fresh) & inactive)  # NaN differs from everything


def name_of(path: Path) -> str:
    """A path for people, without the number of the optimizer.

    >>> name_of((0, "moments", 1, "codes"))
    'moments[1].codes'
    """
    return "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in path[1:]).lstrip(".")


def layouts(tensor: Tensor, weight: Tensor) -> list[str]:
    """Ways in which a tensor may hold one value for each weight, by its size and type alone.

    A bool tensor chooses entries; how many it chooses may be the size of other tensors.

    >>> layouts(torch.ones(6), torch.ones(2, 3)), layouts(torch.ones(3, dtype=torch.uint8), torch.ones(2, 3))
    (['whole'], ['upper first', 'lower first'])
    """
    if tensor.layout != torch.strided or tensor.dtype.is_complex or tensor.dtype == torch.bool:
        return []
    if tensor.shape == weight.shape or (tensor.numel() == weight.numel() and tensor.is_contiguous()):
        return [WHOLE] if tensor.dim() else []
    packed = tensor.dtype == torch.uint8 and 2 * tensor.numel() == weight.numel() and tensor.is_contiguous()
    return [UPPER_FIRST, LOWER_FIRST] if packed else []


def entries(tensor: Tensor, layout: str, shape: torch.Size) -> Tensor:
    """The values of a tensor in the weight's shape; of a packed one, a copy.

    >>> entries(torch.tensor([0x75], dtype=torch.uint8), LOWER_FIRST, torch.Size([2]))
    tensor([5, 7], dtype=torch.uint8)
    """
    if layout == WHOLE:
        return tensor.view(shape) if tensor.shape != shape else tensor
    halves = [tensor >> 4, tensor & 15]
    return torch.stack(halves if layout == UPPER_FIRST else halves[::-1], dim=-1).view(shape)
