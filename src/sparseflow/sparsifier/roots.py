"""Square roots of second moments at full speed where most of them are zero.

torch takes roots on a CPU by Intel's vector mathematics, whose fast loop leaves out zero and denormal numbers: each
goes through a slow path, and a tensor with 90 % zeros takes several times as long. The second moments of a masked
weight are zero wherever it is inactive. So for the time of a step they get a ``sqrt`` of their own, which takes zeros
as the smallest normal number: its root is about 1e-19 in float32, of which nothing is left once the optimizer adds its
``eps``. The steps are the same to the last bit.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from sparseflow import attached

#: torch's optimizers -> the state of which they take the root, just before they add ``eps``.
ROOTS: dict[type[torch.optim.Optimizer], tuple[str, ...]] = {
    torch.optim.Adam: ("exp_avg_sq", "max_exp_avg_sq"),
    torch.optim.AdamW: ("exp_avg_sq", "max_exp_avg_sq"),
    torch.optim.RAdam: ("exp_avg_sq",),
    torch.optim.RMSprop: ("square_avg",),
    torch.optim.Adagrad: ("sum",),
}
#: Fewest entries worth a second call of torch.
SMALLEST = 1 << 12


class QuickRoots:
    """Quick roots in the steps of an optimizer, for the weights that a Sparsifier holds; ``remove()`` undoes it."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self._optimizer = optimizer
        self._handles: list[RemovableHandle] = []
        if type(optimizer) in ROOTS:
            self._handles = [
                optimizer.register_step_pre_hook(lambda each, _args, _kwargs: _begin(each)),
                optimizer.register_step_post_hook(lambda each, _args, _kwargs: _end(each)),
                # A step that raised has no end.
                optimizer.register_state_dict_pre_hook(_end),
            ]

    def remove(self) -> None:
        """Leave the optimizer as it was."""
        for handle in self._handles:
            handle.remove()
        _end(self._optimizer)


def quick_root(squares: Tensor) -> Tensor:
    """The roots of numbers that are not negative, those below the smallest normal number taken as that.

    >>> quick_root(torch.tensor([4.0, 0.0]))
    tensor([2.0000e+00, 1.0842e-19])
    """
    return squares.clamp_min(torch.finfo(squares.dtype).tiny).sqrt_()


def is_lost(group: dict[str, Any], dtype: torch.dtype) -> bool:
    """Whether nothing is left of the root of the smallest normal number when a parameter group's ``eps`` is added.

    >>> [is_lost({"eps": eps, "betas": (0.9, 0.999)}, torch.float32) for eps in (1e-8, 1e-16)]
    [True, False]
    """
    number = torch.finfo(dtype)
    # Adam divides the root by that of 1 - beta ** step, which is smallest at the first.
    correction = (1 - float(group["betas"][1])) ** 0.5 if "betas" in group else 1.0
    return bool(number.tiny**0.5 / max(correction, number.tiny) < number.eps / 4 * float(group["eps"]))


def _begin(optimizer: torch.optim.Optimizer) -> None:
    if torch.compiler.is_compiling():
        return
    for group in optimizer.param_groups:
        if group.get("foreach") or group.get("fused") or group.get("differentiable"):
            continue  # these call no method of a tensor
        for parameter in group["params"]:
            if attached.holder_of(parameter) is not None:
                for squares in _second_moments(optimizer, parameter):
                    if _is_slow(squares) and is_lost(group, squares.dtype):
                        squares.sqrt = partial(quick_root, squares)  # type: ignore[method-assign]


def _end(optimizer: torch.optim.Optimizer) -> None:
    # State with attributes is no plain tensor to torch.save.
    for parameter in optimizer.state:
        for squares in _second_moments(optimizer, parameter):
            vars(squares).pop("sqrt", None)


def _second_moments(optimizer: torch.optim.Optimizer, parameter: Tensor) -> list[Tensor]:
    state = optimizer.state.get(parameter, {})
    found = [state[name] for name in ROOTS.get(type(optimizer), ()) if name in state]
    return [tensor for tensor in found if type(tensor) is Tensor]


def _is_slow(squares: Tensor) -> bool:
    return (
        squares.is_cpu
        and squares.dtype in (torch.float32, torch.float64)
        and squares.layout == torch.strided
        and squares.numel() >= SMALLEST
    )
