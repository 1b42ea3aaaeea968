"""The engine's products, against torch's dense convolution and its autograd in float64, on random geometries."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from sparseflow._fast import team
from sparseflow.engine.layers import products as products_module
from sparseflow.engine.layers import threads as threads_module
from sparseflow.engine.layers.functions import to_images, to_storage
from sparseflow.engine.layers.geometry import Frame, Window
from sparseflow.engine.layers.pattern import Pattern
from sparseflow.engine.layers.products import Product
from sparseflow.engine.layers.threads import Bounds, Pass
from sparseflow.rng import stream


@dataclass(frozen=True)
class Case:
    outputs: int
    inputs: int
    groups: int
    window: Window
    size: tuple[int, int]
    batch: int
    density: float
    in_blocks: bool = False


def random_case(seed: int) -> Case:
    """Any kernel, stride, dilation, padding, groups, batch and density for which there is an output."""
    draw = random.Random(seed)

    def two(low: int, high: int) -> tuple[int, int]:
        return draw.randint(low, high), draw.randint(low, high)

    while True:
        groups = draw.choice([1, 1, 2, 3])
        padding = (two(0, 3), two(0, 3))
        window = Window(two(1, 4), two(1, 3), two(1, 2), padding)
        size = two(1, 9)
        if min(window.outputs(size)) >= 1:
            batch, density = draw.choice([1, 2, 3, 5, 16, 37]), draw.choice([0.02, 0.3, 1.0])
            in_blocks = draw.random() < 0.5
            outputs = groups * draw.randint(1, 3) * (4 if in_blocks else 1)
            return Case(outputs, groups * draw.randint(1, 3), groups, window, size, batch, density, in_blocks)


@dataclass(frozen=True)
class Dense:
    """What torch computes."""

    x: Tensor
    weight: Tensor
    bias: Tensor
    mask: Tensor
    y: Tensor
    g: Tensor
    x_grad: Tensor
    weight_grad: Tensor
    bias_grad: Tensor


def dense(case: Case, *, dtype: torch.dtype = torch.float64, seed: int = 0) -> Dense:
    generator = stream(seed, "products")
    shape = (case.outputs, case.inputs // case.groups, *case.window.kernel)
    if case.in_blocks:
        mask = (torch.rand(shape[0] // 4, *shape[1:], generator=generator) < case.density).repeat_interleave(4, dim=0)
    else:
        mask = torch.rand(shape, generator=generator) < case.density
    weight = (torch.randn(shape, generator=generator, dtype=dtype) * mask).requires_grad_()
    bias = torch.randn(case.outputs, generator=generator, dtype=dtype, requires_grad=True)
    x = torch.randn(case.batch, case.inputs, *case.size, generator=generator, dtype=dtype, requires_grad=True)
    (top, bottom), (left, right) = case.window.padding
    y = F.conv2d(
        F.pad(x, (left, right, top, bottom)), weight, bias, case.window.stride, 0, case.window.dilation, case.groups
    )
    g = torch.randn(y.shape, generator=generator, dtype=dtype)
    y.backward(g)
    assert x.grad is not None
    assert weight.grad is not None
    assert bias.grad is not None
    return Dense(x.detach(), weight.detach(), bias.detach(), mask, y.detach(), g, x.grad, weight.grad, bias.grad)


def product_of(case: Case, mask: Tensor, *, itemsize: int = 8) -> Product:
    return Product(Pattern.of(mask, groups=case.groups), case.window, case.size, case.batch, itemsize)


def flat(images: Tensor) -> Tensor:
    return images.permute(1, 2, 3, 0).reshape(-1)


def inside(storage: Tensor, channels: int, frame: Frame) -> Tensor:
    """What a storage has within its border, flat."""
    return flat(to_images(storage, channels, frame))


@pytest.mark.parametrize("seed", range(150))
def test_products_are_those_of_the_dense_layer(seed: int) -> None:
    case = random_case(seed)
    want = dense(case, seed=seed)
    product = product_of(case, want.mask)
    assert product.in_blocks or not case.in_blocks
    values = want.weight[want.mask]
    x = to_storage(want.x, product.x)
    y = product.forward(values, want.bias, x, floor=0.0)
    torch.testing.assert_close(y, flat(want.y.relu()))
    torch.testing.assert_close(product.forward(values, want.bias, x), flat(want.y))
    torch.testing.assert_close(product.forward(values, None, x), flat(want.y - want.bias[:, None, None]))
    gx, gv = product.gradients(values, x, to_storage(want.g, product.g))
    torch.testing.assert_close(inside(gx, case.inputs, product.gx), flat(want.x_grad))
    torch.testing.assert_close(gv, want.weight_grad[want.mask])
    for frame in (product.y, product.g):
        g = to_storage(want.g, frame).clone()
        torch.testing.assert_close(product.weight_gradient(x, g, frame), want.weight_grad[want.mask])
        torch.testing.assert_close(product.bias_gradient(g, frame), want.bias_grad)
        gated = want.g * (want.y > 0)
        torch.testing.assert_close(product.gate_(g, y, frame), gated.sum((0, 2, 3)))
        assert torch.equal(g, to_storage(gated, frame))


LINEAR = [(7, 50, 30, 0.1), (1, 4096, 64, 0.05), (3, 20, 5000, 0.05), (130, 5000, 20, 0.02), (257, 2500, 2500, 0.01)]


@pytest.mark.parametrize("in_blocks", [False, True])
@pytest.mark.parametrize(("batch", "inputs", "outputs", "density"), LINEAR)
def test_linear_layers_of_any_size_are_the_dense_ones(
    batch: int, inputs: int, outputs: int, density: float, in_blocks: bool
) -> None:
    case = Case(-(-outputs // 4) * 4, inputs, 1, Window(), (1, 1), batch, density, in_blocks)
    want = dense(case)
    product = product_of(case, want.mask)
    values, x, g = want.weight[want.mask], flat(want.x), flat(want.g)
    torch.testing.assert_close(product.forward(values, want.bias, x), flat(want.y))
    gx, gv = product.gradients(values, x, g)
    torch.testing.assert_close(gx, flat(want.x_grad))
    torch.testing.assert_close(gv, want.weight_grad[want.mask])
    torch.testing.assert_close(product.weight_gradient(x, g, product.y), want.weight_grad[want.mask])


@pytest.mark.parametrize("blocks", ["none", "one", "all"])
@pytest.mark.parametrize("batch", [1, 3, 64])
def test_rows_of_no_blocks_one_and_all_of_them(blocks: str, batch: int) -> None:
    case = Case(12, 10, 1, Window(), (1, 1), batch, 1.0 if blocks == "all" else 0.0, in_blocks=True)
    want = dense(case)
    if blocks == "one":
        want.mask[4:8, 3] = True
    product = product_of(case, want.mask)
    assert product.in_blocks
    values = torch.randn(product.pattern.num_active, dtype=torch.float64, generator=stream(1, "values"))
    weight = product.pattern.scatter(values)[:, :, 0, 0]
    x, g = want.x[:, :, 0, 0], want.g[:, :, 0, 0]
    torch.testing.assert_close(product.forward(values, want.bias, flat(want.x)), (x @ weight.T + want.bias).T.flatten())
    gx, gv = product.gradients(values, flat(want.x), flat(want.g))
    torch.testing.assert_close(gx, (g @ weight).T.flatten())
    torch.testing.assert_close(gv, product.pattern.gather(g.T @ x))


@pytest.mark.parametrize("seed", range(20))
def test_float32_is_as_exact_as_a_sum_in_float32(seed: int) -> None:
    case = random_case(seed)
    want, exact = dense(case, dtype=torch.float32, seed=seed), None
    product = product_of(case, want.mask, itemsize=4)
    weight = want.weight.double()
    exact = F.conv2d(
        F.pad(want.x.double(), (*case.window.padding[1], *case.window.padding[0])), weight, want.bias.double(),
        case.window.stride, 0, case.window.dilation, case.groups,
    )  # fmt: skip
    found = product.forward(want.weight[want.mask], want.bias, to_storage(want.x, product.x))
    # Each of at most 50 additions of numbers near 1 errs by 2^-24 of the sum so far.
    torch.testing.assert_close(found.double(), flat(exact), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("seed", range(60))
def test_nothing_outside_the_arrays_is_read_or_written(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Arrays lie in a sea of NaN: a number read beside them poisons the result, one written there is seen."""
    case = random_case(seed)
    want = dense(case, seed=seed)
    product = product_of(case, want.mask)
    seas: list[Tensor] = []

    def island(numbers: Tensor) -> Tensor:
        sea = torch.full((len(numbers) + 512,), math.nan, dtype=torch.float64)
        sea[256 : 256 + len(numbers)] = numbers
        seas.append(sea)
        return sea[256 : 256 + len(numbers)]

    # What the products allocate: an entry of ``empty`` that nobody writes stays NaN.
    empty = SimpleNamespace(
        empty=lambda size, dtype: island(torch.full((size,), math.nan, dtype=dtype)),
        zeros=lambda size, dtype: island(torch.zeros(size, dtype=dtype)),
    )
    monkeypatch.setattr(products_module, "torch", empty)
    values, bias = island(want.weight[want.mask]), island(want.bias)
    x, g = island(to_storage(want.x, product.x)), island(to_storage(want.g, product.g))
    y = product.forward(values, bias, x)
    found = [y, *product.gradients(values, x, g), product.weight_gradient(x, g, product.g)]
    found += [product.bias_gradient(g, product.g), product.gate_(g, y, product.g)]
    for each in found:
        assert not each.isnan().any()
    for sea in seas:
        assert sea[:256].isnan().all()
        assert sea[-256:].isnan().all()


