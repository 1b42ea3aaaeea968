"""The script over finished decoders: a row for each task, a picture where there is a circuit, and no work twice."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import pandas as pd
import pytest

from short_text import short_text
from sparseflow.training import text_loop
from sparseflow.training.text import TextRun
from sparseflow.training.text_loop import train_text

sys.path.insert(0, str(Path(__file__).parent.parent.parent))  # benchmarks/ is beside the package, not in it

from benchmarks import text_circuits

RUN = TextRun(
    width=8, depth=1, heads=2, context=16, batch_size=2, one_in=2, steps=2, eval_windows=2, engine="masked",
    anneal_begin=0.0,
)  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(text_loop, "load_text", short_text)
    train_text(RUN, root=tmp_path / "runs")
    for name, value in {"PROMPTS": 8, "STEPS": 2, "BATCH": 4, "TRIES": 3}.items():
        monkeypatch.setattr(text_circuits, name, value)
    return tmp_path


def found(folder: Path, monkeypatch: pytest.MonkeyPatch, *, target: float) -> pd.DataFrame:
    monkeypatch.setattr(text_circuits, "TARGET", target)
    monkeypatch.setattr(sys, "argv", ["text_circuits", "--runs", str(folder / "runs"), "--out", str(folder / "out")])
    text_circuits.main()
    return pd.read_csv(folder / "out" / "circuits.csv")


def test_a_target_that_every_decoder_reaches(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Far above a guess: no unit is needed, so the smallest circuit has none and no weights."""
    table = found(folder, monkeypatch, target=100.0)
    assert table["task"].tolist() == ["quote", "bracket"]
    assert table["units"].tolist() == [7 * 8 + 4 * 8] * 2
    assert table["circuit_units"].tolist() == [0, 0]
    assert table["circuit_weights"].tolist() == [0, 0]
    assert (table["circuit_test_loss"] != table["circuit_validation_loss"]).all()  # of other prompts
    assert ((table["circuit_test_loss"] - math.log(2)).abs() < 1).all()  # a guess of one answer, or nearly
    assert sorted(path.suffix for path in (folder / "out").iterdir()) == [".csv", ".svg", ".svg"]
    monkeypatch.setattr(text_circuits, "circuit_of", None)  # would be called again
    assert found(folder, monkeypatch, target=100.0).equals(table)


def test_a_decoder_that_does_not_do_the_task(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = found(folder, monkeypatch, target=0.01)
    assert table["circuit_units"].isna().all()
    assert (table["validation_loss"] > 0.01).all()
    assert [path.name for path in (folder / "out").iterdir()] == ["circuits.csv"]
