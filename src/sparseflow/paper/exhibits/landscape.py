"""Figures 5a, 5b, 5d and 5e: starts and ends of tickets and scratch runs, by their distance to the pruned network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.figure import Figure

from sparseflow.lab.page.estimates import estimate
from sparseflow.lab.page.evidence import Evidence
from sparseflow.lab.page.exhibit import Content, Drawing
from sparseflow.lab.page.panels import NARROW, legend, marker_key
from sparseflow.lab.page.svg import PALETTE
from sparseflow.lab.page.table import Column, Columns, Table, cell, mean_and_std, verdict_cell
from sparseflow.lab.page.words import interval, number, plus_minus, times
from sparseflow.paper.claims.pruning_runs import TicketsAndScratch
from sparseflow.paper.claims.tables import rows
from sparseflow.paper.exhibits.networks import kind_labels
from sparseflow.paper.matrix.scale import Scale
from sparseflow.paper.published import Reported, imagenet, reported
from sparseflow.training.names import METHODS

TICKET, SCRATCH = (METHODS[name].look.colour for name in ("lottery", "scratch"))
#: Kind of a point of the map -> (label, marker, key of the palette).
POINTS = {
    "prune-end": ("Pruned network", "*", "ink"),
    "lottery-start": ("Lottery, start", "v", TICKET),
    "lottery-end": ("Lottery, end", "o", TICKET),
    "lottery-k0-start": ("Lottery of step 0, start", "<", "sky"),
    "lottery-k0-end": ("Lottery of step 0, end", "D", "sky"),
    "scratch-start": ("Scratch, start", "^", SCRATCH),
    "scratch-end": ("Scratch, end", "s", SCRATCH),
}
NAMES = {name: METHODS[name].label for name in ("lottery", "scratch")}


def map_exhibit(name: str, setting: str, evidence: Evidence, _: object) -> Content:
    """A map of starts and ends on which distances are kept as well as two dimensions can."""
    found = rows(evidence, "mds", setting=setting)
    target = found.loc[found["kind"] == "prune-end", ["x", "y"]].to_numpy(dtype=float)
    away = {
        kind: float(np.linalg.norm(points[["x", "y"]].to_numpy(dtype=float) - target.mean(axis=0), axis=1).mean())
        for kind, points in found.groupby("kind")
        if kind != "prune-end" and len(target)
    }
    spoken = ", ".join(f"{POINTS[kind][0]} {number(away[kind], 3)}" for kind in POINTS if kind in away)
    sentence = f"Stress {number(float(found['stress'].iloc[0]), 2)}."
    if spoken:
        sentence = f"Mean distance to the pruned network on the map: {spoken}. {sentence}"
    drawing = Drawing(
        name=name,
        how="Each point is a network: all its weights, laid out on a plane so that distances between points are as "
        "near as possible to distances between weights (multi-dimensional scaling). Directions mean nothing, closeness "
        "does. Stress is Kruskal's stress-1: the error of these distances as a share of them; he calls 0.05 good "
        "and 0.2 poor.",
        alt=f"Scatter plot of {len(found)} networks. {sentence}",
        draw=partial(draw_map, found),
        data=found,
    )
    return Content(shows=[sentence], drawings=[drawing])


def draw_map(networks: pd.DataFrame, *, narrow: bool = False) -> Figure:
    """The points by kind, one scale for both axes."""
    figure = Figure(figsize=(NARROW, 4.2) if narrow else (6.4, 4.6), layout="constrained")
    axes = figure.subplots()
    keys: list[Artist] = []
    for kind, (label, marker, colour) in POINTS.items():
        points = networks[networks["kind"] == kind]
        if points.empty:
            continue
        key = marker_key(marker, label, colour=PALETTE[colour], filled=not kind.endswith("start"))
        axes.plot(
            points["x"], points["y"], linestyle="", marker=marker, markersize=15 if marker == "*" else 7, alpha=0.85,
            color=key.get_color(), markeredgecolor=PALETTE[colour],
        )  # fmt: skip
        keys.append(key)
    axes.set_aspect("equal", adjustable="datalim")
    axes.set_xlabel("First coordinate (L2 distance)")
    axes.set_ylabel("Second coordinate")
    legend(figure, keys, columns=2 if narrow else 3)
    return figure


#: Column of the table of distances -> (row on the page, the paper's name).
DISTANCES = {
    "init": ("Start: distance", "L2_distance_to_pruning_solution_at_init"),
    "final": ("End: distance", "L2_distance_to_pruning_solution_final"),
    "control_init": ("Start: random, same length", ""),
    "cosine_init": ("Start: cosine similarity", ""),
    "cosine_final": ("End: cosine similarity", ""),
}


def by_pruning_run(distances: pd.DataFrame) -> pd.DataFrame:
    """Means of each kind of network on the masks of each pruning run, as C30 and C31 have them."""
    return distances.groupby(["group", "prune_seed"], sort=False)[list(DISTANCES)].mean().reset_index()


def fig5b(evidence: Evidence, _: Scale) -> Content:
    """L2 distances to the pruned network, ours beside the paper's."""
    means = by_pruning_run(rows(evidence, "distances", setting="tickets"))
    values = {
        (column, kind): means.loc[means["group"] == f"tickets/{kind}", column].to_list()
        for kind in NAMES
        for column in DISTANCES
    }
    found, cells = [], []
    for measure, (label, printed) in DISTANCES.items():
        line = [cell(label)]
        for kind, paper_name in (("lottery", "LT"), ("scratch", "Scratch")):
            ours = estimate(values[measure, kind])
            paper = reported("figure_numbers", method=paper_name, metric=printed) if printed else None
            inside = None if paper is None else paper.holds(ours)
            line += [
                cell(plus_minus(ours.mean, ours.std, 2), interval(ours.low, ours.high, 2)),
                cell("-" if paper is None else f"{paper.mean:.2f}", tone="soft"),
                verdict_cell(inside),
            ]
            found.append(
                {
                    "measure": label,
                    "network": NAMES[kind],
                    **asdict(ours),
                    "paper_mean": np.nan if paper is None else paper.mean,
                    "paper_in_interval": inside,
                }
            )
        cells.append(line)
    data = pd.DataFrame(found)
    table = Table(
        name="fig5b",
        caption="L2 distance between all weights and biases of a network and those of the pruned network whose mask "
        "it has.",
        head=["", "Lottery", "Paper", "In interval", "Scratch", "Paper", "In interval"],
        rows=cells,
        data=data,
        note="Mean ± population standard deviation over pruning runs, each with the mean of the runs on its mask; "
        "below it the 95 % interval of the mean, and whether the paper's number is in it. Random, same length: how far "
        "a random network would be that is as long as the start.",
    )
    papers = {
        when: [reported("figure_numbers", method=who, metric=DISTANCES[when][1]).mean for who in ("LT", "Scratch")]
        for when in ("init", "final")
    }
    farther = {when: f"in the paper {times(scratch / ticket)}" for when, (ticket, scratch) in papers.items()}
    return Content(shows=_farther(means, [f"tickets/{kind}" for kind in NAMES], farther), tables=[table])


