"""SR-STE: the network uses exactly N of every M, and all weights are trained."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from sparseflow._checks import check_steps
from sparseflow.masks.n_of_m import PatternLike, best_in_groups
from sparseflow.methods.base import Layer, Method
from sparseflow.methods.drop_grow import periodic
from sparseflow.methods.n_of_m import NOfM
from sparseflow.ranges import Range


@dataclass(frozen=True, kw_only=True)
class SRSTE(Method):
    r"""Sparse-refined straight-through estimator: N:M masks that move; start from :func:`sparseflow.dense_masks`.

    The network computes with the N largest of every M values, :math:`\tilde W`, and the optimizer steps all of them by
    the gradient there; those that are not used are pulled towards zero, so that the masks settle:

    .. math:: W \leftarrow W - \eta \left( \nabla L(\tilde W) + \lambda_W\, (1 - \mathcal{E}) \odot W \right)

    The masks of the Sparsifier are dense; between steps the model has the used weights alone. The last update leaves
    these as the masks.

    Args:
        pattern, sparsity: As :class:`sparseflow.NOfM`; weights that no name pattern matches stay dense.
        update_until: Last update, in optimizer steps; the masks are N:M from then on.
        update_every: Optimizer steps between choices of what is used; 1 as in the paper.
        decay: :math:`\lambda_W`, beside the optimizer's own weight decay; 2e-4 as in the authors' code. An optimizer
            whose weight decay is decoupled, such as AdamW, decouples this one, too.

    Raises:
        TypeError, ValueError: as :class:`sparseflow.NOfM`; when the Sparsifier is made, if a weight is stored as active
            values alone, which leaves no place for the others.

    Reference: Zhou et al. (2021), *Learning N:M Fine-grained Structured Sparse Neural Networks From Scratch*.

    >>> method = SRSTE(pattern=(2, 4), update_until=250)
    >>> sum(method.due(step) for step in range(400))
    250
    """

    pattern: PatternLike | None = None
    sparsity: float | Mapping[str, float] | None = None
    update_until: int
    update_every: int = 1
    decay: float = 2e-4

    def __post_init__(self) -> None:
        check_steps(self.update_every, name="update_every", least=1)
        check_steps(self.update_until, name="update_until", least=1)
        Range(0).check(self.decay, name="decay")
        self._end()

    def due(self, step: int) -> bool:
        """Whether masks change: every ``update_every`` steps, and at the last update in any case."""
        return periodic(step, every=self.update_every, first=self.update_every, until=self.update_until, at_end=True)

    def used(self, layer: Layer) -> Tensor:
        """The mask of what the network computes with: the N largest of every M values."""
        pair = self._end().pattern_of(layer.name, layer.shape, layer.layout)
        return layer.mask.clone() if pair is None else best_in_groups(layer.weight.abs(), *pair, layer.layout)

    def decay_of_unused(self, decay: float, share: float) -> float:
        r"""Weight decay of values that are not used: the optimizer's, and :math:`\lambda_W`."""
        return decay + self.decay

    def check_start(self, shapes: Mapping[str, tuple[int, ...]], active: Mapping[str, int]) -> None:
        """As :meth:`sparseflow.NOfM.check_start`."""
        self._end().check_start(shapes, active)

    def check_layers(self, layers: Iterable[Layer]) -> None:
        """As :meth:`sparseflow.NOfM.check_layers`."""
        self._end().check_layers(layers)

    def unfinished(self, step: int, shapes: Mapping[str, tuple[int, ...]], active: Mapping[str, int]) -> str:
        """As :meth:`sparseflow.NOfM.unfinished`."""
        return self._end().unfinished(step, shapes, active)

    def update(self, layers: Iterable[Layer], *, step: int, generator: torch.Generator) -> Iterator[tuple[str, Tensor]]:
        """Yield dense masks, and at the last update those of what is used; see :meth:`Method.update`."""
        for layer in layers:
            yield layer.name, self.used(layer) if step >= self.update_until else torch.ones_like(layer.mask)

    def _end(self) -> NOfM:
        """What pruning at the last step leaves."""
        until = self.update_until
        return NOfM(pattern=self.pattern, sparsity=self.sparsity, begin=until, end=until)
