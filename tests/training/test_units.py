"""The units that a run counts: by hand at its start, from its own weights at its end, and without a trace."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from noise_images import noise_images
from sparseflow.analysis import DeadUnits, dead_units
from sparseflow.data.digits import Dataset, load_dataset
from sparseflow.training import probes
from sparseflow.training.config import pruning_parent
from sparseflow.training.digits import DigitRun
from sparseflow.training.images import ImageRun
from sparseflow.training.run import train
from sparseflow.training.runs import METRICS, Run, final_state, load_runs
from sparseflow.training.setup import dense_network, set_up
from sparseflow.training.units import unit_count, unit_counts
from sparseflow.types import Masks
from starts import at_start

RUN = DigitRun(
    dataset="mnist-5k", method="set", batch_size=16, steps=10, update_every=5, log_every=5, eval_every=10,
    checkpoint_every=5,
)  # fmt: skip
KINDS = ("all", "live", "never_fire", "no_gradient", "no_path_in", "no_path_out")
GOLDEN = Path(__file__).parent.parent / "golden"


@pytest.fixture(scope="module")
def data() -> Dataset:
    return load_dataset("mnist-5k")


def counted(run: Run, layer: str, *, at_end: bool = False) -> dict[str, float]:
    return {which: unit_count(run, which, layer, at_end=at_end) for which in KINDS}


@pytest.mark.parametrize("seed", range(4))
def test_first_filters_at_the_start(seed: int, data: Dataset, tmp_path: Path) -> None:
    """Oracle: a convolution in float64.

    Pixels are not negative and biases zero, so a filter without a positive weight never fires, and one with a positive
    weight fires at the border of a digit.
    """
    run = train(RUN.with_(seed=seed, steps=1), root=tmp_path)
    model = at_start(run.config, data, root=tmp_path).model
    filters = model.conv1.weight.detach().double()
    fires = (F.conv2d(data.validation(1)[0][:256].double(), filters, padding=2) > 0).any(0).flatten(1).any(1)
    assert fires.tolist() == (filters.flatten(1) > 0).any(1).tolist()
    found = counted(run, "conv1")
    assert found["all"] == 6
    assert found["never_fire"] == 6 - int(fires.sum())
    assert found["no_path_in"] == int((filters == 0).flatten(1).all(1).sum())
    assert found["no_gradient"] >= found["never_fire"]
    assert found["live"] <= int(fires.sum())


def test_the_end_is_that_of_the_final_weights(data: Dataset, tmp_path: Path) -> None:
    run = train(RUN, root=tmp_path)
    state = final_state(run.config, root=tmp_path)
    model = dense_network(run.config)
    model.load_state_dict(state["model"])
    images, labels = data.validation(1)
    for layer, units in dead_units(model, [(images[:256], labels[:256])], state["masks"]).items():
        lists = (units.never_fire, units.no_gradient, units.no_path_in, units.no_path_out)
        expected = [units.units, units.units - len(set().union(*lists)), *map(len, lists)]
        assert list(counted(run, layer, at_end=True).values()) == expected
    assert {
        step for step, name in zip(run.metrics.step, run.metrics.name, strict=True) if name.startswith("units/")
    } == {0, 10}


@pytest.mark.parametrize("engine", ["sparse", "masked"])
def test_counting_changes_no_bit(engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: the same run without it."""
    run = RUN.with_(engine=engine)
    seen = train(run, root=tmp_path / "seen")
    monkeypatch.setattr(probes, "unit_counts", lambda *arguments: {})
    blind = train(run, root=tmp_path / "blind")
    rows = [row for row in (seen.folder / METRICS).read_text().splitlines() if "units/" not in json.loads(row)["name"]]
    assert rows == (blind.folder / METRICS).read_text().splitlines()
    one, two = (final_state(run, root=tmp_path / name) for name in ("seen", "blind"))
    for part in ("model", "masks"):
        assert all(torch.equal(tensor, two[part][name]) for name, tensor in one[part].items())


def test_a_run_that_goes_on_counts_once(tmp_path: Path) -> None:
    def stop(step: int, steps: int) -> None:
        if step == 7:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        train(RUN, root=tmp_path, progress=stop)
    rows = train(RUN, root=tmp_path).metrics
    assert rows[rows["name"] == "units/all/conv1"].step.tolist() == [0, 10]


@pytest.mark.parametrize("version", sorted(path.name for path in GOLDEN.iterdir()))
def test_older_runs_have_no_counts(version: str) -> None:
    for run in load_runs(GOLDEN / version / "runs"):
        assert math.isnan(unit_count(run, "live", "conv1"))
        assert math.isnan(unit_count(run, "live", "conv1", at_end=True))


