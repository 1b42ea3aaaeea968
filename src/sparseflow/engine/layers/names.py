"""Names of sparse layers and of their state, by the names that the dense model has for them."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from sparseflow.engine.layers.active import PATTERN_NAMES, ActiveWeight


def layers_by_path(model: nn.Module) -> Iterator[tuple[str, str, ActiveWeight]]:
    """The prefix of its names in a state, the name of the dense weight, and each sparse layer.

    >>> import torch
    >>> from sparseflow.engine.layers.modules import SparseLinear
    >>> layer = SparseLinear.of(nn.Linear(2, 1), torch.tensor([[True, False]]))
    >>> [names[:2] for names in layers_by_path(nn.Sequential(layer))], [names[:2] for names in layers_by_path(layer)]
    ([('0.', '0.weight')], [('', 'weight')])
    """
    for path, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, ActiveWeight):
            yield f"{path}." if path else "", f"{path}{module.weight_suffix}".removeprefix("."), module


def weights_of_state(model: nn.Module) -> dict[str, str]:
    """Name in the state of a model with sparse layers -> the dense weight that it is a part of.

    >>> import torch
    >>> from sparseflow.engine.layers.modules import SparseLinear
    >>> weights_of_state(SparseLinear.of(nn.Linear(2, 1), torch.tensor([[True, False]])))["values"]
    'weight'
    """
    found: dict[str, str] = {}
    for prefix, weight, _ in layers_by_path(model):
        found |= {f"{prefix}{name}": weight for name in ("values", *PATTERN_NAMES)} | {weight: weight}
    return found