@pytest.mark.parametrize("in_blocks", [False, True])
@pytest.mark.parametrize("threads", [2, 3])
def test_the_number_of_threads_changes_no_bit(threads: int, in_blocks: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case(40, 30, 1, Window((3, 3), (1, 1), (1, 1), ((1, 1), (1, 1))), (9, 9), 16, 0.2, in_blocks)
    want = dense(case, dtype=torch.float32)

    def everything() -> list[Tensor]:
        product = product_of(case, want.mask, itemsize=4)
        values, x, g = want.weight[want.mask], to_storage(want.x, product.x), to_storage(want.g, product.g)
        found = [product.forward(values, want.bias, x), *product.gradients(values, x, g)]
        return [*found, product.weight_gradient(x, g, product.g)]

    alone = everything()
    monkeypatch.setattr("sparseflow.engine.layers.threads._WORTH_IT", 1)
    shares = counted_shares(monkeypatch)
    torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for a, b in zip(alone, everything(), strict=True))
    assert shares == [threads] * 3


def counted_shares(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of threads of each pass from now on."""
    shares: list[int] = []
    plain = threads_module.threads_for

    def over_ranges(run: Pass, bounds: Bounds, work: int, *arguments: object) -> None:
        shares.append(plain(work, len(bounds) - 1))
        run(team(), shares[-1], bounds, *arguments)

    monkeypatch.setattr(threads_module, "over_ranges", over_ranges)
    monkeypatch.setattr(products_module, "over_ranges", over_ranges)
    return shares


@pytest.mark.parametrize("in_blocks", [False, True])
@pytest.mark.parametrize("threads", [2, 3])
@pytest.mark.parametrize("batch", [128, 200])
def test_threads_change_no_bit_of_a_linear_layer(
    batch: int, threads: int, in_blocks: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = Case(400, 200, 1, Window(), (1, 1), batch, 0.2, in_blocks)
    want = dense(case, dtype=torch.float32)

    def everything() -> list[Tensor]:
        product = product_of(case, want.mask, itemsize=4)
        values, x, g = want.weight[want.mask], to_storage(want.x, product.x), to_storage(want.g, product.g)
        y = product.forward(values, want.bias, x, floor=0.0)
        found = [y, *product.gradients(values, x, g), product.weight_gradient(x, g, product.g)]
        return [*found, product.bias_gradient(g, product.g), product.gate_(g.clone(), y, product.g)]

    alone = everything()
    shares = counted_shares(monkeypatch)
    torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for a, b in zip(alone, everything(), strict=True))
    assert max(shares) > 1


def test_a_border_is_zero_and_the_inside_the_image() -> None:
    images = torch.arange(24.0).view(2, 2, 2, 3)
    frame = Frame((2, 3), 2, ((1, 2), (0, 1)))
    want = F.pad(images, (0, 1, 1, 2)).permute(1, 2, 3, 0).reshape(-1)
    assert torch.equal(to_storage(images, frame), want)
    inner = images.permute(1, 2, 3, 0).contiguous().permute(3, 0, 1, 2)
    assert torch.equal(to_storage(inner, frame), want)


def test_an_image_with_the_batch_innermost_is_not_copied() -> None:
    images = torch.zeros(3, 4, 5, 2).permute(3, 0, 1, 2)
    assert to_storage(images, Frame((4, 5), 2)).data_ptr() == images.data_ptr()


def test_an_image_too_large_for_the_columns_is_refused() -> None:
    pattern = Pattern.of(torch.ones(1, 1, 3, 3).bool())
    with pytest.raises(ValueError, match=r"more than the engine's int32 columns can reach; use masks"):
        Product(pattern, Window((3, 3)), (60_000, 60_000), 1, 4).table  # noqa: B018
