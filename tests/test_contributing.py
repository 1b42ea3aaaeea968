"""The recipes of CONTRIBUTING.md, followed to the letter in a copy of the repository, as a newcomer would."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
#: A step of a recipe: a sentence that names a file, and for a row its table, then the code.
_STEP = re.compile(
    r"(?:Write|Add its row to `(?P<table>\w+)` in) `(?P<path>[\w/.]+)`[^\n]*:\n\n```python\n(?P<code>.*?)```", re.DOTALL
)


def follow(recipe: str, repository: Path) -> list[Path]:
    """Do every step of a section of CONTRIBUTING.md; the files that were written or changed."""
    page = (ROOT / "CONTRIBUTING.md").read_text()
    section = page.split(f"## {recipe}\n")[1].split("\n## ")[0]
    changed = []
    for step in _STEP.finditer(section):
        path = repository / step["path"]
        if step["table"] is None:
            assert not path.exists()
            path.write_text(step["code"])
        else:
            add_row(path, step["table"], step["code"])
        changed.append(path)
    assert len(changed) == section.count("```python")
    return changed


def add_row(path: Path, table: str, code: str) -> None:
    """Put the imports of a row behind the file's own, and the row at the end of a table."""
    imports, row = code.split("\n\n")
    text = path.read_text()
    start = text.index(f"\n{table}: dict[")
    end = text.index("\n}\n", start)
    text = f"{text[:end]}\n{row.rstrip()}{text[end:]}"
    last = list(re.finditer(r"^from sparseflow[^\n(]*(?:\([^)]*\))?[^\n]*\n", text, re.MULTILINE))[-1]
    path.write_text(f"{text[: last.end()]}{imports}\n{text[last.end() :]}")


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A copy of the sources, with the kernels that are compiled already, and of the tests."""
    for name in ("src", "tests"):
        shutil.copytree(ROOT / name, tmp_path / name)
    shutil.copy2(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def run(repository: Path, *command: str) -> str:
    """What a command prints, run on the copy; a failure shows it."""
    environment = {**os.environ, "PYTHONPATH": str(repository / "src"), "MYPYPATH": str(repository / "src")}
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=repository, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def types(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what mypy knows of the files that nobody changes."""
    cache = tmp_path_factory.mktemp("types") / "cache"
    if (known := ROOT / ".mypy_cache").exists():
        shutil.copytree(known, cache)
    return cache


def lint(repository: Path, changed: list[Path], types: Path) -> None:
    """Ruff and mypy accept the files; the imports of rows are sorted first, as an editor does."""
    names = [str(path.relative_to(repository)) for path in changed]
    run(repository, "ruff", "check", "--quiet", "--select", "I", "--fix", *names)
    run(repository, "ruff", "check", *names)
    run(repository, "ruff", "format", "--check", *names)
    sources = [name for name in names if name.startswith("src")]
    run(repository, "mypy", "--cache-dir", str(types), *sources)


TRAIN = "sparseflow train --dataset mnist-5k --engine masked --steps 40 --batch-size 32 --log-every 10 --eval-every 40"


def trained(repository: Path, *options: str) -> dict[str, float]:
    """Final metrics of a short run from the command line; its files are in ``runs``."""
    run(repository, *TRAIN.split(), "--out", "runs", *options)
    (done,) = (repository / "runs").glob("*/done.json")
    final: dict[str, float] = json.loads(done.read_text())["final"]
    return final


@pytest.mark.slow
def test_add_a_method(repository: Path, types: Path) -> None:
    changed = follow("Add a method", repository)
    lint(repository, changed, types)
    tests = run(repository, "pytest", "tests/methods", "-k", "noisy_rigl", "-p", "no:cacheprovider")
    assert int(re.findall(r"(\d+) passed", tests)[0]) > 20  # the contract suite, not the oracle alone
    final = trained(repository, "--method", "noisy_rigl", "--update-every", "10")
    assert abs(final["sparsity"] - 0.95) < 1e-3
    (metrics,) = (repository / "runs").glob("*/metrics.jsonl")
    log = [json.loads(line) for line in metrics.read_text().splitlines()]
    assert sum(entry["name"] == "update/after" for entry in log) == 4
    run(repository, "sparseflow", "report", "runs", "--out", "page")
    assert "Noisy RigL, Ours" in (repository / "page" / "index.html").read_text()
    tables = [path.read_text() for path in (repository / "page" / "figures").glob("*.csv")]
    assert sum("noisy_rigl" in table or "Noisy RigL" in table for table in tables) >= 2


@pytest.mark.slow
def test_add_a_network(repository: Path, types: Path) -> None:
    changed = follow("Add a network", repository)
    lint(repository, changed, types)
    run(repository, "pytest", "src/sparseflow/networks/two_layer.py", "-p", "no:cacheprovider")
    final = trained(repository, "--model", "two-layer", "--method", "set", "--update-every", "10")
    assert abs(final["sparsity"] - 0.95) < 1e-3
    run(repository, "sparseflow", "report", "runs", "--out", "page")
    assert "a network of two layers" in (repository / "page" / "index.html").read_text()


@pytest.mark.slow
def test_add_a_figure(repository: Path, types: Path) -> None:
    changed = follow("Add a figure", repository)
    lint(repository, changed, types)
    run(
        repository,
        *["sparseflow", "reproduce", "loss", "--scale", "demo", "--seeds", "1", "--out", "runs", "--report", "page"],
    )
    page = (repository / "page" / "index.html").read_text()
    assert "How fast does the loss fall?" in page
    assert "Small Dense ends at" in page
    for name in ("loss.svg", "loss.csv"):
        assert (repository / "page" / "figures" / name).exists()
