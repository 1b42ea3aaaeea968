"""Sparse layers, against the dense layers that they come from, with zeros, in float64."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import sparseflow as sf
from sparseflow.engine.layers.modules import SparseConv1d, SparseConv2d, SparseLayer, SparseLinear
from sparseflow.rng import stream

LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(12, 7), (5, 12)),
    "linear without bias": (lambda: nn.Linear(12, 7, bias=False), (5, 12)),
    "linear over tokens": (lambda: nn.Linear(12, 7), (2, 3, 12)),
    "linear of one vector": (lambda: nn.Linear(12, 7), (12,)),
    "conv2d": (lambda: nn.Conv2d(4, 6, 3, padding=1), (3, 4, 7, 6)),
    "conv2d, stride 2": (lambda: nn.Conv2d(4, 6, 3, stride=2, padding=1), (3, 4, 7, 6)),
    "conv2d, dilated": (lambda: nn.Conv2d(4, 6, (3, 2), dilation=2, padding=(2, 0)), (3, 4, 7, 6)),
    "conv2d, same": (lambda: nn.Conv2d(4, 6, (3, 5), padding="same"), (3, 4, 7, 6)),
    "conv2d, grouped": (lambda: nn.Conv2d(4, 6, 3, groups=2, bias=False), (3, 4, 7, 6)),
    "conv2d, depthwise": (lambda: nn.Conv2d(4, 8, 3, groups=4), (3, 4, 7, 6)),
    "conv2d, one pixel": (lambda: nn.Conv2d(4, 6, 1, stride=2), (3, 4, 7, 6)),
    "conv2d without a batch": (lambda: nn.Conv2d(4, 6, 3), (4, 7, 6)),
    "conv1d": (lambda: nn.Conv1d(4, 6, 3, stride=2, padding=2), (3, 4, 9)),
    "conv1d without a batch": (lambda: nn.Conv1d(4, 6, 3), (4, 9)),
}


#: Layers whose outputs four divides in each group.
IN_BLOCKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(12, 8), (5, 12)),
    "linear over tokens": (lambda: nn.Linear(12, 8, bias=False), (2, 3, 12)),
    "linear of one vector": (lambda: nn.Linear(12, 8), (12,)),
    "conv2d": (lambda: nn.Conv2d(4, 8, 3, padding=1), (3, 4, 7, 6)),
    "conv2d, stride 2": (lambda: nn.Conv2d(4, 8, 3, stride=2, padding=1), (3, 4, 7, 6)),
    "conv2d, dilated": (lambda: nn.Conv2d(4, 8, (3, 2), dilation=2, padding=(2, 0)), (3, 4, 7, 6)),
    "conv2d, grouped": (lambda: nn.Conv2d(4, 8, 3, groups=2, bias=False), (3, 4, 7, 6)),
    "conv2d, depthwise": (lambda: nn.Conv2d(4, 16, 3, groups=4), (3, 4, 7, 6)),
    "conv2d without a batch": (lambda: nn.Conv2d(4, 8, 3), (4, 7, 6)),
    "conv1d": (lambda: nn.Conv1d(4, 8, 3, stride=2, padding=2), (3, 4, 9)),
}


def pair(
    make: Callable[[], nn.Module], density: float, *, dtype: torch.dtype = torch.float64, block: int = 1
) -> tuple[nn.Module, SparseLayer]:
    layer = make().to(dtype)
    for name, parameter in layer.named_parameters():
        nn.init.normal_(parameter, generator=stream(0, name))
    weight = layer.get_parameter("weight")
    drawn = torch.rand(weight.shape[0] // block, *weight.shape[1:], generator=stream(0, "mask"))
    mask = (drawn < density).repeat_interleave(block, dim=0)
    weight.data *= mask
    forms = {nn.Linear: SparseLinear, nn.Conv1d: SparseConv1d, nn.Conv2d: SparseConv2d}
    return layer, forms[type(layer)].of(layer, mask)  # type: ignore[index, attr-defined]


def one_nonzero(make: Callable[[], nn.Module]) -> tuple[nn.Module, SparseLayer]:
    layer, _ = pair(make, 1.0)
    weight = layer.get_parameter("weight")
    mask = torch.zeros(weight.shape, dtype=torch.bool)
    mask.view(-1)[weight.numel() // 2] = True
    weight.data *= mask
    forms = {nn.Linear: SparseLinear, nn.Conv1d: SparseConv1d, nn.Conv2d: SparseConv2d}
    return layer, forms[type(layer)].of(layer, mask)  # type: ignore[index, attr-defined]


def assert_same(layer: nn.Module, sparse: SparseLayer, x: Tensor) -> None:
    a, b = x.detach().clone().requires_grad_(), x.detach().clone().requires_grad_()
    want, found = layer(a), sparse(b)
    torch.testing.assert_close(found, want)
    g = torch.randn(want.shape, generator=stream(0, "g"), dtype=x.dtype)
    want.backward(g)
    found.backward(g)
    torch.testing.assert_close(b.grad, a.grad)
    weight_gradient = layer.get_parameter("weight").grad
    assert weight_gradient is not None
    torch.testing.assert_close(sparse.values.grad, sparse.pattern.gather(weight_gradient))
    if sparse.bias is not None:
        torch.testing.assert_close(sparse.bias.grad, layer.get_parameter("bias").grad)


@pytest.mark.parametrize("density", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("name", LAYERS)
def test_a_sparse_layer_is_the_dense_one_with_zeros(name: str, density: float) -> None:
    make, shape = LAYERS[name]
    assert_same(*pair(make, density), torch.randn(shape, generator=stream(0, "x"), dtype=torch.float64))


@pytest.mark.parametrize("density", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("name", IN_BLOCKS)
def test_a_sparse_layer_in_blocks_is_the_dense_one_with_zeros(name: str, density: float) -> None:
    make, shape = IN_BLOCKS[name]
    layer, sparse = pair(make, density, block=4)
    assert sparse.pattern.block == 4
    assert_same(layer, sparse, torch.randn(shape, generator=stream(0, "x"), dtype=torch.float64))


@pytest.mark.parametrize("name", LAYERS)
def test_a_single_weight_is_enough(name: str) -> None:
    make, shape = LAYERS[name]
    assert_same(*one_nonzero(make), torch.randn(shape, generator=stream(0, "x"), dtype=torch.float64))


@pytest.mark.parametrize("block", [1, 4])
@pytest.mark.parametrize("batch", [1, 2, 3, 7, 31, 129])
@pytest.mark.parametrize("name", ["linear", "conv2d", "conv1d"])
def test_any_batch_is_right(name: str, batch: int, block: int) -> None:
    make, shape = (IN_BLOCKS if block == 4 else LAYERS)[name]
    x = torch.randn(batch, *shape[1:], generator=stream(0, "x"), dtype=torch.float64)
    assert_same(*pair(make, 0.3, block=block), x)


@pytest.mark.parametrize("shape", [(5, 12), (2, 3, 12), (1, 3, 12)])
@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize("inner", [True, False], ids=["batch innermost", "rows"])
def test_a_linear_layer_keeps_the_layout_of_its_input(shape: tuple[int, ...], relu: bool, inner: bool) -> None:
    layer, sparse = pair(LAYERS["linear"][0], 0.3)
    x = torch.randn(shape, dtype=torch.float64, generator=stream(0, "x"))
    if inner:
        x = x.flatten(0, -2).t().contiguous().t().view(shape)
    a, b = x.detach().requires_grad_(), x.detach().requires_grad_()
    want, found = layer(a), sparse.forward(b, floor=0.0 if relu else -math.inf)
    want = want.relu() if relu else want
    torch.testing.assert_close(found, want)
    assert found.flatten(0, -2).t().is_contiguous() == inner
    assert found.is_contiguous() == (not inner)
    g = torch.randn(want.shape, dtype=torch.float64, generator=stream(0, "g"))
    for gradient in (
        g,
        g.flatten(0, -2).t().contiguous().t().view(want.shape),
        torch.ones(()).double().expand(want.shape),
    ):
        (wanted,) = torch.autograd.grad(want, a, gradient, retain_graph=True)
        before = gradient.clone()
        (given,) = torch.autograd.grad(found, b, gradient, retain_graph=True)
        torch.testing.assert_close(given, wanted)
        assert torch.equal(gradient, before)
        assert given.stride() == b.stride()


def test_rows_of_a_larger_tensor_are_rows() -> None:
    layer, sparse = pair(LAYERS["linear"][0], 0.3)
    x = torch.randn(6, 4, 24, dtype=torch.float64, generator=stream(0, "x"))
    for rows in (x[:, 1, 5:17], x[::2, :, :12], x.transpose(0, 1)[..., 3:15]):
        torch.testing.assert_close(sparse(rows), layer(rows))
        assert sparse(rows).is_contiguous()


@pytest.mark.parametrize("write", ["data", "numpy"])
def test_an_activation_is_read_anew_at_each_call(write: str) -> None:
    """It may be written into by ways that no counter of torch sees."""
    _, sparse = pair(LAYERS["linear"][0], 0.3)
    x = torch.ones(5, 12, dtype=torch.float64) * torch.ones(12, dtype=torch.float64, requires_grad=True)
    kept = sparse(x)
    if write == "data":
        x.data.mul_(2)
    else:
        x.detach().numpy()[:] *= 2
    torch.testing.assert_close(sparse(x), F.linear(x, sparse.dense_weight(), sparse.bias))
    del kept


def test_what_autograd_does_not_watch_is_transposed_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A buffer may be filled anew through NumPy, which no counter sees."""
    _, sparse = pair(LAYERS["linear"][0], 0.3)
    x = torch.ones(5, 12, dtype=torch.float64)
    first = sparse(x)
    x.numpy()[:] = 2
    torch.testing.assert_close(sparse(x), F.linear(x, sparse.dense_weight(), sparse.bias))
    assert not torch.equal(first, sparse(x))


