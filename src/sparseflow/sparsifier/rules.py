"""The optimizer rules of a Sparsifier: shown each step of each optimizer, and each mask update."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from sparseflow.masks.fans import PLAIN
from sparseflow.sharded import full, local
from sparseflow.sparsifier.optimizers import leaves_gradients
from sparseflow.sparsifier.part import Part
from sparseflow.sparsifier.rule import Carry, MaskedShape, RuleWeight, StepRule
from sparseflow.sparsifier.weights import MaskedWeights


class Rules:
    """Rules, the last next to the optimizer's step: before it they act in their order, after it in the other.

    Args:
        rules: See ``sparseflow.rules``.
        optimizers: Those whose steps are listened to.
        weights: Masked weights.

    Raises:
        TypeError: if one is no rule.
        ValueError: if a rule is there twice or cannot be right here.

    >>> layer = torch.nn.Linear(2, 1, bias=False)
    >>> optimizer = torch.optim.SGD(layer.parameters())
    >>> masks = {"weight": torch.tensor([[True, False]])}
    >>> Rules(["HAM"], [optimizer], MaskedWeights(layer, [optimizer], masks))
    Traceback (most recent call last):
    TypeError: rules must be a list of rules such as sparseflow.rules.HAM(), got 'HAM' in it.
    """

    def __init__(
        self, rules: Sequence[StepRule], optimizers: Sequence[torch.optim.Optimizer], weights: MaskedWeights
    ) -> None:
        self.all = tuple(rules)
        self._weights = weights
        self._gradients: list[tuple[Tensor, Tensor]] = []
        self._before: dict[str, Tensor] = {}
        if wrong := [rule for rule in self.all if not isinstance(rule, StepRule)]:
            hint = f" Write sparseflow.rules.{wrong[0].__name__}(...)." if isinstance(wrong[0], type) else ""
            raise TypeError(
                f"rules must be a list of rules such as sparseflow.rules.HAM(), got {wrong[0]!r} in it.{hint}"
            )
        if len(set(self.names)) < len(self.names):
            raise ValueError(f"rules must be of different kinds, got {', '.join(self.names)}.")
        if early := [name for name, rule in zip(self.names, self.all[:-1], strict=False) if rule.replaces_step]:
            raise ValueError(
                f"{early[0]} puts steps of its own in the place of the optimizer's, so that no rule may stand between "
                f"the two; got rules {', '.join(self.names)}. Give it last, and no other such rule."
            )
        shapes = self._shapes() if self.all else {}
        for rule in self.all:
            rule.attach(optimizers, shapes)

    def __bool__(self) -> bool:
        return bool(self.all)

    @property
    def names(self) -> list[str]:
        """Class names, in order."""
        return [type(rule).__name__ for rule in self.all]

    @property
    def optimizers(self) -> list[torch.optim.Optimizer]:
        """Those that rules step themselves."""
        return [optimizer for rule in self.all for optimizer in rule.optimizers]

    def before_step(self, part: Part) -> None:
        """Show the masked gradients of the step that an optimizer is about to take."""
        self._gradients.clear()
        shown = self._shown(part)
        for rule in self.all:
            rule.before_step(shown)
        if not part.elementwise or not leaves_gradients(part.optimizer, [weight.parameter for weight in shown]):
            self._gradients = [(weight.gradient, weight.gradient.clone()) for weight in shown]

    def after_step(self, part: Part) -> None:
        """Show the step that an optimizer has taken; its gradients are those that it stepped by."""
        for gradient, copy in self._gradients:
            gradient.copy_(copy)
        self._gradients.clear()
        shown = self._shown(part)
        for rule in reversed(self.all):
            rule.after_step(shown)

    def begin_update(self) -> None:
        """Remember where weights are active."""
        self._before = {name: local(mask).clone() for name, mask in self._weights.dense.items()}
        self._before |= {name: weight.positions().clone() for name, weight in self._weights.stored.items()}

    def end_update(self) -> None:
        """Show where weights are active now."""
        carry = {name: self._carry(name, before) for name, before in self._before.items()}
        self._before.clear()
        shapes = self._shapes()
        for rule in self.all:
            rule.masks_changed(carry, shapes)

    def state(self) -> dict[str, Any]:
        """Class name -> what the rule remembers."""
        return {type(rule).__name__: rule.state_dict() for rule in self.all}

    def check(self, state: Mapping[str, Any]) -> None:
        """Check that a state was saved with the same rules.

        Raises:
            ValueError: naming both.
        """
        saved = list(state)
        if saved != self.names:
            needed = ", ".join(f"sparseflow.rules.{name}(...)" for name in saved)
            raise ValueError(
                f"the state was saved with the rules {saved}, and this Sparsifier has {self.names}. Make it with "
                f"rules=[{needed}]."
            )

    def load(self, state: Mapping[str, Any]) -> None:
        """Restore :meth:`state`, which was checked; the masks are those of the state already."""
        shapes = self._shapes() if self.all else {}
        for rule, own in zip(self.all, state.values(), strict=True):
            rule.masks_changed({}, shapes)
            rule.load_state_dict(own, shapes)

    def _shown(self, part: Part) -> list[RuleWeight]:
        names = {id(tensor): name for name, tensor in self._weights.tensors.items()}
        found = []
        for group in part.optimizer.param_groups:
            for parameter in group["params"]:
                name = names.get(id(parameter), "")
                if parameter.grad is not None and (name or parameter.dim() > 1):
                    mask = local(self._weights.dense[name]) if name in self._weights.dense else None
                    found.append(RuleWeight(name, parameter, mask, group, part.optimizer))
        return found

    def _shapes(self) -> dict[str, MaskedShape]:
        weights = self._weights
        return {
            name: MaskedShape(
                full(mask),
                weights.layouts.get(name, PLAIN),
                weights.tensors[name],
                weights.stored[name].positions() if name in weights.stored else None,
            )
            for name, mask in weights.masks.items()
        }

    def _carry(self, name: str, before: Tensor) -> Carry:
        if name not in self._weights.stored:
            return Carry(before & local(self._weights.dense[name]), None)
        now = self._weights.stored[name].positions()
        place = torch.searchsorted(before, now).clamp_(max=max(0, len(before) - 1))
        stays = before[place] == now if len(before) else torch.zeros(len(now), dtype=torch.bool)
        return Carry(stays, place[stays])
