"""What the documents show runs as they show it, and their numbers are those of committed result files."""

from __future__ import annotations

import re
import runpy
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))  # benchmarks/ is beside the package, not in it


def python_blocks(name: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / name).read_text(), flags=re.DOTALL)


@pytest.mark.parametrize("example", sorted((ROOT / "examples").glob("*.py")), ids=lambda path: path.name)
def test_example(example: Path) -> None:
    """Each example asserts the claim it makes."""
    assert "assert" in example.read_text()
    runpy.run_path(str(example))


def test_readme_loop(tmp_path: Path) -> None:
    (block,) = python_blocks("README.md")
    assert len(block.strip().splitlines()) <= 16
    script = tmp_path / "loop.py"
    script.write_text(block)
    names = runpy.run_path(str(script))
    assert names["sparsifier"].step_count == 300
    assert not names["sparsifier"].masks["0.weight"].all()


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
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]:
        text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
        for target in re.findall(r"\]\(([^)#]+)\)", text):
            assert target.startswith("https://") or (page.parent / target).exists(), f"{page.name}: {target}"


def test_readme_shows_the_committed_demo() -> None:
    from benchmarks.demo import KEPT, markdown
    from benchmarks.table import filled

    text = (ROOT / "README.md").read_text()
    table = markdown(pd.read_csv(KEPT / "figures" / "summary.csv"))
    assert filled(text, "demo", table) == text, "run python -m benchmarks.demo RUNS"


def test_readme_shows_the_committed_paper() -> None:
    from benchmarks.paper import KEPT, markdown
    from benchmarks.table import filled

    text = (ROOT / "README.md").read_text()
    block = markdown(pd.read_csv(KEPT / "tables" / "table1.csv"), pd.read_csv(KEPT / "claims.csv"))
    assert filled(text, "paper", block) == text, "run python -m benchmarks.paper"


def test_readme_shows_the_committed_images() -> None:
    from benchmarks.cifar import kept
    from benchmarks.table import filled

    text = (ROOT / "README.md").read_text()
    assert filled(text, "cifar", kept()) == text, "run python -m benchmarks.cifar"


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


def test_docs_show_the_committed_last_updates() -> None:
    from benchmarks.last_update import PAGE, RESULT, markdown
    from benchmarks.table import filled

    text = PAGE.read_text()
    assert filled(text, "last_update", markdown(pd.read_csv(RESULT))) == text, "run python -m benchmarks.last_update"


def test_commands_that_the_readme_names_exist() -> None:
    done = subprocess.run([sys.executable, "-m", "sparseflow", "--help"], capture_output=True, text=True, check=True)
    for command in re.findall(r"`sparseflow (\w+)", (ROOT / "README.md").read_text()):
        assert command in done.stdout
