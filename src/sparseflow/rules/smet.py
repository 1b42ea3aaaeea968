"""SMET: grown weights take steps by a count of their own, and warm up; others' bias correction is wrong for them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from sparseflow.boundary import checked
from sparseflow.ranges import Count, Range, checked_fields
from sparseflow.sharded import local, shard_like
from sparseflow.sparsifier.rule import Carry, MaskedShape, RuleWeight, StepRule

#: Optimizers whose steps do not depend on how many there were.
_WITHOUT_CORRECTION = {getattr(torch.optim, name) for name in ("SGD", "RMSprop", "Adadelta", "Adagrad")}
_ADAMS = (torch.optim.Adam, torch.optim.AdamW)


@checked(eps=Range(0))
def adam_direction(mean: Tensor, square: Tensor, step: Tensor, *, betas: tuple[float, float], eps: float) -> Tensor:
    r"""Adam's direction with each weight's own step count.

    .. math:: \frac{m / (1 - \beta_1^t)}{\sqrt{v / (1 - \beta_2^t)} + \epsilon}

    Args:
        mean: :math:`m`, the running mean of gradients.
        square: :math:`v`, that of their squares.
        step: :math:`t`, steps since the weight grew, from 1 on.
        betas: The decays of both.
        eps: Added to the root.

    Reference: Kingma and Ba (2015), *Adam*, Algorithm 1; Xiao et al. (2026), arXiv 2606.00888.

    >>> g = torch.tensor([0.5])
    >>> adam_direction(0.1 * g, 0.001 * g**2, torch.tensor([1]), betas=(0.9, 0.999), eps=0.0)
    tensor([1.0000])
    """
    count = step.to(torch.float64)
    first, second = (1 - beta**count for beta in betas)
    root = square.sqrt().div_(second.sqrt().to(square.dtype)).add_(eps)
    return mean.div(first.to(mean.dtype)).div_(root)


@dataclass
class SMET(StepRule):
    r"""Let each grown weight step as if its optimizer had begun with it, by a learning rate that rises from near zero.

    .. math:: \eta_i = \eta \min(t_i / W, 1), \qquad t_i = 1, 2, \ldots \text{ since weight } i \text{ grew}

    Adam divides its running means by :math:`1 - \beta^t` with the count :math:`t` of the whole run, while those of a
    weight that has just grown begin at zero: its first step is :math:`(1-\beta_1)/\sqrt{1-\beta_2}` = 3.2 times as long
    as that of a fresh Adam. Here :math:`t_i` takes the place of :math:`t` under Adam and AdamW. Under SGD, RMSprop,
    Adagrad and Adadelta, whose steps count nothing, there is the warm-up alone. Weights that are active from the start
    step as ever.

    The authors' code multiplies the *stored* mean by the warm-up factor, which shrinks later steps too, and divides the
    learning rate by the density once more for each parameter; here the paper's equations stand. The paper also divides
    the learning rate by the density: give the optimizer that rate.

    Args:
        warmup: :math:`W`, steps (the authors: 100); 1 for none.

    Raises:
        TypeError, ValueError: naming the option; or the optimizer, if its correction is another one.

    Reference: Xiao et al. (2026), *Memory-Efficient LLM Training with Dynamic Sparsity*, arXiv 2606.00888; their code:
    github.com/QiaoXiao7282/SMET.

    >>> import sparseflow as sf
    >>> model = torch.nn.Linear(20, 10)
    >>> optimizer = torch.optim.AdamW(model.parameters())
    >>> method = sf.SET(update_every=2, total_steps=8)
    >>> rules = [sf.rules.SMET(warmup=10)]
    >>> sparsifier = sf.Sparsifier(model, optimizer, sf.random_masks(model, 0.8, seed=0), method, seed=0, rules=rules)
    >>> for _ in range(8):
    ...     model(torch.randn(8, 20)).square().mean().backward(); optimizer.step()
    """

    replaces_step: ClassVar[bool] = True

    warmup: Count = 100
    _ages: dict[str, Tensor] = field(default_factory=dict, init=False, repr=False)
    """Name -> int32, as the weight is held: steps since it grew, plus one; 0 for those that step as ever."""
    _before: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        vars(self).update(checked_fields(self))

    def attach(self, optimizers: Sequence[torch.optim.Optimizer], shapes: Mapping[str, MaskedShape]) -> None:
        """Check that the optimizers' correction is known."""
        for optimizer in optimizers:
            if type(optimizer) not in {*_WITHOUT_CORRECTION, *_ADAMS}:
                raise ValueError(
                    f"SMET knows the bias correction of torch's Adam and AdamW, and SGD, RMSprop, Adagrad and Adadelta "
                    f"have none; {type(optimizer).__name__} steps by another rule. Use one of these."
                )
        self._ages = {name: torch.zeros_like(shape.parameter, dtype=torch.int32) for name, shape in shapes.items()}

    def masks_changed(self, carry: Mapping[str, Carry], shapes: Mapping[str, MaskedShape]) -> None:
        """Let what has grown begin at 1; ages of others go where the weights went."""
        for name, moved in carry.items():
            age, shape = self._ages[name], shapes[name]
            if moved.source is not None:
                self._ages[name] = moved(age) + (~moved.stays).to(torch.int32)
            else:
                active = local(shard_like(shape.mask, shape.parameter))
                local(age).mul_(moved.stays).add_(active & ~moved.stays)

    def before_step(self, weights: Sequence[RuleWeight]) -> None:
        """Remember where young weights are."""
        self._before = {}
        for weight in weights:
            if weight.name:
                young = local(self._ages[weight.name]).flatten().nonzero().flatten()
                if len(young):
                    self._before[weight.name] = young, weight.value.take(young)

    def after_step(self, weights: Sequence[RuleWeight]) -> None:
        """Put the young weights where steps of their own lead."""
        for weight in weights:
            if weight.name in self._before:
                young, before = self._before.pop(weight.name)
                age = local(self._ages[weight.name])
                step = age.take(young)
                warm = (step.double() / self.warmup).clamp_(max=1).to(before.dtype)
                weight.value.put_(young, before + warm * _own_step(weight, young, before, step))
                last = step >= self._last(weight.group)
                age.put_(young, torch.where(last, 0, step + 1))

    def state_dict(self) -> dict[str, Any]:
        """The ages."""
        return {"ages": {name: age.clone() for name, age in self._ages.items()}}

    def load_state_dict(self, state: Mapping[str, Any], shapes: Mapping[str, MaskedShape]) -> None:
        """Restore the ages."""
        for name, age in self._ages.items():
            self._ages[name] = shard_like(shapes[name].held(state["ages"][name]).to(age.device, copy=True), age)

    def _last(self, group: Mapping[str, Any]) -> int:
        """The age from which on a weight steps as others do: warm, its correction 1 to the last bit of float32."""
        slowest = max(map(float, group.get("betas", (0.0,))))
        corrected = math.log(torch.finfo(torch.float32).eps / 4) / math.log(slowest) if slowest else 0.0
        return max(self.warmup, math.ceil(corrected))


def _own_step(weight: RuleWeight, young: Tensor, before: Tensor, step: Tensor) -> Tensor:
    """The way of young weights in the step that was taken, by their own counts."""
    if not isinstance(weight.optimizer, _ADAMS):
        return weight.value.take(young) - before
    group, state = weight.group, weight.optimizer.state[weight.parameter]
    square = state["max_exp_avg_sq" if group["amsgrad"] else "exp_avg_sq"]
    mean, square = (local(tensor).take(young) for tensor in (state["exp_avg"], square))
    direction = adam_direction(mean, square, step, betas=group["betas"], eps=group["eps"])
    if group.get("decoupled_weight_decay"):
        direction += group["weight_decay"] * before
    return direction.mul_(-group["lr"])
