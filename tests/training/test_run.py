"""A run: what it starts from, what it logs and when, what a dead network gives, and what growth looks at."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import sparseflow as sf
from sparseflow.data.digits import Dataset, load_dataset
from sparseflow.engine.stepper import Stepper
from sparseflow.masks.topk import active_count
from sparseflow.training import run as train_module
from sparseflow.training.config import pruning_parent
from sparseflow.training.digits import DigitRun
from sparseflow.training.probes import evaluate
from sparseflow.training.run import train
from sparseflow.training.runs import METRICS, Run, final_state
from sparseflow.training.setup import set_up
from sparseflow.training.step import Trainer
from starts import at_start, starting

SIZES = {"conv1": 150, "conv2": 2400, "fc1": 30720, "fc2": 10080, "fc3": 840}  # LeNet5's kernels, by hand
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


@pytest.fixture(scope="module")
def data() -> Dataset:
    return load_dataset("mnist-5k")


@pytest.fixture(scope="module")
def pruned(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Run]:
    """A folder of runs with one pruning run in it."""
    root = tmp_path_factory.mktemp("runs")
    return root, train(pruning_parent(BASE), root=root)


def steps_of(run: Run, name: str) -> list[int]:
    return run.metrics[run.metrics["name"] == name].step.tolist()


def value_of(run: Run, name: str, step: int) -> float:
    (value,) = run.metrics[(run.metrics["name"] == name) & (run.metrics["step"] == step)]["value"]
    return value


@pytest.mark.parametrize("method", ["rigl", "snfs"])
def test_a_run_is_a_pure_function_of_its_config(method: str, tmp_path: Path) -> None:
    """Whatever the global random state and the number of threads: a second training gives the same bits."""
    config = BASE.with_(method=method, seed=2)
    runs = []
    for folder, threads in (("one", 1), ("two", 2)):
        torch.manual_seed(threads)
        torch.set_num_threads(threads)
        runs.append(train(config, root=tmp_path / folder))
        assert torch.get_num_threads() == threads
    first, second = ((run.folder / METRICS).read_bytes() for run in runs)
    assert first == second
    one, two = (final_state(config, root=tmp_path / folder)["model"] for folder in ("one", "two"))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_a_seed_changes_everything(tmp_path: Path) -> None:
    one, two = (train(BASE.with_(steps=5, seed=seed), root=tmp_path) for seed in (0, 1))
    assert value_of(one, "train/loss", 0) != value_of(two, "train/loss", 0)
    assert not final_state(one.config, root=tmp_path)["masks"]["fc1.weight"].equal(
        final_state(two.config, root=tmp_path)["masks"]["fc1.weight"]
    )


@pytest.mark.parametrize("method", ["scratch", "set"])
def test_starts_from_the_masks_of_the_pruning_run(method: str, pruned: tuple[Path, Run], data: Dataset) -> None:
    root, parent = pruned
    config = BASE.with_(method=method, mask_from=parent.config)
    masks = final_state(parent.config, root=root)["masks"]
    setup = at_start(config, data, root=root)
    assert {name: int(mask.sum()) for name, mask in masks.items()} == {
        f"{name}.weight": active_count(size, 0.95) for name, size in SIZES.items()
    }
    for name, mask in masks.items():
        assert torch.equal(setup.sparsifier.masks[name], mask)
        assert not setup.model.get_parameter(name)[~mask].any()
    if method == "scratch":
        train(config, root=root)
        ended = final_state(config, root=root)["masks"]
        assert all(torch.equal(ended[name], mask) for name, mask in masks.items())


@pytest.mark.parametrize("init", ["dense", "liu", "sparse", "live"])
def test_scratch_is_no_lottery_ticket(init: str, pruned: tuple[Path, Run], data: Dataset) -> None:
    """No active weight starts where the pruning run of the same seed started, or at a multiple of it."""
    root, parent = pruned
    ticket = at_start(parent.config, data, root=root).model
    scratch = at_start(BASE.with_(init=init, mask_from=parent.config), data, root=root)
    for name, mask in scratch.sparsifier.masks.items():
        ours, theirs = (model.get_parameter(name).detach()[mask] for model in (scratch.model, ticket))
        assert not (ours == theirs).any()
        if len(ours) > 500:  # independent draws: a correlation beyond 5 / sqrt(n) has chance 6e-7
            assert abs(float(torch.corrcoef(torch.stack([ours, theirs]))[0, 1])) < 5 / math.sqrt(len(ours))


def test_the_pruning_run_is_trained_first_and_once(tmp_path: Path) -> None:
    config = BASE.with_(steps=10, mask_from=pruning_parent(BASE.with_(steps=10)))
    told: list[int] = []
    train(config, root=tmp_path, progress=lambda step, steps: told.append(step))
    assert told == [*range(1, 11), *range(1, 11)]
    train(config.with_(init="liu"), root=tmp_path, progress=lambda step, steps: told.append(step))
    assert len(told) == 30
    again = train(config, root=tmp_path, progress=lambda step, steps: told.append(step))
    assert len(told) == 30
    assert again.config == config


def test_a_parent_that_is_not_finished_is_named(tmp_path: Path, data: Dataset) -> None:
    parent = pruning_parent(BASE)
    with pytest.raises(FileNotFoundError, match=f"{parent.name} is no finished run, and another one starts from its"):
        at_start(BASE.with_(mask_from=parent), data, root=tmp_path)


@pytest.mark.parametrize("method", ["dense", "prune"])
def test_dense_and_pruning_runs_of_a_seed_start_alike(method: str, data: Dataset, tmp_path: Path) -> None:
    setup = at_start(BASE.with_(method=method), data, root=tmp_path)
    dense = at_start(BASE.with_(method="dense"), data, root=tmp_path).model
    assert all(torch.equal(a, b) for a, b in zip(setup.model.parameters(), dense.parameters(), strict=True))
    assert all(bool(mask.all()) for mask in setup.sparsifier.masks.values())


def test_small_dense_counts(tmp_path: Path) -> None:
    """Protocol E: 2336 weights and 63 biases."""
    config = BASE.with_(method="dense", model="lenet5-small", steps=1)
    run = train(config, root=tmp_path)
    shapes = [tensor.shape for tensor in final_state(config, root=tmp_path)["model"].values()]
    assert sum(math.prod(shape) for shape in shapes if len(shape) > 1) == 2336
    assert sum(math.prod(shape) for shape in shapes if len(shape) == 1) == 63
    assert run.final["sparsity"] == 0.0


# -- what is logged, and when ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("steps", "flow", "test", "updates"),
    [(25, [0, 10, 20, 25], [0, 15, 25], [7, 14, 21]), (30, [0, 10, 20, 30], [0, 15, 30], [7, 14, 21, 28])],
)
def test_metrics_are_logged_at_their_steps_and_once(
    steps: int, flow: list[int], test: list[int], updates: list[int], tmp_path: Path
) -> None:
    run = train(BASE.with_(method="set", steps=steps, log_every=10, eval_every=15, update_every=7), root=tmp_path)
    assert steps_of(run, "train/loss") == [step for step in flow if step < steps]
    for name in ("flow/norm", "flow/loss", "flow/norm/conv1.weight", "flow/norm/fc3.bias"):
        assert steps_of(run, name) == flow
    assert steps_of(run, "test/accuracy") == steps_of(run, "test/loss") == test
    for name in ("update/before", "update/after", "update/moved"):
        assert steps_of(run, name) == updates
    assert run.final["test/accuracy"] == value_of(run, "test/accuracy", steps)
    assert run.final["test/loss"] == value_of(run, "test/loss", steps)


def test_flow_at_an_update_is_that_right_after_it(tmp_path: Path) -> None:
    """Protocol A.0's timing: the log of step t sees the masks that the update of step t made. Bit for bit."""
    run = train(BASE.with_(method="rigl", steps=20), root=tmp_path)
    for step in (5, 10, 15, 20):
        assert value_of(run, "update/after", step) == value_of(run, "flow/norm", step)
    assert any(value_of(run, "update/before", s) != value_of(run, "update/after", s) for s in (5, 10, 15))


