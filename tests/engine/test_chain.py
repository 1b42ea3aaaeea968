"""A chain of sparse layers as one function: against the masked dense chain in float64, and against its own layers."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import sparseflow as sf
from sparseflow import engine
from sparseflow.engine.layers import chain as chain_module
from sparseflow.engine.layers.chain import SparseSequential, read_stages
from sparseflow.rng import stream


def random_chain(seed: int) -> tuple[nn.Sequential, tuple[int, ...]]:
    """Convolutions, pools and ReLUs in any order, then linear layers; and the shape of one example."""
    draw = random.Random(seed)
    size, channels = draw.randint(9, 13), draw.randint(1, 3)
    shape = (channels, size, draw.randint(9, 13))
    layers: list[nn.Module] = []
    for _ in range(draw.randint(1, 3)):
        out = draw.randint(1, 5)
        kernel, padding = draw.randint(1, 3), draw.randint(0, 2)
        layers.append(
            nn.Conv2d(channels, out, kernel, padding=padding, stride=draw.choice([1, 1, 2]), bias=draw.random() < 0.7)
        )
        channels = out
        if draw.random() < 0.7:
            layers.append(nn.ReLU())
        if draw.random() < 0.4:
            layers.append(
                draw.choice([nn.MaxPool2d(2, stride=1), nn.AvgPool2d(2, stride=1), nn.MaxPool2d(3, 1, padding=1)])
            )
        if draw.random() < 0.2:
            layers.append(nn.ReLU())
    layers.append(nn.Flatten())
    features = nn.Sequential(*layers)(torch.zeros(1, *shape)).shape[1]
    for out in (draw.randint(1, 20), 3):
        layers += [nn.Linear(features, out), draw.choice([nn.ReLU(), nn.Identity()])]
        features = out
    if draw.random() < 0.5:
        layers = [nn.Sequential(*layers[:2]), *layers[2:]]
    model = nn.Sequential(*layers).double()
    for name, parameter in model.named_parameters():
        nn.init.normal_(parameter, std=0.4, generator=stream(seed, name))
    return model, shape


def converted(model: nn.Module, *, sparsity: float = 0.6, seed: int = 0) -> nn.Module:
    masks = sf.random_masks(model, sparsity, seed=seed)
    sf.apply_masks_(model, masks)
    return sf.engine.convert(model, masks)


def assert_same_gradients(sparse: nn.Module, model: nn.Module) -> None:
    for name, layer in sf.engine.sparse_layers(sparse).items():
        want = model.get_parameter(name).grad
        assert want is not None
        torch.testing.assert_close(layer.values.grad, layer.pattern.gather(want))
        if layer.bias is not None:
            torch.testing.assert_close(layer.bias.grad, model.get_parameter(name.replace("weight", "bias")).grad)


@pytest.mark.parametrize("batch", [1, 5, 33, 131])
@pytest.mark.parametrize("seed", range(12))
def test_a_chain_is_the_masked_network(seed: int, batch: int) -> None:
    model, shape = random_chain(seed)
    sparse = converted(model, seed=seed)
    assert type(sparse) is SparseSequential
    a = torch.randn(batch, *shape, generator=stream(seed, "x"), dtype=torch.float64).requires_grad_(seed % 2 == 0)
    b = a.detach().clone().requires_grad_(a.requires_grad)
    want, found = model(a), sparse(b)
    torch.testing.assert_close(found, want)
    want.square().mean().backward()
    found.square().mean().backward()
    assert_same_gradients(sparse, model)
    if a.requires_grad:
        torch.testing.assert_close(b.grad, a.grad)


def lenet() -> tuple[nn.Module, nn.Module, Tensor]:
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 3),
    ).double()  # fmt: skip
    return model, converted(model), torch.randn(6, 1, 8, 8, generator=stream(0, "x"), dtype=torch.float64)


def calls_of_the_chain(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    calls: list[int] = []
    plain: Callable[..., Tensor] = chain_module._ChainFunction.apply
    monkeypatch.setattr(chain_module._ChainFunction, "apply", lambda *a: (calls.append(1), plain(*a))[1])
    return calls


@pytest.mark.parametrize("second", ["single", "blocks", "dense"])
@pytest.mark.parametrize("first", ["single", "blocks", "dense"])
def test_frames_of_padded_neighbours_of_any_pattern(first: str, second: str) -> None:
    """Single weights read gradients in a frame with a border; blocks and dense layers write them without one."""

    def mask(weight: Tensor, pattern: str, seed: int) -> Tensor:
        draws = torch.rand(weight.shape, generator=stream(seed, "mask"))
        if pattern == "blocks":
            draws = draws[::4].repeat_interleave(4, 0)
        return draws < (1.0 if pattern == "dense" else 0.4)

    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 12, 5, padding=2), nn.ReLU(),
        nn.Conv2d(12, 8, 3, padding=1), nn.Flatten(), nn.Linear(8 * 7 * 9, 3),
    ).double()  # fmt: skip
    patterns = {"0.weight": "single", "2.weight": first, "4.weight": second}
    masks = {
        name: mask(model.get_parameter(name), pattern, seed) for seed, (name, pattern) in enumerate(patterns.items())
    }
    masks["6.weight"] = mask(model.get_parameter("6.weight"), "single", 3)
    sf.apply_masks_(model, masks)
    sparse = engine.convert(model, masks)
    a = torch.randn(5, 3, 7, 9, generator=stream(0, "x"), dtype=torch.float64).requires_grad_()
    b = a.detach().clone().requires_grad_()
    model(a).square().sum().backward()
    sparse(b).square().sum().backward()
    assert_same_gradients(sparse, model)
    torch.testing.assert_close(b.grad, a.grad)


def test_layers_run_alone_where_somebody_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    model, sparse, x = lenet()
    calls = calls_of_the_chain(monkeypatch)
    torch.testing.assert_close(sparse(x), model(x))
    assert len(calls) == 1
    seen: list[torch.Size] = []
    layer = sf.engine.sparse_layers(sparse)["4.weight"]
    handle = layer.register_forward_hook(lambda module, args, out: seen.append(out.shape))
    torch.testing.assert_close(sparse(x), model(x))
    assert (len(calls), seen) == (1, [torch.Size([6, 8])])
    handle.remove()
    layer.keep_gradients(True)
    torch.testing.assert_close(sparse(x), model(x))
    assert len(calls) == 1
    layer.keep_gradients(False)
    torch.testing.assert_close(sparse(x), model(x))
    assert len(calls) == 2


def test_several_forward_passes_before_a_backward_pass() -> None:
    model, sparse, x = lenet()
    parts = [sparse(part) for part in x.split(2)]
    torch.stack([part.square().sum() for part in parts]).sum().backward()
    model(x).square().sum().backward()
    assert_same_gradients(sparse, model)


def test_backward_twice_adds_twice() -> None:
    model, sparse, x = lenet()
    for network in (model, sparse):
        loss = network(x).square().sum()
        loss.backward(retain_graph=True)
        loss.backward()
    assert_same_gradients(sparse, model)


def test_workspaces_are_used_again() -> None:
    _, sparse, x = lenet()
    for _ in range(3):
        sparse(x).sum().backward()
    _, chain = chain_module._chains[sparse]
    (slices,) = chain._slices.values()
    assert len(slices.free) == 1


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_workspaces_begin_at_cache_lines(dtype: type) -> None:
    _, sparse, x = lenet()
    sparse(x)
    _, chain = chain_module._chains[sparse]
    (slices,) = chain._slices.values()
    held = [chain_module._Held(slices, dtype) for _ in range(5)]
    assert all(room.ctypes.data % 64 == 0 for each in held for room in each.workspaces[0])


def test_an_input_with_the_batch_innermost() -> None:
    model, sparse, x = lenet()
    inner = x.permute(1, 2, 3, 0).contiguous().permute(3, 0, 1, 2)
    torch.testing.assert_close(sparse(inner), model(x))
    torch.testing.assert_close(
        sparse(x[:, :, ::2].repeat_interleave(2, 2)), model(x[:, :, ::2].repeat_interleave(2, 2))
    )


def test_new_patterns_and_states_are_followed() -> None:
    model, sparse, x = lenet()
    sparse(x)
    other = converted(copy.deepcopy(model), sparsity=0.8, seed=1)
    sparse.load_state_dict(other.state_dict())
    torch.testing.assert_close(sparse(x), other(x))
    twin = copy.deepcopy(sparse)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.zero_()
    assert not twin(x).any()
    torch.testing.assert_close(sparse(x), other(x))


@pytest.mark.parametrize("threads", [2, 3])
def test_the_number_of_threads_changes_no_bit(threads: int) -> None:
    found = []
    _, start, _ = lenet()
    for count in (1, threads):
        torch.set_num_threads(count)
        sparse = copy.deepcopy(start)
        x = torch.randn(300, 1, 8, 8, generator=stream(0, "x"), dtype=torch.float64)
        y = sparse(x)
        y.square().sum().backward()
        found.append([y, *(parameter.grad for parameter in sparse.parameters())])
    assert all(map(torch.equal, *found))


@pytest.mark.parametrize("batch", [40, 100, 128, 200])
@pytest.mark.parametrize("block", [1, 4])
def test_threads_change_no_bit_of_linear_layers(batch: int, block: int) -> None:
    """Two threads take half of a batch each, where one takes it whole."""
    model = nn.Sequential(nn.Linear(256, 512), nn.ReLU(), nn.Linear(512, 256), nn.ReLU())
    mask = {
        name: (torch.rand(len(model.get_parameter(name)) // block, model.get_parameter(name).shape[1]) < 0.3)
        .repeat_interleave(block, 0)
        for name in ("0.weight", "2.weight")
    }  # fmt: skip
    found = []
    for count in (1, 2):
        torch.set_num_threads(count)
        sparse = engine.convert(sf.apply_masks_(copy.deepcopy(model), mask), mask)
        x = torch.randn(batch, 256, generator=stream(0, "x"), requires_grad=True)
        y = sparse(x)
        y.square().sum().backward()
        found.append([y, x.grad, *(parameter.grad for parameter in sparse.parameters())])
    assert all(map(torch.equal, *found))


def test_threads_change_no_bit_where_one_of_two_layers_is_in_blocks() -> None:
    model = nn.Sequential(nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 256)).double()
    masks = {"0.weight": torch.rand(256, 256) < 0.3, "2.weight": (torch.rand(64, 256) < 0.3).repeat_interleave(4, 0)}
    found = []
    for count in (1, 2):
        torch.set_num_threads(count)
        sparse = engine.convert(sf.apply_masks_(copy.deepcopy(model), masks), masks)
        y = sparse(torch.randn(128, 256, generator=stream(0, "x"), dtype=torch.float64))
        y.square().sum().backward()
        found.append([y, *(parameter.grad for parameter in sparse.parameters())])
    assert all(map(torch.equal, *found))


@pytest.mark.parametrize("block", [1, 4])
def test_one_example_without_gradients(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Sequential(nn.Linear(40, 24), nn.ReLU(), nn.Linear(24, 60, bias=False), nn.ReLU(), nn.Linear(60, 8))
    model.double()
    masks = sf.random_masks(model, 0.7, seed=0, block=(block, 1))
    sf.apply_masks_(model, masks)
    sparse = sf.engine.convert(model, masks)
    alone = []
    plain = chain_module.Chain.one_example
    monkeypatch.setattr(chain_module.Chain, "one_example", lambda *given: alone.append(1) or plain(*given))
    wide = torch.randn(1, 80, generator=stream(0, "x"), dtype=torch.float64)
    with torch.no_grad():
        for x in (wide[:, :40], wide[:, ::2], wide[:, 7:8].expand(1, 40)):
            torch.testing.assert_close(sparse(x), model(x))
        out = sparse(wide[:, :40])
        assert out.add_(1).shape == (1, 8)
        assert len(alone) == 4
        torch.testing.assert_close(sparse(wide.view(2, 40)), model(wide.view(2, 40)))
        with pytest.raises(ValueError, match=r"takes \(\.\.\., 40\), got \(1, 80\)"):
            sparse(wide)
    sparse(wide[:, :40]).sum().backward()
    model(wide[:, :40]).sum().backward()
    assert_same_gradients(sparse, model)
    assert len(alone) == 4


def test_what_a_chain_returns_may_be_written_into() -> None:
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 8))
    sparse = converted(model, sparsity=0.5)
    x = torch.randn(5, 8, generator=stream(0, "x"))
    for network in (sparse, model):
        out = network(x)
        out += x
        out.relu_().sum().backward()
    assert_same_gradients(sparse, model)


def test_frozen_layers_get_no_gradient() -> None:
    _, sparse, x = lenet()
    layer = sf.engine.sparse_layers(sparse)["4.weight"]
    layer.values.requires_grad_(False)
    sparse(x).sum().backward()
    assert layer.values.grad is None
    assert layer.bias is not None
    assert layer.bias.grad is not None


def test_errors_are_those_of_the_layers() -> None:
    _, sparse, x = lenet()
    with pytest.raises(ValueError, match=r"takes \(batch, 1, height, width\), got \(6, 2, 8, 8\)"):
        sparse(x.repeat(1, 2, 1, 1))
    with pytest.raises(TypeError, match="needs an input of the same type"):
        sparse(x.float())
    with pytest.raises(RuntimeError, match=r"first derivatives only.*to_dense\(model\)"):
        torch.autograd.grad(sparse(x).sum(), list(sparse.parameters()), create_graph=True)


@pytest.mark.parametrize("odd", [nn.BatchNorm2d(4), nn.Dropout(), nn.Tanh(), nn.Flatten(0)])
def test_a_chain_with_another_layer_runs_layer_by_layer(odd: nn.Module) -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 3), odd)
    assert type(converted(model)) is nn.Sequential
    assert read_stages(nn.Sequential(nn.ReLU())) is None


def test_the_dense_form_is_an_ordinary_sequential() -> None:
    model, sparse, _ = lenet()
    assert type(sf.engine.to_dense(sparse)) is nn.Sequential
    assert repr(sf.engine.to_dense(sparse)) == repr(model)
