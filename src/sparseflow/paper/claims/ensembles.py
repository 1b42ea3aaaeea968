"""Claims about ensembles of five networks, whose probabilities are averaged (section 4.3, Table 2).

Networks on ImageNet, for which C41 has a part of its own, were not trained.
"""

from __future__ import annotations

import pandas as pd

from sparseflow.lab.page.evidence import Evidence
from sparseflow.paper.claims.contrasts import contrast, spread_above, subset_spread
from sparseflow.paper.claims.former import on_first_masks, pairs_before
from sparseflow.paper.claims.intervals import Spread
from sparseflow.paper.claims.landscape import BY_PRUNING_RUN
from sparseflow.paper.claims.pruning_runs import mask_of, of_same_masks, on_all_masks
from sparseflow.paper.claims.similarity import LOTTERY, PRUNED, SCRATCH, SCRATCH_SAME, pairwise
from sparseflow.paper.claims.statistics import paired_greater
from sparseflow.paper.claims.tables import rows
from sparseflow.paper.claims.verdict import FEWEST_RANKED, Part, Verdict, all_of, conclude, need

#: Ensembles that C40 asked for.
ENSEMBLES = 10


def c40(evidence: Evidence) -> Verdict:
    """A start each gives more diverse Scratch solutions, and better ensembles, than one start for all.

    Criterion: pairwise disagreement and the accuracy of ensembles of five are higher, p < 0.05; t tests paired by the
    pruning run whose masks the runs have.
    """
    groups = (SCRATCH, SCRATCH_SAME)
    pairs = pairwise(evidence, *groups)
    ensembles = of_same_masks([_of_five(evidence, group) for group in groups], make="function_ensembles")
    parts = {
        "disagreement": paired_greater(*pairs, alpha=0.05),
        "ensemble accuracy": paired_greater(*ensembles, alpha=0.05),
    }
    return conclude(
        "C40",
        all_of(parts),
        design=BY_PRUNING_RUN,
        former=on_first_masks("t tests of jackknife estimates", lambda: _diverse_before(evidence, groups)),
        ours=f"a start each vs one for all: pairwise disagreement {pairs[0].mean():.4f} vs {pairs[1].mean():.4f}, "
        f"ensembles {ensembles[0].mean():.2f} vs {ensembles[1].mean():.2f} %",
        held="Networks from different random weights differ more, and together answer better, than networks from the "
        "same weights.",
        failed="Networks from different random weights do not both differ more and answer better together.",
    )


def _diverse_before(evidence: Evidence, groups: tuple[str, str]) -> Part:
    spreads = {
        "disagreement": [pairs_before(evidence, group) for group in groups],
        "ensemble accuracy": [_left_out_before(evidence, group) for group in groups],
    }
    return all_of(
        {
            name: spread_above(contrast(both, [1.0, -1.0]), alpha=0.05, n=f"{both[0].freedom + 1:.0f}", test="t")
            for name, both in spreads.items()
        }
    )


def _left_out_before(evidence: Evidence, group: str) -> Spread:
    """Accuracy of ensembles of some of the runs on the masks of the first pruning run."""
    drawn, runs = _draws(evidence, group, at_least=ENSEMBLES)
    values = drawn["probabilities"]
    return subset_spread(float(values.mean()), values, members=int(drawn["members"].iloc[0]), models=runs)


def c41(evidence: Evidence) -> Verdict:
    """An ensemble of tickets barely beats one; an ensemble of pruned networks from different starts clearly does.

    Criterion (MNIST): the gain of five pruned networks over their mean is more than 0.3 points above that of five
    tickets, p < 0.05 by resampling runs. By leaving runs out (t tests of jackknife estimates), not by drawing them
    twice: see :mod:`.contrasts`. Tickets are those of the first pruning run.
    """
    pruned, lottery = (_gain_of_five(evidence, group) for group in (PRUNED, LOTTERY))
    n = f"{pruned.freedom + 1:.0f} vs {lottery.freedom + 1:.0f}"
    return conclude(
        "C41",
        spread_above(
            contrast([pruned, lottery], [1.0, -1.0]), 0.3, alpha=0.05, n=n, test="jackknife t over runs, difference"
        ),
        ours=f"points that an ensemble of five gains: pruned networks {pruned.estimate:.2f}, lottery "
        f"{lottery.estimate:.2f}",
        untested="ImageNet",
        held="Together, lottery tickets answer hardly better than one of them, since they are nearly the same network.",
        failed="Together, pruned networks from different weights do not gain clearly more than lottery tickets do.",
    )


def _draws(evidence: Evidence, group: str, *, at_least: int) -> tuple[pd.DataFrame, int]:
    """Ensembles that leave runs out, and the number of runs."""
    table = rows(evidence, "function_ensembles", group=group)
    runs = {seed for text in table["seeds"] for seed in text.split()}
    drawn = table[(table["draw"] > 0) & (table["members"] < len(runs))]
    need(drawn, at_least, of=f"ensembles of {group} that leave runs out", make="function_ensembles")
    return drawn, len(runs)


def _of_five(evidence: Evidence, group: str) -> pd.Series[float]:
    """Mean accuracy of ensembles of five of the runs on the masks of each pruning run."""
    table = on_all_masks(rows(evidence, "function_ensembles", members=5), group)
    return table.groupby(table["group"].map(mask_of))["probabilities"].mean()


def _gain_of_five(evidence: Evidence, group: str) -> Spread:
    five = rows(evidence, "function_ensembles", group=group, draw=0)
    drawn, runs = _draws(evidence, group, at_least=FEWEST_RANKED)
    gains = [table["probabilities"] - table["member_accuracy"] for table in (five, drawn)]
    return subset_spread(float(gains[0].iloc[0]), gains[1], members=int(drawn["members"].iloc[0]), models=runs)


CLAIMS = {"C40": c40, "C41": c41}
