"""A model's masked weights as this process holds them: whole, in parts, or active values alone; all changed here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from sparseflow._checks import check_masks
from sparseflow._fast.bits import PackedMask, packed_like, unpacked
from sparseflow._fast.write import Rewrite, rewrite_, zero_off_
from sparseflow.masks.select import maskable, unwrap
from sparseflow.sharded import Whole, is_sharded, local, num_true
from sparseflow.sparsifier.changes import Changes, kept
from sparseflow.sparsifier.check import check, per_weight_state
from sparseflow.sparsifier.optimizers import check_held
from sparseflow.sparsifier.stored import LiveMasks, active_weights, check_positions, move_
from sparseflow.types import BrokenPromiseError, Masks


class MaskedWeights:
    """Masks beside the weights, gradients and optimizer states that must be zero off them.

    Args:
        model: As :class:`sparseflow.Sparsifier` takes it.
        optimizer: Innermost; holds every masked parameter.
        masks: Parameter name -> bool tensor; copied.

    Raises:
        TypeError, ValueError: if a mask does not fit, or the optimizer does not hold a masked parameter.

    >>> model = nn.Linear(2, 1, bias=False)
    >>> _ = nn.init.ones_(model.weight)
    >>> optimizer = torch.optim.SGD(model.parameters())
    >>> weights = MaskedWeights(model, optimizer, {"weight": torch.tensor([[True, False]])})
    >>> weights.clear_()
    >>> changes = weights.change_([("weight", torch.tensor([[False, True]]))], told=True)
    >>> changes["weight"].grown, weights.counts, model.weight.tolist()
    (tensor([[False,  True]]), {'weight': 1}, [[0.0, 0.0]])
    """

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer, masks: Masks) -> None:
        known = {name: weight.parameter for name, weight in maskable(model).items()}
        stored = active_weights(unwrap(model))
        check_masks(masks, known | {name: torch.empty(w.weight_shape, device="meta") for name, w in stored.items()})
        self.stored = {name: stored[name] for name in masks if name in stored}
        """Weights of which only the active values exist."""
        check_held(optimizer, {name: self.stored[name].values if name in stored else known[name] for name in masks})
        check_positions(self.stored, masks)
        self.parameters = {name: known[name] for name in masks if name not in stored}
        """The others: weights with zeros."""
        self.dense: dict[str, Tensor] = {
            name: torch.empty_like(parameter, dtype=torch.bool, requires_grad=False)
            for name, parameter in self.parameters.items()
        }
        """Their masks, sharded as they are."""
        self.masks: Mapping[str, Tensor] = LiveMasks(masks, self.dense, self.stored) if self.stored else self.dense
        """All masks."""
        self.counts: dict[str, int] = {}
        """Active weights, in all parts together."""
        self.fingerprints: Mapping[str, str] = {}
        """Of sharded masks, as this process computed them whole; where ranks disagree, these differ."""
        self._optimizer = optimizer
        self._parts = {name: local(mask) for name, mask in self.dense.items()}
        self._take_(masks)

    def load_(self, masks: Masks) -> None:
        """Copy masks of the same weights.

        Raises:
            ValueError: if one does not fit, or weights that are stored alone lie elsewhere.
        """
        check_masks({name: mask for name, mask in masks.items() if name not in self.stored}, self.parameters)
        check_positions(self.stored, masks)
        self._take_(masks)

    def check(self, model: nn.Module) -> None:
        """Prove every promise at this moment, see :func:`sparseflow.check`."""
        check(model, self._optimizer, self.dense, active_counts=self.counts)
        for name, weight in self.stored.items():
            if (count := weight.values.numel()) != self.counts[name]:
                raise BrokenPromiseError(f"{name!r} has {count} active weights, it must have {self.counts[name]}.")

    def clear_(self) -> None:
        """Make weights and per-weight optimizer state +0.0 off the masks."""
        with torch.no_grad():
            zero_off_(
                [(tensor, mask) for name, mask in self._parts.items() for tensor in self._weight_and_states(name)]
            )

    def clear_gradients_(self) -> None:
        """Make gradients +0.0 off the masks."""
        zero_off_([(gradient, mask) for name, mask in self._parts.items() for gradient in self._gradient(name)])

    def change_(self, proposed: Iterable[tuple[str, Tensor | PackedMask]], *, told: bool) -> Changes:
        """Replace masks, and clear weights, optimizer states and gradients off all masks.

        Nothing is written before the last proposal is there, so whatever raises while they are made leaves everything
        as it was. Until then they are kept in bits.

        Args:
            proposed: Names and new masks; of weights that are stored alone their new positions, int64, ascending.
            told: Whether somebody will ask what changed; otherwise the answer is empty.

        Raises:
            ValueError: if a new mask has another shape than its weight.
        """
        staged: dict[str, PackedMask] = {}
        positions: dict[str, Tensor] = {}
        whole = Whole()
        for name, new in proposed:
            if name in self.stored:
                positions[name] = unpacked(new)
            else:
                staged[name] = self._staged(name, new, whole)
        moved = [name for name in self.masks if name in staged or name in positions] if told else []
        others = [name for name in moved if name in positions or is_sharded(self.dense[name])]
        before: dict[str, Tensor | PackedMask] = {name: kept(self.masks[name]) for name in others}
        before |= self._write(staged, positions, told=told)
        after = staged | {name: kept(self.masks[name]) for name in others}
        self.counts.update(whole.counts)
        self.fingerprints = {**self.fingerprints, **whole.fingerprints}
        return Changes(before, {name: after[name] for name in moved})

    def _take_(self, masks: Masks) -> None:
        whole = Whole()
        for name, mask in self.dense.items():
            self._parts[name].copy_(local(whole.cut(name, masks[name], mask)))
        self.counts = {name: num_true(mask) for name, mask in masks.items()}
        self.fingerprints = whole.fingerprints

    def _staged(self, name: str, new: Tensor | PackedMask, whole: Whole) -> PackedMask:
        """A new mask, or this process's part of it, an eighth of the memory it will have."""
        mask = self.dense[name]
        part = local(whole.cut(name, unpacked(new), mask)) if is_sharded(mask) else new
        return packed_like(part, self._parts[name])

    def _write(
        self, staged: Mapping[str, PackedMask], positions: Mapping[str, Tensor], *, told: bool
    ) -> dict[str, PackedMask]:
        """Write what is proposed; what the masks that this process has whole were, if that is told."""
        layers, rest = {}, []
        for name, mask in self._parts.items():
            tensors = (*self._weight_and_states(name), *self._gradient(name))
            if name in staged:
                layers[name] = Rewrite(mask, staged[name], tensors, told and not is_sharded(self.dense[name]))
            else:
                rest += [(tensor, mask) for tensor in tensors]  # the step may have left its gradient dense
        for name, new in positions.items():
            move_(self.stored[name], new, self._optimizer)
            self.counts[name] = len(new)
        zero_off_(rest)
        before = {}
        for name, done in zip(layers, rewrite_(layers.values()), strict=True):
            if not is_sharded(self.dense[name]):
                self.counts[name] = done.active
            if done.before is not None:
                before[name] = done.before
        return before

    def _weight_and_states(self, name: str) -> list[Tensor]:
        parameter = self.parameters[name]
        states = (local(state) for _, state in per_weight_state(self._optimizer, parameter))
        return [local(parameter.data), *states]

    def _gradient(self, name: str) -> list[Tensor]:
        """The weight's gradient, if it has one."""
        gradient = self.parameters[name].grad
        if gradient is not None and gradient.layout != torch.strided:
            raise ValueError(f"{name!r} has a sparse gradient tensor; make its embedding with sparse=False.")
        return [] if gradient is None else [local(gradient)]
