"""Types that the whole library shares."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from torch import Tensor

#: Parameter name -> bool tensor of the weight's shape; ``True`` marks an active weight.
Masks = Mapping[str, Tensor]

#: ``loss_fn(output, target)``: the mean loss over the examples of a batch, a scalar; see
#: :func:`sparseflow.batches.loss_of` for what ``output`` is.
LossFn = Callable[[Any, Any], Tensor]

#: Pairs of inputs and targets, or mappings with ``labels``, see :mod:`sparseflow.batches`; the first dimension runs
#: over examples. It is gone through once per measurement.
Batches = Iterable[Any]


class MaskUpdate(NamedTuple):
    """The change of one layer's mask at an update; all three are bool tensors of the weight's shape."""

    mask: Tensor
    """Active after the update."""
    grown: Tensor
    """Active now, inactive before."""
    dropped: Tensor
    """Inactive now, active before."""


class BrokenPromiseError(RuntimeError):
    """A sparse network is not what its masks say; the message names where and how to mend it."""


class NotFiniteError(ValueError):
    """A number that is to decide something is NaN or infinite, as after a training that diverged."""


class OnEveryRankError(RuntimeError):
    """An error that all processes raise together, so that rank 0 can print it for them."""


class RanksDisagreeError(OnEveryRankError):
    """Processes hold different values that must be equal; the text names the values and the ranks."""


class Look(NamedTuple):
    """Colour, line and marker of a curve, distinct from all others with and without colour."""

    colour: str
    """Key of the page's palette."""
    line: str
    """Line style of matplotlib."""
    marker: str
