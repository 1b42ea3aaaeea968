"""Claims about the functions of tickets, scratch runs and pruned networks (section 4.3, Tables 2 and 6).

Disagreement is the share of test images that two networks name differently; divergences are means over test images.
Scratch is that with a start each, as in Figure 5, unless it says that the start is shared.
"""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

from sparseflow.lab.page.evidence import Evidence
from sparseflow.paper.claims.bounds import reaches
from sparseflow.paper.claims.contrasts import contrast, spread_above
from sparseflow.paper.claims.exchange import Block, nearer_to_each_other
from sparseflow.paper.claims.former import on_first_masks, pairs_before, runs_before, tickets_before
from sparseflow.paper.claims.intervals import Values
from sparseflow.paper.claims.landscape import BY_PRUNING_RUN
from sparseflow.paper.claims.pruning_runs import (
    TicketsAndScratch,
    mask_of,
    measured,
    of_same_masks,
    of_tickets,
    on_all_masks,
)
from sparseflow.paper.claims.returning import if_tickets_return
from sparseflow.paper.claims.run_statistics import labelled_means
from sparseflow.paper.claims.sites import Site
from sparseflow.paper.claims.statistics import (
    Equivalent,
    Greater,
    equivalent,
    greater,
    paired_equivalent,
    paired_greater,
)
from sparseflow.paper.claims.tables import rows
from sparseflow.paper.claims.verdict import Part, Verdict, all_of, conclude, decided

LOTTERY, RESTART, PRUNED = "tickets/lottery", "tickets/restart", "tickets/prune"
SCRATCH, SCRATCH_SAME = "tickets/scratch", "tickets/scratch-same"


def c36(evidence: Evidence, site: Site) -> Verdict:
    """Ticket solutions compute nearly the function of the pruning solution; Scratch does not.

    Criterion: tickets disagree less with it than Scratch does, one-sided t paired by pruning run, p < 0.01, and the
    ratio is above 2.
    """
    found = of_tickets(evidence, site, site.main_tickets, "function_reference", "disagreement")
    n = f"{len(found.lottery)} pruning runs"
    halved = int((found.lottery < found.scratch / 2).sum())
    return conclude(
        "C36",
        _disagree_less(found, test=paired_greater, n=n),
        where=site.tickets.phrase,
        design=BY_PRUNING_RUN,
        former=on_first_masks("Welch's t test", lambda: _disagree_less_before(evidence, site), site=site),
        ours=f"disagreement with the pruned network: {found.text(digits=4)}, ratio {found.ratio:.1f}; above 2 on "
        f"{halved} of {n}",
        held="A trained lottery ticket answers like the pruned network it comes from, far more than other networks on "
        "the same connections.",
        failed="A trained lottery ticket does not answer much more like the pruned network than other networks on the "
        "same connections.",
    )


def _disagree_less(found: TicketsAndScratch, *, test: Greater, n: str) -> Part:
    """C36's criterion on disagreements with the pruning solution."""
    parts = {
        "less": test(found.scratch, found.lottery, alpha=0.01),
        "ratio": reaches(found.ratio, at_least=2.0, n=n, of="ratio"),
    }
    return all_of(parts)


def _disagree_less_before(evidence: Evidence, site: Site) -> Part:
    found = tickets_before(evidence, site, site.main_tickets, "function_reference", "disagreement")
    return _disagree_less(found, test=greater, n=str(len(found.lottery)))


def c37(evidence: Evidence) -> Verdict:
    """Tickets are more similar to each other than to the pruning solution.

    Criterion: their pairwise disagreement is below that with the pruning solution, permutation over models p < 0.05:
    :func:`.nearer_to_each_other`, over all pruning runs: of one with five tickets the pruned network is one of six, so
    that no p-value is below 1/6.
    """
    blocks = {group: _block(evidence, group) for group in _ticket_groups(evidence)}
    part = nearer_to_each_other(list(blocks.values()), alpha=0.05)
    between = float(np.mean([block.between for block in blocks.values()]))
    apart = float(np.mean([block.to_other for block in blocks.values()]))
    return conclude(
        "C37",
        part,
        design="tickets and the pruned network, permuted within each pruning run",
        ours=f"disagreement of tickets: with each other {between:.4f}, with the pruned network {apart:.4f}",
        held="Lottery tickets answer more like each other than like the pruned network they come from.",
        failed="Lottery tickets do not answer more like each other than like the pruned network they come from.",
    )


