"""CHTs: connections are sampled, to stay by their weights and to grow by the topology around them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sparseflow._checks import check_choice, check_finite
from sparseflow.masks.fans import matrices, weight_of
from sparseflow.masks.topk import topk_mask
from sparseflow.methods.base import Layer
from sparseflow.methods.drop_grow import UpdateSchedule

#: By what weights stay, and by what connections grow.
IMPORTANCES, PREDICTORS = ("magnitude", "relative"), ("CH2-L3n", "CH3-L3n")
#: Added to all link scores where too few connections have one, as the authors do.
_SMALL = 1e-5


def relative_importance(weight: Tensor) -> Tensor:
    r"""Each weight's share of its column and of its row.

    .. math:: s_{ij} = \frac{|w_{ij}|}{\sum_i |w_{ij}|} + \frac{|w_{ij}|}{\sum_j |w_{ij}|}

    Args:
        weight: ``(units, columns)``.

    Reference: Zhang et al. (2024), *Plug-and-Play: An Efficient Post-training Pruning Method for LLMs*; CHTs, Eq. 1.

    >>> relative_importance(torch.tensor([[1.0, -3.0], [1.0, 0.0]]))
    tensor([[0.7500, 1.7500],
            [1.5000, 0.0000]])
    """
    size = weight.abs()
    rows, columns = (size.sum(axis, keepdim=True).clamp_min(torch.finfo(size.dtype).tiny) for axis in (1, 0))
    return size / columns + size / rows


def link_scores(mask: Tensor, predictor: str = "CH2-L3n") -> Tensor:
    r"""How likely each pair of a unit and a column is to be connected, by the paths of three links between them.

    .. math:: S = E_D M + M E_T^T, \quad
        E_D = \frac{D + [D > 0]}{e_D + 1}, \quad D = M M^T, \quad e_D = \max(d - D, 1) - 1 \text{ where } D > 0

    for the 0/1 mask :math:`M` and the degrees :math:`d_z` of units; :math:`E_T` likewise with :math:`T = M^T M` of
    columns. :math:`D_{uz}` counts the links of unit :math:`z` inside the local community of :math:`u`, and
    :math:`d_z - D_{uz}` those to outside of it. ``CH3-L3n`` has :math:`[D > 0]` alone above the line.

    Args:
        mask: bool, ``(units, columns)``.
        predictor: ``"CH2-L3n"`` or ``"CH3-L3n"``.

    Returns: float64 of the mask's shape, from 0 on. Time grows with units times columns times both.

    Reference: Zhang et al. (2025), CHTs, Eq. 3.

    >>> link_scores(torch.tensor([[True, True, False], [False, True, True]]))
    tensor([[ 7., 10.,  4.],
            [ 4., 10.,  7.]], dtype=torch.float64)
    """
    links = mask.double()
    scores = torch.zeros_like(links)
    for of, other in ((links, "rows"), (links.T, "columns")):
        shared = of @ of.T
        linked = (shared > 0).double()
        outside = ((of.sum(1) - shared) * linked).clamp_min_(1) - 1
        ties = (linked if predictor == "CH3-L3n" else shared + linked) / (outside + 1)
        scores += ties @ of if other == "rows" else (ties @ of).T
    return scores


def sampled(scores: Tensor, count: int, among: Tensor, *, power: float = 1.0, generator: torch.Generator) -> Tensor:
    r"""Draw ``count`` entries one after the other without replacement, each with :math:`p \propto s^{power}`.

    Entries with a score of 0 come last. Drawn on the CPU in float64, so that every device draws the same.

    Args:
        scores: From 0 on.
        count: At most the candidates.
        among: bool, the candidates.
        power: From 0 (uniform) on.
        generator: On the CPU.

    Returns: bool, with exactly ``count`` entries ``True``.

    >>> drawn = sampled(torch.tensor([5.0, 0.0, 1.0, 0.0]), 2, torch.ones(4, dtype=torch.bool),
    ...     generator=torch.Generator().manual_seed(0))
    >>> drawn
    tensor([ True, False,  True, False])
    """
    waiting = torch.empty(scores.shape, dtype=torch.float64).exponential_(generator=generator)
    # Of independent exponential times with rates s the first few are such a sample.
    keys = power * scores.double().log().clamp_min_(-1e6) - waiting.clamp_min_(1e-300).log().to(scores.device)
    return topk_mask(keys, count, among=among)


@dataclass(frozen=True, kw_only=True)
class CHTs(UpdateSchedule):
    r"""Cannistraci-Hebb training with a soft rule: weights are sampled to stay, connections by topology to grow.

    Of a layer's active weights those that stay are drawn one after the other with :math:`p \propto s^T`, where
    :math:`s` is the importance. Connections then grow, drawn from the others with :math:`p` proportional to
    :func:`sparseflow.methods.chts.link_scores` of the mask that stayed. No gradient decides anything. The authors start
    from :func:`sparseflow.receptive_field_masks`.

    Args:
        importance: ``"magnitude"``, the default, or ``"relative"``, a weight's share of its row and column.
        predictor: ``"CH2-L3n"``, the default, or ``"CH3-L3n"``.
        sharpness: :math:`T` at step 0 and at the last update, linear between; default 1 to 3, see the note.
        others: As :class:`sparseflow.methods.drop_grow.UpdateSchedule`; the authors' code has ``replaces_step=True``.

    Raises:
        ValueError: as :func:`sparseflow.RigL`; if a name is unknown, a power negative, or a rising one has no end.

    Note:
        Paper and code differ. The paper's :math:`\delta` from 0.5 to 0.75 is :math:`T = \delta / (1 - \delta)` from 1
        to 3, in their code for MLPs linear in :math:`T`; their code for language models has 1 to 9. Their code computes
        in float32, and removes units that lost all links on one side with their links on the other; this does not.
        The path-based predictors and the density decay of CHTss are not here; a kernel position is a node of its own.

    Reference: Zhang et al. (2025), *Brain network science modelling of sparse neural networks enables Transformers and
    LLMs to perform as fully connected*.

    >>> CHTs(update_every=100, total_steps=600).due(400)
    True
    """

    importance: str = "magnitude"
    predictor: str = "CH2-L3n"
    sharpness: tuple[float, float] = (1.0, 3.0)
    needs_gradient: ClassVar[bool] = False
    gradient_decay: ClassVar[float] = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(self.importance, IMPORTANCES, name="importance")
        check_choice(self.predictor, PREDICTORS, name="predictor")
        pair = self.sharpness
        is_pair = isinstance(pair, tuple | list) and len(pair) == 2
        if not is_pair or not all(isinstance(each, int | float) and 0 <= each < torch.inf for each in pair):
            raise ValueError(f"sharpness must be two finite powers from 0 on, such as (1, 3), got {pair!r}.")
        if self.sharpness[0] != self.sharpness[1] and not self.until:
            raise ValueError(
                "sharpness rises until the last update: give total_steps= or update_until=, in optimizer steps, or one "
                "power twice."
            )

    def update(self, layers: Iterable[Layer], *, step: int, generator: torch.Generator) -> Iterator[tuple[str, Tensor]]:
        """Yield masks of as many weights for each layer; see :meth:`Method.update`."""
        low, high = self.sharpness
        power = high if not self.until else low + (high - low) * min(1.0, step / self.until)
        for layer in layers:
            count = self.num_drop(layer.num_active, step=step, learning_rate_ratio=layer.learning_rate_ratio)
            if count:
                yield layer.name, self._next_mask(layer, count, power, step, generator)
            else:
                yield layer.name, layer.mask.clone()

    def _next_mask(self, layer: Layer, count: int, power: float, step: int, generator: torch.Generator) -> Tensor:
        weight, mask = (matrices(tensor, layer.layout) for tensor in (layer.weight, layer.mask))
        check_finite(weight, name=f"{layer.name!r} at the mask update of step {step}")
        if self.importance == "magnitude":
            scores = weight.abs()
        else:
            scores = torch.stack([relative_importance(each) for each in weight.double().unbind()])
        kept = sampled(scores, layer.num_active - count, mask, power=power, generator=generator)
        links = torch.stack([link_scores(each, self.predictor) for each in kept.unbind()])
        if int(((links > 0) & ~kept).sum()) < count:
            links += _SMALL
        grown = sampled(links, count, ~kept, generator=generator)
        return weight_of(kept | grown, layer.shape, layer.layout)
