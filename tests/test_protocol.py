"""Every citation of the protocol, as in "protocol C.3", names a section or row that docs/protocol.md has."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import sparseflow

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "protocol.md"
#: A letter with up to two numbers (C, C.3, C.1.5), a row of section J (J17), or the summary, 0.
LABEL = r"(?:[A-Z](?:\.\d+){0,2}|J\d+|0)(?![\w.]*\w)"
#: One label or a list: "H, J17", "C.3 and C.4", "G.3/G.4", "B.3 to B.7", "A.11, sections D and E".
CITATION = re.compile(
    rf"\b[Pp]rotocol(?:'s)?\s+(?:sections?\s+)?({LABEL}(?:(?:\s*[,/;-]|,?\s+(?:and|or|to))\s*(?:sections?\s+)?{LABEL})*)"
)
#: An anchor and the label that it stands before.
ANCHOR = re.compile(rf'<a id="([^"]+)"></a>({LABEL})')


def cited(text: str) -> list[str]:
    """Labels that a text cites, in order; a citation may go on in the next line of a comment."""
    running = re.sub(r"\s*\n\s*(?:#:?\s*)?", " ", text)
    return [label for match in CITATION.finditer(running) for label in re.findall(LABEL, match[1])]


def sections(page: str) -> set[str]:
    return {label for _, label in ANCHOR.findall(page)}


def texts() -> Iterator[Path]:
    """Source, tests, documents and printed tables: whatever may cite the protocol, but for this file and the page."""
    yield from (ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md")
    for folder in ("src", "tests", "docs", "benchmarks", "examples"):
        found = (path for path in (ROOT / folder).rglob("*") if path.suffix in {".py", ".md", ".csv"})
        yield from (path for path in sorted(found) if path not in {Path(__file__), PAGE})


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("Reference: protocol C.3.", ["C.3"]),
        ("its code float32 (protocol H, J17).", ["H", "J17"]),
        ("protocol 0, C.4, D.4, E, G and J; Evci et al. (2022), Tables 1 to 4", ["0", "C.4", "D.4", "E", "G", "J"]),
        ("Protocol C.3 and J5: as there", ["C.3", "J5"]),
        ("``protocol G.3/G.4``, protocol B.4-B.5", ["G.3", "G.4", "B.4", "B.5"]),
        ("protocol A.11, sections D and E.", ["A.11", "D", "E"]),
        ("protocol section I.4", ["I.4"]),
        ("(protocol C.1.5 and C.1.6), 4 is new", ["C.1.5", "C.1.6"]),
        ("    # as in protocol\n    # B.3 to\n    # B.7, where", ["B.3", "B.7"]),
        ("Protocol K.2, 95 % random masks", ["K.2"]),
        ("protocol A.1; claim C16", ["A.1"]),
        ("the protocol's numbers; class ScoreFn(Protocol): A", []),
    ],
)
def test_citations_are_found(text: str, labels: list[str]) -> None:
    assert cited(text) == labels


def test_a_made_up_citation_is_found_out() -> None:
    """Neither a section's number nor a row's number may run past its end."""
    made_up = "protocol C.3, C.9 and J31; protocol G.60; protocol C.1.7; protocol M.2"
    assert set(cited(made_up)) - sections(PAGE.read_text()) == {"C.9", "J31", "G.60", "C.1.7", "M.2"}


def test_every_cited_section_exists() -> None:
    cited_by = {path: cited(path.read_text()) for path in texts()}
    assert sum(map(len, cited_by.values())) > 100  # 182 when this was written: the search has not gone blind
    there = sections(PAGE.read_text())
    nowhere = {str(path.relative_to(ROOT)): gone for path, labels in cited_by.items() if (gone := set(labels) - there)}
    assert not nowhere, f"cite what docs/protocol.md does not have; see its table of sections: {nowhere}"


def test_every_heading_and_row_has_the_anchor_of_its_label() -> None:
    """C.3 is #c3, J17 is #j17, C.1.5 is #c1-5, so that links last; none is used twice, and each link arrives."""
    page = PAGE.read_text()
    anchors = ANCHOR.findall(page)
    assert [anchor for anchor, _ in anchors] == [
        re.sub(r"^([a-l])\.", r"\1", label.lower()).replace(".", "-") for _, label in anchors
    ]
    assert len({anchor for anchor, _ in anchors}) == len(anchors) == page.count("<a id=")
    headings = re.findall(r"^##+ (.*)$", page, flags=re.MULTILINE)
    assert [heading for heading in headings if not ANCHOR.match(heading)] == ["Sources, tags and conventions"]
    for text in (page, (ROOT / "docs" / "reproduction.md").read_text()):
        links = re.findall(r"\((?:protocol\.md)?#([^)]*)\)", text)
        assert links
        assert set(links) <= {anchor for anchor, _ in anchors}


def test_files_that_the_page_names_are_in_the_package() -> None:
    named = set(re.findall(r"\b\w+\.csv\b", PAGE.read_text()))
    printed = {path.name for path in (Path(sparseflow.__file__).parent / "paper" / "printed").glob("*.csv")}
    assert {"claims.csv", "table1.csv", "figure_numbers.csv"} <= named <= printed
