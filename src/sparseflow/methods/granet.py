"""GraNet: gradual pruning over all layers together, and at each update some weights die and others are born."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch

from sparseflow._fast import count_true
from sparseflow.masks.blocks import SINGLE, BlockLike
from sparseflow.methods.base import Layer, Swap
from sparseflow.methods.prune_and_exchange import PruneAndExchange
from sparseflow.methods.scores import gradient_magnitude, magnitude


@dataclass(frozen=True, kw_only=True)
class GraNet(PruneAndExchange):
    r"""Gradual pruning with neuroregeneration: at each update weights are pruned, then some are exchanged.

    .. math:: s(t) = s_f + (s_i - s_f)\left(1 - \frac{t - t_0}{t_1 - t_0}\right)^3

    1. Of all layers together the weights of largest magnitude stay, until the sparsity is :math:`s(t)`.
    2. Each layer drops :math:`\lfloor r(t)\, n \rfloor` of its :math:`n` weights left, the smallest, and as many grow
       where the dense gradient is largest, just-dropped and just-pruned ones among them.

    After ``end`` the exchange goes on, down to 0 at the last update. Start from :func:`sparseflow.dense_masks`, or from
    random masks of ``initial_sparsity`` (the paper: 0.5).

    Args:
        sparsity: :math:`s_f`, fraction of zeros over all layers; of each layer where the scope is ``"layer"``.
        begin: :math:`t_0`, first update, optimizer steps.
        end: :math:`t_1`, last step that prunes.
        initial_sparsity: :math:`s_i`, at ``begin``.
        scope: ``"global"`` ranks all weights together, ``"layer"`` gives each layer the sparsity.
        block: As :func:`sparseflow.RigL`.
        schedule: Of the exchange, default ``"cosine"``, as theirs. It needs its end: ``update_until`` (theirs: the last
            step of the run) or ``total_steps``.
        others: As :class:`sparseflow.methods.PruneAndExchange`; ``drop_fraction`` is :math:`r(0)` (default 0.3; the
            authors' code: 0.5).

    Raises:
        TypeError, ValueError: as :class:`sparseflow.methods.PruneAndExchange`.

    Warns: :class:`~sparseflow.masks.topk.EmptiedLayerWarning` if the global ranking takes every weight of a layer.

    Note:
        Paper and code differ. The code stops pruning one update early, so that it ends a little denser than the
        formula, which is followed here; it rounds the exchange up where this rounds down, and its rate ends at 0.005
        instead of 0.

    Reference: Liu et al. (2021), *Sparse Training via Boosting Pruning Plasticity with Neuroregeneration*.

    >>> granet = GraNet(sparsity=0.9, begin=0, end=500, update_every=100, update_until=800)
    >>> [step for step in range(0, 1000, 50) if granet.due(step)]
    [0, 100, 200, 300, 400, 500, 600, 700, 800]
    """

    scope: str = "global"
    block: BlockLike = SINGLE
    schedule: str | Callable[..., float] = "cosine"
    needs_gradient: ClassVar[bool] = True

    def update(self, layers: Iterable[Layer], *, step: int, generator: torch.Generator) -> Iterator[tuple[str, Swap]]:
        """Ask for one exchange in each layer that prunes it and regenerates what stays; see :meth:`Method.update`.

        Both drop the smallest weights of a layer, so that one drop of as many does the same.
        """
        layers = list(layers)  # a global ranking looks at all of them
        kept = {layer.name: layer.num_active for layer in layers}
        if step <= self.pruning.end:
            pruned = self.pruning.update(layers, step=step, generator=generator)
            kept = {name: count_true(mask) for name, mask in pruned}
        for layer in layers:
            stay, ratio = kept[layer.name], layer.learning_rate_ratio
            count = self.num_drop(stay, step=step, learning_rate_ratio=ratio)
            if layer.grid is not None:
                count -= count % layer.grid.size
            yield layer.name, Swap(layer.num_active - stay + count, count, magnitude, gradient_magnitude)
