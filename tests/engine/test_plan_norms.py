"""Batch norm in plans: modes, running statistics, whole batches; oracle: torch in float64, step by step."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn

import sparseflow as sf
from hand_over import WAYS, hand_over_by
from plans import NORMED, check_against_torch, check_steps_against_torch, examples, masked
from sparseflow.engine.layers import threads as threads_module
from sparseflow.engine.plans.plan import plan
from sparseflow.engine.stepper import Stepper
from sparseflow.gradients import undisturbed

program_module = sys.modules["sparseflow.engine.plans.program"]
SGD = partial(torch.optim.SGD, lr=0.05, momentum=0.9, nesterov=True, weight_decay=1e-3)


def images(norm: Callable[[int], nn.Module] = nn.BatchNorm2d) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1, bias=False), norm(4), nn.ReLU(),
        nn.Conv2d(4, 6, 3, padding=1, stride=2), norm(6), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(6, 3),
    )  # fmt: skip


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "images": (images, (2, 7, 8)),
    "features": (
        lambda: nn.Sequential(
            nn.Linear(9, 20, bias=False), nn.BatchNorm1d(20), nn.ReLU(), nn.Linear(20, 8), nn.BatchNorm1d(8),
            nn.Linear(8, 3),
        ),
        (9,),
    ),
    "signals": (
        lambda: nn.Sequential(
            nn.Conv1d(2, 4, 3, padding=2), nn.BatchNorm1d(4), nn.ReLU(), nn.Conv1d(4, 3, 3), nn.BatchNorm1d(3),
            nn.Flatten(), nn.Linear(21, 3),
        ),
        (2, 7),
    ),
    "of the input, and of the logits": (
        lambda: nn.Sequential(
            nn.BatchNorm2d(2), nn.Conv2d(2, 4, 3, padding=1), nn.Flatten(), nn.Linear(80, 3), nn.BatchNorm1d(3)
        ),
        (2, 4, 5),
    ),
    "before pools": (
        lambda: nn.Sequential(
            nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.BatchNorm2d(4), nn.AvgPool2d(2),
            nn.BatchNorm2d(4), nn.MaxPool2d(2, ceil_mode=True), nn.ReLU(), nn.Flatten(), nn.Linear(4, 3),
        ),
        (2, 10, 11),
    ),
    "without parameters": (partial(images, partial(nn.BatchNorm2d, affine=False)), (2, 6, 6)),
    "without biases": (partial(images, partial(nn.BatchNorm2d, bias=False)), (2, 6, 6)),
    "without memory": (partial(images, partial(nn.BatchNorm2d, track_running_stats=False)), (2, 6, 6)),
    "the mean over all batches": (partial(images, partial(nn.BatchNorm2d, momentum=None, eps=0.1)), (2, 6, 6)),
    "twice, by itself": (
        lambda: nn.Sequential(
            nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.BatchNorm2d(4), nn.ReLU(), nn.ReLU(), nn.Flatten(),
            nn.Linear(64, 3),
        ),
        (2, 6, 6),
    ),
}  # fmt: skip


@pytest.mark.parametrize("batch", [2, 5, 33])
@pytest.mark.parametrize("name", NETWORKS)
def test_logits_and_gradients_are_torchs_in_both_modes(name: str, batch: int) -> None:
    make, shape = NETWORKS[name]
    model = make().double()
    masks = masked(model, (0.3, 1.0)[batch % 2])
    x, y = examples(shape, batch, 3)
    model(examples(shape, 17, 3, seed=1)[0])  # running statistics of their own
    for training in (True, False):
        with undisturbed(model, training=training):
            check_against_torch(model, masks, x, y, close=NORMED)


@pytest.mark.parametrize("name", NETWORKS)
def test_steps_and_running_statistics_are_torchs(name: str) -> None:
    make, shape = NETWORKS[name]
    model = make().double()
    masks = masked(model, 0.5)
    batches = [examples(shape, batch, 3, seed=batch) for batch in (7, 4, 9, 7)]
    check_steps_against_torch(model, masks, batches, SGD)


def test_float32_stays_near_float64() -> None:
    """Eight steps; float32 rounds at 6e-8, deviations are near 1, and a step multiplies errors by little."""
    exact = images().double()
    masks = masked(exact, 0.5)
    single = images()
    single.load_state_dict(exact.state_dict())
    single.float()
    plans = [plan(model, masks, SGD(model.parameters())) for model in (exact, single)]
    for step in range(8):
        x, y = examples((2, 7, 8), 9, 3, seed=step)
        assert plans[0].step(x, y) == pytest.approx(plans[1].step(x.float(), y), rel=1e-4)
    for each in plans:
        each.write()
    for name, tensor in single.state_dict().items():
        torch.testing.assert_close(tensor.double(), exact.state_dict()[name].double(), rtol=1e-3, atol=1e-4)


def test_modes_are_the_models_one_norm_at_a_time() -> None:
    """A frozen norm normalises by what it remembers, and remembers nothing new; the others are in train mode."""
    model = images().double()
    masks = masked(model, 0.5)
    model(examples((2, 7, 8), 17, 3, seed=1)[0])
    model[1].eval()
    batches = [examples((2, 7, 8), 6, 3, seed=step) for step in range(3)]
    check_against_torch(model, masks, *batches[0], close=NORMED)
    check_steps_against_torch(model, masks, batches, SGD)
    assert model[1].num_batches_tracked == 1
    assert model[4].num_batches_tracked == 4 + 2  # the oracle's logits and losses measured too


def test_one_plan_goes_from_mode_to_mode() -> None:
    model = images().double()
    masks = masked(model, 0.5)
    x, y = examples((2, 7, 8), 6, 3)
    fast = plan(model, masks, SGD(model.parameters()))
    for _ in range(2):
        fast.step(x, y)
        fast.write()
        for training in (False, True, False):
            with undisturbed(model, training=training):
                torch.testing.assert_close(fast.logits(x), model(x).detach(), **NORMED)


def test_only_a_step_moves_running_statistics_and_only_write_gives_them_away() -> None:
    model = images().double()
    masks = masked(model, 0.5)
    x, y = examples((2, 7, 8), 6, 3)
    fast = plan(model, masks, SGD(model.parameters()))
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    fast.logits(x)
    fast.loss_and_gradients(x, y)
    fast.write()
    assert all(torch.equal(buffer, before[name]) for name, buffer in model.named_buffers())
    fast.step(x, y)
    assert all(torch.equal(buffer, before[name]) for name, buffer in model.named_buffers())
    fast.write()
    assert not any(torch.equal(buffer, before[name]) for name, buffer in model.named_buffers())


@pytest.mark.slow
def test_evaluation_in_slices_and_training_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the cache and the batch: a norm that measures sees all examples."""
    monkeypatch.setattr(program_module, "_CACHE", 1)
    monkeypatch.setattr(threads_module, "_WORTH_IT", 1)
    torch.set_num_threads(2)
    model = images().double()
    masks = masked(model, 0.5)
    x, y = examples((2, 7, 8), 300, 3)
    check_steps_against_torch(model, masks, [(x, y)] * 2, SGD)
    model.eval()
    check_against_torch(model, masks, x, y, close=NORMED)
    fast = plan(model, masks)
    fast.logits(x)
    fast.loss_and_gradients(x, y)
    assert {(b.size, b.whole, len(b.rooms)) for b in fast._batches._batches.values()} == {(16, 300 // 16, 2 + 1)}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", NETWORKS)
def test_threads_change_no_bit_where_norms_measure(name: str, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    hand_over_by(way, monkeypatch)
    monkeypatch.setattr(threads_module, "_WORTH_IT", 1)
    make, shape = NETWORKS[name]
    model = make()
    masks = masked(model, 0.5)
    x, y = examples(shape, 200, 3)
    found: list[list[Tensor]] = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        fast = plan(model, masks)
        loss, gradients = fast.loss_and_gradients(x.float(), y)
        assert [batch.shares for batch in fast._batches._batches.values()] == [threads]
        found.append([torch.tensor(loss), *gradients.values()])
    for others in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], others, strict=True))