@pytest.mark.parametrize("block", [1, 4])
def test_without_gradients_the_same_numbers_come_out(block: int) -> None:
    for name, (make, shape) in (IN_BLOCKS if block == 4 else LAYERS).items():
        _, sparse = pair(make, 0.3, block=block)
        x = torch.randn(shape, dtype=torch.float64, generator=stream(0, name))
        with torch.no_grad():
            found = sparse(x)
        assert found.grad_fn is None
        assert torch.equal(found, sparse(x).detach())
        with torch.inference_mode():
            assert torch.equal(sparse(x), found)


def test_a_layer_that_moves_finds_its_blocks_again() -> None:
    _, sparse = pair(IN_BLOCKS["linear"][0], 0.3, block=4)
    x = torch.randn(5, 12, dtype=torch.float64, generator=stream(0, "x"))
    for mask in (torch.rand(8, 12, generator=stream(1, "mask")) < 0.5, sparse.mask().roll(1, dims=1)):
        values = torch.randn(int(mask.sum()), dtype=torch.float64, generator=stream(2, "values"))
        sparse.move_(mask.flatten().nonzero().flatten())
        sparse.values.data = values
        assert sparse.pattern.block == (4 if torch.equal(mask[::4].repeat_interleave(4, dim=0), mask) else 1)
        weight = torch.zeros(8, 12, dtype=torch.float64).masked_scatter_(mask, values)
        torch.testing.assert_close(sparse(x), F.linear(x, weight, sparse.bias))


