"""The page about the paper: everything is on it, what it lacks it names, and it needs nothing but itself."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pandas as pd
import pytest

from sparseflow.lab.page.evidence import Evidence
from sparseflow.lab.page.exhibit import Content, Exhibit
from sparseflow.lab.page.page import compact
from sparseflow.lab.page.svg import INK, PALETTE
from sparseflow.paper.claims.verdict import Former, Outcome, Verdict
from sparseflow.paper.exhibits.all import EXHIBITS
from sparseflow.paper.exhibits.records import RUN_COLUMNS
from sparseflow.paper.exhibits.topics import TOPICS
from sparseflow.paper.exhibits.verdicts import COLUMNS, FORMER, headline, judged, spoken_p
from sparseflow.paper.matrix.scales import DEMO, PAPER
from sparseflow.paper.page import write_paper_report
from sparseflow.paper.published import claims
from synthetic_evidence import make_evidence, paper_run

SVG = "{http://www.w3.org/2000/svg}"
COMMAND = "sparseflow reproduce all && echo '<done>'"


def verdict(id: str, outcome: Outcome = "held", *, note: str = "It is so.", p_value: float | None = 0.25) -> Verdict:
    return Verdict(
        id=id, verdict=outcome, statistic="slope 2.5", p_value=p_value, n="20", ours="1.5", published="1.25", note=note
    )


VERDICTS = [
    verdict("C01"),
    verdict("C02", "failed", note="Dead <units> stop 95 % of the signal.", p_value=1e-9),
    verdict("C03", "inconclusive", note="Too few runs.", p_value=None),
    replace(
        verdict("C04"),
        design="pairs by seed",
        p_corrected=0.5,
        former=Former("slope above 3", "failed", "A slope of 2 is what the paper says."),
    ),
]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("paper")
    (out / "figures").mkdir()
    (out / "figures" / "of-an-earlier-report.svg").touch()
    return write_paper_report(make_evidence(DEMO), VERDICTS, out, command=COMMAND, scale=DEMO)


@pytest.fixture(scope="module")
def page(report: Path) -> ElementTree.Element:
    # The template is written so that the page is XML too: parsing is the proof that it is well-formed.
    return ElementTree.fromstring(report.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> ElementTree.Element:
    out = tmp_path_factory.mktemp("bare")
    write_paper_report(Evidence({}, {}, "demo"), [], out, command=COMMAND, scale=DEMO)
    return ElementTree.fromstring((out / "index.html").read_text(encoding="utf-8"))


def words(element: ElementTree.Element) -> str:
    return " ".join("".join(element.itertext()).replace("\N{NO-BREAK SPACE}", " ").split())


def found(page: ElementTree.Element, id: str) -> ElementTree.Element:
    return next(element for element in page.iter() if element.get("id") == id)


def summary_of(page: ElementTree.Element, name: str) -> str:
    """What is seen of an exhibit while it is folded."""
    (whole,) = (
        fold for fold in page.iter("details") if any(part.get("id") == name for part in fold.findall("section"))
    )
    (summary,) = whole.findall("summary")
    assert whole.get("open") is None
    return words(summary)


def sources(page: ElementTree.Element) -> set[str]:
    """The pictures that a page shows, wide and narrow."""
    wide, narrow = (
        {element.attrib[key] for element in page.iter(tag)} for tag, key in (("img", "src"), ("source", "srcset"))
    )
    assert {name.removesuffix(".svg") for name in wide} == {name.removesuffix("-narrow.svg") for name in narrow}
    return wide | narrow


def test_every_exhibit_has_its_section(page: ElementTree.Element) -> None:
    assert EXHIBITS["claims"].question in words(found(page, "claims"))
    for name, exhibit in EXHIBITS.items():
        if exhibit.build is not None:
            section = found(page, name)
            assert summary_of(page, name) == f"{exhibit.question} {exhibit.title}"
            assert section.findall(".//table") or section.findall(".//img"), name
            assert "reproduce" not in words(section), name  # nothing is missing


def test_every_exhibit_has_a_title() -> None:
    assert [name for name, exhibit in EXHIBITS.items() if not exhibit.title] == []


def test_an_exhibit_that_is_added_has_its_section(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    content = Content(shows=["It is as it is."])
    added = Exhibit(title="Loss", question="How is it?", groups=("lenet5/dense",), build=lambda *_: content)
    monkeypatch.setitem(EXHIBITS, "loss", added)
    out = write_paper_report(Evidence({}, {}, "demo"), [], tmp_path, command=COMMAND, scale=DEMO)
    page = ElementTree.fromstring(out.read_text(encoding="utf-8"))
    assert summary_of(page, "loss") == "How is it? Loss"
    assert words(found(page, "loss")) == "It is as it is."


def test_page_loads_nothing(report: Path, page: ElementTree.Element) -> None:
    text = report.read_text(encoding="utf-8")
    assert "http" not in text
    assert "@import" not in text
    for tag in ("script", "link", "iframe", "svg"):
        assert not list(page.iter(tag))
    assert {element.tag for element in page.iter() if "src" in element.attrib} == {"img"}
    for name in sources(page):
        assert (report.parent / name).is_file()


def test_links_lead_somewhere(report: Path, page: ElementTree.Element) -> None:
    ids = {element.get("id") for element in page.iter()}
    for element in page.iter("a"):
        target = element.attrib["href"]
        assert target[1:] in ids if target.startswith("#") else (report.parent / target).is_file(), target


def test_ids_are_unique(page: ElementTree.Element) -> None:
    ids = [element.get("id") for element in page.iter() if element.get("id")]
    assert len(ids) == len(set(ids))


def test_every_figure_has_words_and_numbers(report: Path, page: ElementTree.Element) -> None:
    drawings = list(page.iter("figure"))
    assert len(drawings) == 22
    for figure in drawings:
        (image,) = figure.iter("img")
        assert re.search(r"\d", image.attrib["alt"])
        assert len(image.attrib["alt"]) > 60
        _, _, width, height = read(report, image.attrib["src"]).attrib["viewBox"].split()
        ratio = float(image.attrib["width"]) / float(image.attrib["height"])
        assert ratio == pytest.approx(float(width) / float(height), rel=0.01)  # its place is kept free
        table, drawing = (report.parent / link.attrib["href"] for link in figure.iter("a"))
        assert len(pd.read_csv(table)) > 0
        assert ElementTree.parse(drawing).getroot().tag == "{http://www.w3.org/2000/svg}svg"


def read(report: Path, name: str) -> ElementTree.Element:
    """A picture beside the page."""
    return ElementTree.parse(report.parent / name).getroot()


def test_ink_is_the_pages_and_colours_are_the_palettes(report: Path) -> None:
    for path in report.parent.glob("figures/*.svg"):
        drawings = path.read_text(encoding="utf-8")
        colours = set(re.findall(r"color: (#[0-9a-f]{6})", drawings))
        assert colours == {"#1b1f24", "#e6e8eb"}  # of the page, by day and by night
        drawings = re.sub(r"<style>svg .*?</style>", "", drawings)
        assert "currentColor" in drawings
        assert INK not in drawings
        colours = {colour.lower() for colour in re.findall(r"(?:fill|stroke)(?:: ?|=\")(#[0-9a-fA-F]{6})", drawings)}
        assert colours <= {colour.lower() for colour in PALETTE.values()}


def test_film_shows_every_frame_in_turn_and_stands_still_where_asked(report: Path, page: ElementTree.Element) -> None:
    (moving,) = (fold for fold in page.iter("details") if fold.get("class") == "moving")
    assert moving in list(found(page, "film").iter("details"))
    assert moving.get("open") is None  # it moves when it is asked for
    assert [image.get("src") for image in moving.iter("img")] == ["figures/film.svg"]
    for name in ("figures/film.svg", "figures/film-narrow.svg"):
        svg = read(report, name)
        frames = [element for element in svg.iter(f"{SVG}g") if "film-frame" in (element.get("class") or "")]
        assert [words(frame) for frame in frames] == [f"Step {DEMO.often * k}" for k in DEMO.checkpoints]
        delays = [re.search(r"[\d.]+", frame.attrib["style"]) for frame in frames]
        assert [float(delay.group()) for delay in delays if delay] == [0.5 * k for k in range(len(frames))]
        assert all(len(list(frame.iter(f"{SVG}path"))) == 6 for frame in frames)  # three networks, two panels
        assert any("prefers-reduced-motion" in words(style) for style in svg.iter(f"{SVG}style"))
        assert [frame.get("class") for frame in frames].count("film-frame film-last") == 1


def test_paths_of_the_film_lie_within_the_drawing(report: Path) -> None:
    svg = read(report, "figures/film.svg")
    _, _, width, height = (float(number) for number in svg.attrib["viewBox"].split())
    for frame in (element for element in svg.iter(f"{SVG}g") if "film-frame" in (element.get("class") or "")):
        for path in frame.iter(f"{SVG}path"):
            numbers = [float(number) for number in re.findall(r"[\d.]+", path.attrib["d"])]
            assert 0 <= min(numbers[::2]) <= max(numbers[::2]) <= width
            assert 0 <= min(numbers[1::2]) <= max(numbers[1::2]) <= height


def test_summary_counts_and_links_the_failed(page: ElementTree.Element) -> None:
    box = next(element for element in page.iter("div") if element.get("class") == "headline")
    assert words(box).startswith(
        "Of 53 claims of the paper 2 held, 1 failed and 1 is inconclusive; 49 were not judged."
    )
    first, *others = (element for element in page.iter("div") if element.get("class") == "topic")
    assert "MNIST, small ✓ 2 held ✗ 1 failed ? 1 inconclusive – 4 not judged" in words(first.findall(".//summary")[0])
    (failed,) = first.findall("ul")  # beside what is folded
    assert words(failed) == "C02 ✗ failed Dead <units> stop 95 % of the signal."
    assert [link.get("href") for link in failed.iter("a")] == ["#C02"]
    assert len(others) == len(TOPICS) - 1
    assert not any(other.findall("ul") for other in others)


def test_every_claim_has_one_topic() -> None:
    assert sorted(id for ids in TOPICS.values() for id in ids) == [claim.id for claim in claims()]


def test_findings_beyond_the_paper_stand_on_the_first_screen(page: ElementTree.Element) -> None:
    ids = [element.get("id") for element in page.iter() if element.tag == "h2"]
    assert ids.index("claims") < ids.index("beyond") < ids.index("part-tables")
    assert "Choosing settings by test images, as the paper did, reports between" in words(page)


def test_verdicts_of_pages_beside_it_stand_beside_its_own(tmp_path: Path) -> None:
    """A page of another scale is found, one of the same and a folder without claims are not; it is linked to."""
    found_there = 'id,verdict,note\nC04,held,"On CIFAR-10: it does, <well>."\nC02,inconclusive,Too few.\n'
    for folder, scale, table in (("cifar", "cifar", found_there), ("old", "demo", found_there), ("x", "smoke", "id")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "environment.json").write_text(json.dumps({"scale": scale}))
        (tmp_path / folder / "claims.csv").write_text("id,verdict,note\n" if table == "id" else table)
        (tmp_path / folder / "index.html").touch()
    (tmp_path / "y").mkdir()
    out = write_paper_report(Evidence({}, {}, "demo"), VERDICTS, tmp_path / "here", command=COMMAND, scale=DEMO)
    page = ElementTree.fromstring(out.read_text(encoding="utf-8"))
    heads = [words(cell) for cell in next(page.iter("thead")).iter("th")]
    assert heads == ["Claim", "MNIST, small", "CIFAR-10, two epochs", "What came out"]
    rows = {row.get("id"): [words(cell) for cell in row.iter("td")] for row in page.iter("tr") if row.get("id")}
    assert [cell.split(": ")[-1] for cell in rows["C04"][:2]] == ["✓ held n = 20", "✓ held"]
    assert "CIFAR-10, two epochs: On CIFAR-10: it does, <well>." in rows["C04"][2]
    assert rows["C05"][1] == "–"
    links = {link.attrib["href"] for link in page.iter("a")}
    assert "../cifar/index.html" in links
    assert {link for link in links if link.startswith("..")} == {"../cifar/index.html"}


def test_a_page_of_a_part_of_the_runs_says_what_claims_wait_for(tmp_path: Path) -> None:
    """Planned and finished runs; claims by what is to be typed, at the page's scale."""
    make = "lenet5/dense has 0 finished runs of at least 3 needed. Make them: sparseflow reproduce --scale paper x/y"
    waiting = [verdict("C08", "inconclusive", note=make), verdict("C06", "inconclusive", note=make)]
    runs = make_evidence(DEMO, only=["lenet5/dense"]).groups
    out = write_paper_report(Evidence(runs, {}, "paper"), [*VERDICTS, *waiting], tmp_path, command=COMMAND, scale=PAPER)
    page = ElementTree.fromstring(out.read_text(encoding="utf-8"))
    box = next(element for element in page.iter("div") if element.get("class") == "headline")
    planned = len({run for group in PAPER.groups.values() for run in group})
    assert (
        f"{DEMO.seeds} of {planned} runs are there. 4 claims of 6 can be judged from them so far; the others wait for"
        in words(box)
    )
    assert words(box).endswith("The rest: sparseflow reproduce --scale paper all")
    (waits,) = (fold for fold in page.iter("details") if fold.get("class") == "missing")
    assert words(waits).endswith(
        "C06, C08: lenet5/dense has 0 finished runs of at least 3 needed. sparseflow reproduce --scale paper x/y"
    )
    commands = [words(code) for code in page.iter("code")]
    assert all(
        "--scale paper" in text
        for text in commands
        if text.startswith("sparseflow reproduce") and "--verdicts" not in text and text != COMMAND
    )


