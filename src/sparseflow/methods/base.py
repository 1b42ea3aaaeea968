"""Where masks change: ``drop_and_grow`` on tensors, and the interface that every method has."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from sparseflow._checks import check_choice, check_finite, check_fraction
from sparseflow._fast.bits import PackedMask, pack
from sparseflow._fast.memory import count_true, in_memory_order, is_compiled, spread, words
from sparseflow.masks.topk import topk_mask
from sparseflow.methods.active import ActiveLayer, exchange_active
from sparseflow.methods.schedules import DROP_SCHEDULES
from sparseflow.methods.scores import ScoreFn, gradient_magnitude, magnitude
from sparseflow.types import MaskUpdate


def drop_and_grow(
    mask: Tensor, drop_score: Tensor, grow_score: Tensor, num_drop: int, num_grow: int, *, regrow: bool = True
) -> MaskUpdate:
    r"""Drop the ``num_drop`` active weights of lowest score, then grow the ``num_grow`` best of the others.

    The only place in the library where connections are exchanged. Ties: the lower flat index is kept, and grown, first.

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
    swap = _Swap(mask, drop_score, grow_score, count_true(mask), num_drop, num_grow, regrow)
    return changed(mask, swap.plain() if (new := swap.compiled()) is None else new)


def changed(before: Tensor, after: Tensor) -> MaskUpdate:
    """What an update did that made one mask of another.

    >>> changed(torch.tensor([True, False]), torch.tensor([False, True])).grown
    tensor([False,  True])
    """
    stays = after & before
    return MaskUpdate(mask=after, grown=after ^ stays, dropped=before ^ stays)


class _Swap(NamedTuple):
    """The arguments of :func:`drop_and_grow`; scores are compared by magnitude where asked."""

    mask: Tensor
    drop_score: Tensor
    grow_score: Tensor
    active: int
    num_drop: int
    num_grow: int
    regrow: bool
    drop_magnitude: bool = False
    grow_magnitude: bool = False

    def compiled(self) -> Tensor | None:
        """The new mask, of a large layer whose arguments are in order."""
        given = self.mask, self.drop_score, self.grow_score
        # Ties go by the logical order: where some matter, another order of memory is read in a copy.
        if not self.mask.is_contiguous():
            new = torch.empty_like(self.mask)
            if self._exchange(*in_memory_order(new, *given), ordered=False):
                return new
        new = torch.empty_like(self.mask, memory_format=torch.contiguous_format)
        made = self.mask.is_cpu and self._exchange(new, *(tensor.contiguous() for tensor in given))
        return new if made else None

    def _exchange(
        self, new: Tensor, mask: Tensor, drop_score: Tensor, grow_score: Tensor, *, ordered: bool = True
    ) -> bool:
        active, num_drop, num_grow, regrow = self.active, self.num_drop, self.num_grow, self.regrow
        free = mask.numel() - active + (num_drop if regrow else 0)
        if not (0 <= num_drop <= active and 0 <= num_grow <= free and is_compiled(mask, drop_score, grow_score)):
            return False
        from sparseflow._fast.choose import exchange

        how = active, num_drop, num_grow, regrow, self.drop_magnitude, self.grow_magnitude
        return bool(exchange(words(mask), words(drop_score), words(grow_score), *how, words(new), ordered))

    def plain(self) -> Tensor:
        """The new mask, of any layer, or the error."""
        if not 0 <= self.num_drop <= self.active:
            raise ValueError(f"num_drop must be in [0, {self.active}], the active count, got {self.num_drop}.")
        kept = topk_mask(self.drop_score, self.active - self.num_drop, among=self.mask, magnitude=self.drop_magnitude)
        candidates = ~(kept if self.regrow else self.mask)
        return topk_mask(self.grow_score, self.num_grow, among=candidates, magnitude=self.grow_magnitude) | kept


def _swapped(layer: LayerState, swap: _Swap) -> tuple[PackedMask | _Swap, bool]:
    """The new mask of a large layer in bits, or what is left to do; and whether every gradient was looked at.

    Neither scores nor masks of layers that are done stay in memory while others are worked on.
    """
    new = swap.compiled()
    return (swap, False) if new is None else (pack(new), swap.grow_score is layer.gradient)