def c38(evidence: Evidence) -> Verdict:
    """Restarting from the pruning solution disagrees with it about as much as tickets do.

    Criterion: disagreements differ by less than 0.004 (TOST, paired by pruning run; alpha 0.05, which the claim leaves
    open), and both are below half of that of Scratch.
    """
    kinds = {"restart": RESTART, "lottery": LOTTERY, "scratch": SCRATCH}
    values = measured(evidence, list(kinds.values()), "function_reference", "disagreement")
    found = dict(zip(kinds, values, strict=True))
    return conclude(
        "C38",
        _alike(*values, test=paired_equivalent, n=f"{len(values[0])} pruning runs"),
        design=BY_PRUNING_RUN,
        former=on_first_masks("TOST", lambda: _alike_before(evidence, list(kinds.values()))),
        ours=f"disagreement with the pruned network: {labelled_means(found, digits=4)}",
        held="A lottery ticket ends as near to the function of the pruned network as training on from that network "
        "does.",
        failed="A lottery ticket does not end as near to the function of the pruned network as training on from it "
        "does.",
    )


def _alike(restart: Values, lottery: Values, scratch: Values, *, test: Equivalent, n: str) -> Part:
    """C38's criterion on disagreements with the pruning solution."""
    larger = float(max(restart.mean(), lottery.mean()) / scratch.mean())
    parts = {
        "restart and lottery": test(restart, lottery, margin=0.004, alpha=0.05),
        "half of scratch": reaches(larger, at_most=0.5, n=n, of="larger / scratch"),
    }
    return all_of(parts)


def _alike_before(evidence: Evidence, groups: list[str]) -> Part:
    restart, lottery, scratch = runs_before(evidence, groups, "function_reference", "disagreement")
    return _alike(restart, lottery, scratch, test=equivalent, n=str(len(scratch)))


def c39(evidence: Evidence) -> Verdict:
    """A shared start alone does not make tickets alike: Scratch runs from one start disagree far more.

    Criterion: pairwise disagreement on the masks of a pruning run is more than 3 times that of tickets, and larger,
    paired t over pruning runs, p < 0.01.
    """
    scratch, lottery = pairwise(evidence, SCRATCH_SAME, LOTTERY)
    ratio = float(scratch.mean() / lottery.mean())
    n = f"{len(lottery)} pruning runs"
    parts = {
        "more": paired_greater(scratch, lottery, alpha=0.01),
        "ratio": reaches(ratio, at_least=3.0, n=n, of="ratio"),
    }
    return conclude(
        "C39",
        all_of(parts),
        design=BY_PRUNING_RUN,
        former=on_first_masks("Welch's t test of jackknife means over pairs", lambda: _less_alike_before(evidence)),
        ours=f"pairwise disagreement: scratch from one start {scratch.mean():.4f}, lottery {lottery.mean():.4f}, ratio "
        f"{ratio:.1f}",
        held="Random initial weights, shared, do not make networks alike as a lottery ticket's do.",
        failed="Networks from shared random weights are not much less alike than lottery tickets.",
    )


def _less_alike_before(evidence: Evidence) -> Part:
    scratch, lottery = (pairs_before(evidence, group) for group in (SCRATCH_SAME, LOTTERY))
    n = f"{scratch.freedom + 1:.0f} vs {lottery.freedom + 1:.0f}"
    parts = {
        "more": spread_above(contrast([scratch, lottery], [1.0, -1.0]), alpha=0.01, n=n, test="jackknife t"),
        "ratio": reaches(scratch.estimate / lottery.estimate, at_least=3.0, n=n, of="ratio"),
    }
    return all_of(parts)


