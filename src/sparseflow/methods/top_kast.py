"""Top-KAST: the network uses the largest weights, and a larger set of them is trained."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from sparseflow._checks import check_sparsity, check_steps
from sparseflow.masks.blocks import SINGLE, BlockLike, block_of, checked_block
from sparseflow.masks.ranking import best_of
from sparseflow.masks.topk import active_count
from sparseflow.methods.base import Layer, Method
from sparseflow.methods.drop_grow import periodic


@dataclass(frozen=True, kw_only=True)
class TopKAST(Method):
    r"""Top-K always sparse training: start from :func:`sparseflow.dense_masks`, and give the optimizer weight decay.

    Of each layer's values :math:`\theta` the share D of largest magnitude, A, is what the network computes with, and
    the share D + M, B, is what the optimizer steps, by the gradient at A:

    .. math:: \Delta\theta_i = -\eta\, \nabla_\alpha L(\alpha)_i \text{ for } i \in B, \qquad
        \alpha_i = \theta_i \text{ for } i \in A, \text{ else } 0

    Values outside of B keep what they have; at an update A and B are chosen anew among all of them. The penalty is the
    optimizer's weight decay on A, and 1/D times it on the rest of B, so that a weight that is not used has to earn its
    place: :math:`\frac{\lambda}{2} (\sum_A \theta_i^2 + \frac{1}{D} \sum_{B \setminus A} \theta_i^2)`. The masks of the
    Sparsifier are B; between steps the model has the weights of A alone. The last update leaves A as the masks.

    Args:
        sparsity: 1 - D, the fraction of zeros that the network computes with.
        backward_sparsity: 1 - D - M, of the set that is trained. Default: B has twice as many weights as A, or all.
        update_every: Optimizer steps between choices of A and B (1 in the paper's equations).
        update_until: Last update, in optimizer steps; the masks are A from then on.
        block: As :class:`sparseflow.GMP`, for A and B.

    Raises:
        ValueError: if a sparsity is outside [0, 1) or B would be smaller than A; when the Sparsifier is made, if the
            masks are not dense, or a weight is stored as active values alone, which leaves no place for the others.

    Reference: Jayakumar et al. (2020), *Top-KAST: Top-K Always Sparse Training*. Its penalty is written with
    :math:`|\theta|` and named L2; here it is L2.

    >>> method = TopKAST(sparsity=0.9, update_every=100, update_until=250)
    >>> [step for step in range(400) if method.due(step)], method.trained_sparsity(99), method.trained_sparsity(250)
    ([100, 200, 250], 0.8, 0.9)
    """

    sparsity: float
    backward_sparsity: float | None = None
    update_every: int = 100
    update_until: int
    block: BlockLike = SINGLE

    def __post_init__(self) -> None:
        checked_block(self.block)
        check_sparsity(self.sparsity)
        if self.backward_sparsity is not None:
            check_sparsity(self.backward_sparsity, name="backward_sparsity")
            if self.backward_sparsity > self.sparsity:
                raise ValueError(
                    f"backward_sparsity={self.backward_sparsity} is above sparsity={self.sparsity}: what is trained "
                    "includes what is used. Lower it."
                )
        check_steps(self.update_every, name="update_every", least=1)
        check_steps(self.update_until, name="update_until", least=1)

    def due(self, step: int) -> bool:
        """Whether masks change: every ``update_every`` steps, and at the last update in any case."""
        return periodic(step, every=self.update_every, first=self.update_every, until=self.update_until, at_end=True)

    def trained_sparsity(self, step: int) -> float:
        """Sparsity of B once ``step`` optimizer steps are done: from the last update on that of A."""
        if step >= self.update_until:
            return self.sparsity
        return round(max(0.0, 2 * self.sparsity - 1), 12) if self.backward_sparsity is None else self.backward_sparsity

    def used(self, layer: Layer) -> Tensor:
        """A, the mask of what the network computes with: of B, the layer's mask, the values of largest magnitude."""
        size = 1 if layer.grid is None else layer.grid.size
        count = min(active_count(math.prod(layer.shape), self.sparsity, block_size=size), layer.num_active)
        return best_of(layer.weight, count, grid=layer.grid, among=layer.mask, magnitude=True)

    def decay_of_unused(self, decay: float, share: float) -> float:
        r"""Weight decay of values that are trained and not used, :math:`\lambda / D`.

        Args:
            decay: The optimizer's, :math:`\lambda`.
            share: D, the share of the layer's weights that are used.
        """
        return decay / share

    def check_start(self, shapes: Mapping[str, tuple[int, ...]], active: Mapping[str, int]) -> None:
        """Check that there is a value for every weight; see :func:`sparseflow.methods.run.check_start`.

        Raises:
            ValueError: naming a weight with fewer active ones than are to be trained.
        """
        for name, shape in shapes.items():
            size = math.prod(block_of(self.block, name))
            least = active_count(math.prod(shape), self.sparsity, block_size=size)
            if active[name] < least:
                raise ValueError(
                    f"{name} has {active[name]} active weights and the network is to compute with {least}. Start from "
                    "sparseflow.dense_masks(model)."
                )

    def unfinished(self, step: int, shapes: Mapping[str, tuple[int, ...]], active: Mapping[str, int]) -> str:
        """Whether weights are trained that are not used; see :func:`sparseflow.methods.run.unfinished`."""
        if step >= self.update_until:
            return ""
        return (
            f"Top-KAST has not come to its end, at step {self.update_until}: the masks hold weights that the network "
            "does not use yet. Train until then, or give an update_until= that fits the run."
        )

    def update(self, layers: Iterable[Layer], *, step: int, generator: torch.Generator) -> Iterator[tuple[str, Tensor]]:
        """Yield B, of all values; see :meth:`Method.update`."""
        for layer in layers:
            size = 1 if layer.grid is None else layer.grid.size
            count = active_count(math.prod(layer.shape), self.trained_sparsity(step), block_size=size)
            yield layer.name, best_of(layer.weight, count, grid=layer.grid, magnitude=True)
