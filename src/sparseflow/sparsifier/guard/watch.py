"""Notice weights that something else wrote between steps, at no measurable cost."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from sparseflow.sharded import is_sharded, local
from sparseflow.types import Masks

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: Weights of which one entry is looked at before each step: writes through ``.data`` change nothing that torch counts.
_PROBED = 4
#: Bytes of a number -> integers of that size; NumPy has no bfloat16.
_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class _Seen(NamedTuple):
    version: tuple[int, int]
    address: int
    mask: Tensor
    mask_version: int
    memory: NDArray[Any] | None
    """The weight's memory as integers; ``None`` where reading an entry would wait for an accelerator."""
    mask_memory: NDArray[Any] | None
    """Its mask's memory, in the same order."""


class Watch:
    """The weights as they were after the last step.

    ``Tensor._version`` counts writes by torch's operations (not those of fused optimizers, nor through ``.data``), the
    address shows tensors that took the place of others, and one random entry of a few weights shows the rest sooner
    or later: a dense write through ``.data`` is seen at the next step of a model of up to four masked weights with a
    probability of one minus the product of their densities.

    Args:
        parameters: Parameter name -> weight.

    >>> weight = torch.zeros(2)
    >>> watch = Watch({"w": weight})
    >>> watch.see({"w": torch.tensor([True, False])}), watch.written()
    (None, [])
    >>> weight.fill_(1.0), watch.written()
    (tensor([1., 1.]), ['w'])
    """

    def __init__(self, parameters: Mapping[str, Tensor]) -> None:
        self._parameters = {name: (parameter, is_sharded(parameter)) for name, parameter in parameters.items()}
        self._seen: dict[str, _Seen] = {}
        self._random = random.Random(0)
        self._next = 0

    def see(self, masks: Masks) -> None:
        """Take note of those weights that have a mask here, as they are now."""
        for name, given in masks.items():
            tensor, seen = self._part(name), self._seen.get(name)
            mask = local(given) if self._parameters[name][1] else given
            version = self._version(name)
            if seen is None or (seen.address, seen.mask.data_ptr()) != (tensor.data_ptr(), mask.data_ptr()):
                self._seen[name] = _look(tensor, version, mask)
            elif (seen.version, seen.mask_version) != (version, mask._version):
                self._seen[name] = seen._replace(version=version, mask_version=mask._version)

    def forget(self, names: Iterable[str]) -> None:
        """Take these for written, so that they are looked at before the next step."""
        for name in names:
            self._seen.pop(name, None)

    def written(self) -> list[str]:
        """Names of the weights that were written since, as far as can be told."""
        found = []
        for name in self._parameters:
            tensor, seen = self._part(name), self._seen.get(name)
            if seen is None or seen.version != self._version(name) or seen.address != tensor.data_ptr():
                found.append(name)
        return found or self._probed()

    def masks_written(self) -> list[str]:
        """Names of the weights whose masks were written since, by operations that torch counts."""
        return [name for name, seen in self._seen.items() if seen.mask_version != seen.mask._version]

    def _part(self, name: str) -> Tensor:
        parameter, sharded = self._parameters[name]
        return local(parameter) if sharded else parameter

    def _version(self, name: str) -> tuple[int, int]:
        """Writes to the weight and to this process's part of it, which torch counts apart."""
        return self._parameters[name][0]._version, self._part(name)._version

    def _probed(self) -> list[str]:
        names = list(self._seen)
        found = []
        for name in (names[(self._next + i) % len(names)] for i in range(min(_PROBED, len(names)))):
            memory, mask = self._seen[name].memory, self._seen[name].mask_memory
            if memory is not None and mask is not None and len(memory):
                place = int(self._random.random() * len(memory))
                if memory[place] and not mask[place]:
                    found.append(name)
        self._next += _PROBED
        return found


def _look(tensor: Tensor, version: tuple[int, int], mask: Tensor) -> _Seen:
    memory = mask_memory = None
    dense = tensor.is_contiguous() or (tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last))
    if tensor.device.type == "cpu" and dense and tensor.stride() == mask.stride() and tensor.itemsize in _INTEGERS:
        integers = tensor.detach().view(_INTEGERS[tensor.itemsize])
        memory = torch.as_strided(integers, (tensor.numel(),), (1,)).numpy()
        mask_memory = torch.as_strided(mask, (mask.numel(),), (1,)).numpy()
    return _Seen(version, tensor.data_ptr(), mask, mask._version, memory, mask_memory)
