"""``python -m benchmarks.demo RUNS``: keep a demo's page in results/demo/, and its table in docs/results.md."""

from __future__ import annotations

import sys
from pathlib import Path

import pandas as pd

from benchmarks.table import RESULTS, filled
from sparseflow.atomic import write_atomically
from sparseflow.sealed import SUMS

ROOT = Path(__file__).parent.parent
KEPT = ROOT / "results" / "demo"


def markdown(summary: pd.DataFrame) -> str:
    """A table with a row for each network: accuracy, runs that did not learn, first step with a lower loss."""
    lines = [
        "| network | test accuracy, % (mean ± population std) | did not learn | loss falls from step |",
        "|---|---|---|---|",
    ]
    for row in summary.itertuples():
        onset = f"> {row.steps}" if row.onset_median == float("inf") else f"{row.onset_median:.0f}"
        lines.append(
            f"| {row.label} | {row.accuracy_mean:.1f} ± {row.accuracy_std:.1f} | {row.collapsed} of {row.n} | {onset} |"
        )
    runs = sorted(summary["n"].unique())
    lines += ["", f"{'/'.join(map(str, runs))} seeds, {summary['steps'].max()} optimizer steps each."]
    return "\n".join(lines)


def main() -> None:
    """Copy the page, and write the table into docs/results.md."""
    if len(sys.argv) != 2:
        sys.exit("usage: python -m benchmarks.demo RUNS, the folder given to sparseflow demo --out")
    report = Path(sys.argv[1]) / "report"
    (KEPT / "figures").mkdir(parents=True, exist_ok=True)
    for path in [report / "index.html", report / SUMS, *sorted((report / "figures").iterdir())]:
        write_atomically(KEPT / path.relative_to(report), path.read_bytes())
    RESULTS.write_text(filled(RESULTS.read_text(), "demo", markdown(pd.read_csv(KEPT / "figures" / "summary.csv"))))


if __name__ == "__main__":
    main()
