"""The loss on straight lines between solutions: is there a barrier, and how fast does it fall?"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparseflow._checks import check_masks
from sparseflow.analysis.at_weights import Progress, Recalibration, measure_at, weights_of
from sparseflow.boundary import checked
from sparseflow.masks.select import maskable
from sparseflow.types import Batches, LossFn, Masks

#: The authors' grid: 29 points from -0.20 to 1.20 in steps of 0.05; 0 and 1 are exact.
ALPHAS: tuple[float, ...] = tuple(i / 20 for i in range(-4, 25))


@dataclass(frozen=True)
class PathLosses:
    """Loss and accuracy along a line in weight space, one value per point."""

    alphas: tuple[float, ...]
    """0 is the start, 1 the end."""
    losses: tuple[float, ...]
    """Mean loss over the examples, without L2 term, in the loss function's unit."""
    accuracies: tuple[float, ...]
    """In [0, 1]; NaN where the targets are no classes."""


@checked()
def linear_path(
    model: nn.Module,
    start: Mapping[str, Tensor],
    end: Mapping[str, Tensor],
    batches: Batches,
    *,
    loss_fn: LossFn | None = F.cross_entropy,
    alphas: Sequence[float] = ALPHAS,
    masks: Masks | None = None,
    recalibrate: Recalibration = None,
    evaluate: Callable[[nn.Module], float] | None = None,
    progress: Progress | None = None,
) -> PathLosses:
    r"""Loss and accuracy on the straight line between two sets of weights, in eval mode and without side effects.

    .. math:: w(\alpha) = (1 - \alpha)\, w_{start} + \alpha\, w_{end}

    for all trainable parameters, biases included, computed in float64 and rounded once to the model's dtype; at 0 and 1
    the weights are those of start and end bit for bit. The model comes back bit for bit.

    Args:
        model: The network; only its architecture matters, and frozen parameters that start and end do not give.
        start: A state dict of the model, or parameter name -> tensor; its buffers are not used.
        end: Likewise.
        batches: Pairs of inputs and targets, or mappings with ``labels``, see :mod:`sparseflow.batches`; gone through
            at every point (the paper: the whole training set).
        loss_fn: Mean loss of a batch, without L2 term; ``None`` for the one that the model returns.
        alphas: Points on the line; by default :data:`ALPHAS`, the grid of the authors' code.
        masks: If given, it is checked that start and end are both zero off them.
        recalibrate: Training batches from which batch norm's running statistics are estimated anew at every point, the
            ends included; ``False`` keeps the model's own. Needed if the model has any.
        evaluate: The accuracy of the model as it stands, say on test data; by default the fraction of targets in
            ``batches`` that are the class of the largest output.
        progress: Called with (points done, number of points).

    Raises:
        TypeError, ValueError: if a parameter is missing or has another shape, start or end is not zero off the masks,
            there are no batches, or the model has running statistics and ``recalibrate`` is ``None``.

    Reference: Evci et al. (2022), Figure 5 c, f; Goodfellow et al. (2015), *Qualitatively Characterizing Neural Network
    Optimization Problems*; protocol I.2.

    >>> layer = nn.Linear(1, 1, bias=False)
    >>> ends = [{"weight": torch.tensor([[w]])} for w in (1.0, -1.0)]
    >>> square = lambda output, target: ((output - target) ** 2).mean()
    >>> linear_path(layer, *ends, [(torch.ones(1, 1), torch.zeros(1, 1))], loss_fn=square, alphas=[0, 0.5, 1]).losses
    (1.0, 0.0, 1.0)
    """
    if not len(alphas):
        raise ValueError("alphas must name one place on the path or more, got none.")
    starts, ends = weights_of(model, start, name="start"), weights_of(model, end, name="end")
    if odd := starts.keys() ^ ends.keys():
        raise ValueError(f"only one of start and end has {min(odd)!r}: give it in both, or in neither.")
    if masks is not None:
        check_masks(masks, {name: weight.parameter for name, weight in maskable(model).items()})
        _check_on_masks(starts, masks, name="start")
        _check_on_masks(ends, masks, name="end")

    def weights_at(alpha: float) -> Mapping[str, Tensor]:
        if alpha in (0, 1):
            return ends if alpha else starts
        wide = {name: torch.promote_types(value.dtype, torch.float64) for name, value in starts.items()}
        return {name: torch.lerp(starts[name].to(dtype), ends[name].to(dtype), alpha) for name, dtype in wide.items()}

    alphas = tuple(map(float, alphas))
    found = measure_at(
        model, weights_at, alphas, batches,
        loss_fn=loss_fn, recalibrate=recalibrate, evaluate=evaluate, progress=progress,
    )  # fmt: skip
    return PathLosses(alphas, tuple(point.loss for point in found), tuple(point.accuracy for point in found))


