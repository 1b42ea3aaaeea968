"""Python, torch, Numba and NumPy: pyproject.toml, the workflow and the page declare the same."""

from __future__ import annotations

import json
import re
import shlex
import sys
import tomllib
from pathlib import Path

import yaml

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))  # benchmarks/ is beside the package, not in it

from benchmarks.table import filled  # noqa: E402
from benchmarks.versions import PAGE, RELEASES, ROWS, markdown, merged, minor  # noqa: E402

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LOWEST = dict(line.split(">=") for line in PROJECT["dependencies"])
SETS = yaml.safe_load((ROOT / ".github/workflows/versions.yml").read_text())["jobs"]["core"]["strategy"]["matrix"][
    "include"
]


def classifiers() -> list[str]:
    return [line.rsplit(" ", 1)[1] for line in PROJECT["classifiers"] if re.fullmatch(r".*Python :: 3\.\d+", line)]


def test_the_page_shows_the_rows() -> None:
    text = PAGE.read_text()
    table = markdown(json.loads(ROWS.read_text()))
    assert filled(text, "versions", table) == text, "run python -m benchmarks.versions PYTHON"


def test_each_python_that_is_declared_is_run_by_the_workflow_and_no_other_is_listed() -> None:
    declared = [minor(python) for python in classifiers()]
    assert PROJECT["requires-python"] == f">={classifiers()[0]}"
    assert {minor(row["python"]) for row in json.loads(ROWS.read_text())} <= {*declared}
    assert [minor(row["python"]) for row in SETS] == declared


def test_the_oldest_set_is_what_the_package_allows_at_least() -> None:
    oldest = dict(pin.split("==") for pin in SETS[0]["set"].split())
    assert oldest.keys() == LOWEST.keys()
    for name, version in oldest.items():
        assert f"{version}.".startswith(f"{LOWEST[name]}."), name


def test_the_others_are_the_newest_that_there_are() -> None:
    assert all(row["set"].split() == ["torch", "numba", "numpy"] for row in SETS[1:])


def test_what_the_script_runs_is_there() -> None:
    command = shlex.split((ROOT / ".ci/core").read_text().replace("\\\n", ""), comments=True)
    paths = [word for word in command if word.startswith("tests/")]
    assert len(paths) > 5
    assert all((ROOT / path).exists() for path in paths), paths


def test_a_new_row_takes_the_place_of_that_of_the_same_python() -> None:
    def row(python: str, passed: int) -> dict[str, str | int]:
        return {**dict.fromkeys(RELEASES, "1.0"), "python": python, "passed": passed, "skipped": 0}

    rows = merged([row("3.11.7", 1), row("3.13.0", 2)], [row("3.9.1", 3), row("3.13.2", 4)])
    assert [(row["python"], row["passed"]) for row in rows] == [("3.9.1", 3), ("3.11.7", 1), ("3.13.2", 4)]
    assert markdown(rows).splitlines()[2] == "| 3.9.1 | 1.0 | 1.0 | 1.0 | 3 | 0 |"
