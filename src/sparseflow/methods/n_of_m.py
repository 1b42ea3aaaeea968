"""Gradual N:M pruning: every group of M inputs ends with its N largest weights."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from sparseflow._checks import check_names, check_sparsity
from sparseflow.masks.fans import Layout
from sparseflow.masks.n_of_m import (
    PatternLike,
    best_in_groups,
    checked_pattern,
    in_groups,
    pattern_at,
    pattern_of,
    patterns,
)
from sparseflow.methods.base import Layer, Method
from sparseflow.methods.pruning import GMP, cubic_sparsity


@dataclass(frozen=True, kw_only=True)
class NOfM(Method):
    r"""Gradual pruning to exactly N of every M: start from :func:`sparseflow.dense_masks`.

    In each group the number of active weights falls from M to N along the cubic of :class:`sparseflow.GMP`,
    :math:`k(t) = \mathrm{round}(M (1 - s(t)))`, and is the same in all groups of a layer from the first update on: of
    masks that are sparse already, at most what the sparsest group has. Which inputs are a group is said at
    :func:`sparseflow.masks.n_of_m.in_groups`. Weights that no name pattern matches stay dense.

    Args:
        pattern: N and M, such as ``(2, 4)``, or name pattern -> N and M.
        sparsity: Instead of it, the fraction of zeros, for every layer or by name. It is met in lowest terms (0.75 is
            1:4) where that M divides the columns, and elsewhere with N of all columns of a unit.
        begin, end, update_every: As :class:`sparseflow.GMP`.

    Raises:
        TypeError, ValueError: if N and M, the sparsity or the steps cannot be; when the Sparsifier is made, if M does
            not divide the columns of a weight, naming it, or a group has less than N active weights.

    Reference: Mishra et al. (2021), *Accelerating Sparse Deep Neural Networks*, for N:M; Zhu and Gupta (2017), *To
    prune, or not to prune*, for the cubic. Kao et al. (2022), *Training Recipe for N:M Structured Sparsity with
    Decaying Pruning Mask*, let N fall, too, in halves.

    >>> method = NOfM(pattern=(2, 4), begin=100, end=300)
    >>> [step for step in range(400) if method.due(step)]
    [100, 200, 300]
    """

    pattern: PatternLike | None = None
    sparsity: float | Mapping[str, float] | None = None
    begin: int
    end: int
    update_every: int = 100

    def __post_init__(self) -> None:
        if (self.pattern is None) == (self.sparsity is None):
            raise ValueError("N:M pruning needs pattern=, such as (2, 4), or sparsity=, such as 0.75, and not both.")
        if self.pattern is not None:
            checked_pattern(self.pattern)
        if self.sparsity is not None:
            for each in self.sparsity.values() if isinstance(self.sparsity, Mapping) else [self.sparsity]:
                check_sparsity(each)
        self._steps()

    def due(self, step: int) -> bool:
        """Whether masks change: at begin, begin + update_every, ..., and at the end in any case."""
        return self._steps().due(step)

    def check_start(self, shapes: Mapping[str, tuple[int, ...]], active: Mapping[str, int]) -> None:
        """Check the names; see :func:`sparseflow.methods.run.check_start`.

        Raises:
            ValueError: if a sparsity is given for other weights than the masked ones.
        """
        if isinstance(self.sparsity, Mapping):
            check_names(self.sparsity, shapes, name="sparsity")

    def check_layers(self, layers: Iterable[Layer]) -> None:
        """Check that every M divides its columns; see :func:`sparseflow.methods.run.check_layers`.

        Raises:
            ValueError: naming the weights that cannot be N:M, or one with a group of less than N active weights.
        """
        seen = [(each.name, each.mask, each.layout) for each in layers]
        if self.pattern is not None:
            patterns(self.pattern, {name: mask.shape for name, mask, _ in seen}, {name: axes for name, _, axes in seen})
        for name, mask, layout in seen:
            n, m = self.pattern_of(name, tuple(mask.shape), layout) or (0, 1)
            if (fewest := _fewest(mask, m, layout)) < n:
                raise ValueError(
                    f"a group of {m} of {name} has {fewest} active weights, less than {n}; none comes back. Start from "
                    "sparseflow.dense_masks(model)."
                )

    def unfinished(self, step: int, shapes: Mapping[str, tuple[int, ...]], active: Mapping[str, int]) -> str:
        """What pruning has not reached; see :func:`sparseflow.methods.run.unfinished`."""
        if step >= self.end:
            return ""
        return (
            f"N:M pruning has not come to its end, at step {self.end}. Train until then, or give begin= and end= that "
            "fit the run."
        )

    def update(self, layers: Iterable[Layer], *, step: int, generator: torch.Generator) -> Iterator[tuple[str, Tensor]]:
        """Yield masks of the largest active weights of each group; see :meth:`Method.update`."""
        for layer in layers:
            pair = self.pattern_of(layer.name, layer.shape, layer.layout)
            yield layer.name, layer.mask.clone() if pair is None else self._prune(layer, *pair, step=step)

    def _prune(self, layer: Layer, n: int, m: int, *, step: int) -> Tensor:
        sparsity = cubic_sparsity(step, initial=0.0, final=1 - n / m, begin=self.begin, end=self.end)
        mask, layout = layer.mask, layer.layout
        kept = min(max(n, round(m * (1 - sparsity))), _fewest(mask, m, layout))
        return best_in_groups(layer.weight.abs(), kept, m, layout, among=mask)

    def pattern_of(self, name: str, shape: tuple[int, ...], layout: Layout) -> tuple[int, int] | None:
        """The N and M of one weight; ``None`` where no name pattern matches."""
        if self.pattern is not None:
            return pattern_of(self.pattern, name)
        assert self.sparsity is not None
        sparsity = self.sparsity[name] if isinstance(self.sparsity, Mapping) else self.sparsity
        return pattern_at(tuple(shape), layout, sparsity=sparsity)

    def _steps(self) -> GMP:
        """Pruning at the same steps."""
        return GMP(sparsity=0.0, begin=self.begin, end=self.end, update_every=self.update_every)


def _fewest(mask: Tensor, m: int, layout: Layout) -> int:
    """Active weights of the sparsest group."""
    return int(in_groups(mask, m, layout).sum(-1).min())
