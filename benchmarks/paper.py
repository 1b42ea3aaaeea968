"""``python -m benchmarks.paper``: write the paper's re-measured results, results/paper/, into docs/results.md."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from benchmarks.table import RESULTS, filled

ROOT = Path(__file__).parent.parent
KEPT = ROOT / "results" / "paper"


def markdown(table1: pd.DataFrame, claims: pd.DataFrame) -> str:
    """Number of claims that held, and Table 1 of the paper beside ours."""
    counts = claims["verdict"].value_counts()
    held, failed, open_ = (int(counts.get(verdict, 0)) for verdict in ("held", "failed", "inconclusive"))
    lines = [
        f"Of the paper's {len(claims)} claims {held} held, {failed} failed and {open_} are open: they need networks, "
        "runs or seeds that are not there, or more of them. LeNet5 on MNIST, 95 % sparse:",
        "",
        "| network | ours, % | did not learn | those that learned, % | paper, % |",
        "|---|---|---|---|---|",
    ]
    for row in table1[table1["runs"] > 0].itertuples():
        lines.append(
            f"| {row.network} | {row.mean:.2f} ± {row.std:.2f} | {row.collapsed:.0f} of {row.runs} | "
            f"{row.learned_mean:.2f} | {row.paper_mean:.2f} ± {row.paper_std:.2f} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Write the block into docs/results.md."""
    block = markdown(pd.read_csv(KEPT / "tables" / "table1.csv"), pd.read_csv(KEPT / "claims.csv"))
    RESULTS.write_text(filled(RESULTS.read_text(), "paper", block))


if __name__ == "__main__":
    main()
