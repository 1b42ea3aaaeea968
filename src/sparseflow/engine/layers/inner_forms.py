"""The layers between sparse convolutions that stay in the engine's layout."""

from __future__ import annotations

import math

from torch import nn

from sparseflow.engine.layers.geometry import MOST_TAPS, pair
from sparseflow.engine.layers.norms import BatchNorm2d
from sparseflow.engine.layers.pools import AvgPool2d, MaxPool2d

#: Layer of torch -> its form in the engine's layout. Exact types: a subclass may compute something else.
INNER_FORMS: dict[type[nn.Module], type[nn.Module]] = {
    nn.MaxPool2d: MaxPool2d,
    nn.AvgPool2d: AvgPool2d,
    nn.BatchNorm2d: BatchNorm2d,
}
PLAIN_FORMS = {inner: plain for plain, inner in INNER_FORMS.items()}


def has_inner_form(module: nn.Module) -> bool:
    """Whether a layer can stay in the engine's layout, with these options.

    >>> has_inner_form(nn.MaxPool2d(2)), has_inner_form(nn.MaxPool2d(2, ceil_mode=True))
    (True, False)
    """
    if type(module) not in INNER_FORMS or "forward" in vars(module):
        return False
    if isinstance(module, nn.MaxPool2d):
        return not (module.ceil_mode or module.return_indices) and math.prod(pair(module.kernel_size)) <= MOST_TAPS
    return not (isinstance(module, nn.AvgPool2d) and module.ceil_mode)
