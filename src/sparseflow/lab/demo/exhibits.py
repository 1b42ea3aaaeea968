"""The exhibits of the page about one folder of runs: a question, how to read the answer, and what it shows."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pandas as pd

from sparseflow.lab.demo import figures, findings
from sparseflow.lab.demo.headline import certainty, comparisons
from sparseflow.lab.demo.live_filters import draw_live, live_filters, live_how, live_words
from sparseflow.lab.page import signal
from sparseflow.lab.page.evidence import Evidence, NotEnoughRunsError
from sparseflow.lab.page.exhibit import Content, Drawing, Exhibit
from sparseflow.lab.page.figure_data import accuracy_points, training_curves, update_changes
from sparseflow.lab.page.summary import COLLAPSE_PERCENT, summarize
from sparseflow.training.runs import Run

#: Groups of :class:`Evidence`: the runs that the page begins with, and those about pruned networks.
ALL, PRUNED = "all", "pruned"
_BAND = " A line is the mean over seeds; its band reaches from the lowest to the highest seed."
_PANELS = " Each panel is one initialisation; the grey lines are networks without a mask at the start, for comparison."


def _accuracy(evidence: Evidence, _: object) -> Content:
    runs = evidence.runs(ALL)
    table = summarize(runs)
    shows = [*certainty(table), *comparisons(table, runs)]
    return Content(shows=shows, drawings=[_dots("accuracy", runs, table)])


def _pruned(evidence: Evidence, _: object) -> Content:
    if PRUNED not in evidence.groups:
        raise NotEnoughRunsError(
            "No run here starts from the masks of a pruned network beside others from random masks. Make both:\n"
            "sparseflow demo"
        )
    runs = evidence.runs(PRUNED)
    table = summarize(runs)
    shows, drawings, missing = [findings.accuracy_words(table)], [_dots("pruned-masks", runs, table)], []
    try:
        data = live_filters(runs)
    except NotEnoughRunsError as error:
        missing.append(str(error))
    else:
        words = live_words(data)
        shows.append(words)
        drawings.append(
            Drawing(
                name="live-filters",
                how=live_how(data),
                alt=f"Dots: final test accuracy over the live filters of the first layer. {words}",
                draw=partial(draw_live, data),
                data=data,
            )
        )
    return Content(shows=shows, drawings=drawings, missing=missing)


def _dots(name: str, runs: list[Run], table: pd.DataFrame) -> Drawing:
    points = accuracy_points(runs)
    return Drawing(
        name=name,
        how="Every dot is one network, at the share of unseen images that it names rightly; the line is the median of "
        f"those that learned. A network learned unless it ends below {COLLAPSE_PERCENT:.0f} %; guessing gives "
        "10 %. The seeds are 0, 1, 2 and so on, none of them left out.",
        alt=f"Dots: final test accuracy of every run. {findings.accuracy_words(table)}",
        draw=partial(figures.draw_accuracy, points),
        data=points,
    )


def _curves(
    metric: str,
    axis: str,
    how: str,
    finding: Callable[[pd.DataFrame, Evidence], str],
    evidence: Evidence,
    _: object,
    *,
    name: str,
    **drawn: Any,
) -> Content:
    runs = evidence.runs(ALL)
    data = training_curves(runs, metric)
    if data.empty:
        config = next((run.config for run in runs if run.config.row.start == "masked"), runs[0].config)
        raise NotEnoughRunsError(
            f"No run has logged {metric}. Make one that does, then the report again:\n{config.command}"
        )
    drawing = Drawing(
        name=name,
        how=how + _BAND + _PANELS,
        alt=f"Line chart: {axis} over optimizer steps. {findings.curve_words(data)}",
        draw=partial(figures.draw_training, data, axis, **drawn),
        data=data,
    )
    return Content(shows=[finding(data, evidence)], drawings=[drawing])


def _updates(evidence: Evidence, _: object) -> Content:
    runs = evidence.runs(ALL)
    data = update_changes(runs)
    if data.empty:
        wanted = runs[0].config.with_(method="rigl", init="sparse", mask_from=None)
        raise NotEnoughRunsError(
            "No run here has moved its connections while it trained. Make one that does, then the report again:\n"
            + wanted.command
        )
    words = findings.update_words(data)
    drawing = Drawing(
        name="update-change",
        how="At each update a method drops its smallest weights and grows as many new connections: SET at random, RigL "
        "where the gradient is largest. The gradient norm is measured right before and right after, on the same "
        "images; a point above the line at zero is an update that raised it." + _BAND,
        alt=f"Line chart: change of the gradient norm at each mask update. {words}",
        draw=partial(figures.draw_updates, data),
        data=data,
    )
    return Content(shows=[words], drawings=[drawing])


def _signal(evidence: Evidence, _: object) -> Content:
    if "signal" not in evidence.tables:
        raise NotEnoughRunsError(
            "The signal at initialisation was not measured with these runs. Measure it with new ones:\nsparseflow demo"
        )
    levels = signal.signal_levels(evidence.table("signal"))
    words = signal.signal_words(levels)
    drawing = Drawing(
        name="signal",
        how=f"How far the outputs of an untrained network spread when it is {signal.HOW}",
        alt=f"Line chart: standard deviation of the logits at initialisation over sparsity. {' '.join(words)}",
        draw=partial(signal.draw_signal, levels),
        data=levels,
    )
    return Content(shows=words, drawings=[drawing])


#: Name -> exhibit, in the order of the page. A name is the anchor on the page.
EXHIBITS: dict[str, Exhibit] = {
    "accuracy": Exhibit(question="How does each network end?", build=_accuracy),
    "pruned-masks": Exhibit(question="And with the connections of a pruned network?", build=_pruned),
    "gradient-norm": Exhibit(
        question="How much gradient does each network get?",
        build=partial(
            _curves,
            "flow/norm",
            "Gradient norm ‖g‖",
            "The length of the loss gradient over the weights that exist, always on the same training images. "
            "The axis is logarithmic: one grid line up is ten times more.",
            lambda data, _: findings.norm_finding(data),
            name="gradient-norm",
            log=True,
        ),
    ),
    "train-loss": Exhibit(
        question="When does learning begin?",
        build=partial(
            _curves,
            "train/loss",
            "Training loss (nats)",
            "The loss on the images of that step, without the weight penalty. "
            "The dotted line (2.303) is the loss of a network that guesses.",
            lambda _, evidence: findings.onset_finding(summarize(evidence.runs(ALL))),
            name="train-loss",
            chance=math.log(10),
        ),
    ),
    "test-accuracy": Exhibit(
        question="How does accuracy grow?",
        build=partial(
            _curves,
            "test/accuracy",
            "Test accuracy (%)",
            "The share of unseen images that the network names correctly. The dotted line (10 %) is guessing.",
            lambda data, _: findings.halfway_finding(data),
            name="test-accuracy",
            chance=10.0,
            limits=(0, 102),
        ),
    ),
    "update-change": Exhibit(question="What does moving connections do to the gradient?", build=_updates),
    "signal": Exhibit(question="How much signal gets through at the start?", build=_signal),
}