def test_flow_is_the_masked_gradient_on_val_1_without_l2(data: Dataset, tmp_path: Path) -> None:
    """By hand at step 0: autograd of the mean cross-entropy in float64, masked, one norm over kernels and biases."""
    config = BASE.with_(steps=1, weight_decay=10.0, seed=3)
    run = train(config, root=tmp_path)
    setup = at_start(config, data, root=tmp_path)
    model, (images, labels) = setup.model.double(), data.validation(1)
    loss = F.cross_entropy(model(images.double()), labels)
    loss.backward()
    squares = {
        name: float((p.grad * setup.sparsifier.masks.get(name, torch.ones(()))).square().sum())
        for name, p in model.named_parameters()
    }
    # float32 training against float64
    assert value_of(run, "flow/norm", 0) == pytest.approx(math.sqrt(sum(squares.values())), rel=1e-4)
    assert value_of(run, "flow/norm/fc1.weight", 0) == pytest.approx(math.sqrt(squares["fc1.weight"]), rel=1e-4)
    assert value_of(run, "flow/loss", 0) == pytest.approx(loss.item(), rel=1e-5)


def test_original_starts_at_the_floor_of_the_last_bias(data: Dataset, tmp_path: Path) -> None:
    """K.3: with logits near zero the norm is |uniform - class frequencies of val-1|; Ours starts far above it."""
    _, labels = data.validation(1)
    floor = float((labels.bincount(minlength=10) / len(labels) - 0.1).norm())
    flows = {}
    for init in ("dense", "sparse"):
        setup = at_start(BASE.with_(init=init), data, root=tmp_path)
        flows[init] = sf.gradient_flow(setup.model, F.cross_entropy, [data.validation(1)], setup.sparsifier.masks)
    # A hand estimate, as the protocol says: the logits are small, not zero, and the other tensors add a few per cent.
    assert flows["dense"].norm == pytest.approx(floor, rel=0.1)
    assert flows["dense"].per_layer["fc3.bias"] > 0.95 * flows["dense"].norm
    assert flows["sparse"].norm > 2 * floor


