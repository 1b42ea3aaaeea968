"""Plans: batches, threads, slices and the refusals; oracle: the dense masked network of torch in float64."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from hand_over import WAYS, hand_over_by
from plans import CLOSE, examples, lenet5, masked, small
from sparseflow.engine.layers import threads as threads_module
from sparseflow.engine.plans.plan import Plan, plan

program_module = sys.modules["sparseflow.engine.plans.program"]


def test_chosen_rows_are_the_batch() -> None:
    model = lenet5()
    masks = masked(model, 0.1)
    x, y = examples((1, 28, 28), 20, 10)
    chosen = torch.tensor([3, 3, 19, 0, 7])
    fast = plan(model, masks)
    assert torch.equal(fast.logits(x, chosen), fast.logits(x[chosen]))
    one, two = fast.loss_and_gradients(x, y, chosen), fast.loss_and_gradients(x[chosen], y[chosen])
    assert one[0] == two[0]
    assert all(torch.equal(one[1][name], two[1][name]) for name in one[1])


def test_workspaces_begin_at_cache_lines() -> None:
    model = lenet5()
    fast = plan(model, masked(model, 0.1))
    for batch in (3, 16, 200):
        fast.loss_and_gradients(*examples((1, 28, 28), batch, 10))
    rooms = [room for batch in fast._batches._batches.values() for room in batch.rooms]
    assert len(rooms) == 4  # slices of 3; of 16; of 32, and the 8 that are left of 200
    assert all(room.ctypes.data % 64 == 0 for room in rooms)


def test_images_that_are_not_contiguous_are_read_right() -> None:
    model = lenet5()
    masks = masked(model, 0.1)
    x, _ = examples((1, 28, 28), 20, 10)
    fast = plan(model, masks)
    assert torch.equal(fast.logits(x.transpose(2, 3)), fast.logits(x.transpose(2, 3).contiguous()))
    assert torch.equal(fast.logits(x[:1].expand(7, -1, -1, -1)), fast.logits(x[:1].repeat(7, 1, 1, 1)))


def test_nan_stays_nan() -> None:
    model = lenet5()
    fast = plan(model, masked(model, 1.0))
    x, y = examples((1, 28, 28), 4, 10)
    x[1, 0, 5, 5] = float("nan")
    logits = fast.logits(x)
    assert logits[1].isnan().any()
    assert not logits[[0, 2, 3]].isnan().any()
    assert np.isnan(fast.loss_and_gradients(x, y)[0])


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("batch", [7, 40, 131, 200])
def test_threads_change_no_bit(batch: int, dtype: torch.dtype, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One slice; two halves, of which one is smaller; slices that fit no cache, in more and in fewer parts."""
    hand_over_by(way, monkeypatch)
    monkeypatch.setattr(threads_module, "_WORTH_IT", 1)
    monkeypatch.setattr(threads_module, "_WORTH_ADDING", 1)
    model = lenet5().to(dtype)
    masks = masked(model, 0.1)
    x, y = examples((1, 28, 28), batch, 10)
    for cache in (1 << 30, 1):
        monkeypatch.setattr(program_module, "_CACHE", cache)
        found = []
        for threads in (1, 2, 3, 2, 1):
            torch.set_num_threads(threads)
            fast = plan(model, masks)
            loss, gradients = fast.loss_and_gradients(x.to(dtype), y)
            found.append([torch.tensor(loss), *gradients.values(), fast.logits(x.to(dtype))])
        for others in found[1:]:
            assert all(torch.equal(a, b) for a, b in zip(found[0], others, strict=True))


def test_threads_take_parts_of_a_batch_if_they_are_worth_it() -> None:
    model = lenet5()
    fast = plan(model, masked(model, 0.1))
    torch.set_num_threads(3)
    for batch, threads in ((4, 1), (16, 1), (128, 3), (1000, 3)):  # too little work; one slice; four; 32
        fast.loss_and_gradients(*examples((1, 28, 28), batch, 10))
        assert len(list(fast._batches._batches.values())[-1].bounds) == threads + 1


def test_gradients_stay_what_they_were() -> None:
    """A plan computes the next ones in the same memory."""
    model, masks = small()
    fast = plan(model, masks)
    _, first = fast.loss_and_gradients(*examples((1, 8, 8), 10, 3))
    kept = {name: gradient.clone() for name, gradient in first.items()}
    fast.loss_and_gradients(*examples((1, 8, 8), 10, 3, seed=1))
    assert all(torch.equal(gradient, kept[name]) for name, gradient in first.items())


def test_float32_stays_near_float64() -> None:
    """Ten steps; float32 rounds at 6e-8, and a step multiplies what was rounded by little."""
    (exact, masks), (single, _) = small(), small()
    single.float()
    plans = [plan(m, masks, torch.optim.SGD(m.parameters(), lr=0.05, momentum=0.9)) for m in (exact, single)]
    for step in range(10):
        x, y = examples((1, 8, 8), 40, 3, seed=step)
        assert plans[0].step(x, y) == pytest.approx(plans[1].step(x.float(), y), rel=1e-4)


def test_names_and_values_of_gradients() -> None:
    model, masks = small()
    fast = plan(model, masks)
    x, y = examples((1, 8, 8), 10, 3)
    _, active = fast.loss_and_gradients(x, y)
    _, dense = fast.loss_and_gradients(x, y, dense=True)
    for name, mask in masks.items():
        assert torch.equal(active[name], dense[name][mask])


