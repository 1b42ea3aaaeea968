"""Runs on images: the paper's settings, every method on both networks, and one process against two."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import vision_worker_images
from processes import run_ranks
from sparseflow.data import open_images
from sparseflow.masks.make import sparsity_of
from sparseflow.training.images import ImageRun, paper_run, rescaled
from sparseflow.training.loop import train_images
from sparseflow.training.ranks import Ranks
from sparseflow.training.setup import set_up
from starts import starting

#: Small enough for a second: a few channels, crops of 32 pixels.
TINY = ImageRun(
    width=1 / 16, num_classes=3, sparsity=0.5, steps=4, batch_size=8, micro_batch=4, update_every=2, update_until=4,
    learning_rate=0.05, prune_begin=1, prune_end=3, image_size=32, log_every=1, probe_images=6,
)  # fmt: skip
SAMPLE = Path(__file__).parents[3] / "shared" / "data" / "imagenet-sample"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes, ten images each: a colour and noise."""
    root = tmp_path_factory.mktemp("images")
    noise = np.random.default_rng(0)
    for label, name in enumerate(("red", "green", "blue")):
        (root / "train" / name).mkdir(parents=True)
        for number in range(10):
            pixels = noise.integers(0, 120, (40, 48, 3), dtype=np.uint8)
            pixels[..., label] += 100
            Image.fromarray(pixels).save(root / "train" / name / f"{number}.png")
    return root


def train(run: ImageRun, folder: Path, **options: Any) -> tuple[Any, list[tuple[int, dict[str, float]]]]:
    images, logged = open_images(folder, "train"), []
    trainer = train_images(
        run, images, images, log=lambda step, values: logged.append((step, dict(values))),
        **options,
    )  # fmt: skip
    return trainer, logged


def told(logged: list[tuple[int, dict[str, float]]], name: str) -> list[float]:
    return [values[name] for _, values in logged if name in values]


def both(run: ImageRun, data: Path, folder: Path, *, split: str) -> list[dict[str, Any]]:
    """What one process and two find."""
    one, two = folder / "1.json", folder / "2.json"
    vision_worker_images.main(run, data, split, one)
    done = run_ranks(vision_worker_images.main, run, data, split, two)
    assert [end.returncode for end in done] == [0, 0], done
    return [json.loads(out.read_text()) for out in (one, two)]


def assert_equal(one: dict[str, Any], two: dict[str, Any]) -> None:
    """To the last bit, but for sums over test images, which two processes add in another order."""
    assert one["masks"] == two["masks"]
    for (step, values), (other_step, others) in zip(one["logged"], two["logged"], strict=True):
        assert step == other_step
        assert others == (pytest.approx(values, rel=1e-6) if "test/loss" in values else values)


# A network that has learned nothing yet is pruned, whose smallest weights are those of a whole layer.
@pytest.mark.filterwarnings("ignore::sparseflow.masks.topk.EmptiedLayerWarning")
@pytest.mark.parametrize("network", ["vgg16", "resnet50"])
@pytest.mark.parametrize("method", starting("dense", "masked"))
def test_every_method_trains_both_networks(network: str, method: str, folder: Path) -> None:
    trainer, logged = train(TINY.with_(network=network, method=method), folder)
    trainer.sparsifier.check()
    losses = told(logged, "train/loss")
    assert len(losses) == TINY.steps
    assert np.isfinite(losses).all()
    assert all(norm > 0 for norm in told(logged, "gradient/training") + told(logged, "flow/norm"))
    target = 0.0 if method == "dense" else 0.5
    assert told(logged, "sparsity") == [pytest.approx(target, abs=0.01)]
    assert 0 <= told(logged, "test/accuracy")[0] <= 1


@pytest.mark.parametrize("init", ["dense", "liu", "sparse", "live"])
def test_every_initialisation_has_a_gradient(init: str, folder: Path) -> None:
    _, logged = train(TINY.with_(network="vgg16", method="scratch", init=init, steps=1), folder)
    assert np.isfinite(told(logged, "train/loss")).all()
    assert told(logged, "flow/norm")[0] > 0