def c42(evidence: Evidence) -> Verdict:
    """KL and JSD order the networks as disagreement does: restart, tickets, other pruned networks, Scratch.

    Criterion, for JSD and KL(model || pruned), per adjacent pair: one-sided t paired by pruning run, p < 0.05, and
    restart not significantly above tickets. The other direction of KL, which the paper does not tell apart, is
    reported.
    """
    kinds = {"restart": RESTART, "lottery": LOTTERY, "scratch": SCRATCH}
    parts: dict[str, Part] = {}
    described = []
    for label, name in (("JSD", "jsd"), ("KL", "kl_from_model"), ("KL reversed", "kl_from_reference")):
        every = [*(_with_pruned(evidence, group, name) for group in kinds.values()), _other_pruned(evidence, name)]
        named = dict(zip([*kinds, "other pruned"], of_same_masks(every, make="function_pairs"), strict=True))
        found = {network: named[network] for network in ("restart", "lottery", "other pruned", "scratch")}
        described.append(f"{label} " + ", ".join(f"{network} {x.mean():.4f}" for network, x in found.items()))
        if label != "KL reversed":
            parts[label] = _in_order(*found.values(), test=paired_greater)
    return conclude(
        "C42",
        all_of(parts),
        design=BY_PRUNING_RUN,
        former=on_first_masks("Welch's t test", lambda: _in_order_before(evidence)),
        ours="from the pruned network, nats: " + "; ".join(described),
        held="By probabilities too, lottery tickets are near to their pruned network, other pruned networks farther, "
        "networks from random weights farthest.",
        failed="By probabilities the networks are not in the claimed order of nearness to the pruned network.",
    )


def _in_order(restart: Values, lottery: Values, other: Values, scratch: Values, *, test: Greater) -> Part:
    """C42's criterion on divergences from the pruning solution."""
    parts = {
        "restart not above lottery": _not(test(restart, lottery, alpha=0.05), alpha=0.05),
        "other pruned above lottery": test(other, lottery, alpha=0.05),
        "scratch above other pruned": test(scratch, other, alpha=0.05),
    }
    return all_of(parts)


def _in_order_before(evidence: Evidence) -> Part:
    groups = (RESTART, LOTTERY, PRUNED, SCRATCH)
    found = {name: runs_before(evidence, groups, "function_reference", name) for name in ("jsd", "kl_from_model")}
    return all_of({name: _in_order(*values, test=greater) for name, values in found.items()})


def _not(above: Part, *, alpha: float) -> Part:
    """Whether a test is not significant; no p-value, for what is not significant proves nothing."""
    p = math.nan if above.p_value is None else above.p_value
    return Part(decided(p, met=p >= alpha), f"{above.text}, not significant", above.n, design=above.design)


def _with_pruned(evidence: Evidence, group: str, name: str) -> pd.Series[float]:
    """Means over the runs on the masks of each pruning run."""
    found = on_all_masks(rows(evidence, "function_reference"), group)
    return found.groupby(found["group"].map(mask_of))[name].mean()


def _other_pruned(evidence: Evidence, name: str) -> pd.Series[float]:
    """Means, for each pruned network, of how far all others are from it."""
    pairs = rows(evidence, "function_pairs", group=PRUNED)
    # As in function_reference: from_model is KL(model || pruned), where the pruned network is b, and then a.
    columns = {"kl_from_model": ("kl_ab", "kl_ba"), "kl_from_reference": ("kl_ba", "kl_ab")}.get(name, (name, name))
    seeds = pd.concat([pairs["b"], pairs["a"]])
    means: pd.Series[float] = pd.concat([pairs[column] for column in columns]).groupby(seeds).mean()
    return means


def pairwise(evidence: Evidence, *groups: str) -> list[Values]:
    """Mean disagreement of two runs on the masks of each pruning run, for kinds of runs in the same order."""
    found = []
    for group in groups:
        pairs = on_all_masks(rows(evidence, "function_pairs"), group)
        found.append(pairs.groupby(pairs["group"].map(mask_of))["disagreement"].mean())
    return of_same_masks(found, of=f"pruning runs with pairs of {' and '.join(groups)}", make="function_pairs")


def _ticket_groups(evidence: Evidence) -> list[str]:
    table = rows(evidence, "function_reference")
    return sorted(group for group in table["group"].unique() if group == LOTTERY or group.startswith(f"{LOTTERY}/mask"))


def _block(evidence: Evidence, group: str) -> Block:
    """The disagreements of the tickets of one pruning run with each other and with the pruned network."""
    apart = rows(evidence, "function_reference", at_least=2, group=group).set_index("seed")["disagreement"]
    pairs = rows(evidence, "function_pairs", group=group)
    place = {seed: index for index, seed in enumerate(apart.index)}
    matrix = np.zeros((len(place) + 1, len(place) + 1))
    for a, b, value in zip(pairs["a"], pairs["b"], pairs["disagreement"], strict=True):
        matrix[place[a], place[b]] = matrix[place[b], place[a]] = value
    matrix[-1, :-1] = matrix[:-1, -1] = apart
    return Block(matrix)


CLAIMS = {"C37": c37, "C38": c38, "C39": c39, "C42": c42}
ON_SITES = {"C36": if_tickets_return(c36)}
