"""Sign-In: weights trained as products of two factors, by which they cross zero more easily."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from sparseflow.boundary import checked
from sparseflow.ranges import Count, Positive, Range, checked_fields
from sparseflow.sharded import local, shard_like
from sparseflow.sparsifier.kinds import keeps_zeros
from sparseflow.sparsifier.optimizers import weight_states
from sparseflow.sparsifier.rule import Carry, MaskedShape, RuleWeight, StepRule
from sparseflow.sparsifier.tensors import WeightState


class Factors(NamedTuple):
    """Two tensors whose product is a weight."""

    m: Tensor
    w: Tensor


@checked(beta=Range(0, with_low=False))
def balanced_factors(weight: Tensor, *, beta: float = 1.0) -> Factors:
    r"""The factors of a weight whose squares differ by a given number.

    .. math:: m w = \theta, \qquad m^2 - w^2 = \beta, \qquad m > 0

    Args:
        weight: :math:`\theta`, any shape.
        beta: :math:`\beta`, above 0 (the authors: 1).

    Returns: :math:`m = \sqrt{(\beta + \sqrt{\beta^2 + 4 \theta^2}) / 2}` and :math:`w = \theta / m`.

    Reference: Gadhikar, Jacobs, Zhou and Burkholz (2025), *Sign-In to the Lottery*, arXiv 2504.12801.

    >>> balanced_factors(torch.tensor([0.0, -6.0]), beta=5.0)
    Factors(m=tensor([2.2361, 3.0000]), w=tensor([ 0., -2.]))
    """
    m = weight.double().square().mul_(4).add_(beta**2).sqrt_().add_(beta).div_(2).sqrt_().to(weight.dtype)
    return Factors(m, weight / m)


@dataclass
class SignIn(StepRule):
    r"""Let the optimizer step the two factors of each masked weight in its place, and balance them anew now and then.

    .. math:: \theta = m \odot w, \qquad \partial_m L = w \odot g, \qquad \partial_w L = m \odot g

    Small steps of plain gradient descent then move :math:`\theta` by :math:`-\eta \sqrt{\beta^2 + 4 \theta^2}\, g`,
    where :math:`\beta = m^2 - w^2` stays what it is; noise and weight decay take it to zero, and a weight with it, so
    it is set to ``beta`` every ``reset_every`` steps, and for weights that grow, while :math:`\theta` stays.

    :math:`m` is stepped by the optimizer itself and has its state; :math:`w` by a second one of the same kind, which
    has the same settings at each step, so that schedules hold for both. The model's own weights are :math:`\theta`
    whenever it computes, and are all that is left when training ends. Weight decay acts on both factors. Whoever reads
    ``weight.grad`` after the step sees :math:`g`. Memory: two more tensors per weight, and the optimizer's state twice.

    Args:
        reset_every: Optimizer steps from one balancing to the next; the paper counts epochs, so give one or some of
            them in steps.
        beta: :math:`m^2 - w^2` after it, above 0 (the authors: 1).

    Raises:
        TypeError, ValueError: naming the option; or the optimizer, if it is none of torch's own or LBFGS.

    Reference: Gadhikar et al. (2025), NeurIPS, arXiv 2504.12801.

    >>> import sparseflow as sf
    >>> model = torch.nn.Linear(20, 10)
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    >>> masks, rules = sf.random_masks(model, 0.8, seed=0), [sf.rules.SignIn(reset_every=100)]
    >>> sparsifier = sf.Sparsifier(model, optimizer, masks, sf.Static(), seed=0, rules=rules)
    >>> model(torch.randn(8, 20)).square().mean().backward(); optimizer.step()
    """

    replaces_step: ClassVar[bool] = True

    reset_every: Count
    beta: Positive = 1.0
    _m: dict[str, Tensor] = field(default_factory=dict, init=False, repr=False)
    """As the weights are held; zero off the mask, and where a weight is new."""
    _w: dict[str, nn.Parameter] = field(default_factory=dict, init=False, repr=False)
    _seconds: dict[torch.optim.Optimizer, torch.optim.Optimizer] = field(default_factory=dict, init=False, repr=False)
    """Optimizer -> the one that steps the second factors of its weights."""
    _second_of: dict[int, nn.Parameter] = field(default_factory=dict, init=False, repr=False)
    """``id`` of what the optimizers step -> the second factor."""
    _steps: dict[str, int] = field(default_factory=dict, init=False, repr=False)
    _gradients: dict[str, Tensor] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        vars(self).update(checked_fields(self))

    @property
    def optimizers(self) -> Iterable[torch.optim.Optimizer]:
        """Those that step the second factors."""
        return self._seconds.values()

    def attach(self, optimizers: Sequence[torch.optim.Optimizer], shapes: Mapping[str, MaskedShape]) -> None:
        """Make the second optimizers."""
        for optimizer in optimizers:
            if not type(optimizer).__module__.startswith("torch.optim") or isinstance(optimizer, torch.optim.LBFGS):
                raise ValueError(
                    f"Sign-In steps a second optimizer of the same kind beside {type(optimizer).__name__}, which it "
                    "can with those of torch.optim that do not evaluate their closure more than once. Use SGD or AdamW."
                )
        self._m = {name: torch.zeros_like(shape.parameter.detach()) for name, shape in shapes.items()}
        self._w = {name: nn.Parameter(torch.zeros_like(m)) for name, m in self._m.items()}
        self._steps = dict.fromkeys(shapes, 0)
        self._second_of = {id(shape.parameter): self._w[name] for name, shape in shapes.items()}
        self._seconds = {optimizer: copy.copy(optimizer) for optimizer in optimizers}  # without its hooks
        for optimizer, second in self._seconds.items():
            second.state = defaultdict(dict)
            _follow_(second, optimizer, self._second_of)

    def masks_changed(self, carry: Mapping[str, Carry], shapes: Mapping[str, MaskedShape]) -> None:
        """Move what stays along, and forget the rest."""
        for name, moved in carry.items():
            m, w, states = self._m[name], self._w[name], self._states(name)
            if moved.source is None:
                for tensor in (m, w.detach()):
                    local(tensor).masked_fill_(~moved.stays, 0)  # by a product it could be -0.0
                for state in states:
                    state.reset_(moved.stays)
            else:
                self._m[name], w.data = moved(m), moved(w.detach())
                for state in states:
                    fresh = state.tensor.new_full(moved.stays.shape, state.fresh)
                    state.tensor.data = fresh.masked_scatter_(moved.stays, state.tensor[moved.source])

    def before_step(self, weights: Sequence[RuleWeight]) -> None:
        """Put the first factors and their gradients in the places of the weights and theirs."""
        for weight in weights:
            if name := weight.name:
                self._balance(weight)
                m, w = local(self._m[name]), local(self._w[name].detach())
                gradient = weight.gradient
                self._gradients[name] = gradient.clone()
                self._w[name].grad = second = torch.zeros_like(self._w[name])
                local(second).copy_(m * gradient)
                gradient.mul_(w)
                weight.value.copy_(m)

    def after_step(self, weights: Sequence[RuleWeight]) -> None:
        """Step the second factors, and put the products back."""
        masked = [weight for weight in weights if weight.name]
        if not masked:
            return
        second = self._seconds[masked[0].optimizer]
        _follow_(second, masked[0].optimizer, self._second_of)
        second.step()
        for weight in masked:
            name = weight.name
            self._w[name].grad = None
            w = local(self._w[name].detach())
            if weight.mask is not None and not keeps_zeros(second, [w]):
                w.masked_fill_(~weight.mask, 0)
                for state in self._states(name):
                    state.reset_(weight.mask)
            local(self._m[name]).copy_(weight.value)
            weight.value.mul_(w)
            weight.gradient.copy_(self._gradients.pop(name))
            if (scale := getattr(weight.optimizer, "grad_scale", None)) is not None:
                weight.gradient.div_(scale)  # as a fused optimizer does with those that it steps by
            self._steps[name] += 1

    def state_dict(self) -> dict[str, Any]:
        """Factors, counts, and the second optimizers' states."""
        return {
            "m": {name: m.clone() for name, m in self._m.items()},
            "w": {name: w.detach().clone() for name, w in self._w.items()},
            "steps": dict(self._steps),
            "optimizers": [second.state_dict() for second in self._seconds.values()],
        }

    def load_state_dict(self, state: Mapping[str, Any], shapes: Mapping[str, MaskedShape]) -> None:
        """Restore them."""
        for name, w in self._w.items():
            self._m[name], loaded = (
                shard_like(shapes[name].held(state[factor][name]).to(w.device, copy=True), w.detach())
                for factor in ("m", "w")
            )
            if loaded.shape == w.shape:  # a DTensor's part is not exchanged with its data
                local(w.detach()).copy_(local(loaded))
            else:
                w.data = loaded
        self._steps = dict(state["steps"])
        names = {w: name for name, w in self._w.items()}
        for second, saved in zip(self._seconds.values(), state["optimizers"], strict=True):
            own = copy.deepcopy(saved)
            for there, here in zip(own["param_groups"], second.param_groups, strict=True):
                for index, w in zip(there["params"], here["params"], strict=True):
                    if index in own["state"] and state["w"][names[w]].shape != w.shape:
                        own["state"][index] = _held(own["state"][index], shapes[names[w]])
            second.load_state_dict(own)

    def _balance(self, weight: RuleWeight) -> None:
        """Balance factors that are new, that something else wrote a product for, or whose time has come."""
        value, m, w = weight.value, local(self._m[weight.name]), local(self._w[weight.name].detach())
        is_time = self._steps[weight.name] % self.reset_every == 0
        new = torch.ones_like(m, dtype=torch.bool) if is_time else (m * w != value) | (m == 0)
        if weight.mask is not None:
            new &= weight.mask
        if bool(new.any()):
            fresh = balanced_factors(value, beta=self.beta)
            m.copy_(torch.where(new, fresh.m, m))
            w.copy_(torch.where(new, fresh.w, w))

    def _states(self, name: str) -> list[WeightState]:
        w = self._w[name]
        return [state for second in self._seconds.values() if w in second.state for state in weight_states(second, w)]


def _held(state: Mapping[str, Any], shape: MaskedShape) -> dict[str, Any]:
    """An optimizer's state of a weight that was held otherwise; numbers of steps are left as they are."""
    return {key: shape.held(each) if isinstance(each, Tensor) and each.dim() else each for key, each in state.items()}


def _follow_(
    second: torch.optim.Optimizer, first: torch.optim.Optimizer, second_of: Mapping[int, nn.Parameter]
) -> None:
    """Give an optimizer the settings of another for the second factors, and what ``GradScaler`` told that one."""
    second.param_groups = [
        {**group, "params": [second_of[id(held)] for held in group["params"] if id(held) in second_of]}
        for group in first.param_groups
    ]
    for name in ("grad_scale", "found_inf"):
        vars(second).pop(name, None)
        if name in vars(first):
            setattr(second, name, vars(first)[name])
