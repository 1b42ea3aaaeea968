"""``python -m benchmarks.signal``: measure the signal that each initialisation keeps, for docs/initialisation.md."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from rich.progress import Progress

from benchmarks.result import RESULTS
from benchmarks.table import filled
from sparseflow.atomic import write_atomically
from sparseflow.init.schemes import SCHEMES
from sparseflow.lab.demo.signal import signal_at_init

NETWORKS = 40
PAGE = Path(__file__).parent.parent / "docs" / "initialisation.md"
RESULT = RESULTS / "signal_at_init.csv"


def summarise(networks: pd.DataFrame) -> pd.DataFrame:
    """Median and mean over the networks of each point, and the number that let no signal through."""
    groups = networks.assign(silent=networks["logit_std"] == 0).groupby(["mask", "sparsity", "scheme"], as_index=False)
    return groups.agg(
        logit_std_median=("logit_std", "median"),
        logit_std_mean=("logit_std", "mean"),
        silent=("silent", "sum"),
        networks=("logit_std", "size"),
    )


def markdown(table: pd.DataFrame) -> str:
    """One row for each mask and sparsity, one column for each scheme."""
    lines = [
        f"| mask | sparsity | {' | '.join(f'{row.label} (`{scheme}`)' for scheme, row in SCHEMES.items())} |",
        "|---|---|" + "---|" * len(SCHEMES),
    ]
    for mask in table["mask"].unique():
        for sparsity in table["sparsity"].unique():
            point = table[(table["mask"] == mask) & (table["sparsity"] == sparsity)].set_index("scheme")
            values = [f"{float(point.loc[scheme, 'logit_std_median']):.2g}" for scheme in SCHEMES]
            lines.append(f"| {mask} | {sparsity:g} | {' | '.join(values)} |")
    lines += ["", f"n = {int(table['networks'].min())} networks a point; also in `benchmarks/results/{RESULT.name}`."]
    return "\n".join(lines)


def main() -> None:
    """Measure, store the table, and write it into the page."""
    with Progress() as progress:
        task = progress.add_task("networks", total=None)
        networks = signal_at_init(
            networks=NETWORKS, progress=lambda done, of: progress.update(task, completed=done, total=of)
        )
    table = summarise(networks)
    RESULTS.mkdir(exist_ok=True)
    write_atomically(RESULT, table.to_csv(index=False).encode())
    PAGE.write_text(filled(PAGE.read_text(), "signal", markdown(table)))


if __name__ == "__main__":
    main()
