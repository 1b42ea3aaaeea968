"""What the documents show runs as they show it, and their numbers are those of committed result files."""

from __future__ import annotations

import re
import runpy
import subprocess
import sys
import textwrap
from html import unescape
from pathlib import Path

import pandas as pd
import pytest

import sparseflow as sf
from sparseflow.paper.claims.withdrawn import REASONS, former_of, note_of

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "docs" / "results.md"
sys.path.insert(0, str(ROOT / "docs" / "hooks"))

from gallery import result_of  # noqa: E402

sys.path.insert(0, str(ROOT))  # benchmarks/ is beside the package, not in it


PAGES = sorted(path.name for path in (ROOT / "docs").glob("*.md") if "```python" in path.read_text())
#: Pages that a test of their own runs, which looks at more than that they run.
ELSEWHERE = {
    page: test
    for test in sorted((ROOT / "tests").rglob("test_*.py"))
    for page in PAGES
    if re.search(rf'(docs(" / ")?/?|run_page\("){page}"', test.read_text())
}
#: Pages whose programs need images that are not here; of these the imports are run.
NEEDS_IMAGES = {"vision.md"}


def python_blocks(name: str) -> list[str]:
    """What a document shows as Python, also indented, and what it has in comments that begin with ``setup``."""
    text = (ROOT / name).read_text()
    found = re.findall(r"^( *)```python\n(.*?)^ *```|^<!-- setup\n(.*?)-->", text, flags=re.DOTALL | re.MULTILINE)
    return [setup or textwrap.dedent(shown) for _, shown, setup in found]