@pytest.mark.parametrize("network", ["vgg16", "resnet14"])
def test_images(network: str, tmp_path: Path) -> None:
    """Every layer at both ends. The last gamma of a residual block starts at zero, which silences the block."""
    run = ImageRun(
        dataset="cifar10", network=network, width=1 / 8, stem="cifar", num_classes=10, image_size=32, sparsity=0.5,
        method="scratch", steps=2, batch_size=8, micro_batch=8, learning_rate=0.01, probe_images=6,
    )  # fmt: skip
    found = train(run, root=tmp_path, data_root=noise_images(tmp_path / "images"))
    masks = final_state(run, root=tmp_path)["masks"]
    weights = {name: weight for name, weight in dense_network(run).state_dict().items() if weight.dim() > 1}
    for name, weight in weights.items():
        number = len(weight)
        for at_end in (False, True):
            counts = counted(found, name.removesuffix(".weight"), at_end=at_end)
            assert counts["all"] == number
            if name in masks:
                assert counts["no_path_in"] >= int((~masks[name].flatten(1).any(1)).sum())
            assert counts["live"] <= number
            silent = network == "resnet14" and ".residual." in name and not at_end
            assert (counts["live"] == 0) == silent


def test_few_large_images_are_looked_at(data: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """At most 256 images and 2**22 numbers, 2**20 at once: 27 images of 3x224x224, six at a time."""
    looked: list[int] = []

    def look(model: nn.Module, batches: list[tuple[Tensor, Tensor]], masks: Masks) -> dict[str, DeadUnits]:
        looked.extend(len(labels) for _, labels in batches)
        return {}

    monkeypatch.setattr("sparseflow.training.units.dead_units", look)
    trainer = at_start(RUN, data, root=Path())
    unit_counts(RUN, trainer, [(torch.zeros(64, 3, 224, 224), torch.zeros(64))])
    assert looked == [6, 6, 6, 6, 3]
    looked.clear()
    unit_counts(RUN, trainer, [data.validation(1)])
    assert looked == [256]


def test_a_run_that_blew_up_ends(tmp_path: Path) -> None:
    run = train(RUN.with_(method="scratch", learning_rate=1e30, engine="masked"), root=tmp_path)
    assert math.isnan(run.final["test/loss"])
    assert unit_count(run, "all", "conv1", at_end=True) == 6


# --- starts that are changed ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("control", ["repaired", "killed"])
def test_controls_turn_whole_first_filters(control: str, seed: int, data: Dataset) -> None:
    """By hand: those without a positive weight are negated, or all weights of one with some become negative."""
    run = RUN.with_(method="scratch", seed=seed)
    plain, changed = (at_start(one, data, root=Path()).model for one in (run, run.with_(control=control)))
    for name, before in plain.state_dict().items():
        after = changed.state_dict()[name]
        assert torch.equal(after.abs(), before.abs())
        assert torch.equal(after, before) or name == "conv1.weight"
    before, after = (model.conv1.weight.detach().flatten(1) for model in (plain, changed))
    live = (before > 0).any(1)
    assert live.any()
    if control == "repaired":
        assert torch.equal(after, torch.where(live[:, None], before, -before))
        assert torch.equal((after > 0).any(1), (before != 0).any(1))
    else:
        silenced = live & ~(after > 0).any(1)
        assert int(silenced.sum()) == 1
        assert torch.equal(after, torch.where(silenced[:, None], -before.abs(), before))


@pytest.mark.parametrize("init", ["dense", "liu", "sparse"])
def test_avoid_dead_leaves_none_that_something_reaches(init: str, data: Dataset) -> None:
    run = RUN.with_(init=init, seed=2)
    plain, awake = (at_start(one, data, root=Path()).sparsifier for one in (run, run.with_(avoid_dead=True)))
    silent = [
        sum(len(set(units.never_fire) - set(units.no_path_in)) for units in found)
        for found in (
            list(dead_units(one.model, [data.validation(2)], one.masks).values())[:-1] for one in (plain, awake)
        )
    ]
    assert silent[0] > 5
    assert silent[1] == 0


def test_what_avoid_dead_needs(data: Dataset) -> None:
    with pytest.raises(ValueError, match="avoid_dead is for weights that are drawn for masks; 'dense' draws none"):
        RUN.with_(method="dense", avoid_dead=True)
    with pytest.raises(ValueError, match=r"avoid_dead looks at training images: give growth=data\.growth"):
        set_up(RUN.with_(avoid_dead=True))
    run = RUN.with_(steps=7000)
    assert pruning_parent(run.with_(avoid_dead=True)) == pruning_parent(run)
    assert pruning_parent(run.with_(control="killed")) == pruning_parent(run)