def held_bytes(sparse: SparseLayer) -> int:
    """Bytes of values, pattern and tables that a layer holds, each array once."""
    arrays: list[Any] = [sparse.values.detach().numpy(), sparse.pattern.begins, sparse.pattern.indices]
    for product in sparse._products.values():
        tables = [product.table, *(table for table, _ in product.backward)]
        arrays += [each for table in tables for each in (table.begins, table.ends, table.columns, table.order)]
    owners = {}
    for each in arrays:
        while each is not None and isinstance(each.base, np.ndarray):
            each = each.base
        if each is not None:
            owners[each.__array_interface__["data"][0]] = each.nbytes
    return sum(owners.values())


@pytest.mark.parametrize(("shape", "density"), [((1024, 1024), 0.05), ((1024, 4096), 0.1)])
@pytest.mark.parametrize(("block", "most"), [(1, 16), (4, 5.5)])
def test_bytes_of_a_weight(block: int, most: float, shape: tuple[int, int], density: float) -> None:
    """A value, an index, and for single weights the transposed pattern: its outputs, and where its values are."""
    _, sparse = pair(lambda: nn.Linear(*shape), density, dtype=torch.float32, block=block)
    sparse(torch.ones(128, 1024, requires_grad=True)).sum().backward()
    assert held_bytes(sparse) <= most * sparse.pattern.num_active


