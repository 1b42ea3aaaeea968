"""What an optimizer's state means for one weight, found by trying the optimizer out.

An inactive weight has no gradient and is zero. State that then stays what it is for a new weight, whatever the other
weights do, belongs to that weight: it is made fresh when the weight becomes inactive, so that a weight that grows again
starts as a new one. Everything else (preconditioners, moments in a rotated basis, factors, counts) is left to the
optimizer, as if gradients and weights were masked by hand.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Hashable, Iterable, Mapping
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from sparseflow.sharded import is_sharded, local
from sparseflow.sparsifier.kinds import is_elementwise
from sparseflow.sparsifier.tensors import Kept, Path, chain, entries, layouts, tensors_in
from sparseflow.sparsifier.throwaway import STEPS_OF_WRAPPERS, CannotTryError, Trial, undisturbed

#: Steps of a trial: at the first some optimizers only make their preconditioner, at the second they begin to use it.
_STEPS = 5

#: Codes of inactive weights spread over less than this part of the range that those of active ones take.
_CODES = 16
#: A code means next to nothing if it stands for less than this part of the largest value in its table.
_NEXT_TO_NOTHING = 1e-3


class Findings(NamedTuple):
    """Outcome of a trial."""

    per_weight: Mapping[Path, Kept]
    left_alone: list[Path]
    """Other tensors with at least as many entries as the weight."""
    error: str | None = None
    """Why there was no trial; then nothing is known to be per weight."""
    eval_is_dense: bool = False
    """Whether ``optimizer.eval()`` puts other weights in place, which are not zero where gradients were."""


_found: WeakKeyDictionary[Any, dict[Any, Findings]] = WeakKeyDictionary()


def findings(optimizer: Any, parameter: Tensor, switches: Hashable = ()) -> Findings:
    """What a trial of the optimizer on a stand-in for the parameter shows; each kind of parameter is tried once.

    Args:
        switches: What else decides which state there is, see :func:`sparseflow.sparsifier.optimizers.switches_of`;
            where it changes, the optimizer is tried again.
    """
    weight = local(parameter)
    known = _found.setdefault(optimizer, {})
    # Optimizers that treat every entry alike are tried on a few.
    size = () if is_elementwise(optimizer) else (weight.shape, weight.stride())
    key = (*size, weight.dtype, weight.device, switches)
    if key not in known:
        known[key] = _try_out(optimizer, parameter, weight if size else weight.new_empty(8))
    return known[key]


def _state_of(optimizer: Any, parameter: Tensor) -> Iterable[tuple[Path, Tensor]]:
    seen: list[Any] = []
    for number, each in enumerate(chain(optimizer)):
        state = getattr(each, "state", None)
        if state is None or any(state is other for other in seen):
            continue
        seen.append(state)
        own = tensors_in(state[parameter], (number,)) if parameter in state else ()
        named = ((name, held) for name, held in state.items() if isinstance(name, str) and isinstance(held, Mapping))
        others = (tensors_in(held[parameter], (number, name)) for name, held in named if parameter in held)
        for path, tensor in itertools.chain(own, *others):
            if tensor.dim() == parameter.dim() + 1 and tensor.shape[1:] == parameter.shape and not is_sharded(tensor):
                yield from (((*path, place), part) for place, part in enumerate(tensor))  # stacked moments
            else:
                yield path, tensor


def _holds(optimizer: Any, parameter: Tensor) -> bool:
    return any(held is parameter for group in optimizer.param_groups for held in group["params"])


def _try_out(optimizer: Any, parameter: Tensor, like: Tensor) -> Findings:
    if isinstance(optimizer, torch.optim.LBFGS):
        return Findings({}, [])  # its vectors run over all weights together
    with undisturbed(like.device), torch.no_grad():
        try:
            return _watch(optimizer, parameter, like)
        except CannotTryError as error:
            holders = [(n, each) for n, each in enumerate(chain(optimizer)) if n and _holds(each, parameter)]
            if not holders:
                return Findings({}, [], str(error))
    # A wrapper that cannot be made a second time, such as ZeroRedundancyOptimizer: look at what it holds.
    number, inner = holders[0]
    found = _try_out(inner, parameter, like)
    per_weight = {(path[0] + number, *path[1:]): kept for path, kept in found.per_weight.items()}
    return Findings(per_weight, [(path[0] + number, *path[1:]) for path in found.left_alone], found.error)


def _watch(optimizer: Any, parameter: Tensor, like: Tensor) -> Findings:
    generator = torch.Generator().manual_seed(0)

    def normal() -> Tensor:
        return torch.empty_like(like, requires_grad=False).copy_(torch.randn(like.shape, generator=generator))

    mask = torch.randperm(like.numel(), generator=generator) < -(-like.numel() // 2)
    mask = torch.empty_like(like, dtype=torch.bool, requires_grad=False).copy_(mask.view(like.shape))
    trial = Trial(optimizer, parameter, normal() * mask)
    off: dict[tuple[Path, str], list[tuple[float, bool] | None]] = {}
    differs: set[tuple[Path, str]] = set()
    seen: dict[Path, Tensor] = {}
    for _ in range(_STEPS if len(chain(optimizer)) == 1 else STEPS_OF_WRAPPERS):
        trial.step(normal() * mask)
        trial.weight.masked_fill_(~mask, 0)
        for path, tensor in _state_of(trial.optimizer, trial.weight):
            if not tensor.dim():
                continue
            seen[path] = tensor
            for layout in layouts(tensor, trial.weight):
                values = entries(tensor, layout, like.shape)
                common = _common(values[~mask], values[mask])
                off.setdefault((path, layout), []).append(common)
                if common is not None and bool((values[mask].to(values.dtype) != common[0]).any()):
                    differs.add((path, layout))
    per_weight = {}
    for (path, layout), observed in off.items():
        known = [value for value in observed if value is not None]
        if len(known) == len(observed) and (path, layout) in differs:
            fresh = known[0][0] if math.isfinite(known[0][0]) else 0.0
            # Codes of quantised state are never steady: what zero is rounded to depends on the other codes of a block.
            dtype = seen[path].dtype
            steady = dtype.is_floating_point and all(value == (fresh, True) for value in known)
            if dtype == torch.uint8:
                fresh = _code_of_zero(int(fresh), seen.values())
            per_weight[path] = Kept(layout, dtype, fresh, steady)
    left = [path for path, tensor in seen.items() if path not in per_weight and tensor.numel() > 1]
    return Findings(per_weight, left, eval_is_dense=_eval_is_dense(trial, mask))


def _eval_is_dense(trial: Trial, mask: Tensor) -> bool:
    if not callable(put := getattr(trial.optimizer, "eval", None)):
        return False
    put()
    return bool(trial.weight[~mask].any())


def _code_of_zero(code: int, tensors: Iterable[Tensor]) -> int:
    """The code that means 0.0, if the one that was found means next to nothing by a table in the state.

    Kernels may round zero to a code beside it.

    >>> _code_of_zero(3, [torch.tensor([-1.0, -1e-5, 0.0, 1e-5, 1.0])])
    2
    """
    for table in tensors:
        ascends = table.dim() == 1 and table.is_floating_point() and bool((table.diff() > 0).all())
        if ascends and code < len(table) and abs(table[code]) < _NEXT_TO_NOTHING * table.abs().max():
            zeros = (table == 0).nonzero()
            return int(zeros[0]) if len(zeros) else code
    return code


def _common(inactive: Tensor, active: Tensor) -> tuple[float, bool] | None:
    """The value that all inactive entries have, and whether it is exact; ``None`` if they differ.

    Codes of quantised state may be off by a little: kernels round zero to one of several codes.
    """
    if not len(inactive):
        return None
    if inactive.dtype.itemsize == 1 and inactive.dtype.is_floating_point:
        inactive = inactive.float()
    if bool((inactive == inactive[0]).all() | inactive.isnan().all()):
        return float(inactive[0]), bool(inactive[0].isfinite())
    if inactive.dtype.is_floating_point:
        return None
    inactive, active = inactive.long(), active.long()
    if (inactive.max() - inactive.min()) * _CODES > active.max() - active.min():
        return None
    return float(inactive.median()), False
