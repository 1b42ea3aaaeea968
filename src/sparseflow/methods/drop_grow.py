"""Drop and grow: the exchange of connections, and the methods that keep each layer's active count by it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Protocol, TypedDict

import torch
from torch import Tensor

from sparseflow._checks import check_choice, check_fraction, check_like, check_mask, check_steps
from sparseflow._fast import count_true
from sparseflow.boundary import checked
from sparseflow.masks.blocks import SINGLE, BlockLike, block_of, checked_block
from sparseflow.masks.topk import topk_mask
from sparseflow.methods.base import Layer, Method, Swap
from sparseflow.methods.run import UnfinishedWarning
from sparseflow.methods.scores import ScoreFn
from sparseflow.types import MaskUpdate
from sparseflow.warn import warn


@checked()
def drop_and_grow(
    mask: Tensor, drop_score: Tensor, grow_score: Tensor, num_drop: int, num_grow: int, *, regrow: bool = True
) -> MaskUpdate:
    r"""Drop the ``num_drop`` active weights of lowest score, then grow the ``num_grow`` best of the others.

    The definition of an exchange: its fast form, and the one for stored weights, give the same masks. Ties: the
    lower flat index is kept, and grown, first.

    Args:
        mask: bool, any shape; active before.
        drop_score: Score of each active weight; the lowest go.
        grow_score: Score of each candidate; the highest come.
        num_drop: At most the active count.
        num_grow: At most the number of candidates.
        regrow: Whether just-dropped weights compete for growth on equal terms (the paper's code: yes).

    Returns: the new mask with exactly ``mask.sum() - num_drop + num_grow`` active weights, and what changed. A weight
    that is dropped and grown in the same update counts as neither.

    Raises:
        ValueError: if a count is out of range or a score that matters is NaN or infinite.

    Reference: protocol C.1.

    >>> mask = torch.tensor([True, True, True, False, False])
    >>> w, g = torch.tensor([3.0, 1.0, 2.0, 0.0, 0.0]), torch.tensor([0.0, 0.2, 0.0, 0.1, 0.9])
    >>> drop_and_grow(mask, w, g, 1, 1)
    MaskUpdate(mask=tensor([ True, False,  True, False,  True]),
               grown=tensor([False, False, False, False,  True]),
               dropped=tensor([False,  True, False, False, False]))
    """
    check_mask(mask)
    check_like(drop_score, mask, name="drop_score")
    check_like(grow_score, mask, name="grow_score")
    active = count_true(mask)
    if not 0 <= num_drop <= active:
        raise ValueError(f"num_drop must be in [0, {active}], the active count, got {num_drop}.")
    kept = topk_mask(drop_score, active - num_drop, among=mask)
    candidates = ~(kept if regrow else mask)
    return changed(mask, kept | topk_mask(grow_score, num_grow, among=candidates))


def changed(before: Tensor, after: Tensor) -> MaskUpdate:
    """The update that made one bool mask of another.

    >>> changed(torch.tensor([True, False]), torch.tensor([False, True])).grown
    tensor([False,  True])
    """
    stays = after & before
    return MaskUpdate(mask=after, grown=after ^ stays, dropped=before ^ stays)


# --- how many: the drop fraction over a run ---------------------------------------------------------------------------


class DropSchedule(Protocol):
    """Factor on the drop fraction, in [0, 1]."""

    def __call__(self, step: int, *, until: int | None, learning_rate_ratio: float) -> float:
        """Factor once ``step`` optimizer steps are done.

        Args:
            step: Optimizer steps done.
            until: Last step of an update; ``None`` where updates never stop.
            learning_rate_ratio: Learning rate of the weight's group over the largest that it has had or announced.
        """
        ...


def constant(step: int, *, until: int | None, learning_rate_ratio: float) -> float:
    """The same share at every update: 1. Arguments as :class:`DropSchedule`.

    >>> constant(100, until=None, learning_rate_ratio=0.5)
    1.0
    """
    return 1.0


def cosine(step: int, *, until: int | None, learning_rate_ratio: float) -> float:
    r"""From 1 at step 0 to 0 at the last update. Arguments as :class:`DropSchedule`.

    .. math:: f(t) = \frac{1}{2}\left(1 + \cos \frac{\pi \min(t, t_{end})}{t_{end}}\right)

    Raises:
        ValueError: without ``until``.

    Reference: Dettmers and Zettlemoyer (2019); Evci et al. (2020), RigL.

    >>> [cosine(t, until=100, learning_rate_ratio=1.0) for t in (0, 50, 100, 200)]
    [1.0, 0.5, 0.0, 0.0]
    """
    if until is None:
        raise ValueError("the cosine schedule needs its end: give update_until=, in optimizer steps.")
    return (1 + math.cos(math.pi * min(step, until) / until)) / 2


def learning_rate(step: int, *, until: int | None, learning_rate_ratio: float) -> float:
    r"""Proportional to the learning rate of the weight's own group: :math:`f(t) = \eta(t) / \eta_{max}`, at most 1.

    :math:`\eta_{max}` is the largest rate that the group has had so far or has announced (``initial_lr``, which every
    scheduler of torch writes, and ``max_lr`` of ``OneCycleLR``), whatever was made first: a warm-up swaps few weights
    at first, and a rate that falls to zero ends the exchange. A rate that starts at 0 and announces nothing counts as
    1. The paper's MNIST default, whose rate falls from the first step. Arguments as :class:`DropSchedule`.

    Reference: protocol C.3.

    >>> learning_rate(100, until=None, learning_rate_ratio=0.25)
    0.25
    """
    return min(1.0, learning_rate_ratio)


def stages(step: int, *, until: int | None, learning_rate_ratio: float) -> float:
    r"""The elastic mutation of MEST: 1, from three quarters of the way to the last update 1/2, and 0 from there on.

    With ``total_steps`` that is at 9/16 and 3/4 of the run, as in the authors' scripts (epochs 90 and 120 of 160).
    Arguments and errors as :func:`cosine`.

    Reference: Yuan et al. (2021), MEST.

    >>> [stages(t, until=120, learning_rate_ratio=1.0) for t in (0, 89, 90, 119, 120)]
    [1.0, 1.0, 0.5, 0.5, 0.0]
    """
    if until is None:
        raise ValueError("the schedule in stages needs its end: give update_until=, in optimizer steps.")
    return 1.0 if 4 * step < 3 * until else 0.5 if step < until else 0.0


#: Name -> schedule of the drop fraction.
DROP_SCHEDULES: dict[str, DropSchedule] = {
    "constant": constant,
    "cosine": cosine,
    "learning_rate": learning_rate,
    "stages": stages,
}
#: Those that are laid out between the start and the last update.
_ENDING = ("cosine", cosine, "stages", stages)


# --- the methods ------------------------------------------------------------------------------------------------------


class Options(TypedDict, total=False):
    """The arguments that all methods of this kind share; defaults as :class:`DropGrow`."""

    drop_fraction: float
    update_every: int
    update_until: int | None
    total_steps: int | None
    first_update: int | None
    schedule: str | Callable[..., float]
    regrow: bool
    block: BlockLike


@dataclass(frozen=True, kw_only=True)
class UpdateSchedule(Method):
    """When masks change, and how many weights are exchanged: what all methods that exchange some have in common.

    Args:
        drop_fraction: Share of a layer's active weights swapped at an update, at step 0 (Evci et al., 2020: 0.3).
        update_every: Optimizer steps between updates (100 in the authors' configs).
        update_until: Last step at which masks may change; ``None`` never stops, unless ``total_steps`` is given.
        total_steps: Optimizer steps of the whole run: masks then change in the first 75 % of them (Evci et al., 2020),
            and what grew last is trained. Instead of ``update_until``.
        first_update: First step of an update; ``None`` means ``update_every`` (protocol C.3; TF1's RigL: 0).
        schedule: Key of ``DROP_SCHEDULES`` or a function: how the drop fraction falls.
        replaces_step: Whether the optimizer step is skipped when masks change (TF1's RigL).

    Raises:
        TypeError, ValueError: if a fraction is outside [0, 1], an update would come too early or never, the schedule is
            unknown, or it has no end.

    Warns: :class:`~sparseflow.methods.run.UnfinishedWarning` when the Sparsifier is made, if no layer has weights
        enough for one swap.
    """

    drop_fraction: float = 0.3
    update_every: int = 100
    update_until: int | None = None
    total_steps: int | None = None
    first_update: int | None = None
    schedule: str | Callable[..., float] = "learning_rate"
    replaces_step: bool = False

    def __post_init__(self) -> None:
        check_fraction(self.drop_fraction, name="drop_fraction")
        check_steps(self.update_every, name="update_every", least=1)
        earliest = 0 if self.replaces_step else 1
        for name, least in {"first_update": 0, "update_until": earliest, "total_steps": 1}.items():
            if (value := getattr(self, name)) is not None:
                check_steps(value, name=name, least=least)
        if self.first_update is not None and self.first_update < earliest:
            raise ValueError(
                f"first_update must be at least {earliest}, got {self.first_update}: masks change after an optimizer "
                "step, and before the first one only where the update replaces it (replaces_step=True)."
            )
        if self.total_steps is not None and self.update_until is not None:
            raise ValueError(
                "total_steps= stops updates after 75 % of the run and update_until= at a step: give one of them."
            )
        if isinstance(self.schedule, str):
            check_choice(self.schedule, DROP_SCHEDULES, name="schedule")
        elif not callable(self.schedule):
            raise TypeError(
                f"schedule must be one of {', '.join(DROP_SCHEDULES)} or a function, got {self.schedule!r}."
            )
        if self.schedule in _ENDING and not self.until:
            name = self.schedule if isinstance(self.schedule, str) else getattr(self.schedule, "__name__", "")
            raise ValueError(
                f"schedule={name!r} needs its end: give total_steps= or update_until=, in optimizer steps."
            )
        if self.until is not None and self.first > self.until:
            warn(
                f"masks never change: the first update is at step {self.first}, the last may be at {self.until}. Lower "
                "update_every= or first_update=, or write Static() to keep the masks.",
                UnfinishedWarning,
            )

    @property
    def first(self) -> int:
        """Step of the first update."""
        return self.update_every if self.first_update is None else self.first_update

    @property
    def until(self) -> int | None:
        """Last step at which masks may change; ``None`` never stops.

        >>> from sparseflow.methods import RigL
        >>> RigL(total_steps=600).until
        450
        """
        return self.total_steps * 3 // 4 if self.total_steps is not None else self.update_until

    def due(self, step: int) -> bool:
        """Whether masks change once ``step`` optimizer steps are done."""
        return periodic(step, every=self.update_every, first=self.first, until=self.until)

    def check_start(self, shapes: Mapping[str, tuple[int, ...]], active: Mapping[str, int]) -> None:
        """Warn if no update can change anything; see :func:`sparseflow.methods.run.check_start`."""
        sparse = {name: count for name, count in active.items() if 0 < count < math.prod(shapes[name])}
        sizes = {name: math.prod(block_of(getattr(self, "block", SINGLE), name)) for name in sparse}
        drops = (int(round(n * self.drop_fraction, 6)) // sizes[name] for name, n in sparse.items())
        if self.drop_fraction and sparse and not any(drops):
            one = "one" if max(sizes.values()) == 1 else "one block"
            warn(
                f"masks will never change: drop_fraction={self.drop_fraction} of the {max(sparse.values())} active "
                f"weights of the largest layer is less than {one}. Raise drop_fraction=, or write Static() to keep the "
                "masks.",
                UnfinishedWarning,
            )

    def unfinished(self, step: int, shapes: Mapping[str, tuple[int, ...]], active: Mapping[str, int]) -> str:
        """Whether no update came yet; see :func:`sparseflow.methods.run.unfinished`."""
        if step >= self.first:
            return ""
        return f"no mask has changed yet: the first update is at step {self.first}. Lower update_every= for short runs."

    def num_drop(self, active: int, *, step: int, learning_rate_ratio: float) -> int:
        r"""Number of weights to swap in a layer: :math:`\lfloor p(t)\, n \rfloor` (protocol C.1 truncates).

        ``active`` is :math:`n`, the layer's active weights; the others as :class:`DropSchedule`.
        """
        schedule = DROP_SCHEDULES[self.schedule] if isinstance(self.schedule, str) else self.schedule
        factor = schedule(step, until=self.until, learning_rate_ratio=learning_rate_ratio)
        return int(round(active * self.drop_fraction * factor, 6))


@dataclass(frozen=True, kw_only=True)
class DropGrow(UpdateSchedule):
    """Dynamic sparse training with a constant active count per layer: every method of this kind is one of these.

    Args:
        drop_score: The lowest active scores go.
        grow_score: The highest scores among the others come.
        regrow: Whether just-dropped weights may come back at once.
        block: Blocks that move as a whole, as :func:`sparseflow.random_masks` made them: their weights' scores are
            summed. Default: single weights.
        needs_gradient: Whether scores look at the dense gradient.
        gradient_decay: Decay of a running mean of the gradient, see :func:`sparseflow.SNFS`.
        reads_active_gradient: Whether the drop score looks at the gradient of active weights, without the dense one.
        soft: Whether growth comes before its drop: see :func:`sparseflow.MEST`.
        others: As :class:`UpdateSchedule`.

    Raises:
        TypeError, ValueError: as :class:`UpdateSchedule`; if the decay is none of a gradient that is looked at, or a
            soft bound has no end.
    """

    drop_score: ScoreFn
    grow_score: ScoreFn
    regrow: bool = True
    block: BlockLike = SINGLE
    needs_gradient: bool = False
    gradient_decay: float = 0.0
    reads_active_gradient: bool = False
    soft: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        checked_block(self.block)
        check_fraction(self.gradient_decay, name="gradient_decay")
        if self.gradient_decay == 1 or (self.gradient_decay and not self.needs_gradient):
            raise ValueError(
                f"gradient_decay={self.gradient_decay} would never look at a gradient: at 1 the running mean stays 0, "
                "and without needs_gradient=True no score sees it. Write, for instance, gradient_decay=0.9."
            )
        if self.soft and not self.until:
            raise ValueError(
                "a soft bound holds more weights than the masks until the last update: give total_steps= or "
                "update_until=, in optimizer steps."
            )

    def due(self, step: int) -> bool:
        """Whether masks change once ``step`` optimizer steps are done; a soft bound is given up at its last step."""
        return super().due(step) or (self.soft and step == self.until and step >= self.first)

    def unfinished(self, step: int, shapes: Mapping[str, tuple[int, ...]], active: Mapping[str, int]) -> str:
        """Whether no update came yet, or no last one; see :func:`sparseflow.methods.run.unfinished`."""
        if not self.soft or self.until is None or not self.first <= step < self.until:
            return super().unfinished(step, shapes, active)
        return (
            f"layers hold more weights than their masks began with until step {self.until}. Train until then, or "
            "give a total_steps= that fits the run."
        )

    def update(self, layers: Iterable[Layer], *, step: int, generator: torch.Generator) -> Iterator[tuple[str, Swap]]:
        """Ask for the same number of connections to leave and to enter each layer; see :meth:`Method.update`.

        Warns: :class:`~sparseflow.methods.run.UnfinishedWarning` if the first update exchanges nothing.
        """
        counts: list[int] = []
        # A loop here would hold one layer while the next is made.
        yield from map(partial(self._ask, step=step, counts=counts), layers)
        if step == self.first and self.drop_fraction and counts and not any(counts):
            warn(
                f"the first update, at step {step}, exchanges nothing: the schedule of the drop fraction is too low "
                "there. With schedule='learning_rate' it is the learning rate over the largest that it has had or that "
                "its scheduler announced, which may be a mere factor; write schedule='cosine' and total_steps=.",
                UnfinishedWarning,
            )

    def _ask(self, layer: Layer, *, step: int, counts: list[int]) -> tuple[str, Swap]:
        size, active = math.prod(layer.shape), layer.num_active
        share_of = layer.budget if self.soft else active
        count = self.num_drop(share_of, step=step, learning_rate_ratio=layer.learning_rate_ratio)
        if layer.grid is not None:
            count -= count % layer.grid.size
        counts.append(count)
        if not self.soft:
            count = count if self.regrow else min(count, size - active)
            return layer.name, Swap(count, count, self.drop_score, self.grow_score, self.regrow)
        surplus = max(0, active - layer.budget)
        more = 0 if step == self.until else min(count, size - (active - surplus if self.regrow else active))
        return layer.name, Swap(surplus, more, self.drop_score, self.grow_score, self.regrow)


def periodic(step: int, *, every: int, first: int, until: int | None, at_end: bool = False) -> bool:
    """Whether ``step`` is one of first, first + every, ..., up to and including ``until``.

    ``until`` may be ``None``: it never stops. With ``at_end`` it is one in any case, whatever the period.

    >>> [t for t in range(12) if periodic(t, every=3, first=3, until=9)]
    [3, 6, 9]
    >>> [t for t in range(12) if periodic(t, every=3, first=3, until=10, at_end=True)]
    [3, 6, 9, 10]
    """
    is_in_time = step >= first and (until is None or step <= until)
    return (at_end and step == until) or (is_in_time and (step - first) % every == 0)