@pytest.mark.parametrize("name", LAYERS)
def test_gradients_are_the_finite_differences(name: str) -> None:
    make, shape = LAYERS[name]
    _, sparse = pair(make, 0.3)
    x = torch.randn(shape, generator=stream(0, "x"), dtype=torch.float64, requires_grad=True)
    parameters = dict(sparse.named_parameters())

    def run(x: Tensor, *values: Tensor) -> Tensor:
        return torch.func.functional_call(sparse, dict(zip(parameters, values, strict=True)), (x,))

    assert torch.autograd.gradcheck(run, (x, *parameters.values()))


def strided(x: Tensor) -> Tensor:
    return torch.stack([x, x + 1], dim=-1)[..., 0]


def transposed(x: Tensor) -> Tensor:
    return x.transpose(0, -1).contiguous().transpose(0, -1)


def expanded(x: Tensor) -> Tensor:
    return x[:1].expand(x.shape)


def channels_last(x: Tensor) -> Tensor:
    return (
        x.contiguous(memory_format=torch.channels_last)
        if x.dim() == 4
        else x.transpose(0, 1).contiguous().transpose(0, 1)
    )


def shifted(x: Tensor) -> Tensor:
    return torch.cat([x, x])[x.shape[0] - 1 : -1]


@pytest.mark.parametrize("view", [strided, transposed, expanded, channels_last, shifted])
@pytest.mark.parametrize("name", ["linear", "conv2d", "conv1d"])
def test_inputs_of_any_strides(name: str, view: Callable[[Tensor], Tensor]) -> None:
    make, shape = LAYERS[name]
    layer, sparse = pair(make, 0.3)
    x = view(torch.randn(shape, generator=stream(0, "x"), dtype=torch.float64))
    torch.testing.assert_close(sparse(x), layer(x))


def test_outputs_keep_the_batch_innermost_through_elementwise_operations() -> None:
    _, sparse = pair(*LAYERS["conv2d"][:1], 0.3)
    x = torch.randn(LAYERS["conv2d"][1], dtype=torch.float64, generator=stream(0, "x"))
    for y in (sparse(x), F.gelu(sparse(x)), sparse(x) * 2 + 1):
        assert y.permute(1, 2, 3, 0).is_contiguous()


def test_parameters_gradients_and_state_have_the_size_of_the_active_weights() -> None:
    _, sparse = pair(lambda: nn.Linear(100, 50), 0.1)
    optimizer = torch.optim.Adam(sparse.parameters())
    sparse(torch.ones(2, 100, dtype=torch.float64)).sum().backward()
    optimizer.step()
    active = sparse.pattern.num_active
    assert active < 0.2 * 5000
    assert sparse.values.shape == sparse.values.grad.shape == (active,)  # type: ignore[union-attr]
    assert all(state.numel() in (1, active) for state in optimizer.state[sparse.values].values())


def test_second_derivatives_say_to_use_masks() -> None:
    _, sparse = pair(*LAYERS["linear"][:1], 0.3)
    x = torch.ones(2, 12, dtype=torch.float64, requires_grad=True)
    with pytest.raises(RuntimeError, match=r"first derivatives only.*sparseflow.engine.to_dense\(model\)"):
        torch.autograd.grad(sparse(x).sum(), x, create_graph=True)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.int64])
