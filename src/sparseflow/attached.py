"""Which Sparsifier holds a weight now, so that masks of an earlier time are refused wherever they are handed in."""

from __future__ import annotations

import gc
from collections.abc import Mapping
from typing import Protocol
from weakref import WeakValueDictionary, ref

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from sparseflow.sharded import full, num_true, shard_like
from sparseflow.types import Masks


class Holder(Protocol):
    """What holds weights at their masks: a :class:`sparseflow.Sparsifier`."""

    @property
    def masks(self) -> Masks:
        """Parameter name -> mask, now."""
        ...

    @property
    def block(self) -> Mapping[str, tuple[int, int]]:
        """Parameter name -> block, of those whose connections move in blocks."""
        ...

    def name_of(self, parameter: Tensor) -> str | None:
        """The name under which it holds this very tensor; ``None`` if it does not."""
        ...


#: ``id`` of a weight -> what holds it. A holder keeps its weights alive, so the numbers of the living are not reused.
_HOLDERS: WeakValueDictionary[int, Holder] = WeakValueDictionary()
#: Mask in a user's hand -> what was made from it and the weight's name there; neither is kept alive.
_MADE_FROM: WeakIdKeyDictionary = WeakIdKeyDictionary()


def hold(holder: Holder, parameters: Mapping[str, Tensor], *, made_from: Masks) -> None:
    """Enter a holder of these weights, and the masks that it was made from, which stay as they are while its own move.

    Raises:
        ValueError: naming a weight that another one holds.
    """
    if any(_other(holder, parameter) for parameter in parameters.values()):
        gc.collect()  # an optimizer that nobody uses any more keeps its Sparsifier in a circle of references
    for name, parameter in parameters.items():
        if _other(holder, parameter):
            raise ValueError(
                f"{name!r} is held by another Sparsifier, with masks of its own: the network would be what both leave. "
                "Call remove() on that one first, or go on with it; where it is lost, make the optimizer anew. "
                "For several optimizers make one Sparsifier(model, [optimizer, ...], ...)."
            )
    for parameter in parameters.values():
        _HOLDERS[id(parameter)] = holder
    for name, mask in made_from.items():
        _MADE_FROM[mask] = ref(holder), name


def release(holder: Holder) -> None:
    """Forget a holder."""
    for key in [key for key, value in _HOLDERS.items() if value is holder]:
        del _HOLDERS[key]
    for mask in [mask for mask, (made, _) in _MADE_FROM.items() if made() is holder]:
        del _MADE_FROM[mask]


def holder_of(parameter: Tensor) -> Holder | None:
    """What holds this very weight, if anything does.

    >>> holder_of(torch.ones(1)) is None
    True
    """
    return _HOLDERS.get(id(parameter))


def is_start_of(holder: Holder, masks: Masks) -> bool:
    """Whether a holder was made from these very masks, so that they are where it began."""
    made = [_MADE_FROM.get(mask) for mask in masks.values()]
    return bool(made) and all(found is not None and found[0]() is holder for found in made)


def check_not_outdated(masks: Masks) -> None:
    """Check that no mask is one that a Sparsifier was made from and has moved since; no model is needed.

    Raises:
        ValueError: naming the first that is.
    """
    for name, mask in masks.items():
        made, held = _MADE_FROM.get(mask, (None, ""))
        holder = None if made is None else made()
        if holder is not None and not torch.equal(full(holder.masks[held]).cpu(), full(mask).cpu()):
            raise ValueError(
                f"the mask of {name!r} is one that a Sparsifier was made from, and that has moved its own since. Pass "
                "the Sparsifier, for its masks of now; for those of the start on purpose, {name: mask.clone() for "
                "name, mask in masks.items()}."
            )


