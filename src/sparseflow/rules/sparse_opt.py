"""SparseOpt: gradients of each unit's weights, freed of the amplification that a normalisation adds to sparse units."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from sparseflow.boundary import checked
from sparseflow.masks.fans import PLAIN, Layout, dense_fans, fan_in
from sparseflow.sharded import is_sharded, local, shard_like
from sparseflow.sparsifier.rule import Carry, MaskedShape, RuleWeight, StepRule


@checked()
def unit_gradient_scale(mask: Tensor, *, layout: Layout = PLAIN) -> Tensor:
    r"""By what SparseOpt multiplies the gradients of each unit's weights.

    .. math:: c_i = \sqrt{\frac{1 - s_i}{1 - s}}

    A normalisation divides a unit by the standard deviation of its sum, so that the gradient of each of its weights
    grows as :math:`(1 - s_i)^{-1/2}`; the mean sparsity keeps the length of the layer's gradient about what it was.

    Args:
        mask: bool; :math:`s_i` is the share of zeros among the inputs of unit :math:`i`, :math:`s` that of the layer.
        layout: Which axes are units and inputs.

    Returns: float32, broadcastable to ``mask``; 1 where all units are equally sparse, 0 for a unit without inputs.

    Reference: Adnan et al. (2026), *SparseOpt*, arXiv 2605.27541.

    >>> unit_gradient_scale(torch.tensor([[True, True, True, True], [True, False, False, False]])).flatten()
    tensor([1.2649, 0.6325])
    """
    density = fan_in(mask, layout) / dense_fans(mask.shape, layout)[0]
    mean = float(mask.sum(dtype=torch.float64)) / max(1, mask.numel())
    return (density / mean).sqrt_() if mean else torch.zeros_like(density)


@dataclass
class SparseOpt(StepRule):
    """Multiply the gradients of each unit's weights by :func:`unit_gradient_scale` before the optimizer steps by them.

    Growth scores see the gradients as they were before, as the paper asks. Whoever reads ``weight.grad`` after the step
    sees the scaled ones. An optimizer that divides gradients by their own size (Adam) takes most of the scale away
    again; the paper's results are those of SGD with momentum.

    Args:
        exclude: Name patterns of weights whose gradients are left alone: those of units that no normalisation follows,
            such as the last layer's. The paper's correction is for units in front of a batch or layer normalisation.

    Raises:
        TypeError, ValueError: if a pattern matches no masked weight.

    Reference: Adnan et al. (2026), arXiv 2605.27541; its equations, as no code of the authors was found to compare.

    >>> import sparseflow as sf
    >>> model = torch.nn.Sequential(torch.nn.Linear(20, 10), torch.nn.BatchNorm1d(10), torch.nn.Linear(10, 3))
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    >>> masks, rules = sf.random_masks(model, 0.8, seed=0), [sf.rules.SparseOpt(exclude=["2.weight"])]
    >>> sparsifier = sf.Sparsifier(model, optimizer, masks, sf.Static(), seed=0, rules=rules)
    >>> model(torch.randn(8, 20)).square().mean().backward(); optimizer.step()
    """

    exclude: Iterable[str] = ()
    _scales: dict[str, Tensor] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        is_list = isinstance(self.exclude, Iterable) and not isinstance(self.exclude, str)
        if not is_list or not all(isinstance(each, str) for each in self.exclude):
            raise TypeError(f"exclude takes a list of names or patterns, such as ['head.*'], got {self.exclude!r}.")
        self.exclude = tuple(self.exclude)

    def attach(self, optimizers: Sequence[torch.optim.Optimizer], shapes: Mapping[str, MaskedShape]) -> None:
        """Check the patterns and compute the scales."""
        if missed := [pattern for pattern in self.exclude if not fnmatch.filter(shapes, pattern)]:
            raise ValueError(f"exclude has {missed[0]!r}, which matches no masked weight. Masked: {', '.join(shapes)}.")
        self.masks_changed({}, shapes)

    def masks_changed(self, carry: Mapping[str, Carry], shapes: Mapping[str, MaskedShape]) -> None:
        """Compute the scales anew."""
        self._scales = {
            name: _where_held(unit_gradient_scale(shape.mask, layout=shape.layout), shape)
            for name, shape in shapes.items()
            if not any(fnmatch.fnmatchcase(name, pattern) for pattern in self.exclude)
        }

    def before_step(self, weights: Sequence[RuleWeight]) -> None:
        """Scale the gradients."""
        for weight in weights:
            if (scale := self._scales.get(weight.name)) is not None:
                weight.gradient.mul_(scale)


def _where_held(scale: Tensor, shape: MaskedShape) -> Tensor:
    """The scale of each entry that this process holds, or one that broadcasts to them."""
    if shape.positions is not None:
        places = torch.unravel_index(shape.positions, shape.mask.shape)
        scale = scale.expand(shape.mask.shape)[places]
    elif is_sharded(shape.parameter):
        scale = local(shard_like(scale.expand(shape.mask.shape).contiguous(), shape.parameter))
    return scale.to(shape.parameter.device, shape.parameter.dtype)
