"""The recipes of image runs against the paper's printed settings, and their cost against counts by hand."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

from sparseflow.cli.main import main
from sparseflow.init.schemes import SCHEMES
from sparseflow.masks.allocation import ALLOCATIONS
from sparseflow.masks.make import sparsity_of
from sparseflow.networks import build_network, network_masks
from sparseflow.paper.cost import START_AND_END, core_seconds, device_seconds, forward_flops, training_flops
from sparseflow.paper.matrix.cifar import VGG_BASE
from sparseflow.paper.matrix.scales import IMAGENET, SCALES
from sparseflow.paper.measures.measurement import Measurement
from sparseflow.paper.reproduce import Matrix
from sparseflow.rng import stream
from sparseflow.training.images import ImageRun
from sparseflow.training.sweep import Training
from sparseflow.training.tasks import in_order

GROUPS = IMAGENET.groups


def test_imagenet_has_every_cell_of_table_1() -> None:
    """9 cells of methods and starts, dense and narrow networks, three times each; both networks."""
    for network in ("vgg16", "resnet50"):
        cells = [
            f"{network}/{method}/{init}" for method in ("scratch", "set", "rigl") for init in ("dense", "liu", "sparse")
        ]
        for name in (*cells, f"{network}/dense", f"{network}/small_dense"):
            assert sorted(run.seed for run in GROUPS[name]) == [0, 1, 2]
            assert {run.network for run in GROUPS[name]} == {network}
    # Section 4.3 has five: pruned networks, tickets and scratch on the masks of the first.
    for name in ("prune", "lottery/mask0", "ticket-scratch/mask0"):
        assert len(GROUPS[f"resnet50/{name}"]) == 5
    assert {run.mask_from for run in GROUPS["resnet50/lottery/mask0"]} == {GROUPS["resnet50/prune"][0]}
    assert len({run.mask_from for run in GROUPS["resnet50/lottery-k5000"]}) == 3
    rewound = {name: run.rewind_step for name, (run, *_) in GROUPS.items() if run.method == "lottery"}
    assert rewound == {
        "resnet50/lottery/mask0": 2000, "resnet50/lottery-k0/mask0": 0, "resnet50/lottery-k5000": 5000,
        "vgg16/lottery-k0": 0, "vgg16/lottery": 8000,
    }  # fmt: skip
    # No run is in two groups.
    assert max(Counter(run for group in GROUPS.values() for run in group).values()) == 1


@pytest.mark.parametrize(
    ("network", "expected"),
    [
        # Protocol 0 and Tables 3 and 4.
        (
            "resnet50",
            {"steps": 32_000, "batch_size": 4096, "learning_rate": 1.6, "drop_fraction": 0.3, "update_every": 100},
        ),
        (
            "vgg16",
            {"steps": 128_000, "batch_size": 1024, "learning_rate": 0.04, "drop_fraction": 0.1, "update_every": 500},
        ),
    ],
)
def test_imagenet_has_the_paper_s_settings(network: str, expected: dict[str, float]) -> None:
    common = {
        "sparsity": 0.8, "momentum": 0.9, "weight_decay": 1e-4, "label_smoothing": 0.1, "update_until": 25_000,
        "image_size": 224, "num_classes": 1000, "dataset": "imagenet", "updates": "authors",
    }  # fmt: skip
    for method in ("scratch", "set", "rigl"):
        for run in GROUPS[f"{network}/{method}/dense"]:
            assert {name: getattr(run, name) for name in expected} == expected
            assert {name: getattr(run, name) for name in common} == common
            assert (run.method, run.init, run.width, run.mask_from) == (method, "dense", 1.0, None)


def test_imagenet_s_special_runs() -> None:
    """Protocol D.4, E, F, J20 and J29."""
    assert {run.width for run in GROUPS["resnet50/small_dense"]} == {0.465}
    assert {run.width for run in GROUPS["vgg16/small_dense"]} == {0.44}
    prune = GROUPS["resnet50/prune"][0]
    assert (prune.prune_begin, prune.prune_end, prune.update_every, prune.snapshots) == (5000, 8000, 100, (2000, 5000))
    assert {run.update_until for run in GROUPS["vgg16/rigl/sparse/until100000"]} == {100_000}
    assert {run.allocation for run in GROUPS["vgg16/scratch/sparse/uniform"]} == {"uniform"}


def test_uniform_masks_of_vgg16_have_one_sparsity() -> None:
    """Claim C52: every layer of the control has 80 % zeros, where ERK leaves the first dense."""
    model = build_network("vgg16", generator=stream(0, "model"), width=0.25, num_classes=10)
    uniform, erk = (network_masks("vgg16", model, 0.8, seed=0, allocation=name) for name in ("uniform", None))
    assert {round(1 - float(mask.double().mean()), 2) for mask in uniform.values()} == {0.8}
    assert bool(erk["conv1_1.weight"].all())
    assert sparsity_of(uniform) == pytest.approx(sparsity_of(erk), abs=1e-3)
    assert "uniform" in ALLOCATIONS
    with pytest.raises(ValueError, match="allocation must be one of paper, uniform"):
        ImageRun(allocation="magnitude")


def test_smoke_runs_every_method_from_every_start_on_both_networks() -> None:
    groups = SCALES["smoke"].groups
    runs = [run for group in groups.values() for run in group]
    assert len(runs) == len(set(runs)) == 2 * (1 + 4 + 3 * 4 * 2 + 1 + 4)
    for network in ("vgg16", "resnet50"):
        assert {run.method for run in runs if run.network == network} == {
            "dense", "prune", "lottery", "restart", "scratch", "set", "rigl", "rigl_inverted",
        }  # fmt: skip
        for method in ("scratch", "set", "rigl", "rigl_inverted"):
            assert {run.init for run in runs if (run.network, run.method) == (network, method)} == set(SCHEMES)
        for method in ("set", "rigl", "rigl_inverted"):
            variants = [run.updates for run in runs if (run.network, run.method) == (network, method)]
            assert Counter(variants) == {"after_step": 4, "authors": 4}


def test_operations_of_the_networks() -> None:
    """ResNet-50: 4.09 * 10^9 multiply-adds are known of version 1.5. VGG16: layer by layer."""
    assert forward_flops("resnet50", classes=1000) == pytest.approx(2 * 4.09e9, rel=0.01)
    # Side of the maps, inputs, outputs; the last is the 1x1 convolution after the mean.
    layers = [
        (224, 3, 64), (224, 64, 64), (112, 64, 128), (112, 128, 128), (56, 128, 256), (56, 256, 256), (56, 256, 256),
        (28, 256, 512), (28, 512, 512), (28, 512, 512), (14, 512, 512), (14, 512, 512), (14, 512, 512),
    ]  # fmt: skip
    by_hand = sum(side * side * inputs * outputs * 9 for side, inputs, outputs in layers) + 512 * 1000
    assert forward_flops("vgg16", classes=1000) == 2 * by_hand
    # On 32 pixels the fourth group is not pooled.
    small = [
        (32, 3, 64),
        (32, 64, 64),
        (16, 64, 128),
        (16, 128, 128),
        *[(8, a, b) for a, b in ((128, 256), (256, 256), (256, 256))],
    ]
    small += [(4, a, b) for a, b in ((256, 512), *[(512, 512)] * 5)]
    by_hand = sum(side * side * inputs * outputs * 9 for side, inputs, outputs in small) + 512 * 10
    assert forward_flops("vgg16", stem="cifar", size=32, classes=10) == 2 * by_hand


def test_cost_of_a_run() -> None:
    """Three passes an image; RigL's 251 updates of the authors use up a batch each (protocol C.4)."""
    scratch, rigl = (GROUPS[f"resnet50/{method}/sparse"][0] for method in ("scratch", "rigl"))
    each = 3 * forward_flops("resnet50", classes=1000) * 4096
    assert training_flops(scratch) == 32_000 * each
    assert training_flops(rigl) == 32_251 * each
    assert device_seconds(scratch, rate=2e14) == pytest.approx(32_000 * each / 2e14)
    timed = VGG_BASE.with_(width=1 / 4, steps=1000, prune_begin=200, prune_end=400)
    for sparsity, rate in ((0.8, 1180), (0.85, 1490), (0.9, 1800)):
        assert core_seconds(timed.with_(sparsity=sparsity)) == pytest.approx(64_000 / rate + START_AND_END)
    for dense in (timed.with_(method="dense"), timed.with_(engine="masked")):
        assert core_seconds(dense) == pytest.approx(64_000 / 700 + START_AND_END)
    # Half the weights are gone after 300 of 1000 steps.
    pruned = core_seconds(timed.with_(method="prune", sparsity=0.9))
    assert pruned == pytest.approx(0.3 * 64_000 / 700 + 0.7 * 64_000 / 1800 + START_AND_END)
    # One that was not timed, in proportion to ResNet-14's operations.
    narrow = timed.with_(network="resnet50", engine="masked", width=1 / 8)
    ratio = forward_flops("resnet50", width=1 / 8, stem="cifar", size=32, classes=10) / forward_flops(
        "resnet14", width=1 / 8, stem="cifar", size=32, classes=10
    )
    assert core_seconds(narrow) == pytest.approx(64_000 / 700 * ratio + START_AND_END)


