"""Optimizers around optimizers: which of them takes the whole step, and how to be called before and after it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

import torch
from torch import Tensor

from sparseflow.sparsifier.tensors import chain, inner_optimizers
from sparseflow.sparsifier.throwaway import STEPS_OF_WRAPPERS, CannotTryError, Trial, phases, undisturbed

Before = Callable[[Any, tuple[Any, ...], dict[str, Any]], tuple[tuple[Any, ...], dict[str, Any]] | None]
After = Callable[[Any, tuple[Any, ...], dict[str, Any]], None]

#: Wrappers that decide whether to step and write nothing afterwards; they cannot be made a second time.
_PASS_ON = ("accelerate.", "lightning.", "lightning_fabric.", "pytorch_lightning.")

#: Qualified name of a class -> why its weights cannot be masked, and what to use instead.
REFUSED = {
    "torch.optim.sparse_adam.SparseAdam": (
        "takes sparse gradient tensors only, and masks need dense ones. Use torch.optim.Adam and make the embedding "
        "with sparse=False"
    ),
    "pytorch_optimizer.optimizer.lomo.LOMO": "updates weights inside backward(), before masks can act. Use SGD",
    "pytorch_optimizer.optimizer.lomo.AdaLOMO": (
        "updates weights inside backward(), before masks can act. Use torch.optim.Adafactor"
    ),
    "pytorch_optimizer.optimizer.fp16.SafeFP16Optimizer": (
        "steps on float32 copies of the weights and writes these back. Keep the weights in float32, and use "
        "torch.autocast with torch.amp.GradScaler"
    ),
    "pytorch_optimizer.optimizer.sam.GSAM": (
        "computes gradients inside step(), where masks cannot act. Use pytorch_optimizer.SAM"
    ),
    "pytorch_optimizer.optimizer.sam.BSAM": (
        "moves every weight by noise before it computes gradients, so that they are a dense network's. Use "
        "pytorch_optimizer.SAM"
    ),
    "torchao.optim.cpu_offload.CPUOffloadOptimizer": (
        "steps on copies of the weights on the CPU and writes these back. Use torchao.optim.AdamW8bit to save memory"
    ),
}


def stepping(optimizer: Any) -> Any:
    """The optimizer whose step is the whole step: one that nothing writes to the weights after.

    Wrappers that only pass the call on (accelerate's, Lightning's) are looked through; they may skip a step. Others
    (Lookahead, SAM, ``ZeroRedundancyOptimizer``) are the answer themselves.

    Raises:
        TypeError: if it is no optimizer.
        ValueError: naming an optimizer whose steps cannot be followed, and what to use instead.

    >>> optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))])
    >>> stepping(optimizer) is optimizer
    True
    """
    if (reason := REFUSED.get(_qualified(optimizer))) is not None:
        raise ValueError(f"{type(optimizer).__name__} {reason}.")
    if getattr(optimizer, "_overlap_with_ddp", False):
        raise ValueError(
            "ZeroRedundancyOptimizer steps inside the hooks of DistributedDataParallel here, before masks can act. "
            "Make it with overlap_with_ddp=False."
        )
    if has_step_hooks(optimizer) or phases(optimizer):
        return optimizer
    inner = inner_optimizers(optimizer) if hasattr(optimizer, "__dict__") else []
    if len(inner) > 1:
        raise ValueError(
            f"{type(optimizer).__name__} holds {len(inner)} optimizers and runs no step hooks of its own. Give the "
            "Sparsifier the list of them, if nothing else writes to the weights."
        )
    if not inner:
        raise TypeError(
            f"optimizer must be a torch.optim.Optimizer whose step() runs its hooks, got {type(optimizer).__name__}, "
            "which is none and holds none."
        )
    if not _writes_afterwards(optimizer):
        return stepping(inner[0])
    if not hasattr(optimizer, "param_groups") or not hasattr(optimizer, "state"):
        raise ValueError(
            f"{type(optimizer).__name__} writes to weights after the optimizer inside has stepped, and has no "
            "param_groups and state by which to follow it. Give it these two, those of the optimizer inside, or make "
            "it a torch.optim.Optimizer."
        )
    return optimizer


def has_step_hooks(optimizer: Any) -> bool:
    """Whether functions given to ``register_step_pre_hook`` and ``register_step_post_hook`` are called, or can be.

    >>> has_step_hooks(torch.optim.SGD([torch.nn.Parameter(torch.ones(1))]))
    True
    """
    held = getattr(optimizer, "__dict__", {})  # not by getattr: wrappers hand on what they lack
    return (
        isinstance(optimizer, torch.optim.Optimizer)
        and "_optimizer_step_pre_hooks" in held
        and "_optimizer_step_post_hooks" in held
    )


def listen(optimizer: Any, before: Before, after: After, mask_gradients: Callable[[], None]) -> list[Any]:
    """Have functions called before and after each whole step.

    Args:
        optimizer: As :func:`stepping` gives it.
        before: As ``register_step_pre_hook`` takes it.
        after: As ``register_step_post_hook`` takes it.
        mask_gradients: Called before each phase but the last of a step in phases: a perturbation moves active weights
            only.

    Returns: handles with a method ``remove``.

    >>> optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))])
    >>> handles = listen(optimizer, lambda *_: print("before"), lambda *_: print("after"), lambda: None)
    >>> optimizer.step()
    before
    after
    >>> for handle in handles: handle.remove()
    """
    if names := phases(optimizer):
        early = [_Replaced(optimizer, name, lambda *_: mask_gradients(), None) for name in names[:-1]]
        return [*early, _Replaced(optimizer, names[-1], lambda o, *_: before(o, (), {}) and None, after)]
    if not has_step_hooks(optimizer):
        return [_Replaced(optimizer, "step", before, after)]
    if not getattr(type(optimizer).step, "hooked", False):
        optimizer._patch_step_function()  # a wrapper that did not let Optimizer.__init__ do it
    return [optimizer.register_step_pre_hook(before), optimizer.register_step_post_hook(after)]


class _Replaced:
    """A method of one object, replaced by one that calls others before and after it."""

    def __init__(self, owner: Any, name: str, before: Before, after: After | None) -> None:
        self._owner, self._name, self._before, self._after = owner, name, before, after
        self._method, self._was_own = getattr(owner, name), name in vars(owner)
        setattr(owner, name, self)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if (changed := self._before(self._owner, args, kwargs)) is not None:
            args, kwargs = changed[0][1:], changed[1]
        result = self._method(*args, **kwargs)
        if self._after is not None:
            self._after(self._owner, args, kwargs)
        return result

    def __deepcopy__(self, memo: dict[int, Any]) -> NoReturn:
        raise TypeError(
            f"a {type(self._owner).__name__} that a Sparsifier follows cannot be copied: its {self._name} would "
            "step the old weights. Call sparsifier.remove() first, and make a Sparsifier(..., "
            "state=sparsifier.state_dict()) with the copy."
        )

    def remove(self) -> None:
        """Put the method back."""
        if self._was_own:
            setattr(self._owner, self._name, self._method)
        else:
            vars(self._owner).pop(self._name, None)


def _qualified(optimizer: Any) -> str:
    return f"{type(optimizer).__module__}.{type(optimizer).__qualname__}"


def _writes_afterwards(wrapper: Any) -> bool:
    """Whether a wrapper writes to weights after the optimizer inside has stepped; tried out on a few weights."""
    if any(each.__module__.startswith(_PASS_ON) for each in type(wrapper).__mro__):
        return False
    groups = (group for each in chain(wrapper) for group in vars(each).get("param_groups", ()))
    parameter = next((held for group in groups for held in group["params"]), None)
    if parameter is None:
        return False
    generator, like = torch.Generator().manual_seed(0), parameter

    def normal() -> Tensor:
        return torch.randn(4, 4, generator=generator).to(like.device, like.dtype)

    left: list[Tensor] = []
    with undisturbed(parameter.device), torch.no_grad():
        try:
            trial = Trial(wrapper, parameter, normal())
            for _ in range(STEPS_OF_WRAPPERS):
                inside = chain(trial.optimizer)[-1]
                handle = inside.register_step_post_hook(lambda *_: left.append(trial.weight.detach().clone()))
                left.clear()
                trial.step(normal())
                handle.remove()
                if left and not torch.equal(left[-1], trial.weight):
                    return True
        except CannotTryError:
            return hasattr(wrapper, "param_groups") and hasattr(wrapper, "state")  # the outermost step is safe
    return False