def test_slices_that_fit_the_cache_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the cache: one slice, or many and a rest."""
    model = lenet5()
    masks = masked(model, 0.1)
    x, y = examples((1, 28, 28), 100, 10)
    found = []
    for cache in (1 << 30, 1):
        monkeypatch.setattr(program_module, "_CACHE", cache)
        found.append(plan(model, masks).loss_and_gradients(x, y))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-13)
    for name, gradient in found[0][1].items():
        torch.testing.assert_close(found[1][1][name], gradient, **CLOSE)


BAD_LAYERS: list[tuple[nn.Module, str]] = [
    (nn.Tanh(), r"cannot compute layer '1', Tanh; it takes Linear, .*engine\.convert"),
    (
        nn.Conv1d(1, 1, 3, padding=1, padding_mode="circular"),
        r"layer '1', .* needs padding_mode='zeros'.*engine\.convert",
    ),
    (nn.MaxPool2d(2, return_indices=True), "layer '1', .* needs return_indices=False"),
    (nn.AvgPool2d(2, ceil_mode=True), "layer '1', .* needs ceil_mode=False"),
    (nn.Flatten(2), "layer '1', .* needs start_dim=1 and end_dim=-1"),
    (nn.Linear(4, 4).requires_grad_(False), "layer '1', .* needs parameters that all require gradients"),
]


@pytest.mark.parametrize(("layer", "message"), BAD_LAYERS)
def test_an_unsupported_layer_is_named(layer: nn.Module, message: str) -> None:
    model = nn.Sequential(nn.Linear(4, 4), layer)
    with pytest.raises((TypeError, ValueError), match=message):
        plan(model, {})


def test_a_subclass_may_compute_something_else() -> None:
    class Scaled(nn.Linear):
        pass

    with pytest.raises(TypeError, match="cannot compute layer '0', Scaled"):
        plan(nn.Sequential(Scaled(2, 2)), {})


def test_networks_and_masks_that_do_not_fit() -> None:
    layer = nn.Linear(4, 4)
    with pytest.raises(ValueError, match="two layers share a weight, or one is called twice"):
        plan(nn.Sequential(layer, nn.ReLU(), layer), {})
    with pytest.raises(ValueError, match=r"masks has 1\.weight, which is no weight of the net.*: 0\.weight"):
        plan(nn.Sequential(layer), {"1.weight": torch.ones(4, 4, dtype=torch.bool)})
    with pytest.raises(
        ValueError, match=r"the mask of '0' must be a bool tensor of shape \(4, 4\), got torch\.float32"
    ):
        plan(nn.Sequential(layer), {"0.weight": torch.ones(4, 4)})
    with pytest.raises(TypeError, match=r"float32, or all float64, on the CPU; got torch\.float16 on cpu"):
        plan(nn.Sequential(nn.Linear(4, 4).half()), {})
    with pytest.raises(TypeError, match="got no parameters"):
        plan(nn.Sequential(nn.ReLU()), {})


def planned() -> Plan:
    return plan(nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(8, 2)), {})


BAD_EXAMPLES: list[tuple[Tensor, Tensor, Tensor | None, str]] = [
    (torch.zeros(3, 1, 4, 4).double(), torch.zeros(3), None, r"images must be torch\.float32 on the CPU, \(examples"),
    (torch.zeros(0, 1, 4, 4), torch.zeros(0), None, r"images must be .* got torch\.float32 \(0, 1, 4, 4\)"),
    (torch.zeros(3, 1, 4, 4), torch.zeros(3).int(), None, r"labels must be int64 of shape \(3,\), got torch\.int32"),
    (torch.zeros(3, 1, 4, 4), torch.zeros(2), None, r"labels must be int64 of shape \(3,\), got torch\.int64 \(2,\)"),
    (torch.zeros(3, 1, 4, 4), torch.tensor([0, 1, 2]), None, r"labels must be in \[0, 2\), got 0 to 2"),
    (torch.zeros(3, 1, 4, 4), torch.tensor([0, -100, 1]), None, r"labels must be in \[0, 2\), got -100 to 1"),
    (torch.zeros(3, 1, 4, 4), torch.zeros(3), torch.tensor([0, 3]), r"chosen must be in \[0, 3\), got 0 to 3"),
    (torch.zeros(3, 1, 4, 4), torch.zeros(3), torch.tensor([-1]), r"chosen must be in \[0, 3\), got -1 to -1"),
    (torch.zeros(3, 1, 4, 4), torch.zeros(3), torch.zeros(3), None),
    (torch.zeros(3, 4, 4), torch.zeros(3), None, "layer '0' needs inputs with 2 axes besides batch and channels"),
    (torch.zeros(3, 2, 4, 4), torch.zeros(3), None, "layer '0' needs 1 channels or features, got 2"),
    (torch.zeros(3, 1, 5, 4), torch.zeros(3), None, "layer '2' needs 8 channels or features, got 12"),
    (torch.zeros(3, 1, 2, 4), torch.zeros(3), None, r"layer '0' is larger than its input of \(2, 4\)"),
    (torch.zeros(3, 1, 4, 4, 4), torch.zeros(3), None, r"one example must have 1 to 3 axes, got shape \(1, 4, 4, 4\)"),
]  # fmt: skip


@pytest.mark.parametrize(("images", "labels", "chosen", "message"), BAD_EXAMPLES)
def test_examples_that_do_not_fit(images: Tensor, labels: Tensor, chosen: Tensor | None, message: str | None) -> None:
    labels = labels if labels.dtype == torch.int32 else labels.long()
    if message is None:
        assert chosen is not None
        with pytest.raises(TypeError, match=r"chosen must be int64 of shape \(batch,\), got torch\.float32 \(3,\)"):
            planned().loss_and_gradients(images, labels, chosen)
        return
    with pytest.raises((TypeError, ValueError), match=message):
        planned().loss_and_gradients(images, labels, chosen)
