"""SRigL: RigL with one fan-in for all units of a layer; units with few salient weights leave, their budget stays."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sparseflow._checks import check_finite, check_fraction
from sparseflow.masks.fans import matrices, weight_of
from sparseflow.masks.topk import topk_mask
from sparseflow.methods.base import Layer
from sparseflow.methods.drop_grow import UpdateSchedule


def constant_fan_in_update(
    weight: Tensor, gradient: Tensor, mask: Tensor, *, budget: int, num_drop: int, salient_share: float
) -> Tensor:
    r"""The next mask of a layer: in each of the :math:`u` units that stay :math:`k' = \lfloor B / u \rfloor` weights.

    1. Of the active weights all but the ``num_drop`` smallest survive. Salient are the survivors and the ``num_drop``
       inactive weights of largest gradient.
    2. A unit stays if it has :math:`\max(1, \lfloor \gamma k \rfloor)` salient weights, :math:`k` being the fan-in
       before any was ablated; and more units than the budget fills whole do, but no more than it has weights, those
       with the most.
    3. A unit keeps its survivors, at most :math:`k'`, the largest ones, and grows where its gradient is largest.

    Ties: the lower flat index first.

    Args:
        weight, gradient: ``(units, columns)``.
        mask: bool, active before.
        budget: :math:`B`, weights of the layer.
        num_drop: Weights that do not survive; at most the active count.
        salient_share: :math:`\gamma`, in [0, 1]; 0 ablates no unit.

    Returns: bool.

    Raises:
        ValueError: if a weight or gradient that matters is not finite.

    Reference: Lasby et al. (2024), SRigL, section 3.1.

    >>> w = torch.tensor([[3.0, 1.0, 0.0, 0.0], [2.0, 4.0, 0.0, 0.0]])
    >>> g = torch.tensor([[0.0, 0.0, 0.1, 0.2], [0.0, 0.0, 0.9, 0.3]])
    >>> constant_fan_in_update(w, g, w != 0, budget=4, num_drop=1, salient_share=0.0).int()
    tensor([[1, 0, 0, 1],
            [1, 1, 0, 0]], dtype=torch.int32)
    """
    units, columns = mask.shape
    active = int(mask.sum())
    survives = topk_mask(weight, active - num_drop, among=mask, magnitude=True)
    promising = topk_mask(gradient, min(num_drop, mask.numel() - active), among=~mask, magnitude=True)
    salient = (survives | promising).sum(1)
    least, filled = max(1, int(round(salient_share * (budget // units), 6))), budget // columns
    if salient_share == 0 or filled >= units:
        least = 0
    else:
        least = min(least, int(salient.sort(descending=True).values[filled]))
    stays = salient >= least
    stays = topk_mask(salient.double(), min(budget, int(stays.sum())), among=stays)
    fan_in = min(columns, budget // max(1, int(stays.sum())))
    kept = _best_of_rows(weight.abs().masked_fill(~survives, -1.0), torch.full_like(salient, fan_in)) & survives
    kept &= stays[:, None]
    missing = (fan_in - kept.sum(1)) * stays
    return kept | _best_of_rows(gradient.abs().masked_fill(kept, -1.0), missing)


def _best_of_rows(scores: Tensor, counts: Tensor) -> Tensor:
    """Mark the ``counts[i]`` highest scores of row ``i``, of equal ones the first."""
    order = scores.sort(dim=1, descending=True, stable=True).indices
    wanted = torch.arange(scores.shape[1], device=scores.device) < counts[:, None]
    return torch.zeros_like(wanted).scatter_(1, order, wanted)


@dataclass(frozen=True, kw_only=True)
class SRigL(UpdateSchedule):
    r"""Structured RigL: RigL among masks with one fan-in for all units of a layer, which may lose whole units.

    A unit stays if it has :math:`\max(1, \lfloor \gamma k \rfloor)` salient weights; the budget of the others goes to
    the units that stay, see :func:`sparseflow.methods.srigl.constant_fan_in_update`. The last layer keeps its units.
    Masks begin with :func:`sparseflow.constant_fan_in_masks`. With one fan-in a layer can be stored as a dense matrix
    of values and one of column numbers.

    Args:
        salient_share: :math:`\gamma` (default 0.3; the authors' vision transformer has 0.95); 0 ablates no unit.
        others: As :class:`sparseflow.methods.UpdateSchedule`; the authors have ``schedule="cosine"`` and
            ``replaces_step=True``.

    Raises:
        ValueError: as :func:`sparseflow.RigL`; if the share is outside [0, 1]; when the Sparsifier is made, if masks
            have several fan-ins in a layer.

    Note:
        Paper and code differ. With K weights to drop, the K largest are salient in the paper, all but the K smallest in
        the code, as here; and the K largest gradients are those of inactive weights in the paper, as here, and of any
        in the code. Of a unit with more survivors than the fan-in, which the paper does not speak of, the code keeps
        those of lowest index, and this the largest. The least number of units and the whole last layer are the code's.
        Ablated units can come back. Where the fan-in does not divide the budget, less than one weight for each unit
        is not used.

    Reference: Lasby et al. (2024), *Dynamic Sparse Training with Structured Sparsity*.

    >>> SRigL(update_every=100, total_steps=600).due(400)
    True
    """

    salient_share: float = 0.3
    needs_gradient: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_fraction(self.salient_share, name="salient_share")

    def check_layers(self, layers: Iterable[Layer]) -> None:
        """Check that the units of each layer have one fan-in, or none; see :func:`sparseflow.methods.run.check_layers`.

        Raises:
            ValueError: naming the first layer that has not.
        """
        for layer in layers:
            counts = matrices(layer.mask, layer.layout).flatten(0, 1).sum(1)
            found = counts[counts > 0].unique().tolist()
            if len(found) > 1:
                raise ValueError(
                    f"SRigL needs one fan-in for all units of a layer, and those of {layer.name!r} have {found[0]} to "
                    f"{found[-1]} weights. Make masks with sparseflow.constant_fan_in_masks(model, sparsity, seed=0)."
                )

    def update(self, layers: Iterable[Layer], *, step: int, generator: torch.Generator) -> Iterator[tuple[str, Tensor]]:
        """Yield masks of one fan-in for each layer; the units of the last one all stay. See :meth:`Method.update`."""
        waiting: Layer | None = None
        for layer in layers:
            if waiting is not None:
                yield waiting.name, self._next_mask(waiting, step, self.salient_share)
            waiting = layer
        if waiting is not None:
            yield waiting.name, self._next_mask(waiting, step, 0.0)

    def _next_mask(self, layer: Layer, step: int, salient_share: float) -> Tensor:
        gradient = layer.gradient
        assert gradient is not None  # needs_gradient: a layer without one is not shown
        check_finite(gradient, name=f"the gradient of {layer.name!r} at the mask update of step {step}")
        weight, gradient, mask = (
            matrices(tensor, layer.layout).flatten(0, 1) for tensor in (layer.weight, gradient, layer.mask)
        )
        count = self.num_drop(layer.num_active, step=step, learning_rate_ratio=layer.learning_rate_ratio)
        new = constant_fan_in_update(
            weight, gradient, mask, budget=layer.budget, num_drop=count, salient_share=salient_share
        )
        shape = matrices(layer.mask, layer.layout).shape
        return weight_of(new.view(shape), layer.shape, layer.layout)