def test_a_state_dict_from_the_middle_of_a_run_goes_on_the_same() -> None:
    whole, first = images().double(), images().double()
    masks = masked(whole, 0.5)
    first.load_state_dict(whole.state_dict())
    batches = [examples((2, 7, 8), 6, 3, seed=step) for step in range(4)]
    optimizers = [SGD(model.parameters()) for model in (whole, first)]
    fast = plan(whole, masks, optimizers[0])
    for batch in batches:
        fast.step(*batch)
    fast.write()
    half = plan(first, masks, optimizers[1])
    for batch in batches[:2]:
        half.step(*batch)
    half.write()
    loaded = images().double()
    loaded.load_state_dict(first.state_dict())
    other = SGD(loaded.parameters())
    other.load_state_dict(optimizers[1].state_dict())
    rest = plan(loaded, masks, other)
    for batch in batches[2:]:
        rest.step(*batch)
    rest.write()
    assert all(torch.equal(tensor, whole.state_dict()[name]) for name, tensor in loaded.state_dict().items())


def test_masks_that_move_keep_the_running_statistics() -> None:
    """RigL, torch at the updates and a plan between them; the oracle is torch at all steps."""
    runs: list[tuple[nn.Module, Stepper]] = []
    start = images().double()
    masks = masked(start, 0.5)
    for kind in ("sparse", "masked"):
        model = copy.deepcopy(start)
        rigl = sf.RigL(update_every=3, drop_fraction=0.3, schedule="constant")
        runs.append((model, Stepper(sf.Sparsifier(model, SGD(model.parameters()), masks, rigl, seed=0), kind)))
    for step in range(10):
        x, y = examples((2, 7, 8), 40, 3, seed=step)
        losses = [stepper.step(x, y, torch.arange(9)) for _, stepper in runs]
        assert losses[0] == pytest.approx(losses[1], rel=1e-8)
        torch.testing.assert_close(runs[0][1].logits(x), runs[1][1].logits(x), rtol=1e-7, atol=1e-9)
    for _, stepper in runs:
        stepper.settle()
    assert any(not torch.equal(mask, masks[name]) for name, mask in runs[0][1]._sparsifier.masks.items())
    for name, tensor in runs[0][0].state_dict().items():
        torch.testing.assert_close(tensor, runs[1][0].state_dict()[name], rtol=1e-7, atol=1e-9)


