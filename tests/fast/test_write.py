"""Masks replaced and tensors cleared off them in one compiled pass, against torch."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import sparseflow as sf
from sparseflow._fast.bits import stage
from sparseflow._fast.clear import replace
from sparseflow._fast.memory import as_integers
from sparseflow._fast.write import Write, clear_, write_
from sparseflow.rng import stream

#: Above the size from which a layer is rewritten by a compiled pass in any process; no multiple of 8.
LARGE = (1 << 16) + 4321


def delicate(n: int, seed: int) -> Tensor:
    """Numbers among which are those that a product with 0 would not make +0.0."""
    generator = torch.Generator().manual_seed(seed)
    special = torch.tensor([float("nan"), float("inf"), float("-inf"), -0.0, -1.0, 1e-45])
    chosen = special[torch.randint(len(special), (n,), generator=generator)]
    return torch.where(torch.rand(n, generator=generator) < 0.5, chosen, torch.randn(n, generator=generator))


def random_mask(n: int, density: float, seed: int) -> Tensor:
    return torch.rand(n, generator=torch.Generator().manual_seed(seed)) < density


def cleared(tensor: Tensor, mask: Tensor) -> Tensor:
    """Oracle: +0.0 off the mask."""
    return torch.where(mask, tensor, torch.zeros((), dtype=tensor.dtype))


def assert_same_bits(a: Tensor, b: Tensor) -> None:
    assert torch.equal(a.reshape(-1).view(torch.uint8), b.reshape(-1).view(torch.uint8))


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(0, 70) | st.integers(1000, 5000),
    densities=st.tuples(st.floats(0, 1), st.floats(0, 1)),
    num_tensors=st.integers(1, 3),
    seed=st.integers(0, 10**6),
)
def test_one_pass_copies_counts_and_clears(n: int, densities: tuple[float, float], num_tensors: int, seed: int) -> None:
    mask, new = random_mask(n, densities[0], seed), random_mask(n, densities[1], seed + 1)
    before = [delicate(n, seed + 2 + i) for i in range(num_tensors)]
    after = [tensor.clone() for tensor in before]
    was, told = stage(mask).bits, torch.empty_like(stage(new).bits)
    assert replace(as_integers(mask), stage(new).bits.numpy(), told.numpy(), tuple(map(as_integers, after))) == int(
        new.sum()
    )
    assert torch.equal(mask, new)
    assert torch.equal(told, was)
    for tensor, old in zip(after, before, strict=True):
        assert_same_bits(tensor, cleared(old, new))


@pytest.mark.parametrize("told", [True, False])
@pytest.mark.parametrize("density", [0.0, 0.1, 1.0])
def test_a_large_layer_and_the_plain_way_agree(density: float, told: bool) -> None:
    mask, new = random_mask(LARGE, 0.1, 0), random_mask(LARGE, density, 1)
    tensors = tuple(delicate(LARGE, seed) for seed in (2, 3))
    before = mask.clone()
    plain = Write(mask.clone(), stage(new), tuple(tensor.clone() for tensor in tensors), told)
    compiled = Write(mask, stage(new), tensors, told)
    for found in (compiled.compiled(), plain.plain()):
        assert found is not None
        assert found.active == int(new.sum())
        assert (found.before is not None) == told
        assert found.before is None or torch.equal(found.before.unpack(), before)
    assert torch.equal(compiled.mask, plain.mask)
    for a, b in zip(compiled.tensors, plain.tensors, strict=True):
        assert_same_bits(a, b)


SHAPE = (8, 16, 32, 32)


def refused(what: str) -> tuple[Tensor, Tensor, Tensor]:
    """Mask, new mask and tensor."""
    new = random_mask(8 * 16 * 32 * 32, 0.5, 0).view(SHAPE)
    mask, tensor = torch.zeros_like(new), delicate(new.numel(), 1).view(SHAPE)
    if what == "channels_last":
        tensor = tensor.to(memory_format=torch.channels_last)
    elif what == "mask":
        mask = mask.to(memory_format=torch.channels_last)
    elif what == "small":
        mask, new, tensor = mask[:1, :1], new[:1, :1], tensor[:1, :1].clone()
    else:
        tensor = tensor.to(getattr(torch, what))
    return mask, new, tensor


@pytest.mark.parametrize("what", ["channels_last", "mask", "small", "float64", "bfloat16", "bool"])
def test_what_the_compiled_pass_does_not_take_is_rewritten_all_the_same(what: str) -> None:
    mask, new, tensor = refused(what)
    layer = Write(mask, stage(new, like=mask), (tensor,))
    expected = cleared(tensor, new)
    assert layer.compiled() is None
    assert [done.active for done in write_([layer])] == [int(new.sum())]
    assert torch.equal(mask, new)
    assert_same_bits(tensor, expected)


@pytest.mark.parametrize("new_is_too", [True, False])
def test_channels_last_is_rewritten_in_the_order_of_memory(new_is_too: bool) -> None:
    mask, new, tensor = refused("channels_last")
    mask = mask.to(memory_format=torch.channels_last)
    new = new.to(memory_format=torch.channels_last) if new_is_too else new
    expected = cleared(tensor, new)
    done = Write(mask, stage(new, like=mask), (tensor,)).compiled()
    assert done is not None
    assert done.active == int(new.sum())
    assert torch.equal(mask, new)
    assert_same_bits(tensor, expected)
    tensor = delicate(new.numel(), 3).view(SHAPE).to(memory_format=torch.channels_last)
    expected = cleared(tensor, mask)
    clear_([(tensor, mask)])
    assert_same_bits(tensor, expected)


# --- in a training loop -----------------------------------------------------------------------------------------------


def trained(optimizer_name: str) -> list[Tensor]:
    """Masks, weights, gradients and states after three updates of a large layer and a small one."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(320, 256), nn.Linear(256, 10))
    optimizer = getattr(torch.optim, optimizer_name)(model.parameters(), lr=0.1)
    updater = sf.RigL(update_every=1)
    sparsifier = sf.Sparsifier(model, optimizer, sf.random_masks(model, 0.8, seed=0), updater, seed=0)
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        for parameter in model.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        optimizer.step()
        sparsifier.check()
    states = [value for state in optimizer.state.values() for value in state.values() if isinstance(value, Tensor)]
    weights = [tensor for p in model.parameters() for tensor in (p.detach(), p.grad) if tensor is not None]
    return [*sparsifier.masks.values(), *weights, *states]


