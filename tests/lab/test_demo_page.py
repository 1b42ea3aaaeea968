"""The page: what it says follows the data, and it needs nothing but itself."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pandas as pd
import pytest

from sparseflow.init.schemes import SCHEMES
from sparseflow.lab.demo import figures
from sparseflow.lab.demo.exhibits import ALL, EXHIBITS
from sparseflow.lab.demo.headline import certainty, comparisons, headline
from sparseflow.lab.demo.live_filters import live_filters, live_words
from sparseflow.lab.demo.page import settings, write_report
from sparseflow.lab.page.evidence import Evidence, NotEnoughRunsError
from sparseflow.lab.page.figure_data import accuracy_points
from sparseflow.lab.page.page import hardware
from sparseflow.lab.page.signal import draw_signal, signal_levels
from sparseflow.lab.page.summary import COLLAPSE_PERCENT, ONSET_LOSS, summarize
from sparseflow.lab.page.svg import INK, PALETTE, svg_text
from sparseflow.training.names import shown_methods
from sparseflow.training.runs import Run
from sparseflow.types import Look
from synthetic_runs import demo_runs, demo_signal, make_run

FIGURES = ["accuracy", "pruned-masks", "gradient-norm", "train-loss", "test-accuracy", "update-change", "signal"]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(
        [*demo_runs(), *pruned_runs()],
        tmp_path_factory.mktemp("report"),
        signal=demo_signal(),
        title="Digits & <sparse> networks",
        command="sparseflow demo --seeds 3 && echo '<done>'",
        unfinished=[Path("runs/set-sparse-lenet5-s9-0123456789ab")],
    )


@pytest.fixture(scope="module")
def page(report: Path) -> ElementTree.Element:
    # The template is written so that the page is XML too: parsing is the proof that it is well-formed.
    return ElementTree.fromstring(report.read_text(encoding="utf-8"))


def pruned_runs() -> list[Run]:
    """A pruned network a seed, and one from its mask that learns unless the seed is 0."""
    runs = []
    for seed in range(3):
        parent = make_run(method="prune", seed=seed, accuracy=0.96, prune_begin=200, prune_end=600)
        runs += [parent, make_run(seed=seed, accuracy=0.94 if seed else 0.1, mask_from=parent.config)]
    return runs


def words(element: ElementTree.Element) -> str:
    return " ".join("".join(element.itertext()).replace("\N{NO-BREAK SPACE}", " ").split())


def first_sentence(name: str, runs: list[Run]) -> str:
    build = EXHIBITS[name].build
    assert build is not None
    return build(Evidence({ALL: runs}, {"signal": demo_signal()}), None).shows[0]


def static_runs(*, usual: list[float], aware: list[float]) -> list[Run]:
    return [
        make_run(method="scratch", init=init, seed=seed, accuracy=accuracy)
        for init, accuracies in (("dense", usual), ("sparse", aware))
        for seed, accuracy in enumerate(accuracies)
    ]


def test_page_has_every_section(page: ElementTree.Element) -> None:
    headings = [heading.get("id") for heading in page.iter("h2")]
    assert headings == ["next", "names", *FIGURES[1:], "networks", "limits", "settings", "hardware"]
    text = words(page)
    assert "sparseflow demo --seeds 3 && echo '<done>'" in text
    assert "1 run is not finished and not in these numbers: set-sparse-lenet5-s9-0123456789ab." in text
    assert "2.13.0" in text  # a version of env.json


def test_text_is_escaped(page: ElementTree.Element) -> None:
    assert page.findtext(".//h1") == "Digits & <sparse> networks"


def test_page_loads_nothing(report: Path, page: ElementTree.Element) -> None:
    assert "http" not in report.read_text(encoding="utf-8")
    assert "@import" not in report.read_text(encoding="utf-8")
    assert not list(page.iter("script"))
    assert not list(page.iter("link"))
    for element in page.iter():
        for key in {"src", "srcset"} & element.attrib.keys():
            assert re.fullmatch(r"figures/[a-z-]+\.svg", element.attrib[key])
            assert (report.parent / element.attrib[key]).is_file()
    for element in page.iter():
        if target := element.get("href"):
            assert target.startswith("#") or (report.parent / target).is_file(), target


def test_every_figure_has_words_and_numbers(report: Path, page: ElementTree.Element) -> None:
    drawings = list(page.iter("figure"))
    assert len(drawings) == len(FIGURES)
    for name, figure in zip(FIGURES, drawings, strict=True):
        (wide,), (narrow,) = figure.iter("img"), figure.iter("source")
        assert (wide.get("src"), narrow.get("srcset")) == (f"figures/{name}.svg", f"figures/{name}-narrow.svg")
        assert re.search(r"\d", wide.get("alt", "")), name
        assert len(wide.get("alt", "")) > 60, name
        links = [link.get("href") for link in figure.iter("a")]
        assert links == [f"figures/{name}.csv", f"figures/{name}.svg"]
        assert len(pd.read_csv(report.parent / f"figures/{name}.csv")) > 0
        ElementTree.parse(report.parent / f"figures/{name}.svg")


def test_accuracy_alt_text_states_the_data(page: ElementTree.Element) -> None:
    alt = next(page.iter("img")).get("alt", "")
    assert "Scratch, Original: 0 of 3 learned; Scratch, Liu: 3 of 3 learned, median 95.3 %" in alt
    assert "Dense: 3 of 3 learned, median 97.9 %" in alt


def test_ink_is_the_pages_not_black(report: Path) -> None:
    for path in report.parent.glob("figures/*.svg"):
        drawings = path.read_text()
        assert "currentColor" in drawings
        assert INK not in drawings
        assert not re.search(r"#000000|#000\b|rgb\(0,\s*0,\s*0\)|:\s*black", drawings)
        colours = {colour.lower() for colour in re.findall(r"(?:fill|stroke): ?(#[0-9a-fA-F]{6})", drawings)}
        assert colours <= {colour.lower() for colour in PALETTE.values()}


def test_ids_are_unique_and_found(page: ElementTree.Element, report: Path) -> None:
    ids = [element.get("id") for element in page.iter() if element.get("id")]
    assert len(ids) == len(set(ids))
    for path in report.parent.glob("figures/*.svg"):
        drawing = path.read_text()
        ids = re.findall(r' id="([^"]+)"', drawing)
        assert len(ids) == len(set(ids))
        assert set(re.findall(r"url\(#([^)]+)\)", drawing)) <= set(ids)


@pytest.mark.parametrize("rows", [SCHEMES, shown_methods()], ids=["schemes", "methods"])
def test_looks_are_told_apart_without_colour_and_are_of_the_palette(rows: Mapping[str, Any]) -> None:
    looks: list[Look] = [row.look for row in rows.values()]
    assert len({(look.line, look.marker) for look in looks}) == len(looks)
    assert {look.colour for look in looks} <= PALETTE.keys()


def test_csv_of_the_table_is_the_table(report: Path) -> None:
    table = summarize(demo_runs())
    pd.testing.assert_frame_equal(
        pd.read_csv(report.parent / "figures/summary.csv", keep_default_na=True).fillna({"init": ""}), table
    )


def test_nothing_half_written_is_left(report: Path) -> None:
    files = sorted(path.name for path in report.parent.rglob("*") if path.is_file())
    assert files == sorted(
        [
            "SHA256SUMS",
            "index.html",
            "summary.csv",
            "summary-pruned.csv",
            *[f"{name}{end}" for name in FIGURES for end in (".csv", ".svg", "-narrow.svg")],
        ]
    )


def test_same_runs_give_the_same_bytes() -> None:
    points = accuracy_points(demo_runs())
    first, second = (svg_text(figures.draw_accuracy(points), name="a", alt="x") for _ in range(2))
    assert first == second


@pytest.mark.parametrize(
    ("usual", "aware", "sentence", "chance"),
    [
        (
            [0.11] * 10,
            [0.97] * 10,
            "With the usual initialisation 0 of 10 sparse networks learned; with the sparsity-aware one 10 of 10.",
            # The limits of 0 of 10 in closed form: 1 - 0.025 ** (1 / 10).
            "That is more than chance: the 95 % intervals of the two shares, 0 to 31 % and 69 to 100 %, do not "
            "overlap.",
        ),
        (
            [0.97] * 10,
            [0.11] * 10,
            "With the usual initialisation 10 of 10 sparse networks learned; with the sparsity-aware one 0 of 10.",
            "That is more than chance: the 95 % intervals of the two shares, 69 to 100 % and 0 to 31 %, do not "
            "overlap.",
        ),
        (
            [0.11, 0.11, 0.97],
            [0.11, 0.97, 0.97],
            "With the usual initialisation 1 of 3 sparse networks learned; with the sparsity-aware one 2 of 3.",
            "That may be chance: the 95 % intervals of the two shares, 1 to 91 % and 9 to 99 %, overlap.",
        ),
    ],
)
def test_headline_follows_the_data(usual: list[float], aware: list[float], sentence: str, chance: str) -> None:
    table = summarize(static_runs(usual=usual, aware=aware))
    assert (headline(table), certainty(table)) == (sentence, [chance])


def test_headline_without_the_pair_names_the_best() -> None:
    table = summarize([make_run(method="dense", accuracy=0.98), make_run(method="set", accuracy=0.9)])
    assert headline(table) == "Dense reached the highest median accuracy of these runs: 98.0 %."
    assert certainty(table) == []
    assert headline(summarize([make_run(accuracy=0.1)])) == "None of these networks learned."


@pytest.mark.parametrize(
    ("moving", "verdict"),
    [
        ([0.98] * 6, "from 6 of 6 equal starts, more often than chance (sign test, p = 0.031)"),  # 2 / 2**6
        ([0.90] * 6, "from 0 of 6 equal starts, less often than chance (sign test, p = 0.031)"),
        ([0.98] * 5, "from 5 of 5 equal starts, which may be chance (sign test, p = 0.062)"),  # 2 / 2**5
        ([0.97] * 5, "from 0 of 5 equal starts, which may be chance (sign test, p = 1)"),
    ],
)
def test_methods_are_compared_by_seed_and_called_only_beyond_chance(moving: list[float], verdict: str) -> None:
    runs = [make_run(seed=seed, accuracy=0.97) for seed in range(7)]
    runs += [make_run(method="rigl", seed=seed, accuracy=value) for seed, value in enumerate(moving)]
    assert f"RigL ends above Scratch {verdict}." in comparisons(summarize(runs), runs)


def test_medians_are_of_those_that_learned_and_moving_ones_are_counted() -> None:
    runs = demo_runs()
    assert comparisons(summarize(runs), runs)[:3] == [
        "With the usual initialisation and connections that move, learned: SET 0 of 3 and RigL 2 of 3.",
        "With Liu's, which scales a layer as a whole, and connections that stay: 3 of 3.",
        "With the sparsity-aware one the median of the networks that learned names 95.7 % (Scratch), 96.2 % (SET) and "
        "96.7 % (RigL) of new images rightly, a dense one 97.9 %.",
    ]


def test_runs_about_pruned_networks_have_a_part_of_their_own(report: Path) -> None:
    first, second = (pd.read_csv(report.parent / f"figures/{name}.csv") for name in ("summary", "summary-pruned"))
    assert first["label"].to_list() == summarize(demo_runs())["label"].to_list()
    assert second[["label", "n", "learned"]].to_numpy().tolist() == [["Pruned", 3, 3], ["Scratch, Ours", 3, 2]]
    dots = pd.read_csv(report.parent / "figures/pruned-masks.csv")
    assert dots["accuracy"].to_list() == pytest.approx([96, 96, 96, 10, 94, 94])


def test_what_to_type_next_fits_the_runs(page: ElementTree.Element) -> None:
    typed = [code.text for code in page.find(".//dl[@class='next']").iter("code")]  # type: ignore[union-attr]
    assert typed[0].startswith("sparseflow doctor scratch-dense-lenet5-s0-")  # type: ignore[union-attr]
    assert typed[1] == "sparseflow train --dataset mnist-5k --method rigl --steps 900 --update-every 100"


def test_gradient_sentence_flips() -> None:
    def sentence(usual: float, aware: float) -> str:
        runs = [
            make_run(init="dense", start_norm=usual, onset=800),
            make_run(init="sparse", start_norm=aware, onset=800),
        ]
        return first_sentence("gradient-norm", runs)

    assert re.search(r"1 with the sparsity-aware initialisation and 0\.05 .*: 20 times larger\.", sentence(0.05, 1.0))
    assert re.search(r"0\.05 with the sparsity-aware initialisation and 1 .*: 20 times smaller\.", sentence(1.0, 0.05))


def test_onset_and_update_sentences_state_the_data() -> None:
    runs = demo_runs()
    assert "Original at step 550, but not within 900 steps for Scratch and SET" in first_sentence("train-loss", runs)
    assert first_sentence("test-accuracy", runs).startswith(
        "Half way, at step 400, mean accuracy is: Dense 97 %; Small Dense 96 %; Original 11 %"
    )
    assert "RigL raised the gradient norm at 67 % (Original), 100 % (Liu) and 100 % (Ours)" in first_sentence(
        "update-change", runs
    )
    assert first_sentence("signal", runs).startswith(
        "Uniform mask, Glorot uniform: of the signal at 0 % zeros, 98 % zeros leave Orig"
    )


def test_missing_data_says_which_run_would_make_it(tmp_path: Path) -> None:
    old = tmp_path / "figures/update-change.svg"
    old.parent.mkdir()
    old.write_text("of an earlier report")
    runs = [make_run(metrics=pd.DataFrame({"step": [0], "name": "train/loss", "value": [2.0]}))]
    index = write_report(runs, tmp_path, title="one", command="sparseflow report runs")
    text = words(ElementTree.fromstring(index.read_text(encoding="utf-8")))
    assert "No run has logged flow/norm." in text
    assert "No run here has moved its connections while it trained." in text
    assert re.search(r"sparseflow train --dataset mnist-5k --method rigl --steps 900", text)
    assert "The signal at initialisation was not measured with these runs." in text
    assert "single seed" in text
    assert not old.exists()


def test_dense_runs_alone_make_a_page(tmp_path: Path) -> None:
    index = write_report([make_run(method="dense", init="dense")], tmp_path, title="dense", command="x")
    text = words(ElementTree.fromstring(index.read_text(encoding="utf-8")))
    assert "there is no sparse network among them" in text


def test_an_unknown_data_set_is_named_plainly(tmp_path: Path) -> None:
    index = write_report([make_run(dataset="letters")], tmp_path, title="t", command="x")
    assert "was trained on letters in 900 steps" in words(ElementTree.fromstring(index.read_text(encoding="utf-8")))


def test_refused_runs_leave_no_page(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"differ in dataset, steps|differ in dataset \(.*steps \("):
        write_report([make_run(), make_run(dataset="mnist", steps=7, seed=1)], tmp_path, title="t", command="x")
    with pytest.raises(ValueError, match="no finished run here"):
        write_report([], tmp_path, title="t", command="x")
    with pytest.raises(ValueError, match="no column"):
        write_report([make_run()], tmp_path, signal=pd.DataFrame({"scheme": ["dense"]}), title="t", command="x")
    assert not list(tmp_path.iterdir())


def test_settings_are_split_into_common_and_differing() -> None:
    runs = [make_run(seed=0), make_run(seed=1), make_run(method="dense", seed=0, learning_rate=0.1)]
    common, differing = settings(runs)
    assert common["dataset"] == "mnist-5k"
    assert differing["learning_rate"] == {"Dense": "0.1", "Scratch, Ours": "0.05"}
    assert differing["sparsity"] == {"Dense": "0", "Scratch, Ours": "0.95"}
    assert differing["seed"] == {"Dense": "0", "Scratch, Ours": "0, 1"}
    assert not {"drop_fraction", "prune_begin", "method", "init"} & (set(common) | set(differing))
    assert "drop_fraction" in settings([make_run(method="set")])[0]


def test_hardware_names_what_differs() -> None:
    run = make_run()
    other = Run(
        config=run.config,
        folder=run.folder,
        metrics=run.metrics,
        final=run.final,
        env={"torch": "2.4.0", "cpu": {"cores": 2}},
        seconds=1.0,
    )
    assert hardware([run, other])["torch"] == "2.13.0 / 2.4.0"
    assert hardware([other])["cpu.cores"] == "2"


@pytest.mark.parametrize("narrow", [False, True])
def test_signal_axis_spreads_high_sparsities(narrow: bool) -> None:
    levels = signal_levels(demo_signal())
    figure = draw_signal(levels, narrow=narrow)
    axes = figure.axes[0]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["0", "0.5", "0.8", "0.9", "0.95", "0.98"]
    assert min(b - a for a, b in zip(axes.get_xticks(), axes.get_xticks()[1:], strict=False)) > 0.29
    assert len(figure.axes) == 4
    assert len(levels) == 4 * 2 * 2 * 6


def test_a_dead_network_leaves_the_logarithmic_axis_through_the_bottom() -> None:
    signal = demo_signal()
    dead = (signal["sparsity"] == 0.98) & (signal["network"] == 0)
    levels = signal_levels(signal.assign(logit_std=signal["logit_std"].where(~dead, 0.0)))
    figure = draw_signal(levels)
    assert (levels["min"] == 0).any()
    # The axis ends near the smallest mean, not at the zero that a logarithm has no place for.
    bottom = figure.axes[0].get_ylim()[0]
    assert 0.01 * levels["mean"].min() < bottom < levels["mean"].min()
    assert "nan" not in svg_text(figure, name="dead", alt="a dead network").lower()


def test_thresholds_in_the_words_are_those_of_the_table(page: ElementTree.Element) -> None:
    assert f"ends below {COLLAPSE_PERCENT:g} % test accuracy" in words(page)
    assert f"a loss below {ONSET_LOSS:g} (median over seeds)" in words(page)


def test_live_filters_are_those_of_the_first_layer_at_the_start() -> None:
    def run(seed: int, live: int, **changes: Any) -> Run:
        rows = [(0, "units/live/conv1", live), (0, "units/live/conv2", 9), (900, "units/live/conv1", 8)]
        metrics = pd.DataFrame(rows, columns=["step", "name", "value"])
        return make_run(seed=seed, metrics=metrics, accuracy=0.8 + 0.01 * live, **changes)

    runs = [run(seed, live) for seed, live in enumerate([1, 2, 3, 4, 5])]
    data = live_filters([*runs, run(0, 7, method="dense")])
    assert data["live"].to_list() == [1, 2, 3, 4, 5]  # a dense network starts without a mask
    assert "more live filters end higher (rank correlation 1, p = " in live_words(data)
    assert "more live filters end lower" in live_words(data.assign(accuracy=-data["accuracy"]))
    with pytest.raises(NotEnoughRunsError, match=r"counted its live units.*\nsparseflow demo"):
        live_filters([make_run()])
