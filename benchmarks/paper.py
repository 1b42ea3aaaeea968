"""``python -m benchmarks.paper``: write the paper's re-measured results, folders of results/, into docs/results.md."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from benchmarks.table import RESULTS, filled

ROOT = Path(__file__).parent.parent
#: The folders of results/, each with a block of its name.
KEPT = ("paper", "paper-period-100")


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


def kept(name: str) -> str:
    """The block of a folder, from its committed tables."""
    folder = ROOT / "results" / name
    return markdown(pd.read_csv(folder / "tables" / "table1.csv"), pd.read_csv(folder / "claims.csv"))


def main() -> None:
    """Write the blocks into docs/results.md."""
    text = RESULTS.read_text()
    for name in KEPT:
        text = filled(text, name, kept(name))
    RESULTS.write_text(text)


if __name__ == "__main__":
    main()