class LayerState(NamedTuple):
    """What an updater may look at; it changes nothing of it."""

    name: str
    weight: Tensor
    """Zero where inactive."""
    mask: Tensor
    gradient: Tensor | None
    """Dense gradient, if the updater asked for it."""
    learning_rate_ratio: float
    """Learning rate of this weight's group over its initial one."""
    counted: int | None = None
    """Number of active weights, where somebody knows it."""

    @property
    def num_active(self) -> int:
        """Number of active weights."""
        return count_true(self.mask) if self.counted is None else self.counted


class MaskUpdater(Protocol):
    """A method: when masks change, what it needs to know, and what becomes of them."""

    @property
    def needs_gradient(self) -> bool:
        """Whether an update looks at the dense gradient."""
        ...

    @property
    def gradient_decay(self) -> float:
        """Decay of the running mean of the dense gradient; 0 uses the current gradient alone."""
        ...

    @property
    def replaces_step(self) -> bool:
        """Whether an update takes the place of the optimizer step instead of following it."""
        ...

    def due(self, step: int) -> bool:
        """Whether masks change once ``step`` optimizer steps are done."""
        ...

    def update(
        self, layers: Iterable[LayerState], *, step: int, generator: torch.Generator
    ) -> Iterator[tuple[str, Tensor | PackedMask]]:
        """Yield each layer's new mask, bool or in bits, in turn, so that few layers' scores are in memory at a time.

        Raises:
            ValueError: if a gradient that it looks at is NaN or infinite; no mask is written then.
        """
        ...


@runtime_checkable
class ActiveUpdater(Protocol):
    """A method that can move stored active weights without a dense copy of the layer; others are shown one."""

    def update_active(
        self, layers: Iterable[ActiveLayer], *, step: int, generator: torch.Generator
    ) -> Iterator[tuple[str, Tensor]]:
        """Yield each layer's new positions, int64, ascending; draws and ties as :meth:`MaskUpdater.update`."""
        ...


def as_dense(layer: ActiveLayer) -> LayerState:
    """A layer that stores active weights only, as the updaters that look at all weights see it."""
    size = math.prod(layer.shape)
    weight = torch.zeros(size, dtype=layer.values.dtype).index_copy_(0, layer.positions, layer.values)
    mask = torch.zeros(size, dtype=torch.bool).index_fill_(0, layer.positions, True)
    gradient = None if layer.gradient_rows is None else layer.gradient_rows(0, layer.shape[0])
    return LayerState(layer.name, weight.view(layer.shape), mask.view(layer.shape), gradient, layer.learning_rate_ratio)


def periodic(step: int, *, every: int, first: int, until: int | None) -> bool:
    """Whether ``step`` is one of first, first + every, ..., up to and including ``until``.

    >>> [t for t in range(12) if periodic(t, every=3, first=3, until=9)]
    [3, 6, 9]
    """
    return step >= first and (step - first) % every == 0 and (until is None or step <= until)


