"""The one stateful object: it listens to ``optimizer.step()`` and keeps a model sparse; the loop stays yours."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn, Self

import torch
from torch import Tensor, nn

from sparseflow import attached
from sparseflow.masks.blocks import SINGLE, LostBlocksWarning
from sparseflow.masks.select import unwrap
from sparseflow.methods.base import Method
from sparseflow.methods.run import UnfinishedWarning, check_layers, check_start, unfinished
from sparseflow.methods.static import Static
from sparseflow.rng import stream
from sparseflow.sparsifier.check import Checked, check_weights
from sparseflow.sparsifier.guard import allow_copies, copy_of, process_group
from sparseflow.sparsifier.last_update import take_back_, untrained
from sparseflow.sparsifier.listener import Listener
from sparseflow.sparsifier.rule import StepRule
from sparseflow.sparsifier.run_words import describe_run
from sparseflow.sparsifier.saved_state import restore_, state_of
from sparseflow.sparsifier.state import check_arguments, check_state, check_state_blocks
from sparseflow.sparsifier.stored import check_can_move
from sparseflow.sparsifier.update import shown_layers
from sparseflow.sparsifier.weights import MaskedWeights
from sparseflow.sparsifier.wrappers import stepping
from sparseflow.types import Masks
from sparseflow.warn import warn


class Sparsifier:
    """Bind a model, its optimizer, masks and a method; from then on the model stays sparse.

    Before each optimizer step gradients are masked, after it masks change when the method says so. Weights are exactly
    zero off the mask, and optimizer state that belongs to one weight is what the optimizer gives a new weight. Nothing
    is wrapped or renamed. Weights are zeroed off the mask when the object is made, except those that are sparse
    elsewhere: these wait for the state that they were saved with, and a step without it raises.

    * **Resume**: model, optimizer, Sparsifier and their states are made and loaded in any order; training continues bit
      for bit.
    * **Writes from outside** (a checkpoint, an average) are noticed at the next step: dense weights are cut with a
      warning, weights of other masks refused. Tensors that were replaced or moved to another optimizer are refused.
    * **Gradient accumulation**: only optimizer steps count; RigL sees the accumulated gradient.
    * **Optimizers**: all whose ``step`` changes the weights themselves. What belongs to one weight in the state of one
      that is none of torch's is found by a trial and logged in one line. Wrappers (Lookahead, SAM, ZeRO) as a whole.
    * **Several optimizers** make one step together: it is done when each has stepped, or one steps again.
    * **Clipping**: call :meth:`mask_gradients_` before ``clip_grad_norm_`` so that the norm counts active weights only.
    * **GradScaler**: a skipped step skips everything here too, with fused optimizers as well.
    * **Closures** (LBFGS, Lightning): gradients are masked after each call of the closure.
    * **DDP, FSDP2** (``fully_shard``): masks follow the reduced gradients and one generator; masks, seed and step count
      are compared over the ranks when masks are given and at each update. Under FSDP2 each process holds its part of
      every mask; an update gathers one layer at a time.
    * **Frozen parameters** keep their masks. Where growth needs a gradient, a weight without one sits the update out.
    * **The end of a run**: as ``with Sparsifier(...) as sparsifier:`` it is removed at the end of the block, and an
      update that no step followed is taken back.
    * **Copies**: ``copy.deepcopy((model, optimizer, sparsifier))``; of an EMA after masks change
      ``sparseflow.apply_masks_(copy, sparsifier.masks)``.

    Args:
        model: Also inside ``torch.compile`` or ``DistributedDataParallel``, or after ``fully_shard``.
        optimizer: Any ``torch.optim.Optimizer``, or several, that hold every masked parameter with a gradient.
        masks: Parameter name -> bool tensor; copied. Of a sharded model whole, the same on all ranks, or as its parts.
            Made of the method's blocks, if it has ``block``.
        method: The rule by which masks change, such as ``sparseflow.RigL(...)``; ``sparseflow.Static()`` keeps them.
        seed: Growth draws from ``stream(seed, "grow")``, saved with the state.
        gradient_fn: Called at an update, after the step; returns name -> dense gradient for growth. Default: the
            gradients of the step itself.
        state: A saved :meth:`state_dict` to go on from; its masks take the place of ``masks``.
        rules: Changes to the optimizer's steps, in the order in which they act: see ``sparseflow.rules``.

    Raises:
        TypeError, ValueError: if a mask does not fit, an optimizer does not hold a masked parameter, another
            Sparsifier holds one, or the method or a rule cannot do there what it promises.

    Warns:
        :class:`~sparseflow.methods.run.OpenEndWarning` at the first update, if nothing will end updates;
        :class:`~sparseflow.masks.blocks.LostBlocksWarning` if the masks are made of blocks and the method moves single
        weights.

    >>> import sparseflow as sf
    >>> model = nn.Linear(100, 10)
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    >>> method = sf.RigL(drop_fraction=0.3, update_every=1, total_steps=4)
    >>> sparsifier = sf.Sparsifier(model, optimizer, sf.random_masks(model, 0.9, seed=0), method, seed=0)
    >>> for _ in range(4):
    ...     optimizer.zero_grad()
    ...     model(torch.randn(8, 100)).square().mean().backward()
    ...     optimizer.step()
    >>> print(sparsifier.check())
    1 weights, 1 optimizer state tensors, 1 rank(s): all hold
    >>> sparsifier
    Sparsifier: RigL(update_every=1, total_steps=4) after step 4
      sparsity 0.9: 100 of 1,000 weights are active, in 1 tensor
      masks stay as they are: the last update is behind
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer | Sequence[torch.optim.Optimizer],
        masks: Masks,
        method: Method,
        *,
        seed: int,
        gradient_fn: Callable[[], Mapping[str, Tensor]] | None = None,
        state: Mapping[str, Any] | None = None,
        rules: Sequence[StepRule] = (),
    ) -> None:
        check_arguments(model, masks, method, seed)
        given: Sequence[Any] = optimizer if isinstance(optimizer, list | tuple) else [optimizer]
        self.model = unwrap(model)
        self.optimizers = tuple(stepping(each) for each in given)
        """Those whose steps are listened to; wrappers hold them."""
        given_masks = masks
        if state is not None:
            check_state(state, shapes={name: mask.shape for name, mask in masks.items()})
            masks = state["masks"]
        self._weights = weights = MaskedWeights(model, self.optimizers, masks, getattr(method, "block", SINGLE))
        check_state_blocks(state or {}, weights.grids)
        check_start(method, weights.shapes, weights.counts)
        check_layers(method, shown_layers(method, weights))
        if not isinstance(method, Static) and (lost := weights.in_lost_blocks()):
            warn(
                f"the mask of {lost[0]!r} is made of blocks of 4 outputs x 1 inputs, and the method moves single "
                "weights, so that no blocks will be left. Make the method with the masks' own block=(4, 1).",
                LostBlocksWarning,
            )
        group = process_group(model, is_sharded=bool(weights.sharded))
        self._listener = listener = Listener(
            self.model,
            self.optimizers,
            weights,
            method,
            generator=stream(seed, "grow"),
            gradient_fn=gradient_fn,
            group=group,
            rules=rules,
        )
        self.before_update = listener.before_update
        """Called with the step count just before masks change."""
        self.after_update = listener.after_update
        """Called with the step count and every layer's change just after."""
        self.observers = listener.observers
        """Those that look on at each step, see :func:`sparseflow.record`."""
        if weights.stored and not isinstance(method, Static):
            for each in self.optimizers:
                check_can_move(model, each)
        self._names = {id(tensor): name for name, tensor in weights.tensors.items()}
        if state is not None:
            listener.rules.check(state.get("rules", {}))
            restore_(weights, listener, self.optimizers, state)
        listener.compare_ranks("where the Sparsifier is made")
        attached.hold(self, weights.tensors, made_from=given_masks)
        listener.guard.settle_()
        listener.begin()
        listener.begin_reserve_()
        listener.guard.see()
        self._handles = listener.listen()
        listener.owner = self

    @property
    def method(self) -> Method:
        """The rule by which masks change."""
        return self._listener.method

    @property
    def rules(self) -> tuple[StepRule, ...]:
        """Changes to the optimizer's steps, in the order in which they act."""
        return self._listener.rules.all

    @property
    def gradient_fn(self) -> Callable[[], Mapping[str, Tensor]] | None:
        """What makes the dense gradients for growth, if not the step itself."""
        return self._listener.gradient_fn

    @property
    def step_count(self) -> int:
        """Optimizer steps taken; an update that replaces a step does not count."""
        return self._listener.step_count

    @step_count.setter
    def step_count(self, count: int) -> None:
        self._listener.step_count = count

    @property
    def block(self) -> dict[str, tuple[int, int]]:
        """Parameter name -> outputs and inputs of its blocks, of the weights whose connections move in blocks."""
        return {name: (grid.block.outputs, grid.block.inputs) for name, grid in self._weights.grids.items()}

    @property
    def sparsity(self) -> float:
        """Fraction of zeros over all masks together, now; 0 without masks."""
        total = sum(map(math.prod, self._weights.shapes.values()))
        return 1 - sum(self._weights.counts.values()) / total if total else 0.0

    @property
    def masks(self) -> Mapping[str, Tensor]:
        """Parameter name -> bool tensor, now."""
        return self._weights.masks

    @masks.setter
    def masks(self, given: Masks) -> None:
        self._weights.dense.refuse(given)

    # -- what a loop may call ------------------------------------------------------------------------------------

    def mask_gradients_(self) -> None:
        """Zero the gradients of inactive weights; idempotent. A copy is kept until the step where growth needs it.

        Call it after the last backward of a step, and after ``scaler.unscale_`` where there is a scaler.
        """
        self._listener.mask_gradients_()

    def check(self) -> Checked:
        """Prove every promise at this moment, see :func:`sparseflow.check`; say what was looked at.

        Raises:
            BrokenPromiseError: naming the first that is broken.

        Warns: :class:`~sparseflow.methods.run.UnfinishedWarning` of what would be undone if training ended here: a
        pruning schedule before its end, a first update that is to come, weights that grew and were not trained yet.
        """
        self._listener.guard.check_held()
        found = check_weights(self.model, self._weights)
        found = found._replace(ranks=self._listener.ranks, unfinished=self._unfinished())
        for text in found.unfinished:
            warn(text, UnfinishedWarning)
        return found

    @property
    def fingerprints(self) -> Mapping[str, str]:
        """Fingerprints of sharded masks, as this process computed them whole; where ranks disagree, these differ."""
        return self._weights.fingerprints

    def name_of(self, parameter: Tensor) -> str | None:
        """The name of a masked weight, given as the tensor that the optimizer steps; ``None`` for any other tensor."""
        return self._names.get(id(parameter))

    def remove(self) -> None:
        """Stop listening; the model keeps its zeros but nothing holds them any more.

        Warns: as :meth:`check`.
        """
        for text in self._unfinished() if self._handles else ():
            warn(text, UnfinishedWarning)
        if self._listener.is_stepping:
            self._listener.is_removed = True  # torch goes through the hooks: they stay, and do nothing any more
        else:
            for handle in self._handles:
                handle.remove()
        self._handles.clear()
        for optimizer in self.optimizers:
            if hasattr(optimizer, "defaults"):
                allow_copies(optimizer)
        attached.release(self)

    def __enter__(self) -> Self:
        """Remember what each update drops until the next step, so that the last one can be taken back."""
        self._listener.keeps_before = True
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        """Take an update back that no step followed, unless an error ends the block; then :meth:`remove`."""
        if error is None and self._listener.before is not None:
            self._listener.is_untrained = not take_back_(self._weights, self._listener.before)
            self._listener.guard.see()
        self._listener.before = None
        self.remove()

    def state_dict(self) -> dict[str, Any]:
        """Everything that a resumed run needs besides the model's and the optimizer's own state.

        Raises:
            RuntimeError: in ``before_update``, between a step and its mask update, which a resumed run would miss.
        """
        return state_of(self._weights, self._listener, self.optimizers, self.block)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a saved state, with which training continues bit for bit.

        The model's state and the optimizer's are loaded before or after it, in any order, before the next step.

        Raises:
            TypeError, ValueError: if the state is of other masks, or damaged; nothing is changed then.
        """
        check_state(state, shapes={name: mask.shape for name, mask in self.masks.items()})
        check_state_blocks(state, self._weights.grids)
        self._listener.rules.check(state.get("rules", {}))
        self._weights.check_fit(state["masks"])
        self._listener.guard.restore_()
        restore_(self._weights, self._listener, self.optimizers, state)
        self._listener.compare_ranks("where the Sparsifier's state is loaded")
        self._listener.guard.settle_()
        self._listener.begin()

    def __repr__(self) -> str:
        """The method with its options, the sparsity, the step and the next update."""
        return describe_run(
            self.method,
            step=self.step_count,
            last_update=self._listener.last_update,
            shapes=self._weights.shapes,
            counts=self._weights.counts,
            is_removed=not self._handles,
        )

    def __deepcopy__(self, memo: dict[int, Any]) -> Sparsifier:
        """A Sparsifier of the copied model and optimizers, at the same point of the run."""
        copied: Sparsifier = copy_of(self, memo)
        return copied

    def __reduce__(self) -> NoReturn:
        """Refuse to be pickled: hooks on an optimizer cannot be."""
        raise TypeError(
            "a Sparsifier cannot be pickled. Save sparsifier.state_dict() beside the model's and the optimizer's, and "
            "make it with state=."
        )

    def _unfinished(self) -> tuple[str, ...]:
        """What would be undone if training ended now; nothing is before the first step."""
        if not self.step_count:
            return ()
        found = [unfinished(self.method, self.step_count, self._weights.shapes, self._weights.counts)]
        if self._listener.is_untrained:
            found.append(untrained(self._weights, step=self.step_count))
        return tuple(filter(None, found))
