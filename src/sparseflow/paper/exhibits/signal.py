"""Figure 1c: the signal that reaches the outputs of an untrained network, by sparsity."""

from __future__ import annotations

from functools import partial

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from sparseflow.lab.page import signal
from sparseflow.lab.page.evidence import Evidence
from sparseflow.lab.page.exhibit import Content, Drawing
from sparseflow.lab.page.svg import INK
from sparseflow.lab.page.words import number
from sparseflow.paper.matrix.scale import Scale

#: Layers with weights of LeNet5: each passes on the fraction sqrt(density) of the signal.
LAYERS = 5


def fig1c(evidence: Evidence, _: Scale) -> Content:
    """Standard deviation of the logits at initialisation over sparsity."""
    levels = signal.signal_levels(evidence.table("signal"))
    words = signal.signal_words(levels)
    drawing = Drawing(
        name="fig1c",
        how=f"How far the outputs of an untrained LeNet5 spread when it is {signal.HOW} The thin line is what theory "
        f"expects of masked weights of the usual size: each of {LAYERS} layers passes on the square root of the "
        "fraction of weights that it has. Random masks are even; skewed ones leave some neurons without any "
        "connection, as those of the paper's published notebook do. Live is not in the paper: it is Ours, counting "
        "only connections that something arrives on.",
        alt=f"Line chart: standard deviation of the logits at initialisation over sparsity. {' '.join(words)}",
        draw=partial(draw_with_theory, levels),
        data=levels,
    )
    return Content(shows=[*words, *_slopes(levels)], drawings=[drawing])


def draw_with_theory(levels: pd.DataFrame, *, narrow: bool = False) -> Figure:
    """The measured curves, and the power law of masked weights of the usual size."""
    figure = signal.draw_signal(levels, narrow=narrow)
    for axes, (_, _, of_kind) in zip(figure.axes, signal.kinds(levels), strict=False):
        rows = of_kind[of_kind["scheme"] == "dense"]
        if len(rows) and rows["sparsity"].iloc[0] == 0:
            density = 1 - rows["sparsity"].to_numpy()
            axes.plot(-np.log10(density), rows["mean"].iloc[0] * density ** (LAYERS / 2), color=INK, linewidth=0.7)
    return figure


def _slopes(levels: pd.DataFrame) -> list[str]:
    """The fitted exponent of the density, where there are enough sparsities."""
    sentences = []
    for mask, base, of_kind in signal.kinds(levels):
        rows = of_kind[(of_kind["scheme"] == "dense") & (of_kind["mean"] > 0)]
        if len(rows) > 2:
            slope = float(np.polyfit(np.log(1 - rows["sparsity"]), np.log(rows["mean"]), 1)[0])
            sentences.append(f"{signal.panel_label(mask, base)} {number(slope, 3)}")
    if not sentences:
        return []
    return [
        f"With Original the signal falls as a power of the density; theory says {LAYERS / 2:g}, fitted: "
        f"{', '.join(sentences)}."
    ]
