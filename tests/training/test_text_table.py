"""The table of dense, sparse and small dense decoders: the rate that a search chose, and what the runs say."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd
import pytest

from short_text import short_text
from sparseflow.training import sweep, text_loop
from sparseflow.training.runs import Run, load_run
from sparseflow.training.tasks import Task
from sparseflow.training.text import TextRun, small_dense

sys.path.insert(0, str(Path(__file__).parent.parent.parent))  # benchmarks/ is beside the package, not in it

from benchmarks import text_runs

TINY = TextRun(width=16, depth=1, heads=2, context=16, batch_size=2, eval_windows=2, engine="masked")
KINDS = {"dense": TINY, "1 in 5": TINY.with_(one_in=5), "small": small_dense(TINY.with_(one_in=5))}


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Sequence[float]], pd.DataFrame]:
    """The table of three tiny kinds after a search over some rates, without processes."""

    def here(tasks: Sequence[Task], *, root: Path, jobs: int) -> None:
        for task in tasks:
            task.work(root, lambda steps: None)

    def made(rates: Sequence[float]) -> pd.DataFrame:
        monkeypatch.setattr(text_runs, "RATES", rates)
        text_runs.main()
        return pd.read_csv(tmp_path / "out" / "runs.csv")

    for module in (text_loop, sweep):
        monkeypatch.setattr(module, "load_text", short_text)
    monkeypatch.setattr(text_runs, "KINDS", KINDS)
    monkeypatch.setattr(text_runs, "run_tasks", here)
    arguments = {"runs": tmp_path / "runs", "out": tmp_path / "out", "steps": 3, "search-steps": 20}
    monkeypatch.setattr(sys, "argv", ["text_runs", *(f"--{name}={value}" for name, value in arguments.items())])
    return made


def test_the_table(table: Callable[[Sequence[float]], pd.DataFrame], tmp_path: Path) -> None:
    found = table((1e-9, 0.01))
    final = found[~found["search"]]
    assert final["kind"].tolist() == list(KINDS)
    assert final["learning_rate"].tolist() == [0.01] * 3  # at the other rate nothing is learned
    for row, run in zip(final.to_dict("records"), KINDS.values(), strict=True):
        stored = load_run(tmp_path / "runs" / run.with_(steps=3, learning_rate=0.01).name)
        for part in ("validation", "test"):
            assert row[f"{part}_bits_per_byte"] == pytest.approx(stored.final[f"{part}/bits_per_byte"], rel=1e-12)
        assert row["weights"] == stored.final["weights"]
        assert row["command"] == stored.config.command
    assert len(found) == 3 + 2 * 3


def test_a_rate_at_which_the_loss_does_not_stay_finite(table: Callable[[Sequence[float]], pd.DataFrame]) -> None:
    """It is listed without a number and not chosen, and the others go on."""
    found = table((1e30, 0.01))
    lost = found["learning_rate"] == 1e30
    assert found["test_bits_per_byte"].isna().tolist() == lost.tolist()
    assert int(lost.sum()) == 3
    assert not lost[~found["search"]].any()


def test_every_rate_is_too_large(table: Callable[[Sequence[float]], pd.DataFrame]) -> None:
    with pytest.raises(ValueError, match=r"no run of the search for dense kept a finite loss\. Lower RATES"):
        table((1e30,))


def test_the_rate_is_chosen_by_validation_and_not_by_the_test() -> None:
    def run(rate: float, *, validation: float, test: float) -> Run:
        final = {"validation/bits_per_byte": validation, "test/bits_per_byte": test}
        return Run(TextRun(learning_rate=rate), Path(), pd.DataFrame(), final, {}, 1.0)

    runs = [run(0.1, validation=2.0, test=1.0), run(0.2, validation=1.0, test=2.0), None]
    assert text_runs.best_of("dense", runs).learning_rate == 0.2
