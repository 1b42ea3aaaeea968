"""Gradual and one-shot magnitude pruning: weights leave for good."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from sparseflow._checks import check_choice, check_names, check_sparsity, check_steps
from sparseflow.boundary import checked
from sparseflow.masks.allocation import uniform
from sparseflow.masks.blocks import SINGLE, BlockGrid, BlockLike, block_of, check_one_each, checked_block
from sparseflow.masks.ranking import best_of, best_of_all
from sparseflow.masks.topk import active_count
from sparseflow.methods.base import Layer, Method
from sparseflow.methods.drop_grow import periodic


def cubic_sparsity(step: int, *, initial: float, final: float, begin: int, end: int) -> float:
    r"""Sparsity of gradual pruning: steep at first, flat towards the end.

    .. math:: s(t) = s_f + (s_i - s_f)\left(1 - \frac{t - t_0}{t_1 - t_0}\right)^3

    clipped to :math:`[t_0, t_1]`; with :math:`t_0 = t_1` everything at once.

    Args:
        step: Optimizer steps done.
        initial: ``s_i`` before ``begin``.
        final: ``s_f`` from ``end`` on.
        begin: ``t_0``, steps.
        end: ``t_1``, steps.

    Reference: Zhu and Gupta (2017), *To prune, or not to prune*.

    >>> [round(cubic_sparsity(t, initial=0, final=0.95, begin=3000, end=7000), 3) for t in (3000, 4000, 5000, 7000)]
    [0.0, 0.549, 0.831, 0.95]
    """
    if step >= end:
        return final
    if step < begin:
        return initial
    progress = (step - begin) / (end - begin)
    return final + (initial - final) * (1 - progress) ** 3


@dataclass(frozen=True, kw_only=True)
class GMP(Method):
    """Gradual magnitude pruning: start from :func:`sparseflow.dense_masks` and cut along a cubic.

    At an update after ``t`` optimizer steps the next forward pass already uses the new masks, as in the paper's code.

    Args:
        sparsity: Final fraction of zeros, for every layer or by parameter name.
        begin: First update, optimizer steps (paper's MNIST: 3000).
        end: Last update, at the final sparsity (paper's MNIST: 7000).
        update_every: Optimizer steps between updates (paper's MNIST: 100).
        initial_sparsity: At ``begin``.
        scope: ``"layer"`` gives each layer its target, ``"global"`` ranks all weights together.
        block: Blocks that leave as a whole, such as ``(4, 1)``, those of the smallest sums of magnitudes first, as
            :func:`sparseflow.magnitude_masks` takes it. Default: single weights.

    Raises:
        ValueError: if a sparsity is outside [0, 1), the steps are out of order, or the scope is unknown; when the
            Sparsifier is made, if names differ from those of the masks or the sparsity cannot be reached with them.

    Warns: :class:`~sparseflow.masks.topk.EmptiedLayerWarning` if the global ranking takes every weight of a layer.

    Reference: Zhu and Gupta (2017), *To prune, or not to prune*; protocol D.

    >>> gmp = GMP(sparsity=0.95, begin=3000, end=7000)
    >>> [t for t in (2900, 3000, 3050, 7000, 7100) if gmp.due(t)]
    [3000, 7000]
    """

    sparsity: float | Mapping[str, float]
    begin: int
    end: int
    update_every: int = 100
    initial_sparsity: float = 0.0
    scope: str = "layer"
    block: BlockLike = SINGLE

    def __post_init__(self) -> None:
        checked_block(self.block)
        targets = self.sparsity.values() if isinstance(self.sparsity, Mapping) else [self.sparsity]
        for target in targets:
            check_sparsity(target)
        check_sparsity(self.initial_sparsity, name="initial_sparsity")
        if any(self.initial_sparsity > target for target in targets):
            raise ValueError(
                f"initial_sparsity={self.initial_sparsity} is above the final sparsity, and no weight comes back. "
                "Lower it, or raise sparsity=."
            )
        check_choice(self.scope, ("layer", "global"), name="scope")
        if isinstance(self.sparsity, Mapping) and self.scope == "global":
            raise ValueError("scope='global' ranks all layers together: give one sparsity, not one per layer.")
        for name, least in {"update_every": 1, "begin": 0, "end": 0}.items():
            check_steps(getattr(self, name), name=name, least=least)
        if self.begin > self.end:
            raise ValueError(f"pruning needs 0 <= begin <= end, in optimizer steps, got {self.begin} and {self.end}.")
        if self.end < 1:
            raise ValueError("pruning follows an optimizer step; at step 0 use sparseflow.magnitude_masks instead.")

    def due(self, step: int) -> bool:
        """Whether masks change: at begin, begin + update_every, ..., and at the end in any case (protocol D.4)."""
        return periodic(step, every=self.update_every, first=self.begin, until=self.end, at_end=True)

    def check_start(self, shapes: Mapping[str, tuple[int, ...]], active: Mapping[str, int]) -> None:
        """Check that the final sparsity can be reached; see :func:`sparseflow.methods.run.check_start`.

        Raises:
            ValueError: if a name is missing or unknown, a layer would have less than one weight, or more than it has.
        """
        sizes, blocks = {name: math.prod(shape) for name, shape in shapes.items()}, self._block_sizes(shapes)
        if isinstance(self.sparsity, Mapping):
            check_names(self.sparsity, shapes, name="sparsity")
            for name, target in self.sparsity.items():
                _check_one_stays(name, sizes[name], target, blocks[name])
        else:
            uniform(shapes, self.sparsity)
            check_one_each(sizes, dict.fromkeys(sizes, self.sparsity), blocks)
        targets = self._final_counts(shapes)
        for name, count in _counts(active, self.scope).items():
            if count < targets[name]:
                raise ValueError(
                    f"{name} has {count} active weights and pruning would end with {targets[name]}; none comes back. "
                    "Start from sparseflow.dense_masks(model), or raise sparsity=."
                )

    def unfinished(self, step: int, shapes: Mapping[str, tuple[int, ...]], active: Mapping[str, int]) -> str:
        """What pruning has not reached; see :func:`sparseflow.methods.run.unfinished`."""
        targets = self._final_counts(shapes)
        if step < self.end:
            goal = 1 - sum(targets.values()) / max(1, sum(map(math.prod, shapes.values())))
            return (
                f"pruning has not come to its end, at step {self.end}, with sparsity {goal:.3g}. Train until then, or "
                "give begin= and end= that fit the run."
            )
        left = [name for name, count in _counts(active, self.scope).items() if count > targets[name]]
        return f"pruning ended at step {self.end} and left {', '.join(left)} denser than asked." if left else ""

    def _final_counts(self, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
        """Active weights at the end, by layer; under a global ranking of all together."""
        sizes = _counts({name: math.prod(shape) for name, shape in shapes.items()}, self.scope)
        by_name = self.sparsity if isinstance(self.sparsity, Mapping) else dict.fromkeys(sizes, self.sparsity)
        blocks = self._block_sizes(shapes)
        if self.scope == "global":  # of all layers' blocks, where they have one size
            blocks = dict.fromkeys(sizes, max(blocks.values()) if len(set(blocks.values())) == 1 else 1)
        return {name: active_count(size, by_name[name], block_size=blocks[name]) for name, size in sizes.items()}

    def _block_sizes(self, names: Iterable[str]) -> dict[str, int]:
        return {name: math.prod(block_of(self.block, name)) for name in names}

    def _sparsity_at(self, step: int, target: float) -> float:
        return cubic_sparsity(step, initial=self.initial_sparsity, final=target, begin=self.begin, end=self.end)

    def update(self, layers: Iterable[Layer], *, step: int, generator: torch.Generator) -> Iterator[tuple[str, Tensor]]:
        """Yield masks that keep the largest active weights; none comes back. See :meth:`Method.update`.

        Raises:
            ValueError: if sparsities were given by name and a layer has none.
        """
        if self.scope == "global":
            assert not isinstance(self.sparsity, Mapping)
            yield from _prune_globally(list(layers), self._sparsity_at(step, self.sparsity))
            return
        for layer in layers:
            target = self.sparsity
            if isinstance(target, Mapping):
                if layer.name not in target:
                    raise ValueError(f"sparsity has no entry for {layer.name}; it needs one per masked weight.")
                target = target[layer.name]
            size = 1 if layer.grid is None else layer.grid.size
            count = active_count(math.prod(layer.shape), self._sparsity_at(step, target), block_size=size)
            yield layer.name, _keep(layer.mask, layer.weight, min(count, layer.num_active), layer.grid)


def _keep(mask: Tensor, weight: Tensor, count: int, grid: BlockGrid | None) -> Tensor:
    return best_of(weight, count, grid=grid, among=mask, magnitude=True)


def _prune_globally(layers: list[Layer], sparsity: float) -> Iterable[tuple[str, Tensor]]:
    return best_of_all(
        {layer.name: layer.weight for layer in layers},
        sparsity,
        grids={layer.name: layer.grid for layer in layers if layer.grid is not None},
        among={layer.name: layer.mask for layer in layers},
        at_most=sum(layer.num_active for layer in layers),
        magnitude=True,
    ).items()


def _counts(by_layer: Mapping[str, int], scope: str) -> dict[str, int]:
    return dict(by_layer) if scope == "layer" else {"the network": sum(by_layer.values())}


def _check_one_stays(name: str, size: int, sparsity: float, block: int) -> None:
    """Check that rounding leaves one; that which :func:`active_count` keeps in any case would be too many."""
    if round(size // block * (1 - sparsity), 6) < 0.5:
        one = "one" if block == 1 else f"one block of {block}"
        raise ValueError(
            f"sparsity {sparsity} leaves {size * (1 - sparsity):.3g} of {size} weights of {name!r}, which needs at "
            f"least {one}. The largest feasible sparsity there is {1 - block / size:.6g}."
        )


@checked()
def OneShot(  # noqa: N802 - beside GMP
    *, sparsity: float | Mapping[str, float], at: int, scope: str = "layer", block: BlockLike = SINGLE
) -> GMP:
    """One-shot magnitude pruning: everything at once after ``at`` optimizer steps.

    Args:
        sparsity: Fraction of zeros, for every layer or by parameter name.
        at: Optimizer steps done at the only update.
        scope: ``"layer"`` gives each layer its target, ``"global"`` ranks all weights together.
        block: As :class:`GMP`.

    Raises:
        ValueError: if a sparsity is outside [0, 1), or ``at`` is before the first step.

    Reference: Frankle and Carbin (2019), *The Lottery Ticket Hypothesis*, one-shot variant.

    >>> [t for t in range(5) if OneShot(sparsity=0.5, at=3).due(t)]
    [3]
    """
    return GMP(sparsity=sparsity, begin=at, end=at, update_every=1, scope=scope, block=block)
