"""Runs that start from a pruning run's weights, and what is kept of a run on its way."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from sparseflow.data.digits import Dataset, load_dataset
from sparseflow.training.config import pruning_parent
from sparseflow.training.digits import DigitRun
from sparseflow.training.run import train
from sparseflow.training.runs import METRICS, SNAPSHOTS, final_state, read_snapshot
from sparseflow.training.setup import dense_network
from starts import at_start

BASE = DigitRun(
    dataset="mnist-5k",
    batch_size=16,
    steps=20,
    update_every=5,
    prune_begin=5,
    prune_end=10,
    prune_every=2,
    log_every=5,
    eval_every=10,
    checkpoint_every=10,
)
PARENT = pruning_parent(BASE).with_(snapshots=(8,))


@pytest.fixture(scope="module")
def data() -> Dataset:
    return load_dataset("mnist-5k")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of runs with the pruning run in it."""
    folder = tmp_path_factory.mktemp("runs")
    train(PARENT, root=folder)
    return folder


def start_of(config: DigitRun, data: Dataset, root: Path) -> dict[str, Tensor]:
    state: dict[str, Tensor] = at_start(config, data, root=root).model.state_dict()
    return state


def masked(state: dict[str, Tensor], root: Path) -> dict[str, Tensor]:
    masks = final_state(PARENT, root=root)["masks"]
    return {name: value * masks[name] if name in masks else value for name, value in state.items()}


@pytest.mark.parametrize(
    ("method", "rewind_step"),
    [("lottery", 0), ("lottery", 8), ("restart", 0)],
)
def test_a_ticket_starts_from_the_pruning_run_bit_for_bit(
    method: str, rewind_step: int, root: Path, data: Dataset
) -> None:
    """Oracle: the weights of that step times the final masks. Two seeds differ in the order of the data alone."""
    one = BASE.with_(method=method, mask_from=PARENT, rewind_step=rewind_step, seed=3)
    if method == "restart":
        dense = final_state(PARENT, root=root)["model"]
    elif rewind_step:
        dense = read_snapshot(PARENT, rewind_step, root=root)["model"]
    else:
        dense = dense_network(PARENT).state_dict()
    found, expected = start_of(one, data, root), masked(dense, root)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    other = start_of(one.with_(seed=4), data, root)
    assert all(torch.equal(found[name], other[name]) for name in found)
    assert not at_start(one, data, root=root).optimizer.state


def test_one_init_seed_gives_one_start(root: Path, data: Dataset) -> None:
    starts = [
        start_of(BASE.with_(init="dense", mask_from=PARENT, seed=seed, init_seed=init_seed), data, root)
        for seed, init_seed in ((1, 7), (2, 7), (7, None), (2, None))
    ]
    for name in starts[0]:
        assert torch.equal(starts[0][name], starts[1][name])
        assert torch.equal(starts[0][name], starts[2][name])
    assert not torch.equal(starts[0]["fc1.weight"], starts[3]["fc1.weight"])


@pytest.mark.parametrize("control", ["shuffled_masks", "shuffled_weights", "signs"])
def test_controls_change_what_they_say(control: str, root: Path, data: Dataset) -> None:
    ticket = BASE.with_(method="lottery", mask_from=PARENT)
    plain, changed = (at_start(one, data, root=root) for one in (ticket, ticket.with_(control=control)))
    for name, mask in plain.sparsifier.masks.items():
        other = changed.sparsifier.masks[name]
        assert int(other.sum()) == int(mask.sum())
        assert torch.equal(other, mask) == (control != "shuffled_masks")
        ours, theirs = (setup.model.get_parameter(name).detach() for setup in (changed, plain))
        if control == "shuffled_weights":
            assert torch.equal(ours[mask].sort().values, theirs[mask].sort().values)
        if control == "signs":
            assert torch.equal(ours[mask].sign(), theirs[mask].sign())
            assert len(ours[mask].abs().unique()) == 1
    assert not torch.equal(changed.model.fc1.weight, plain.model.fc1.weight)


def test_noise_on_the_start_is_in_units_of_the_layer(root: Path, data: Dataset) -> None:
    """1536 draws: their standard deviation is within 10 % of 0.5 of the layer's, false alarm 2e-8 (5.6 errors)."""
    ticket = BASE.with_(method="lottery", mask_from=PARENT)
    plain, noisy = (at_start(one, data, root=root) for one in (ticket, ticket.with_(start_noise=0.5)))
    mask = plain.sparsifier.masks["fc1.weight"]
    before, after = (setup.model.get_parameter("fc1.weight").detach()[mask] for setup in (plain, noisy))
    assert abs(float((after - before).std() / before.std()) - 0.5) < 0.05
    assert not noisy.model.get_parameter("fc1.weight")[~mask].any()


