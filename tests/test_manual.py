"""The manual builds strictly, has an entry for each public name, and needs no network to be read and searched."""

from __future__ import annotations

import html
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import sparseflow

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "docs" / "hooks"))

from formulas import drawn  # noqa: E402
from gallery import result_of  # noqa: E402
from public import entry, home, public_modules, submodule  # noqa: E402
from repository import linked  # noqa: E402

MODULES = public_modules()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The manual, built from this tree; a broken link or reference is an error."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_every_public_name_has_an_entry(site: Path) -> None:
    for module, names in MODULES.items():
        text = (site / "reference" / f"{module}.html").read_text()
        assert [name for name in names if f'id="{entry(module, name)}"' not in text] == [], module


def test_every_name_that_the_package_shows_is_public() -> None:
    """The sources are read as text; what is imported must agree."""
    shown = {name for name in sparseflow.__all__ if submodule("sparseflow", name) not in MODULES}
    assert set(MODULES["sparseflow"]) == shown
    assert {"sparseflow.analysis", "sparseflow.engine", "sparseflow.methods", "sparseflow.tickets"} <= MODULES.keys()


def test_a_name_is_found_where_it_is_defined() -> None:
    assert home("sparseflow", "gradient_flow") == "sparseflow.analysis.flow"
    assert submodule("sparseflow", "updaters") == "sparseflow.methods"


def test_no_page_loads_anything_from_elsewhere(site: Path) -> None:
    loads = re.compile(
        r"<(?:script|img|iframe|source)[^>]*\bsrc=\"?(https?:[^\"\s>]+)|<link[^>]*href=\"?(https?:[^\"\s>]+)"
    )
    assert loads.search('<script src="https://elsewhere.example/a.js">')
    pages = [page for page in site.rglob("*.html") if "repository" not in page.parts]
    assert len(pages) > 20
    for page in pages:
        assert loads.findall(page.read_text()) == [], page.name


def test_search_works_in_a_folder(site: Path) -> None:
    """A page that is opened as a file may read scripts alone: the index is one, and what stands in for a worker."""
    assert (site / "search" / "search_index.js").read_text().startswith("var __index = {")
    assert "assets/iframe-worker.js" in (site / "index.html").read_text()


def test_pages_that_are_linked_to_come_along(site: Path) -> None:
    for page in sorted((ROOT / "docs").glob("*.md")):
        for name in linked(page.read_text()):
            assert (site / "repository" / name).exists(), f"{page.name}: {name}"


def test_programs_that_read_find_every_page(site: Path) -> None:
    text = (site / "llms.txt").read_text()
    assert text.startswith("# sparseflow\n\n> Train sparse neural networks")
    places = re.findall(r"^- \[[^\]]+\]\(([^)]+)\)", text, flags=re.MULTILINE)
    assert len(places) == len(set(places)) > 30
    assert all((site / place).exists() for place in places)
    assert "[how-to-choose](how-to-choose.html): What to set, by what was measured here." in text


def test_the_gallery_shows_what_every_example_prints(site: Path) -> None:
    text = (site / "gallery.html").read_text()
    for example in sorted((ROOT / "examples").glob("*.py")):
        printed = result_of(example)["printed"].strip().splitlines()[-1]
        assert html.escape(printed) in text, example.name
    assert text.count("<svg xmlns:xlink") >= 2


def test_a_formula_that_cannot_be_drawn_is_an_error() -> None:
    assert drawn(r"\frac{1}{n} \sum_i w_i").startswith('<svg class="formula"')
    with pytest.raises(ValueError, match=r"the formula '.*nonsense.*' cannot be drawn"):
        drawn(r"\nonsense{1}")
