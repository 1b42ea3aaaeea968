"""The one stateful object: it listens to ``optimizer.step()`` and keeps a model sparse; the loop stays yours."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn, Self

import torch
from torch import Tensor, nn

from sparseflow import attached
from sparseflow.masks.select import unwrap
from sparseflow.methods.base import Method
from sparseflow.methods.run import UnfinishedWarning, check_start, unfinished
from sparseflow.methods.static import Static
from sparseflow.rng import stream
from sparseflow.sharded import full, reshard_, shard_like
from sparseflow.sparsifier.check import Checked
from sparseflow.sparsifier.dense_gradients import keep_dense, observe_
from sparseflow.sparsifier.describe import describe
from sparseflow.sparsifier.guard import Guard, allow_copies, check_agreement, copy_of, process_group, stop_copies
from sparseflow.sparsifier.kinds import keeps_zeros
from sparseflow.sparsifier.last_update import Before, before_update, take_back_, untrained
from sparseflow.sparsifier.optimizers import PeakRates, is_scheduled, leaves_gradients, weight_states
from sparseflow.sparsifier.part import Part
from sparseflow.sparsifier.roots import QuickRoots
from sparseflow.sparsifier.state import check_arguments, check_state
from sparseflow.sparsifier.stored import check_can_move
from sparseflow.sparsifier.tensors import chain
from sparseflow.sparsifier.update import new_masks, warn_open_end
from sparseflow.sparsifier.weights import MaskedWeights
from sparseflow.sparsifier.wrappers import listen, stepping
from sparseflow.types import Masks, MaskUpdate
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
        method: The rule by which masks change, such as ``sparseflow.RigL(...)``; ``sparseflow.Static()`` keeps them.
        seed: Growth draws from ``stream(seed, "grow")``, saved with the state.
        gradient_fn: Called at an update, after the step; returns name -> dense gradient for growth. Default: the
            gradients of the step itself.
        state: A saved :meth:`state_dict` to go on from; its masks take the place of ``masks``.

    Raises:
        TypeError, ValueError: if a mask does not fit, an optimizer does not hold a masked parameter, another
            Sparsifier holds one, or the method cannot do there what it promises.

    Warns: :class:`~sparseflow.methods.run.OpenEndWarning` at the first update, if nothing will end updates.

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
    >>> sparsifier.step_count, int((model.weight != 0).sum())
    (4, 100)
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
        self._weights = weights = MaskedWeights(model, self.optimizers, masks)
        check_start(method, weights.shapes, weights.counts)
        self.method = method
        self.gradient_fn = gradient_fn
        self.step_count = 0
        """Optimizer steps taken; an update that replaces a step does not count."""
        self.before_update: list[Callable[[int], None]] = []
        """Called with the step count just before masks change."""
        self.after_update: list[Callable[[int, Mapping[str, MaskUpdate]], None]] = []
        """Called with the step count and every layer's change just after."""
        self._generator = stream(seed, "grow")
        self._gradient_mean: dict[str, Tensor] = {}
        self._dense_gradients: dict[str, tuple[Tensor, Tensor]] = {}
        self._rates = PeakRates(self.optimizers)
        self._last_update = -1
        self._ends_with_block = False
        self._is_untrained = False
        self._before: Before | None = None
        self._stepped: set[int] = set()
        self._parts = {id(each): self._part(each) for each in self.optimizers}
        if weights.stored and not isinstance(method, Static):
            for each in self.optimizers:
                check_can_move(model, each)
        self._guard = Guard(self.model, self.optimizers, weights)
        self._group = process_group(model, is_sharded=bool(weights.sharded))
        self._names = {id(tensor): name for name, tensor in weights.tensors.items()}
        if state is not None:
            self._take_(state)
        self._ranks = self._compare_ranks("where the Sparsifier is made")
        attached.hold(self, weights.tensors, made_from=given_masks)
        self._guard.settle_()
        self._keep_stored_gradients()
        self._handles = [handle for each in self.optimizers for handle in self._listen(each)]

    @property
    def masks(self) -> Mapping[str, Tensor]:
        """Parameter name -> bool tensor, now."""
        return self._weights.masks

    @masks.setter
    def masks(self, given: Masks) -> None:
        self._weights.dense.refuse(given)

    # -- what a loop may call ------------------------------------------------------------------------------------

    @torch.no_grad()
    def mask_gradients_(self) -> None:
        """Zero the gradients of inactive weights; idempotent. A copy is kept until the step where growth needs it.

        Call it after the last backward of a step, and after ``scaler.unscale_`` where there is a scaler.
        """
        self._look_again()
        for part in self._parts.values():
            if self._grows_by_step_gradients() and (self.method.gradient_decay or self._update_follows()):
                self._keep_dense_gradients(part)
            self._weights.clear_gradients_(part.weights)

    def check(self) -> Checked:
        """Prove every promise at this moment, see :func:`sparseflow.check`; say what was looked at.

        Raises:
            BrokenPromiseError: naming the first that is broken.

        Warns: :class:`~sparseflow.methods.run.UnfinishedWarning` of what would be undone if training ended here: a
        pruning schedule before its end, a first update that is to come, weights that grew and were not trained yet.
        """
        self._guard.check_held()
        found = self._weights.check(self.model)._replace(ranks=self._ranks, unfinished=self._unfinished())
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
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        for optimizer in self.optimizers:
            if hasattr(optimizer, "defaults"):
                allow_copies(optimizer)
        attached.release(self)

    def __enter__(self) -> Self:
        """Remember what each update drops until the next step, so that the last one can be taken back."""
        self._ends_with_block = True
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        """Take an update back that no step followed, unless an error ends the block; then :meth:`remove`."""
        if error is None and self._before is not None:
            self._is_untrained = not take_back_(self._weights, self._before)
            self._guard.see()
        self._before = None
        self.remove()

    def state_dict(self) -> dict[str, Any]:
        """Everything that a resumed run needs besides the model's and the optimizer's own state."""
        stepped = [place for place, each in enumerate(self.optimizers) if id(each) in self._stepped]
        return {
            "masks": {name: mask.clone() for name, mask in self.masks.items()},
            "step_count": self.step_count,
            "last_update": self._last_update,
            "generator": self._generator.get_state(),
            "gradient_mean": {name: mean.clone() for name, mean in self._gradient_mean.items()},
            "learning_rates": self._rates.state(),
            "states_left_alone": self._weights.states_left_alone(),
            **({"stepped": stepped} if stepped else {}),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a saved state, with which training continues bit for bit.

        The model's state and the optimizer's are loaded before or after it, in any order, before the next step.

        Raises:
            TypeError, ValueError: if the state is of other masks, or damaged; nothing is changed then.
        """
        check_state(state, shapes={name: mask.shape for name, mask in self.masks.items()})
        self._weights.check_fit(state["masks"])
        self._guard.restore_()
        self._take_(state)
        self._ranks = self._compare_ranks("where the Sparsifier's state is loaded")
        self._guard.settle_()
        self._keep_stored_gradients()

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

    # -- what the optimizers call --------------------------------------------------------------------------------

    @torch.no_grad()
    def _before_step(
        self, optimizer: torch.optim.Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        part = self._parts[id(optimizer)]
        part.makes_state = _makes_state(part, kwargs)
        if part.makes_state:
            return None
        if id(optimizer) in self._stepped:  # another one sat this step out
            self._finish_step()
        self._look_again()
        self._guard.start_step()
        self._rates.see()
        args = args[1:] if args and args[0] is optimizer else args
        closure = kwargs.get("closure", args[0] if args else None)
        if _is_skipped(optimizer):
            part.stateless = tuple(parameter for parameter in part.held if not optimizer.state.get(parameter))
            return None
        if closure is not None:
            if self.method.replaces_step:
                raise ValueError("replaces_step=True cannot skip a step that runs a closure; use replaces_step=False.")
            self._weights.clear_gradients_(part.weights)  # some optimizers move by these before they call it
            return self._with_masked_closure(part, closure, args, kwargs)
        masked_before = any(name in self._dense_gradients for name in part.weights)
        self._observe_gradients(part)
        if self.method.replaces_step and self._replacement_due():
            part.parked = [(parameter, parameter.grad) for parameter in part.held if parameter.grad is not None]
            for parameter, _ in part.parked:
                parameter.grad = None
        elif self._update_reads_step() and self._leaves_gradients_alone(part) and not masked_before:
            # The step runs on dense gradients, so that growth can read them afterwards without a copy; what it wrote
            # off the mask is cleared in _after_step.
            part.ran_dense = True
        else:
            if self._update_reads_step():
                self._keep_dense_gradients(part)
            self._weights.clear_gradients_(part.weights)
        return None

    def _with_masked_closure(
        self, part: Part, closure: Callable[[], Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        evaluations = 0

        def masked() -> Any:
            nonlocal evaluations
            if not part.elementwise:
                self._weights.clear_(
                    part.weights, steady=False
                )  # LBFGS's directions remember weights that were dropped since
            self._forget_dense_gradients(part)
            with torch.enable_grad():
                loss = closure()
            with torch.no_grad():
                if evaluations == 0:
                    self._observe_gradients(part)
                evaluations += 1
                if self._update_reads_step():
                    self._keep_dense_gradients(part)
                self._weights.clear_gradients_(part.weights)
            return loss

        if "closure" in kwargs:
            return (part.optimizer, *args), {**kwargs, "closure": masked}
        return (part.optimizer, masked, *args[1:]), kwargs

    @torch.no_grad()
    def _after_step(self, optimizer: torch.optim.Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        part = self._parts[id(optimizer)]
        if part.makes_state:
            return
        if _is_skipped(optimizer):
            # Fused SGD makes its buffers from uninitialised memory before its kernel skips, and adds to them later.
            for parameter in part.stateless:
                for state in weight_states(optimizer, parameter):
                    state.tensor.fill_(state.fresh)
            return
        if part.parked is not None:
            for parameter, gradient in part.parked:
                parameter.grad = gradient
        elif part.ran_dense or not part.elementwise:
            updates = self._update_follows()
            if not part.elementwise:
                self._weights.drop_mistaken_states(part.weights, everywhere=updates)
            self._weights.clear_(part.weights, steady=part.ran_dense or updates)
        part.ran_dense = False
        self._guard.see()
        self._stepped.add(id(optimizer))
        if len(self._stepped) == len(self._parts):
            self._finish_step()

    def _finish_step(self) -> None:
        """Count the step that all optimizers made, and change the masks if the method says so."""
        self._stepped.clear()
        self._before = None
        self._is_untrained = False
        replaced = [part for part in self._parts.values() if part.parked is not None]
        for part in replaced:
            part.parked = None
        self.step_count += not replaced
        if replaced or (not self.method.replaces_step and self.method.due(self.step_count)):
            self._update()
        self._dense_gradients.clear()
        self._keep_stored_gradients()

    def _look_again(self) -> None:
        """Put right, or refuse, what something else wrote since the last step."""
        for name in self._weights.adopt_(self.optimizers):
            now = self._part(self._weights.optimizer_of[name])
            before = self._parts[id(now.optimizer)]
            before.weights, before.elementwise = now.weights, now.elementwise
        for name in self._guard.look_again_():
            weight = self._weights.parameters[name]
            if name in self._gradient_mean:
                self._gradient_mean[name] = self._gradient_mean[name].to(weight.device, weight.dtype)
            if part := self._parts.get(id(self._weights.optimizer_of.get(name))):
                part.elementwise = keeps_zeros(part.optimizer, part.weights.values())

    # -- how ----------------------------------------------------------------------------------------------------

    def _part(self, optimizer: torch.optim.Optimizer) -> Part:
        weights = self._weights
        held = {name: p for name, p in weights.parameters.items() if weights.optimizer_of.get(name) is optimizer}
        return Part(optimizer, held, keeps_zeros(optimizer, held.values()))

    def _listen(self, optimizer: torch.optim.Optimizer) -> list[Any]:
        describe(optimizer, self._parts[id(optimizer)].weights.values())
        if hasattr(optimizer, "defaults"):
            stop_copies(optimizer)
        return [
            *listen(optimizer, self._before_step, self._after_step, self.mask_gradients_),
            *(
                each.register_load_state_dict_post_hook(lambda _: self._guard.state_loaded(optimizer))
                for each in chain(optimizer)
                if hasattr(each, "_optimizer_load_state_dict_post_hooks")
            ),
            QuickRoots(optimizer),
        ]

    def _take_(self, state: Mapping[str, Any]) -> None:
        """Take over a state that was checked."""
        self._weights.load_(state["masks"])
        self._weights.leave_states_alone(state.get("states_left_alone", {}))  # earlier versions saved none
        self.step_count = int(state["step_count"])
        self._last_update = int(state["last_update"])
        self._generator.set_state(state["generator"].cpu())
        parameters = self._weights.parameters
        means = {name: (mean, parameters.get(name, mean)) for name, mean in state["gradient_mean"].items()}
        self._gradient_mean = {
            name: shard_like(mean.to(like.device, copy=True), like) for name, (mean, like) in means.items()
        }
        self._rates.load(state["learning_rates"])
        self._dense_gradients.clear()
        self._stepped = {id(each) for place, each in enumerate(self.optimizers) if place in state.get("stepped", ())}
        self._before = None
        self._is_untrained = self._last_update == self.step_count

    def _unfinished(self) -> tuple[str, ...]:
        """What would be undone if training ended now; nothing is before the first step."""
        if not self.step_count:
            return ()
        found = [unfinished(self.method, self.step_count, self._weights.shapes, self._weights.counts)]
        if self._is_untrained:
            found.append(untrained(self._weights, step=self.step_count))
        return tuple(filter(None, found))

    def _compare_ranks(self, moment: str) -> int:
        masks = {name: mask for name, mask in self.masks.items() if name not in self._weights.sharded}
        return check_agreement(
            self._group, masks, self.fingerprints, self._generator, step_count=self.step_count, moment=moment
        )

    def _update(self) -> None:
        if self._last_update < 0 and not self._ends_with_block:
            scheduled = any(map(is_scheduled, self.optimizers)) or any(r != 1 for r in self._rates.ratios().values())
            warn_open_end(self.method, rate_is_scheduled=scheduled)
        for call in self.before_update:
            call(self.step_count)
        if self._weights.sharded:
            reshard_(self.model)
        self._before = before_update(self._weights) if self._ends_with_block else None
        new = new_masks(
            self.method,
            self._weights,
            gradients=self._growth_gradients(),
            learning_rate_ratios=self._rates.ratios(),
            step=self.step_count,
            generator=self._generator,
        )
        changes = self._weights.change_(new, want_changes=bool(self.after_update))
        self._guard.see()
        self._last_update = self.step_count
        self._is_untrained = True
        self._dense_gradients.clear()
        self._ranks = self._compare_ranks(f"at the mask update of step {self.step_count}")
        for notify in self.after_update:
            notify(self.step_count, changes)

    def _keep_stored_gradients(self) -> None:
        """Let stored weights keep the parts of the next step's dense gradient, if growth will look at it."""
        keep = self._grows_by_step_gradients() and (bool(self.method.gradient_decay) or self._update_follows())
        for weight in self._weights.stored.values():
            weight.keep_gradients(keep)

    def _growth_gradients(self) -> Mapping[str, Tensor]:
        if not self.method.needs_gradient:
            return {}
        if self.gradient_fn is not None:
            with torch.enable_grad():
                given = self.gradient_fn()
            if not self.masks.keys() & given.keys():
                needed, got = ", ".join(self.masks), ", ".join(given)
                raise ValueError(f"gradient_fn names no masked weight. Needed: {needed}; got: {got}.")
            return {name: given[name].detach() for name in self.masks if name in given}
        if self.method.gradient_decay:
            return self._gradient_mean
        found = {name: p.grad for name, p in self._weights.parameters.items() if p.grad is not None}
        return found | {name: dense for name, (_, dense) in self._dense_gradients.items()}

    def _grows_by_step_gradients(self) -> bool:
        return self.method.needs_gradient and self.gradient_fn is None

    def _update_reads_step(self) -> bool:
        """Whether the next step's own dense gradient decides what grows right after it."""
        return self._grows_by_step_gradients() and not self.method.gradient_decay and self._update_follows()

    def _leaves_gradients_alone(self, part: Part) -> bool:
        """Whether growth can read the gradients after the step, and the step's writes off the mask can be cleared."""
        return part.elementwise and leaves_gradients(part.optimizer, part.weights.values())

    def _update_follows(self) -> bool:
        """Whether masks change right after, or instead of, the next optimizer step."""
        return self._replacement_due() if self.method.replaces_step else self.method.due(self.step_count + 1)

    def _replacement_due(self) -> bool:
        return self.method.due(self.step_count) and self._last_update != self.step_count

    def _keep_dense_gradients(self, part: Part) -> None:
        kept = keep_dense(part.weights, self._weights.dense, self._dense_gradients)
        self._forget_dense_gradients(part)
        self._dense_gradients |= kept

    def _forget_dense_gradients(self, part: Part) -> None:
        for name in part.weights:
            self._dense_gradients.pop(name, None)

    def _observe_gradients(self, part: Part) -> None:
        """Update the running mean of the dense gradient, for methods that grow by momentum."""
        if any(name in self._dense_gradients for name in part.weights):
            self._keep_dense_gradients(part)  # masked already: look at what was there before
        decay = self.method.gradient_decay
        if decay and self._grows_by_step_gradients():
            stored = {
                name: weight
                for name, weight in self._weights.stored.items()
                if self._weights.optimizer_of.get(name) is part.optimizer
            }
            scale = getattr(part.optimizer, "grad_scale", None)
            observe_(self._gradient_mean, part.weights, self._dense_gradients, stored, decay=decay, scale=scale)


def _is_skipped(optimizer: torch.optim.Optimizer) -> bool:
    """Whether a fused optimizer will skip inside its kernel, since ``GradScaler`` found an overflow."""
    found = getattr(optimizer, "found_inf", None)
    return isinstance(found, Tensor) and bool(found.item())


def _makes_state(part: Part, kwargs: Mapping[str, Any]) -> bool:
    """Whether a step is none of training: ``torch.distributed.checkpoint`` lets a fresh optimizer make its state.

    It does so before it saves or loads one, by ``step(closure=None)`` with rates and gradients that it sets to zero.
    """
    groups = part.optimizer.param_groups
    asked = "closure" in kwargs and kwargs["closure"] is None and not part.optimizer.state
    if not asked or any(group.get("lr") != 0 for group in groups):
        return False
    gradients = [parameter.grad for parameter in part.held if parameter.grad is not None]
    return bool(gradients) and not any(full(gradient).any() for gradient in gradients)
