"""What an optimizer's state means for one weight, found by trying the optimizer out.

An inactive weight has no gradient and is zero. State that then stays what it is for a new weight, whatever the other
weights do, belongs to that weight: it is made fresh when the weight becomes inactive, so that a weight that grows again
starts as a new one. Everything else (preconditioners, moments in a rotated basis, factors, counts) is left to the
optimizer, as if gradients and weights were masked by hand.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from sparseflow.sharded import is_sharded, local
from sparseflow.sparsifier.kinds import is_elementwise
from sparseflow.sparsifier.tensors import Kept, Path, chain, entries, layouts, name_of, tensors_in
from sparseflow.sparsifier.throwaway import STEPS_OF_WRAPPERS, CannotTryError, Trial, undisturbed

_log = logging.getLogger("sparseflow")

#: Steps of a trial: at the first some optimizers only make their preconditioner, at the second they begin to use it.
_STEPS = 5

#: Codes of inactive weights spread over less than this part of the range that those of active ones take.
_CODES = 16


class Findings(NamedTuple):
    """Outcome of a trial."""

    per_weight: Mapping[Path, Kept]
    left_alone: list[Path]
    """Other tensors with at least as many entries as the weight."""
    error: str | None = None
    """Why there was no trial; then nothing is known to be per weight."""


_found: WeakKeyDictionary[Any, dict[Any, Findings]] = WeakKeyDictionary()


def findings(optimizer: Any, parameter: Tensor) -> Findings:
    """What a trial of the optimizer on a stand-in for the parameter shows; each kind of parameter is tried once."""
    weight = local(parameter)
    known = _found.setdefault(optimizer, {})
    # Optimizers that treat every entry alike are tried on a few.
    size = () if is_elementwise(optimizer) else (weight.shape, weight.stride())
    key = (*size, weight.dtype, weight.device, switches_of(optimizer, parameter))
    if key not in known:
        known[key] = _try_out(optimizer, parameter, weight if size else weight.new_empty(8))
    return known[key]


def describe(optimizer: Any, parameters: Iterable[Tensor]) -> None:
    """Say in one line, for an optimizer that is none of torch's, which of its state is taken for what."""
    per_weight: dict[str, float] = {}
    left: dict[str, None] = {}
    errors: dict[str, None] = {}
    for parameter in parameters:
        found = findings(optimizer, parameter)
        per_weight |= {name_of(path): kept.fresh for path, kept in found.per_weight.items()}
        left |= dict.fromkeys(map(name_of, found.left_alone))
        if found.error is not None:
            errors[found.error] = None
    name = type(optimizer).__name__
    if errors:
        _log.warning(
            "%s could not be tried out (%s). Weights are cleared after each of its steps; its state is left as it is, "
            "so that a weight that grows again may start with the momentum it had.", name, "; ".join(errors)
        )  # fmt: skip
    elif not type(optimizer).__module__.startswith("torch."):
        fresh = ", ".join(f"{key} ({value:g})" for key, value in per_weight.items()) or "nothing"
        _log.warning(
            "%s: state per weight, and its value for a new weight: %s. Left to the optimizer: %s. Weights are cleared "
            "after each step.", name, fresh, ", ".join(left) or "nothing"
        )  # fmt: skip


def _state_of(optimizer: Any, parameter: Tensor) -> Iterable[tuple[Path, Tensor]]:
    seen: list[Any] = []
    for number, each in enumerate(chain(optimizer)):
        state = getattr(each, "state", None)
        if state is None or any(state is other for other in seen):
            continue
        seen.append(state)
        for path, tensor in tensors_in(state[parameter], (number,)) if parameter in state else ():
            if tensor.dim() == parameter.dim() + 1 and tensor.shape[1:] == parameter.shape and not is_sharded(tensor):
                yield from (((*path, place), part) for place, part in enumerate(tensor))  # stacked moments
            else:
                yield path, tensor


def _try_out(optimizer: Any, parameter: Tensor, like: Tensor) -> Findings:
    if isinstance(optimizer, torch.optim.LBFGS):
        return Findings({}, [])  # its vectors run over all weights together
    with undisturbed(like.device), torch.no_grad():
        try:
            return _watch(optimizer, parameter, like)
        except CannotTryError as error:
            holders = [(n, each) for n, each in enumerate(chain(optimizer)) if n and group_number(each, parameter) >= 0]
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
    for (path, layout), values in off.items():
        known = [value for value in values if value is not None]
        if len(known) == len(values) and (path, layout) in differs:
            fresh = known[0][0] if math.isfinite(known[0][0]) else 0.0
            # Codes of quantised state are never steady: what zero is rounded to depends on the other codes of a block.
            steady = seen[path].is_floating_point() and all(value == (fresh, True) for value in known)
            per_weight[path] = Kept(layout, seen[path].dtype, fresh, steady)
    left = [path for path, tensor in seen.items() if path not in per_weight and tensor.numel() > 1]
    return Findings(per_weight, left)


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
    if inactive.dtype.is_floating_point or inactive.dtype == torch.bool:
        return None
    inactive, active = inactive.long(), active.long()
    if (inactive.max() - inactive.min()) * _CODES > active.max() - active.min():
        return None
    return float(inactive.median()), False
