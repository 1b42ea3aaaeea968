"""Masks in bits against NumPy's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from sparseflow._fast.bits import stage

#: Packed by a compiled pass in any process; no multiple of 8.
LARGE = (1 << 16) + 4321


@pytest.mark.parametrize("n", [0, 1, 7, 8, 9, 64, 4097, LARGE])
@pytest.mark.parametrize("density", [0.0, 0.3, 1.0])
def test_bits_are_those_of_numpy(n: int, density: float) -> None:
    mask = torch.rand(n, generator=torch.Generator().manual_seed(n)) < density
    packed = stage(mask)
    assert np.array_equal(packed.bits.numpy(), np.packbits(mask.numpy(), bitorder="little"))
    assert torch.equal(packed.unpack(), mask)


def orders(shape: tuple[int, ...]) -> dict[str, Tensor]:
    """One mask in several orders of memory."""
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(0)) < 0.5
    turned = torch.empty(shape[::-1], dtype=torch.bool).permute(3, 2, 1, 0).copy_(mask)
    part = torch.zeros(shape[0], 2 * shape[1], *shape[2:], dtype=torch.bool)[:, ::2].copy_(mask)
    last = mask.contiguous(memory_format=torch.channels_last)
    return {"contiguous": mask, "channels_last": last, "turned": turned, "part": part}


@pytest.mark.parametrize("shape", [(4, 3, 3, 3), (4, 3, 1, 1), (4, 1, 3, 3), (128, 64, 3, 3)])
def test_masks_come_back_whatever_their_order_of_memory(shape: tuple[int, ...]) -> None:
    masks = orders(shape)
    for mask in masks.values():
        packed = stage(mask)
        assert torch.equal(packed.unpack(), mask)
        for like in masks.values():
            for given in (mask, packed):
                found = stage(given, like=like)
                assert torch.equal(found.unpack(), mask)
                assert torch.equal(found.bits, stage(torch.empty_like(like).copy_(mask)).bits)


def test_bits_of_channels_last_are_in_the_order_of_memory() -> None:
    masks = orders((4, 3, 3, 3))
    memory = masks["contiguous"].permute(0, 2, 3, 1).contiguous()
    assert torch.equal(stage(masks["channels_last"]).bits, stage(memory).bits)


def test_a_new_mask_of_another_shape_is_refused() -> None:
    mask = torch.ones(3, 2, dtype=torch.bool)
    for given in (mask, stage(mask)):
        with pytest.raises(ValueError, match=r"a new mask has the shape \(3, 2\); its weight has \(2, 3\)"):
            stage(given, like=torch.ones(2, 3, dtype=torch.bool))