@dataclass(frozen=True, kw_only=True)
class DropGrow:
    """Dynamic sparse training with a constant active count per layer: every method of this kind is one of these.

    Args:
        drop_score: The lowest active scores go.
        grow_score: The highest scores among the others come.
        drop_fraction: Share of a layer's active weights swapped per update, before the schedule.
        update_every: Optimizer steps between updates.
        update_until: Last step at which masks may change; ``None`` never stops.
        first_update: First step of an update; ``None`` means ``update_every`` (protocol C.3; TF1's RigL: 0).
        schedule: Key of ``DROP_SCHEDULES`` or a function: how the drop fraction falls.
        regrow: Whether just-dropped weights may come back at once.
        replaces_step: Whether the optimizer step is skipped when masks change (TF1's RigL).
        needs_gradient: Whether scores look at the dense gradient.
        gradient_decay: Decay of a running mean of the gradient, see :func:`sparseflow.SNFS`.
    """

    drop_score: ScoreFn
    grow_score: ScoreFn
    drop_fraction: float
    update_every: int
    update_until: int | None = None
    first_update: int | None = None
    schedule: str | Callable[..., float] = "learning_rate"
    regrow: bool = True
    replaces_step: bool = False
    needs_gradient: bool = False
    gradient_decay: float = 0.0

    def __post_init__(self) -> None:
        check_fraction(self.drop_fraction, name="drop_fraction")
        check_fraction(self.gradient_decay, name="gradient_decay")
        if self.update_every < 1:
            raise ValueError(f"update_every must be at least 1 optimizer step, got {self.update_every}.")
        earliest = 0 if self.replaces_step else 1
        if self.first_update is not None and self.first_update < earliest:
            raise ValueError(
                f"first_update must be at least {earliest}, got {self.first_update}: masks change after an optimizer "
                "step, and before the first one only where the update replaces it (replaces_step=True)."
            )
        if isinstance(self.schedule, str):
            check_choice(self.schedule, DROP_SCHEDULES, name="schedule")
        if self.schedule in ("cosine", DROP_SCHEDULES["cosine"]) and not self.update_until:
            raise ValueError("schedule='cosine' needs its end: give update_until=, in optimizer steps.")

    def due(self, step: int) -> bool:
        """Whether masks change once ``step`` optimizer steps are done."""
        first = self.update_every if self.first_update is None else self.first_update
        return periodic(step, every=self.update_every, first=first, until=self.update_until)

    def num_drop(self, active: int, *, step: int, learning_rate_ratio: float) -> int:
        r"""Weights to swap in a layer: :math:`\lfloor p(t)\, n \rfloor` (protocol C.1 truncates)."""
        schedule = DROP_SCHEDULES[self.schedule] if isinstance(self.schedule, str) else self.schedule
        factor = schedule(step, until=self.update_until, learning_rate_ratio=learning_rate_ratio)
        return int(round(active * self.drop_fraction * factor, 6))

    def update(
        self, layers: Iterable[LayerState], *, step: int, generator: torch.Generator
    ) -> Iterator[tuple[str, Tensor | PackedMask]]:
        """Swap the same number of connections in and out of each layer, large layers on several threads."""
        swaps = ((layer, self._swap(layer, step=step, generator=generator)) for layer in layers)
        for layer, done, looked_at in spread(lambda pair: (pair[0], *_swapped(*pair)), swaps):
            if layer.gradient is not None and not looked_at:
                name = f"the gradient of {layer.name!r} at the mask update of step {step}"
                check_finite(layer.gradient, name=name)
            yield layer.name, done.plain() if isinstance(done, _Swap) else done

    def update_active(
        self, layers: Iterable[ActiveLayer], *, step: int, generator: torch.Generator
    ) -> Iterator[tuple[str, Tensor]]:
        """The same swap in layers that store active weights only; yields their new positions, ascending."""
        for layer in layers:
            active, total = len(layer.positions), math.prod(layer.shape)
            count = self.num_drop(active, step=step, learning_rate_ratio=layer.learning_rate_ratio)
            if not self.regrow:
                count = min(count, total - active)
            scores = {"drop_score": self.drop_score, "grow_score": self.grow_score}
            yield (
                layer.name,
                exchange_active(layer, count, count, **scores, regrow=self.regrow, generator=generator, step=step),
            )

    def _swap(self, layer: LayerState, *, step: int, generator: torch.Generator) -> _Swap:
        active = layer.num_active
        count = self.num_drop(active, step=step, learning_rate_ratio=layer.learning_rate_ratio)
        if not self.regrow:
            count = min(count, layer.mask.numel() - active)
        drop, drop_magnitude = self._scores(self.drop_score, layer, generator=generator)
        grow, grow_magnitude = self._scores(self.grow_score, layer, generator=generator)
        return _Swap(layer.mask, drop, grow, active, count, count, self.regrow, drop_magnitude, grow_magnitude)

    def _scores(self, score: ScoreFn, layer: LayerState, *, generator: torch.Generator) -> tuple[Tensor, bool]:
        """A layer's scores, or what their magnitude is the score of: absolute values need not be written to memory."""
        if score is magnitude:
            return layer.weight, True
        if score is gradient_magnitude and layer.gradient is not None:
            return layer.gradient, True
        return score(layer.weight, layer.gradient, generator=generator), False