def test_it_learns_colours(folder: Path) -> None:
    """Guessing is right in 1 of 3; 30 images whose colour names their class are easy."""
    run = TINY.with_(network="resnet50", stem="cifar", steps=30, update_every=10, update_until=30, label_smoothing=0.0)
    small = folder.parent / "small"
    for path in sorted(folder.glob("train/*/*.png")):
        target = small / path.relative_to(folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.open(path).resize((32, 32)).save(target)
    _, logged = train(run, small)
    assert told(logged, "test/accuracy")[-1] > 0.8
    assert told(logged, "train/loss")[-1] < told(logged, "train/loss")[0]


def test_two_processes_log_what_one_does(folder: Path, tmp_path: Path) -> None:
    """Batch norm, moving masks and random crops."""
    one, two = both(TINY, folder, tmp_path, split="train")
    assert_equal(one, two)
    assert len(one["logged"]) > 2 * TINY.steps


def test_two_processes_on_real_images(tmp_path: Path) -> None:
    if not SAMPLE.is_dir():
        pytest.skip("the 1000 ImageNet images are not there")
    run = TINY.with_(num_classes=1000, steps=3, sparsity=0.8, image_size=64)
    assert_equal(*both(run, SAMPLE, tmp_path, split="validation"))


def test_a_run_is_a_function_of_its_seed(folder: Path) -> None:
    first, again, other = (train(TINY.with_(seed=seed), folder)[1] for seed in (1, 1, 2))
    assert first == again
    assert told(first, "train/loss") != told(other, "train/loss")


def test_authors_updates_use_batches_without_steps(folder: Path) -> None:
    """Updates at steps 0 and 2 of 4, each with a batch of its own: losses at 0, 0, 1, 2, 2, 3."""
    run = TINY.with_(updates="authors", update_until=3)
    assert run.num_batches == 6
    _, logged = train(run, folder)
    steps = [step for step, values in logged if "train/loss" in values]
    assert steps == [0, 0, 1, 2, 2, 3]
    assert TINY.with_(updates="authors", method="set").num_batches == TINY.steps


@pytest.mark.slow
@pytest.mark.parametrize("network", ["vgg16", "resnet50"])
def test_the_papers_settings(network: str) -> None:
    """Protocol 0 and C.4: 251 updates of RigL from step 0, 250 of SET from step 1, for ResNet-50."""
    rigl = paper_run(network)
    assert (rigl.batch_size, rigl.steps, rigl.learning_rate, rigl.drop_fraction) == {
        "resnet50": (4096, 32_000, 1.6, 0.3),
        "vgg16": (1024, 128_000, 0.04, 0.1),
    }[network]
    assert (rigl.momentum, rigl.weight_decay, rigl.label_smoothing, rigl.sparsity) == (0.9, 1e-4, 0.1, 0.8)
    counts = {
        method: [step for step in range(30_000) if paper_run(network, method=method).updater().due(step)]
        for method in ("rigl", "set")
    }
    if network == "resnet50":
        assert (len(counts["rigl"]), counts["rigl"][0], counts["rigl"][-1]) == (251, 0, 25_000)
        assert (len(counts["set"]), counts["set"][0], counts["set"][-1]) == (250, 1, 24_901)
    assert {b - a for a, b in pairwise(counts["rigl"])} == {rigl.update_every}
    short = rescaled(rigl, steps=rigl.steps // 100, batch_size=64)
    assert short.learning_rate == pytest.approx(rigl.learning_rate * 64 / rigl.batch_size)
    assert short.update_until == 250


def test_pruning_ends_at_the_sparsity_of_each_layer() -> None:
    trainer = set_up(TINY.with_(method="prune", network="vgg16"), Ranks())
    assert sparsity_of(trainer.sparsifier.masks) == 0
    scratch = set_up(TINY.with_(method="scratch", network="vgg16"), Ranks()).sparsifier.masks
    assert trainer.sparsifier.masks.keys() == scratch.keys()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"network": "alexnet"}, "network must be one of vgg16, resnet50"),
        ({"sparsity": 80}, r"sparsity must be in \[0, 1\), got 80. For 95% zeros write 0.95"),
        ({"batch_size": 10, "micro_batch": 4}, r"does not divide into micro-batches of 4. For instance micro_batch=2"),
        ({"steps": 0}, "steps must be at least 1"),
        ({"updates": "never"}, "updates must be one of after_step, authors"),
    ],
)
def test_bad_settings_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TINY.with_(**changes)


def test_images_of_more_classes_than_the_run_are_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"the images have 3 classes, the run 2. Give num_classes=3"):
        train(TINY.with_(num_classes=2), folder)
    with pytest.raises(ValueError, match="cannot be shared by 3 processes"):
        set_up(TINY, Ranks(0, 3))
    with pytest.raises(ValueError, match="network must be one of resnet50, vgg16"):
        paper_run("alexnet")


def test_weights_are_float32_under_bfloat16(folder: Path) -> None:
    trainer, logged = train(TINY.with_(precision="bfloat16", channels_last=True, steps=2), folder)
    assert {parameter.dtype for parameter in trainer.model.parameters()} == {torch.float32}
    assert np.isfinite(told(logged, "train/loss")).all()
