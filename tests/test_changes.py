"""Masks in bits against NumPy's, and what an update is said to have changed."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from sparseflow.changes import Changes, Snapshot, packed, unpacked
from sparseflow.updaters.base import changed


@pytest.mark.parametrize("n", [0, 1, 7, 8, 9, 64, 4097])
@pytest.mark.parametrize("density", [0.0, 0.3, 1.0])
def test_bits_are_those_of_numpy(n: int, density: float) -> None:
    mask = torch.rand(n, generator=torch.Generator().manual_seed(n)) < density
    bits = packed(mask)
    assert np.array_equal(bits.numpy(), np.packbits(mask.numpy(), bitorder="little"))
    assert torch.equal(unpacked(bits, mask.shape), mask)


def test_places_are_logical_whatever_the_memory_format() -> None:
    mask = torch.rand(4, 3, 3, 3, generator=torch.Generator().manual_seed(0)) < 0.5
    last = mask.contiguous(memory_format=torch.channels_last)
    assert torch.equal(packed(last), packed(mask))
    assert torch.equal(unpacked(packed(last), last.shape), mask)


def test_changes_are_those_of_the_update_for_ever() -> None:
    """Oracle: both masks kept whole; later updates and copies change nothing."""
    generator = torch.Generator().manual_seed(0)
    masks = {name: torch.rand(5, 7, generator=generator) < 0.4 for name in ("a", "b")}
    first = {name: mask.clone() for name, mask in masks.items()}
    before = Snapshot(masks)
    for mask in masks.values():
        mask.copy_(torch.rand(5, 7, generator=generator) < 0.4)
    second = {name: mask.clone() for name, mask in masks.items()}
    changes = Changes(before, Snapshot(masks))
    for mask in masks.values():
        mask.zero_()
    for told in (changes, copy.deepcopy(changes)):
        assert list(told) == ["a", "b"]
        for name in masks:
            assert all(map(torch.equal, told[name], changed(first[name], second[name])))
