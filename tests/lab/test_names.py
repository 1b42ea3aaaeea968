"""A row in the table of methods or of schemes is enough: it is tabled, spoken of and drawn."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pandas as pd
import pytest

from sparseflow.init.schemes import SCHEMES, Scheme
from sparseflow.lab.demo.page import write_report
from sparseflow.lab.page.groups import check_comparable
from sparseflow.lab.page.summary import summarize
from sparseflow.methods import SET
from sparseflow.paper.exhibits.curves import curve_of
from sparseflow.training.images import ImageRun
from sparseflow.training.names import METHODS, MethodRow, shown_methods
from sparseflow.training.runs import Run
from sparseflow.types import Look
from synthetic_runs import make_run

MADE_UP = MethodRow(
    label="Made-Up",
    meaning="like SET, but made up.",
    start="masked",
    moves="swap",
    updater=SET,
    look=Look("sky", ":", "X"),
)


def words_of(drawing: Path) -> str:
    return "".join(ElementTree.parse(drawing).getroot().itertext())


def test_methods_are_told_apart_without_colours() -> None:
    looks = [row.look[1:] for row in shown_methods().values()]
    assert len(set(looks)) == len(looks)


def test_runs_of_a_new_method_are_tabled_and_drawn(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """By hand: two runs that end at 96 and 98 %."""
    monkeypatch.setitem(METHODS, "made_up", MADE_UP)
    metrics = make_run(method="set").metrics
    runs = [make_run(method="made_up", seed=seed, accuracy=0.96 + 0.02 * seed, metrics=metrics) for seed in (0, 1)]
    page = write_report([*runs, make_run(method="rigl", accuracy=0.9)], tmp_path, title="new", command="x").read_text()
    table = pd.read_csv(tmp_path / "figures/summary.csv").set_index("label")
    assert table["learned_median"].to_dict() == {"RigL, Ours": 90.0, "Made-Up, Ours": 97.0}
    assert "Made-Up, Ours reached the highest median accuracy of these runs: 97.0" in page
    assert "Made-Up raised the gradient norm at" in page
    assert "like SET, but made up." in page
    assert "drop_fraction" in page  # read by methods that swap connections
    for name in ("accuracy", "gradient-norm", "train-loss", "test-accuracy", "update-change"):
        assert "Made-Up" in words_of(tmp_path / f"figures/{name}.svg"), name
        assert "made_up" in (tmp_path / f"figures/{name}.csv").read_text()


def test_a_new_method_has_a_curve_in_the_papers_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METHODS, "made_up", MADE_UP)
    curve = curve_of("lenet5/made_up/liu")
    assert curve.label == "Made-Up Liu"
    assert curve.look == Look("sky", SCHEMES["liu"].look.line, "X")


def test_runs_of_a_new_scheme_are_tabled_and_drawn(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(
        SCHEMES, "other", Scheme("unit", "Other", "is another start.", " Other", Look("purple", "--", "P"))
    )
    runs = [make_run(init="other", accuracy=0.97), make_run(init="dense", accuracy=0.5)]
    page = write_report(runs, tmp_path, title="new", command="sparseflow report")
    assert "is another start." in page.read_text()
    assert summarize(runs)["label"].to_list() == ["Scratch, Original", "Scratch, Other"]
    for name in ("accuracy", "gradient-norm"):
        assert "Other" in words_of(tmp_path / f"figures/{name}.svg")


# --- runs on images ---------------------------------------------------------------------------------------------------


def image_run(seed: int = 0, **changes: object) -> Run:
    """A finished run on CIFAR-10 with the metrics of a run on digits."""
    config = ImageRun(
        dataset="cifar10", num_classes=10, stem="cifar", image_size=32, network="vgg16", seed=seed, **changes
    )  # type: ignore[arg-type]
    run = make_run(method="set" if config.method in ("set", "rigl") else "scratch", seed=seed)
    return Run(config, Path(config.name), run.metrics, run.final, run.env, run.seconds)


def test_runs_on_images_make_a_page(tmp_path: Path) -> None:
    runs = [image_run(seed, method=method) for method in ("rigl", "scratch") for seed in (0, 1)]
    page = write_report([*runs, image_run(method="dense")], tmp_path, title="images", command="sparseflow report")
    assert "vgg16" in page.read_text()
    table = pd.read_csv(tmp_path / "figures/summary.csv")
    assert table["label"].to_list() == ["Dense", "Scratch, Ours", "RigL, Ours"]


@pytest.mark.parametrize(
    ("others", "message"),
    [
        ({"network": "resnet14"}, r"differ in model \(resnet14 and vgg16\).*type: sparseflow report THAT_FOLDER"),
        ({"width": 0.5}, r"differ in width within RigL, Ours \(0.5 and 1.0\)"),
        ({"micro_batch": 64, "seed": 1}, r"micro_batch within RigL, Ours \(128 and 64\)"),
    ],
)
def test_runs_on_images_that_differ_are_refused(others: dict[str, object], message: str) -> None:
    one = image_run()
    other = Run(one.config.with_(**others), one.folder, one.metrics, one.final, one.env, 1.0)
    with pytest.raises(ValueError, match=message):
        check_comparable([one, other])


def test_digits_and_images_are_not_compared() -> None:
    with pytest.raises(ValueError, match=r"cannot be compared; they differ in dataset \(cifar10 and mnist\)"):
        check_comparable([image_run(), make_run(dataset="mnist")])


def test_runs_of_a_thousand_classes_are_refused_in_one_line() -> None:
    one = image_run()
    config = one.config.with_(dataset="imagenet-sample", num_classes=1000)
    with pytest.raises(ValueError, match=r"ten classes, and these runs have 1000.*reproduce all --scale imagenet"):
        check_comparable([Run(config, one.folder, one.metrics, one.final, one.env, 1.0)])
