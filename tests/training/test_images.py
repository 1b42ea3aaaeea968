"""Image runs in the store: trained once, tickets from pruning runs, both engines, the command and its errors."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from noise_images import noise_images
from processes import run_ranks
from sparseflow.cli.main import main
from sparseflow.cli.options import parsed
from sparseflow.cli.start import complete
from sparseflow.cli.train_images import TrainImages
from sparseflow.engine.convert import sparse_layers
from sparseflow.engine.files.export import load, load_state
from sparseflow.lab.page.groups import check_comparable
from sparseflow.masks.make import sparsity_of
from sparseflow.training.config import pruning_parent
from sparseflow.training.datasets import load_images
from sparseflow.training.images import ImageRun, rescaled, usual_run
from sparseflow.training.ranks import Ranks
from sparseflow.training.run import start_of, train
from sparseflow.training.runs import Run, final_state, load_run, read_snapshot
from sparseflow.training.setup import dense_network
from sparseflow.training.streams import ImageData
from sparseflow.types import OnEveryRankError

RUN = ImageRun(
    dataset="cifar10", network="vgg16", width=1 / 16, stem="cifar", num_classes=10, image_size=32, sparsity=0.5,
    steps=6, batch_size=8, micro_batch=4, update_every=2, update_until=4, learning_rate=0.05, prune_begin=1,
    prune_end=3, log_every=1, probe_images=6, eval_every=3, label_smoothing=0.0,
)  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return noise_images(tmp_path_factory.mktemp("cifar"))


def losses(run: ImageRun, root: Path, data: Path) -> list[float]:
    metrics = train(run, root=root, data_root=data).metrics
    return metrics.loc[metrics["name"] == "train/loss", "value"].tolist()


def test_every_field_is_in_the_name() -> None:
    """Two runs that differ in any field are two runs; the fields left out change another as well."""
    other: dict[str, Any] = {
        "dataset": "imagenet", "network": "resnet50", "width": 0.5, "stem": "imagenet", "num_classes": 11,
        "image_size": 64, "method": "rigl_inverted", "init": "liu", "sparsity": 0.6, "seed": 1, "steps": 7,
        "batch_size": 16, "micro_batch": 2, "learning_rate": 0.1, "momentum": 0.5, "weight_decay": 0.0,
        "label_smoothing": 0.1, "drop_fraction": 0.1, "update_every": 3, "update_until": 5, "prune_begin": 2,
        "prune_end": 4, "updates": "authors", "precision": "bfloat16", "channels_last": True, "compiled": True,
        "engine": "auto", "log_every": 2, "probe_images": 7, "eval_every": 4, "checkpoint_every": 5,
        "allocation": "uniform", "snapshots": (2,), "block": "4x1", "mask_from": pruning_parent(RUN), "rewind_step": 2,
        "holdout": 5,
    }  # fmt: skip
    assert set(other) == {field.name for field in fields(ImageRun)}
    kept = pruning_parent(RUN.with_(rewind_step=2))
    runs = [RUN, *(RUN.with_(**{name: value}) for name, value in other.items() if name != "rewind_step")]
    runs += [RUN.with_(method="lottery", mask_from=kept, rewind_step=step) for step in (0, 2)]
    assert len({run.name for run in runs}) == len(runs)
    assert all(ImageRun.from_dict(run.to_dict()) == run for run in runs)


def test_held_out_images_are_measured_and_not_trained_on(data: Path, tmp_path: Path) -> None:
    """15 of 40: with the rest in batches of 25 every step sees all of these, and the runs see different images."""
    held = train(RUN.with_(holdout=15, steps=2), root=tmp_path, data_root=data)
    assert held.final["holdout/accuracy"] in [number / 15 for number in range(16)]
    assert held.final["holdout/loss"] > 0
    assert "holdout/accuracy" not in train(RUN.with_(steps=2), root=tmp_path, data_root=data).final
    assert RUN.hash == RUN.with_(holdout=0).hash
    training, test = load_images(RUN, root=data)
    one_batch = RUN.with_(holdout=15, batch_size=25, micro_batch=25)
    stream = ImageData(one_batch, training, test)
    labels = next(stream.training()).parts()[0][1]
    tested = {name: torch.cat([found for _, found in batches]) for name, batches in stream.tests().items()}
    assert {name: len(found) for name, found in tested.items()} == {"test": 20, "holdout": 15}
    every = torch.bincount(torch.cat([labels, tested["holdout"]]), minlength=10)
    assert every.tolist() == [4] * 10
    with pytest.raises(ValueError, match="holdout must be at most half of the 40 training images, got 21"):
        train(RUN.with_(holdout=21), root=tmp_path, data_root=data)
    with pytest.raises(ValueError, match="holdout is for images of 32x32"):
        RUN.with_(holdout=1, stem="imagenet")


def test_a_run_is_trained_once(data: Path, tmp_path: Path) -> None:
    steps: list[int] = []
    first = train(RUN, root=tmp_path, data_root=data, progress=lambda step, steps_: steps.append(step))
    again = train(RUN, root=tmp_path, data_root=None, progress=lambda step, steps_: steps.append(step))
    assert steps == [1, 2, 3, 4, 5, 6]
    assert again.final == first.final == load_run(tmp_path / RUN.name).final
    assert set(first.final) == {"test/accuracy", "test/loss", "sparsity"}
    assert first.config == RUN
    logged = first.metrics.groupby("name")["step"].apply(list).to_dict()
    assert logged["train/loss"] == logged["flow/norm"] == [0, 1, 2, 3, 4, 5]
    assert logged["update/before"] == logged["update/after"] == [2, 4]
    assert logged["test/accuracy"] == [3, 6]
    state = read_snapshot(RUN, 6, root=tmp_path)
    assert all(bool((state["model"][name][~mask] == 0).all()) for name, mask in state["masks"].items())


@pytest.mark.parametrize("engine", ["masked", "sparse"])
def test_a_run_that_was_stopped_continues(engine: str, data: Path, tmp_path: Path) -> None:
    """Oracle: a run that was not. Stopped after step 5 of 6, with checkpoints every 2."""
    run = RUN.with_(checkpoint_every=2, engine=engine, eval_every=1, log_every=3)
    whole = train(run, root=tmp_path / "whole", data_root=data)

    def stop(step: int, steps: int) -> None:
        if step == 5:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        train(run, root=tmp_path, data_root=data, progress=stop)
    steps: list[int] = []
    found = train(run, root=tmp_path, data_root=data, progress=lambda step, steps_: steps.append(step))
    assert steps == [5, 6]
    assert found.metrics.equals(whole.metrics)
    assert found.final == whole.final
    ends = [read_snapshot(run, 6, root=root)["model"] for root in (tmp_path, tmp_path / "whole")]
    assert all(torch.equal(value, ends[1][name]) for name, value in ends[0].items())


@pytest.mark.parametrize("network", ["vgg16", "resnet14", "resnet20"])
def test_the_engine_trains_the_same_run(network: str, data: Path, tmp_path: Path) -> None:
    """Oracle: torch on masked weights. Steps between updates are the plan's, but for those that are logged."""
    base = RUN.with_(
        network=network, steps=12, log_every=4, update_every=6, update_until=6, batch_size=64, micro_batch=64
    )
    found = {engine: losses(base.with_(engine=engine), tmp_path, data) for engine in ("masked", "sparse")}
    assert found["sparse"] == pytest.approx(found["masked"], rel=1e-4)
    ends = [read_snapshot(base.with_(engine=engine), 12, root=tmp_path) for engine in ("masked", "sparse")]
    assert all(torch.equal(mask, ends[1]["masks"][name]) for name, mask in ends[0]["masks"].items())
    for name, tensor in ends[0]["model"].items():
        torch.testing.assert_close(ends[1]["model"][name], tensor, rtol=1e-2, atol=1e-3)
    with pytest.raises(ValueError, match=r"does not go with smoothed labels \(give label_smoothing=0\)"):
        train(base.with_(engine="sparse", label_smoothing=0.1), root=tmp_path, data_root=data)
    if network != "vgg16":
        with pytest.raises(ValueError, match=r"batch norm over micro-batches \(give micro_batch=batch_size"):
            train(base.with_(engine="sparse", micro_batch=32), root=tmp_path, data_root=data)


