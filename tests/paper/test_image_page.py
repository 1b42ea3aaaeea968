"""The page about image runs, from made-up runs and tables: all of it, a part, and nothing."""

from __future__ import annotations

import itertools
from pathlib import Path
from xml.etree import ElementTree

import pandas as pd
import pytest

from sparseflow.lab.page.evidence import Evidence
from sparseflow.paper.claims import CIFAR_CLAIMS, CIFAR_LONG_CLAIMS, judge
from sparseflow.paper.exhibits.all import image_exhibits
from sparseflow.paper.exhibits.networks import LONGER, SETTINGS, rows_of
from sparseflow.paper.matrix.measured import TABLES, image_measurements
from sparseflow.paper.matrix.scale import Scale
from sparseflow.paper.matrix.scales import SCALES
from sparseflow.paper.page import write_image_report
from sparseflow.training.images import ImageRun
from sparseflow.training.runs import Run

CIFAR = SCALES["cifar"].with_seeds(2)


def made_up(run: ImageRun, *, accuracy: float = 60.0) -> Run:
    """Norms and losses that fall, updates that raise the norm by a tenth."""
    steps = [0, run.steps // 3, 2 * run.steps // 3]
    rows = [(step, name, 2.0 / (1 + step)) for step in steps for name in ("flow/norm", "flow/loss", "train/loss")]
    if run.method in ("set", "rigl", "rigl_inverted"):
        rows += [
            (step, name, value) for step in steps[1:] for name, value in (("update/before", 1.0), ("update/after", 1.1))
        ]
    final = {"test/accuracy": (accuracy + run.seed % 100) / 100, "test/loss": 1.0, "sparsity": 0.9}
    return Run(run, Path(run.name), pd.DataFrame(rows, columns=["step", "name", "value"]), final, {"torch": "2"}, 60.0)


def tables(scale: Scale) -> dict[str, pd.DataFrame]:
    """A row or two for every measurement of the scale: tickets at distance 1, scratch at 3."""
    found: dict[str, list[dict[str, object]]] = {
        name: [] for one in image_measurements(scale) for name in TABLES[one.kind]
    }
    for one in image_measurements(scale):
        labels = dict(one.options) | dict(one.labels)
        far = 3.0 if "scratch" in str(labels.get("group")) else 1.0
        for run in one.runs:
            seed = {"seed": run.seed, **labels}
            if one.kind == "distances":
                moments = {"init": 2 * far, "final": far, "control_init": 7.0, "cosine_init": 0.1, "cosine_final": 0.2}
                found["distances"].append({**seed, **moments, "prune_seed": 0})
            elif one.kind == "path":
                for alpha, loss in ((0.0, 1.0), (0.5, far), (1.0, 1.0)):
                    found["paths"].append({**seed, "alpha": alpha, "loss": loss, "accuracy": 0.5})
                found["barriers"].append({**seed, "barrier": far - 1, "area": far})
            elif one.kind == "functions":
                found["function_reference"].append({**seed, "accuracy": 60.0, "disagreement": far / 10, "jsd": 0.1})
            else:
                found["mds"].append({**seed, "kind": "lottery-end", "x": 0.1, "y": float(run.seed), "stress": 0.5})
        if one.kind == "functions":
            likeness = {"disagreement": far / 20, "kl_ab": 0.1, "kl_ba": 0.1, "jsd": 0.1}
            for a, b in itertools.combinations([run.seed for run in one.runs[:-1]], 2):
                found["function_pairs"].append({"a": a, "b": b, **labels, **likeness})
            told = {"draw": 0, "members": 2, "member_accuracy": 60.0, "probabilities": 61.0}
            found["function_ensembles"].append({**labels, **told})
    return {name: pd.DataFrame(rows) for name, rows in found.items()}


def evidence(scale: Scale, groups: list[str] | None = None) -> Evidence:
    """Made-up runs of some groups, default all."""
    runs = {
        name: [made_up(run, accuracy=70.0 if "sparse" in name else 50.0) for run in group]
        for name, group in scale.groups.items()
        if groups is None or name in groups
    }
    return Evidence(runs, tables(scale) if groups is None else {}, scale.name)


def test_the_whole_page(tmp_path: Path) -> None:
    """Every exhibit has something, nothing is missing, tables say our numbers beside the paper's."""
    given = evidence(CIFAR)
    page = write_image_report(given, judge(given, CIFAR_CLAIMS), tmp_path, command="made up", scale=CIFAR)
    text = page.read_text()
    for name in image_exhibits(CIFAR):
        assert f'<section id="{name}">' in text
    assert "Nothing of this is there yet" not in text
    assert "Not there, or not as often as planned" not in text
    assert "This is not ImageNet" in text
    assert "On CIFAR-10 with narrow networks, not on ImageNet." in text
    assert 2 * text.count("<img") == len(list((tmp_path / "figures").glob("*.svg")))
    assert "http" not in text.replace("http://www.w3.org", "")  # offline
    table = pd.read_csv(tmp_path / "tables" / "accuracy-vgg16-90.csv").set_index("network")
    # Seeds 0 and 1, or of tickets 100 and 101: one point apart.
    assert table.loc["Scratch, Ours", ["mean", "paper_mean"]].to_list() == [pytest.approx(70.5), 62.52]
    assert table.loc["Lottery of step 0", "paper_mean"] == 0.1
    resnet = pd.read_csv(tmp_path / "tables" / "accuracy-resnet14.csv").set_index("network")
    assert resnet.loc["Lottery, rewound late", "runs"] == 3  # two on the first masks, one on the second
    assert resnet.loc["Lottery, rewound late", "paper_mean"] == 75.75
    assert "At the end, scratch is 3.00 times as far" in text
    assert "Scratch on pruned masks 2.000 nats (3 runs)" in text
    assert len(pd.read_csv(tmp_path / "claims.csv")) == len(judge(given, CIFAR_CLAIMS))
    for figure in (tmp_path / "figures").glob("*.svg"):
        assert ElementTree.parse(figure).getroot().find(".//{http://www.w3.org/2000/svg}title") is not None or (
            "aria-label" in figure.read_text()
        )


def test_the_whole_page_of_networks_that_learn(tmp_path: Path) -> None:
    scale = SCALES["cifar-long"].with_seeds(2)
    given = evidence(scale)
    found = judge(given, CIFAR_LONG_CLAIMS)
    text = write_image_report(given, found, tmp_path, command="made up", scale=scale).read_text()
    assert pd.read_csv(tmp_path / "claims.csv")["id"].to_list() == list(CIFAR_LONG_CLAIMS)
    assert text.count('<tr id="C') == len(CIFAR_LONG_CLAIMS)
    for name in image_exhibits(scale):
        assert f'<section id="{name}">' in text
    assert "Nothing of this is there yet" not in text
    assert "Not there, or not as often as planned" not in text
    assert "resnet20 has all its channels and takes 7800 steps of 128 images; vgg16 has 1/4 of its channels" in text
    resnet = pd.read_csv(tmp_path / "tables" / "accuracy-resnet20.csv").set_index("network")
    assert resnet.loc["Scratch, Ours", "paper_mean"] == 70.63
    # No number of the paper's stands beside another learning rate.
    short = pd.read_csv(tmp_path / "tables" / "accuracy-resnet20-short.csv").set_index("network")
    assert len(short) == 6
    assert short.loc["Scratch, Ours, lr0.3", "runs"] == 2
    assert short["paper_mean"].isna().all()


def test_a_part_of_the_runs_makes_a_page_that_says_what_is_missing(tmp_path: Path) -> None:
    given = evidence(CIFAR, ["vgg16-90/scratch/dense", "vgg16-90/rigl/sparse"])
    del given.groups["vgg16-90/rigl/sparse"][1]  # type: ignore[attr-defined]
    text = write_image_report(given, judge(given, CIFAR_CLAIMS), tmp_path, command="", scale=CIFAR).read_text()
    assert "3 of" in text
    assert "Not there, or not as often as planned: " in text
    assert "vgg16-90/rigl/sparse" in text
    assert "sparseflow reproduce --scale cifar &#39;vgg16-90/*&#39;" in text
    assert "sparseflow reproduce --scale cifar paths" in text
    assert "1 of 2" in text


def test_without_a_run_there_is_a_page(tmp_path: Path) -> None:
    for name in ("smoke", "cifar", "cifar-long", "imagenet"):
        scale = SCALES[name]
        given = Evidence({}, {}, name)
        text = write_image_report(given, [], tmp_path / name, command="", scale=scale).read_text()
        assert "0 of" in text
        assert f"sparseflow reproduce --scale {name} all" in text


def test_the_smoke_page_is_one_table(tmp_path: Path) -> None:
    """A run with a loss that is not finite is told."""
    scale = SCALES["smoke"]
    given = evidence(scale)
    broken = given.groups["vgg16/dense"][0]
    broken.metrics.loc[2, "value"] = float("nan")
    text = write_image_report(given, [], tmp_path, command="", scale=scale).read_text()
    table = pd.read_csv(tmp_path / "tables" / "smoke.csv").set_index("group")
    assert len(table) == 68
    assert table.index[~table["finite"]].to_list() == ["vgg16/dense"]
    assert "67 of 68 runs have finite losses" in text
    assert 'id="claims"' not in text


def test_every_group_of_a_scale_has_a_row() -> None:
    for name in ("cifar", "cifar-long", "imagenet"):
        scale = SCALES[name]
        rows = [row for setting in (*SETTINGS[name], *LONGER.get(name, ())) for row in rows_of(setting, scale)]
        assert sorted(group for row in rows for group in row.groups) == sorted(scale.groups)
        assert len({(row.label, row.groups[0].split("/")[0]) for row in rows}) == len(rows)
