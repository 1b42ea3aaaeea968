"""Claims about the functions of tickets, scratch runs and pruned networks (section 4.3, Tables 2 and 6).

Disagreement is the share of test images that two networks name differently; divergences are means over test images.
Scratch is that with a start each, as in Figure 5, unless it says that the start is shared.
"""

from __future__ import annotations

import numpy as np

from sparseflow.lab.page.evidence import Evidence
from sparseflow.paper.claims.bounds import reaches
from sparseflow.paper.claims.contrasts import contrast, pair_spread, spread_above
from sparseflow.paper.claims.exchange import Block, nearer_to_each_other
from sparseflow.paper.claims.intervals import Spread, Values, welch_spread
from sparseflow.paper.claims.pruning_runs import of_tickets
from sparseflow.paper.claims.run_statistics import labelled_means
from sparseflow.paper.claims.sites import Site
from sparseflow.paper.claims.statistics import equivalent, greater
from sparseflow.paper.claims.tables import column, rows
from sparseflow.paper.claims.verdict import FEWEST, Part, Verdict, all_of, conclude, decided, need

LOTTERY, RESTART, PRUNED = "tickets/lottery", "tickets/restart", "tickets/prune"
SCRATCH, SCRATCH_SAME = "tickets/scratch", "tickets/scratch-same"


def c36(evidence: Evidence, site: Site) -> Verdict:
    """Ticket solutions compute nearly the function of the pruning solution; Scratch does not.

    Criterion: tickets disagree less with it than Scratch does, one-sided Welch p < 0.01, and the ratio is above 2.
    Differs on CIFAR-10: values are means of pruning runs, 3 against 3.
    """
    found = of_tickets(evidence, site, site.main_tickets, "function_reference", "disagreement")
    parts = {
        "less": greater(found.scratch, found.lottery, alpha=0.01),
        "ratio": reaches(found.ratio, at_least=2.0, n=f"{len(found.scratch)} vs {len(found.lottery)}", of="ratio"),
    }
    return conclude(
        "C36",
        all_of(parts),
        where=site.tickets.phrase,
        ours=f"disagreement with the pruned network: {found.text(digits=4)}, ratio {found.ratio:.1f}",
        held="A trained lottery ticket answers like the pruned network it comes from, far more than other networks on "
        "the same connections.",
        failed="A trained lottery ticket does not answer much more like the pruned network than other networks on the "
        "same connections.",
    )


def c37(evidence: Evidence) -> Verdict:
    """Tickets are more similar to each other than to the pruning solution.

    Criterion: their pairwise disagreement is below that with the pruning solution, permutation over models p < 0.05:
    :func:`.nearer_to_each_other`. Needs the tickets of two pruning runs: the pruned network is one of six, so that with
    one pruning run no p-value is below 1/6.
    """
    blocks = {group: _block(evidence, group) for group in _ticket_groups(evidence)}
    part = nearer_to_each_other(list(blocks.values()), alpha=0.05)
    between = float(np.mean([block.between for block in blocks.values()]))
    apart = float(np.mean([block.to_other for block in blocks.values()]))
    return conclude(
        "C37",
        part,
        ours=f"disagreement of tickets: with each other {between:.4f}, with the pruned network {apart:.4f}",
        held="Lottery tickets answer more like each other than like the pruned network they come from.",
        failed="Lottery tickets do not answer more like each other than like the pruned network they come from.",
    )


def c38(evidence: Evidence) -> Verdict:
    """Restarting from the pruning solution disagrees with it about as much as tickets do.

    Criterion: disagreements differ by less than 0.004 (TOST; alpha 0.05, which the claim leaves open), and both are
    below half of that of Scratch.
    """
    found = {
        name: _with_pruned(evidence, group)
        for name, group in (("restart", RESTART), ("lottery", LOTTERY), ("scratch", SCRATCH))
    }
    restart, lottery, scratch = found.values()
    larger = float(max(restart.mean(), lottery.mean()) / scratch.mean())
    parts = {
        "restart and lottery": equivalent(restart, lottery, margin=0.004, alpha=0.05),
        "half of scratch": reaches(larger, at_most=0.5, n=str(len(scratch)), of="larger / scratch"),
    }
    return conclude(
        "C38",
        all_of(parts),
        ours=f"disagreement with the pruned network: {labelled_means(found, digits=4)}",
        held="A lottery ticket ends as near to the function of the pruned network as training on from that network "
        "does.",
        failed="A lottery ticket does not end as near to the function of the pruned network as training on from it "
        "does.",
    )


