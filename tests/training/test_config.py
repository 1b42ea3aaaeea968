"""What all runs share: names that never move, and tables that a new method or network is a row of."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch import nn

from here import Here
from sparseflow.cli.main import main
from sparseflow.masks.make import sparsity_of
from sparseflow.masks.n_of_m import check_n_of_m
from sparseflow.methods import SET
from sparseflow.networks import NETWORKS, Network
from sparseflow.training import pool
from sparseflow.training.config import RunConfig, pruning_parent
from sparseflow.training.digits import DigitRun
from sparseflow.training.images import ImageRun, paper_run
from sparseflow.training.names import METHODS, MethodRow
from sparseflow.training.run import train
from sparseflow.training.runs import final_state, load_runs
from sparseflow.training.setup import dense_network, set_up
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
        ({"method": "top_kast", "engine": "sparse"}, "top_kast trains weights that the network does not use"),
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


# -- masks of blocks --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["scratch", "set", "rigl", "prune"])
def test_masks_are_made_of_blocks_and_stay_so(method: str, tmp_path: Path) -> None:
    """LeNet5's layers of 16, 120 and 84 outputs take fours; those of 6 and 10 stay single weights."""
    config = DigitRun(
        dataset="mnist-5k", method=method, steps=8, batch_size=16, update_every=2, prune_begin=1, prune_end=6,
        prune_every=1, sparsity=0.8, block="4",
    )  # fmt: skip
    train(config, root=tmp_path)
    masks = final_state(config, root=tmp_path)["masks"]
    grids = {name: masks[name].flatten(1) for name in ("conv2.weight", "fc1.weight", "fc2.weight")}
    assert all(torch.equal(mask[::4].repeat_interleave(4, 0), mask) for mask in grids.values())
    single = masks["fc3.weight"]
    assert not torch.equal(single[::2].repeat_interleave(2, 0), single)
    assert abs(sparsity_of(masks) - 0.8) < 0.01


@pytest.mark.parametrize("kind", [DigitRun, ImageRun])
def test_blocks_are_part_of_a_name_only_where_there_are_some(kind: type[DigitRun | ImageRun]) -> None:
    assert kind(block="1x1").name == kind(block="1").name == kind().name
    assert kind(block="4").name == kind(block="4x1").name != kind().name
    old = {name: value for name, value in kind(seed=3).to_dict().items() if name != "block"}
    assert kind.from_dict(old) == kind(seed=3)  # a config that was stored before there were blocks


@pytest.mark.parametrize("block", ["four", "4x", "0x1", "4x1x1", ""])
def test_what_is_no_block(block: str) -> None:
    with pytest.raises(ValueError, match="block must be outputs x inputs, such as 4x1, got"):
        DigitRun(block=block)


def test_a_ticket_has_the_blocks_of_its_pruning_run() -> None:
    with pytest.raises(ValueError, match="mask_from must be a run of the same block: it has '1x1', this run '4x1'"):
        DigitRun(method="lottery", mask_from=DigitRun(method="prune"), block="4")
    assert pruning_parent(DigitRun(block="4")).block == "4x1"


def test_methods_with_an_end_or_masks_of_their_own() -> None:
    """MEST and SRigL stop after three quarters of a run, as their papers; SRigL's masks have one fan-in each."""
    for method in ("mest", "mest_soft", "srigl"):
        assert DigitRun(method=method, steps=400).updater().until == 300
    for method in ("rigl", "chts", "granet"):
        run = DigitRun(method=method, steps=400, prune_begin=100, prune_end=200)
        assert run.updater().until == 400
    assert DigitRun(method="mest", steps=400).updater().schedule == "stages"
    trainer = set_up(DigitRun(method="srigl", model="mlp", steps=4))
    for mask in trainer.sparsifier.masks.values():
        assert len(mask.sum(1).unique()) == 1


def test_methods_of_single_weights_refuse_blocks() -> None:
    for method in ("srigl", "chts"):
        with pytest.raises(ValueError, match=rf"{method} moves single weights, no.* blocks of 4x1\. Leave block"):
            DigitRun(method=method, block="4")


def test_a_regenerating_run_prunes_within_its_steps() -> None:
    with pytest.raises(ValueError, match="must begin and end within the run: got begin 3000, end 7000, 400 steps"):
        DigitRun(method="granet", steps=400)


@pytest.mark.parametrize(
    ("method", "given"),
    [
        ("rigl_blocks", {}),
        ("rigl_blocks", {"block": "2x2"}),
        *((m, {}) for m in ("acdc", "n_of_m", "top_kast", "sr_ste")),
    ],
)
def test_rows_of_methods_train_to_what_they_promise(method: str, given: dict[str, str], tmp_path: Path) -> None:
    """The sparsity of the run; blocks, the run's before the row's; N of every M, or of a whole row."""
    config = DigitRun(
        dataset="mnist-5k", model="mlp", method=method, steps=20, batch_size=16, update_every=5, prune_begin=2,
        prune_end=16, prune_every=4, sparsity=0.9, **given,
    )  # fmt: skip
    assert "block" in config.changed() or not given
    train(config, root=tmp_path)
    masks = final_state(config, root=tmp_path)["masks"]
    assert abs(sparsity_of(masks) - 0.9) < 0.002
    if method == "rigl_blocks":
        outputs, inputs = (2, 2) if given else (4, 1)
        tiles = masks["fc1.weight"].unflatten(1, (-1, inputs)).unflatten(0, (-1, outputs)).float().mean((1, 3))
        assert set(tiles.unique().tolist()) == {0.0, 1.0}
    if method in ("n_of_m", "sr_ste"):
        pattern = {"fc1.weight": (78, 784), "fc2.weight": (1, 10), "fc3.weight": (1, 10)}
        assert check_n_of_m(masks, dense_network(config), pattern) == 300 + 100 * 30 + 10 * 10


def test_pruning_rows_end_within_their_run() -> None:
    for method in ("prune", "n_of_m"):
        with pytest.raises(ValueError, match="pruning must begin and end within the run: got begin 3000, end 7000, 20"):
            DigitRun(method=method, steps=20)
    assert DigitRun(method="acdc", steps=20).updater().due(17)
