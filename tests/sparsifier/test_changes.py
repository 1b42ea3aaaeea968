"""Changes of an update, against both masks kept whole."""

from __future__ import annotations

import copy

import torch

from sparseflow._fast import stage
from sparseflow.methods.drop_grow import changed
from sparseflow.sparsifier.changes import Changes


def test_changes_are_those_of_the_update_for_ever() -> None:
    """Oracle: both masks kept whole; later updates and copies change nothing."""
    generator = torch.Generator().manual_seed(0)
    masks = {name: torch.rand(5, 7, generator=generator) < 0.4 for name in ("a", "b")}
    first = {name: mask.clone() for name, mask in masks.items()}
    before = {name: stage(mask) for name, mask in masks.items()}
    for mask in masks.values():
        mask.copy_(torch.rand(5, 7, generator=generator) < 0.4)
    second = {name: mask.clone() for name, mask in masks.items()}
    changes = Changes(before, {name: stage(mask) for name, mask in masks.items()})
    for mask in masks.values():
        mask.zero_()
    for told in (changes, copy.deepcopy(changes)):
        assert list(told) == ["a", "b"]
        for name in masks:
            assert all(map(torch.equal, told[name], changed(first[name], second[name])))
