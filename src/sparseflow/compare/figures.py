"""The figures of a comparison: error against what a training costs, and differences to static masks."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from sparseflow.lab.page import panels
from sparseflow.lab.page.exhibit import Drawing
from sparseflow.lab.page.svg import INK, PALETTE
from sparseflow.lab.page.table import Record, records
from sparseflow.lab.page.words import number
from sparseflow.training.names import METHODS

#: Column of the outcomes -> the axis that it is drawn on.
COSTS = {"flops": "Operations of a training (log scale)", "seconds": "Seconds of training (log scale)"}
#: Error below which a logarithmic axis would show the chance of single images.
_LEAST_ERROR = 0.05


def cost_drawing(outcomes: pd.DataFrame, network: str, label: str, *, cost: str) -> Drawing:
    """Error on test images against what a training costs, a panel for each sparsity.

    Args:
        outcomes: Of :func:`.outcomes`.
        network: Whose rows are drawn.
        label: Its name on the page.
        cost: Key of :data:`COSTS`.
    """
    rows = outcomes[outcomes["network"] == network]
    data = rows[["sparsity", "budget", "method", "n", "mean", "low", "high", cost]]
    best = [
        f"At {percent(row['sparsity'])} zeros the lowest mean error is {number(100 - row['mean'])} % "
        f"({_label(row)}, budget of {row['budget']})."
        for row in records(rows.loc[rows.groupby("sparsity", sort=False)["mean"].idxmax()])
    ]
    return Drawing(
        name=f"{cost}-{network}",
        how=f"{label}: mean error of test images, with the 95 % interval of the mean; further left is cheaper, further "
        "down better. Lines join the budgets of a method.",
        alt=f"Scatter of error over {cost} for each method. {' '.join(best)}",
        draw=partial(_draw_costs, rows, cost),
        data=data,
    )


def percent(share: float) -> str:
    """A share in percent.

    >>> percent(0.985)
    '98.5 %'
    """
    return f"{100 * share:g} %"


def _label(row: Record) -> str:
    return METHODS[row["method"]].label


def _draw_costs(rows: pd.DataFrame, cost: str, *, narrow: bool = False) -> Figure:
    groups = list(rows.groupby("sparsity", sort=False))
    figure, axes = panels.layout(len(groups), narrow=narrow, columns=2, share=True)
    for panel, (sparsity, of) in zip(axes, groups, strict=True):
        for method, points in of.groupby("method", sort=False):
            _points(panel, str(method), points.sort_values(cost), cost)
        panel.set_title(f"{percent(float(str(sparsity)))} zeros")
        panel.set_xscale("log")
        panel.set_xlabel(COSTS[cost])
        panel.xaxis.set_major_locator(LogLocator(subs=(1.0, 3.0) if _is_short(of[cost]) else (1.0,), numticks=8))
        panel.xaxis.set_major_formatter(FuncFormatter(lambda value, _: number(value, 1)))
        panel.xaxis.set_minor_formatter(NullFormatter())
        panels.log_scale(panel)
    errors = 100 - rows[["mean", "low", "high"]].to_numpy().clip(0, 100 - _LEAST_ERROR)
    means = 100 - rows["mean"]
    panels.log_limits(axes[0], max(_LEAST_ERROR, means.min() / 1.5), min(100.0, 1.3 * pd.Series(errors.ravel()).max()))
    panels.label_left(axes, "Error, %")
    curves = [panels.Curve(METHODS[name].label, name, METHODS[name].look) for name in dict.fromkeys(rows["method"])]
    panels.curve_legend(figure, curves, narrow=narrow)
    return figure


def _is_short(values: pd.Series[float]) -> bool:
    return bool(values.max() < 30 * values.min())


def _points(axes: Axes, method: str, points: pd.DataFrame, cost: str) -> None:
    look = METHODS[method].look
    error = (100 - points["mean"]).clip(lower=_LEAST_ERROR)
    ends = [(error - (100 - points["high"]).clip(lower=_LEAST_ERROR)).fillna(0).clip(lower=0)]
    ends.append(((100 - points["low"]) - error).fillna(0).clip(lower=0))
    style = panels.line_style(look) | {"marker": look.marker or "."}
    axes.errorbar(points[cost], error, yerr=[end.to_numpy() for end in ends], elinewidth=0.8, **style)


def difference_drawing(outcomes: pd.DataFrame, network: str, label: str, *, budget: str) -> Drawing | None:
    """Differences to static masks, paired by seed, a panel for each sparsity; None where there are none.

    Args:
        outcomes, network, label: As :func:`cost_drawing`.
        budget: Whose rows are drawn.
    """
    rows = outcomes[(outcomes["network"] == network) & (outcomes["budget"] == budget)].dropna(subset=["difference"])
    if rows.empty:
        return None
    clear = rows[rows["difference_low"] > 0]
    said = (
        "; ".join(
            f"{_label(row)} at {percent(row['sparsity'])} by {number(row['difference'])} points"
            for row in records(clear)
        )
        or "none"
    )
    return Drawing(
        name=f"difference-{network}-{budget}",
        how=f"{label}, budget of {budget}: accuracy less that of static masks, mean over seeds with its 95 % interval, "
        "in points. Right of the line is better than static masks; an interval that leaves the panel ends at its side.",
        alt=f"Dots with intervals. Above static masks, interval and all: {said}.",
        draw=partial(_draw_differences, rows),
        data=rows[["sparsity", "method", "n", "difference", "difference_low", "difference_high"]],
    )


def _draw_differences(rows: pd.DataFrame, *, narrow: bool = False) -> Figure:
    methods = list(dict.fromkeys(rows["method"]))
    groups = list(rows.groupby("sparsity", sort=False))
    height = 0.7 + 0.22 * len(methods)
    figure, axes = panels.layout(len(groups), narrow=narrow, columns=2, height=height, narrow_height=height, share=True)
    for panel, (sparsity, of) in zip(axes, groups, strict=True):
        panel.axvline(0, color=INK, linewidth=0.8)
        for row in records(of):
            _interval(panel, methods.index(row["method"]), row)
        reach = 1.3 * max(0.1, float(of["difference"].abs().quantile(0.8)))
        panel.set_xlim(-reach, reach)
        panel.set_title(f"{percent(float(str(sparsity)))} zeros")
        panel.set_xlabel("Points above static masks")
        panel.set_yticks(range(len(methods)), [METHODS[name].label for name in methods])
        panel.set_ylim(len(methods) - 0.5, -0.5)
    return figure


def _interval(axes: Axes, place: int, row: Record) -> None:
    look = METHODS[row["method"]].look
    colour = PALETTE[look.colour]
    axes.plot([row["difference_low"], row["difference_high"]], [place, place], color=colour, linewidth=1.2)
    axes.plot([row["difference"]], [place], color=colour, marker=look.marker or ".", linestyle="")


def networks_of(outcomes: pd.DataFrame) -> Sequence[str]:
    """The networks of a table, in order."""
    return list(dict.fromkeys(outcomes["network"]))