def test_what_a_norm_cannot_take() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 2))
    x, y = torch.zeros(1, 4), torch.zeros(1, dtype=torch.int64)
    with pytest.raises(ValueError, match="layer '1' needs more than 1 value per channel in train mode, got 1"):
        plan(model, {}).loss_and_gradients(x, y)
    with pytest.raises(ValueError, match="layer '1' needs 4 channels or features, got 3"):
        plan(nn.Sequential(model[0], nn.BatchNorm1d(4)), {}).logits(torch.zeros(5, 4))
    with pytest.raises(ValueError, match="layer '1' needs inputs with 2 axes besides batch and channels, got 0"):
        plan(nn.Sequential(model[0], nn.BatchNorm2d(3)), {}).logits(torch.zeros(5, 4))
    with pytest.raises(ValueError, match="layer '1' needs inputs with 0 or 1 axes besides batch and channels, got 2"):
        plan(nn.Sequential(nn.Conv2d(1, 3, 1), nn.BatchNorm1d(3)), {}).logits(torch.zeros(5, 1, 2, 2))
    model[1].bias.requires_grad_(False)
    with pytest.raises(ValueError, match=r"layer '1', .* needs parameters that all require gradients"):
        plan(model, {})
    with pytest.raises(TypeError, match=r"cannot compute layer '1', SyncBatchNorm; it takes .* BatchNorm2d"):
        plan(nn.Sequential(model[0], nn.SyncBatchNorm(3)), {})
