"""One process and two take the same steps of a global batch; oracles: each other, and torch on the whole batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import sparseflow as sf
import vision_worker
from processes import run_ranks
from sparseflow.training.optimizer import StepSchedule, sgd
from sparseflow.training.ranks import Ranks, ranks_of_torchrun
from sparseflow.training.statistics import StepStatistics
from sparseflow.training.step import Trainer, distributed

STEPS = 24


@pytest.fixture(scope="module")
def ends(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Of one process, and of both of two."""
    folder = tmp_path_factory.mktemp("ranks")
    vision_worker.main(str(folder), STEPS, "train")
    done = run_ranks(vision_worker.main, str(folder), STEPS, "train")
    assert [end.returncode for end in done] == [0, 0], done
    return [torch.load(folder / name, weights_only=True) for name in ("1-0.pt", "2-0.pt", "2-1.pt")]


def test_two_processes_take_the_steps_of_one(ends: list[dict[str, Any]]) -> None:
    """To the last bit: each adds two micro-batches at most, and sums of two do not depend on their order."""
    one, *both = ends
    for other in both:
        assert torch.equal(one["losses"], other["losses"])
        for part in ("masks", "model"):
            assert one[part].keys() == other[part].keys()
            assert all(torch.equal(value, other[part][name]) for name, value in one[part].items()), part
    assert one["losses"][-4:].mean() < one["losses"][:4].mean()


def test_masks_moved(ends: list[dict[str, Any]]) -> None:
    start = sf.random_masks(vision_worker.network(), 0.8, seed=0)
    assert any(not torch.equal(start[name], mask) for name, mask in ends[0]["masks"].items())


@pytest.mark.parametrize("start", range(5))  # one in a few hung at its end, see ranks_of_torchrun
def test_ranks_with_other_masks_stop_before_the_first_step(start: int, tmp_path: Path) -> None:
    for end in run_ranks(vision_worker.main, str(tmp_path), STEPS, "disagree"):
        assert end.returncode == 1
        assert "the masks of rank 1 differ from those of rank 0" in end.stderr
    assert not list(tmp_path.iterdir())


def test_gradients_are_those_of_the_whole_batch() -> None:
    """Without batch norm, two micro-batches have the gradient that torch computes of both together."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 64, 5)).double()
    optimizer = sgd(model, learning_rate=0.1)
    masks = sf.random_masks(model, 0.5, seed=0)
    trainer = Trainer(
        model=model,
        optimizer=optimizer,
        sparsifier=sf.Sparsifier(model, optimizer, masks, sf.Static(), seed=0),
        schedule=StepSchedule(0.1, 0, ()),
        micro_batches=2,
        statistics=StepStatistics(model, micro_batches=2),
    )
    parts = [(x.double(), y) for x, y in (vision_worker.micro_batch(0, index) for index in range(2))]
    loss = trainer.backward(0, parts)
    images, labels = (torch.cat(part) for part in zip(*parts, strict=True))
    whole = F.cross_entropy(model(images), labels, label_smoothing=0.1)
    (expected,) = torch.autograd.grad(whole, [model[1].weight])
    assert loss == pytest.approx(whole.item(), rel=1e-12)
    torch.testing.assert_close(model[1].weight.grad, expected, rtol=1e-12, atol=1e-15)


def test_running_statistics_are_means_over_micro_batches() -> None:
    norm = nn.BatchNorm1d(2, momentum=0.25).double()
    statistics = StepStatistics(norm, micro_batches=3)
    parts = torch.randn(3, 6, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for _ in range(2):
        for part in parts:
            with statistics.micro_batch():
                norm(part)
        statistics.step(Ranks())
    mean, variance = parts.mean(1).mean(0), parts.var(1).mean(0)
    torch.testing.assert_close(norm.running_mean, (1 - 0.75**2) * mean)
    torch.testing.assert_close(norm.running_var, 0.75**2 + (1 - 0.75**2) * variance)
    assert int(norm.num_batches_tracked) == 2
    assert norm.momentum == 0.25


def test_bfloat16_is_near_float32() -> None:
    """Two significant digits: bfloat16 has 8 bits."""
    exact, rough = (vision_worker.trainer(Ranks(), steps=4) for _ in range(2))
    object.__setattr__(rough, "precision", "bfloat16")
    parts = [vision_worker.micro_batch(0, index) for index in range(2)]
    assert rough.step(0, parts) == pytest.approx(exact.step(0, parts), rel=0.02)
    rough.sparsifier.check()


def test_an_update_that_replaces_a_step_takes_none() -> None:
    """The authors' ImageNet RigL (protocol C.4): the sixth batch moves masks, and no weight that stays."""
    made = vision_worker.trainer(Ranks(), steps=10, replaces_step=True)
    parts = [vision_worker.micro_batch(0, index) for index in range(2)]
    for step in range(5):
        made.step(step, parts)
    weight = made.model[0].weight
    before, mask = weight.detach().clone(), made.sparsifier.masks["0.weight"].clone()
    made.step(5, parts)
    after = made.sparsifier.masks["0.weight"]
    assert made.sparsifier.step_count == 5
    assert not torch.equal(mask, after)
    assert torch.equal(weight[mask & after], before[mask & after])


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: vision_worker.trainer(Ranks(), steps=4).step(0, [vision_worker.micro_batch(0, 0)]),
            ValueError,
            "takes 2 micro-batches of a step, got 1",
        ),
        (
            lambda: vision_worker.trainer(Ranks(), steps=4).step(
                7, [(torch.full((8, 3, 8, 8), torch.nan), torch.zeros(8, dtype=torch.long))] * 2
            ),
            FloatingPointError,
            "the loss of step 7 is nan. Lower the learning rate",
        ),
        (
            lambda: StepStatistics(nn.BatchNorm1d(2, momentum=None), micro_batches=1),
            ValueError,
            "BatchNorm1d keeps no running statistics with a momentum",
        ),
        (lambda: StepSchedule(0.0, 5, ()), ValueError, "peak must be positive"),
    ],
)
def test_bad_input_is_one_clear_error(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


def test_more_processes_than_gpus_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"WORLD_SIZE": "4", "RANK": "0", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "4"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with (
        pytest.raises(ValueError, match=r"4 processes on a machine with 2 GPUs. Use --nproc-per-node 2"),
        ranks_of_torchrun(),
    ):
        pass


def test_several_processes_need_reduced_gradients() -> None:
    made = vision_worker.trainer(Ranks(), steps=4)
    with pytest.raises(TypeError, match="wrap it in"):
        Trainer(**{**vars(made), "ranks": Ranks(0, 2)})


def test_one_process_needs_no_wrapper() -> None:
    assert distributed(nn.Linear(1, 1), Ranks()).__class__ is nn.Linear
