"""The benchmarks run at tiny sizes and judge no time; the README's table is what the committed results say."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))  # benchmarks/ is beside the package, not in it

from benchmarks.result import load  # noqa: E402
from benchmarks.table import ORDER, README, filled, markdown  # noqa: E402
from benchmarks.timing import Timings, alternate  # noqa: E402


def test_every_benchmark_runs(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks", "--smoke", "--out", str(tmp_path / "results")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for name in ORDER:
        assert f"{name}, " in done.stdout
    assert not (tmp_path / "results").exists()


def test_resnet50_has_the_known_size() -> None:
    from benchmarks.resnet50 import resnet50

    assert sum(parameter.numel() for parameter in resnet50().parameters()) == 25_557_032  # torchvision's resnet50


def test_readme_says_what_the_results_say() -> None:
    results = load()
    assert [result["name"] for result in results] == sorted(ORDER)
    text = README.read_text()
    assert filled(text, "benchmarks", markdown(results)) == text, "run python -m benchmarks.table"


def test_a_document_without_markers_is_refused() -> None:
    begin, end = "<!-- table:begin -->", "<!-- table:end -->"
    for text in ("", begin, end + begin, begin + end + end):
        with pytest.raises(ValueError, match="the document needs one <!-- table:begin --> and after it one"):
            filled(text, "table", "rows")


def test_turns_alternate_and_stop_when_the_ratio_is_stable() -> None:
    """By hand: warm-up 1 and two repeats, all ratios 2, so nothing beyond the least is measured."""
    calls: list[str] = []

    def takes(name: str, seconds: float) -> float:
        calls.append(name)
        return seconds

    timings = alternate(lambda: takes("a", 2.0), lambda: takes("b", 1.0), repeats=2, warmup=1)
    assert "".join(calls) == "ab" + "ba" + "ab"
    assert timings == Timings([2.0, 2.0], [1.0, 1.0])
    assert timings.ratio == 2.0
    assert timings.quartiles == (2.0, 2.0)


def test_an_unstable_ratio_is_measured_four_times_as_long() -> None:
    """Even repeats give 1, odd ones 3: never within 2 %."""
    seconds = iter([1.0, 3.0] * 100)
    timings = alternate(lambda: next(seconds), lambda: 1.0, repeats=3, warmup=0)
    assert len(timings.subject) == len(timings.baseline) == 12