def _farther(means: pd.DataFrame, groups: Sequence[str], papers: Mapping[str, str]) -> list[str]:
    """Ratios of Scratch to tickets as C30 and C31 have them, and how far the latter differs between pruning runs."""
    wide = means.pivot_table(index="prune_seed", columns="group", values=["init", "final"])
    if not {(when, group) for when in ("init", "final") for group in groups} <= set(wide.columns):
        return [_ONE_KIND]
    wide = wide.dropna()
    ends = {
        when: TicketsAndScratch(*(wide[when, group].to_numpy(dtype=float) for group in groups))
        for when in ("init", "final")
    }
    ratios = ends["final"].scratch / ends["final"].lottery
    several = f"; on the masks of {len(ratios)} pruning runs it is between {number(ratios.min())} and "
    return [
        _ratio("start", ends["init"].ratio, papers.get("init", "")),
        _ratio("end", float(np.exp(np.log(ratios).mean())), papers.get("final", "")).removesuffix(".")
        + (f"{several}{number(ratios.max())}." if len(ratios) > 1 else "."),
    ]


_ONE_KIND = "Distances of only one kind of network were measured."


def _ratio(when: str, ratio: float, papers: str) -> str:
    said = f" ({papers})" if papers else ""
    return f"At the {when}, scratch is {ratio:.2f} times as far from the pruned network as a lottery ticket{said}."


# --- images -----------------------------------------------------------------------------------------------------------

#: Measured distance -> head of its column.
HEADS = {
    "init": "Start",
    "control_init": "Start: random, same length",
    "cosine_init": "Start: cosine similarity",
    "final": "End",
    "cosine_final": "End: cosine similarity",
}


def _distance(name: str, head: str) -> Columns:
    return mean_and_std(lambda of: estimate(of[1][name].to_list()), head, prefix=f"{name}_")


#: The item is a label and the rows of one kind of network.
COLUMNS = (
    Column("network", lambda of: of[0], "Network"),
    Column("pruning_runs", lambda of: len(of[1]), "Pruning runs"),
    *(column for name, head in HEADS.items() for column in _distance(name, head)),
)


def distance_exhibit(setting: str, evidence: Evidence, _: Scale) -> Content:
    """Distances of tickets and random starts on images to the pruned network whose masks they have."""
    labels = kind_labels()
    means = by_pruning_run(evidence.table("distances"))
    kinds = means.groupby("group", sort=False)
    table = Table.of(
        COLUMNS,
        [(labels[str(group).removeprefix(f"{setting}/")], of_group) for group, of_group in kinds],
        name="distances",
        caption="L2 distance between all that is trained in a network and in the pruned network whose masks it has, "
        "batch norms included.",
        note="Mean ± population standard deviation over pruning runs, each with the mean of its runs. Random, same "
        "length: how far a random network would be that is as long as the start.",
    )
    papers = {}
    for name, printed in (("init", "at_init"), ("final", "final")):
        one, other = (_papers(who, printed) for who in ("LT", "Scratch"))
        if one and other:
            papers[name] = f"in the paper, ResNet-50 on ImageNet, {times(other.mean / one.mean)}"
    return Content(shows=_farther(means, [f"{setting}/lottery", f"{setting}/ticket-scratch"], papers), tables=[table])


def _papers(who: str, when: str) -> Reported | None:
    metric = f"L2_distance_to_pruning_solution_{when}"
    return imagenet("figure_numbers", model="ResNet50", method=who, init="", metric=metric)