LONG = SCALES["cifar-long"].groups
#: The runs for a quarter of the steps at three learning rates.
SHORT = {name: group for name, group in LONG.items() if name.startswith("resnet20-short/")}


def test_cifar_long_has_the_cells_that_claims_ask_for() -> None:
    """Three seeds of every cell; on ResNet-20 and VGG16 of a quarter of the width, at the paper's kinds of masks."""
    resnet = [f"{method}/{init}" for init in ("sparse", "dense") for method in ("scratch", "set", "rigl")]
    resnet += ["scratch/liu", "rigl_inverted/sparse", "small_dense"]
    vgg = [f"{method}/{init}" for method in ("scratch", "rigl") for init in ("dense", "liu", "sparse")]
    for network, kinds in (("resnet20", resnet), ("vgg16", [*vgg, "scratch/sparse/uniform"])):
        for kind in kinds:
            assert [run.seed for run in LONG[f"{network}/{kind}"]] == [0, 1, 2]
            assert {run.network for run in LONG[f"{network}/{kind}"]} == {network}
    runs = {run for group in LONG.values() for run in group}
    assert {(run.network, run.sparsity, run.allocation) for run in runs} == {
        ("resnet20", 0.9, "paper"), ("vgg16", 0.8, "paper"), ("vgg16", 0.8, "uniform"),
    }  # fmt: skip
    assert {(run.network, run.width) for run in runs if run not in LONG["resnet20/small_dense"]} == {
        ("resnet20", 1.0), ("vgg16", 0.25),
    }  # fmt: skip
    # No run is in two groups.
    assert len(runs) == sum(map(len, LONG.values()))


