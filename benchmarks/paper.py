"""``python -m benchmarks.paper``: write the paper's re-measured results, folders of results/, into docs/results.md."""

from __future__ import annotations

import json
from itertools import takewhile
from pathlib import Path

import pandas as pd

from benchmarks.table import RESULTS, filled
from sparseflow.paper.matrix.scales import PAPER
from sparseflow.paper.reproduce import Matrix

ROOT = Path(__file__).parent.parent
#: The folders of results/, each with a block of its name.
KEPT = ("paper", "paper-period-100")


def markdown(table1: pd.DataFrame, claims: pd.DataFrame) -> str:
    """Number of the claims that held, and Table 1 of the paper beside ours."""
    counts = claims["verdict"].value_counts()
    held, failed, open_ = (int(counts.get(verdict, 0)) for verdict in ("held", "failed", "inconclusive"))
    lines = [
        f"Of {len(claims)} claims of the paper {held} held, {failed} failed and {open_} are open: they need networks, "
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
    """The block of a folder, from its committed tables: the claims that its page was asked for."""
    folder = ROOT / "results" / name
    table1, claims = pd.read_csv(folder / "tables" / "table1.csv"), pd.read_csv(folder / "claims.csv")
    typed = json.loads((folder / "environment.json").read_text())["command"].split()
    items = takewhile(lambda word: not word.startswith("--"), typed[typed.index("reproduce") + 1 :])
    asked = Matrix.of(PAPER).asked(list(items))
    return markdown(table1, claims if asked is None else claims[claims["id"].isin(asked.claims)])


def main() -> None:
    """Write the blocks into docs/results.md."""
    text = RESULTS.read_text()
    for name in KEPT:
        text = filled(text, name, kept(name))
    RESULTS.write_text(text)


if __name__ == "__main__":
    main()