def c39(evidence: Evidence) -> Verdict:
    """A shared start alone does not make tickets alike: Scratch runs from one start disagree far more.

    Criterion: pairwise disagreement is more than 3 times that of tickets, Welch p < 0.01. The errors are the
    jackknife's over models, since pairs share models.
    """
    scratch, lottery = (pairwise(evidence, group) for group in (SCRATCH_SAME, LOTTERY))
    ratio = scratch.estimate / lottery.estimate
    n = f"{scratch.freedom + 1:.0f} vs {lottery.freedom + 1:.0f}"
    test = "Welch t of jackknife means over pairs, difference"
    parts = {
        "more": spread_above(contrast([scratch, lottery], [1.0, -1.0]), alpha=0.01, n=n, test=test),
        "ratio": reaches(ratio, at_least=3.0, n=n, of="ratio"),
    }
    return conclude(
        "C39",
        all_of(parts),
        ours=f"pairwise disagreement: scratch from one start {scratch.estimate:.4f}, lottery {lottery.estimate:.4f}, "
        f"ratio {ratio:.1f}",
        held="Random initial weights, shared, do not make networks alike as a lottery ticket's do.",
        failed="Networks from shared random weights are not much less alike than lottery tickets.",
    )


def c42(evidence: Evidence) -> Verdict:
    """KL and JSD order the networks as disagreement does: restart, tickets, other pruned networks, Scratch.

    Criterion, for JSD and KL(model || pruned), per adjacent pair: one-sided Welch p < 0.05, and restart not
    significantly above tickets. The other direction of KL, which the paper does not tell apart, is reported.
    """
    names = {"restart": RESTART, "lottery": LOTTERY, "other pruned": PRUNED, "scratch": SCRATCH}
    parts: dict[str, Part] = {}
    described = []
    for label, name in (("JSD", "jsd"), ("KL", "kl_from_model"), ("KL reversed", "kl_from_reference")):
        found = {network: _with_pruned(evidence, group, name) for network, group in names.items()}
        described.append(f"{label} " + ", ".join(f"{network} {x.mean():.4f}" for network, x in found.items()))
        if label != "KL reversed":
            parts |= {
                f"{label}, restart not above lottery": _not_above(found["restart"], found["lottery"], alpha=0.05),
                f"{label}, other pruned above lottery": greater(found["other pruned"], found["lottery"], alpha=0.05),
                f"{label}, scratch above other pruned": greater(found["scratch"], found["other pruned"], alpha=0.05),
            }
    return conclude(
        "C42",
        all_of(parts),
        ours="from the pruned network, nats: " + "; ".join(described),
        held="By probabilities too, lottery tickets are near to their pruned network, other pruned networks farther, "
        "networks from random weights farthest.",
        failed="By probabilities the networks are not in the claimed order of nearness to the pruned network.",
    )


def _not_above(a: Values, b: Values, *, alpha: float) -> Part:
    """Whether ``a`` is not significantly above ``b``; no p-value, for what is not significant proves nothing."""
    spread, n = welch_spread(a, b), f"{len(a)} vs {len(b)}"
    p = spread.p_above(0.0)
    text = f"Welch t, difference {spread.interval(n)} not significantly above 0, p = {p:.2g}"
    return Part(decided(spread.estimate, met=p >= alpha), text, n)


def _with_pruned(evidence: Evidence, group: str, name: str = "disagreement") -> Values:
    return column(evidence, "function_reference", name, group=group)


def pairwise(evidence: Evidence, group: str) -> Spread:
    """Mean disagreement of two runs of a group, with the jackknife's error over runs."""
    pairs = rows(evidence, "function_pairs", group=group)
    need({*pairs["a"], *pairs["b"]}, FEWEST, of=f"compared runs of {group}", make="function_pairs")
    return pair_spread(pairs, "disagreement")


def _ticket_groups(evidence: Evidence) -> list[str]:
    table = rows(evidence, "function_reference")
    return sorted(group for group in table["group"].unique() if group == LOTTERY or group.startswith(f"{LOTTERY}/mask"))


def _block(evidence: Evidence, group: str) -> Block:
    """The disagreements of the tickets of one pruning run with each other and with the pruned network."""
    apart = rows(evidence, "function_reference", at_least=FEWEST, group=group).set_index("seed")["disagreement"]
    pairs = rows(evidence, "function_pairs", group=group)
    place = {seed: index for index, seed in enumerate(apart.index)}
    matrix = np.zeros((len(place) + 1, len(place) + 1))
    for a, b, value in zip(pairs["a"], pairs["b"], pairs["disagreement"], strict=True):
        matrix[place[a], place[b]] = matrix[place[b], place[a]] = value
    matrix[-1, :-1] = matrix[:-1, -1] = apart
    return Block(matrix)


CLAIMS = {"C37": c37, "C38": c38, "C39": c39, "C42": c42}
ON_SITES = {"C36": c36}