def check_held_masks(masks: Masks, parameters: Mapping[str, Tensor]) -> None:
    """Check that masks of weights that a Sparsifier holds are the ones that it holds now.

    Raises:
        ValueError: naming the first weight whose mask is old.
    """
    for name, mask in masks.items():
        if name in parameters:
            _is_held_mask(name, mask, parameters[name])


def check_current(masks: Masks, parameters: Mapping[str, Tensor]) -> None:
    """Check that masks are those of the present: the ones of the Sparsifier that holds the weights, or fitting them.

    Weights that a Sparsifier holds are zero off its masks, unless something wrote to them. A model that none holds may
    be dense, but not sparse elsewhere than its masks, see :func:`elsewhere`.

    Args:
        masks: Parameter name -> mask, of the weights' shapes.
        parameters: Name -> weight; masks without one are not looked at.

    Raises:
        ValueError: naming the first weight whose mask is old.

    >>> weight = torch.tensor([1.0, 0.0, 2.0, 0.0])
    >>> check_current({"w": torch.tensor([True, True, False, False])}, {"w": weight})
    Traceback (most recent call last):
    ValueError: the mask of 'w' is not where the weight is: ...
    """
    for name, mask in masks.items():
        if (parameter := parameters.get(name)) is None or "meta" in (mask.device.type, parameter.device.type):
            continue
        if _is_held_mask(name, mask, parameter):
            inactive = ~shard_like(mask.to(parameter.device), parameter)
            if count := num_true((parameter.detach() != 0) & inactive):
                raise ValueError(
                    f"{name!r} is not zero off its mask: something wrote to {count} inactive weights since the last "
                    "step of its Sparsifier, as loading a checkpoint or an average does. Load the Sparsifier's state "
                    "that was saved with it, or cut it on purpose with "
                    "sparseflow.apply_masks_(model, sparsifier.masks)."
                )
        elif elsewhere(parameter, mask):
            raise ValueError(
                f"the mask of {name!r} is not where the weight is: it cuts weights that are not zero and keeps some "
                "that are. Masks move at updates; pass sparsifier.masks. To cut the weight there on purpose call "
                "sparseflow.apply_masks_(model, masks) first."
            )


def _is_held_mask(name: str, mask: Tensor, parameter: Tensor) -> bool:
    """Whether a Sparsifier holds the weight, with this very mask; one with another raises."""
    holder = holder_of(parameter)
    held = None if holder is None else holder.name_of(parameter)
    if holder is None or held is None:
        return False
    now = holder.masks[held]
    if now is not mask and not torch.equal(full(now).cpu(), full(mask).cpu()):
        raise ValueError(
            f"the mask of {name!r} is not the one that its Sparsifier holds now: masks move at updates, and the masks "
            "it was made from stay as they were. Pass sparsifier.masks."
        )
    return True


def elsewhere(parameter: Tensor, mask: Tensor) -> bool:
    """Whether a weight is sparse, but not where the mask says: of another moment, or of another network.

    It is when weights off the mask are not zero, weights on it are, and no more than 1.5 times as many are nonzero as
    the mask keeps, nor more than half of those that it drops besides. Random or loaded dense weights are not: nearly
    all of theirs are nonzero, but for a few such as an embedding's row of padding.

    >>> mask = torch.tensor([True, True, False, False])
    >>> [elsewhere(torch.tensor(w), mask) for w in ([1.0, 0.0, 2.0, 0.0], [1.0, 1.0, 1.0, 1.0], [1.0, 0.0, 0.0, 0.0])]
    [True, False, False]
    """
    nonzero = parameter.detach() != 0
    mask = shard_like(mask.to(parameter.device), parameter)
    active, total, both = (int(full(part.sum())) for part in (mask, nonzero, nonzero & mask))
    return both < min(total, active) and total <= min(1.5 * active, (active + parameter.numel()) / 2)


def _other(holder: Holder, parameter: Tensor) -> bool:
    found = holder_of(parameter)
    return found is not None and found is not holder and found.name_of(parameter) is not None