def test_snapshots_before_and_after_an_update_do_not_change_the_run(tmp_path: Path, data: Dataset) -> None:
    """An update at step 10 swaps connections; before it, weights live on the old masks, after it on the new ones."""
    config = BASE.with_(method="rigl")
    kept = config.with_(snapshots=(0, 10, 12, 20))
    runs = [train(one, root=tmp_path) for one in (config, kept)]
    assert (runs[0].folder / METRICS).read_bytes() == (runs[1].folder / METRICS).read_bytes()
    names = sorted(path.name for path in (runs[1].folder / SNAPSHOTS).iterdir())
    assert names == ["000000.pt", "000010-before.pt", "000010.pt", "000012.pt", "000020-before.pt", "000020.pt"]
    assert not (runs[0].folder / SNAPSHOTS).exists()
    before, after, later, end = (
        read_snapshot(kept, step, root=tmp_path, before_update=early)
        for step, early in ((10, True), (10, False), (12, False), (20, False))
    )
    moved = before["masks"]["fc1.weight"] != after["masks"]["fc1.weight"]
    assert moved.any()
    assert torch.equal(after["masks"]["fc1.weight"], later["masks"]["fc1.weight"])
    for state in (before, after, later):
        for name, mask in state["masks"].items():
            assert not state["model"][name][~mask].any()
    stays = before["masks"]["fc1.weight"] & after["masks"]["fc1.weight"]
    assert torch.equal(before["model"]["fc1.weight"][stays], after["model"]["fc1.weight"][stays])
    assert not after["model"]["fc1.weight"][moved & after["masks"]["fc1.weight"]].any()
    final = final_state(kept, root=tmp_path)
    assert all(torch.equal(end["model"][name], final["model"][name]) for name in final["model"])
    start = start_of(kept, data, tmp_path)
    assert all(torch.equal(read_snapshot(kept, 0, root=tmp_path)["model"][name], start[name]) for name in start)


def test_a_snapshot_that_is_not_there(tmp_path: Path) -> None:
    config = BASE.with_(method="dense", snapshots=(3,))
    train(config, root=tmp_path)
    with pytest.raises(FileNotFoundError, match=r"has no snapshot 000004; it has \['000003'\]"):
        read_snapshot(config, 4, root=tmp_path)


def test_held_out_images_are_not_trained_on(tmp_path: Path, data: Dataset) -> None:
    part = data.held_out(500)
    assert len(part.train_labels) == 3500
    images, labels = part.holdout
    assert len(labels) == 500
    seen = {image.numpy().tobytes() for image in part.train_images}
    assert sum(image.numpy().tobytes() in seen for image in images) <= 1  # a digit may be there twice
    assert int(part.train_labels.bincount().sum() + labels.bincount().sum()) == 4000
    again = data.held_out(500)
    assert torch.equal(again.holdout[0], images)
    run = train(BASE.with_(holdout=500), root=tmp_path)
    assert 0 <= run.final["holdout/accuracy"] <= 1
    with pytest.raises(ValueError, match="holdout must be at most half of the 4000 training images, got 3000"):
        data.held_out(3000)


def test_the_step_schedule() -> None:
    """Oracle: a tenth at 30, 70 and 90 % of the training, by hand."""
    config = DigitRun(schedule="step", steps=100, learning_rate=1.0)
    rates = [config.learning_rates.at(step) for step in (0, 29, 30, 69, 70, 89, 90, 99)]
    assert rates == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01, 0.001, 0.001])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "lottery"}, "lottery starts from a pruning run: give mask_from"),
        ({"method": "restart"}, "restart starts from a pruning run"),
        ({"method": "lottery", "mask_from": PARENT, "rewind_step": 9}, r"rewind_step 9 was not kept.*are \[8\]"),
        ({"method": "dense", "control": "signs"}, "control and start_noise change a masked start; 'dense' has none"),
        ({"start_noise": -1.0}, "start_noise must be at least 0, got -1.0"),
        ({"snapshots": (21,)}, r"snapshots must be steps from 0 to 20, got \[21\]"),
        ({"control": "nothing"}, "control must be one of none, shuffled_masks"),
        ({"schedule": "linear"}, "schedule must be one of cosine, step"),
    ],
)
def test_bad_starts(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BASE.with_(**changes)


def test_a_parent_keeps_what_its_ticket_rewinds_to() -> None:
    ticket = pruning_parent(BASE).with_(snapshots=(8,))
    late = BASE.with_(method="lottery", rewind_step=8, mask_from=ticket)
    assert pruning_parent(late) == ticket
