"""Pooling and ReLU kernels against torch in float64, over random windows and borders."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from sparseflow.engine.kernels.pooling import (
    average_pool,
    average_pool_backward,
    max_pool,
    max_pool_backward,
    relu,
    relu_backward,
    relu_gate,
)
from sparseflow.engine.layers.geometry import Frame, Window

JUNK = 7.0  # what arrays hold before, and what borders must hold afterwards


def framed(image: Tensor, border: tuple[tuple[int, int], tuple[int, int]]) -> tuple[Any, Frame]:
    """The image batch-innermost in a border of junk, as a flat array."""
    batch, channels, height, width = image.shape
    frame = Frame((height, width), batch, border)
    full = np.full((channels, frame.height, frame.width, batch), JUNK)
    inside(full, frame)[...] = image.permute(1, 2, 3, 0).numpy()
    return full.reshape(-1), frame


def inside(full: Any, frame: Frame) -> Any:
    (top, _), (left, _) = frame.border
    return full[:, top : top + frame.size[0], left : left + frame.size[1]]


def image_of(flat: Any, frame: Frame) -> Tensor:
    """The image in a frame; its border must be untouched."""
    full = flat.reshape(-1, frame.height, frame.width, frame.batch).copy()
    image = torch.from_numpy(inside(full, frame).copy()).permute(3, 0, 1, 2)
    inside(full, frame)[...] = JUNK
    assert (full == JUNK).all()
    return image


def at(frame: Frame) -> tuple[int, int, int]:
    return frame.place(0, 0), frame.pitch, frame.width * frame.batch


def random_case(seed: int, *, dilated: bool) -> tuple[Tensor, Window, Any]:
    draw = np.random.default_rng(seed)
    kernel = (int(draw.integers(1, 5)), int(draw.integers(1, 5)))
    padding = (int(draw.integers(0, kernel[0] // 2 + 1)), int(draw.integers(0, kernel[1] // 2 + 1)))
    stride = (int(draw.integers(1, 5)), int(draw.integers(1, 5)))
    dilation = (int(draw.integers(1, 4)), int(draw.integers(1, 4))) if dilated else (1, 1)
    reach = [dilation[axis] * (kernel[axis] - 1) + 1 - 2 * padding[axis] for axis in (0, 1)]
    size = [max(1, reach[axis]) + int(draw.integers(0, 7)) for axis in (0, 1)]
    image = torch.from_numpy(draw.normal(size=(int(draw.integers(1, 20)), int(draw.integers(1, 4)), *size)))
    if seed % 3 == 0:
        image = image.round()  # many ties
    window = Window(kernel, stride, dilation, ((padding[0],) * 2, (padding[1],) * 2))
    return image, window, draw


def random_border(draw: Any) -> tuple[tuple[int, int], tuple[int, int]]:
    sizes = [int(size) for size in draw.integers(0, 3, size=4)]
    return (sizes[0], sizes[1]), (sizes[2], sizes[3])


def max_pooled(image: Tensor, window: Window, floor: float, gradient: Tensor, draw: Any) -> tuple[Tensor, Tensor, Any]:
    """Output, input gradient and positions by the kernels, with random borders everywhere."""
    channels, size, batch = image.shape[1], (image.shape[2], image.shape[3]), image.shape[0]
    rows, columns = window.outputs(size)
    x, x_frame = framed(image, random_border(draw))
    y, y_frame = framed(torch.full((batch, channels, rows, columns), JUNK, dtype=torch.float64), random_border(draw))
    g, g_frame = framed(gradient, random_border(draw))
    gx, gx_frame = framed(torch.full_like(image, JUNK), random_border(draw))
    where = np.full(channels * rows * columns * batch + 1, 77, np.int8)
    pads = (window.padding[0][0], window.padding[1][0])
    shape = (0, channels, rows, columns, *window.kernel, *window.stride, *window.dilation, *pads, batch)
    max_pool(x, *at(x_frame), *size, y, *at(y_frame), where, 1, *shape, floor)
    max_pool_backward(g, *at(g_frame), where, 1, gx, *at(gx_frame), *size, *shape)
    assert where[0] == 77
    return image_of(y, y_frame), image_of(gx, gx_frame), where[1:].reshape(channels, rows, columns, batch)


@pytest.mark.parametrize("floor", [-float("inf"), 0.0], ids=["plain", "relu"])
@pytest.mark.parametrize("seed", range(40))
def test_max_pool_is_torchs(seed: int, floor: float) -> None:
    """Exactly: values, gradients (each output's goes to one input; only sums of overlapping windows round)."""
    image, window, draw = random_case(seed, dilated=True)
    image.requires_grad_()
    padding = (window.padding[0][0], window.padding[1][0])
    before = torch.relu(image) if floor == 0 else image
    expected = F.max_pool2d(before, window.kernel, window.stride, padding, window.dilation)
    gradient = torch.from_numpy(draw.normal(size=expected.shape))
    expected.backward(gradient)
    y, gx, _ = max_pooled(image.detach(), window, floor, gradient, draw)
    assert torch.equal(y, expected.detach())
    torch.testing.assert_close(gx, image.grad, rtol=1e-14, atol=1e-14)


def test_every_two_by_two_size_and_stride_is_torchs() -> None:
    """The fast path: images that pairs tile exactly, leave a row or column over, or overlap."""
    draw = np.random.default_rng(0)
    for height in range(2, 7):
        for width in range(2, 7):
            for stride in ((2, 2), (1, 1), (3, 2), (2, 3), (1, 2)):
                image = torch.from_numpy(draw.normal(size=(33, 2, height, width))).requires_grad_()
                expected = F.max_pool2d(image, 2, stride)
                gradient = torch.from_numpy(draw.normal(size=expected.shape))
                expected.backward(gradient)
                y, gx, _ = max_pooled(image.detach(), Window((2, 2), stride), -np.inf, gradient, draw)
                assert torch.equal(y, expected.detach())
                torch.testing.assert_close(gx, image.grad, rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("kernel", [2, 3])
def test_max_pool_takes_nan_infinities_and_ties_as_torch(kernel: int) -> None:
    """NaN wins over everything, the last of several; of equal numbers the first; -inf everywhere is the first tap."""
    draw = np.random.default_rng(1)
    odd = np.array([np.nan, np.inf, -np.inf, 0.0, 1.0, -1.0])
    image = torch.from_numpy(draw.choice(odd, size=(64, 2, 12, 12)))
    image[0] = -np.inf
    expected, index = F.max_pool2d(image, kernel, return_indices=True)
    y, _, where = max_pooled(image, Window((kernel, kernel), (kernel, kernel)), -np.inf, expected, draw)
    assert torch.equal(y.nan_to_num(9.0), expected.nan_to_num(9.0))
    taps = torch.from_numpy(where.astype(np.int64)).permute(3, 0, 1, 2)
    rows, columns = (torch.arange(n) * kernel for n in expected.shape[2:])
    found = (rows[:, None] + taps // kernel) * 12 + columns + taps % kernel
    assert torch.equal(found, index)


@pytest.mark.parametrize("override", [False, True], ids=["plain", "divisor_override"])
@pytest.mark.parametrize("include", [False, True], ids=["inside only", "count_include_pad"])
@pytest.mark.parametrize("seed", range(20))
def test_average_pool_is_torchs(seed: int, include: bool, override: bool) -> None:
    image, window, draw = random_case(seed, dilated=False)
    image.requires_grad_()
    pads = (window.padding[0][0], window.padding[1][0])
    expected = F.avg_pool2d(
        image, window.kernel, window.stride, pads, False, include, divisor_override=3 if override else None
    )
    gradient = torch.from_numpy(draw.normal(size=expected.shape))
    expected.backward(gradient)
    divisor = 3 if override else window.kernel[0] * window.kernel[1] if include else 0

    size, batch, channels = (image.shape[2], image.shape[3]), image.shape[0], image.shape[1]
    x, x_frame = framed(image.detach(), random_border(draw))
    y, y_frame = framed(torch.full_like(expected, JUNK), random_border(draw))
    g, g_frame = framed(gradient, random_border(draw))
    gx, gx_frame = framed(torch.full_like(image, JUNK), random_border(draw))
    shape = (0, channels, *window.outputs(size), *window.kernel, *window.stride, *pads, batch, divisor)
    average_pool(x, *at(x_frame), *size, y, *at(y_frame), *shape)
    average_pool_backward(g, *at(g_frame), gx, *at(gx_frame), *size, *shape)
    # A mean of at most 16 numbers rounds by a few units in the last place.
    torch.testing.assert_close(image_of(y, y_frame), expected.detach(), rtol=1e-13, atol=1e-14)
    torch.testing.assert_close(image_of(gx, gx_frame), image.grad, rtol=1e-13, atol=1e-14)


def test_relu_is_torchs_also_at_nan_and_in_place() -> None:
    draw = np.random.default_rng(0)
    image = torch.from_numpy(draw.normal(size=(5, 2, 3, 4)))
    image[0, 0, 0, :3] = torch.tensor([float("nan"), 0.0, float("inf")])
    image.requires_grad_()
    expected = torch.relu(image)
    gradient = torch.from_numpy(draw.normal(size=image.shape))
    expected.backward(gradient)
    x, frame = framed(image.detach(), ((1, 0), (2, 1)))
    g, g_frame = framed(gradient, ((0, 0), (1, 1)))
    relu(x, *at(frame), x, *at(frame), 0, 2, 3, 4 * 5)
    gx, gx_frame = framed(torch.zeros_like(gradient), ((1, 1), (0, 0)))
    relu_backward(g, *at(g_frame), x, *at(frame), gx, *at(gx_frame), 0, 2, 3, 4 * 5)
    relu_gate(x, *at(frame), g, *at(g_frame), 0, 2, 3, 4 * 5)
    torch.testing.assert_close(image_of(x, frame), expected.detach(), rtol=0, atol=0, equal_nan=True)
    assert torch.equal(image_of(gx, gx_frame), image.grad)
    assert torch.equal(image_of(g, g_frame), image.grad)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_part_of_the_channels_leaves_the_others(dtype: type) -> None:
    x = np.arange(3 * 4 * 2, dtype=dtype)
    y = np.full(3 * 2, JUNK, dtype)
    max_pool(x, 0, 8, 4, 2, 2, y, 0, 2, 2, np.zeros(6, np.int8), 0, 1, 2, 1, 1, 2, 2, 2, 2, 1, 1, 0, 0, 2, 0.0)
    assert y.tolist() == [JUNK, JUNK, 14, 15, JUNK, JUNK]
