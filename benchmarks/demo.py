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
    """A table with a row for each network: runs that learned, their median accuracy, first step with a lower loss."""
    lines = [
        "| network | learned | 95 % interval of the share, % | median accuracy of those, % | loss falls from step |",
        "|---|---|---|---|---|",
    ]
    for row in summary.itertuples():
        onset = f"> {row.steps}" if row.onset_median == float("inf") else f"{row.onset_median:.0f}"
        median = f"{row.learned_median:.1f}" if row.learned else "-"
        share = f"{row.share_low:.0f} to {row.share_high:.0f}"
        lines.append(f"| {row.label} | {row.learned} of {row.n} | {share} | {median} | {onset} |")
    return "\n".join(lines)


def block(folder: Path = KEPT) -> str:
    """The table of the runs from random masks, and that of the runs about pruned networks."""
    random, pruned = (pd.read_csv(folder / "figures" / f"{name}.csv") for name in ("summary", "summary-pruned"))
    seeds = "/".join(map(str, sorted({*random["n"], *pruned["n"]})))
    return "\n\n".join(
        [
            f"From random masks, {seeds} seeds of {random['steps'].max()} optimizer steps each:",
            markdown(random),
            "Pruned networks, and others from their masks:",
            markdown(pruned),
        ]
    )


def main() -> None:
    """Copy the page, and write the table into docs/results.md."""
    if len(sys.argv) != 2:
        sys.exit("usage: python -m benchmarks.demo RUNS, the folder given to sparseflow demo --out")
    report = Path(sys.argv[1]) / "report"
    (KEPT / "figures").mkdir(parents=True, exist_ok=True)
    pages = [report / "index.html", report / SUMS, *sorted((report / "figures").iterdir())]
    for path in pages:
        write_atomically(KEPT / path.relative_to(report), path.read_bytes())
    for old in {*(KEPT / "figures").iterdir()} - {KEPT / path.relative_to(report) for path in pages}:
        old.unlink()
    RESULTS.write_text(filled(RESULTS.read_text(), "demo", block()))


if __name__ == "__main__":
    main()
