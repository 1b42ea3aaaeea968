"""CHTs: connections are sampled, to stay by their weights and to grow by the topology around them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from sparseflow._checks import check_choice, check_finite
from sparseflow.masks.fans import Layout, matrices, matrices_shape, weight_of
from sparseflow.methods.base import Layer
from sparseflow.methods.drop_grow import UpdateSchedule
from sparseflow.methods.topology import importances, link_scores, sampled, without_dead_ends

#: By what weights stay, and by what connections grow.
IMPORTANCES, PREDICTORS = ("magnitude", "relative"), ("CH2-L3n", "CH3-L3n")
#: Added to all link scores where too few connections have one, as the authors do.
_SMALL = 1e-5


@dataclass(frozen=True, kw_only=True)
class CHTs(UpdateSchedule):
    r"""Cannistraci-Hebb training with a soft rule: weights are sampled to stay, connections by topology to grow.

    Of a layer's active weights those that stay are drawn one after the other with :math:`p \propto s^T`, where
    :math:`s` is the importance. Connections then grow, drawn from the others with :math:`p` proportional to
    :func:`sparseflow.methods.topology.link_scores` of the mask that stayed. No gradient decides anything. The authors
    start from :func:`sparseflow.receptive_field_masks`.

    Args:
        importance: ``"magnitude"``, the default, or ``"relative"``, a weight's share of its row and column.
        predictor: ``"CH2-L3n"``, the default, or ``"CH3-L3n"``.
        sharpness: :math:`T` at step 0 and at the last update, linear between; default 1 to 3, see the note.
        chain: Names of weights each of which feeds the next. Between removal and growth units that have links on one
            side alone lose these, as no link predictor can give them any on the other: as many more grow elsewhere.
            Default: none do. The layers of the chain are in memory together.
        others: As :class:`sparseflow.methods.UpdateSchedule`; the authors' code has ``replaces_step=True``.

    Raises:
        TypeError, ValueError: as :func:`sparseflow.RigL`; if a name is unknown, a power negative, or a rising one has
            no end; when the Sparsifier is made, if layers of the chain do not follow each other.

    Note:
        Paper and code differ. The paper's :math:`\delta` from 0.5 to 0.75 is :math:`T = \delta / (1 - \delta)` from 1
        to 3, in their code for MLPs linear in :math:`T`; their code for language models has 1 to 9. That for MLPs has
        no 1 above the line of ``CH2-L3n``, and both compute in float32. For language models they also pair the units
        of queries with those of keys, which ``chain`` does not. The path-based predictors are not here; a kernel
        position is a node of its own.

    Reference: Zhang et al. (2025), *Brain network science modelling of sparse neural networks enables Transformers and
    LLMs to perform as fully connected*.

    >>> CHTs(update_every=100, total_steps=600).due(400)
    True
    """

    importance: str = "magnitude"
    predictor: str = "CH2-L3n"
    sharpness: tuple[float, float] = (1.0, 3.0)
    chain: Sequence[str] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(self.importance, IMPORTANCES, name="importance")
        check_choice(self.predictor, PREDICTORS, name="predictor")
        pair = self.sharpness
        is_pair = isinstance(pair, tuple | list) and len(pair) == 2
        if not is_pair or not all(isinstance(each, int | float) and 0 <= each < torch.inf for each in pair):
            raise ValueError(f"sharpness must be two finite powers from 0 on, such as (1, 3), got {pair!r}.")
        is_list = isinstance(self.chain, tuple | list)
        if not is_list or not all(isinstance(name, str) for name in self.chain):
            raise TypeError(f"chain takes a list of names of weights, in their order, got {self.chain!r}.")
        if self.sharpness[0] != self.sharpness[1] and not self.until:
            raise ValueError(
                "sharpness rises until the last update: give total_steps= or update_until=, in optimizer steps, or one "
                "power twice."
            )

    def check_layers(self, layers: Iterable[Layer]) -> None:
        """Check that each layer of the chain feeds the next; see :func:`sparseflow.methods.run.check_layers`.

        Raises:
            ValueError: naming two that do not fit together, or what is no masked weight.
        """
        shapes = {layer.name: matrices_shape(layer.shape, layer.layout) for layer in layers}
        if missing := [name for name in self.chain if name not in shapes]:
            raise ValueError(f"chain has {missing[0]!r}, which is no masked weight. Masked: {', '.join(shapes)}.")
        for one, other in pairwise(self.chain):
            (number, units, _), (others, _, columns) = shapes[one], shapes[other]
            if number != 1 or others != 1 or columns % units:
                raise ValueError(
                    f"chain: the {number * units} units of {one!r} cannot be the inputs of {other!r}, which has "
                    f"{columns} columns (inputs x kernel positions). Name layers that follow each other, not of groups."
                )

    def update(self, layers: Iterable[Layer], *, step: int, generator: torch.Generator) -> Iterator[tuple[str, Tensor]]:
        """Yield masks of as many weights for each layer; see :meth:`Method.update`."""
        low, high = self.sharpness
        power = high if not self.until else low + (high - low) * min(1.0, step / self.until)
        # One layer at a time, unless a chain is looked at as a whole.
        staying: Iterable[_Staying] = (self._staying(layer, power, step, generator) for layer in layers)
        for each in self._without_dead_ends(staying) if self.chain else staying:
            yield each.name, _grown(each, self.predictor, generator)

    def _pruned(self, layer: Layer, weight: Tensor, mask: Tensor, step: int) -> Tensor:
        """The links that have not left for good."""
        return mask

    def _staying(self, layer: Layer, power: float, step: int, generator: torch.Generator) -> _Staying:
        weight, mask = (matrices(tensor, layer.layout) for tensor in (layer.weight, layer.mask))
        links = self._pruned(layer, weight, mask, step)
        active = int(links.sum())
        count = self.num_drop(active, step=step, learning_rate_ratio=layer.learning_rate_ratio)
        if count:
            check_finite(weight, name=f"{layer.name!r} at the mask update of step {step}")
            scores = importances(weight, self.importance)
            links = sampled(scores, active - count, links, power=power, generator=generator)
        return _Staying(layer.name, links, active, layer.shape, layer.layout)

    def _without_dead_ends(self, staying: Iterable[_Staying]) -> list[_Staying]:
        by_name = {each.name: each for each in staying}
        for is_shown, names in groupby(self.chain, by_name.__contains__):  # frozen layers are not
            if is_shown:
                chained = [by_name[name] for name in names]
                for each, links in zip(chained, without_dead_ends([each.links[0] for each in chained]), strict=True):
                    by_name[each.name] = each._replace(links=links[None])
        return list(by_name.values())


class _Staying(NamedTuple):
    """A layer in the middle of an update."""

    name: str
    links: Tensor
    """bool, ``(matrices, units, columns)``: those that stay."""
    active: int
    """How many there are to be."""
    shape: tuple[int, ...]
    layout: Layout


def _grown(layer: _Staying, predictor: str, generator: torch.Generator) -> Tensor:
    """The mask with as many links as there are to be."""
    kept = layer.links
    if not (missing := layer.active - int(kept.sum())):
        return weight_of(kept.clone(), layer.shape, layer.layout)
    links = torch.stack([link_scores(each, predictor) for each in kept.unbind()])
    if int(((links > 0) & ~kept).sum()) < missing:
        links += _SMALL
    return weight_of(kept | sampled(links, missing, ~kept, generator=generator), layer.shape, layer.layout)
