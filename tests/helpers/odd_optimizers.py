"""Small optimizers, one for each way in which real ones keep state or write to weights; each names its real kin."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

Params = Iterable[Any]


class Odd(torch.optim.Optimizer):
    """One parameter at a time; ``move`` returns what to subtract from it, before the learning rate."""

    def __init__(self, params: Params, lr: float = 0.05) -> None:
        super().__init__(params, {"lr": lr})

    def move(self, parameter: Tensor, gradient: Tensor, state: dict[str, Any]) -> Tensor:
        raise NotImplementedError

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    moved = self.move(parameter, parameter.grad, self.state[parameter])
                    parameter.sub_(moved.view_as(parameter), alpha=group["lr"])
        return loss


class Rotated(Odd):
    """As SOAP: the second moment is in a basis that is learnt, and has the weight's shape."""

    def move(self, parameter: Tensor, gradient: Tensor, state: dict[str, Any]) -> Tensor:
        if not state:
            state["covariance"] = torch.zeros(gradient.shape[0], gradient.shape[0], dtype=gradient.dtype)
            state["square"] = torch.zeros_like(gradient)
        state["covariance"].mul_(0.9).add_(gradient @ gradient.T, alpha=0.1)
        basis = torch.linalg.eigh(state["covariance"])[1]
        turned = basis.T @ gradient
        state["square"].mul_(0.9).add_(turned**2, alpha=0.1)
        return basis @ (turned / (state["square"].sqrt() + 1e-3))


class Factored(Odd):
    """As Adafactor: rows and columns of the second moment, and a momentum of weights."""

    def move(self, parameter: Tensor, gradient: Tensor, state: dict[str, Any]) -> Tensor:
        if not state:
            state.update(row=gradient.new_zeros(len(gradient), 1), column=gradient.new_zeros(1, gradient.shape[1]))
            state["momentum"] = torch.zeros_like(gradient)
        state["row"].mul_(0.9).add_((gradient**2).mean(1, keepdim=True), alpha=0.1)
        state["column"].mul_(0.9).add_((gradient**2).mean(0, keepdim=True), alpha=0.1)
        scale = (state["row"] * state["column"] / state["row"].mean()).sqrt() + 1e-3
        return state["momentum"].mul_(0.9).add_(gradient / scale, alpha=0.1)


class Moments:
    """State in an object."""

    def __init__(self, like: Tensor) -> None:
        self.square = torch.zeros_like(like)


class Nested(Odd):
    """As AggMo and Kron: state in lists, dicts and objects, one of them flattened, two stacked in one tensor."""

    def move(self, parameter: Tensor, gradient: Tensor, state: dict[str, Any]) -> Tensor:
        if not state:
            state["momenta"] = [torch.zeros_like(gradient), {"slow": torch.zeros_like(gradient).view(-1)}]
            state["moments"] = Moments(gradient)
            state["stacked"] = torch.zeros(2, *gradient.shape, dtype=gradient.dtype)
        fast, slow = state["momenta"][0], state["momenta"][1]["slow"]
        fast.mul_(0.5).add_(gradient, alpha=0.5)
        slow.mul_(0.9).add_(gradient.view(-1), alpha=0.1)
        state["moments"].square.mul_(0.9).add_(gradient**2, alpha=0.1)
        state["stacked"].mul_(0.5).add_(gradient)
        return (fast + slow.view_as(fast) + state["stacked"].sum(0)) / (state["moments"].square.sqrt() + 1e-3)