def test_claims_are_all_there_with_words_not_only_signs(page: ElementTree.Element) -> None:
    tables = [table for table in page.iter("table") if table.get("class") == "claims"]
    rows = {row.get("id"): words(row) for table in tables for row in table.iter("tr") if row.get("id")}
    assert sorted(map(str, rows)) == [claim.id for claim in claims()]
    assert rows["C01"].startswith("C01 MNIST, small: ✓ held n = 20 It is so.")
    assert "Ours: 1.5" in rows["C01"]
    assert "p = 0.25, n = 20" in rows["C01"]
    assert "p < 0.0001" in rows["C02"]
    assert "? inconclusive n = 20 Too few runs." in rows["C03"]
    assert "– not judged" in rows["C05"]
    for claim in claims():
        assert claim.criterion.split(";")[0][:40] in rows[claim.id]


def test_claims_csv_is_the_verdicts(report: Path) -> None:
    table = pd.read_csv(report.parent / "claims.csv")
    assert list(table.columns) == [*COLUMNS, *FORMER]
    assert table["id"].to_list() == ["C01", "C02", "C03", "C04"]
    assert table["p_value"].to_list()[:2] == [0.25, 1e-9]
    assert pd.isna(table["p_value"][2])


def test_runs_csv_has_every_run_of_every_group(report: Path) -> None:
    table = pd.read_csv(report.parent / "runs.csv", keep_default_na=False)
    evidence = make_evidence(DEMO)
    assert list(table.columns) == [column.name for column in RUN_COLUMNS]
    assert len(table) == sum(len(runs) for runs in evidence.groups.values())
    row = table[table["group"] == "lenet5/rigl/sparse/f100"].iloc[1]
    run = evidence.groups["lenet5/rigl/sparse/f100"][1]
    assert row[["network", "method", "init", "variant"]].to_list() == ["lenet5", "rigl", "sparse", "f100"]
    assert row["config"] == run.config.hash
    assert float(row["accuracy"]) == pytest.approx(100 * run.final["test/accuracy"], abs=1e-4)
    variants = table.drop_duplicates("group").set_index("group")["variant"]
    assert variants[["lenet5/small_dense", "tickets/s80/prune", "tickets/lottery/signs"]].to_list() == [
        "", "tickets/s80", "tickets/signs"
    ]  # fmt: skip


