"""The steps of a run, computed by torch on masked dense weights or, between events, by a plan of the sparse engine."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from sparseflow.analysis.flow import GradientFlow, gradient_flow
from sparseflow.gradients import undisturbed
from sparseflow.masks.make import sparsity_of
from sparseflow.sparsifier.sparsifier import Sparsifier

if TYPE_CHECKING:
    from sparseflow.engine.plans.plan import Plan

#: Share of active weights up to which ``auto`` takes a plan, for a network without measurements.
MOST_ACTIVE = 0.3


class Stepper:
    """Take a run's steps and measurements, each in the faster way.

    Model, optimizer and Sparsifier are the truth at every event (mask update, checkpoint, end). Between events a plan
    may be ahead of them; :meth:`settle` brings them up to date. A step after which masks change is taken by torch, so
    that the Sparsifier sees it as ever. Which way is taken depends on the masks alone: a continued run takes the same.

    Args:
        sparsifier: With its model and optimizer.
        kind: ``auto``: a plan where at most ``most_active`` of the weights are active, the network is one that a
            plan takes, and the method needs no dense gradient at every step. ``sparse``: always a plan. ``masked``:
            never.
        most_active: Share of active weights, in [0, 1].

    Raises:
        TypeError, ValueError: with ``sparse``, if the network is none that a plan takes.
        ModuleNotFoundError: with ``sparse``, if Numba is not installed.
    """

    def __init__(self, sparsifier: Sparsifier, kind: str, *, most_active: float = MOST_ACTIVE) -> None:
        self._most_active = most_active
        self._model, self._optimizer, self._sparsifier = sparsifier.model, sparsifier.optimizers[0], sparsifier
        self._always = kind == "sparse"
        self._made = self._make() if kind != "masked" else None
        self._is_current, self._is_ahead, self._is_sparse = False, False, False
        self._sparsifier.before_update.append(lambda step: self.reload())
        self._sparsifier.after_update.append(lambda step, changes: self.reload())

    def _make(self) -> Plan | None:
        method = self._sparsifier.method
        if hasattr(method, "used") or (method.gradient_decay and not self._always):
            return None  # weights that wait outside of the network, or the mean of dense gradients at every step
        try:
            from sparseflow.engine.plans.plan import plan

            return plan(self._model, self._sparsifier.masks, self._optimizer)
        except (ModuleNotFoundError, TypeError, ValueError):
            if self._always:
                raise
            return None

    def reload(self) -> None:
        """Model, optimizer or masks were changed from outside: look at them again before the next step."""
        self._is_current = False

    def settle(self) -> None:
        """Bring model and optimizer up to date."""
        if self._is_ahead and self._made is not None:
            self._made.write()
        self._is_ahead = False

    def step(self, images: Tensor, labels: Tensor, chosen: Tensor) -> float:
        """One optimizer step on the chosen examples; their mean cross-entropy before it."""
        if (plan := self._plan) is not None and not self.moves_next:
            loss = plan.step(images, labels, chosen)
            self._sparsifier.step_count += 1
            self._is_ahead = True
            return loss
        self.settle()
        self._optimizer.zero_grad()
        mean = F.cross_entropy(self._model(images[chosen]), labels[chosen])
        mean.backward()
        self._optimizer.step()
        self.reload()
        return float(mean.detach())

    @property
    def moves_next(self) -> bool:
        """Whether masks change after the next step, which torch then takes."""
        return self._sparsifier.method.due(self._sparsifier.step_count + 1)

    @property
    def is_sparse(self) -> bool:
        """Whether the sparse engine computes at the present masks."""
        return self._plan is not None

    @property
    def _plan(self) -> Plan | None:
        if self._made is None:
            return None
        if not self._is_current:
            masks = self._sparsifier.masks
            self._is_sparse = self._always or sparsity_of(masks) >= 1 - self._most_active
            if self._is_sparse:
                self._made.read(masks)
            self._is_current = True
        return self._made if self._is_sparse else None

    def flow(self, images: Tensor, labels: Tensor) -> GradientFlow:
        """Gradient norms of the mean cross-entropy, see :func:`sparseflow.gradient_flow`."""
        if (plan := self._plan) is None:
            return gradient_flow(self._model, F.cross_entropy, [(images, labels)], self._sparsifier.masks)
        loss, gradients = plan.loss_and_gradients(images, labels)
        return GradientFlow(loss, {name: float(g.double().norm()) for name, g in gradients.items()})

    def logits(self, images: Tensor) -> Tensor:
        """``(batch, classes)`` in eval mode."""
        with torch.no_grad(), undisturbed(self._model, training=False):
            if (plan := self._plan) is not None:
                return plan.logits(images)
            logits: Tensor = self._model(images)
            return logits
