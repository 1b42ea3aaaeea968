"""Two runs on the same mask: does a bad end come from the mask, or from the weights and the order of the data?"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sparseflow.init.schemes import SCHEMES
from sparseflow.lab.page.evidence import Evidence, NotEnoughRunsError
from sparseflow.lab.page.exhibit import Content, Drawing
from sparseflow.lab.page.panels import label_left, layout, legend, marker_key
from sparseflow.lab.page.summary import accuracy_percent
from sparseflow.lab.page.svg import PALETTE
from sparseflow.lab.page.table import Column, Table, mean_and_std, records
from sparseflow.lab.page.words import fixed, number
from sparseflow.paper.exhibits.shortfalls import shortfalls
from sparseflow.paper.exhibits.tables import Line, percents
from sparseflow.paper.matrix.cells import INITS
from sparseflow.paper.matrix.scale import Scale
from sparseflow.paper.published import reported

#: Groups: one run on each pruned mask, and another one on the same masks.
TWICE = {init: (f"lenet5/scratch/{init}", f"lenet5/scratch/{init}/again") for init in INITS}
ONE_MASK = "lenet5/scratch/sparse/one-mask"
GROUPS = (*(group for pair in TWICE.values() for group in pair), ONE_MASK)
#: Points of accuracy below the best run that are shown; runs further down stand at the edge.
SHOWN = 6.0


def masks_twice(evidence: Evidence, scale: Scale) -> Content:
    """Final accuracy of two runs on each pruned mask, and how often the same masks fail."""
    found, missing = {}, []
    for init, groups in TWICE.items():
        try:
            found[init] = _pairs(evidence, *groups)
        except NotEnoughRunsError as error:
            missing.append(str(error))
    if not found:
        raise NotEnoughRunsError("\n".join(missing))
    sentences = [_sentence(init, pairs, evidence.collapse_percent) for init, pairs in found.items()]
    data = pd.concat([pairs.assign(init=init) for init, pairs in found.items()], ignore_index=True)
    drawing = Drawing(
        name="masks-twice",
        how="A column is the mask of one pruning run, best last; its two rings are two runs on it, which differ in "
        "their first weights and in the order of the images. If the mask decided, rings would lie low together, rank "
        "correlations be near 1, and the same masks fail twice far more often than by chance. A triangle at the "
        "bottom stands for a run further down; a cross, for one that did not learn.",
        alt=f"Accuracy of two runs on each of {data['mask'].nunique()} masks. {' '.join(sentences)}",
        draw=partial(draw_pairs, found, evidence.collapse_percent),
        data=data,
    )
    return Content(
        shows=sentences,
        drawings=[drawing],
        tables=[_table(evidence, found)],
        missing=[*missing, *shortfalls(evidence, scale, GROUPS)],
    )


def _pairs(evidence: Evidence, first: str, second: str) -> pd.DataFrame:
    """Columns ``mask`` (seed of the pruning run), ``first`` and ``second`` (final accuracy in percent)."""
    columns = {}
    for name, group in (("first", first), ("second", second)):
        runs = evidence.runs(group)
        columns[name] = {run.config.mask_from.seed: accuracy_percent(run) for run in runs if run.config.mask_from}
    both = sorted(columns["first"].keys() & columns["second"].keys())
    if not both:
        raise NotEnoughRunsError(f"{first} and {second} share no mask. Make more:\nsparseflow reproduce {second}")
    rows = [{"mask": mask, "first": columns["first"][mask], "second": columns["second"][mask]} for mask in both]
    return pd.DataFrame(rows)


def _sentence(init: str, pairs: pd.DataFrame, collapse_percent: float) -> str:
    stuck = pairs[["first", "second"]] < collapse_percent
    first, second, both = int(stuck["first"].sum()), int(stuck["second"].sum()), int(stuck.all(axis=1).sum())
    text = f"{SCHEMES[init].label}: {first} of {len(pairs)} first runs and {second} second runs did not learn"
    if first and second:
        text += f", {both} of them on the same masks (by chance {number(first * second / len(pairs), 2)})"
    if (correlation := rank_correlation(pairs[~stuck.any(axis=1)])) is not None:
        text += f"; where both learned, the rank correlation of their accuracies is {fixed(correlation, 2)}"
    return text + "."


def rank_correlation(pairs: pd.DataFrame) -> float | None:
    """Spearman's correlation of first and second; None for too few to tell.

    >>> rank_correlation(pd.DataFrame({"first": [1.0, 2.0, 3.0, 4.0], "second": [2.0, 3.0, 4.0, 9.0]}))
    1.0
    """
    if len(pairs) < 4 or min(pairs[name].nunique() for name in ("first", "second")) < 2:
        return None
    return round(float(pairs["first"].corr(pairs["second"], method="spearman")), 12)


COLUMNS = (
    Column("init", lambda line: line.label, "Initialisation"),
    Column("masks", lambda line: line.place, "Masks"),
    Column("runs", lambda line: len(line.accuracy), "Runs"),
    Column("collapsed", lambda line: int(line.stuck.sum()), "Did not learn"),
    Column("median", lambda line: float(np.median(line.accuracy)), "Median", ".2f"),
    *mean_and_std(lambda line: line.learned, "Mean ± std of those that learned", prefix="learned_"),
    *mean_and_std(lambda line: line.paper, "Paper", prefix="paper_"),
)


def _table(evidence: Evidence, found: Mapping[str, pd.DataFrame]) -> Table:
    kinds = {
        (init, "each mask twice"): pairs[["first", "second"]].to_numpy(dtype=float).ravel()
        for init, pairs in found.items()
    }
    if one := evidence.groups.get(ONE_MASK):
        kinds["sparse", "one mask"] = percents(one)
    lines = [
        Line(
            label=SCHEMES[init].label,
            place=masks,
            accuracy=values,
            collapse_percent=evidence.collapse_percent,
            paper=reported("table1", method="Scratch", init=SCHEMES[init].label),
        )
        for (init, masks), values in kinds.items()
    ]
    return Table.of(
        COLUMNS,
        lines,
        name="masks-twice",
        caption="Scratch by initialisation. Final test accuracy in percent.",
        note="One or two runs of forty that end low move mean and standard deviation, not the median; five runs, the "
        "paper's number, mostly have none of them. The paper does not say whether its runs had one mask.",
    )


def draw_pairs(found: Mapping[str, pd.DataFrame], collapse_percent: float, *, narrow: bool = False) -> Figure:
    """One panel per initialisation, one column per mask."""
    figure, axes = layout(len(found), narrow=narrow, share=True)
    best = max(pairs[["first", "second"]].to_numpy().max() for pairs in found.values())
    for panel, (init, pairs) in zip(axes, found.items(), strict=True):
        _draw_masks(
            panel, pairs, PALETTE[SCHEMES[init].look.colour], low=best - SHOWN, collapse_percent=collapse_percent
        )
        panel.set_title(SCHEMES[init].label)
        panel.set_ylim(best - SHOWN - 0.6, best + 0.4)
        panel.set_xlabel("Mask of pruning run (seed)")
    label_left(axes, "Final test accuracy (%)")
    keys = [marker_key("o", "one run", filled=False), marker_key("v", "further down"), marker_key("x", "did not learn")]
    legend(figure, keys, columns=3)
    return figure


def _draw_masks(axes: Axes, pairs: pd.DataFrame, colour: str, *, low: float, collapse_percent: float) -> None:
    ordered = pairs.assign(worst=pairs[["first", "second"]].min(axis=1)).sort_values("worst", kind="stable")
    for place, row in enumerate(records(ordered)):
        values = np.array([row["first"], row["second"]])
        axes.plot([place, place], values.clip(min=low - 0.3), color=colour, linewidth=0.7, alpha=0.5)
        for value, across in zip(values, (-0.12, 0.12), strict=True):
            marker = "o" if value >= low else "v" if value >= collapse_percent else "x"
            axes.plot(
                place + across, max(value, low - 0.3), marker, markersize=4, markeredgecolor=colour,
                color="none" if marker == "o" else colour,
            )  # fmt: skip
    axes.set_xticks(range(len(ordered)), [str(mask) for mask in ordered["mask"]], fontsize=6)
