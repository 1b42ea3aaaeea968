"""The one stateful object: it listens to ``optimizer.step()`` and keeps a model sparse; the loop stays yours."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from sparseflow._checks import check_masks
from sparseflow.active import LiveMasks, active_weights, check_positions, move_
from sparseflow.masks import zero_inactive_
from sparseflow.promises import check, per_weight_state
from sparseflow.rng import stream
from sparseflow.select import maskable, unwrap
from sparseflow.topk import count_true
from sparseflow.types import BrokenPromiseError, Masks, MaskUpdate
from sparseflow.updaters.active import ActiveLayer, row_parts
from sparseflow.updaters.base import ActiveUpdater, LayerState, MaskUpdater, as_dense, changed
from sparseflow.updaters.static import Static

#: Each weight moves by its own gradient and state alone, so zero gradients and states keep a zero weight at zero.
#: (Rprop and Adamax do too, but they write a smallest step or norm into the state of every weight.)
_ELEMENTWISE = {
    getattr(torch.optim, name) for name in ("SGD", "Adam", "AdamW", "NAdam", "RAdam", "RMSprop", "Adagrad", "Adadelta")
}


_STATE_KEYS = {"masks", "step_count", "last_update", "generator", "gradient_mean", "learning_rates"}


class Sparsifier:
    """Bind a model, its optimizer, masks and a method; from then on the model stays sparse.

    Before each optimizer step gradients are masked, after it masks change when the updater says so, and weights and
    per-weight optimizer state are exactly zero off the mask. Nothing is wrapped or renamed. Weights are zeroed off the
    mask when the object is made.

    * **Gradient accumulation**: only optimizer steps count; RigL sees the accumulated gradient.
    * **Clipping**: call :meth:`mask_gradients_` before ``clip_grad_norm_`` so that the norm counts active weights only.
    * **GradScaler**: a skipped step skips everything here too, with fused optimizers as well.
    * **Closures** (LBFGS, Lightning): gradients are masked after each call of the closure.
    * **DDP**: masks follow the reduced gradients and one generator, so all ranks agree; give all the same seed.
    * **Frozen parameters** keep their masks. Where growth needs a gradient, a weight without one sits the update out.
    * **Copies** (EMA): ``sparseflow.apply_masks_(copy, sparsifier.masks)`` after masks change.

    Args:
        model: Also inside ``torch.compile`` or ``DistributedDataParallel``.
        optimizer: Any ``torch.optim.Optimizer`` that holds every masked parameter which requires a gradient.
        masks: Parameter name -> bool tensor; copied.
        updater: The method, such as ``sparseflow.RigL(...)``; ``sparseflow.Static()`` keeps the masks.
        seed: Growth draws from ``stream(seed, "grow")``, saved with the state.
        gradient_fn: Where growth takes its dense gradients from, called at an update after the step: name -> gradient.
            Default: the gradients of the step itself.

    Raises:
        TypeError, ValueError: if a mask does not fit, or the optimizer does not hold a masked parameter.

    >>> import sparseflow as sf
    >>> model = nn.Linear(100, 10)
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    >>> updater = sf.RigL(drop_fraction=0.3, update_every=2)
    >>> sparsifier = sf.Sparsifier(model, optimizer, sf.random_masks(model, 0.9, seed=0), updater, seed=0)
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
        updater: MaskUpdater,
        *,
        seed: int,
        gradient_fn: Callable[[], Mapping[str, Tensor]] | None = None,
    ) -> None:
        # Wrappers of training frameworks (accelerate, Lightning) hold the optimizer that really steps.
        while isinstance(inner := getattr(optimizer, "optimizer", None), torch.optim.Optimizer):
            optimizer = inner
        self.model = unwrap(model)
        known = {name: weight.parameter for name, weight in maskable(model).items()}
        stored = active_weights(self.model)
        check_masks(masks, known | {name: torch.empty(w.weight_shape, device="meta") for name, w in stored.items()})
        self._active = {name: stored[name] for name in masks if name in stored}
        _check_held(optimizer, {name: self._active[name].values if name in stored else known[name] for name in masks})
        check_positions(self._active, masks)
        self.optimizer = optimizer
        self.updater = updater
        self.gradient_fn = gradient_fn
        self._masks: dict[str, Tensor] = {
            name: torch.empty_like(known[name], dtype=torch.bool, requires_grad=False).copy_(mask)
            for name, mask in masks.items()
            if name not in stored
        }
        self.masks: Mapping[str, Tensor] = LiveMasks(masks, self._masks, self._active) if self._active else self._masks
        """Parameter name -> bool tensor, now."""
        self.step_count = 0
        """Optimizer steps taken; an update that replaces a step does not count."""
        self.before_update: list[Callable[[int], None]] = []
        """Called with the step count just before masks change."""
        self.after_update: list[Callable[[int, Mapping[str, MaskUpdate]], None]] = []
        """Called with the step count and every layer's change just after."""
        self._parameters = {name: known[name] for name in self._masks}
        self._counts = {name: int(mask.sum()) for name, mask in masks.items()}
        self._generator = stream(seed, "grow")
        self._gradient_mean: dict[str, Tensor] = {}
        self._dense_gradients: dict[str, tuple[Tensor, Tensor]] | None = None
        self._learning_rates = [_initial_rate(group) for group in optimizer.param_groups]
        self._last_update = -1
        self._parked: list[tuple[nn.Parameter, Tensor]] | None = None
        self._step_ran_dense = False
        self._elementwise = _keeps_zeros(optimizer, self._parameters.values())
        if self._active and isinstance(optimizer, torch.optim.LBFGS) and not isinstance(updater, Static):
            raise ValueError(
                "LBFGS remembers directions over all weights together, and active weights that are stored alone move. "
                "Use Static() or another optimizer, or keep the model masked."
            )
        self._apply_masks_()
        self._watch()
        self._handles = [
            optimizer.register_step_pre_hook(self._before_step),
            optimizer.register_step_post_hook(self._after_step),
        ]

    # -- what a loop may call ------------------------------------------------------------------------------------

    @torch.no_grad()
    def mask_gradients_(self) -> None:
        """Zero the gradients of inactive weights; idempotent. What growth needs of them is kept until the step.

        Call it after the last backward of a step, and after ``scaler.unscale_`` where there is a scaler.
        """
        if self._grows_by_step_gradients() and (self.updater.gradient_decay or self._update_follows()):
            self._keep_dense_gradients()
        self._mask_gradients_()

    def check(self) -> None:
        """Prove every promise at this moment, see :func:`sparseflow.check`."""
        check(self.model, self.optimizer, self._masks, active_counts=self._counts)
        for name, weight in self._active.items():
            if (count := weight.values.numel()) != self._counts[name]:
                raise BrokenPromiseError(f"{name!r} has {count} active weights, it must have {self._counts[name]}.")

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
        """Continue bit for bit.

        Make the Sparsifier (which zeroes weights off the masks it is given), then load the model's state, the
        optimizer's, and this one last.

        Raises:
            ValueError: if the state is of other masks.
        """
        missing = _STATE_KEYS - set(state)
        if missing:
            raise ValueError(f"this is no Sparsifier state: it lacks {', '.join(sorted(missing))}.")
        if set(state["masks"]) != set(self.masks):
            different = ", ".join(sorted(set(state["masks"]) ^ set(self.masks)))
            raise ValueError(f"the state was saved with masks of other weights; they differ in: {different}.")
        dense = {name: mask for name, mask in state["masks"].items() if name not in self._active}
        check_masks(dense, self._parameters)
        check_positions(self._active, state["masks"])
        for name, mask in dense.items():
            self._masks[name].copy_(mask)
        self._counts = {name: int(mask.sum()) for name, mask in state["masks"].items()}
        self.step_count = int(state["step_count"])
        self._last_update = int(state["last_update"])
        self._generator.set_state(state["generator"].cpu())
        devices = {name: parameter.device for name, parameter in self._parameters.items()}
        self._gradient_mean = {
            name: mean.to(devices.get(name, mean.device), copy=True) for name, mean in state["gradient_mean"].items()
        }
        self._learning_rates = list(state["learning_rates"])
        self._dense_gradients = None
        self._apply_masks_()
        self._watch()

    # -- what the optimizer calls --------------------------------------------------------------------------------

    @torch.no_grad()
    def _before_step(
        self, optimizer: torch.optim.Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        args = args[1:] if args and args[0] is optimizer else args
        closure = kwargs.get("closure", args[0] if args else None)
        if self._step_is_skipped():
            return None
        if closure is not None:
            if self.updater.replaces_step:
                raise ValueError("replaces_step=True cannot skip a step that runs a closure; use replaces_step=False.")
            return self._with_masked_closure(closure, args, kwargs)
        masked_before = self._dense_gradients is not None
        self._observe_gradients()
        if self.updater.replaces_step and self._replacement_due():
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
            self._mask_gradients_()
        return None

    def _with_masked_closure(
        self, closure: Callable[[], Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        evaluations = 0

        def masked() -> Any:
            nonlocal evaluations
            if not self._elementwise:
                self._apply_masks_()  # a search direction of LBFGS remembers weights that were dropped since
            self._dense_gradients = None
            with torch.enable_grad():
                loss = closure()
            with torch.no_grad():
                if evaluations == 0:
                    self._observe_gradients()
                evaluations += 1
                if self._update_reads_step():
                    self._keep_dense_gradients()
                self._mask_gradients_()
            return loss

        if "closure" in kwargs:
            return (self.optimizer, *args), {**kwargs, "closure": masked}
        return (self.optimizer, masked, *args[1:]), kwargs

    @torch.no_grad()
    def _after_step(self, optimizer: torch.optim.Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self._step_is_skipped():
            self._apply_masks_()  # fused SGD makes its buffers from uninitialised memory before its kernel skips
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
            self._apply_masks_()
        self._step_ran_dense = False
        if not self.updater.replaces_step and self.updater.due(self.step_count):
            self._update()
        self._dense_gradients = None
        self._watch()

    # -- how ----------------------------------------------------------------------------------------------------

    def _update(self) -> None:
        for call in self.before_update:
            call(self.step_count)
        # Everything is computed from a consistent state, and checked by the updater, before the first mask is written.
        proposed = dict(self._proposals(self._growth_gradients()))
        changes: dict[str, MaskUpdate] = {}
        for name, new in proposed.items():
            weight = self._active.get(name)
            if self.after_update:
                before = self.masks[name].clone()
            if weight is None:
                self._masks[name].copy_(new)
                self._counts[name] = count_true(new)
            else:
                move_(weight, new, self.optimizer)
                self._counts[name] = len(new)
            if self.after_update:
                changes[name] = changed(before, self.masks[name])
        self._last_update = self.step_count
        self._dense_gradients = None
        self._apply_masks_()
        self._mask_gradients_()
        for notify in self.after_update:
            notify(self.step_count, changes)

    def _proposals(self, gradients: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
        """Each weight's new mask; of those that are stored as active values, their new positions."""
        arguments: dict[str, Any] = {"step": self.step_count, "generator": self._generator}
        if not self._active:
            yield from self.updater.update(self._layers(self._masks, gradients), **arguments)
        elif isinstance(self.updater, ActiveUpdater):
            for name in self.masks:  # in the order of the masks, as every draw is
                if name in self._active:
                    yield from self.updater.update_active(self._active_layers(name, gradients), **arguments)
                else:
                    yield from self.updater.update(self._layers([name], gradients), **arguments)
        else:
            for name, mask in self.updater.update(self._layers(self.masks, gradients), **arguments):
                yield name, mask.view(-1).nonzero().squeeze(1) if name in self._active else mask

    def _layers(self, names: Iterable[str], gradients: Mapping[str, Tensor]) -> Iterator[LayerState]:
        rates = self._learning_rate_ratios()
        for name in names:
            if name in self._active:
                yield from (as_dense(layer) for layer in self._active_layers(name, gradients))
                continue
            parameter = self._parameters[name]
            if not parameter.requires_grad or (self.updater.needs_gradient and name not in gradients):
                continue
            ratio = rates.get(id(parameter), 1.0)
            yield LayerState(name, parameter.detach(), self._masks[name], gradients.get(name), ratio)

    def _active_layers(self, name: str, gradients: Mapping[str, Tensor]) -> Iterator[ActiveLayer]:
        """The layer, unless it sits the update out."""
        weight = self._active[name]
        values = weight.values
        rows: Callable[[int, int], Tensor] | None = None
        if self.updater.needs_gradient:
            given = gradients.get(name)
            rows = weight.gradient_rows() if given is None else (lambda first, last: given[first:last])
        if values.requires_grad and not (self.updater.needs_gradient and rows is None):
            ratio = self._learning_rate_ratios().get(id(values), 1.0)
            yield ActiveLayer(name, weight.weight_shape, weight.positions(), values.detach(), values.grad, rows, ratio)

    def _learning_rate_ratios(self) -> dict[int, float]:
        return {
            id(parameter): (float(group["lr"]) / initial if initial else 1.0)
            for group, initial in zip(self.optimizer.param_groups, self._learning_rates, strict=False)
            for parameter in group["params"]
        }

    def _watch(self) -> None:
        """Let stored weights keep what the next step's dense gradient is made of, if growth will look at it."""
        keep = self._grows_by_step_gradients() and (bool(self.updater.gradient_decay) or self._update_follows())
        for weight in self._active.values():
            weight.keep_gradients(keep)

    def _growth_gradients(self) -> Mapping[str, Tensor]:
        if not self.updater.needs_gradient:
            return {}
        if self.gradient_fn is not None:
            with torch.enable_grad():
                given = self.gradient_fn()
            if not self.masks.keys() & given.keys():
                needed, got = ", ".join(self.masks), ", ".join(given)
                raise ValueError(f"gradient_fn names no masked weight. Needed: {needed}; got: {got}.")
            return {name: given[name].detach() for name in self.masks if name in given}
        if self.updater.gradient_decay:
            return self._gradient_mean
        if self._dense_gradients is not None:
            return {name: dense for name, (_, dense) in self._dense_gradients.items()}
        return {name: p.grad for name, p in self._parameters.items() if p.grad is not None}

    def _grows_by_step_gradients(self) -> bool:
        return self.updater.needs_gradient and self.gradient_fn is None

    def _update_reads_step(self) -> bool:
        """Whether the next step's own dense gradient decides what grows right after it."""
        return self._grows_by_step_gradients() and not self.updater.gradient_decay and self._update_follows()

    def _leaves_gradients_alone(self) -> bool:
        """Whether gradients survive a dense step; Nesterov's foreach version adds the momentum to them in place."""
        return self._elementwise and not any(group.get("nesterov") for group in self.optimizer.param_groups)

    def _update_follows(self) -> bool:
        """Whether masks change right after, or instead of, the next optimizer step."""
        return self._replacement_due() if self.updater.replaces_step else self.updater.due(self.step_count + 1)

    def _replacement_due(self) -> bool:
        return self.updater.due(self.step_count) and self._last_update != self.step_count

    def _keep_dense_gradients(self) -> None:
        """Copy dense gradients before they are masked; a copy of an older backward pass is replaced."""
        kept = self._dense_gradients or {}
        self._dense_gradients = {}
        for name, parameter in self._parameters.items():
            if parameter.grad is None:
                continue
            source, dense = kept.get(name, (None, None))
            # Masked already, and not written to off the mask since: the copy is of this very gradient.
            if dense is None or source is not parameter.grad or bool((parameter.grad[~self._masks[name]] != 0).any()):
                dense = parameter.grad.clone()
            self._dense_gradients[name] = (parameter.grad, dense)

    def _observe_gradients(self) -> None:
        """Running mean of the dense gradient, for methods that grow by momentum."""
        decay = self.updater.gradient_decay
        if self._dense_gradients is not None:
            self._keep_dense_gradients()  # masked already: look at what was there before
        if not decay or not self._grows_by_step_gradients():
            return
        kept = self._dense_gradients or {}
        scale = getattr(self.optimizer, "grad_scale", None)
        for name, parameter in self._parameters.items():
            if parameter.grad is not None:
                mean = self._gradient_mean.setdefault(name, torch.zeros_like(parameter.grad))
                gradient = kept[name][1] if name in kept else parameter.grad
                gradient = gradient if scale is None else gradient / scale
                mean.mul_(decay).add_(gradient, alpha=1 - decay)
        for name, weight in self._active.items():
            if (rows := weight.gradient_rows()) is not None:
                shape = weight.weight_shape
                mean = self._gradient_mean.setdefault(name, torch.zeros(shape, dtype=weight.values.dtype))
                for first, last in row_parts(shape):
                    gradient = rows(first, last) if scale is None else rows(first, last) / scale
                    mean[first:last].mul_(decay).add_(gradient, alpha=1 - decay)

    def _mask_gradients_(self) -> None:
        for name, parameter in self._parameters.items():
            if parameter.grad is not None:
                if parameter.grad.layout != torch.strided:
                    raise ValueError(f"{name!r} has a sparse gradient tensor; make its embedding with sparse=False.")
                zero_inactive_(parameter.grad, self._masks[name])

    def _apply_masks_(self) -> None:
        with torch.no_grad():
            for name, parameter in self._parameters.items():
                zero_inactive_(parameter.data, self._masks[name])
                for _, state in per_weight_state(self.optimizer, parameter):
                    zero_inactive_(state, self._masks[name])

    def _step_is_skipped(self) -> bool:
        """Fused optimizers are called even when ``GradScaler`` found an overflow, and skip inside the kernel."""
        found = getattr(self.optimizer, "found_inf", None)
        return isinstance(found, Tensor) and bool(found.item())


def _keeps_zeros(optimizer: torch.optim.Optimizer, parameters: Iterable[Tensor]) -> bool:
    """Whether a step leaves a zero weight with zero gradient and state at zero; without an ``eps``, 0 / 0 is NaN."""
    if type(optimizer) not in _ELEMENTWISE:
        return False
    smallest = min(float(group.get("eps", 1.0)) for group in optimizer.param_groups)
    return all(float(torch.tensor(smallest, dtype=parameter.dtype)) > 0 for parameter in parameters)


def _initial_rate(group: Mapping[str, Any]) -> float:
    return float(group.get("initial_lr", group["lr"]))


def _check_held(optimizer: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter]) -> None:
    held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    for name, parameter in parameters.items():
        if parameter.requires_grad and id(parameter) not in held:
            raise ValueError(
                f"the optimizer does not hold {name!r}, so its mask could not be kept. Add it with "
                "optimizer.add_param_group, freeze it with requires_grad_(False), or leave it out with exclude=."
            )
