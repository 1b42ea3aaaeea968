"""Images that cannot be read: replaced in training, left out of every measurement, named in the results, limited."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from noise_images import noise_images
from sparseflow.cli.main import main
from sparseflow.data import CIFAR10, UnreadableImageWarning, normalise
from sparseflow.sealed import read_json
from sparseflow.training import datasets
from sparseflow.training.images import ImageRun
from sparseflow.training.run import train
from sparseflow.training.runs import read_snapshot
from sparseflow.training.setup import dense_network

RUN = ImageRun(
    dataset="cifar10", network="vgg16", width=1 / 16, stem="cifar", num_classes=10, image_size=32, sparsity=0.5,
    steps=6, batch_size=8, micro_batch=4, update_every=2, update_until=4, learning_rate=0.05, log_every=1,
    probe_images=6, eval_every=3, label_smoothing=0.0, checkpoint_every=2,
)  # fmt: skip
BROKEN = {"train": ["class0/1.png", "class9/3.png"], "test": ["class3/0.png"]}
UNREADABLE = {"training": ["train/class0/1.png", "train/class9/3.png"], "test": ["test/class3/0.png"]}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """CIFAR-10 in small, ten classes, four training images each and two to test; three files are cut off."""
    root = noise_images(tmp_path / "cifar")
    for split, names in BROKEN.items():
        for name in names:
            cut(root / split / name)
    return root


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:300])


def test_accuracy_is_of_the_images_that_can_be_read(data: Path, tmp_path: Path) -> None:
    """Oracle: the network at the end on the 19 test images that Pillow reads."""
    with pytest.warns(UnreadableImageWarning, match=r"/\d.png cannot be read \("):
        run = train(RUN, root=tmp_path / "runs", data_root=data)
    assert {split: sorted(names) for split, names in run.unreadable.items()} == UNREADABLE
    assert read_json(run.folder / "done.json", cure="")["unreadable"] == run.unreadable
    files = [path for path in sorted((data / "test").rglob("*.png")) if path != data / "test" / BROKEN["test"][0]]
    images = torch.stack([torch.from_numpy(np.array(Image.open(path))).permute(2, 0, 1) for path in files])
    labels = torch.tensor([int(path.parent.name.removeprefix("class")) for path in files])
    model = dense_network(RUN).eval()
    model.load_state_dict(read_snapshot(RUN, 6, root=tmp_path / "runs")["model"])
    with torch.no_grad():
        logits = model(normalise(images, CIFAR10))
    assert run.final["test/accuracy"] == int((logits.argmax(1) == labels).sum()) / 19
    assert run.final["test/loss"] == pytest.approx(float(F.cross_entropy(logits, labels)), rel=1e-5)


def test_files_read_in_every_epoch_give_the_same_run(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As for ImageNet; and a run that is continued after the files were mended still names them."""
    with pytest.warns(UnreadableImageWarning):
        whole = train(RUN, root=tmp_path / "whole", data_root=data)
    monkeypatch.setattr(datasets, "_load", lambda dataset, where, in_memory: datasets._open(dataset, where))

    def stop(step: int, steps: int) -> None:
        if step == 5:
            raise InterruptedError

    with pytest.warns(UnreadableImageWarning), pytest.raises(InterruptedError):
        train(RUN, root=tmp_path / "runs", data_root=data, progress=stop)
    found = train(RUN, root=tmp_path / "runs", data_root=data)
    assert found.unreadable["test"] == whole.unreadable["test"]
    assert set(found.unreadable["training"]) == set(whole.unreadable["training"])
    assert found.metrics.equals(whole.metrics)
    (tmp_path / "runs" / RUN.name / "done.json").unlink()
    for split, names in BROKEN.items():
        for name in names:
            Image.new("RGB", (32, 32)).save(data / split / name)
    again = train(RUN, root=tmp_path / "runs", data_root=data)
    assert again.unreadable == found.unreadable


@pytest.mark.filterwarnings("ignore::sparseflow.data.UnreadableImageWarning")
def test_more_than_ten_stop_the_run(data: Path, tmp_path: Path) -> None:
    for label in range(10):
        cut(data / "test" / f"class{label}" / "1.png")
    with pytest.raises(RuntimeError, match=r"11 images are broken, more than max_broken=10. The first: test/class0/1"):
        train(RUN, root=tmp_path / "runs", data_root=data)
    assert not (tmp_path / "runs").exists()


@pytest.mark.filterwarnings("ignore::sparseflow.data.UnreadableImageWarning")
def test_the_command_says_what_was_left_out(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main([
        "train", "images", "--network", "vgg16", "--dataset", "cifar10", "--stem", "cifar", "--width", "0.0625",
        "--num-classes", "10", "--short", "4", "8", "--micro-batch", "4", "--data", str(data), "--out",
        str(tmp_path / "runs"),
    ])  # fmt: skip
    said = capsys.readouterr().err
    assert "1 test image cannot be read and is in no accuracy or loss: test/class3/0.png (" in said
    assert "2 training images cannot be read and were replaced by the next one, with its label: train/class0/1." in said
