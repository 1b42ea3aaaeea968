"""``python -m benchmarks.cifar``: write the results of VGG16 and ResNet-14, results/cifar/, into docs/results.md."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from benchmarks.table import RESULTS, filled
from sparseflow.paper.matrix import cifar

ROOT = Path(__file__).parent.parent
KEPT = ROOT / "results" / "cifar"
#: The same with more steps.
LONGER = {"VGG16, 90 %": "accuracy-vgg16-90-longer", "ResNet-14": "accuracy-resnet14-longer"}
METHODS, INITS = ("Scratch", "SET", "RigL"), ("Original", "Liu", "Ours")
#: What a column shows: its title, and where the accuracies of its networks are.
COLUMNS = {
    "VGG16, 80 %": "accuracy-vgg16-80",
    "VGG16, 90 %": "accuracy-vgg16-90",
    "VGG16, 95 %": "accuracy-vgg16-95",
    "ResNet-14, 90 %": "accuracy-resnet14",
}


def markdown(claims: pd.DataFrame, tables: dict[str, pd.DataFrame]) -> str:
    """Number of claims that held, and the accuracy of each method from each initialisation."""
    counts = claims["verdict"].value_counts()
    held, failed, open_ = (int(counts.get(verdict, 0)) for verdict in ("held", "failed", "inconclusive"))
    withdrawn = int(claims["note"].str.startswith("Withdrawn.").sum())
    lines = [
        f"Of {len(claims)} claims about these networks {held} held, {failed} failed and {open_} are open at this "
        "scale.",
        f"{withdrawn} of the open ones had a verdict that networks so narrow, trained so shortly, cannot give; the "
        "page says why each is withdrawn.",
        "Test accuracy in percent, mean ± population std:",
        "",
        f"| | {' | '.join(COLUMNS)} |",
        "|---|" + "---|" * len(COLUMNS),
    ]
    cells = {title: tables[name].set_index("network") for title, name in COLUMNS.items()}
    for network in (f"{method}, {init}" for method in METHODS for init in INITS):
        rows = (table.loc[network] for table in cells.values())
        accuracies = (f"{row['mean']:.1f} ± {row['std']:.1f}" for row in rows)
        lines.append(f"| {network} | {' | '.join(accuracies)} |")
    ends = []
    for title, name in LONGER.items():
        means = tables[name].set_index("network")["mean"]
        accuracies = (f"{method} {means[f'{method}, Ours']:.1f}" for method in METHODS)
        ends.append(f"{title}: {', '.join(accuracies)}")
    return "\n".join([*lines, "", f"From Ours with {cifar.LONGER} times the steps: {'; '.join(ends)}."])


def kept() -> str:
    """The page's block, from the committed results."""
    tables = {name: pd.read_csv(KEPT / "tables" / f"{name}.csv") for name in (*COLUMNS.values(), *LONGER.values())}
    return markdown(pd.read_csv(KEPT / "claims.csv"), tables)


def main() -> None:
    """Write the block into docs/results.md."""
    RESULTS.write_text(filled(RESULTS.read_text(), "cifar", kept()))


if __name__ == "__main__":
    main()
