r"""The smallest set of units that keeps a loss: a gate at each, learned, ranked, and cut where the loss still holds.

A unit that is out has its mean activation over text, so that what it says on average stays:

.. math:: x_i \mapsto \bar{x}_i + H(\tau_i)\,(x_i - \bar{x}_i)

with H the step function, whose gradient is taken to be that of the logistic function. One :math:`\tau` a unit is shared
by all places of a window.

Reference: Gao et al. (2025), arXiv 2511.13653, appendix A.5 on pruning.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sparseflow.networks.decoder import Units

#: Gates by the name of their :class:`~sparseflow.networks.decoder.Units`: ``(units,)`` each.
Gates = Mapping[str, Tensor]


@dataclass(frozen=True)
class Circuit:
    """Units that are kept, and what is left of the task with them alone."""

    kept: dict[str, Tensor]
    """Name of the place -> bool ``(units,)``."""
    loss: float
    """Of the task, with all other units at their means; in nats."""

    @property
    def size(self) -> int:
        """Units that are kept."""
        return sum(int(each.sum()) for each in self.kept.values())


class _Step(torch.autograd.Function):
    """1 where positive, else 0; backwards the derivative of the logistic function."""

    @staticmethod
    def forward(ctx: Any, tau: Tensor) -> Tensor:
        ctx.save_for_backward(tau)
        return (tau > 0).to(tau.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (tau,) = ctx.saved_tensors
        slope: Tensor = tau.sigmoid()
        return gradients[0] * (slope * (1 - slope))


def places(model: nn.Module) -> dict[str, Units]:
    """The places of a model whose units a circuit may keep, by name."""
    return {name: module for name, module in model.named_modules() if isinstance(module, Units)}


@torch.no_grad()
def mean_activations(model: nn.Module, batches: Sequence[Tensor]) -> dict[str, Tensor]:
    """Mean of each unit over all places of some windows of text.

    Args:
        model: With :class:`~sparseflow.networks.decoder.Units`.
        batches: Inputs of it.
    """
    totals: dict[str, Tensor] = {}
    handles = []
    for name, units in places(model).items():

        def add(_: nn.Module, __: Any, out: Tensor, name: str = name) -> None:
            flat = out.flatten(0, -2).double()
            totals[name] = totals.get(name, torch.zeros_like(flat[0])) + flat.mean(0) / len(batches)

        handles.append(units.register_forward_hook(add))
    try:
        for batch in batches:
            model(batch)
    finally:
        for handle in handles:
            handle.remove()
    weight = next(model.parameters())
    return {name: total.to(weight.dtype) for name, total in totals.items()}


@contextmanager
def gated(model: nn.Module, gates: Gates, means: Gates) -> Iterator[None]:
    """Compute with gates in the block: 1 leaves a unit as it is, 0 gives it its mean."""
    handles = [
        units.register_forward_hook(lambda _, __, out, gate=gates[name], mean=means[name]: mean + gate * (out - mean))
        for name, units in places(model).items()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def learn_gates(
    model: nn.Module,
    loss: Callable[[], Tensor],
    means: Gates,
    *,
    steps: int,
    penalty: float,
    learning_rate: float = 0.02,
    progress: Callable[[int, float, int], None] | None = None,
) -> dict[str, Tensor]:
    r"""Learn :math:`\tau` of every unit: Adam on the task's loss plus ``penalty`` times the share of units kept.

    Args:
        model: Its weights are left alone.
        loss: Of the task, on a batch that is drawn anew; called inside :func:`gated`.
        means: Of :func:`mean_activations`.
        steps: Of Adam; every :math:`\tau` starts at 1/2 and is kept within [-1, 1].
        penalty: In nats.
        learning_rate: Adam's.
        progress: Called after each step with its number, the loss and the units that are kept.
    """
    taus = {name: torch.full_like(mean, 0.5).requires_grad_() for name, mean in means.items()}
    optimizer = torch.optim.Adam(taus.values(), lr=learning_rate)
    total = sum(tau.numel() for tau in taus.values())
    wanted = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in wanted:
        parameter.requires_grad_(False)
    try:
        for step in range(steps):
            gates: dict[str, Tensor] = {name: _Step.apply(tau) for name, tau in taus.items()}  # type: ignore[no-untyped-call]
            with gated(model, gates, means):
                found = loss()
            kept = torch.stack([gate.sum() for gate in gates.values()]).sum()
            optimizer.zero_grad()
            (found + penalty * kept / total).backward()
            optimizer.step()
            with torch.no_grad():
                for tau in taus.values():
                    tau.clamp_(-1, 1)
            if progress is not None:
                progress(step + 1, found.item(), int(kept))
    finally:
        for parameter in wanted:
            parameter.requires_grad_(True)
    return {name: tau.detach() for name, tau in taus.items()}


@torch.no_grad()
def smallest(
    model: nn.Module, loss: Callable[[], Tensor], means: Gates, taus: Gates, *, target: float, tries: int = 0
) -> Circuit:
    """The fewest units in the order of their gates with which a loss is at most a target; then units are taken out.

    Args:
        model, means: As :func:`learn_gates`.
        loss: Of the task, always on the same prompts.
        taus: Of :func:`learn_gates`: the largest are kept.
        target: The loss that must not be exceeded.
        tries: Of the units that are kept, so many are taken out one by one, the smallest gates first, and left out
            where the target still holds.

    Raises:
        ValueError: if not even all units together reach the target.
    """
    names = list(taus)
    flat = torch.cat([taus[name] for name in names])
    order = flat.sort(descending=True, stable=True).indices

    def gates(kept: Tensor) -> dict[str, Tensor]:
        parts = kept.split([taus[name].numel() for name in names])
        return dict(zip(names, parts, strict=True))

    def loss_with(kept: Tensor) -> float:
        with gated(model, {name: gate.to(flat.dtype) for name, gate in gates(kept).items()}, means):
            return float(loss())

    def first(count: int) -> Tensor:
        return torch.zeros(len(flat), dtype=torch.bool).index_fill_(0, order[:count], True)

    low, high = 0, len(flat)
    if (whole := loss_with(first(high))) > target:
        raise ValueError(f"all units together have a loss of {whole:.4f}, above the target of {target:.4f}. Raise it.")
    while low < high:
        middle = (low + high) // 2
        if loss_with(first(middle)) <= target:
            high = middle
        else:
            low = middle + 1
    kept = first(high)
    for unit in order[:high].flip(0)[:tries].tolist():
        kept[unit] = False
        if loss_with(kept) > target:
            kept[unit] = True
    return Circuit(gates(kept), loss_with(kept))