def test_other_dtypes_are_refused(dtype: torch.dtype) -> None:
    _, sparse = pair(*LAYERS["linear"][:1], 0.3)
    with pytest.raises(
        TypeError, match=r"needs an input of the same type on the CPU, got torch\..*\.to\(torch.float64\)"
    ):
        sparse(torch.ones(2, 12).to(dtype))
    with pytest.raises(TypeError, match=r"computes float32 and float64 on the CPU, got"):
        SparseLinear(sparse.pattern, sparse.values.detach().to(dtype), None, sparse.window)


def test_other_devices_are_refused() -> None:
    _, sparse = pair(*LAYERS["linear"][:1], 0.3)
    with pytest.raises(TypeError, match=r"on the CPU, got torch\.float64 on meta"):
        sparse(torch.ones(2, 12, dtype=torch.float64, device="meta"))


def test_wrong_shapes_are_refused() -> None:
    _, linear = pair(*LAYERS["linear"][:1], 0.3)
    with pytest.raises(ValueError, match=r"takes \(\.\.\., 12\), got \(2, 11\)"):
        linear(torch.ones(2, 11, dtype=torch.float64))
    _, conv = pair(*LAYERS["conv2d"][:1], 0.3)
    with pytest.raises(ValueError, match=r"takes \(batch, 4, height, width\), got \(2, 3, 9, 9\)"):
        conv(torch.ones(2, 3, 9, 9, dtype=torch.float64))
    _, tight = pair(LAYERS["conv2d, grouped"][0], 0.3)
    with pytest.raises(ValueError, match="2 x 9 pixels is smaller than the kernel, which reaches over 3 x 3"):
        tight(torch.ones(2, 4, 2, 9, dtype=torch.float64))
    _, line = pair(*LAYERS["conv1d"][:1], 0.3)
    with pytest.raises(ValueError, match=r"takes \(batch, 4, length\), got \(2, 3, 9\)"):
        line(torch.ones(2, 3, 9, dtype=torch.float64))
    with pytest.raises(ValueError, match=r"one number for each of \d+ active weights, got \(1,\)"):
        SparseLinear(linear.pattern, torch.ones(1), None, linear.window)


def test_circular_padding_is_refused() -> None:
    with pytest.raises(ValueError, match="pads with zeros, got padding_mode='circular'; keep the layer masked"):
        SparseConv2d.of(nn.Conv2d(1, 1, 3, padding=1, padding_mode="circular"), torch.ones(1, 1, 3, 3).bool())


@pytest.mark.parametrize("block", [1, 4])
@pytest.mark.parametrize("name", ["linear", "conv2d", "conv1d"])
def test_a_state_takes_its_pattern_along(name: str, block: int) -> None:
    make, shape = (IN_BLOCKS if block == 4 else LAYERS)[name]
    _, sparse = pair(make, 0.3, block=block)
    _, other = pair(make, 0.7)
    x = torch.randn(shape, dtype=torch.float64, generator=stream(0, "x"))
    other(x)  # tables of the old pattern are not used again
    other.load_state_dict(copy.deepcopy(sparse.state_dict()))
    assert torch.equal(other(x), sparse(x))
    assert other.values.shape == sparse.values.shape


def test_a_state_with_an_index_for_each_weight_of_a_block_is_taken() -> None:
    """As states were before there were blocks."""
    _, sparse = pair(IN_BLOCKS["linear"][0], 0.3, block=4)
    _, other = pair(IN_BLOCKS["linear"][0], 0.7)
    assert len(sparse.state_dict()["begins"]) == 8 // 4 + 1
    plain = sparse.pattern.one_by_one()
    old = sparse.state_dict() | {"begins": torch.from_numpy(plain.begins), "indices": torch.from_numpy(plain.indices)}
    other.load_state_dict(old)
    assert other.pattern.block == 4
    assert torch.equal(other.dense_weight(), sparse.dense_weight())
    with pytest.raises(ValueError, match=r"begins and indices are of another layer than one of shape \(7, 12\)"):
        pair(LAYERS["linear"][0], 0.3)[1].load_state_dict(sparse.state_dict())


