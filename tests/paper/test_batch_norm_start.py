"""Which start is recommended with batch norm, from made-up runs with known answers."""

from __future__ import annotations

import sys
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest

from sparseflow.lab.page.evidence import Evidence, NotEnoughRunsError
from sparseflow.training.runs import Run
from synthetic_images import LONG, image_runs

sys.path.insert(0, str(Path(__file__).parent.parent.parent))  # benchmarks/ is beside the package, not in it

from benchmarks.batch_norm import NOTHING, chosen_rates, gain, kept, markdown, measured

RATES, STARTS = (0.03, 0.1, 0.3), ("dense", "sparse")
#: Held-out accuracy by start and rate: Original is best at 0.3, Ours at 0.03; by test images others are.
HELD = {"dense": (70.0, 71.0, 72.0), "sparse": (73.0, 71.0, 69.0)}
TESTS = {"dense": (80.0, 75.0, 70.0), "sparse": (71.0, 90.0, 90.0)}


def evidence(*, ours: float = 0.0, spread: float = 0.1, seeds: int = 3) -> Evidence:
    """Ours at its best rate ends ``ours`` points above what TESTS says, seeds ``spread`` apart."""
    groups: dict[str, list[Run]] = {}
    for start, (place, rate) in product(STARTS, enumerate(RATES)):
        name = f"resnet20-short/scratch/{start}/lr{rate:g}"
        groups[name] = [
            replace(run, final={"holdout/accuracy": HELD[start][place] / 100, "test/accuracy": test / 100})
            for number, run in enumerate(image_runs(name, planned=LONG, count=seeds))
            for test in [TESTS[start][place] + (ours + spread * number if start == "sparse" else 0)]
        ]
    for start, accuracy in (("dense", 82.0), ("sparse", 81.0)):
        groups[f"resnet20/scratch/{start}"] = image_runs(f"resnet20/scratch/{start}", planned=LONG, accuracy=accuracy)
    return Evidence(groups, {})


def test_rates_are_chosen_on_held_out_images() -> None:
    """Not on test images, by which 0.03 and 0.1 would be the best."""
    assert chosen_rates(measured(evidence())) == {"dense": 0.3, "sparse": 0.03}


def test_the_gain_is_that_of_pairs() -> None:
    """71.0, 71.1 and 71.2 against 70.0 each: 1.1 on average, 0.1 apart, t(2) = 4.303."""
    table = measured(evidence())
    at_best = table[
        ((table["start"] == "dense") & (table["rate"] == 0.3))
        | ((table["start"] == "sparse") & (table["rate"] == 0.03))
    ]
    found = gain(at_best)
    assert found.estimate == pytest.approx(1.1)
    assert found.high - found.estimate == pytest.approx(4.303 * 0.1 / 3**0.5, rel=1e-3)


@pytest.mark.parametrize(
    ("ours", "spread", "advice"),
    [(0.0, 0.1, "too, take"), (-3.0, 0.1, "keep the usual start"), (-1.0, 3.0, "take either")],
)
def test_what_is_recommended(ours: float, spread: float, advice: str) -> None:
    text = markdown(measured(evidence(ours=ours, spread=spread)))
    assert advice in text
    assert "The held-out images choose 0.3 for Original and 0.03 for Ours." in text
    assert "| 0.1 | 71.0 | 75.0 | 71.0 | " in text
    assert "After 7800 steps at 0.1 it is -1 [" in text


def test_missing_runs_are_named() -> None:
    with pytest.raises(NotEnoughRunsError, match=r"lr0\.03 has 2 finished runs of at least 3 needed"):
        measured(evidence(seeds=2))


def test_without_a_table_the_page_says_what_to_type(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.batch_norm.RESULT", Path("nowhere.csv"))
    assert kept() == NOTHING
    assert "sparseflow reproduce 'resnet20-short/*' 'resnet20/scratch/*' --scale cifar-long" in NOTHING
