"""CHTss: CHTs on a layer that becomes sparser along a sigmoid."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

from sparseflow._checks import check_finite
from sparseflow.masks.topk import active_count, topk_mask
from sparseflow.methods.base import Layer
from sparseflow.methods.chts import CHTs
from sparseflow.methods.prune_and_exchange import PruneAndExchange
from sparseflow.methods.topology import importances
from sparseflow.ranges import Range


def sigmoid_sparsity(step: int, *, initial: float, final: float, begin: int, end: int, curvature: float = 6.0) -> float:
    r"""Sparsity of gradual pruning that is slow at first and towards the end.

    .. math:: s(t) = s_i + (s_f - s_i) \left(\frac12 + \frac{\sigma(k x) - \frac12}{\sigma(k) - \sigma(-k)}\right),
        \quad x = \frac{2 (t - t_0)}{t_1 - t_0} - 1

    clipped to :math:`[t_0, t_1]`; with :math:`t_0 = t_1` everything at once.

    Args:
        step: Optimizer steps done.
        initial: :math:`s_i`, before ``begin``.
        final: :math:`s_f`, from ``end`` on.
        begin: :math:`t_0`, steps.
        end: :math:`t_1`, steps.
        curvature: :math:`k`, above 0 (the authors: 6).

    Reference: Zhang et al. (2025), CHTs, section 3.3, with the ends of their code, which are exact.

    >>> [round(sigmoid_sparsity(t, initial=0.5, final=0.9, begin=0, end=100), 3) for t in (0, 25, 50, 75, 100)]
    [0.5, 0.518, 0.7, 0.882, 0.9]
    """
    if step >= end:
        return final
    if step <= begin:
        return initial
    place = 2 * (step - begin) / (end - begin) - 1
    # sigma(k x) - 1/2 is tanh(k x / 2) / 2
    share = (1 + math.tanh(curvature * place / 2) / math.tanh(curvature / 2)) / 2
    return initial + (final - initial) * share


@dataclass(frozen=True, kw_only=True)
class CHTss(CHTs, PruneAndExchange):
    r"""CHTs with sigmoid density decay: at each update weights are pruned, then some of those that stay are exchanged.

    1. Until ``end`` each layer keeps the weights of largest relative importance, as many as
       :func:`sparseflow.methods.chtss.sigmoid_sparsity` leaves.
    2. Of these some are exchanged as :class:`sparseflow.CHTs` does.

    Start from :func:`sparseflow.receptive_field_masks` of ``initial_sparsity``.

    Args:
        sparsity: :math:`s_f`, fraction of zeros of every layer, or by parameter name.
        begin: :math:`t_0`, default 0, as in the authors' code.
        end: :math:`t_1`, last step that prunes (theirs: 8,000 of 10,000).
        initial_sparsity: :math:`s_i`; default 0.5, theirs.
        curvature: :math:`k`; default 6, theirs.
        schedule: Default ``"cosine"``, theirs for language models.
        others: As :class:`sparseflow.CHTs`.

    Raises:
        TypeError, ValueError: as :class:`sparseflow.CHTs` and :class:`sparseflow.GMP`; if the curvature is not above 0,
            or pruning ends after the last exchange.

    Reference: Zhang et al. (2025), *Brain network science modelling of sparse neural networks enables Transformers and
    LLMs to perform as fully connected*, section 3.3.

    >>> chtss = CHTss(sparsity=0.9, end=80, update_every=10, update_until=100)
    >>> [step for step in range(1, 110) if chtss.due(step)]
    [10, 20, 30, 40, 50, 60, 70, 80, 90, 100]
    """

    begin: int = 0
    initial_sparsity: float = 0.5
    curvature: float = 6.0
    schedule: str | Callable[..., float] = "cosine"

    def __post_init__(self) -> None:
        super().__post_init__()
        Range(0, with_low=False).check(self.curvature, name="curvature")

    def _pruned(self, layer: Layer, weight: Tensor, mask: Tensor, step: int) -> Tensor:
        if step > self.end:
            return mask
        sparsity = sigmoid_sparsity(
            step,
            initial=self.initial_sparsity,
            final=self.sparsity[layer.name] if isinstance(self.sparsity, Mapping) else self.sparsity,
            begin=self.begin,
            end=self.end,
            curvature=self.curvature,
        )
        check_finite(weight, name=f"{layer.name!r} at the mask update of step {step}")
        kept = min(active_count(mask.numel(), sparsity), layer.num_active)
        return topk_mask(importances(weight, "relative"), kept, among=mask)
