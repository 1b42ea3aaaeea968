"""The clock of a run, against one that is moved by hand; densities over a run, against the schedule of pruning."""

from __future__ import annotations

from pathlib import Path

import pytest

from sparseflow.methods.pruning import cubic_sparsity
from sparseflow.training.clock import Clock
from sparseflow.training.digits import DigitRun
from sparseflow.training.run import train


def test_a_clock_goes_on_from_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """3 of 10 seconds of measuring in a process, 2 of 20 in the next."""
    now = 0.0
    monkeypatch.setattr("time.perf_counter", lambda: now)
    first = Clock()
    now = 2.0
    with first.measures():
        now = 3.0
        with first.measures():  # inside another: counts once
            now = 4.0
        now = 5.0
    now = 10.0
    assert (first.seconds, first.measuring) == (10.0, 3.0)
    now = 100.0
    second = Clock()
    second.continue_from(first.seconds - 90, first.measuring)
    now = 101.0
    with second.measures():
        now = 103.0
    now = 120.0
    assert (second.seconds, second.measuring) == (30.0, 5.0)


def test_a_run_tells_its_densities_and_the_time_of_measuring(tmp_path: Path) -> None:
    """Pruning at steps 4, 6 and 8 of 10: 0.9 (1 - (1 - (t - 4) / 4)^3) of each layer is gone, in whole weights."""
    run = train(
        DigitRun(
            dataset="mnist-5k", model="mlp", method="prune", sparsity=0.9, steps=10, batch_size=8, prune_begin=4,
            prune_end=8, prune_every=2,
        ),
        root=tmp_path,
    )  # fmt: skip
    rows = run.metrics[run.metrics["name"] == "density/fc2.weight"]
    shares = {step: 1 - cubic_sparsity(step, initial=0.0, final=0.9, begin=4, end=8) for step in (0, 6, 8)}
    found = dict(zip(rows["step"], rows["value"], strict=True))
    assert found == pytest.approx(shares, abs=0.5 / 30_000)  # 300 x 100 weights
    assert 0 < run.measuring < run.seconds


def test_a_method_that_keeps_its_counts_tells_them_once(tmp_path: Path) -> None:
    config = DigitRun(dataset="mnist-5k", model="mlp", method="set", steps=6, batch_size=8, update_every=2)
    metrics = train(config, root=tmp_path).metrics
    named = metrics[metrics["name"].str.startswith("density/")]
    assert named["step"].tolist() == [0] * 3