def _check_on_masks(values: Mapping[str, Tensor], masks: Masks, *, name: str) -> None:
    for key, mask in masks.items():
        if key in values and bool(((values[key] != 0) & ~mask.to(values[key].device)).any()):
            raise ValueError(
                f"{name}[{key!r}] is not zero off its mask: it lives on another mask, or was saved dense. Multiply it "
                "by the mask, or leave out masks=."
            )


@checked()
def barrier(alphas: Sequence[float], losses: Sequence[float]) -> float:
    r"""Height of the loss barrier between the two ends of a path.

    .. math:: \max_{0 \le \alpha \le 1} \left[ L(\alpha) - (1 - \alpha) L(0) - \alpha L(1) \right] \ge 0

    Args:
        alphas: Points on the path, in any order; 0 and 1 must be among them, points outside [0, 1] do not count.
        losses: The loss at each, in the unit of the result.

    Raises:
        ValueError: if 0 or 1 is not in the grid, the lengths differ, or a loss that counts is NaN or infinite.

    Reference: Frankle et al. (2020), *Linear Mode Connectivity and the Lottery Ticket Hypothesis*; protocol I.2, where
    at most 0.01 nats is called linearly connected.

    >>> barrier([0, 0.5, 1], [1.0, 4.0, 2.0])  # 4 against 1.5
    2.5
    """
    inside = _between(alphas, losses)
    (_, first), (_, last) = inside[0], inside[-1]
    # The ends count as 0, also where a grid misses them by rounding.
    return max([0.0, *(loss - ((1 - alpha) * first + alpha * last) for alpha, loss in inside[1:-1])])


@checked()
def area_under_log_loss(alphas: Sequence[float], losses: Sequence[float]) -> float:
    r"""Area under the logarithm of the loss between the two ends, by the trapezoid rule.

    The lower, the faster the loss falls on the way.

    .. math:: \int_0^1 \ln L(\alpha)\, d\alpha

    Arguments as :func:`barrier`.

    Raises:
        ValueError: as :func:`barrier`, or if a loss that counts is not positive.

    Reference: claim C33 about Figure 5 c of Evci et al. (2022).

    >>> area_under_log_loss([0, 1], [math.exp(2.0), 1.0])
    1.0
    """
    inside = _between(alphas, losses)
    for alpha, loss in inside:
        if loss <= 0:
            raise ValueError(f"the loss at alpha={alpha:g} is {loss!r}, which has no logarithm; use barrier() instead.")
    return sum(
        (b - a) * (math.log(first) + math.log(second)) / 2 for (a, first), (b, second) in itertools.pairwise(inside)
    )


def _between(alphas: Sequence[float], losses: Sequence[float]) -> list[tuple[float, float]]:
    """The points in [0, 1] in order; a grid made by adding steps may miss 0 and 1 by rounding."""
    if len(alphas) != len(losses):
        raise ValueError(f"got {len(alphas)} alphas and {len(losses)} losses; give one loss for each point.")
    slack = 1e-9
    inside = sorted((float(a), float(loss)) for a, loss in zip(alphas, losses, strict=True) if -slack <= a <= 1 + slack)
    if not inside or abs(inside[0][0]) > slack or abs(inside[-1][0] - 1) > slack:
        raise ValueError(f"alphas must contain 0 and 1, the two ends, got {', '.join(f'{a:g}' for a in alphas)}.")
    for alpha, loss in inside:
        if not math.isfinite(loss):
            raise ValueError(f"the loss at alpha={alpha:g} is {loss!r}: nothing can be said about this path.")
    return inside
