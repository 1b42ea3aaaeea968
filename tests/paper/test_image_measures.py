"""Measurements of image runs: two tickets and a scratch run that are trained here, against direct computation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from sparseflow.analysis.recalibrate import recalibrate_
from sparseflow.networks import build_network
from sparseflow.paper.matrix.cifar import RESNET_BASE
from sparseflow.paper.measures.functions import functions
from sparseflow.paper.measures.landscape import distances, embedding, path
from sparseflow.paper.measures.measurement import Measurement
from sparseflow.paper.measures.source import Source
from sparseflow.training.config import pruning_parent
from sparseflow.training.run import train
from sparseflow.training.runs import read_snapshot

BASE = RESNET_BASE.with_(
    width=1 / 16, sparsity=0.5, steps=6, batch_size=8, micro_batch=8, update_every=1, prune_begin=1, prune_end=4,
    log_every=6, probe_images=8, eval_every=6, learning_rate=0.02,
)  # fmt: skip
PARENT = pruning_parent(BASE.with_(rewind_step=2))
ON = BASE.with_(mask_from=PARENT)
TICKETS = tuple(ON.with_(method="lottery", rewind_step=2, seed=seed) for seed in (100, 101))
EARLY = ON.with_(method="lottery", seed=100)
SCRATCH = ON.with_(method="scratch", init="dense", seed=100)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    """Runs on pictures of a colour each, ten classes, training and test."""
    data, root = tmp_path_factory.mktemp("data"), tmp_path_factory.mktemp("runs")
    noise = np.random.default_rng(0)
    for split, count in (("train", 40), ("test", 20)):
        for number in range(count):
            folder = data / split / f"class{number % 10}"
            folder.mkdir(parents=True, exist_ok=True)
            pixels = noise.integers(0, 120, (32, 32, 3), dtype=np.uint8)
            pixels[..., number % 3] += np.uint8(13 * (number % 10))
            Image.fromarray(pixels).save(folder / f"{number}.png")
    for run in (*TICKETS, EARLY, SCRATCH):
        train(run, root=root, data_root=data)
    return Source(root, data)


def network(state: dict[str, Tensor]) -> nn.Module:
    """Torch's, in eval mode."""
    model = build_network("resnet14", generator=torch.Generator(), num_classes=10, width=BASE.width, stem="cifar")
    model.load_state_dict(state)
    return model.eval()


def kernels(state: dict[str, Tensor]) -> Tensor:
    """All weights and biases, in any order; batch norms have names of their own."""
    names = [name for name, _ in network(state).named_parameters() if ".norm" not in f".{name}"]
    return torch.cat([state[name].double().flatten() for name in names])


@pytest.mark.parametrize("start", ["init", "solution"])
def test_a_path_s_ends_have_their_statistics_estimated_anew(start: str, source: Source) -> None:
    """At both ends the loss is that of the network whose batch norms saw the training images."""
    run = TICKETS[0]
    found = path(source, (run,), start=start, examples=24, recalibrated_by=16, points=5)
    points = found["paths"].set_index("alpha")["loss"]
    assert points.index.to_list() == [0, 0.25, 0.5, 0.75, 1]
    begin = read_snapshot(PARENT, 2, root=source.root)["model"] if start == "init" else source.end(run)
    masks = source.end_masks(run)
    begin = {name: value * masks[name] if name in masks else value for name, value in begin.items()}
    batches, few = (list(source.training_batches(run, count)) for count in (24, 16))
    assert [sum(len(labels) for _, labels in some) for some in (batches, few)] == [24, 16]
    for alpha, state in ((0.0, begin), (1.0, source.end(PARENT))):
        model = recalibrate_(network(state), few)
        with torch.no_grad():
            loss = sum(float(F.cross_entropy(model(x), y, reduction="sum")) for x, y in batches) / 24
        assert points[alpha] == pytest.approx(loss, rel=1e-4)
    assert found["barriers"]["barrier"][0] >= 0


def test_distances_are_of_weights_and_not_of_batch_norms(source: Source) -> None:
    """Protocol I.1; running statistics are no weights, and scales are longer than all kernels together."""
    table = distances(source, TICKETS)["distances"]
    assert table["seed"].to_list() == [100, 101]
    target = kernels(source.end(PARENT))
    for row, run in zip(table.to_dict("records"), TICKETS, strict=True):
        assert row["final"] == pytest.approx(float((kernels(source.end(run)) - target).norm()))
        assert row["prune_seed"] == 0
    assert table["init"][0] == table["init"][1]  # one ticket, two orders of the data


def test_the_map_tells_tickets_apart_that_start_elsewhere(source: Source) -> None:
    """Two tickets of step 2 start together; that of step 0 starts elsewhere."""
    table = embedding(source, (*TICKETS, EARLY, SCRATCH))["mds"]
    assert sorted(table["kind"]) == [
        "lottery-end", "lottery-end", "lottery-k0-end", "lottery-k0-start", "lottery-start", "prune-end",
        "scratch-end", "scratch-start",
    ]  # fmt: skip


def test_functions_answer_all_test_images(source: Source) -> None:
    """Disagreement, counted; accuracy as the run itself logged it."""
    found = functions(source, (*TICKETS, PARENT), reference=0, draws=0)
    images = torch.cat([x for x, _ in source.test_batches(BASE)])
    assert len(images) == 20
    with torch.no_grad():
        first, second, pruned = (network(source.end(run))(images).argmax(1) for run in (*TICKETS, PARENT))
    assert found["function_pairs"]["disagreement"].to_list() == [float((first != second).double().mean())]
    told = found["function_reference"]
    assert told["disagreement"].to_list() == [float((one != pruned).double().mean()) for one in (first, second)]
    logged = [train(run, root=source.root).final["test/accuracy"] for run in TICKETS]
    assert told["accuracy"].to_list() == pytest.approx([100 * one for one in logged])


def test_a_measurement_of_image_runs_is_stored_and_read(source: Source) -> None:
    labels = (("group", "resnet14/lottery"), ("mask", 0))
    one = Measurement("distances", TICKETS, labels=labels, data_root=source.data_root)
    assert [task.config for task in one.needs] == list(TICKETS)
    one.work(source.root, lambda done: None)
    table = one.read(source.root)["distances"]
    assert table["group"].to_list() == ["resnet14/lottery"] * 2
    assert table["mask"].to_list() == [0, 0]
