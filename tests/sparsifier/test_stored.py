"""A module counts as one that stores active weights if it has all that the protocol names, in every Python."""

from __future__ import annotations

import torch
from torch import nn
from typing_extensions import get_protocol_members, is_protocol

import sparseflow as sf
from sparseflow.sparsifier.stored import _INTERFACE, StoredWeight, is_stored, stored_weights


def test_what_is_looked_for_is_what_the_protocol_names() -> None:
    assert is_protocol(StoredWeight)
    assert set(_INTERFACE) == get_protocol_members(StoredWeight)


def test_a_parameter_counts() -> None:
    """A module keeps parameters where only getattr finds them."""
    model = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 2))
    sparse = sf.engine.convert(model, sf.random_masks(model, 0.5, seed=0))
    assert list(stored_weights(sparse)) == ["0.weight", "2.weight"]
    assert "values" not in vars(sparse[0])
    assert is_stored(sparse[0])


def test_a_layer_that_lacks_a_name_does_not() -> None:
    layer = nn.Linear(4, 2)
    for name in _INTERFACE[:-1]:
        setattr(layer, name, torch.zeros(1))
        assert not is_stored(layer)
