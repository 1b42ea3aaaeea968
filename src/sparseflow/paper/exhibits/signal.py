"""Figure 1c: how much signal reaches the outputs of an untrained network, by sparsity."""

from __future__ import annotations

from functools import partial

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.figure import Figure

from sparseflow.lab.demo.figures import signal_figure
from sparseflow.lab.demo.findings import number, panel_label, signal_words
from sparseflow.lab.page.evidence import Evidence
from sparseflow.lab.page.exhibit import Content, Drawing
from sparseflow.lab.page.figure_data import signal_levels
from sparseflow.lab.page.svg import INK, STYLE
from sparseflow.paper.matrix.scales import Scale

#: Layers with weights of LeNet5: each passes on the fraction sqrt(density) of the signal.
LAYERS = 5


def fig1c(evidence: Evidence, _: Scale) -> Content:
    """Standard deviation of the logits at initialisation over sparsity.

    Raises:
        NotEnoughRunsError: if the signal was not measured.
    """
    signal = evidence.table("signal")
    levels = signal_levels(signal)
    words = signal_words(levels)
    drawing = Drawing(
        name="fig1c",
        how="How far the outputs of an untrained LeNet5 spread when it is shown random noise, against the fraction of "
        "weights that are zero. A curve that falls is a signal that dies on its way through the network. A line is the "
        "mean over networks; its band reaches from the lowest to the highest, and to the bottom where a network passes "
        "nothing at all. The thin line is what theory expects of masked weights of the usual size: each of "
        f"{LAYERS} layers passes on the square root of the fraction of weights that it has. Random masks are even; "
        "skewed ones leave some neurons without any connection, as those of the paper's published notebook do. Live is "
        "not in the paper: it is Ours, counting only connections that something arrives on.",
        alt=f"Line chart: standard deviation of the logits at initialisation over sparsity. {' '.join(words)}",
        draw=partial(draw_signal, signal, levels),
        data=levels,
    )
    return Content(shows=[*words, *_slopes(levels)], drawings=[drawing])


@rc_context(STYLE)
def draw_signal(signal: pd.DataFrame, levels: pd.DataFrame, *, narrow: bool = False) -> Figure:
    """The measured curves, and the power law of masked weights of the usual size."""
    figure, _ = signal_figure(signal, narrow=narrow)
    kinds = levels[["mask", "base"]].drop_duplicates().itertuples(index=False, name=None)
    for axes, (mask, base) in zip(figure.axes, kinds, strict=False):
        rows = _dense(levels, mask, base)
        if len(rows) and rows["sparsity"].iloc[0] == 0:
            density = 1 - rows["sparsity"].to_numpy()
            axes.plot(-np.log10(density), rows["mean"].iloc[0] * density ** (LAYERS / 2), color=INK, linewidth=0.7)
    return figure


def _dense(levels: pd.DataFrame, mask: str, base: str) -> pd.DataFrame:
    return levels[(levels["mask"] == mask) & (levels["base"] == base) & (levels["scheme"] == "dense")]


def _slopes(levels: pd.DataFrame) -> list[str]:
    """The fitted exponent of the density, where there are enough sparsities."""
    sentences = []
    for mask, base in levels[["mask", "base"]].drop_duplicates().itertuples(index=False, name=None):
        rows = _dense(levels, mask, base)
        rows = rows[rows["mean"] > 0]
        if len(rows) > 2:
            slope = float(np.polyfit(np.log(1 - rows["sparsity"]), np.log(rows["mean"]), 1)[0])
            sentences.append(f"{panel_label(mask, base)} {number(slope, 3)}")
    if not sentences:
        return []
    return [
        f"With Original the signal falls as a power of the density; theory says {LAYERS / 2:g}, fitted: "
        f"{', '.join(sentences)}."
    ]