# -- collapse ---------------------------------------------------------------------------------------------------------


def test_constants_of_a_collapsed_mnist_run() -> None:
    """K.4: the best constant answer of MNIST is right for 1135 of 10,000 and costs the entropy of the prior, 2.301."""
    train_counts = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    test_counts = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    prior = torch.tensor(train_counts, dtype=torch.float64) / 60_000
    model = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
    with torch.no_grad():
        model[1].weight.zero_()
        model[1].bias.copy_(prior.log())
    found = {}
    for part, counts in (("train", train_counts), ("test", test_counts)):
        labels = torch.arange(10).repeat_interleave(torch.tensor(counts))
        images = torch.zeros(1, 1, 28, 28).expand(len(labels), -1, -1, -1)
        found[part] = evaluate(model, [(images, labels)])
    assert found["test"]["test/accuracy"] == 0.1135
    assert found["train"]["test/loss"] == pytest.approx(float(-(prior * prior.log()).sum()), abs=1e-6)
    assert round(found["train"]["test/loss"], 3) == 2.301


def test_a_dead_network_answers_one_class_at_the_entropy_of_the_prior(tmp_path: Path) -> None:
    """Of the balanced small set: one right in ten, and ln 10 nats. Original at 95 % gets there and stays."""
    run = train(BASE.with_(init="dense", steps=30, batch_size=64), root=tmp_path)
    assert run.final["test/accuracy"] == 0.1
    assert run.final["test/loss"] == pytest.approx(math.log(10), abs=2e-3)  # the last bias follows the batches
    assert run.final["sparsity"] == pytest.approx(0.95, abs=1e-4)


def test_evaluation_is_in_eval_mode_and_leaves_no_trace(data: Dataset) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Dropout(0.9), nn.Linear(784, 10)).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sparsifier = sf.Sparsifier(model, optimizer, sf.dense_masks(model), sf.Static(), seed=0)
    logits = Stepper(sparsifier, "auto").logits  # dropout is no layer of a plan
    images, labels = data.test_images[:30], data.test_labels[:30]
    parts = zip(images.split(7), labels.split(7), strict=True)
    assert evaluate(logits, [(images, labels)]) == pytest.approx(evaluate(logits, parts), rel=1e-5)
    assert model[1].training
    assert model[2].weight.grad is None


# -- mask updates ------------------------------------------------------------------------------------------------------


def watch(monkeypatch: pytest.MonkeyPatch, look: Callable[[Trainer, int, Mapping[str, sf.MaskUpdate]], None]) -> None:
    """Call ``look`` after every mask update of the runs that are trained from here on."""

    def watched(*arguments: Any, **options: Any) -> Trainer:
        setup = set_up(*arguments, **options)
        setup.sparsifier.after_update.append(lambda step, changes: look(setup, step, changes))
        return setup

    monkeypatch.setattr(train_module, "set_up", watched)