def test_environment_says_what_it_was_made_with(report: Path) -> None:
    values = json.loads((report.parent / "environment.json").read_text())
    assert values["command"] == COMMAND
    assert values["scale"] == "demo"
    assert values["runs"]["torch"] == "2.13.0"
    assert "torch" in values["report"]


def test_files_are_those_of_this_report(report: Path, page: ElementTree.Element) -> None:
    written = {path.relative_to(report.parent).as_posix() for path in report.parent.rglob("*") if path.is_file()}
    linked = {link.attrib["href"] for link in page.iter("a") if not link.attrib["href"].startswith("#")} | sources(page)
    measured = {name for name in written if name.startswith("measured/")}
    assert measured  # what verdicts are judged from
    assert written - measured == linked | {"index.html", "SHA256SUMS"}


def test_page_is_small_and_so_is_each_figure(report: Path) -> None:
    assert report.stat().st_size < 4e5
    assert max(path.stat().st_size for path in report.parent.glob("figures/*")) < 1e6


def test_small_runs_are_called_small(page: ElementTree.Element) -> None:
    assert "These are small runs" in words(page)
    assert COMMAND in words(page)


def test_page_without_evidence_says_what_to_type(bare: ElementTree.Element) -> None:
    for name, exhibit in EXHIBITS.items():
        if exhibit.build is not None:
            assert f"sparseflow reproduce {name}" in words(found(bare, name))
    assert "0 networks were trained" in words(bare)
    assert not list(bare.iter("img"))
    assert len(list(found(bare, "C01").iter("details"))) == 1


