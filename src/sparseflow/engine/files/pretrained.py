"""``save_pretrained`` of converted models: a checkpoint that the dense class reads, with the patterns beside it."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from sparseflow.engine.layers.active import ActiveWeight
from sparseflow.engine.layers.names import layers_by_path


def dense_checkpoint(state: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """A state with the dense weight of each sparse layer in place of its values.

    ``begins`` and ``indices`` stay, so that a converted model that loads it has each active weight again, also those
    that are zero at the moment.

    Args:
        state: Of the model.
        model: With sparse layers.

    >>> import torch
    >>> from sparseflow.engine.layers.modules import SparseLinear
    >>> layer = SparseLinear.of(nn.Linear(2, 1), torch.tensor([[True, False]]))
    >>> list(dense_checkpoint(layer.state_dict(), layer))
    ['weight', 'bias', 'begins', 'indices']
    """
    layers = [each for each in layers_by_path(model) if f"{each[0]}values" in state]
    values = {f"{prefix}values": (weight, layer) for prefix, weight, layer in layers}
    markers = {weight for _, weight, _ in layers}
    found: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if name in values:
            weight, layer = values[name]
            found[weight] = layer.pattern.scatter(tensor)
        elif name not in markers:
            found[name] = tensor
    return found


class SavePretrained:
    """The method ``save_pretrained`` of a converted model, as Hugging Face's libraries give it to theirs.

    ``from_pretrained`` makes the dense class and fills whatever it does not find at random, so it must find weights.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Save as the model's class does, with dense weights.

        Raises:
            TypeError: if that method takes no ``state_dict``.
        """
        save: Any = type(self.model).save_pretrained  # type: ignore[attr-defined]
        if "state_dict" not in inspect.signature(save).parameters:
            raise TypeError(
                f"save_pretrained of {type(self.model).__name__} takes no state_dict and would write active values "
                "alone, which its dense class cannot read. Type "
                "sparseflow.engine.to_dense(model).save_pretrained(...), or sparseflow.engine.save(model, path)."
            )
        state = kwargs.pop("state_dict", None)
        dense = dense_checkpoint(self.model.state_dict() if state is None else state, self.model)
        return save(self.model, *args, state_dict=dense, **kwargs)


def give_save_pretrained_(model: nn.Module) -> None:
    """Give each module that has a ``save_pretrained`` and sparse layers one that writes dense weights."""
    for module in model.modules():
        if hasattr(type(module), "save_pretrained") and any(isinstance(m, ActiveWeight) for m in module.modules()):
            vars(module)["save_pretrained"] = SavePretrained(module)
