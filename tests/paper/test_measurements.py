"""Measurements on real short runs: each number against a second way to get it, and storing and reading them."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from sparseflow.data.digits import Dataset, load_dataset
from sparseflow.paper.measures.functions import functions
from sparseflow.paper.measures.landscape import distances, embedding, path
from sparseflow.paper.measures.masks import masks
from sparseflow.paper.measures.measurement import FOLDER, Measurement, read_tables
from sparseflow.paper.measures.source import Source, network
from sparseflow.paper.measures.spectra import spectrum
from sparseflow.training.config import pruning_parent
from sparseflow.training.digits import DigitRun
from sparseflow.training.run import train
from sparseflow.training.runs import final_state, read_snapshot
from sparseflow.training.setup import dense_network
from starts import at_start

BASE = DigitRun(
    dataset="mnist-5k",
    batch_size=64,
    steps=60,
    update_every=20,
    prune_begin=10,
    prune_end=30,
    prune_every=5,
    log_every=30,
    eval_every=60,
    checkpoint_every=60,
)
PARENT = pruning_parent(BASE)
TICKETS = tuple(BASE.with_(method="lottery", mask_from=PARENT, seed=seed) for seed in (100, 101))
SCRATCH = tuple(BASE.with_(init="sparse", mask_from=PARENT, seed=seed) for seed in (100, 101))
MOVING = BASE.with_(method="rigl", mask_from=PARENT, snapshots=(20,))


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    """Where the runs are that all tests share."""
    root = tmp_path_factory.mktemp("runs")
    for config in (*TICKETS, *SCRATCH, MOVING):
        train(config, root=root)
    return Source(root, None)


@pytest.fixture(scope="module")
def data() -> Dataset:
    return load_dataset("mnist-5k")


def logits(config: DigitRun, source: Source, images: Tensor) -> Tensor:
    """Dense, by torch."""
    model = dense_network(config)
    model.load_state_dict(final_state(config, root=source.root)["model"])
    with torch.no_grad():
        found: Tensor = model(images)
    return found


@pytest.mark.parametrize("start", ["init", "solution"])
def test_a_path_s_ends_are_the_losses_of_both_ends(start: str, source: Source, data: Dataset) -> None:
    """Protocol K.7, against a dense forward pass over all training images."""
    config = TICKETS[0]
    found = path(source, (config,), start=start)
    points = found["paths"].set_index("alpha")["loss"]
    assert len(points) == 29
    begin = at_start(config, data, root=source.root).model
    if start == "solution":
        begin.load_state_dict(final_state(config, root=source.root)["model"])
    with torch.no_grad():
        first = float(F.cross_entropy(begin(data.train_images), data.train_labels))
    last = float(F.cross_entropy(logits(PARENT, source, data.train_images), data.train_labels))
    assert points[0.0] == pytest.approx(first, rel=1e-5)
    assert points[1.0] == pytest.approx(last, rel=1e-5)
    inside = points[(points.index >= 0) & (points.index <= 1)]
    excess = inside - ((1 - inside.index) * first + inside.index * last)
    (summary,) = found["barriers"].to_dict("records")
    assert summary["barrier"] == pytest.approx(max(0.0, excess.max()), abs=1e-5)


def test_distances_are_norms_of_differences(source: Source, data: Dataset) -> None:
    table = distances(source, TICKETS)["distances"]
    target = final_state(PARENT, root=source.root)["model"]
    for row, config in zip(table.to_dict("records"), TICKETS, strict=True):
        end = final_state(config, root=source.root)["model"]
        squared = sum(float((end[name] - target[name]).double().square().sum()) for name in end)
        assert row["final"] == pytest.approx(math.sqrt(squared))
        start = at_start(config, data, root=source.root).model.state_dict()
        squared = sum(float((start[name] - target[name]).double().square().sum()) for name in start)
        assert row["init"] == pytest.approx(math.sqrt(squared))
    assert table["init"].nunique() == 1  # one start, two orders of the data
    assert table["final"].nunique() == 2


def test_the_map_has_every_point_once(source: Source) -> None:
    found = embedding(source, (*TICKETS, *SCRATCH))["mds"]
    assert found["kind"].value_counts().to_dict() == {
        "lottery-end": 2, "scratch-start": 2, "scratch-end": 2, "lottery-start": 1, "prune-end": 1,
    }  # fmt: skip
    assert found["stress"].nunique() == 1
    assert 0 <= found["stress"].iloc[0] < 0.5


def test_functions_are_compared_on_the_test_set(source: Source, data: Dataset) -> None:
    found = functions(source, (*SCRATCH, PARENT), reference=0, draws=0)
    one, two, pruned = (logits(config, source, data.test_images) for config in (*SCRATCH, PARENT))
    (pair,) = found["function_pairs"].to_dict("records")
    assert pair["disagreement"] == pytest.approx(float((one.argmax(1) != two.argmax(1)).double().mean()), abs=1e-3)
    log_p, log_q = one.double().log_softmax(1), two.double().log_softmax(1)
    assert pair["kl_ab"] == pytest.approx(float((log_p.exp() * (log_p - log_q)).sum(1).mean()), rel=1e-4)
    against = found["function_reference"].to_dict("records")[0]
    assert against["accuracy"] == pytest.approx(100 * float((one.argmax(1) == data.test_labels).double().mean()))
    assert against["disagreement"] == pytest.approx(
        float((one.argmax(1) != pruned.argmax(1)).double().mean()), abs=1e-3
    )
    ensembles = found["function_ensembles"]
    together = (one.softmax(1) + two.softmax(1)).argmax(1)
    assert ensembles["probabilities"].iloc[0] == pytest.approx(
        100 * float((together == data.test_labels).double().mean()), abs=0.1
    )
    assert ensembles["members"].tolist() == [2, 1, 1]  # the first, then without each


def test_the_reference_is_not_compared_with_itself(source: Source) -> None:
    found = functions(source, (PARENT, TICKETS[0], PARENT), reference=1, draws=0)
    assert found["function_reference"]["seed"].tolist() == [100]


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_spectrum_is_of_the_masks_of_its_moment(moment: str, source: Source, data: Dataset) -> None:
    """Trace and gradient against autograd: the diagonal over a few weights, by second derivatives of the loss."""
    table = spectrum(source, (MOVING,), step=20, moment=moment, examples=50)
    (row,) = table["spectra"].to_dict("records")
    values = torch.tensor(table["eigenvalues"]["eigenvalue"].to_numpy())
    assert row["parameters"] == len(values) == 2210 + 236
    assert row["largest"] == float(values.max())
    assert row["trace"] == pytest.approx(float(values.sum()))
    state = read_snapshot(MOVING, 20, root=source.root, before_update=moment == "before")
    model = dense_network(MOVING).double()
    model.load_state_dict(state["model"])
    ((images, labels),) = source.training_batches(MOVING, 50)
    parameters = list(model.parameters())
    loss = F.cross_entropy(model(images.double()), labels)
    gradients = torch.autograd.grad(loss, parameters, create_graph=True)
    masked = [
        gradient * state["masks"][name] if name in state["masks"] else gradient
        for (name, _), gradient in zip(model.named_parameters(), gradients, strict=True)
    ]
    direction = [gradient.detach() for gradient in masked]
    product = torch.autograd.grad(masked, parameters, grad_outputs=direction)
    squared = sum(float(g.square().sum()) for g in direction)
    curvature = sum(float((g * h).sum()) for g, h in zip(direction, product, strict=True)) / squared
    assert row["rayleigh"] == pytest.approx(curvature, rel=1e-6)


def test_masks_of_pruning_beside_random_ones(source: Source) -> None:
    found = masks(source, (PARENT,))
    spread = found["mask_uniformity"]
    assert spread["masks"].value_counts().to_dict() == {"pruned": 5, "random": 5}
    pruned = final_state(PARENT, root=source.root)["masks"]["fc1.weight"]
    fans = pruned.sum(1).double()
    (row,) = spread[(spread["masks"] == "pruned") & (spread["layer"] == "fc1")].to_dict("records")
    assert row["fan_in_cv"] == pytest.approx(float(fans.std(correction=0) / fans.mean()))
    assert (row["dead_units"], row["units"]) == (int((fans == 0).sum()), 120)
    levels = found["pruned_signal"].set_index(["inputs", "masks", "scheme", "base"])["logit_std"].sort_index()
    for inputs in ("noise", "images"):
        random = levels[inputs, "random"]
        assert random["sparse", "kaiming_normal"] > 50 * random["dense", "kaiming_normal"]


def test_the_fast_network_follows_its_weights(source: Source, data: Dataset) -> None:
    config = TICKETS[0]
    model = network(config, source.end_masks(config))
    images = data.test_images[:64]
    for state in (source.start(config), source.end(config)):
        model.load_state_dict(state)
        dense = dense_network(config)
        dense.load_state_dict(state)
        torch.testing.assert_close(model(images), dense(images).detach(), rtol=1e-4, atol=1e-5)


def test_a_measurement_is_stored_whole_and_read_with_its_labels(source: Source) -> None:
    one = Measurement("distances", TICKETS, (), (("setting", "tickets"), ("group", "tickets/lottery")), size=10)
    told: list[int] = []
    assert not one.is_done(source.root)
    one.work(source.root, told.append)
    assert told[-1] == 10
    assert one.is_done(source.root)
    assert [path.name for path in (source.root / FOLDER).iterdir()] == [f"{one.name}.json"]
    other = Measurement("distances", SCRATCH, (), (("setting", "tickets"), ("group", "tickets/scratch")))
    tables = read_tables([one, other], root=source.root)
    assert list(tables) == ["distances"]  # what is not done is left out
    table = tables["distances"]
    assert set(table["group"]) == {"tickets/lottery"}
    assert table["seed"].tolist() == [100, 101]
    pd.testing.assert_series_equal(table["final"], distances(source, TICKETS)["distances"]["final"])


def test_a_damaged_measurement_says_what_to_delete(tmp_path: Path) -> None:
    one = Measurement("masks", (PARENT,))
    one.path(tmp_path).parent.mkdir()
    one.path(tmp_path).write_text(json.dumps({"masks": {}})[:-3])
    with pytest.raises(ValueError, match=rf"{one.name}\.json is damaged .*Delete it and type the same command again"):
        one.read(tmp_path)


def test_a_run_without_a_pruning_run_has_no_path(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has no pruning run, so there is no solution to compare it with"):
        distances(Source(tmp_path, None), (BASE,))
