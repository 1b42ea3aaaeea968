"""What happens when an optimizer steps: gradients are masked before, weights cleared after, masks moved when due.

One file, though long: between two announcements of optimizers each method here reads what another one left, and an
update of RigL is to be read in few files. What its steps do not need is elsewhere: closures, kept gradients, states.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from sparseflow._fast import StagedMask
from sparseflow.methods.base import Method
from sparseflow.sharded import reshard_
from sparseflow.sparsifier.closures import masked_closure
from sparseflow.sparsifier.dense_gradients import KeptGradients, given_gradients
from sparseflow.sparsifier.describe import describe
from sparseflow.sparsifier.guard import Guard, check_agreement
from sparseflow.sparsifier.kinds import keeps_zeros
from sparseflow.sparsifier.last_update import Before, before_update
from sparseflow.sparsifier.observer import Observer
from sparseflow.sparsifier.optimizers import PeakRates, is_scheduled, leaves_gradients, reset_momentum_, weight_states
from sparseflow.sparsifier.part import Part, part_of
from sparseflow.sparsifier.reserve import Reserve
from sparseflow.sparsifier.roots import QuickRoots
from sparseflow.sparsifier.rule import StepRule
from sparseflow.sparsifier.rules import Rules
from sparseflow.sparsifier.update import new_masks, reads_active_gradient, warn_open_end
from sparseflow.sparsifier.weights import MaskedWeights
from sparseflow.sparsifier.wrappers import listen
from sparseflow.types import MaskUpdate


class Listener:
    """The steps of a sparse training, as the optimizers announce them.

    A step is done when each optimizer has stepped, or one steps again.

    Args:
        model: Without wrappers.
        optimizers: Those whose steps are listened to.
        weights: Masks and what is zero off them.
        method: Says when masks change, and how.
        generator: Growth draws from it.
        gradient_fn: See :class:`sparseflow.Sparsifier`.
        group: Processes that train together, see :func:`sparseflow.sparsifier.guard.process_group`.
        rules: Changes to the optimizers' steps.

    >>> layer = nn.Linear(2, 1, bias=False)
    >>> optimizer = torch.optim.SGD(layer.parameters())
    >>> weights = MaskedWeights(layer, [optimizer], {"weight": torch.tensor([[True, False]])})
    >>> from sparseflow.methods import Static
    >>> listener = Listener(layer, [optimizer], weights, Static(), generator=torch.Generator())
    >>> lost, handles = listener.guard.settle_(), listener.listen()
    >>> layer(torch.ones(1, 2)).sum().backward(); optimizer.step()
    >>> listener.step_count, layer.weight.grad.tolist()
    (1, [[1.0, 0.0]])
    """

    def __init__(
        self,
        model: nn.Module,
        optimizers: Sequence[torch.optim.Optimizer],
        weights: MaskedWeights,
        method: Method,
        *,
        generator: torch.Generator,
        gradient_fn: Callable[[], Mapping[str, Tensor]] | None = None,
        group: Any = None,
        rules: Sequence[StepRule] = (),
    ) -> None:
        self.method, self.gradient_fn, self.generator = method, gradient_fn, generator
        self.step_count, self.last_update = 0, -1
        self.before_update: list[Callable[[int], object]] = []
        self.after_update: list[Callable[[int, Mapping[str, MaskUpdate]], object]] = []
        self.observers: list[Observer] = []
        self.kept = KeptGradients(weights, decay=method.gradient_decay, keeps_active=reads_active_gradient(method))
        """Dense gradients from before they were masked, where growth will look at them."""
        self.rates = PeakRates(optimizers)
        self.reserve = Reserve(weights, method) if hasattr(method, "used") else None
        """What is trained and not used, of methods that part the two."""
        self.guard = Guard(model, optimizers, weights)
        self.ranks = 1
        """Processes that were found to agree."""
        self.keeps_before = False
        """Whether what an update changes is kept until the next step."""
        self.before: Before | None = None
        self.is_untrained = False
        """Whether no step has followed the last update."""
        self.is_stepping = False
        """Whether an optimizer's step is under way, in which torch lets no hook be removed."""
        self.is_updating = False
        """Whether a mask update is under way: the step is counted, the masks are not yet changed."""
        self.is_removed = False
        self.stepped: set[int] = set()
        """``id`` of the optimizers that have made their part of the step under way."""
        self.owner: object = None
        """Lives as long as the optimizers: they hold the listener, and users need not keep the Sparsifier."""
        self._model, self._optimizers, self._weights, self._group = model, optimizers, weights, group
        self._parts = {id(each): part_of(each, weights) for each in optimizers}
        self.rules = Rules(rules, optimizers, weights)
        self._has_rules = bool(self.rules)
        if self.reserve is not None and self._has_rules:
            raise ValueError(
                f"{type(method).__name__} trains weights that the network does not use, and rules such as "
                f"{self.rules.names[0]} know of used ones alone. Leave rules= out, or take another method."
            )

    def listen(self) -> list[Any]:
        """Register with the optimizers; ``remove()`` of each handle ends it."""
        return [handle for each in self._optimizers for handle in self._listen(each)]

    def begin(self) -> None:
        """Forget what was under way: a state was loaded, or nothing has happened yet."""
        self.kept.copies.clear()
        self.before = None
        self.keep_stored_gradients()

    def begin_reserve_(self) -> None:
        """Choose what is trained, and what is used, of the weights that training starts with."""
        if self.reserve is not None and not self.reserve.values:
            with self.reserve.opened_():
                self._weights.change_(self._new_masks(), want_changes=False)

    @torch.no_grad()
    def mask_gradients_(self) -> None:
        """Zero the gradients of inactive weights, see :meth:`sparseflow.Sparsifier.mask_gradients_`."""
        self._look_again()
        for part in self._parts.values():
            if self._reads_next_gradients():
                self.kept.keep(part)
            self._weights.clear_gradients_(part.weights)

    def compare_ranks(self, moment: str) -> None:
        """Compare masks, draws and step counts over the processes."""
        masks = {name: mask for name, mask in self._weights.masks.items() if name not in self._weights.sharded}
        self.ranks = check_agreement(
            self._group, masks, self._weights.fingerprints, self.generator, step_count=self.step_count, moment=moment
        )

    # -- what the optimizers call --------------------------------------------------------------------------------

    @torch.no_grad()
    def _before_step(
        self, optimizer: torch.optim.Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        if self.is_removed:
            return None
        self.is_stepping, self.is_updating = True, False
        part = self._parts[id(optimizer)]
        part.makes_state = kwargs.get("closure", part) is None and part.only_makes_state()
        if part.makes_state:
            return None
        if id(optimizer) in self.stepped:  # another one sat this step out
            self._finish_step()
        self._look_again()
        self.guard.start_step()
        self.rates.see()
        args = args[1:] if args and args[0] is optimizer else args
        closure = kwargs.get("closure", args[0] if args else None)
        if _is_skipped(optimizer):
            part.stateless = tuple(parameter for parameter in part.held if not optimizer.state.get(parameter))
            return None
        if closure is not None:
            if self.method.replaces_step:
                raise ValueError("replaces_step=True cannot skip a step that runs a closure; use replaces_step=False.")
            masked = masked_closure(
                closure,
                part,
                self._weights,
                dense=self.kept.missing(part) if self._reads_next_gradients() else (),
                begin_again=partial(self._evaluate_again, part),
                mask=partial(self._mask_evaluation, part),
            )
            if "closure" in kwargs:
                return (optimizer, *args), {**kwargs, "closure": masked}
            return (optimizer, masked, *args[1:]), kwargs
        masked_before = self._is_masked(part)
        self._observe_gradients(part)
        if self.method.replaces_step and self._replacement_due():
            part.parked = [(parameter, parameter.grad) for parameter in part.held if parameter.grad is not None]
            for parameter, _ in part.parked:
                parameter.grad = None
            return None
        # The step may run on dense gradients, so that growth can read them afterwards without a copy; what it wrote
        # off the mask is cleared in _after_step.
        part.ran_dense = self._update_reads_step() and self._leaves_gradients_alone(part) and not masked_before
        self._mask_step(part)
        return None

    def _mask_step(self, part: Part) -> None:
        """Make the gradients of an optimizer's next step those that it shall step by."""
        if not part.ran_dense:
            if self._copies_gradients(part):
                self.kept.keep(part)
            self._weights.clear_gradients_(part.weights)
        if self.reserve is not None:
            self.reserve.bring_(part.weights)
        if self._has_rules:
            self.rules.before_step(part)

    def _mask_evaluation(self, part: Part, is_first: bool) -> None:
        if is_first:
            self._observe_gradients(part)
        self._mask_step(part)

    def _evaluate_again(self, part: Part) -> None:
        if self._has_rules:
            raise ValueError(
                f"{type(part.optimizer).__name__} evaluates its closure more than once in a step, and the rules "
                f"{', '.join(self.rules.names)} change a step by the gradients of one. Use another optimizer, or none "
                "of these rules."
            )
        self.kept.forget(part)
        if self.reserve is not None:
            self.reserve.hide_(part.weights)

    @torch.no_grad()
    def _after_step(self, optimizer: torch.optim.Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self.is_removed:
            return
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
        if self._has_rules and part.parked is None:
            self.rules.after_step(part)
        if self.reserve is not None:
            self.reserve.hide_(part.weights)
        self.guard.see()
        for each in self.observers:
            each.part_stepped(part)
        part.ran_dense = False
        self.stepped.add(id(optimizer))
        if len(self.stepped) == len(self._parts):
            self._finish_step()
        self.is_stepping = False

    def _finish_step(self) -> None:
        """Count the step that all optimizers made, and change the masks if the method says so."""
        self.stepped.clear()
        self.before = None
        self.is_untrained = False
        replaced = [part for part in self._parts.values() if part.parked is not None]
        for part in replaced:
            part.parked = None
        self.step_count += not replaced
        if replaced or (not self.method.replaces_step and self.method.due(self.step_count)):
            self._update()
        self.kept.copies.clear()
        self.keep_stored_gradients()
        for each in self.observers:
            each.step_done(self.step_count)

    def _look_again(self) -> None:
        """Put right, or refuse, what something else wrote since the last step."""
        for name in self._weights.adopt_(self._optimizers):
            now = part_of(self._weights.optimizer_of[name], self._weights)
            before = self._parts[id(now.optimizer)]
            before.weights, before.elementwise = now.weights, now.elementwise
        for name in self.guard.look_again_():
            self.kept.follow_(name)
            if part := self._parts.get(id(self._weights.optimizer_of.get(name))):
                part.elementwise = keeps_zeros(part.optimizer, part.weights.values())

    # -- how ----------------------------------------------------------------------------------------------------

    def _listen(self, optimizer: torch.optim.Optimizer) -> list[Any]:
        describe(optimizer, self._parts[id(optimizer)].weights.values())
        return [
            *listen(optimizer, self._before_step, self._after_step, self.mask_gradients_),
            *self.guard.listen(optimizer),
            QuickRoots(optimizer),
        ]

    def _update(self) -> None:
        if self.last_update < 0 and not self.keeps_before:
            scheduled = any(map(is_scheduled, self._optimizers)) or any(r != 1 for r in self.rates.ratios().values())
            warn_open_end(self.method, rate_is_scheduled=scheduled)
        self.is_updating = True
        for call in self.before_update:
            call(self.step_count)
        if self._weights.sharded:
            reshard_(self._model)
        self.before = before_update(self._weights) if self.keeps_before else None
        with nullcontext() if self.reserve is None else self.reserve.opened_():
            new = self._new_masks()
            if self._has_rules:
                self.rules.begin_update()
            changes = self._weights.change_(new, want_changes=bool(self.after_update or self.observers))
            if self._has_rules:
                self.rules.end_update()
        if (resets := getattr(self.method, "resets_momentum", None)) is not None and resets(self.step_count):
            for optimizer in (*self._optimizers, *self.rules.optimizers):
                reset_momentum_(optimizer)
        self.guard.see()
        self.last_update, self.is_updating = self.step_count, False
        self.is_untrained = self.reserve is None  # else what grew comes with a value, or is not used yet
        self.kept.copies.clear()
        self.compare_ranks(f"at the mask update of step {self.step_count}")
        for notify in self.after_update:
            notify(self.step_count, changes)
        for each in self.observers:
            each.masks_changed(changes)

    def _new_masks(self) -> Iterator[tuple[str, Tensor | StagedMask]]:
        return new_masks(
            self.method,
            self._weights,
            gradients=self._growth_gradients(),
            learning_rate_ratios=self.rates.ratios(),
            step=self.step_count,
            generator=self.generator,
        )

    def keep_stored_gradients(self) -> None:
        """Let stored weights keep the parts of the next step's dense gradient, if growth will look at it."""
        for weight in self._weights.stored.values():
            weight.keep_gradients(self._reads_next_gradients())

    def _growth_gradients(self) -> Mapping[str, Tensor]:
        if not (self.method.needs_gradient or reads_active_gradient(self.method)):
            return {}
        if self.gradient_fn is not None and self.method.needs_gradient:
            return given_gradients(self.gradient_fn, self._weights.masks)
        if self.method.gradient_decay:
            return self.kept.mean
        found = {name: p.grad for name, p in self._weights.parameters.items() if p.grad is not None}
        return found | {name: dense for name, (_, dense) in self.kept.copies.items()}

    def _grows_by_step_gradients(self) -> bool:
        return self.method.needs_gradient and self.gradient_fn is None

    def _reads_next_gradients(self) -> bool:
        """Whether growth looks at the dense gradients of the next step, at once or through their mean."""
        return self._grows_by_step_gradients() and (bool(self.method.gradient_decay) or self._update_follows())

    def _update_reads_step(self) -> bool:
        """Whether the next step's own dense gradient decides what grows right after it."""
        return self._grows_by_step_gradients() and not self.method.gradient_decay and self._update_follows()

    def _copies_gradients(self, part: Part) -> bool:
        """Whether the update after the next step looks at gradients that are then masked, or overwritten."""
        reads_active = reads_active_gradient(self.method) and self._update_follows()
        return self._update_reads_step() or (reads_active and not self._leaves_gradients_alone(part))

    def _leaves_gradients_alone(self, part: Part) -> bool:
        """Whether growth can read the gradients after the step, and the step's writes off the mask can be cleared."""
        # Rules are shown masked gradients, and may change them.
        stored = (weight.values for weight in self._weights.stored_of(part.optimizer).values())
        held = (*part.weights.values(), *stored)
        return not self._has_rules and part.elementwise and leaves_gradients(part.optimizer, held)

    def _update_follows(self) -> bool:
        """Whether masks change right after, or instead of, the next optimizer step."""
        return self._replacement_due() if self.method.replaces_step else self.method.due(self.step_count + 1)

    def _replacement_due(self) -> bool:
        return self.method.due(self.step_count) and self.last_update != self.step_count

    def _is_masked(self, part: Part) -> bool:
        """Whether gradients of an optimizer's weights were masked before its step; there are copies then."""
        return any(name in self.kept.copies for name in part.weights)

    def _observe_gradients(self, part: Part) -> None:
        """Update the running mean of the dense gradient, for methods that grow by momentum."""
        if self._is_masked(part):
            self.kept.keep(part)  # masked already: look at what was there before
        if self.method.gradient_decay and self._grows_by_step_gradients():
            self.kept.observe(part)


def _is_skipped(optimizer: torch.optim.Optimizer) -> bool:
    """Whether a fused optimizer will skip inside its kernel, since ``GradScaler`` found an overflow."""
    found = getattr(optimizer, "found_inf", None)
    return isinstance(found, Tensor) and bool(found.item())
