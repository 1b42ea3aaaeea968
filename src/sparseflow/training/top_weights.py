"""Weights of which only the largest stay: how many at which step, which, and the step that keeps them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sparseflow._fast import zero_inactive_
from sparseflow.masks.topk import active_count, topk_mask

#: Layer of a decoder block -> axis of its weight along which its units lie, whose weights a floor counts: what an
#: attention channel or a neuron reads, or what it writes.
UNIT_AXES = {"project": 0, "widen": 0, "out": 1, "narrow": 1}
#: Layers that stay dense.
DENSE = ("bigram",)


@dataclass(frozen=True)
class Annealing:
    r"""The share of active entries at each step: linear, then constant.

    .. math:: D(t) = D_0 + (D_1 - D_0)\, \mathrm{clip}\Big(\frac{t - t_0}{t_1 - t_0}, 0, 1\Big)

    Reference: Gao et al. (2025), arXiv 2511.13653, appendix A.2.

    >>> annealing = Annealing(start=1.0, end=0.01, begin=10, settled=20)
    >>> [round(annealing.density(step), 4) for step in (0, 10, 15, 20, 99)]
    [1.0, 1.0, 0.505, 0.01, 0.01]
    """

    start: float
    """:math:`D_0`, in (0, 1]."""
    end: float
    """:math:`D_1`, in (0, 1]."""
    begin: int
    """:math:`t_0`, in steps."""
    settled: int
    """:math:`t_1`, in steps; the first with the final share."""

    def density(self, step: int) -> float:
        """Share of active entries of the weights that step number ``step``, from 0, leaves behind."""
        if step >= self.settled:
            return self.end
        passed = max(0.0, (step - self.begin) / (self.settled - self.begin))
        return self.start + (self.end - self.start) * passed


def top_mask(weight: Tensor, count: int, *, floor: int = 0, axis: int = 0) -> Tensor:
    """Mark the entries of largest magnitude, and of each unit its largest ones at least; ties go to the lowest index.

    Args:
        weight: Any shape; a matrix where there is a floor.
        count: How many to mark, those of the floor included.
        floor: Entries of each unit that are marked whatever their size.
        axis: Along which units lie: 0 where a row is a unit's, 1 where a column is.

    Returns: bool, same shape, with exactly ``count`` entries ``True``.

    Raises:
        ValueError: if the floor needs more entries than ``count``, or than a unit has.

    Reference: Gao et al. (2025), arXiv 2511.13653, appendix A.2: no weight goes that would leave a neuron or attention
    channel with fewer than 4.

    >>> top_mask(torch.tensor([[5.0, 4.0, 3.0], [0.1, 0.2, 0.3]]), 3, floor=1).int().tolist()
    [[1, 1, 0], [0, 0, 1]]
    """
    if not floor:
        return topk_mask(weight, count, magnitude=True)
    check_floor(weight, count, floor=floor, axis=axis)
    kept = torch.zeros(weight.shape, dtype=torch.bool)
    # A stable sort, since torch.topk says nothing of ties.
    order = weight.detach().abs().sort(dim=1 - axis, descending=True, stable=True).indices
    kept.scatter_(1 - axis, order.narrow(1 - axis, 0, floor), True)
    return kept | topk_mask(weight, count - floor * weight.shape[axis], among=~kept, magnitude=True)


def check_floor(weight: Tensor, count: int, *, floor: int, axis: int, name: str = "a weight") -> None:
    """Check that a matrix has as many weights as its units need, see :func:`top_mask`; it may be on the meta device.

    Raises:
        ValueError: naming it.
    """
    units, size = weight.shape[axis], weight.shape[1 - axis]
    if floor > size or floor * units > count:
        raise ValueError(
            f"a floor of {floor} weights for each of {units} units of {size} needs {floor * units} weights, and "
            f"{name} has {count}. Lower the floor, or keep more weights."
        )


def annealed(model: nn.Module) -> dict[str, nn.Parameter]:
    """Every matrix, embedding and bias of a decoder by name; norms and its bigram table stay dense.

    >>> from sparseflow.networks.decoder import Decoder
    >>> list(annealed(Decoder(symbols=4, width=4, depth=1, heads=1)))[:3]
    ['embedding.weight', 'blocks.0.project.weight', 'blocks.0.project.bias']
    """
    norms = {name for name, module in model.named_modules() if isinstance(module, nn.RMSNorm)}
    left = norms | set(DENSE)
    return {name: each for name, each in model.named_parameters() if name.rpartition(".")[0] not in left}


def counts(model: nn.Module, density: float) -> dict[str, int]:
    """How many entries of every tensor that is annealed are active, by name, see ``active_count``.

    >>> counts(nn.Linear(10, 10), 0.05)
    {'weight': 5, 'bias': 1}
    """
    return {name: active_count(weight.numel(), 1 - density) for name, weight in annealed(model).items()}


def floors(model: nn.Module) -> dict[str, int]:
    """Weights that a floor is for -> the axis of their units."""
    layers = {name: name.rpartition(".")[0].rpartition(".")[2] for name in annealed(model) if name.endswith(".weight")}
    return {name: UNIT_AXES[layer] for name, layer in layers.items() if layer in UNIT_AXES}


def top_masks(model: nn.Module, density: float, *, floor: int = 0) -> dict[str, Tensor]:
    """The masks of the largest entries of every tensor that is annealed, by name.

    Args:
        model: A decoder.
        density: Share of each tensor's entries, in (0, 1].
        floor: As :func:`top_mask`, for the layers of ``UNIT_AXES``.
    """
    axes = floors(model)
    return {
        name: top_mask(
            model.get_parameter(name).detach(), count, floor=floor if name in axes else 0, axis=axes.get(name, 0)
        )
        for name, count in counts(model, density).items()
    }


@torch.no_grad()
def keep_(model: nn.Module, masks: Mapping[str, Tensor]) -> None:
    """Set every entry off the masks to zero; what the optimizer knows of it stays, so that it may come back.

    >>> layer = nn.Linear(2, 1, bias=False)
    >>> keep_(layer, {"weight": torch.tensor([[True, False]])})
    >>> layer.weight[0, 1].item()
    0.0
    """
    for name, mask in masks.items():
        zero_inactive_(model.get_parameter(name).data, mask)
