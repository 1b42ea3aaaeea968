"""Memory of a mask update: a quarter of a byte a weight, and one layer's mask while it is made."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import nn

import sparseflow as sf
from allocations import Allocations

LAYERS, SIDE = 12, 300
WEIGHTS = SIDE * SIDE


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Allocations are seen in the thread that looks, and each thread has a layer of its own in memory."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("want_changes", [True, False])
def test_an_update_holds_old_and_new_masks_at_an_eighth_of_their_size(want_changes: bool) -> None:
    """Oracle: one bit for each new mask, one for each old one that a listener may ask for, and one layer's mask."""
    model = nn.Sequential(*(nn.Linear(SIDE, SIDE, bias=False) for _ in range(LAYERS)))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    method = sf.RigL(update_every=1, replaces_step=True, first_update=0)
    sparsifier = sf.Sparsifier(model, optimizer, sf.random_masks(model, 0.8, seed=0), method, seed=0)
    if want_changes:
        sparsifier.after_update.append(lambda step, changes: None)
    for parameter in model.parameters():
        parameter.grad = torch.randn(SIDE, SIDE)
    with Allocations() as allocations:
        optimizer.step()
    sparsifier.check()
    staged = (1 + want_changes) * LAYERS * WEIGHTS / 8
    assert staged <= allocations.peak <= staged + WEIGHTS
