"""A model's masked weights as this process holds them: whole, in parts, or as active values; all changed here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from sparseflow._checks import check_masks
from sparseflow._fast import StagedMask, Write, clear_, stage, unstaged, write_
from sparseflow.attached import elsewhere
from sparseflow.masks.blocks import SINGLE, BlockLike, check_made_of, grids, lost_blocks
from sparseflow.masks.fans import PLAIN, Layout
from sparseflow.masks.select import maskable, unwrap
from sparseflow.sharded import cut, full, is_sharded, local, num_true
from sparseflow.sparsifier.changes import Changes
from sparseflow.sparsifier.held_masks import HeldMasks
from sparseflow.sparsifier.optimizers import drop_mistaken, optimizers_of, weight_states
from sparseflow.sparsifier.stored import MasksOnDemand, StoredWeight, check_positions, move_, stored_weights
from sparseflow.sparsifier.tensors import WeightState
from sparseflow.types import BrokenPromiseError, Masks, MaskUpdate


class MaskedWeights:
    """Masks beside the weights, gradients and optimizer states that must be zero off them.

    Arguments as :class:`sparseflow.Sparsifier`; ``block`` is the method's.

    Raises:
        TypeError, ValueError: if a mask does not fit, or the optimizer does not hold a masked parameter.

    >>> model = nn.Linear(2, 1, bias=False)
    >>> _ = nn.init.ones_(model.weight)
    >>> optimizer = torch.optim.SGD(model.parameters())
    >>> weights = MaskedWeights(model, [optimizer], {"weight": torch.tensor([[True, False]])})
    >>> weights.clear_(weights.masks)
    >>> changes = weights.change_([("weight", torch.tensor([[False, True]]))], want_changes=True)
    >>> changes["weight"].grown, weights.counts, model.weight.tolist()
    (tensor([[False,  True]]), {'weight': 1}, [[0.0, 0.0]])
    """

    def __init__(
        self,
        model: nn.Module,
        optimizers: Sequence[torch.optim.Optimizer],
        masks: Masks,
        block: BlockLike = SINGLE,
    ) -> None:
        found = maskable(model)
        known = {name: weight.parameter for name, weight in found.items()}
        stored = stored_weights(unwrap(model))
        check_masks(masks, known | {name: torch.empty(w.weight_shape, device="meta") for name, w in stored.items()})
        masks = _in_model_order(masks, unwrap(model), known)
        self.stored = {name: stored[name] for name in masks if name in stored}
        """Weights of which only the active values exist."""
        self.tensors = {name: self.stored[name].values if name in stored else known[name] for name in masks}
        """Name -> the tensor that an optimizer steps."""
        self.optimizer_of = optimizers_of(optimizers, self.tensors)
        """Name -> the optimizer that steps the weight; frozen weights may have none."""
        check_positions(self.stored, masks)
        self.parameters = {name: known[name] for name in masks if name not in stored}
        """The others: weights with zeros."""
        self.sharded = {name for name, parameter in self.parameters.items() if is_sharded(parameter)}
        """Names of those of which this process holds a part."""
        layouts = {name: weight.layout or PLAIN for name, weight in found.items()}
        layouts |= {name: Layout(blocks=int(getattr(weight, "groups", 1))) for name, weight in self.stored.items()}
        self.grids = grids(block, self._shapes(masks), layouts)
        """Name -> blocks, of those whose connections move in blocks."""
        self._check_blocks(masks)
        self.layouts = layouts
        """Name -> which axes of the weight are units and inputs."""
        self.dense = HeldMasks(
            (name, torch.empty_like(parameter, dtype=torch.bool, requires_grad=False))
            for name, parameter in self.parameters.items()
        )
        """Masks of the weights with zeros, sharded as they are."""
        self.masks: Mapping[str, Tensor] = MasksOnDemand(masks, self.dense, self.stored) if self.stored else self.dense
        """All masks."""
        self.counts: dict[str, int] = {}
        """Active weights, in all parts together."""
        self.fingerprints: dict[str, str] = {}
        """Fingerprints of sharded masks, as this process computed them whole; where ranks disagree, these differ."""
        self._parts = {name: local(mask) for name, mask in self.dense.items()}
        self._take_(masks)
        self.budgets = dict(self.counts)
        """Active weights that the training began with; a state that is loaded brings its own."""

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name -> shape of the dense weight."""
        return self._shapes(self.masks)

    def stored_of(self, optimizer: torch.optim.Optimizer) -> dict[str, StoredWeight]:
        """Those of :attr:`stored` that an optimizer steps."""
        return {name: weight for name, weight in self.stored.items() if self.optimizer_of.get(name) is optimizer}

    def check_fit(self, masks: Masks) -> None:
        """Check that masks are of these weights; nothing is written.

        Raises:
            TypeError, ValueError: if one does not fit, or weights that are stored alone are elsewhere.
        """
        check_masks({name: mask for name, mask in masks.items() if name not in self.stored}, self.parameters)
        check_positions(self.stored, masks)
        self._check_blocks(masks)

    def load_(self, masks: Masks) -> None:
        """Copy masks of the same weights; see :meth:`check_fit`."""
        self.check_fit(masks)
        self._take_(masks)

    def follow_(self, name: str) -> None:
        """Give a mask the device and the memory format of its weight, which may have moved.

        Raises:
            BrokenPromiseError: if the weight has another shape now.
        """
        parameter, mask = self.parameters[name], self.dense[name]
        if parameter.shape != mask.shape:
            raise BrokenPromiseError(
                f"{name!r} has shape {tuple(parameter.shape)} now, its mask {tuple(mask.shape)}. Call "
                "sparsifier.remove() and make masks for the new model."
            )
        if parameter.device != mask.device or parameter.stride() != mask.stride():
            moved = torch.empty_like(parameter, dtype=torch.bool, requires_grad=False)
            local(moved).copy_(local(mask))
            self.dense.hold(name, moved)
            self._parts[name] = local(moved)

    def adopt_(self, optimizers: Sequence[torch.optim.Optimizer]) -> list[str]:
        """Find the optimizers of weights that had none, as frozen ones may; the names of those that have one now.

        Raises:
            ValueError: naming a weight that is not frozen any more and that no optimizer holds.
        """
        waiting = {name: tensor for name, tensor in self.tensors.items() if name not in self.optimizer_of}
        found = optimizers_of(optimizers, waiting) if waiting else {}
        self.optimizer_of |= found
        return list(found)

    def is_elsewhere(self, name: str) -> bool:
        """Whether the weight is sparse, but not where its mask is, see :func:`sparseflow.attached.elsewhere`."""
        return elsewhere(self.parameters[name], self.dense[name])

    def states_and_masks(self, name: str) -> list[tuple[Tensor, Tensor]]:
        """This process's parts of a weight's optimizer state that is zeroed like it, each with its mask."""
        return [(state, self._parts[name]) for state in self._weight_and_states(name)[0][1:]]

    def other_states(self, names: Iterable[str]) -> list[tuple[WeightState, Tensor]]:
        """Other per-weight optimizer state of weights, which is made fresh in ways of its own, each with its mask."""
        named = [name for name in names if name in self._parts]
        return [(state, self._parts[name]) for name in named for state in self._weight_and_states(name)[1]]

    def clear_(self, names: Iterable[str], *, steady: bool = True) -> None:
        """Make these weights +0.0 and their per-weight optimizer state fresh off the masks.

        Args:
            steady: Whether to write to state that stays fresh by itself, too.
        """
        zeroed: list[tuple[Tensor, Tensor]] = []
        others: list[tuple[WeightState, Tensor]] = []
        for name in names:
            if (mask := self._parts.get(name)) is not None:
                tensors, states = self._weight_and_states(name, steady=steady)
                zeroed += [(tensor, mask) for tensor in tensors]
                others += [(state, mask) for state in states]
        with torch.no_grad():
            clear_(zeroed)
            for state, mask in others:
                state.reset_(mask)

    def drop_mistaken_states(self, names: Iterable[str], *, everywhere: bool) -> None:
        """Leave alone from now on what was taken for per-weight state but did not stay fresh off the mask."""
        for name in names:
            if (optimizer := self.optimizer_of.get(name)) is not None:
                drop_mistaken(optimizer, self.parameters[name], self.dense[name], everywhere=everywhere)

    def clear_gradients_(self, names: Iterable[str]) -> None:
        """Make these gradients +0.0 off the masks."""
        named = [name for name in names if name in self._parts]
        clear_([(gradient, self._parts[name]) for name in named for gradient in self._gradient(name)])

    def change_(
        self, new: Iterable[tuple[str, Tensor | StagedMask]], *, want_changes: bool
    ) -> Mapping[str, MaskUpdate]:
        """Replace masks, and clear weights, optimizer states and gradients off all masks.

        Nothing is written before the last new mask is there, so whatever raises while they are made leaves everything
        as it was. Until then each is kept at an eighth of its size.

        Args:
            new: Names and new masks; of weights that are stored alone their new positions, int64, ascending.
            want_changes: Whether to return what changed; otherwise the answer is empty.

        Raises:
            ValueError: if a new mask has another shape than its weight.
        """
        staged: dict[str, StagedMask] = {}
        positions: dict[str, Tensor] = {}
        counts, fingerprints = {}, {}
        for name, mask in new:
            if name in self.stored:
                positions[name] = unstaged(mask)
            elif name in self.sharded:
                part, counts[name], fingerprints[name] = cut(unstaged(mask), self.dense[name])
                staged[name] = stage(part, like=self._parts[name])
            else:
                staged[name] = stage(mask, like=self._parts[name])
        moved = [name for name in self.masks if name in staged or name in positions] if want_changes else []
        others = [name for name in moved if name in positions or name in self.sharded]
        before = {name: self._copy(name) for name in others}
        before |= self._write(staged, positions, keep_before=want_changes)
        after = staged | {name: self._copy(name) for name in others}
        self.counts |= counts
        self.fingerprints = self.fingerprints | fingerprints
        return Changes(before, {name: after[name] for name in moved}) if moved else {}

    def copies(self) -> dict[str, Tensor | StagedMask]:
        """Copies of all masks as :meth:`change_` takes them, those of whole weights at an eighth of their size."""
        found: dict[str, Tensor | StagedMask] = {n: weight.positions().clone() for n, weight in self.stored.items()}
        return found | {n: mask.clone() if n in self.sharded else stage(mask) for n, mask in self.dense.items()}

    def in_lost_blocks(self) -> list[str]:
        """Names of weights whose masks are made of blocks of four outputs, and whose connections move one by one."""
        others = {name: full(mask) for name, mask in self.masks.items() if name not in self.grids}
        return lost_blocks(others, self.layouts)

    def _shapes(self, names: Iterable[str]) -> dict[str, tuple[int, ...]]:
        stored = {name: tuple(weight.weight_shape) for name, weight in self.stored.items()}
        return {name: stored[name] if name in stored else tuple(self.parameters[name].shape) for name in names}

    def _check_blocks(self, masks: Masks) -> None:
        check_made_of(self.grids, {name: full(masks[name]) for name in self.grids})

    def _take_(self, masks: Masks) -> None:
        self.counts = {name: num_true(mask) for name, mask in masks.items()}
        for name, mask in self.dense.items():
            given = masks[name]
            if name in self.sharded:
                given, _, self.fingerprints[name] = cut(given, mask)
            self._parts[name].copy_(given)

    def _write(
        self, staged: Mapping[str, StagedMask], positions: Mapping[str, Tensor], *, keep_before: bool
    ) -> dict[str, Tensor | StagedMask]:
        """Replace masks and clear off all of them; the previous masks of whole weights."""
        layers, rest = {}, []
        others: list[tuple[WeightState, Tensor]] = []
        for name, mask in self._parts.items():
            zeroed, states = self._weight_and_states(name)
            tensors = (*zeroed, *self._gradient(name))
            others += [(state, mask) for state in states]
            if name in staged:
                layers[name] = Write(mask, staged[name], tensors, keep_before and name not in self.sharded)
            else:
                rest += [(tensor, mask) for tensor in tensors]  # the step may have left its gradient dense
        for name, where in positions.items():
            move_(self.stored[name], where, self.optimizer_of.get(name))
            self.counts[name] = len(where)
        clear_(rest)
        before: dict[str, Tensor | StagedMask] = {}
        for name, done in zip(layers, write_(layers.values()), strict=True):
            if name not in self.sharded:
                self.counts[name] = done.active
            if done.before is not None:
                before[name] = done.before
        for state, mask in others:
            state.reset_(mask)
        return before

    def _copy(self, name: str) -> Tensor | StagedMask:
        """A mask that is not whole here, as it is now."""
        return self.masks[name].clone() if name in self.sharded else stage(self.masks[name])

    def _weight_and_states(self, name: str, *, steady: bool = True) -> tuple[list[Tensor], list[WeightState]]:
        """The weight and what is zeroed like it, and other per-weight state."""
        parameter, optimizer = self.parameters[name], self.optimizer_of.get(name)
        states = [] if optimizer is None else weight_states(optimizer, parameter)
        if not steady:
            states = [state for state in states if not state.steady]
        zeroed = [state.tensor.data for state in states if state.zeroed]
        return self._held(name, [parameter.data, *zeroed]), [state for state in states if not state.zeroed]

    def _gradient(self, name: str) -> list[Tensor]:
        """The weight's gradient, if it has one."""
        gradient = self.parameters[name].grad
        if gradient is not None and gradient.layout != torch.strided:
            raise ValueError(f"{name!r} has a sparse gradient tensor; make its embedding with sparse=False.")
        return [] if gradient is None else self._held(name, [gradient])

    def _held(self, name: str, tensors: list[Tensor]) -> list[Tensor]:
        return [local(tensor) for tensor in tensors] if name in self.sharded else tensors


def _in_model_order(masks: Masks, model: nn.Module, known: Iterable[str]) -> dict[str, Tensor]:
    """Masks in the order of the model's layers: growth draws layer by layer, and some files sort their names."""
    layers = {path: place for place, (path, _) in enumerate(model.named_modules())}
    places = {name: place for place, name in enumerate(known)}
    return {
        name: masks[name]
        for name in sorted(masks, key=lambda name: (layers.get(name.rpartition(".")[0], 0), places.get(name, 0)))
    }
