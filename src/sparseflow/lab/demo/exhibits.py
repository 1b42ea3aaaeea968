"""The figures of the report with their words: a question, how to read the answer, and what it shows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import pandas as pd
from matplotlib.figure import Figure

from sparseflow.lab.demo import figures, findings
from sparseflow.lab.page.figure_data import signal_levels, training_curves, update_changes
from sparseflow.lab.page.summary import COLLAPSE_PERCENT, summarize
from sparseflow.training.store import Run

_BAND = " A line is the mean over seeds; its band reaches from the lowest to the highest seed."
_PANELS = " Each panel is one initialisation; the grey lines are networks without a mask at the start, for comparison."


@dataclass(frozen=True, kw_only=True)
class Section:
    """One figure of the page with its words, or the reason why it is not there."""

    name: str
    """File name without ending, and the anchor on the page."""
    heading: str
    how: str = ""
    """How to read the figure."""
    shows: Sequence[str] = ()
    """What it shows, computed: a sentence, or a list of them."""
    alt: str = ""
    """The figure in words and numbers, for those who do not see it."""
    draw: Callable[..., tuple[Figure, pd.DataFrame]] | None = None
    """Takes ``narrow=``, gives the drawing and its table; None where there is no data."""
    missing: str = ""
    """Where there is no data: what would make it."""
    try_this: str = ""
    """Where there is no data: the command to type."""


def sections(runs: Sequence[Run], signal: pd.DataFrame | None) -> list[Section]:
    """Every section of the page, in order; those without data say what is missing.

    Args:
        runs: comparable runs, at least one.
        signal: columns ``figure_data.SIGNAL_COLUMNS``; None where no signal was measured.
    """
    table = summarize(runs)
    return [
        Section(
            name="accuracy",
            heading="How well does each network end?",
            how="A bar is the mean over seeds (the number at its right), a ring is one seed, a whisker spans one "
            "population standard deviation to either side. "
            f"Left of the dotted line ({COLLAPSE_PERCENT:.0f} %) a network has not learned; guessing gives 10 %.",
            shows=[findings.accuracy_finding(table)],
            alt=f"Bar chart of final test accuracy. {findings.accuracy_words(table)}",
            draw=partial(figures.accuracy_figure, runs),
        ),
        _curves(
            runs,
            metric="flow/norm",
            name="gradient-norm",
            heading="How much gradient does each network get?",
            how="The length of the loss gradient over the weights that exist, always on the same training images. "
            "The axis is logarithmic: one grid line up is ten times more.",
            finding=findings.norm_finding,
        ),
        _curves(
            runs,
            metric="train/loss",
            name="train-loss",
            heading="When does learning begin?",
            how="The loss on the images of that step, without the weight penalty. "
            "The dotted line (2.303) is the loss of a network that guesses.",
            finding=lambda _: findings.onset_finding(table),
        ),
        _curves(
            runs,
            metric="test/accuracy",
            name="test-accuracy",
            heading="How does accuracy grow?",
            how="The share of unseen images that the network names correctly. The dotted line (10 %) is guessing.",
            finding=findings.halfway_finding,
        ),
        _updates(runs),
        _signal(signal),
    ]


def _curves(
    runs: Sequence[Run], *, metric: str, name: str, heading: str, how: str, finding: Callable[[pd.DataFrame], str]
) -> Section:
    data = training_curves(runs, metric)
    if data.empty:
        config = next((run.config for run in runs if run.config.row.start == "masked"), runs[0].config)
        return Section(name=name, heading=heading, missing=f"No run has logged {metric}.", try_this=config.command)
    axis = figures.METRICS[metric].axis
    return Section(
        name=name,
        heading=heading,
        how=how + _BAND + _PANELS,
        shows=[finding(data)],
        alt=f"Line chart: {axis} over optimizer steps. {findings.curve_words(data)}",
        draw=partial(figures.curves_figure, runs, metric),
    )


def _updates(runs: Sequence[Run]) -> Section:
    name, heading = "update-change", "What does moving connections do to the gradient?"
    data = update_changes(runs)
    if data.empty:
        wanted = runs[0].config.with_(method="rigl", init="sparse", mask_from=None)
        missing = "No run here has moved its connections while it trained."
        return Section(name=name, heading=heading, missing=missing, try_this=wanted.command)
    words = findings.update_words(data)
    return Section(
        name=name,
        heading=heading,
        how="At each update a method drops its smallest weights and grows as many new connections: SET at random, RigL "
        "where the gradient is largest. The gradient norm is measured right before and right after, on the same "
        "images; a point above the line at zero is an update that raised it." + _BAND,
        shows=[words],
        alt=f"Line chart: change of the gradient norm at each mask update. {words}",
        draw=partial(figures.update_figure, runs),
    )


def _signal(signal: pd.DataFrame | None) -> Section:
    name, heading = "signal", "How much signal gets through at the start?"
    if signal is None or signal.empty:
        missing = "The signal at initialisation was not measured with these runs."
        return Section(name=name, heading=heading, missing=missing, try_this="sparseflow demo")
    words = findings.signal_words(signal_levels(signal))
    return Section(
        name=name,
        heading=heading,
        how="How far the outputs of an untrained network spread when it is shown random noise, against the fraction of "
        "weights that are zero. A curve that falls is a signal that dies on its way through the network. A line is the "
        "mean over networks; its band reaches from the lowest to the highest, and to the bottom where a network passes "
        "nothing at all.",
        shows=words,
        alt=f"Line chart: standard deviation of the logits at initialisation over sparsity. {' '.join(words)}",
        draw=partial(figures.signal_figure, signal),
    )
