"""Two checkouts take turns and their neighbours are compared; what is measured is made up by hand."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))  # benchmarks/ is beside the package, not in it

from benchmarks import against  # noqa: E402
from benchmarks.against_child import benchmark_of  # noqa: E402


@pytest.mark.parametrize("name", against.ROWS)
def test_every_row_is_a_benchmark(name: str) -> None:
    assert benchmark_of(against.ROWS[name].module, name).name == name


class Children:
    """In place of child processes: this checkout takes 3, 3 and 9 seconds, the other one 2, 2 and 3."""

    def __init__(self, *, label_before: str = "sparsity 0.8") -> None:
        self.order: list[str] = []
        self.label_before = label_before

    def run(self, command: list[str], *, cwd: Path, **options: Any) -> subprocess.CompletedProcess[str]:
        is_after = cwd == against.ROOT
        who = "after" if is_after else "before"
        seconds = ((3.0, 3.0, 9.0) if is_after else (2.0, 2.0, 3.0))[self.order.count(who)]
        self.order.append(who)
        label = "sparsity 0.8" if is_after else self.label_before
        case = {"label": label, "unit": "seconds", "subject": seconds, "ratio": 1.5}
        package = str(cwd / "src" / "sparseflow" / "__init__.py")
        return subprocess.CompletedProcess(command, 0, stdout=json.dumps({"package": package, "cases": [case]}))


def test_checkouts_take_turns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    children = Children()
    monkeypatch.setattr(subprocess, "run", children.run)
    (case,) = against.compared("mask_update", tmp_path, rounds=3, smoke=False)
    assert children.order == ["after", "before", "before", "after", "after", "before"]
    assert case.label == "mask_update, sparsity 0.8"
    assert case.timings.ratios == [1.5, 1.5, 3.0]
    assert case.configuration["own_ratios"] == {"after": [1.5] * 3, "before": [1.5] * 3}


def test_other_cases_are_not_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "run", Children(label_before="sparsity 0.9").run)
    with pytest.raises(RuntimeError, match=r"measures other cases in the other checkout: sparsity 0\.8, sparsity 0\.9"):
        list(against.compared("mask_update", tmp_path, rounds=1, smoke=False))


def test_the_package_measured_is_that_of_the_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = json.dumps({"package": "/elsewhere/sparseflow/__init__.py", "cases": []})
    monkeypatch.setattr(subprocess, "run", lambda *args, **kwargs: subprocess.CompletedProcess(args, 0, stdout=answer))
    with pytest.raises(RuntimeError, match=r"sparseflow of /elsewhere/sparseflow/__init__\.py was measured"):
        list(against.compared("mask_update", tmp_path, rounds=1, smoke=False))
