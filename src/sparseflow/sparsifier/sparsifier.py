"""The one stateful object: it listens to ``optimizer.step()`` and keeps a model sparse; the loop stays yours."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from sparseflow.masks.select import unwrap
from sparseflow.methods.base import Method
from sparseflow.methods.static import Static
from sparseflow.rng import stream
from sparseflow.sharded import reshard_, shard_like
from sparseflow.sparsifier.dense_gradients import keep_dense, observe_
from sparseflow.sparsifier.optimizers import (
    initial_rate,
    innermost,
    keeps_zeros,
    learning_rate_ratios,
    leaves_gradients,
    per_weight_state,
)
from sparseflow.sparsifier.stored import check_can_move
from sparseflow.sparsifier.update import new_masks
from sparseflow.sparsifier.weights import MaskedWeights
from sparseflow.types import Masks, MaskUpdate

_STATE_KEYS = {"masks", "step_count", "last_update", "generator", "gradient_mean", "learning_rates"}


class Sparsifier:
    """Bind a model, its optimizer, masks and a method; from then on the model stays sparse.

    Before each optimizer step gradients are masked, after it masks change when the method says so, and weights and
    per-weight optimizer state are exactly zero off the mask. Nothing is wrapped or renamed. Weights are zeroed off the
    mask when the object is made.

    * **Gradient accumulation**: only optimizer steps count; RigL sees the accumulated gradient.
    * **Clipping**: call :meth:`mask_gradients_` before ``clip_grad_norm_`` so that the norm counts active weights only.
    * **GradScaler**: a skipped step skips everything here too, with fused optimizers as well.
    * **Closures** (LBFGS, Lightning): gradients are masked after each call of the closure.
    * **DDP**: masks follow the reduced gradients and one generator, so all ranks agree; give all the same seed.
    * **FSDP2** (``fully_shard``): each process holds its part of every mask; an update gathers one layer at a time.
    * **Frozen parameters** keep their masks. Where growth needs a gradient, a weight without one sits the update out.
    * **Copies** (EMA): ``sparseflow.apply_masks_(copy, sparsifier.masks)`` after masks change.

    Args:
        model: Also inside ``torch.compile`` or ``DistributedDataParallel``, or after ``fully_shard``.
        optimizer: Any ``torch.optim.Optimizer`` that holds every masked parameter which requires a gradient.
        masks: Parameter name -> bool tensor; copied. Of a sharded model whole, the same on all ranks, or as its parts.
        method: The rule by which masks change, such as ``sparseflow.RigL(...)``; ``sparseflow.Static()`` keeps them.
        seed: Growth draws from ``stream(seed, "grow")``, saved with the state.
        gradient_fn: Called at an update, after the step; returns name -> dense gradient for growth. Default: the
            gradients of the step itself.

    Raises:
        TypeError, ValueError: if a mask does not fit, or the optimizer does not hold a masked parameter.

    >>> import sparseflow as sf
    >>> model = nn.Linear(100, 10)
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    >>> method = sf.RigL(drop_fraction=0.3, update_every=2)
    >>> sparsifier = sf.Sparsifier(model, optimizer, sf.random_masks(model, 0.9, seed=0), method, seed=0)
    >>> for _ in range(4):
    ...     optimizer.zero_grad()
    ...     model(torch.randn(8, 100)).square().mean().backward()
    ...     optimizer.step()
    >>> sparsifier.check()
    >>> sparsifier.step_count, int((model.weight != 0).sum()) <= 100
    (4, True)
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        masks: Masks,
        method: Method,
        *,
        seed: int,
        gradient_fn: Callable[[], Mapping[str, Tensor]] | None = None,
    ) -> None:
        optimizer = innermost(optimizer)
        self.model = unwrap(model)
        self._weights = MaskedWeights(model, optimizer, masks)
        self.masks: Mapping[str, Tensor] = self._weights.masks
        """Parameter name -> bool tensor, now."""
        self.optimizer = optimizer
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
        self._dense_gradients: dict[str, tuple[Tensor, Tensor]] | None = None
        self._learning_rates = [initial_rate(group) for group in optimizer.param_groups]
        self._last_update = -1
        self._parked: list[tuple[nn.Parameter, Tensor]] | None = None
        self._stateless: list[nn.Parameter] = []
        self._step_ran_dense = False
        self._elementwise = keeps_zeros(optimizer, self._weights.parameters.values())
        if self._weights.stored and not isinstance(method, Static):
            check_can_move(model, optimizer)
        self._weights.clear_()
        self._watch()
        self._handles = [
            optimizer.register_step_pre_hook(self._before_step),
            optimizer.register_step_post_hook(self._after_step),
        ]

    # -- what a loop may call ------------------------------------------------------------------------------------

    @torch.no_grad()
    def mask_gradients_(self) -> None:
        """Zero the gradients of inactive weights; idempotent. A copy is kept until the step where growth needs it.

        Call it after the last backward of a step, and after ``scaler.unscale_`` where there is a scaler.
        """
        if self._grows_by_step_gradients() and (self.method.gradient_decay or self._update_follows()):
            self._keep_dense_gradients()
        self._weights.clear_gradients_()

    def check(self) -> None:
        """Prove every promise at this moment, see :func:`sparseflow.check`."""
        self._weights.check(self.model)

    @property
    def fingerprints(self) -> Mapping[str, str]:
        """Fingerprints of sharded masks, as this process computed them whole; where ranks disagree, these differ."""
        return self._weights.fingerprints

    def remove(self) -> None:
        """Stop listening; the model keeps its zeros but nothing holds them any more."""
        for handle in self._handles:
            handle.remove()

    def state_dict(self) -> dict[str, Any]:
        """Everything that a resumed run needs besides the model's and the optimizer's own state."""
        return {
            "masks": {name: mask.clone() for name, mask in self.masks.items()},
            "step_count": self.step_count,
            "last_update": self._last_update,
            "generator": self._generator.get_state(),
            "gradient_mean": {name: mean.clone() for name, mean in self._gradient_mean.items()},
            "learning_rates": list(self._learning_rates),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a saved state, with which training continues bit for bit.

        Make the Sparsifier (which zeroes weights off the masks it is given), then load the model's state, the
        optimizer's, and this one last.

        Raises:
            ValueError: if the state is of other masks.
        """
        if missing := _STATE_KEYS - set(state):
            raise ValueError(f"this is no Sparsifier state: it lacks {', '.join(sorted(missing))}.")
        if set(state["masks"]) != set(self.masks):
            different = ", ".join(sorted(set(state["masks"]) ^ set(self.masks)))
            raise ValueError(f"the state was saved with masks of other weights; they differ in: {different}.")
        self._weights.load_(state["masks"])
        self.step_count = int(state["step_count"])
        self._last_update = int(state["last_update"])
        self._generator.set_state(state["generator"].cpu())
        parameters = self._weights.parameters
        means = {name: (mean, parameters.get(name, mean)) for name, mean in state["gradient_mean"].items()}
        self._gradient_mean = {
            name: shard_like(mean.to(like.device, copy=True), like) for name, (mean, like) in means.items()
        }
        self._learning_rates = list(state["learning_rates"])
        self._dense_gradients = None
        self._weights.clear_()
        self._watch()

    # -- what the optimizer calls --------------------------------------------------------------------------------

    @torch.no_grad()
    def _before_step(
        self, optimizer: torch.optim.Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        args = args[1:] if args and args[0] is optimizer else args
        closure = kwargs.get("closure", args[0] if args else None)
        if self._step_is_skipped():
            held = [parameter for group in optimizer.param_groups for parameter in group["params"]]
            self._stateless = [parameter for parameter in held if not optimizer.state.get(parameter)]
            return None
        if closure is not None:
            if self.method.replaces_step:
                raise ValueError("replaces_step=True cannot skip a step that runs a closure; use replaces_step=False.")
            return self._with_masked_closure(closure, args, kwargs)
        masked_before = self._dense_gradients is not None
        self._observe_gradients()
        if self.method.replaces_step and self._replacement_due():
            held = [parameter for group in optimizer.param_groups for parameter in group["params"]]
            self._parked = [(parameter, parameter.grad) for parameter in held if parameter.grad is not None]
            for parameter, _ in self._parked:
                parameter.grad = None
        elif self._update_reads_step() and self._leaves_gradients_alone() and not masked_before:
            # The step runs on dense gradients, so that growth can read them afterwards without a copy; what it wrote
            # off the mask is cleared in _after_step.
            self._step_ran_dense = True
        else:
            if self._update_reads_step():
                self._keep_dense_gradients()
            self._weights.clear_gradients_()
        return None

    def _with_masked_closure(
        self, closure: Callable[[], Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        evaluations = 0

        def masked() -> Any:
            nonlocal evaluations
            if not self._elementwise:
                self._weights.clear_()  # a search direction of LBFGS remembers weights that were dropped since
            self._dense_gradients = None
            with torch.enable_grad():
                loss = closure()
            with torch.no_grad():
                if evaluations == 0:
                    self._observe_gradients()
                evaluations += 1
                if self._update_reads_step():
                    self._keep_dense_gradients()
                self._weights.clear_gradients_()
            return loss

        if "closure" in kwargs:
            return (self.optimizer, *args), {**kwargs, "closure": masked}
        return (self.optimizer, masked, *args[1:]), kwargs

    @torch.no_grad()
    def _after_step(self, optimizer: torch.optim.Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self._step_is_skipped():
            # Fused SGD makes its buffers from uninitialised memory before its kernel skips, and adds to them later.
            for parameter in self._stateless:
                for _, state in per_weight_state(optimizer, parameter):
                    state.zero_()
            return
        if self._parked is not None:
            for parameter, gradient in self._parked:
                parameter.grad = gradient
            self._parked = None
            self._update()
            self._watch()
            return
        self.step_count += 1
        if self._step_ran_dense or not self._elementwise:
            self._weights.clear_()
        self._step_ran_dense = False
        if not self.method.replaces_step and self.method.due(self.step_count):
            self._update()
        self._dense_gradients = None
        self._watch()

    # -- how ----------------------------------------------------------------------------------------------------

    def _update(self) -> None:
        for call in self.before_update:
            call(self.step_count)
        if self._weights.sharded:
            reshard_(self.model)
        new = new_masks(
            self.method,
            self._weights,
            gradients=self._growth_gradients(),
            learning_rate_ratios=learning_rate_ratios(self.optimizer, self._learning_rates),
            step=self.step_count,
            generator=self._generator,
        )
        changes = self._weights.change_(new, want_changes=bool(self.after_update))
        self._last_update = self.step_count
        self._dense_gradients = None
        for notify in self.after_update:
            notify(self.step_count, changes)

    def _watch(self) -> None:
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
        if self._dense_gradients is not None:
            return {name: dense for name, (_, dense) in self._dense_gradients.items()}
        return {name: p.grad for name, p in self._weights.parameters.items() if p.grad is not None}

    def _grows_by_step_gradients(self) -> bool:
        return self.method.needs_gradient and self.gradient_fn is None

    def _update_reads_step(self) -> bool:
        """Whether the next step's own dense gradient decides what grows right after it."""
        return self._grows_by_step_gradients() and not self.method.gradient_decay and self._update_follows()

    def _leaves_gradients_alone(self) -> bool:
        """Whether growth can read the gradients after the step, and the step's writes off the mask can be cleared."""
        return self._elementwise and leaves_gradients(self.optimizer, self._weights.parameters.values())

    def _update_follows(self) -> bool:
        """Whether masks change right after, or instead of, the next optimizer step."""
        return self._replacement_due() if self.method.replaces_step else self.method.due(self.step_count + 1)

    def _replacement_due(self) -> bool:
        return self.method.due(self.step_count) and self._last_update != self.step_count

    def _keep_dense_gradients(self) -> None:
        self._dense_gradients = keep_dense(self._weights.parameters, self._weights.dense, self._dense_gradients or {})

    def _observe_gradients(self) -> None:
        """Update the running mean of the dense gradient, for methods that grow by momentum."""
        if self._dense_gradients is not None:
            self._keep_dense_gradients()  # masked already: look at what was there before
        decay = self.method.gradient_decay
        if decay and self._grows_by_step_gradients():
            weights, kept = self._weights, self._dense_gradients or {}
            scale = getattr(self.optimizer, "grad_scale", None)
            observe_(self._gradient_mean, weights.parameters, kept, weights.stored, decay=decay, scale=scale)

    def _step_is_skipped(self) -> bool:
        """Whether a fused optimizer will skip inside its kernel, since ``GradScaler`` found an overflow."""
        found = getattr(self.optimizer, "found_inf", None)
        return isinstance(found, Tensor) and bool(found.item())