def test_former_criterion_stands_beside_the_new_one(report: Path, page: ElementTree.Element) -> None:
    row = words(found(page, "C04"))
    assert "✓ held" in row
    assert "By its former criterion: ✗ failed" in row
    assert "Criterion: slope above 3" in row
    assert "Changed because: A slope of 2 is what the paper says." in row
    assert "corrected p = 0.5" in row
    assert "Compares: pairs by seed" in row
    assert "1 of them is judged by another criterion than before" in words(page)
    assert "on the same runs: C04 (failed → held)." in words(page)
    table = pd.read_csv(report.parent / "claims.csv", keep_default_na=False).set_index("id")
    assert table.loc["C04", ["former_verdict", "design"]].to_list() == ["failed", "pairs by seed"]
    assert table.loc["C01", "change_reason"] == ""


def test_part_of_an_exhibit_is_shown_and_the_rest_named(tmp_path: Path) -> None:
    evidence = make_evidence(DEMO, only=["lenet5/scratch/sparse", "lenet5/rigl/sparse"])
    runs = {name: runs[:1] if name == "lenet5/rigl/sparse" else runs for name, runs in evidence.groups.items()}
    page = write_paper_report(Evidence(runs, {}, "demo"), [], tmp_path, command=COMMAND, scale=DEMO)
    section = found(ElementTree.fromstring(page.read_text(encoding="utf-8")), "table1")
    assert section.findall(".//img")
    assert (
        "lenet5/dense has 0 finished runs of at least 1 needed. Make them: sparseflow reproduce lenet5/dense"
        in words(section)
    )
    planned = DEMO.many
    assert f"lenet5/rigl/sparse has 1 of {planned} runs. Make the others: sparseflow reproduce lenet5/rigl/sparse" in (
        words(section)
    )


