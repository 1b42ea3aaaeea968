"""``python -m benchmarks.batch_norm RUNS``: which start suits batch norm, each at the learning rate that suits it.

``RUNS`` is the folder of ``sparseflow reproduce --scale cifar-long``; without it the page is written from the table
that is kept. Rates are chosen on images held out of training, starts are compared on test images.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pandas as pd

from benchmarks.result import RESULTS
from benchmarks.table import filled
from sparseflow.atomic import write_atomically
from sparseflow.init.schemes import SCHEMES
from sparseflow.lab.page.evidence import Evidence
from sparseflow.paper.claims.intervals import Interval, mean_interval
from sparseflow.paper.matrix.cifar_long import RATES, RESNET, SHORT, STARTS
from sparseflow.paper.matrix.scales import CIFAR_LONG
from sparseflow.paper.reproduce import Matrix

PAGE = Path(__file__).parent.parent / "docs" / "initialisation.md"
RESULT = RESULTS / "batch_norm.csv"
#: Fewest seeds that differences have an interval of.
SEEDS = 3
NOTHING = (
    "Which start suits batch norm when the learning rate is tuned for each is not measured yet.\n"
    f"`sparseflow reproduce '{SHORT}/*' '{RESNET}/scratch/*' --scale {CIFAR_LONG.name} --data cifar10/` trains the "
    "runs, and\n"
    f"`python -m benchmarks.batch_norm runs/{CIFAR_LONG.name}` writes the answer here."
)


def measured(evidence: Evidence) -> pd.DataFrame:
    """A row for each run of Scratch: its steps, start, rate and seed, and accuracies in percent.

    Raises:
        NotEnoughRunsError: if a short run is missing, with the command that makes it.
    """
    short = [f"{SHORT}/scratch/{init}/lr{rate:g}" for rate in RATES for init in STARTS]
    runs = [run for name in short for run in evidence.runs(name, at_least=SEEDS)]
    runs += [run for init in STARTS for run in evidence.groups.get(f"{RESNET}/scratch/{init}", ())]
    rows = [
        {
            "steps": run.config.steps,
            "start": run.config.init,
            "rate": run.config.learning_rate,
            "seed": run.config.seed,
            "holdout": 100 * run.final["holdout/accuracy"] if run.config.holdout else None,
            "test": 100 * run.final["test/accuracy"],
        }
        for run in runs
    ]
    return pd.DataFrame(rows)


def chosen_rates(table: pd.DataFrame) -> dict[str, float]:
    """Start -> the rate at which its short runs are the best on held-out images, on average."""
    means = table.dropna(subset="holdout").groupby(["start", "rate"])["holdout"].mean()
    return {start: float(means[start].idxmax()) for start in STARTS}


def gain(table: pd.DataFrame) -> Interval:
    """Test accuracy of Ours minus that of Original, seed by seed; one rate of each."""
    by_seed = table.pivot(index="seed", columns="start", values="test").dropna()
    return mean_interval((by_seed["sparse"] - by_seed["dense"]).to_numpy())


def markdown(table: pd.DataFrame) -> str:
    """The table of rates, what came out at the best of each start, and which start to take."""
    short = table.dropna(subset="holdout")
    rates = chosen_rates(table)
    ours, original = (SCHEMES[start].label for start in ("sparse", "dense"))
    lines = [
        f"ResNet-20 on CIFAR-10, 90 % zeros, static masks, {int(short['steps'].iloc[0])} steps; accuracy in percent, "
        f"mean of {short['seed'].nunique()} seeds:",
        "",
        "| learning rate | "
        + " | ".join(f"{SCHEMES[start].label} (`{start}`), {on}" for start in STARTS for on in ("held-out", "test"))
        + " |",
        "|---|" + "---|" * 2 * len(STARTS),
    ]
    means = short.groupby(["rate", "start"])[["holdout", "test"]].mean()
    for rate in sorted(short["rate"].unique()):
        cells = [f"{means.loc[(rate, start), on]:.1f}" for start in STARTS for on in ("holdout", "test")]
        lines.append(f"| {rate:g} | {' | '.join(cells)} |")
    tuned = short[[rates[start] == rate for start, rate in zip(short["start"], short["rate"], strict=True)]]
    found = gain(tuned)
    lines += [
        "",
        f"The held-out images choose {rates['dense']:g} for {original} and {rates['sparse']:g} for {ours}. On test "
        f"images {ours} then ends {found} points above {original} (95 % interval of the differences by seed).",
        _advice(found),
    ]
    long = table[table["holdout"].isna()]
    if long.groupby("start")["seed"].nunique().reindex(list(STARTS), fill_value=0).min() >= SEEDS:
        lines += [
            "",
            f"After {int(long['steps'].iloc[0])} steps at {long['rate'].iloc[0]:g} it is {gain(long)} points.",
        ]
    return "\n".join(lines)


def _advice(found: Interval) -> str:
    if found.low > 0:
        return 'With batch norm, too, take `scheme="sparse"`.'
    if found.high < 0:
        return 'With batch norm keep the usual start, `scheme="dense"`; without norms take `scheme="sparse"`.'
    return 'With batch norm take either; without norms take `scheme="sparse"`.'


def kept() -> str:
    """The page's block, from the table that is kept."""
    return markdown(pd.read_csv(RESULT)) if RESULT.is_file() else NOTHING


def main() -> None:
    """Store the table of the runs, if their folder is named, and write it into the page."""
    if folders := sys.argv[1:]:
        table = measured(Matrix.of(CIFAR_LONG).evidence(Path(folders[0])))
        write_atomically(RESULT, table.to_csv(index=False).encode())
    PAGE.write_text(filled(PAGE.read_text(), "batch-norm", kept()))


if __name__ == "__main__":
    main()