def test_a_dense_state_is_taken_where_it_fits_the_pattern() -> None:
    layer, sparse = pair(*LAYERS["linear"][:1], 0.3)
    twice = {name: 2 * tensor for name, tensor in layer.state_dict().items()}
    sparse.load_state_dict(twice)
    assert torch.equal(sparse.dense_weight(), twice["weight"])
    with pytest.raises(ValueError, match=r"weight is nonzero where this layer has no weights.*engine.convert"):
        sparse.load_state_dict(twice | {"weight": torch.ones(7, 12, dtype=torch.float64)})
    with pytest.raises(ValueError, match=r"weight must have shape \(7, 12\), got \(1, 12\)"):
        sparse.load_state_dict(twice | {"weight": torch.ones(1, 12, dtype=torch.float64)})


def test_a_new_pattern_keeps_the_parameter_object() -> None:
    _, sparse = pair(*LAYERS["linear"][:1], 0.3)
    parameter = sparse.values
    x = torch.ones(2, 12, dtype=torch.float64)
    sparse(x)
    sparse.values.data = torch.tensor([2.0], dtype=torch.float64)
    sparse.move_(torch.tensor([0]))
    assert sparse.values is parameter
    assert sparse.bias is not None
    torch.testing.assert_close((sparse(x) - sparse.bias)[0], torch.tensor([2.0] + [0.0] * 6, dtype=torch.float64))


def test_tables_are_kept_for_a_few_sizes_only() -> None:
    _, sparse = pair(*LAYERS["conv2d"][:1], 0.3)
    for height in range(4, 20):
        sparse(torch.ones(1, 4, height, 5, dtype=torch.float64))
    assert len(sparse._products) <= 4


def test_a_copy_is_a_layer_of_its_own() -> None:
    layer, sparse = pair(*LAYERS["conv2d"][:1], 0.3)
    x = torch.ones(LAYERS["conv2d"][1], dtype=torch.float64)
    twin = copy.deepcopy(sparse)
    twin.values.data.zero_()
    torch.testing.assert_close(sparse(x), layer(x))
    assert torch.equal(twin(x), sparse.bias.view(1, -1, 1, 1).expand(x.shape[0], -1, 7, 6))  # type: ignore[union-attr]


def test_what_is_printed_says_how_sparse_it_is() -> None:
    _, sparse = pair(lambda: nn.Linear(100, 50), 0.1)
    assert f"{sparse.pattern.num_active} of {math.prod((50, 100))} weights" in repr(sparse)


@pytest.mark.parametrize("relu", [True, False])
def test_a_relu_inside_cuts_values_and_gradients(relu: bool) -> None:
    layer, sparse = pair(*LAYERS["conv2d"][:1], 0.3)
    after = nn.ReLU() if relu else nn.Identity()
    assert_same_chain = nn.Sequential(layer, after)
    x = torch.randn(LAYERS["conv2d"][1], dtype=torch.float64, generator=stream(0, "x"))
    a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
    want, found = assert_same_chain(a), sparse(b, floor=0.0 if relu else -math.inf)
    torch.testing.assert_close(found, want)
    want.square().sum().backward()
    found.square().sum().backward()
    torch.testing.assert_close(b.grad, a.grad)


def test_masks_and_the_engine_train_alike() -> None:
    """Twenty steps of momentum SGD in float64: sums in another order differ by less than 1e-10."""
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 5)).double()
    masks = sf.random_masks(model, 0.7, seed=0)
    sf.initialize_(model, masks, seed=0)
    sparse = sf.engine.convert(model, masks)
    optimizers = [torch.optim.SGD(m.parameters(), lr=0.1, momentum=0.9) for m in (model, sparse)]
    sf.Sparsifier(model, optimizers[0], masks, sf.Static(), seed=0)
    for step, (m, optimizer) in itertools.product(range(20), zip((model, sparse), optimizers, strict=True)):
        x = torch.randn(8, 1, 8, 8, generator=stream(step, "x"), dtype=torch.float64)
        y = torch.randint(5, (8,), generator=stream(step, "y"))
        optimizer.zero_grad()
        F.cross_entropy(m(x), y).backward()
        optimizer.step()
    for name, tensor in sf.engine.dense_state_dict(sparse).items():
        torch.testing.assert_close(tensor, model.state_dict()[name], rtol=1e-10, atol=1e-10)
