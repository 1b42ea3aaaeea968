"""Batch normalisation in the engine's layout, alone and in networks, against torch's in float64."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import sparseflow as sf
from hand_over import WAYS, hand_over_by
from sparseflow.engine.layers.chain import SparseSequential
from sparseflow.engine.layers.norms import BatchNorm2d
from sparseflow.engine.layers.pools import is_batch_innermost
from sparseflow.engine.layers.threads import evenly
from sparseflow.networks import resnet14

#: Batch, channels, height, width: one pixel, one example, odd sizes, rows longer and shorter than vectors.
SHAPES = [(2, 1, 1, 1), (1, 3, 2, 1), (5, 4, 3, 2), (7, 3, 5, 9), (16, 2, 4, 4), (33, 2, 7, 1)]
OPTIONS: list[dict[str, Any]] = [
    {},
    {"momentum": None},
    {"momentum": 0.0},
    {"momentum": 1.0},
    {"affine": False},
    {"track_running_stats": False},
    {"eps": 0.5},
]


def inner(images: Tensor) -> Tensor:
    """The same images with the batch innermost."""
    return images.permute(1, 2, 3, 0).contiguous().permute(3, 0, 1, 2)


def drawn(shape: tuple[int, ...], generator: torch.Generator, *, dtype: torch.dtype = torch.float64) -> Tensor:
    return (3 * torch.randn(shape, generator=generator, dtype=torch.float64) + 2).to(dtype)


def pair_of_norms(channels: int, generator: torch.Generator, **options: Any) -> tuple[BatchNorm2d, nn.BatchNorm2d]:
    """The engine's and torch's, both float64, with the same random parameters."""
    theirs = nn.BatchNorm2d(channels, **options).double()
    for tensor in theirs.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(torch.rand(tensor.shape, generator=generator, dtype=torch.float64) + 0.5)
    ours = copy.deepcopy(theirs)
    ours.__class__ = BatchNorm2d
    assert isinstance(ours, BatchNorm2d)
    return ours, theirs


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(("adds", "floor"), [(False, -math.inf), (False, 0.0), (True, -math.inf), (True, 0.0)])
def test_values_gradients_and_running_statistics_are_torchs(
    shape: tuple[int, ...], options: dict[str, Any], training: bool, adds: bool, floor: float
) -> None:
    """Two steps: the cumulative average differs from the first one on."""
    generator = torch.Generator().manual_seed(0)
    ours, theirs = (norm.train(training) for norm in pair_of_norms(shape[1], generator, **options))
    for _ in range(2):
        x, other, gradient = (drawn(shape, generator) for _ in range(3))
        leaves = [x, other] if adds else [x]
        found = [inner(leaf).requires_grad_() for leaf in leaves]
        expected = [leaf.requires_grad_() for leaf in leaves]
        y = ours(found[0], plus=found[1] if adds else None, floor=floor)
        z = theirs(expected[0]) + expected[1] if adds else theirs(expected[0])
        z = F.relu(z) if floor == 0 else z
        assert is_batch_innermost(y)
        torch.testing.assert_close(y, z, rtol=1e-10, atol=1e-10)
        y.backward(inner(gradient))
        z.backward(gradient)
        for mine, wanted in zip([*found, *ours.parameters()], [*expected, *theirs.parameters()], strict=True):
            torch.testing.assert_close(mine.grad, wanted.grad, rtol=1e-8, atol=1e-8)
        for name, tensor in theirs.state_dict().items():
            torch.testing.assert_close(ours.state_dict()[name], tensor, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("mean", [0.0, 100.0, -1e4])
def test_float32_is_within_its_rounding_also_far_from_zero(mean: float) -> None:
    """The variance of numbers far from zero: E[x^2] - E[x]^2 in float32 would have no digit left at 1e4.

    What remains is the input's own rounding, 6e-8 of its size, which the scale of about 1 does not enlarge.
    """
    generator = torch.Generator().manual_seed(1)
    x = (torch.randn(64, 3, 16, 16, generator=generator, dtype=torch.float64) + mean).float()
    ours = BatchNorm2d(3)
    y = ours(inner(x))
    exact = F.batch_norm(x.double(), None, None, training=True)
    torch.testing.assert_close(y.double(), exact, rtol=0, atol=1e-6 + 2e-7 * abs(mean))
    variance = x.double().transpose(0, 1).flatten(1).var(dim=1)
    assert ours.running_var is not None
    torch.testing.assert_close(ours.running_var.double(), 0.9 + 0.1 * variance, rtol=1e-6, atol=0)


def test_a_constant_channel_has_no_variance_and_an_outlier_in_front_costs_no_digits() -> None:
    x = torch.full((4, 1, 3, 3), 7.25, dtype=torch.float64)
    assert torch.equal(BatchNorm2d(1).double()(inner(x)), torch.zeros_like(x))
    x = torch.randn(64, 1, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x[0, 0, 0, 0] = 1e9  # the number that distances are measured from
    ours = BatchNorm2d(1, momentum=1.0).double()
    ours(inner(x))
    torch.testing.assert_close(ours.running_var, x.flatten().var(0, keepdim=True), rtol=1e-11, atol=0)


def test_nan_stays_nan_behind_a_relu() -> None:
    x = torch.randn(8, 2, 3, 3, generator=torch.Generator().manual_seed(0))
    x[0, 0, 0, 0] = math.nan
    y = BatchNorm2d(2)(inner(x), floor=0.0)
    assert y[:, 0].isnan().all()
    assert torch.equal(y[:, 1:], F.relu(BatchNorm2d(2)(inner(x)))[:, 1:])


def test_one_number_a_channel_is_refused_as_torch_does() -> None:
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        BatchNorm2d(2)(inner(torch.zeros(1, 2, 1, 1)))


def test_what_is_frozen_gets_no_gradient_and_leaves_the_others_theirs() -> None:
    generator = torch.Generator().manual_seed(0)
    x, other = (inner(drawn((5, 3, 4, 4), generator)) for _ in range(2))
    whole = BatchNorm2d(3).double()
    a, b = x.clone().requires_grad_(), other.clone().requires_grad_()
    whole(a, plus=b, floor=0.0).pow(2).sum().backward()
    wanted = {"x": a.grad, "other": b.grad, "weight": whole.weight.grad, "bias": whole.bias.grad}
    for frozen in wanted:
        norm = BatchNorm2d(3).double()
        tensors = {"x": x.clone(), "other": other.clone(), "weight": norm.weight, "bias": norm.bias}
        for name, tensor in tensors.items():
            tensor.requires_grad_(name != frozen)
        norm(tensors["x"], plus=tensors["other"], floor=0.0).pow(2).sum().backward()
        for name, tensor in tensors.items():
            if name == frozen:
                assert tensor.grad is None
            else:
                assert torch.equal(tensor.grad, wanted[name])  # type: ignore[arg-type]


def test_inputs_of_other_layouts_shapes_and_types_are_torchs_own() -> None:
    generator = torch.Generator().manual_seed(0)
    x, other = drawn((5, 3, 4, 4), generator), drawn((5, 1, 4, 4), generator)
    ours, theirs = pair_of_norms(3, generator)
    assert torch.equal(ours(x, plus=other, floor=0.0), F.relu(theirs(x) + other))
    torch.testing.assert_close(ours(inner(x), plus=other), theirs(x) + other)
    with pytest.raises(ValueError, match="4D input"):
        ours(torch.zeros(3, 3))
    mixed = BatchNorm2d(3).double()
    with pytest.raises(RuntimeError, match=r"(?i)mixed dtype|expected.*type"):
        mixed(inner(x.float()))


def test_first_derivatives_only() -> None:
    x = inner(torch.randn(4, 2, 3, 3)).requires_grad_()
    with pytest.raises(RuntimeError, match="first derivatives only"):
        torch.autograd.grad(BatchNorm2d(2)(x).pow(2).sum(), x, create_graph=True)


@pytest.mark.parametrize("way", WAYS)
def test_threads_change_no_bit(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    hand_over_by(way, monkeypatch)
    generator = torch.Generator().manual_seed(0)
    x, other, gradient = (inner(drawn((64, 9, 33, 32), generator, dtype=torch.float32)) for _ in range(3))
    results = []
    for threads in (1, 2, 3, 5):
        torch.set_num_threads(threads)
        assert len(evenly(9, x.numel(), unit=1)) == threads + 1
        norm, leaf = BatchNorm2d(9), x.clone().requires_grad_()
        for plus in (None, other):
            y = norm(leaf, plus=plus, floor=0.0)
            y.backward(gradient)
            results.append([y.detach(), leaf.grad.clone(), norm.weight.grad.clone(), norm.running_var.clone()])
    for i, others in enumerate(results):
        assert all(torch.equal(a, b) for a, b in zip(results[i % 2], others, strict=True))


def mask_gradients_(model: nn.Module, masks: Mapping[str, Tensor]) -> None:
    for name, mask in masks.items():
        gradient = model.get_parameter(name).grad
        assert gradient is not None
        gradient.mul_(mask)


def chain() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(2, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(6, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 9, 3),
    ).double()  # fmt: skip


def test_a_relu_behind_a_norm_is_computed_by_it_unless_somebody_looks() -> None:
    generator = torch.Generator().manual_seed(0)
    model = chain()
    sparse = sf.engine.convert(model, sf.random_masks(model, 0.5, seed=0))
    assert isinstance(sparse, nn.Sequential)
    x = drawn((5, 2, 10, 10), generator)
    calls: list[nn.Module] = []
    forward = nn.ReLU.forward

    def counted(relu: nn.ReLU, x: Tensor) -> Tensor:
        calls.append(relu)
        return forward(relu, x)

    expected = sf.engine.to_dense(sparse)(x)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nn.ReLU, "forward", counted)
        torch.testing.assert_close(sparse(x), expected)
        assert calls == []
        seen: list[Tensor] = []
        sparse[5].register_forward_hook(lambda module, args, out: seen.append(out.detach().clone()))
        torch.testing.assert_close(sparse(x), expected)
        assert calls == [sparse[6]]
        assert (seen[0] < 0).any()


@pytest.mark.parametrize("batch", [1, 5, 16])
def test_a_converted_resnet_trains_as_the_masked_one_does(batch: int) -> None:
    """Twenty steps in float64, then evaluation: the same losses within rounding, though sums are taken otherwise."""
    generator = torch.Generator().manual_seed(0)
    model = resnet14(10, width=1 / 8, stem="cifar").double()
    masks = sf.random_masks(model, 0.8, seed=0)
    sparse = sf.engine.convert(model, masks)
    masked = sf.engine.to_dense(sparse)
    assert list(sf.engine.dense_state_dict(sparse)) == list(masked.state_dict())
    optimizers = [torch.optim.SGD(net.parameters(), lr=0.02) for net in (sparse, masked)]
    for _ in range(20):
        x = torch.randn(batch, 3, 17, 17, generator=generator, dtype=torch.float64)
        labels = torch.randint(0, 10, (batch,), generator=generator)
        losses = []
        for net, optimizer in zip((sparse, masked), optimizers, strict=True):
            optimizer.zero_grad()
            loss = F.cross_entropy(net(x), labels)
            loss.backward()
            if net is masked:
                mask_gradients_(masked, masks)
            optimizer.step()
            losses.append(loss.detach())
        torch.testing.assert_close(losses[0], losses[1], rtol=1e-6, atol=1e-9)
    for name, tensor in sf.engine.dense_state_dict(sparse).items():
        torch.testing.assert_close(tensor, masked.state_dict()[name], rtol=1e-5, atol=1e-7)
    with torch.no_grad():
        torch.testing.assert_close(sparse.eval()(x), masked.eval()(x), rtol=1e-5, atol=1e-7)


def test_a_block_whose_parts_have_hooks_runs_them() -> None:
    model = resnet14(10, width=1 / 8, stem="cifar").double()
    sparse = sf.engine.convert(model, sf.random_masks(model, 0.8, seed=0))
    x = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    block = sparse.get_submodule("group1.block1")
    assert isinstance(block.residual, SparseSequential)
    expected = sparse(x)
    for part in (block.residual, block.residual[-1], block.get_submodule("relu")):
        seen: list[nn.Module] = []
        handle = part.register_forward_hook(lambda module, args, out, seen=seen: seen.append(module))
        torch.testing.assert_close(sparse(x), expected)
        handle.remove()
        assert seen == [part]
