"""The comparison of two folders of results finds what differs; the folders are written by hand."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
RUN = "rigl-sparse-lenet5-s0-0123456789ab"
OTHER = "set-liu-lenet5-s0-ba9876543210"


def written(root: Path, *, seconds: float = 3.0) -> Path:
    """Two runs of ``seconds`` each, a measurement, and a page with a table, a claim and a figure."""
    for run in (RUN, OTHER):
        put(root / run / "config.json", '{"seed": 0, "steps": 10}\n')
        put(root / run / "metrics.jsonl", '{"step": 5, "name": "train/loss", "value": 0.5}\n')
        put(root / run / "done.json", f'{{"final": {{"test/accuracy": 0.96}}, "seconds": {seconds}, "steps": 10}}\n')
    put(root / "measurements" / "spectrum-0123.json", '{"spectrum": {"eigenvalue": [1.25]}}')
    put(root / "report" / "runs.csv", f"group,accuracy,seconds,config\nlenet5/rigl,96.0,{seconds},0123456789ab\n")
    put(root / "report" / "tables" / "table1.csv", "network,mean\nLeNet5,96.0\n")
    put(root / "report" / "claims.csv", 'id,verdict,p_value,n,note\nC01,held,1.5e-17,"20, 20","It does."\n')
    put(root / "report" / "figures" / "fig1.svg", "<svg/>\n")
    return root


def put(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def replaced(name: str, old: str, new: str) -> Callable[[Path], None]:
    """The change of a file that writes ``new`` for ``old``."""

    def change(root: Path) -> None:
        text = (root / name).read_text()
        assert old in text
        (root / name).write_text(text.replace(old, new))

    return change


def removed(name: str) -> Callable[[Path], None]:
    """The removal of a folder and its files."""

    def change(root: Path) -> None:
        for path in (root / name).iterdir():
            path.unlink()
        (root / name).rmdir()

    return change


def compare(before: Path, after: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks.same_results", str(before), str(after), *flags]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_equal_but_for_times_and_prose(tmp_path: Path) -> None:
    before, after = written(tmp_path / "before"), written(tmp_path / "after", seconds=4.0)
    replaced("report/claims.csv", "It does.", "It does so.")(after)
    replaced(f"{RUN}/config.json", '"seed": 0, "steps": 10', '"steps": 10, "seed": 0')(after)
    done = compare(before, after, "--drawings")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines() == [
        "runs: 2 before, 2 after, none different",
        "metrics: 2 before, 2 after, none different",
        "final results: 2 before, 2 after, none different",
        "measurements: 1 before, 1 after, none different",
        "tables: 2 before, 2 after, none different",
        "claims: 1 before, 1 after, none different",
        "drawings: 1 before, 1 after, none different",
    ]


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (replaced(f"{RUN}/config.json", "10", "11"), f'{RUN}: line 3:  "steps": 10 ->  "steps": 11'),
        (
            replaced(f"{RUN}/metrics.jsonl", "0.5", "0.6"),
            f'{RUN}: line 1: p": 5, "name": "train/loss", "value": 0.5}} ->',
        ),
        (replaced(f"{RUN}/done.json", "0.96", "0.95"), f'{RUN}: line 3:   "test/accuracy": 0.96 ->'),
        (removed(RUN), f"{RUN}: only before"),
        (removed("measurements"), "spectrum-0123: only before"),
        (replaced("report/runs.csv", "96.0", "95.0"), "report/runs.csv: line 2: lenet5/rigl,96.0,0123456789ab ->"),
        (replaced("report/tables/table1.csv", "LeNet5", "MLP"), "report/tables/table1.csv: line 2: LeNet5,96.0 -> MLP"),
        (replaced("report/claims.csv", "e-17", "e-16"), "report/C01: line 3: p_value: 1.5e-17 -> p_value: 1.5e-16"),
        (replaced("report/claims.csv", "held", "failed"), "report/C01: line 2: verdict: held -> verdict: failed"),
    ],
    ids=["config", "metrics", "final", "run", "measurement", "runs.csv", "table", "p-value", "verdict"],
)
def test_a_difference_is_found_and_named(tmp_path: Path, change: Callable[[Path], None], line: str) -> None:
    before, after = written(tmp_path / "before"), written(tmp_path / "after")
    change(after)
    done = compare(before, after)
    assert done.returncode == 1
    assert f"\n  {line}" in done.stdout
    assert done.stderr == "The results are not the same.\n"


def test_figures_are_compared_if_asked(tmp_path: Path) -> None:
    before, after = written(tmp_path / "before"), written(tmp_path / "after")
    replaced("report/figures/fig1.svg", "<svg/>", "<svg></svg>")(after)
    assert compare(before, after).returncode == 0
    assert compare(before, after, "--drawings").returncode == 1


def test_what_cannot_differ_is_an_error(tmp_path: Path) -> None:
    before, after = written(tmp_path / "before"), tmp_path / "after"
    after.mkdir()
    assert compare(before, after).stderr.startswith(f"{after} holds no table to compare. Give the --out of")
    assert f"{after} is compared with itself. Give two folders." in compare(after, before / ".." / "after").stderr
    for root in (before, written(after)):
        (root / RUN / "done.json").unlink()
    done = compare(before, after)
    assert done.returncode == 1
    assert done.stderr.startswith(f"{before} has unfinished runs: {RUN}. Type the command")
