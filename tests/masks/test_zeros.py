"""Zeros off the mask that are exact, whatever was there, in every dtype and memory format."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from sparseflow._fast import zero_inactive_
from sparseflow.masks.make import apply_masks_, random_masks


def network() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(72, 20), nn.Linear(20, 5))


DTYPES = [
    *(torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.float8_e4m3fn),
    *(torch.complex64, torch.complex128, torch.uint8, torch.int16, torch.int64, torch.bool),
]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_inactive_entries_are_positive_zero_and_active_ones_keep_their_bits(dtype: torch.dtype) -> None:
    values = torch.tensor([[1.5, -2.0, 0.0], [-0.0, 3.0, -1.0]])
    if dtype.is_floating_point or dtype.is_complex:
        values[0, 0], values[0, 1] = float("nan"), float("-inf")
    tensor = values.to(dtype)
    for pattern in range(64):
        mask = torch.tensor([bool(pattern >> i & 1) for i in range(6)]).view(2, 3)
        result = tensor.clone()
        assert zero_inactive_(result, mask) is result
        for i in range(2):
            for j in range(3):
                expected = tensor[i, j].clone() if mask[i, j] else torch.zeros((), dtype=dtype)
                # As bytes: -0.0 and NaN count.
                got = result[i, j].clone()
                assert torch.equal(got.view(1).view(torch.uint8), expected.view(1).view(torch.uint8))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf"), -0.0, 1e-45])
def test_nothing_survives_off_the_mask(bad: float) -> None:
    tensor = torch.full((1000,), bad)
    zero_inactive_(tensor, torch.zeros(1000, dtype=torch.bool))
    assert not tensor.view(torch.int32).any()


@pytest.mark.parametrize("tensor_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("mask_format", [torch.contiguous_format, torch.channels_last])
def test_memory_formats_may_differ(tensor_format: torch.memory_format, mask_format: torch.memory_format) -> None:
    values = torch.arange(1.0, 121).view(2, 3, 4, 5)
    mask = values % 3 == 0
    tensor = values.clone(memory_format=tensor_format)
    zero_inactive_(tensor, mask.clone(memory_format=mask_format))
    assert torch.equal(tensor, values * mask)


def test_a_view_writes_to_its_base() -> None:
    base = torch.ones(4, 6)
    zero_inactive_(base.T[1:3], torch.zeros(2, 4, dtype=torch.bool))
    assert torch.equal(base, torch.tensor([1.0, 0, 0, 1, 1, 1]).expand(4, 6))


def test_apply_masks_zeroes_and_touches_nothing_else() -> None:
    model = network()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    masks = random_masks(model, 0.9, seed=0)
    assert apply_masks_(model, masks) is model
    for name, value in model.state_dict().items():
        expected = before[name] * masks[name] if name in masks else before[name]
        assert torch.equal(value, expected)
    assert all(parameter.requires_grad and parameter.is_leaf for parameter in model.parameters())


MASK = torch.ones(20, 72, dtype=torch.bool)


@pytest.mark.parametrize(
    ("masks", "error", "message"),
    [
        ({"9.weight": MASK}, ValueError, "masks has '9.weight', which is no weight of the model. Weights: 0.weight, 3"),
        ({"1.weight": MASK}, ValueError, "masks has '1.weight', which is no weight"),  # a norm
        ({"3.bias": MASK}, ValueError, "masks has '3.bias', which is no weight"),
        ({"3.weight": MASK.float()}, TypeError, "the mask of '3.weight' must be a bool tensor, got torch.float32"),
        ({"3.weight": MASK.tolist()}, TypeError, "the mask of '3.weight' must be a bool tensor, got list"),
        ({"3.weight": MASK.T}, ValueError, r"the mask of '3.weight' has shape \(72, 20\), its weight \(20, 72\)"),
        ({"3.weight": MASK[:, :1]}, ValueError, r"has shape \(20, 1\), its weight"),  # would broadcast
    ],
)
def test_masks_that_do_not_fit(masks: dict[str, Tensor], error: type[Exception], message: str) -> None:
    model = network()
    before = model[3].weight.clone()
    with pytest.raises(error, match=message):
        apply_masks_(model, masks)
    assert torch.equal(model[3].weight, before)