@pytest.mark.parametrize("network", ["vgg16", "resnet14", "resnet20"])
def test_tickets_start_where_they_say(network: str, data: Path, tmp_path: Path) -> None:
    base = RUN.with_(network=network, update_every=1)
    parent = pruning_parent(base.with_(rewind_step=2, mask_from=None))
    late = base.with_(method="lottery", mask_from=parent, rewind_step=2, seed=7)
    runs = {
        "late": late,
        "original": late.with_(rewind_step=0),
        "restart": late.with_(rewind_step=0, method="restart"),
        "scratch": late.with_(rewind_step=0, method="scratch", init="dense"),
    }
    for run in (parent, *runs.values()):
        train(run, root=tmp_path, data_root=data)
    end = read_snapshot(parent, parent.steps, root=tmp_path)
    assert sparsity_of(end["masks"]) == pytest.approx(0.5, abs=0.02)
    weights = {name: start_of(run, root=tmp_path) for name, run in runs.items()}
    for start in weights.values():
        assert start is not None
        assert all(torch.equal(mask, end["masks"][name]) for name, mask in start.masks.items())
    expected = {
        "late": read_snapshot(parent, 2, root=tmp_path)["model"],
        "original": dense_network(parent).state_dict(),
        "restart": end["model"],
    }
    for name, state in expected.items():
        start = weights[name]
        assert start is not None
        assert start.weights is not None
        assert all(torch.equal(value, start.weights[key]) for key, value in state.items())
    assert weights["scratch"] is not None
    assert weights["scratch"].weights is None
    finals = [read_snapshot(run, 6, root=tmp_path)["masks"] for run in runs.values()]
    assert all(torch.equal(mask, end["masks"][key]) for masks in finals for key, mask in masks.items())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "lottery"}, "lottery starts from a pruning run: give mask_from"),
        ({"mask_from": RUN}, "mask_from must be a run of method 'prune', got 'rigl'"),
        ({"method": "dense", "mask_from": pruning_parent(RUN)}, "method 'dense' starts from no mask"),
        ({"mask_from": pruning_parent(RUN), "width": 1 / 8}, "a run of the same width: it has 0.0625, this run 0.125"),
        ({"mask_from": pruning_parent(RUN), "rewind_step": 3}, "rewind_step 3 was not kept by the pruning run"),
        ({"snapshots": (7,)}, r"snapshots must be steps from 0 to 6, got \[7\]"),
        ({"engine": "fast"}, "engine must be one of auto, sparse, masked"),
        ({"log_every": 0}, "log_every must be at least 1"),
    ],
)
def test_runs_that_cannot_be(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RUN.with_(**changes)


def test_data_that_does_not_fit(data: Path, tmp_path: Path) -> None:
    for changes, message in (
        ({"dataset": "svhn"}, "dataset must be one of imagenet, imagenet-sample, cifar10"),
        ({"num_classes": 100}, "cifar10 has 10 classes, the run 100"),
    ):
        with pytest.raises(ValueError, match=message):
            train(RUN.with_(**changes), root=tmp_path, data_root=data)
    with pytest.raises(FileNotFoundError, match="is no finished run, and another one starts from its masks"):
        start_of(RUN.with_(mask_from=pruning_parent(RUN)), root=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_memory_errors_say_what_to_lower(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object, **options: object) -> None:
        raise torch.OutOfMemoryError("no")

    monkeypatch.setattr("sparseflow.training.run.run_steps", full)
    with pytest.raises(RuntimeError, match=r"out of memory with 4 images of 32 pixels at once. Lower --micro-batch"):
        train(RUN, root=tmp_path, data_root=data)


def test_one_process_raises_as_it_is() -> None:
    with pytest.raises(ValueError, match="alone"), Ranks().together():
        raise ValueError("alone")
    assert issubclass(OnEveryRankError, RuntimeError)


COMMAND = [
    "train", "images", "--network", "vgg16", "--dataset", "cifar10", "--stem", "cifar", "--width", "0.0625",
    "--num-classes", "10", "--short", "4", "8", "--micro-batch", "4", "--log-every", "1", "--method", "set",
]  # fmt: skip


def torchrun(*arguments: str) -> subprocess.CompletedProcess[str]:
    """As the README says it, on two processes."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "sparseflow"]
    return subprocess.run(
        [*launcher, *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "100"},
    )


def test_the_command_on_one_process_and_on_two(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main([*COMMAND, "--data", str(data), "--out", str(tmp_path / "1")])
    done = torchrun(*COMMAND, "--data", str(data), "--out", str(tmp_path / "2"))
    assert done.returncode == 0, done.stderr
    found = []
    for root, stdout in ((tmp_path / "1", capsys.readouterr().out), (tmp_path / "2", done.stdout)):
        assert stdout.count("test/accuracy") == 1  # rank 0 alone
        (folder,) = [path for path in root.iterdir() if not path.name.startswith(".")]
        metrics = load_run(folder).metrics
        found.append(metrics[metrics["name"].isin(["train/loss", "flow/norm", "gradient/training"])])
    assert len(found[0]) == 12
    assert found[0].equals(found[1])


@pytest.mark.parametrize("words", [["train", "images"], ["train"]])
def test_resnet20_is_trained_on_cifar_by_its_name(
    words: list[str], data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing else has to be given; here fewer and smaller steps, a quarter of the width, and noise for images."""
    small = ["--width", "0.25", "--short", "4", "8", "--log-every", "1", "--engine", "masked"]
    main([*words, "--network", "resnet20", *small, "--data", str(data), "--out", str(tmp_path)])
    assert "test/accuracy: " in capsys.readouterr().out
    (folder,) = [path for path in tmp_path.iterdir() if not path.name.startswith(".")]
    run = load_run(folder)
    expected = rescaled(usual_run("resnet20"), steps=4, batch_size=8).with_(width=0.25, log_every=1, engine="masked")
    assert run.config == expected
    # Three of its kernels have no mask, and nine tenths of the others' weights are zeros, rounded down.
    assert run.final["sparsity"] == pytest.approx(0.9, abs=0.01)


def test_a_network_for_colour_images_is_no_model_of_digits(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["train", "--model", "resnet20"])
    assert (
        capsys.readouterr().err.rstrip().endswith("For colour images type: sparseflow train images --network resnet20")
    )


def test_the_command_fails_with_one_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main([*COMMAND, "--data", str(tmp_path), "--out", str(tmp_path / "runs")])
    assert capfd.readouterr().err.startswith(f"sparseflow: {tmp_path} has no split 'train'")
    done = run_ranks(main, [*COMMAND, "--data", str(tmp_path), "--out", str(tmp_path / "runs")])
    assert [end.returncode for end in done] == [2, 2]
    said = "".join(end.stderr for end in done).splitlines()
    assert sum(line.startswith("sparseflow: ") for line in said) == 1
    assert not (tmp_path / "runs").exists()


def test_help_fits_a_screen(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["train", "images", "--help"])
    out = capsys.readouterr().out
    assert "--network" in out
    assert out.count("\n") < 80


# -- the commands that read finished runs ----------------------------------------------------------------------------


def test_a_finished_run_is_exported(tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The file holds the weights of the end and, as patterns, the masks of the end."""
    run = RUN.with_(method="set")
    folder = train(run, root=tmp_path, data_root=data).folder
    main(["export", str(folder)])
    assert "weights are not zero" in capsys.readouterr().out
    loaded, end = load(dense_network(run), folder / "model.sparse.safetensors"), final_state(run, root=tmp_path)
    found = {name: layer.pattern.mask() for name, layer in sparse_layers(loaded).items()}
    sparse = {name: mask for name, mask in end["masks"].items() if not mask.all()}
    assert found.keys() == sparse.keys() != set()
    assert all(torch.equal(found[name], mask) for name, mask in sparse.items())
    state = load_state(folder / "model.sparse.safetensors")
    assert all(torch.equal(state[name], weight) for name, weight in end["model"].items())


def test_finished_runs_get_a_page(tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for method, seed in (("dense", 0), ("set", 0), ("set", 1)):
        train(RUN.with_(method=method, seed=seed), root=tmp_path, data_root=data)
    main(["report", str(tmp_path)])
    assert "SET, Ours" in capsys.readouterr().out
    page = (tmp_path / "report" / "index.html").read_text()
    assert "3 neural networks (VGG16" in page
    assert "CIFAR-10" in page


def test_a_page_is_refused_where_its_words_would_be_wrong(tmp_path: Path) -> None:
    """Guessing gives 10 % of ten classes; the page says so, and calls runs below 12 % collapsed."""
    runs = [Run(ImageRun(), tmp_path, pd.DataFrame(), {"test/accuracy": 0.5, "sparsity": 0.8}, {}, 1.0)]
    with pytest.raises(ValueError, match=r"ten classes.*1000.*sparseflow reproduce all --scale imagenet"):
        check_comparable(runs)


def test_the_command_of_an_image_run_makes_that_run() -> None:
    """Typed, it is parsed to the run again, from the defaults of its network."""
    for run in (RUN, RUN.with_(network="resnet50", channels_last=True, seed=3), usual_run("resnet20").with_(seed=1)):
        words = run.command.split()
        assert words[:3] == ["sparseflow", "train", "images"]
        typed = parsed(TrainImages, "sparseflow train images", words[3:]).config
        assert complete(typed, ImageRun, pruned_mask=False) == run
