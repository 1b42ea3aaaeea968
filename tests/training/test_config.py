"""What all runs share: names that never move, and tables that a new method or network is a row of."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from torch import nn

from here import Here
from sparseflow.cli.main import main
from sparseflow.methods import SET
from sparseflow.networks import NETWORKS, Network
from sparseflow.training import pool
from sparseflow.training.config import RunConfig, pruning_parent
from sparseflow.training.digits import DigitRun
from sparseflow.training.images import ImageRun, paper_run
from sparseflow.training.names import METHODS, MethodRow
from sparseflow.training.runs import final_state, load_runs
from sparseflow.types import Look

PRUNED, PRUNED_IMAGES = pruning_parent(DigitRun(seed=2)), pruning_parent(paper_run("resnet50", seed=2))
CONTROL = DigitRun(
    method="scratch", control="signs", start_noise=0.5, init_seed=3, snapshots=(5, 1), holdout=100, schedule="step"
)
NARROW = ImageRun(
    dataset="cifar10", stem="cifar", image_size=32, num_classes=10, network="resnet14", width=1 / 8, channels_last=True,
    sparsity=0.9, label_smoothing=0.0,
)  # fmt: skip


@pytest.mark.parametrize(
    ("config", "name"),
    [
        (DigitRun(), "scratch-sparse-lenet5-s0-44136fa355b3"),
        (DigitRun(method="rigl", init="liu", model="mlp", seed=4), "rigl-liu-mlp-s4-8abda6a51dc4"),
        (PRUNED, "prune-lenet5-s2-468a0c4aab16"),
        (DigitRun(method="lottery", mask_from=PRUNED, seed=2), "lottery-lenet5-s2-21194403e5de"),
        (CONTROL, "scratch-sparse-lenet5-s0-8cd78f584516"),
        (ImageRun(), "rigl-sparse-resnet50-s0-44136fa355b3"),
        (paper_run("vgg16", method="set", init="dense", seed=1), "set-dense-vgg16-s1-bdf289e50647"),
        (PRUNED_IMAGES, "prune-resnet50-s2-468a0c4aab16"),
        (paper_run("resnet50").with_(method="restart", mask_from=PRUNED_IMAGES), "restart-resnet50-s0-8df816fcf789"),
        (NARROW, "rigl-sparse-resnet14-s0-989374c7a78c"),
    ],
)
def test_stored_names_do_not_move(config: RunConfig, name: str) -> None:
    """Oracle: the names that the first version gave, when digits and images had nothing in common."""
    assert config.name == name
    assert type(config).from_dict(config.to_dict()) == config


@pytest.mark.parametrize("kind", [DigitRun, ImageRun])
def test_equal_runs_on_either_data_have_one_name(kind: type[DigitRun | ImageRun]) -> None:
    assert kind(weight_decay=0).name == kind(weight_decay=0.0).name
    assert kind(sparsity=-0.0).name == kind(sparsity=0.0).name


@pytest.mark.parametrize("kind", [DigitRun, ImageRun])
def test_what_neither_data_takes(kind: type[DigitRun | ImageRun]) -> None:
    for changes, message in (
        ({"sparsity": 95}, "For 95% zeros write 0.95, not 95"),
        ({"learning_rate": -1.0}, "learning_rate must be positive"),
        ({"drop_fraction": 1.5}, r"drop_fraction must be in \[0, 1\], got 1.5"),
        ({"steps": 2.5}, "steps must be a whole number, got 2.5"),
        ({"method": "snfs", "engine": "sparse"}, "snfs looks at the dense gradient of every step"),
    ):
        with pytest.raises(ValueError, match=message):
            kind(**changes)


@pytest.fixture
def _here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(pool, "Processes", Here)
    monkeypatch.chdir(tmp_path)


TINY = "--dataset mnist-5k --steps 20 --batch-size 32 --update-every 10 --log-every 10 --eval-every 10 --out runs"


@pytest.mark.usefixtures("_here")
def test_a_made_up_method_is_one_row(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """It is offered, trains sparse and moves connections."""
    row = MethodRow(
        label="Made Up", meaning="like SET.", start="masked", moves="swap", updater=SET, look=Look("green", "-", "o")
    )
    monkeypatch.setitem(METHODS, "made_up", row)
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    assert "made_up" in capsys.readouterr().out
    main(["train", "--method", "made_up", "--model", "lenet5-small", *TINY.split()])
    assert re.search(r"sparsity: 0\.9[45]", capsys.readouterr().out)
    (run,) = load_runs(Path("runs"))
    assert run.config.name.startswith("made_up-sparse-lenet5-small-s0-")
    assert run.metrics.loc[run.metrics["name"] == "update/moved", "value"].max() > 0
    masks = final_state(run.config, root=Path("runs"))["masks"]
    assert all(0 < int(mask.sum()) < mask.numel() for mask in masks.values())


@pytest.mark.usefixtures("_here")
def test_a_made_up_network_is_one_row(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """It is offered, drawn, masked and trained."""

    def tiny(num_classes: int = 10) -> nn.Sequential:
        return nn.Sequential(nn.Flatten(), nn.Linear(784, 30), nn.ReLU(), nn.Linear(30, num_classes))

    monkeypatch.setitem(NETWORKS, "tiny", Network(build=tiny, channels=1, label="Tiny", words="a tiny network"))
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    assert "tiny" in capsys.readouterr().out
    main(["train", "--model", "tiny", *TINY.split()])
    assert re.search(r"sparsity: 0\.9[45]", capsys.readouterr().out)
    main(["report", "runs"])
    assert "a tiny network" in Path("runs/report/index.html").read_text()