@pytest.mark.parametrize("page", [page for page in PAGES if page not in {*ELSEWHERE, *NEEDS_IMAGES}])
def test_the_code_of_a_page_runs(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Block by block, as a reader types it, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    Path("page.py").write_text("\n".join(python_blocks(f"docs/{page}")))
    runpy.run_path("page.py", run_name="__main__")


@pytest.mark.parametrize("page", sorted(NEEDS_IMAGES))
def test_the_imports_of_a_page_run(page: str) -> None:
    code = "\n".join(python_blocks(f"docs/{page}"))
    compile(code, page, "exec")
    lines = [line for line in code.splitlines() if line.startswith(("from ", "import "))]
    assert lines
    exec("\n".join(lines), {})


@pytest.mark.parametrize("example", sorted((ROOT / "examples").glob("*.py")), ids=lambda path: path.name)
def test_example(example: Path) -> None:
    """Each example asserts the claim it makes; what it prints is kept for the gallery of the manual."""
    assert "assert" in example.read_text()
    assert result_of(example)["printed"]


def test_readme_loop(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In the first screen there is a program on real digits, and what it prints is true."""
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 90
    assert text.split("```python")[0].count("\n") < 20
    (block,) = python_blocks("README.md")
    assert len([line for line in block.splitlines() if line]) <= 22
    script = tmp_path / "loop.py"
    script.write_text(block)
    names = runpy.run_path(str(script))
    assert names["sparsifier"].step_count == 600
    assert not names["sparsifier"].masks["1.weight"].all()
    printed = re.match(r"(\d+)% of new digits right, with 5% of the weights\n", capsys.readouterr().out)
    assert printed is not None
    assert int(printed[1]) >= 85
    assert abs(sf.sparsity_of(names["sparsifier"].masks) - 0.95) < 0.001


def test_the_page_on_layers(tmp_path: Path) -> None:
    """Its examples run one after the other, in a process of their own; its table names every row."""
    from sparseflow.masks.layers import LAYERS, row_name

    script = tmp_path / "layers.py"
    checks = [
        "assert list(masks) == ['0.each', '0.mix', '1.weight']",
        "sparsifier.check(); assert abs(sf.sparsity_of(masks) - 0.9) < 0.001",
    ]
    blocks = python_blocks("docs/layers.md")
    script.write_text("\n".join(part for pair in zip(blocks, checks, strict=True) for part in pair))
    subprocess.run([sys.executable, "-W", "error", str(script)], check=True)
    page = (ROOT / "docs" / "layers.md").read_text()
    assert [key for key in map(row_name, LAYERS) if f"`{key}`" not in page] == []


def test_the_page_on_blocks(tmp_path: Path) -> None:
    (block,) = python_blocks("docs/blocks.md")
    script = tmp_path / "blocks.py"
    script.write_text(block)
    names = runpy.run_path(str(script))
    mask = names["sparsifier"].masks["0.weight"]
    assert int(mask.sum()) == 820  # 204.8 of 2048 blocks
    assert (mask[::4].repeat_interleave(4, 0) == mask).all()
    assert names["sparsifier"].block == {"0.weight": (4, 1)}


def test_links_in_the_documents_lead_somewhere() -> None:
    """Those of the reference and of pages that the build makes are checked by the strict build."""
    made = {"reference", "gallery.md", "contributing.md", "changelog.md"}
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]:
        text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
        for target in re.findall(r"\]\(([^)#]+)\)", text):
            if made.intersection(Path(target).parts):
                continue
            assert target.startswith("https://") or (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_manual_shows_the_committed_demo() -> None:
    from benchmarks.demo import block
    from benchmarks.table import filled

    text = RESULTS.read_text()
    assert filled(text, "demo", block()) == text, "run python -m benchmarks.demo RUNS"


def test_the_manual_shows_the_committed_paper() -> None:
    from benchmarks.paper import KEPT, kept
    from benchmarks.table import filled

    text = RESULTS.read_text()
    for name in KEPT:
        assert filled(text, name, kept(name)) == text, "run python -m benchmarks.paper"


def test_the_manual_counts_the_claims_that_a_page_is_asked_for() -> None:
    """As the page's first words do."""
    from benchmarks.paper import kept

    counted = re.search(r"Of (\d+) claims of the paper (\d+) held, (\d+) failed", kept("paper-period-100"))
    assert counted is not None
    assert counted[0] in " ".join((ROOT / "results" / "paper-period-100" / "index.html").read_text().split())


def test_the_manual_shows_the_committed_images() -> None:
    from benchmarks.cifar import kept
    from benchmarks.table import filled

    text = RESULTS.read_text()
    assert filled(text, "cifar", kept()) == text, "run python -m benchmarks.cifar"


def test_the_committed_images_have_no_verdict_that_is_withdrawn() -> None:
    """In the table and on the page; what the verdict was stands beside the reason."""
    claims = pd.read_csv(ROOT / "results" / "cifar" / "claims.csv").set_index("id")
    page = unescape((ROOT / "results" / "cifar" / "index.html").read_text())
    for claim in REASONS:
        row = claims.loc[claim]
        assert (row["verdict"], row["note"]) == ("inconclusive", note_of(claim))
        assert pd.isna(row["p_value"])
        former = former_of(claim, row["former_verdict"])
        assert (row["former_criterion"], row["change_reason"]) == (former.criterion, former.reason)
        # In its row, and once in the head for all claims that share the reason.
        assert page.count(note_of(claim)) == 1 + list(REASONS.values()).count(REASONS[claim])
        assert f"The verdict was “{former.verdict}”" in page
    assert set(claims.index[claims["verdict"] != "inconclusive"]) == {"C05", "C33", "C35"}


def test_the_manual_shows_the_committed_comparisons() -> None:
    from benchmarks.choose import PAGE, block
    from benchmarks.table import filled

    text = PAGE.read_text()
    assert filled(text, "compare", block()) == text, "run python -m benchmarks.choose"


def test_the_committed_claims_have_a_verdict_each() -> None:
    """53 rows; a p-value only where there is a verdict or a test that did not decide."""
    claims = pd.read_csv(ROOT / "results" / "paper" / "claims.csv")
    assert list(claims.columns) == ["id", "verdict", "statistic", "p_value", "n", "ours", "published", "note"]
    assert claims["id"].tolist() == [f"C{number:02d}" for number in range(1, 54)]
    assert set(claims["verdict"]) <= {"held", "failed", "inconclusive"}
    assert claims["p_value"].dropna().between(0, 1).all()
    assert claims.loc[claims["p_value"].notna(), "n"].notna().all()


def test_docs_show_the_committed_signal() -> None:
    from benchmarks.signal import PAGE, RESULT, markdown
    from benchmarks.table import filled

    text = PAGE.read_text()
    assert filled(text, "signal", markdown(pd.read_csv(RESULT))) == text, "run python -m benchmarks.signal"


def test_docs_show_the_committed_starts_with_batch_norm() -> None:
    from benchmarks.batch_norm import PAGE, kept
    from benchmarks.table import filled

    text = PAGE.read_text()
    assert filled(text, "batch-norm", kept()) == text, "run python -m benchmarks.batch_norm"


def test_docs_show_the_committed_last_updates() -> None:
    from benchmarks.last_update import PAGE, RESULT, markdown
    from benchmarks.table import filled

    text = PAGE.read_text()
    assert filled(text, "last_update", markdown(pd.read_csv(RESULT))) == text, "run python -m benchmarks.last_update"


def test_commands_that_the_documents_name_exist() -> None:
    done = subprocess.run([sys.executable, "-m", "sparseflow", "--help"], capture_output=True, text=True, check=True)
    for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        for command in re.findall(r"(?:`|^)sparseflow ([a-z]\w*)", page.read_text(), flags=re.MULTILINE):
            assert command in done.stdout, f"{page.name}: sparseflow {command}"