@pytest.mark.parametrize("optimizer_name", ["SGD", "Adagrad", "Adam"])
def test_training_is_the_same_as_with_the_plain_way(optimizer_name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = trained(optimizer_name)
    monkeypatch.setattr(Write, "compiled", lambda layer: None)
    for a, b in zip(compiled, trained(optimizer_name), strict=True):
        assert_same_bits(a, b)


def test_a_weight_that_sits_the_update_out_is_left_without_gradients_off_its_mask() -> None:
    model = nn.Sequential(nn.Linear(12, 10), nn.Linear(10, 8))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sparsifier = sf.Sparsifier(model, optimizer, sf.random_masks(model, 0.8, seed=0), sf.RigL(update_every=1), seed=0)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    model[0].weight.requires_grad_(False)
    before = sparsifier.masks["0.weight"].clone()
    optimizer.step()
    assert torch.equal(sparsifier.masks["0.weight"], before)
    for name, mask in sparsifier.masks.items():
        assert torch.equal(model.get_parameter(name).grad, mask.float())
    sparsifier.check()


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_zeroing_off_masks_is_multiplying_bits(threads: int) -> None:
    """Large and small, NaN and infinity, any memory format; the oracle is ``torch.where``."""
    torch.set_num_threads(threads)
    generator = stream(0, "zero")
    shapes = [(300, 400), (7, 3), (64, 64, 5, 5), (1, 65_537)]
    tensors = [torch.randn(shape, generator=generator) for shape in shapes]
    tensors.append(tensors[2].clone().contiguous(memory_format=torch.channels_last))
    tensors.append(tensors[0].double())
    for tensor in tensors:
        tensor[..., ::3] = float("nan")
    masks = [torch.rand(tensor.shape, generator=generator) < 0.2 for tensor in tensors]
    want = [torch.where(mask, tensor, 0.0) for tensor, mask in zip(tensors, masks, strict=True)]
    clear_(list(zip(tensors, masks, strict=True)))
    for found, expected in zip(tensors, want, strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)
        assert not torch.signbit(found[expected == 0]).any()
