"""The table of dense, sparse and small dense decoders: the rate that a search chose, and what the runs say."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pytest

from short_text import short_text
from sparseflow.training import text_loop
from sparseflow.training.runs import Run, load_run
from sparseflow.training.text import TextRun, small_dense

sys.path.insert(0, str(Path(__file__).parent.parent.parent))  # benchmarks/ is beside the package, not in it

from benchmarks import text_runs

TINY = TextRun(width=16, depth=1, heads=2, context=16, batch_size=2, eval_windows=2, engine="masked")
KINDS = {"dense": TINY, "1 in 5": TINY.with_(one_in=5), "small": small_dense(TINY.with_(one_in=5))}


def test_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def here(runs: Sequence[TextRun], *, root: Path, jobs: int) -> list[Run]:
        return [text_runs.trained(run, root=root) for run in runs]

    monkeypatch.setattr(text_loop, "load_text", short_text)
    monkeypatch.setattr(text_runs, "KINDS", KINDS)
    monkeypatch.setattr(text_runs, "RATES", (1e-9, 0.01))
    monkeypatch.setattr(text_runs, "all_trained", here)
    arguments = {"runs": tmp_path / "runs", "out": tmp_path / "out", "steps": 3, "search-steps": 20}
    monkeypatch.setattr(sys, "argv", ["text_runs", *(f"--{name}={value}" for name, value in arguments.items())])
    text_runs.main()
    table = pd.read_csv(tmp_path / "out" / "runs.csv")
    final = table[~table["search"]]
    assert final["kind"].tolist() == list(KINDS)
    assert final["learning_rate"].tolist() == [0.01] * 3  # at the other rate nothing is learned
    for found, run in zip(final.to_dict("records"), KINDS.values(), strict=True):
        stored = load_run(tmp_path / "runs" / run.with_(steps=3, learning_rate=0.01).name)
        assert found["bits_per_byte"] == pytest.approx(stored.final["validation/bits_per_byte"], rel=1e-12)
        assert found["weights"] == stored.final["weights"]
        assert found["command"] == stored.config.command
    assert len(table) == 3 + 2 * 3
