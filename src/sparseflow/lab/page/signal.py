"""Figure 1c, the signal at initialisation over sparsity: its table, its drawing and its words."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from sparseflow.init.schemes import SCHEMES
from sparseflow.lab.page import panels
from sparseflow.lab.page.figure_data import condensed
from sparseflow.lab.page.panels import Curve
from sparseflow.lab.page.words import number

SIGNAL_COLUMNS = ("scheme", "base", "mask", "sparsity", "network", "logit_std")
#: How to read the figure: the end of a sentence about the outputs of an untrained network.
HOW = (
    "shown random noise, against the fraction of weights that are zero. A curve that falls is a signal that dies on "
    "its way through the network. A line is the mean over networks; its band reaches from the lowest to the highest, "
    "and to the bottom where a network passes nothing at all."
)


def signal_levels(signal: pd.DataFrame) -> pd.DataFrame:
    """Std of the logits at initialisation, over networks: ``scheme, base, mask, sparsity``, ``STATISTICS``.

    Args:
        signal: ``signal.csv`` of a run folder, one row per network.

    Raises:
        ValueError: if a column is missing.

    >>> rows = [("dense", "xavier_uniform", "uniform", 0.9, *network) for network in ((0, 0.25), (1, 0.75))]
    >>> levels = signal_levels(pd.DataFrame(rows, columns=list(SIGNAL_COLUMNS)))
    >>> levels.loc[0, ["sparsity", "n", "mean", "max"]].to_list() == [0.9, 2, 0.5, 0.75]
    True
    """
    if missing := [name for name in SIGNAL_COLUMNS if name not in signal]:
        raise ValueError(
            f"the signal table has no column {', '.join(missing)}; it needs {', '.join(SIGNAL_COLUMNS)}. "
            "Delete signal.csv and make it again: sparseflow demo"
        )
    values = signal.rename(columns={"logit_std": "value"})
    return condensed(values.sort_values("sparsity", kind="stable"), ["scheme", "base", "mask", "sparsity"])


def kinds(levels: pd.DataFrame) -> list[tuple[str, str, pd.DataFrame]]:
    """Kind of mask, base initialiser, and the rows of both."""
    return [(str(mask), str(base), rows) for (mask, base), rows in levels.groupby(["mask", "base"], sort=False)]


def signal_words(levels: pd.DataFrame) -> list[str]:
    """The share of the dense network's logit std that is left at the highest sparsity, one sentence per panel.

    >>> levels = pd.DataFrame({"scheme": "liu", "base": "kaiming_normal", "mask": "uniform", "sparsity": [0.0, 0.9]})
    >>> signal_words(levels.assign(mean=[4.0, 1.0]))
    ['Uniform mask, He normal: of the signal at 0 % zeros, 90 % zeros leave Liu 25 %.']
    """
    sentences = []
    for mask, base, panel in kinds(levels):
        top, bottom = panel["sparsity"].max(), panel["sparsity"].min()
        parts = []
        for key, scheme in SCHEMES.items():
            curve = panel[panel["scheme"] == key].set_index("sparsity")["mean"]
            if top in curve and bottom in curve and curve[bottom] > 0 and top > bottom:
                parts.append(f"{scheme.label} {number(100 * curve[top] / curve[bottom], 2)} %")
        if parts:
            zeros = f"of the signal at {number(100 * bottom)} % zeros, {number(100 * top)} % zeros leave"
            sentences.append(f"{panel_label(mask, base)}: {zeros} {', '.join(parts)}.")
    return sentences


def panel_label(mask: str, base: str) -> str:
    """Name of a kind of mask and a base initialiser.

    >>> panel_label("uniform", "kaiming_normal")
    'Uniform mask, He normal'
    """
    return f"{mask.capitalize()} mask, {base.replace('xavier', 'Glorot').replace('kaiming', 'He').replace('_', ' ')}"


def draw_signal(levels: pd.DataFrame, *, narrow: bool = False) -> Figure:
    """Logit std at initialisation over sparsity, one panel per kind of mask and base initialiser.

    A line is the mean over networks, its band reaches from the lowest to the highest; the sparsity axis is
    ``-log10(1 - S)``, so that .9, .95 and .98 stand apart.
    """
    of_kind = kinds(levels)
    figure, axes = panels.layout(len(of_kind), narrow=narrow, columns=2 if len(of_kind) in (2, 4) else 3, share=True)
    sparsities = sorted(levels["sparsity"].unique())
    for panel, (mask, base, rows) in zip(axes, of_kind, strict=True):
        panels.log_scale(panel)
        placed = rows.assign(place=-np.log10(1 - rows["sparsity"]))
        for key, curve in placed.groupby("scheme", sort=False):
            panels.draw_curve(panel, SCHEMES[str(key)].look, curve, x="place", band=panels.min_to_max)
        panel.set_xticks([-math.log10(1 - level) for level in sparsities], [f"{level:g}" for level in sparsities])
        panel.set_xlabel("Sparsity (fraction of zeros)")
        panel.set_title(panel_label(mask, base))
    panels.label_left(axes, "Standard deviation of logits")
    drawn = set(levels["scheme"])
    curves = [Curve(scheme.label, key, scheme.look) for key, scheme in SCHEMES.items() if key in drawn]
    panels.curve_legend(figure, curves, narrow=narrow)
    return figure