def test_cifar_long_trains_for_20_epochs_and_sees_enough_images_between_updates() -> None:
    for run in (run for name, group in LONG.items() if name not in SHORT for run in group):
        assert run.steps * run.batch_size == pytest.approx(20 * 50_000, rel=0.01)
        assert run.update_every * run.batch_size >= 100 * 128
        assert (run.steps // run.update_every, run.engine, run.precision) == (78, "auto", "float32")
        # As the paper's 25000 of 32000 steps.
        assert run.method == "prune" or run.update_until / run.steps == pytest.approx(25 / 32, abs=1e-3)
        # Four checkpoints an epoch and more: what is lost is less than three minutes of a dense run.
        assert run.checkpoint_every == 390


def test_cifar_long_s_tickets() -> None:
    """Rewound to 6 % of the pruning run and not at all, and scratch on its masks: some twice on its first."""
    prunes = LONG["resnet20/prune"]
    assert [run.snapshots for run in prunes] == 4 * [(488,)]  # 2000 of 32000 steps
    for kind, method, rewind, count in (
        ("lottery", "lottery", 488, 2),
        ("lottery-k0", "lottery", 0, 1),
        ("ticket-scratch", "scratch", 0, 2),
        ("ticket-scratch-sparse", "scratch", 0, 1),
    ):
        for number, parent in enumerate(prunes):
            found = LONG[f"resnet20/{kind}/mask{number}"]
            assert {(run.method, run.rewind_step, run.mask_from) for run in found} == {(method, rewind, parent)}
            assert [run.seed for run in found] == [100 * (number + 1) + k for k in range(1 if number else count)]


def test_learning_rates_of_cifar_long_are_chosen_on_held_out_images() -> None:
    """Three rates of two starts, a quarter of the steps; the same masks, draws and data as in the long runs."""
    assert list(SHORT) == [
        f"resnet20-short/scratch/{init}/lr{rate}" for rate in (0.03, 0.1, 0.3) for init in ("dense", "sparse")
    ]
    for group in SHORT.values():
        assert [run.seed for run in group] == [0, 1, 2]
        assert {(run.steps, run.holdout, run.batch_size, run.sparsity) for run in group} == {(1950, 5000, 128, 0.9)}
    for init in ("dense", "sparse"):
        usual = SHORT[f"resnet20-short/scratch/{init}/lr0.1"]
        assert {run.learning_rate for run in usual} == {LONG[f"resnet20/scratch/{init}"][0].learning_rate}
        for rate in (0.03, 0.3):
            found = SHORT[f"resnet20-short/scratch/{init}/lr{rate:g}"]
            assert found == [run.with_(learning_rate=rate) for run in usual]


def test_a_part_of_cifar_long_is_worth_having() -> None:
    """One run of everything before the second of anything, ResNet-20 from Ours first; all of it fits 16 hours."""
    matrix = Matrix.of(SCALES["cifar-long"])
    tasks = matrix.tasks(["all"])
    order = [task.config for task in tasks if isinstance(task, Training)]
    assert [(run.method, run.init, run.seed) for run in order[:4]] == [
        ("scratch", "sparse", 0), ("rigl", "sparse", 0), ("set", "sparse", 0), ("rigl_inverted", "sparse", 0),
    ]  # fmt: skip
    place = {run: number for number, run in enumerate(order)}
    first = {name: place[group[0]] for name, group in LONG.items() if not re.search("mask[1-9]", name)}
    second = min(place[group[1]] for group in LONG.values() if len(group) > 1)
    assert max(first.values()) < second < min(place[group[2]] for group in LONG.values() if len(group) > 2)
    assert max(first.values()) < place[LONG["resnet20/lottery/mask1"][0]]
    # Steps alone; probes, evaluation, checkpoints and the counts of units took 16 % more of a sparse ResNet-20.
    assert 1.16 * matrix.seconds(tasks) < 2 * 16 * 3600


def test_items_of_a_scale() -> None:
    """A group with what it starts from; a table with its runs; a name that is none."""
    matrix = Matrix.of(SCALES["cifar"].with_seeds(2))
    tasks = matrix.tasks(["resnet14/lottery/mask1"])
    assert [task.config.method for task in tasks if isinstance(task, Training)] == ["prune", "lottery"]
    # Two kinds of starts, tickets of two kinds and scratch, two runs on the first masks and one on the second.
    paths = [task for task in matrix.tasks(["barriers"]) if isinstance(task, Measurement)]
    assert Counter(dict(task.labels)["group"] for task in paths) == {
        "resnet14/lottery": 6, "resnet14/lottery-k0": 6, "resnet14/ticket-scratch": 6
    }  # fmt: skip
    assert len(in_order(matrix.tasks(["all"]))) == len(matrix.tasks(["all"]))
    with pytest.raises(ValueError, match="there is no item 'table1' at --scale cifar"):
        matrix.tasks(["table1"])
    with pytest.raises(ValueError, match="seeds must be at least 1, got 0"):
        SCALES["smoke"].with_seeds(0)


@pytest.mark.parametrize(
    ("scale", "time"), [("smoke", "core"), ("cifar", "core"), ("cifar-long", "core"), ("imagenet", "device")]
)
def test_the_list_has_every_item_and_trains_nothing(
    scale: str, time: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    main(["reproduce", "--list", "--scale", scale])
    told = capsys.readouterr().out
    assert re.search(rf"\b{time}\s", told)
    for name in Matrix.of(SCALES[scale]).items():
        assert re.search(rf"^\W*{re.escape(name)} ", told, flags=re.MULTILINE), name
    assert not list(tmp_path.iterdir())


def test_a_slower_device_takes_longer(capsys: pytest.CaptureFixture[str]) -> None:
    hours = []
    for rate in ("60", "30"):
        main(["reproduce", "--list", "--scale", "imagenet", "--tflops", rate])
        hours.append(float(re.findall(r"resnet50/dense .*?([\d.]+) h", capsys.readouterr().out)[0]))
    assert hours[1] == pytest.approx(2 * hours[0], abs=0.11)
    assert hours[0] == pytest.approx(3 * 14.9, rel=0.02)


def test_without_imagenet_there_is_one_clear_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main(["reproduce", "resnet50/dense", "--scale", "imagenet", "--data", str(tmp_path)])
    assert ended.value.code == 2
    *_, line = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("sparseflow: ")
    assert str(tmp_path) in line
    assert not list(tmp_path.iterdir())
