"""The questions that the page of a comparison answers, each with its figures and tables."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import pandas as pd

from sparseflow.compare.budget import BUDGETS
from sparseflow.compare.figures import COSTS, cost_drawing, difference_drawing, networks_of, percent
from sparseflow.compare.search import FACTORS
from sparseflow.compare.settings import STATIC
from sparseflow.compare.statistics import CONTEST
from sparseflow.lab.page.evidence import Evidence
from sparseflow.lab.page.exhibit import Content, Exhibit
from sparseflow.lab.page.table import Cell, Column, Record, Table, cell, records
from sparseflow.lab.page.words import count, fixed, interval, listed, number, signed
from sparseflow.training.names import METHODS

#: Network -> its name on the page.
Labels = Mapping[str, str]
_METHOD = Column("method", lambda of: of["method"], "Method", lambda row: METHODS[row["method"]].label)
_SPARSITY = Column("sparsity", lambda of: of["sparsity"], "Zeros", lambda row: percent(row["sparsity"]))


def _plain(name: str, head: str = "", show: str = "") -> Column:
    return Column(name, lambda of: of[name], head, show)


def _difference(row: Record) -> str:
    found = row["difference"]
    return "" if found != found else f"{signed(found)} ({interval(row['difference_low'], row['difference_high'], 2)})"


def _failed(row: Record) -> Cell:
    text = f"{row['not_learned']} of {row['n']}"
    share = f"{row['not_learned_low']:.0f} to {row['not_learned_high']:.0f} %"
    return cell(text, share, tone="bad" if row["not_learned"] else "")


_OUTCOME = (
    _METHOD,
    _SPARSITY,
    _plain("n"),
    Column(
        "mean", lambda of: of["mean"], "Accuracy, %",
        lambda row: cell(fixed(row["mean"], 2), interval(row["low"], row["high"], 2)),
    ),
    *(_plain(name) for name in ("std", "low", "high")),
    Column("difference", lambda of: of["difference"], "Points above static masks", _difference),
    *(_plain(name) for name in ("difference_low", "difference_high")),
    Column(
        "rank", lambda of: of["rank"], "Rank",
        lambda row: cell(f"{row['rank']:g}", f"{row['rank_low']:g} to {row['rank_high']:g}"),
    ),
    *(_plain(name) for name in ("rank_low", "rank_high")),
    Column("not_learned", lambda of: of["not_learned"], "Did not learn", _failed),
    *(_plain(name) for name in ("not_learned_low", "not_learned_high")),
    _plain("diverged", "Diverged"),
    _plain("steps", "Steps", ".0f"),
    Column("flops", lambda of: of["flops"], "Operations", lambda row: number(row["flops"])),
    _plain("seconds", "Seconds", ".2f"),
    Column(
        "density", lambda of: of["density"], "Operations of a dense step", lambda row: f"{100 * row['density']:.1f} %"
    ),
)  # fmt: skip


def cost(evidence: Evidence, labels: Labels, *, name: str) -> Content:
    """Error against operations, or against seconds.

    Args:
        evidence: With the table ``outcomes``.
        labels: The networks.
        name: Key of :data:`.COSTS`.
    """
    rows = evidence.table("outcomes")
    shows = [_cheapest(of, labels[str(network)], name) for network, of in rows.groupby("network", sort=False)]
    return Content(shows=shows, drawings=[cost_drawing(rows, one, labels[one], cost=name) for one in networks_of(rows)])


def _cheapest(rows: pd.DataFrame, label: str, name: str) -> str:
    """Where a training costs the least and the most, over all budgets."""
    low, high = (records(rows.loc[[index]])[0] for index in (rows[name].idxmin(), rows[name].idxmax()))
    unit = "operations" if name == "flops" else "seconds"
    ends = [
        f"{number(row[name])} {unit} ({METHODS[row['method']].label} at {percent(row['sparsity'])}, {row['steps']:.0f} "
        "steps)"
        for row in (low, high)
    ]
    return f"{label}: trainings take from {ends[0]} to {ends[1]}."


def leaders(rows: pd.DataFrame, labels: Labels) -> list[str]:
    """The most accurate method of each network and budget at each sparsity, and how sure its rank is.

    Args:
        rows: Of :func:`.outcomes`.
        labels: The networks.
    """
    lines = []
    for (network, budget), of in rows.groupby(["network", "budget"], sort=False):
        best = records(of.loc[of.groupby("sparsity", sort=False)["mean"].idxmax()])
        said = [
            f"{METHODS[row['method']].label} at {percent(row['sparsity'])} zeros ({fixed(row['mean'], 2)} %, "
            + (f"rank {row['rank_low']:g} to {row['rank_high']:g})" if row["n"] > 1 else "of one seed)")
            for row in best
        ]
        lines.append(f"{labels[str(network)]}, budget of {budget}: the most accurate is {listed(said)}.")
    return lines


def differences(evidence: Evidence, labels: Labels) -> Content:
    """What each method gains on static masks, and everything else of it, in one table for each network and budget."""
    rows = evidence.table("outcomes")
    shows, drawings, tables = [], [], []
    for (network, budget), of in rows.groupby(["network", "budget"], sort=False):
        label = labels[str(network)]
        drawing = difference_drawing(rows, str(network), label, budget=str(budget))
        if drawing is not None:
            drawings.append(drawing)
            shows.append(_clear(of, f"{label}, budget of {budget}"))
        else:
            shows.append(f"{label}, budget of {budget}: differences need {METHODS[STATIC].label} and another method.")
        caption = f"{label}: {BUDGETS[str(budget)]}."
        tables.append(Table.of(_OUTCOME, records(of), name=f"outcomes-{network}-{budget}", caption=caption))
    return Content(shows=shows, drawings=drawings, tables=tables)


def _clear(rows: pd.DataFrame, where: str) -> str:
    if rows["difference_low"].isna().all():
        return f"{where}: one seed has no intervals, so no difference to static masks is clear."
    said = []
    for sparsity, of in rows.groupby("sparsity", sort=False):
        above = of[of["difference_low"] > 0].sort_values("difference", ascending=False)
        names = listed([METHODS[method].label for method in above["method"]]) if len(above) else "none"
        said.append(f"at {percent(float(str(sparsity)))} {names}")
    return f"{where}: clearly above static masks are {'; '.join(said)}."


def failures(evidence: Evidence, labels: Labels) -> Content:
    """The runs that did not learn, and those that diverged, by method."""
    rows = evidence.table("runs")
    lost = rows[~rows["learned"]]
    if lost.empty:
        return Content(shows=[f"All {count(len(rows), 'run')} learned, and none diverged."])
    shows = [
        f"{len(lost)} of {count(len(rows), 'run')} did not learn, {int(lost['diverged'].sum())} of these because the "
        "loss did not stay finite. They count in every mean, as they end; one that diverged counts as a guess."
    ]
    items = [
        {
            **dict(zip(["method", *CONTEST], names, strict=True)),
            "not_learned": len(of),
            "diverged": int(of["diverged"].sum()),
            "seeds": ", ".join(str(seed) for seed in of["seed"]),
        }
        for names, of in lost.groupby(["method", *CONTEST], sort=False)
    ]
    columns = (
        _METHOD,
        Column("network", lambda of: of["network"], "Network", lambda row: labels[row["network"]]),
        _SPARSITY,
        _plain("budget", "Budget"),
        _plain("not_learned", "Did not learn"),
        _plain("diverged", "Diverged"),
        _plain("seeds", "Seeds"),
    )
    return Content(shows=shows, tables=[Table.of(columns, items, name="not-learned", caption="Runs that failed.")])


def ranks(evidence: Evidence, labels: Labels) -> Content:
    """How much of an order is left with other seeds, and at another sparsity."""
    rows = evidence.table("stability")
    columns = (
        Column("network", lambda of: of["network"], "Network", lambda row: labels[row["network"]]),
        _plain("budget", "Budget"),
        _plain("between", "Between"),
        _plain("where", "Sparsity"),
        _plain("methods", "Methods"),
        _plain("seeds", "Seeds"),
        _plain("tau", "Kendall's tau", ".2f"),
        Column("tau_low", lambda of: of["tau_low"], "95 % interval",
               lambda row: interval(row["tau_low"], row["tau_high"], 2) or "-"),
        _plain("tau_high"),
    )  # fmt: skip
    shows = []
    for between, words in (("seeds", "two seeds"), ("sparsities", "two sparsities")):
        taus = rows[rows["between"] == between]["tau"].dropna()
        if len(taus):
            shows.append(
                f"Between {words} the orders of the methods agree with a tau of {fixed(taus.min(), 2)} to "
                f"{fixed(taus.max(), 2)}: 1 is the same order, 0 is chance."
            )
    return Content(
        shows=shows, tables=[Table.of(columns, records(rows), name="stability", caption="Agreement of ranks.")]
    )


def searched(evidence: Evidence, labels: Labels) -> Content:
    """The settings that the search chose for each method, and what each level gains on held-out images."""
    search, gains = evidence.table("search"), evidence.table("effects")
    best = search[search["chosen"]]
    items = [{**row, "label": labels[row["network"]]} for row in records(best)]
    levels = [_level_column(name, factor.label) for name, factor in FACTORS.items()]
    columns = (
        Column("label", lambda of: of["label"], "Network"),
        _METHOD,
        _SPARSITY,
        *levels,
        _plain("accuracy", "Accuracy on held-out images, %", ".2f"),
    )
    effect = (
        Column("factor", lambda of: of["factor"], "Setting", lambda row: FACTORS[row["factor"]].label),
        Column("level", lambda of: of["level"], "Level", lambda row: _level(row["level"])),
        Column("gain", lambda of: of["gain"], "Gain, points", lambda row: signed(row["gain"])),
        Column("low", lambda of: of["low"], "95 % interval", lambda row: interval(row["low"], row["high"], 2) or "-"),
        _plain("high"),
        _plain("cells", "Cells"),
        Column("learned", lambda of: of["learned"], "Learned", lambda row: f"{row['learned']} of {row['n']}"),
        _plain("n"),
        _plain("chosen", "Chosen"),
    )
    each = int(search.groupby(["network", "sparsity", "method"]).size().min())
    shows = [
        f"Each method was tried with {each} settings on each network and at each sparsity, with one seed that no "
        "compared run has; those with the best accuracy on images held out of training were taken. What a method does "
        "not read is empty."
    ]
    tables = [
        Table.of(effect, records(gains), name="effects", caption="What a level gains over the mean of its setting.",
                 note="A cell is a method on a network at a sparsity; the interval is that of the mean over cells."),
        Table.of(columns, items, name="chosen", caption="The settings that were chosen."),
    ]  # fmt: skip
    return Content(shows=shows, tables=tables)


def _level_column(name: str, head: str) -> Column:
    return Column(name, lambda of: of[name], head, lambda row: _level(row[name]))


def _level(value: object) -> str:
    if isinstance(value, float):
        return "" if value != value else f"{value:g}"
    return str(value)


#: Anchor on the page -> what stands there.
EXHIBITS: Mapping[str, Exhibit] = {
    **{
        name: Exhibit(question=f"How accurate is each method for the {words}?", build=partial(cost, name=name))
        for name, words in zip(COSTS, ("operations of its training", "seconds of its training"), strict=True)
    },
    "differences": Exhibit(question="Which methods beat masks that never move?", build=differences),
    "failures": Exhibit(question="Which networks did not learn?", build=failures),
    "ranks": Exhibit(question="How stable are the ranks?", build=ranks),
    "search": Exhibit(question="Which settings were taken, and what do they matter?", build=searched),
}