@pytest.mark.parametrize("ids", [["C01", "C01"], ["C99"]])
def test_a_verdict_is_on_a_claim_of_its_own(ids: list[str], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"every verdict must be on a claim of its own.*C01 to C53"):
        write_paper_report(Evidence({}, {}), [verdict(id) for id in ids], tmp_path, command=COMMAND, scale=DEMO)
    assert not list(tmp_path.iterdir())


def test_headline_of_many() -> None:
    many = [verdict(claim.id, "failed" if claim.id < "C11" else "held") for claim in claims()]
    assert headline(judged(many)) == "Of 53 claims of the paper 43 held, 10 failed and 0 are inconclusive."


@pytest.mark.parametrize(
    ("p_value", "text"), [(0.0421, "0.042"), (1e-4, "0.0001"), (0.0, "< 0.0001"), (float("nan"), ""), (1.0, "1")]
)
def test_p_values_for_people(p_value: float, text: str) -> None:
    assert spoken_p(p_value) == text


def test_compact_moves_no_point_by_more_than_a_hundredth() -> None:
    path = '<path d="M 12.3456 0.0049&#10;L -7.129 512.99999 &#10;z" style="stroke-width: 0.123456" />'
    text = compact(path)
    before, after = ([float(n) for n in re.findall(r"-?\d+\.?\d*", each.split("style")[0].replace("&#10;", " "))]
                     for each in (path, text))  # fmt: skip
    assert after == pytest.approx(before, abs=0.0051)
    assert "0.123456" in text
    assert "&#10;" not in text


def test_nobody_reads_where_it_was_made(report: Path) -> None:
    for path in (report, report.parent / "environment.json", report.parent / "runs.csv"):
        assert str(Path.home()) not in path.read_text(encoding="utf-8").replace(str(report.parent), "")
        assert str(report.parent) not in path.read_text(encoding="utf-8")


def test_run_that_did_not_learn_is_counted(tmp_path: Path) -> None:
    from sparseflow.paper.matrix.mnist import groups

    configs = groups(DEMO)["lenet5/scratch/sparse"]
    runs = [
        paper_run(config, accuracy=accuracy) for config, accuracy in zip(configs, (0.98, 0.1135, 0.97), strict=True)
    ]
    evidence = Evidence({"lenet5/scratch/sparse": runs}, {}, "demo")
    write_paper_report(evidence, [], tmp_path, command=COMMAND, scale=DEMO)
    assert pd.read_csv(tmp_path / "runs.csv")["collapsed"].to_list() == [False, True, False]
    row = pd.read_csv(tmp_path / "tables" / "table1.csv").set_index("network").loc["Scratch, Ours"]
    assert row[["runs", "planned", "collapsed", "mean", "learned_mean"]].to_list() == pytest.approx(
        [3, DEMO.many, 1, (98 + 11.35 + 97) / 3, 97.5], rel=1e-6
    )
