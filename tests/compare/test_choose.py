"""What the manual says of a comparison, against a table by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
from benchmarks.choose import block, methods, settings, sparsities

from sparseflow.compare.search import L9


def runs(accuracy: dict[str, list[float]]) -> pd.DataFrame:
    rows: list[dict[str, Any]] = [
        {
            "network": "mlp", "sparsity": 0.9, "method": method, "budget": "steps", "seed": seed, "accuracy": value,
            "learned": True, "diverged": False, "steps": 100, "flops": 1e9, "seconds": 1.0, "density": 0.1,
            "config": f"{method}{seed}",
        }
        for method, values in accuracy.items() for seed, value in enumerate(values)
    ]  # fmt: skip
    return pd.DataFrame(rows)


#: RigL is a point above SET in every run; Static is now above RigL and now below; dense is above all.
RUNS = runs(
    {"dense": [99.0, 98.9, 99.1], "scratch": [90.0, 97.0, 96.0], "set": [95.0, 94.1, 94.9], "rigl": [96.0, 95.0, 96.1]}
)


def searched() -> pd.DataFrame:
    """A drop fraction of 0.5 costs four points everywhere, up to a tenth; the initialisation changes nothing."""
    rows: list[dict[str, Any]] = [
        {
            "network": "mlp", "sparsity": sparsity, "method": "set", "candidate": number, "chosen": number == 0,
            "accuracy": 90.0 - 4.0 * (row[2] == 2) + 0.1 * (row[2] == 1) * (sparsity == 0.9), "learned": True,
            "init": ("dense", "liu", "sparse")[row[1]], "drop_fraction": (0.1, 0.3, 0.5)[row[2]], "period": None,
            "prune_end": None,
        }
        for sparsity in (0.8, 0.9) for number, row in enumerate(L9)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def test_the_method_to_start_from() -> None:
    """RigL of the sparse ones; SET is clearly worse, Static is not."""
    (line,) = methods(RUNS)[2:]
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[:4] == ["mlp", "90 %", "steps", "RigL"]
    assert cells[4].startswith("95.70 % (")
    assert cells[6] == "Scratch"


def test_what_sparsity_costs() -> None:
    (line,) = sparsities(RUNS)[2:]
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[:4] == ["mlp", "90 %", "RigL", "\N{MINUS SIGN}3.30"]
    assert sparsities(RUNS[RUNS["method"] != "dense"]) == []


def test_how_sure_a_setting_is() -> None:
    lines = settings(searched())[2:]
    said = {line.split("|")[2].strip(): line.split("|")[-2].strip() for line in lines}
    assert said == {
        "`dense`": "not clear", "`liu`": "not clear", "`sparse`": "not clear", "0.1": "better", "0.3": "better",
        "0.5": "worse",
    }  # fmt: skip


def test_the_part_of_the_manual(tmp_path: Path) -> None:
    """A heading and three tables for each folder; without any, what to type."""
    assert "sparseflow compare --report results/compare/digits" in block(tmp_path)
    folder = tmp_path / "digits"
    folder.mkdir()
    RUNS.to_csv(folder / "runs.csv", index=False)
    searched().to_csv(folder / "search.csv", index=False)
    environment = {"command": "sparseflow compare --networks mlp", "networks": {"mlp": "MLP on MNIST: 100 steps"}}
    (folder / "environment.json").write_text(json.dumps(environment))
    text = block(tmp_path)
    assert text.startswith(
        "### Measured: [digits](../results/compare/digits/index.html)\n\nMLP on MNIST: 100 steps. 12 runs"
    )
    assert text.count("|---|") >= 3
    assert "`sparseflow compare --networks mlp`" in text
