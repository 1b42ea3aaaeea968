"""Tables of image runs: accuracy beside the paper's, where tickets lie, how alike functions are, and every run."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.figure import Figure

from sparseflow.lab.page.estimates import estimate, pair_estimate
from sparseflow.lab.page.evidence import Evidence
from sparseflow.lab.page.exhibit import Content, Drawing, Table, available, cell
from sparseflow.lab.page.panels import NARROW, WIDE
from sparseflow.lab.page.summary import accuracy_percent, records
from sparseflow.lab.page.svg import INK, PALETTE, STYLE
from sparseflow.lab.page.words import fixed, interval, plus_minus, times
from sparseflow.paper.exhibits.image_settings import LONGER, NAMES, SETTINGS, Setting, rows_of
from sparseflow.paper.exhibits.shortfalls import shortfalls
from sparseflow.paper.exhibits.tables import Accuracies
from sparseflow.paper.matrix.image_scales import ImageScale
from sparseflow.paper.published import imagenet


def accuracy_exhibit(evidence: Evidence, scale: ImageScale) -> Content:
    """Final test accuracy of every kind of run, a table a setting.

    Raises:
        NotEnoughRunsError: if there is no run.
    """
    settings = SETTINGS[scale.name] + LONGER.get(scale.name, ())
    lines = {setting: rows_of(setting, scale) for setting in settings}
    names = [group for rows in lines.values() for row in rows for group in row.groups]
    found, missing = available(evidence, names)
    told, points = [], []
    for setting, rows in lines.items():
        for row in rows:
            runs = [run for group in row.groups for run in found.get(group, [])]
            ours = Accuracies.of(runs, evidence.collapse_percent)
            paper = imagenet("table1", model=setting.paper, method=row.method, init=row.init)
            told.append(
                {"setting": setting.name, "network": row.label, "runs": ours.all.n,
                 "planned": sum(len(scale.groups[group]) for group in row.groups), "mean": ours.all.mean,
                 "std": ours.all.std, "low": ours.all.low, "high": ours.all.high, "collapsed": ours.collapsed,
                 "paper_mean": paper.mean if paper else np.nan, "paper_std": paper.std if paper else np.nan}
            )  # fmt: skip
            points += [
                {"setting": setting.name, "network": row.label, "seed": run.config.seed,
                 "accuracy": accuracy_percent(run)}
                for run in runs
            ]  # fmt: skip
    data = pd.DataFrame(told)
    shown = [setting for setting in settings if (data.loc[data["setting"] == setting.name, "runs"] > 0).any()]
    drawing = Drawing(
        name="accuracy",
        how="A ring is one run, the thick mark the mean.",
        alt="Final test accuracy by network. " + " ".join(_best(data, setting) for setting in shown),
        draw=partial(draw_accuracies, shown, pd.DataFrame(points), data),
        data=pd.DataFrame(points),
    )
    return Content(
        shows=[_best(data, setting) for setting in shown],
        drawings=[drawing],
        tables=[_accuracies(setting, data[data["setting"] == setting.name], scale) for setting in shown],
        missing=[*missing, *shortfalls(evidence, scale, found)],
    )


def _accuracies(setting: Setting, data: pd.DataFrame, scale: ImageScale) -> Table:
    cells = [
        [
            cell(row["network"]),
            cell(
                str(row["runs"]) if row["runs"] >= row["planned"] else f"{row['runs']} of {row['planned']}",
                tone="" if row["runs"] >= row["planned"] else "bad",
            ),
            cell(plus_minus(row["mean"], row["std"], 2)),
            cell(interval(row["low"], row["high"], 2) or "-"),
            cell(
                f"{row['collapsed']} of {row['runs']}" if row["runs"] else "-", tone="bad" if row["collapsed"] else ""
            ),
            cell(plus_minus(row["paper_mean"], row["paper_std"], 2), tone="soft"),
        ]
        for row in records(data)
    ]
    return Table(
        name=f"accuracy-{setting.name}",
        caption=f"{setting.label}: final test accuracy in percent, mean ± population standard deviation.",
        head=["Network", "Runs", "Ours, %", "95 % interval", "Did not learn", f"Paper: {setting.paper}, ImageNet, %"],
        rows=cells,
        data=data,
        note=f"A run did not learn if it ends below {scale.collapse_percent:g} %."
        + (
            "" if scale.name == "imagenet" else " The paper's numbers are of another task: compare orders, not numbers."
        ),
    )


def _best(data: pd.DataFrame, setting: Setting) -> str:
    rows = data[(data["setting"] == setting.name) & (data["runs"] > 0)]
    top = rows.sort_values("mean", kind="stable").iloc[-1]
    starts = rows[rows["network"].isin(["Scratch, Original", "Scratch, Liu", "Scratch, Ours"])]
    spoken = ", ".join(f"{row['network']} {row['mean']:.2f} %" for row in records(starts))
    stuck = int(rows["collapsed"].sum())
    return (
        f"{setting.label}: {top['network']} ends highest, at {top['mean']:.2f} %"
        + (f"; {spoken}" if spoken else "")
        + (f". {stuck} of {int(rows['runs'].sum())} runs did not learn." if stuck else ". Every run learned.")
    )


@rc_context(STYLE)
def draw_accuracies(
    settings: Sequence[Setting], points: pd.DataFrame, data: pd.DataFrame, *, narrow: bool = False
) -> Figure:
    """A panel a setting, a row a kind of run."""
    columns = 1 if narrow else 2
    shown = {setting: data[(data["setting"] == setting.name) & (data["runs"] > 0)] for setting in settings}
    rows = [settings[first : first + columns] for first in range(0, len(settings), columns)]
    heights = [max(len(shown[setting]) for setting in row) + 3 for row in rows]
    figure = Figure(figsize=(NARROW if narrow else WIDE, 0.23 * sum(heights)), layout="constrained")
    axes = figure.subplots(len(rows), columns, squeeze=False, height_ratios=heights)
    for place, panel in enumerate(axes.flat):
        if place >= len(settings):
            panel.remove()
            continue
        setting = settings[place]
        names = shown[setting]["network"].to_list()
        of_setting = points[points["setting"] == setting.name]
        for height, name in enumerate(names):
            values = of_setting.loc[of_setting["network"] == name, "accuracy"].to_numpy(dtype=float)
            across = 0.3 * (np.arange(len(values)) / max(len(values) - 1, 1) - 0.5)
            panel.plot(
                values, height + across, "o", markersize=3.5, color="none", markeredgecolor=PALETTE["blue"],
                markeredgewidth=0.8,
            )  # fmt: skip
            panel.plot(values.mean(), height, "|", markersize=11, markeredgewidth=2.2, color=INK)
        panel.set_yticks(range(len(names)), names)
        panel.set_ylim(len(names) - 0.4, -0.6)
        panel.grid(visible=False, axis="y")
        panel.tick_params(axis="y", length=0)
        panel.set_title(setting.label)
        panel.set_xlabel("Final test accuracy (%)")
    return figure


#: Column of the table of distances -> head.
_DISTANCES = {
    "init": "Start",
    "control_init": "Start: random, same length",
    "cosine_init": "Start: cosine similarity",
    "final": "End",
    "cosine_final": "End: cosine similarity",
}


def distance_exhibit(setting: str, evidence: Evidence, scale: ImageScale) -> Content:
    """How far tickets and random starts are from the pruned network whose masks they have.

    Raises:
        NotEnoughRunsError: if distances were not measured.
    """
    table = evidence.table("distances")
    found = []
    for group, rows in table.groupby("group", sort=False):
        kind = str(group).removeprefix(f"{setting}/")
        told = {name: estimate(rows[name].to_list()) for name in _DISTANCES}
        found.append(
            {"network": NAMES[kind], "runs": len(rows)}
            | {f"{name}_{part}": getattr(one, part) for name, one in told.items() for part in ("mean", "std")}
        )
    data = pd.DataFrame(found)
    cells = [
        [
            cell(row["network"]),
            cell(str(row["runs"])),
            *(cell(plus_minus(row[f"{name}_mean"], row[f"{name}_std"], 2)) for name in _DISTANCES),
        ]
        for row in records(data)
    ]
    by_name = {row["network"]: row for row in records(data)}
    sentences = []
    if {NAMES["lottery"], NAMES["ticket-scratch"]} <= by_name.keys():
        ticket, scratch = by_name[NAMES["lottery"]], by_name[NAMES["ticket-scratch"]]
        papers = {
            (who, when): imagenet(
                "figure_numbers", model="ResNet50", method=who, init="",
                metric=f"L2_distance_to_pruning_solution_{when}",
            )
            for who in ("LT", "Scratch") for when in ("at_init", "final")
        }  # fmt: skip
        for name, when, printed in (("init", "start", "at_init"), ("final", "end", "final")):
            one, other = papers["LT", printed], papers["Scratch", printed]
            said = f" (in the paper, ResNet-50 on ImageNet, {times(other.mean / one.mean)})" if one and other else ""
            sentences.append(
                f"At the {when}, scratch is {times(scratch[f'{name}_mean'] / ticket[f'{name}_mean'])} as far from the "
                f"pruned network as a lottery ticket{said}."
            )
    return Content(
        shows=sentences or ["Distances of only one kind of network were measured."],
        tables=[
            Table(
                name="distances",
                caption="L2 distance between all that is trained in a network and in the pruned network whose masks it "
                "has, batch norms included.",
                head=["Network", "Runs", *_DISTANCES.values()],
                rows=cells,
                data=data,
                note="Mean ± population standard deviation over runs, on the masks of all pruning runs. Random, same "
                "length: how far a random network would be that is as long as the start.",
            )
        ],
    )


def function_exhibit(setting: str, evidence: Evidence, scale: ImageScale) -> Content:
    """How often networks disagree, with each other and with the pruned network, and what they answer together.

    Raises:
        NotEnoughRunsError: if functions were not compared.
    """
    pairs, others, ensembles = (evidence.table(f"function_{name}") for name in ("pairs", "reference", "ensembles"))
    found = []
    for group, rows in others.groupby("group", sort=False):
        kind = str(group).removeprefix(f"{setting}/")
        of_pairs = pairs[(pairs["group"] == group) & (pairs["mask"] == 0)]
        together = ensembles[(ensembles["group"] == group) & (ensembles["mask"] == 0) & (ensembles["draw"] == 0)]
        mutual = pair_estimate(of_pairs.rename(columns={"disagreement": "value"})[["a", "b", "value"]])
        with_pruned = estimate(rows["disagreement"].to_list())
        first = together.iloc[0]
        found.append(
            {"network": NAMES[kind], "runs": len(rows), "accuracy": rows["accuracy"].mean(),
             "with_pruned": with_pruned.mean, "with_pruned_std": with_pruned.std, "jsd_with_pruned": rows["jsd"].mean(),
             "pairwise": mutual.mean, "pairwise_std": mutual.std, "members": int(first["members"]),
             "member_accuracy": first["member_accuracy"], "ensemble": first["probabilities"]}
        )  # fmt: skip
    data = pd.DataFrame(found)
    cells = [
        [
            cell(row["network"]),
            cell(str(row["runs"])),
            cell(fixed(row["accuracy"], 2)),
            cell(plus_minus(100 * row["with_pruned"], 100 * row["with_pruned_std"], 2)),
            cell(fixed(row["jsd_with_pruned"], 4)),
            cell(plus_minus(100 * row["pairwise"], 100 * row["pairwise_std"], 2)),
            cell(str(row["members"])),
            cell(fixed(row["ensemble"] - row["member_accuracy"], 2)),
        ]
        for row in records(data)
    ]
    spoken = "; ".join(f"{row['network']} {100 * row['with_pruned']:.1f} %" for row in records(data))
    return Content(
        shows=[f"Test images that a network names unlike the pruned network whose masks it has: {spoken}."],
        tables=[
            Table(
                name="functions",
                caption="Answers to the test images.",
                head=[
                    "Network", "Runs", "Accuracy, %", "Differs from pruned, %", "JSD to pruned, nats",
                    "Differs pairwise, %", "Ensemble of", "gains, points",
                ],
                rows=cells,
                data=data,
                note="Against the pruned network: runs on the masks of all pruning runs, each against its own; pruned "
                "networks against the first of them. Pairs and ensembles: runs on the masks of the first. In the "
                "paper, ResNet-50 on ImageNet, tickets differ from the pruned network on 9.4 % of the images and "
                "scratch on 20.3 %.",
            )
        ],
    )  # fmt: skip


def smoke_exhibit(evidence: Evidence, scale: ImageScale) -> Content:
    """Every run: did all losses stay finite, and how long did it take.

    Raises:
        NotEnoughRunsError: if there is no run.
    """
    found, missing = available(evidence, scale.groups)
    rows = []
    for group, runs in found.items():
        for run in runs:
            losses = run.metrics.loc[run.metrics["name"] == "train/loss", "value"].to_numpy(dtype=float)
            rows.append(
                {"group": group, "seed": run.config.seed, "steps": run.config.steps, "first_loss": losses[0],
                 "last_loss": losses[-1], "finite": bool(np.isfinite(run.metrics["value"]).all()),
                 "sparsity": run.final["sparsity"], "seconds": run.seconds}
            )  # fmt: skip
    data = pd.DataFrame(rows)
    good = int(data["finite"].sum())
    return Content(
        shows=[f"{good} of {len(data)} runs have finite losses and norms throughout; {len(missing)} are not there."],
        tables=[
            Table(
                name="smoke",
                caption="Every run.",
                head=["Run", "Steps", "First loss", "Last loss", "All finite", "Zeros", "Seconds"],
                rows=[
                    [
                        cell(row["group"]),
                        cell(str(row["steps"])),
                        cell(fixed(row["first_loss"], 3)),
                        cell(fixed(row["last_loss"], 3)),
                        cell("yes" if row["finite"] else "no", tone="good" if row["finite"] else "bad"),
                        cell(f"{100 * row['sparsity']:.1f} %"),
                        cell(f"{row['seconds']:.1f}"),
                    ]
                    for row in records(data)
                ],
                data=data,
            )
        ],
        missing=[*missing, *shortfalls(evidence, scale, found)],
    )