class Bytes(Odd):
    """As bitsandbytes: momentum in bytes, of which 128 is zero and 1 the most negative; one scale for 16 entries."""

    def move(self, parameter: Tensor, gradient: Tensor, state: dict[str, Any]) -> Tensor:
        if not state:
            state["codes"] = torch.full(gradient.shape, 128, dtype=torch.uint8)
            state["scales"] = torch.zeros(-(-gradient.numel() // 16), 1, dtype=gradient.dtype)
        momentum = (state["codes"].view(-1, 16) - 128.0) / 127 * state["scales"]
        momentum = 0.9 * momentum.to(gradient.dtype) + 0.1 * gradient.reshape(-1, 16)
        state["scales"] = momentum.abs().amax(1, keepdim=True)
        scaled = momentum / state["scales"].clamp(min=1e-30)
        state["codes"].copy_((scaled * 127 + 128).round().view_as(state["codes"]))
        return momentum


class HalfBytes(Odd):
    """As torchao's 4-bit state: two entries a byte, the first in the upper half; 8 is zero."""

    def move(self, parameter: Tensor, gradient: Tensor, state: dict[str, Any]) -> Tensor:
        if not state:
            state["codes"] = torch.full((gradient.numel() // 2,), 0x88, dtype=torch.uint8)
            state["scale"] = torch.zeros(1, dtype=gradient.dtype)
        codes = torch.stack([state["codes"] >> 4, state["codes"] & 15], 1).view(-1)
        momentum = 0.9 * (codes.to(gradient.dtype) - 8) / 7 * state["scale"] + 0.1 * gradient.view(-1)
        state["scale"] = momentum.abs().max().view(1)
        codes = (momentum / state["scale"].clamp(min=1e-30) * 7 + 8).round().to(torch.uint8).view(-1, 2)
        state["codes"].copy_(codes[:, 0] << 4 | codes[:, 1])
        return momentum


class StepSizes(Odd):
    """As Rprop and delta-bar-delta: a gain for each weight, which starts at 1 and shrinks without agreement."""

    def move(self, parameter: Tensor, gradient: Tensor, state: dict[str, Any]) -> Tensor:
        if not state:
            state.update(gain=torch.ones_like(gradient), before=torch.zeros_like(gradient))
        agree = gradient * state["before"] > 0
        state["gain"] = torch.where(agree, state["gain"] + 0.1, state["gain"] * 0.9)
        state["before"] = gradient.clone()
        return gradient * state["gain"]


class Indices(Odd):
    """State that names places: an order of all entries in the weight's shape, and the largest few, sparse."""

    def move(self, parameter: Tensor, gradient: Tensor, state: dict[str, Any]) -> Tensor:
        flat = gradient.abs().view(-1)
        state["order"] = flat.argsort(descending=True, stable=True).view_as(gradient)
        top = state["order"].view(-1)[: len(flat) // 4]
        state["largest"] = torch.sparse_coo_tensor(top[None], gradient.view(-1)[top], (len(flat),)).coalesce()
        state["steps"] = state.get("steps", torch.zeros_like(gradient, dtype=torch.int64)) + (gradient != 0)
        move = torch.zeros_like(gradient).view(-1)
        return move.index_copy_(0, top, gradient.view(-1)[top])


class Elsewhere(Odd):
    """Momentum in an attribute, not in ``state``."""

    def __init__(self, params: Params, lr: float = 0.05) -> None:
        super().__init__(params, lr)
        self.momenta: dict[Tensor, Tensor] = {}

    def move(self, parameter: Tensor, gradient: Tensor, state: dict[str, Any]) -> Tensor:
        momentum = self.momenta.setdefault(parameter, torch.zeros_like(gradient))
        return momentum.mul_(0.5).add_(gradient)


class Chosen(Odd):
    """As SaRA: a bool tensor chooses entries at the first step, and the momentum has as many entries as it chooses."""

    def move(self, parameter: Tensor, gradient: Tensor, state: dict[str, Any]) -> Tensor:
        if not state:
            state["chosen"] = parameter.abs() <= parameter.abs().mean()
            state["momentum"] = torch.zeros_like(gradient[state["chosen"]])
        state["momentum"].mul_(0.9).add_(gradient[state["chosen"]], alpha=0.1)
        return torch.zeros_like(gradient).masked_scatter_(state["chosen"], state["momentum"])


class Averaged(Odd):
    """As SPlus: steps that mix weights, an average of them that is taken inside the step, and ``eval`` to use it."""

    def move(self, parameter: Tensor, gradient: Tensor, state: dict[str, Any]) -> Tensor:
        average = state.setdefault("average", parameter.detach().clone())
        moved = gradient + gradient.mean(0, keepdim=True)
        average.lerp_(parameter - 0.05 * moved, 0.1)
        return moved

    @torch.no_grad()
    def eval(self) -> None:
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.copy_(self.state[parameter]["average"])


class LateMixing(Odd):
    """As optimizers that begin to precondition after a while: from the eighth step on rows share their momentum."""

    def move(self, parameter: Tensor, gradient: Tensor, state: dict[str, Any]) -> Tensor:
        state["step"] = state.get("step", 0) + 1
        momentum = state.setdefault("momentum", torch.zeros_like(gradient))
        if state["step"] >= 8:
            gradient = gradient + gradient.mean(0, keepdim=True)
        return momentum.mul_(0.9).add_(gradient, alpha=0.1)


class Unrepeatable(Odd):
    """As bitsandbytes' SGD and Ranger21: its constructor needs what it does not keep."""

    def __init__(self, params: Params, schedule: Callable[[int], float]) -> None:
        super().__init__(params, schedule(0))

    def move(self, parameter: Tensor, gradient: Tensor, state: dict[str, Any]) -> Tensor:
        return state.setdefault("momentum", torch.zeros_like(gradient)).mul_(0.9).add_(gradient, alpha=0.1)


class Uncopyable(Unrepeatable):
    """Holds what cannot be copied either, as those that step in a thread."""

    def __init__(self, params: Params, schedule: Callable[[int], float]) -> None:
        super().__init__(params, schedule)
        self.lock = threading.Lock()


#: Those whose step under masks equals masking by hand to the last bit.
ODD: dict[str, Callable[[Params], Odd]] = {
    **{
        each.__name__: each
        for each in (Rotated, Factored, Nested, Bytes, HalfBytes, StepSizes, Indices, Chosen, Elsewhere)
    },
    "Unrepeatable": lambda params: Unrepeatable(params, lambda _: 0.05),
    "LateMixing": LateMixing,
}


class SAM(torch.optim.Optimizer):
    """As the usual hand-written one: two phases, with a backward pass before each."""

    def __init__(self, params: Params, base_optimizer: type[torch.optim.Optimizer], rho: float = 0.05, **kwargs: Any):
        super().__init__(params, {"rho": rho, **kwargs})
        self.base_optimizer = base_optimizer(self.param_groups, **kwargs)
        self.param_groups = self.base_optimizer.param_groups

    @torch.no_grad()
    def first_step(self, zero_grad: bool = False) -> None:
        held = [p for group in self.param_groups for p in group["params"] if p.grad is not None]
        norm = torch.stack([p.grad.norm() for p in held]).norm() + 1e-12
        for p in held:
            self.state[p]["old_p"] = p.detach().clone()
            p.add_(p.grad, alpha=float(self.param_groups[0]["rho"] / norm))
        if zero_grad:
            self.zero_grad()

    @torch.no_grad()
    def second_step(self, zero_grad: bool = False) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    p.data = self.state[p]["old_p"]
        self.base_optimizer.step()
        if zero_grad:
            self.zero_grad()

    def step(self, closure: Callable[[], Tensor] | None = None) -> None:
        assert closure is not None
        self.first_step(zero_grad=True)
        with torch.enable_grad():
            closure()
        self.second_step()


class Lookahead:
    """As hand-written ones: no optimizer by class, and every third step it writes after the one inside."""

    def __init__(self, optimizer: torch.optim.Optimizer, k: int = 3, alpha: float = 0.5) -> None:
        self.optimizer, self.k, self.alpha, self.count = optimizer, k, alpha, 0
        self.param_groups = optimizer.param_groups
        held = [p for group in self.param_groups for p in group["params"]]
        self.state = {p: {"slow": p.detach().clone()} for p in held}

    def zero_grad(self) -> None:
        self.optimizer.zero_grad()

    @torch.no_grad()
    def step(self) -> None:
        self.optimizer.step()
        self.count += 1
        if self.count % self.k == 0:
            for group in self.param_groups:
                for p in group["params"]:
                    slow = self.state[p]["slow"].lerp_(p, self.alpha)
                    p.copy_(slow)


class Secretive:
    """Writes after the optimizer inside, and shows neither groups nor state."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self._inside = optimizer
        self.optimizer = optimizer

    @torch.no_grad()
    def step(self) -> None:
        self.optimizer.step()
        for group in self.optimizer.param_groups:
            for p in group["params"]:
                p.add_(0.01)