#: Methods whose own tests hold their counts: they have a schedule, a bound or one fan-in of their own.
OWN_COUNTS = {"scratch", "mest", "mest_soft", "srigl"}


@pytest.mark.parametrize("method", [name for name in starting("masked") if name not in OWN_COUNTS])
def test_updates_keep_counts_and_reset_what_is_new(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """K.8: counts unchanged by every update, new weights exactly 0, their momentum 0. K.6: the drop fraction."""
    moved: list[int] = []

    def look(setup: Trainer, step: int, changes: Mapping[str, sf.MaskUpdate]) -> None:
        fraction = 0.3 * (1 + math.cos(math.pi * step / 20)) / 2
        for name, change in changes.items():
            weight = setup.model.get_parameter(name)
            velocity = setup.optimizer.state[weight]["momentum_buffer"]
            assert int(change.mask.sum()) == active_count(weight.numel(), 0.95)
            assert int(change.grown.sum()) <= int(fraction * active_count(weight.numel(), 0.95) + 1e-6)
            assert not weight[change.grown | ~change.mask].any()
            assert not velocity[change.grown | ~change.mask].any()
        moved.append(sum(int(change.grown.sum()) for change in changes.values()))

    watch(monkeypatch, look)
    run = train(BASE.with_(method=method), root=tmp_path)
    assert moved == [value_of(run, "update/moved", step) for step in (5, 10, 15, 20)]
    assert moved[0] > 100
    assert moved[-1] == 0  # the cosine is at its end


@pytest.mark.parametrize("method", ["rigl", "rigl_inverted"])
def test_growth_looks_at_val_2_with_the_l2_term(method: str, data: Dataset, tmp_path: Path) -> None:
    """By hand: gradient of cross-entropy on val-2 plus wd * sum(w^2) over kernels, in one pass (protocol C.3)."""
    config = BASE.with_(method=method, weight_decay=0.02)
    setup = at_start(config, data, root=tmp_path)
    assert setup.sparsifier.gradient_fn is not None
    found = setup.sparsifier.gradient_fn()
    model, (images, labels) = setup.model, data.validation(2)
    penalty = sum(p.square().sum() for p in model.parameters() if p.dim() > 1)
    # In float32, too: in float64 max-pooling breaks ties of a plain background elsewhere.
    (F.cross_entropy(model(images), labels) + 0.02 * penalty).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        torch.testing.assert_close(found[name], parameter.grad)  # the default tolerance of float32: sums reordered


def test_rigl_grows_where_that_gradient_is_largest(
    tmp_path: Path, data: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the weights after the step and before the drop: no candidate left out has a larger gradient than one grown."""
    gradients: list[dict[str, Tensor]] = []
    seen: list[int] = []

    def watched(*arguments: Any, **options: Any) -> Trainer:
        setup = set_up(*arguments, **options)
        gradient_fn = setup.sparsifier.gradient_fn
        assert gradient_fn is not None
        setup.sparsifier.before_update.append(lambda step: gradients.append(dict(gradient_fn())))
        setup.sparsifier.after_update.append(look)
        return setup

    def look(step: int, changes: Mapping[str, sf.MaskUpdate]) -> None:
        for name, change in changes.items():
            size = gradients[-1][name].abs()
            left_out = ~change.mask
            if change.grown.any():
                assert size[change.grown].min() >= size[left_out].max()
                seen.append(step)

    monkeypatch.setattr(train_module, "set_up", watched)
    train(BASE.with_(method="rigl"), root=tmp_path)
    assert set(seen) == {5, 10, 15}


# -- errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"dataset": "letters"}, "there is no dataset 'letters'"), ({"model": "lenet6"}, "there is no model 'lenet6'")],
)
def test_what_cannot_be_set_up_leaves_no_folder(changes: dict[str, str], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        train(BASE.with_(**changes), root=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_folder_of_another_config_is_refused(tmp_path: Path) -> None:
    train(BASE.with_(steps=1, seed=1), root=tmp_path)
    other = BASE.with_(steps=1, seed=2)
    (tmp_path / BASE.with_(steps=1, seed=1).name).rename(tmp_path / other.name)
    with pytest.raises(ValueError, match="holds a run of another config"):
        train(other, root=tmp_path)


def test_a_run_that_blows_up_says_so(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"NaN or infinite\. Lower the learning rate"):
        train(BASE.with_(method="rigl", learning_rate=1e30, steps=10), root=tmp_path)
