"""The release notes of a tag are its part of the changelog, and what is not ready to be released says so."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
CHANGELOG = (
    "# Changelog\n\n## 0.2.0 (2026-12-01)\n\n**New.** A line.\n\nAnother.\n\n## 0.1.0 (2026-10-01)\n\nThe first.\n"
)


def notes(root: Path, tag: str, version: str, changelog: str) -> subprocess.CompletedProcess[str]:
    (root / ".ci").mkdir()
    shutil.copy2(ROOT / ".ci" / "notes", root / ".ci")
    (root / "src" / "sparseflow").mkdir(parents=True)
    (root / "src" / "sparseflow" / "__init__.py").write_text(f'"""The package."""\n\n__version__ = "{version}"\n')
    (root / "CHANGELOG.md").write_text(changelog)
    return subprocess.run([root / ".ci" / "notes", tag], capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("version", "wanted"),
    [
        ("0.2.0", "## 0.2.0 (2026-12-01)\n\n**New.** A line.\n\nAnother.\n"),
        ("0.1.0", "## 0.1.0 (2026-10-01)\n\nThe first.\n"),
    ],
)
def test_the_notes_are_the_part_of_the_version(tmp_path: Path, version: str, wanted: str) -> None:
    done = notes(tmp_path, f"v{version}", version, CHANGELOG)
    assert (done.returncode, done.stdout, done.stderr) == (0, wanted, "")


@pytest.mark.parametrize(
    ("tag", "version", "changelog", "said"),
    [
        ("v0.3.0", "0.2.0", CHANGELOG, "got the tag v0.3.0, needed v0.2.0"),
        ("0.2.0", "0.2.0", CHANGELOG, "got the tag 0.2.0, needed v0.2.0"),
        ("v0.2", "0.2", CHANGELOG, 'CHANGELOG.md has no part "## 0.2"'),
        ("v0.2.0", "0.2.0", f"## Unreleased\n\nMore.\n\n{CHANGELOG}", "a part of CHANGELOG.md is unreleased"),
        ("v0.2.0", "0.2.0", CHANGELOG.replace("2026-12-01", "unreleased"), "a part of CHANGELOG.md is unreleased"),
    ],
)
def test_what_is_not_ready_is_not_released(tmp_path: Path, tag: str, version: str, changelog: str, said: str) -> None:
    done = notes(tmp_path, tag, version, changelog)
    assert done.returncode == 1
    assert said in done.stderr
    assert done.stdout == ""


def test_the_version_of_the_package_is_where_the_script_looks() -> None:
    line = next(
        line for line in (ROOT / "src/sparseflow/__init__.py").read_text().splitlines() if "__version__ =" in line
    )
    version = line.split('"')[1]
    done = subprocess.run([ROOT / ".ci" / "notes", "none"], capture_output=True, text=True, check=False)
    assert done.stderr.startswith(f"got the tag none, needed v{version},")
