"""Convolutions in strips, row by row of pixels, against torch's in float64."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor, nn

from hand_over import WAYS, hand_over_by
from sparseflow.engine.layers import products
from sparseflow.engine.layers.functions import to_images, to_storage
from sparseflow.engine.layers.geometry import Window
from sparseflow.engine.layers.pattern import Pattern
from sparseflow.engine.layers.products import Product

OUTPUTS, INPUTS = 8, 4
STRIDES, DILATIONS, PADDINGS = ((1, 1), (2, 1), (3, 3)), ((1, 1), (2, 2)), (0, 1)
#: Strides that leave rows out, windows that reach beyond the image, one row of outputs, rows shorter than a vector.
SIZES = ((7, 5), (2, 9), (6, 1))


def drawn(product: Product) -> tuple[Tensor, Tensor, Tensor]:
    """Values, input and gradient of the output, of integers: their sums are exact in float32."""
    generator = torch.Generator().manual_seed(1)

    def integers(*shape: int) -> Tensor:
        return torch.randint(-8, 9, shape, generator=generator).float()

    batch = product.x.batch
    x, g = integers(batch, INPUTS, *product.x.size), integers(batch, OUTPUTS, *product.y.size)
    return integers(product.pattern.num_active), x, g


def found(product: Product) -> list[Tensor]:
    """Output and both gradients."""
    values, x, g = drawn(product)
    source = to_storage(x, product.x)
    gx, gv = product.gradients(values, source, to_storage(g, product.g))
    y = to_images(product.forward(values, None, source), OUTPUTS, product.y)
    return [y, to_images(gx, INPUTS, product.gx), gv]


def wanted(product: Product) -> list[Tensor]:
    """The same by torch in float64."""
    values, x, g = drawn(product)
    pattern, window = product.pattern, product.window
    weight = pattern.scatter(values.double()).requires_grad_()
    x = x.double().requires_grad_()
    (top, _), (left, _) = window.padding
    y = nn.functional.conv2d(
        x, weight, stride=window.stride, padding=(top, left), dilation=window.dilation, groups=pattern.groups
    )
    gx, gw = torch.autograd.grad(y, [x, weight], g.double())
    return [y.detach(), gx, pattern.gather(gw)]


@pytest.mark.parametrize("span", [128, 1 << 20], ids=["narrow strips", "whole rows"])
@pytest.mark.parametrize("in_blocks", [True, False], ids=["blocks", "single weights"])
@pytest.mark.parametrize("batch", [1, 5, 16, 100])
def test_strips_give_what_torch_gives(in_blocks: bool, batch: int, span: int, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    monkeypatch.setattr(products, "_LARGE", 0)
    monkeypatch.setattr(products, "CACHE", span)
    tried = 0
    for stride, dilation, pad, groups, size in itertools.product(STRIDES, DILATIONS, PADDINGS, (1, 2), SIZES):
        if min(size) + 2 * pad < dilation[0] * 2 + 1:
            continue
        rows = OUTPUTS // 4 if in_blocks else OUTPUTS
        mask = torch.rand(rows, INPUTS // groups, 3, 3, generator=generator) < 0.4
        pattern = Pattern.of(mask.repeat_interleave(OUTPUTS // rows, 0), groups=groups)
        product = Product(pattern, Window((3, 3), stride, dilation, ((pad, pad), (pad, pad))), size, batch, 4)
        assert product.by_rows
        tried += 1
        for each, want in zip(found(product), wanted(product), strict=True):
            assert torch.equal(each.double(), want)
    assert tried > 20


@pytest.mark.parametrize("size", [(1, 40), (40, 1)], ids=["across", "down"])
@pytest.mark.parametrize("kernel", [(1, 5), (5, 1)])
@pytest.mark.parametrize("density", [0.0, 0.1, 1.0])
def test_windows_along_one_axis_give_what_torch_gives(
    density: float, kernel: tuple[int, int], size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(products, "_LARGE", 0)
    mask = torch.rand(OUTPUTS // 4, INPUTS, *kernel, generator=torch.Generator().manual_seed(0)) < density
    window = Window(kernel, padding=((2, 2), (2, 2)))
    product = Product(Pattern.of(mask.repeat_interleave(4, 0)), window, size, 7, 4)
    for each, want in zip(found(product), wanted(product), strict=True):
        assert torch.equal(each.double(), want)


def test_single_weights_go_by_rows_where_images_are_large_and_blocks_wherever_windows_are() -> None:
    padded = Window((3, 3), padding=((1, 1), (1, 1)))
    for mask, small in ((torch.rand(4, 64, 3, 3) < 0.5, False), (torch.ones(4, 64, 3, 3, dtype=torch.bool), True)):
        assert Product(Pattern.of(mask), padded, (32, 32), 32, 4).by_rows
        assert Product(Pattern.of(mask), padded, (32, 32), 2, 4).by_rows == small
    pointwise = Pattern.of(torch.ones(4, 64, 1, 1, dtype=torch.bool))
    assert not Product(pointwise, Window(), (32, 32), 32, 4).by_rows


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("density", [0.05, 0.5])
def test_threads_change_no_bit_and_write_where_they_should(
    density: float, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With 0.05 most threads find channels without a block, and more threads than channels find none at all."""
    hand_over_by(way, monkeypatch)
    monkeypatch.setattr("sparseflow.engine.layers.threads._WORTH_IT", 1)
    mask = torch.rand(OUTPUTS // 4, INPUTS, 3, 3, generator=torch.Generator().manual_seed(0)) < density
    pattern = Pattern.of(mask.repeat_interleave(4, 0))
    for threads in (1, 2, 3, INPUTS + 2):
        torch.set_num_threads(threads)
        product = Product(pattern, Window((3, 3), padding=((1, 1), (1, 1))), (9, 12), 20, 4)
        for each, want in zip(found(product), wanted(product), strict=True):
            assert torch.equal(each.double(), want)
