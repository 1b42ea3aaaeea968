"""One number per run, for claims about training to compare.

Steps are those of the paper's runs of 11719; of a run of another length they mean the same share of training. A moving
mask changes at multiples of ``update_every``. There ``flow/norm`` is measured right after the update; everywhere else
it is *off-cycle*, and only off-cycle steps are comparable with those of a static mask (protocol A.0).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from functools import wraps
from typing import Concatenate, ParamSpec

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from sparseflow.lab.page.evidence import Evidence, NotEnoughRunsError
from sparseflow.lab.page.summary import accuracy_percent, onset_step
from sparseflow.paper.claims.intervals import Values
from sparseflow.paper.claims.verdict import FEWEST
from sparseflow.paper.matrix.scales import PAPER
from sparseflow.training.config import RunConfig
from sparseflow.training.runs import Run

PAPER_STEPS: int = PAPER.base.steps
#: Stands for exact zeros where a logarithm is taken; far below every norm and signal of a connected network.
SMALLEST = 1e-12
Arguments = ParamSpec("Arguments")


def statistic(
    compute: Callable[Concatenate[Run, Arguments], float],
) -> Callable[Concatenate[Run, Arguments], float]:
    """A number of a run that is computed once and kept in ``run.statistics``, from where a table of runs takes it.

    Whatever claims read of a run is such a number, so that they can be judged from the table alone.

    >>> from pathlib import Path
    >>> from sparseflow.training.digits import DigitRun
    >>> run = Run(DigitRun(), Path("run"), pd.DataFrame(), {"test/accuracy": 0.75}, {}, 1.0)
    >>> accuracy(run), run.statistics
    (75.0, {'accuracy()': 75.0})
    >>> accuracy(Run(DigitRun(), Path("run"), pd.DataFrame(), {}, {}, 1.0, statistics={"accuracy()": 50.0}))
    50.0
    """
    signature = inspect.signature(compute)

    @wraps(compute)
    def kept(run: Run, /, *args: Arguments.args, **options: Arguments.kwargs) -> float:
        bound = signature.bind(run, *args, **options)
        bound.apply_defaults()
        said = ", ".join(f"{key}={value:g}" for key, value in list(bound.arguments.items())[1:] if value is not None)
        name = f"{compute.__name__}({said})"
        if name not in run.statistics:
            run.statistics[name] = compute(run, *args, **options)
        return run.statistics[name]

    return kept


@statistic
def accuracy(run: Run) -> float:
    """Final test accuracy in percent."""
    return accuracy_percent(run)


@statistic
def onset(run: Run) -> float:
    """First logged step with a loss below 2.2; a run that never learns counts as its last step."""
    return min(onset_step(run.metrics), float(run.config.steps))


def of_each(runs: Iterable[Run], statistic: Callable[[Run], float]) -> Values:
    """One number per run.

    >>> from pathlib import Path
    >>> from sparseflow.training.digits import DigitRun
    >>> runs = [Run(DigitRun(), Path("run"), pd.DataFrame(), {"test/accuracy": 0.75}, {}, 1.0)]
    >>> of_each(runs, accuracy).tolist()
    [75.0]
    """
    return np.array([statistic(run) for run in runs], dtype=np.float64)


def accuracies(runs: Iterable[Run]) -> Values:
    """Final test accuracies in percent."""
    return of_each(runs, accuracy)


def accuracies_of(evidence: Evidence, group: str, *, at_least: int = FEWEST) -> Values:
    """Final test accuracies of the runs of a group, by default as many as a t test needs."""
    return accuracies(evidence.runs(group, at_least=at_least))


def onsets(runs: Iterable[Run]) -> Values:
    """Their :func:`onset`."""
    return of_each(runs, onset)


def num_collapsed(runs: Iterable[Run], *, below: float) -> int:
    """The number of runs that end under a test accuracy of ``below`` percent: they did not learn."""
    return int((accuracies(runs) < below).sum())


def at_paper_step(config: RunConfig, step: float) -> int:
    """The step of a run at the same share of training as ``step`` of the paper's 11719.

    >>> from sparseflow.training.digits import DigitRun
    >>> at_paper_step(DigitRun(), 1000), at_paper_step(DigitRun(steps=1000), 11719 / 2)
    (1000, 500)
    """
    return round(step * config.steps / PAPER_STEPS)


def at_share(share: float) -> float:
    """The paper's step at a share of training, for windows of networks whose runs are not of 11719 steps.

    >>> from sparseflow.training.digits import DigitRun
    >>> at_paper_step(DigitRun(steps=1000), at_share(0.25))
    250
    """
    return share * PAPER_STEPS


def logged(run: Run, name: str) -> pd.Series[float]:
    """The values of a metric by step.

    >>> from pathlib import Path
    >>> from sparseflow.training.digits import DigitRun
    >>> metrics = pd.DataFrame({"step": [0, 50], "name": ["flow/norm", "train/loss"], "value": [0.5, 2.0]})
    >>> logged(Run(DigitRun(), Path("run"), metrics, {}, {}, 1.0), "flow/norm").to_dict()
    {0: 0.5}
    """
    rows = run.metrics[run.metrics["name"] == name]
    if rows.empty:
        raise NotEnoughRunsError(
            f"{run.config.name} has no {name}. Delete its folder and run it again:\nsparseflow reproduce"
        )
    return rows.set_index("step")["value"]


@statistic
def norm_at(run: Run, step: int) -> float:
    """The gradient norm at a step of the run itself.

    Raises:
        ValueError: if it was not logged there.
    """
    norms = logged(run, "flow/norm")
    if step not in norms.index:
        raise ValueError(f"{run.config.name} logged no gradient norm at step {step}, but every {run.config.log_every}.")
    return float(norms[step])


@statistic
def mean_log_norm(run: Run, first: float = 0, last: float = PAPER_STEPS, *, off_cycle: int | None = None) -> float:
    r"""Mean of :math:`\ln \lVert g \rVert` over the logged steps from ``first`` to ``last``.

    Args:
        run: A finished run.
        first: First of the paper's steps.
        last: Last of the paper's steps, included.
        off_cycle: Leave out the steps at which a mask with this update period was just updated. Give the same to
            both sides of a comparison, so that they are compared at the same steps.
    """
    norms = _between(run, logged(run, "flow/norm"), first, last)
    if off_cycle is not None:
        norms = norms[(norms.index % off_cycle != 0) | (norms.index == 0)]
    return _mean_log(run, norms)


@statistic
def mean_log_norm_before_updates(
    run: Run, first: float = 0, last: float = PAPER_STEPS, *, update_every: int | None = None
) -> float:
    """As :func:`mean_log_norm`, over the moments right before mask updates.

    Args:
        run: A finished run. One with a static mask is taken at the steps at which the other's mask moves.
        first: First of the paper's steps.
        last: Last of the paper's steps, included.
        update_every: The period of the updates; default the run's own.
    """
    if (run.metrics["name"] == "update/before").any():
        norms = logged(run, "update/before")
    else:
        norms = logged(run, "flow/norm")
        norms = norms[(norms.index % (update_every or run.config.update_every) == 0) & (norms.index > 0)]
    return _mean_log(run, _between(run, norms, first, last))


def update_deltas(run: Run) -> pd.Series[float]:
    """The change of the gradient norm at each mask update, right after minus right before, by step (Figure 3).

    >>> from pathlib import Path
    >>> from sparseflow.training.digits import DigitRun
    >>> names = ["update/before", "update/after"]
    >>> metrics = pd.DataFrame({"step": [500, 500], "name": names, "value": [0.25, 0.75]})
    >>> update_deltas(Run(DigitRun(), Path("run"), metrics, {}, {}, 1.0)).to_dict()
    {500: 0.5}
    """
    return logged(run, "update/after") - logged(run, "update/before")


@statistic
def mean_delta(run: Run, first: float = 0, last: float = PAPER_STEPS) -> float:
    """Mean of :func:`update_deltas` over the updates after the paper's step ``first``, up to ``last``."""
    deltas = update_deltas(run)
    start = at_paper_step(run.config, first)
    return float(_required(run, _between(run, deltas[deltas.index > start], first, last)).mean())


def log_of(values: ArrayLike) -> Values:
    """Natural logarithms; of zero, that of ``SMALLEST``.

    >>> log_of([1.0, 0.0]).round(1).tolist()
    [0.0, -27.6]
    """
    return np.log(np.maximum(np.asarray(values, dtype=np.float64), SMALLEST))


def mean_and_std(values: ArrayLike, *, digits: int = 2) -> str:
    """Mean and population standard deviation, as the paper prints them, and the number of values.

    >>> mean_and_std([97.0, 98.0])
    '97.50±0.50 (2)'
    """
    found = np.asarray(values, dtype=np.float64)
    return f"{found.mean():.{digits}f}±{found.std():.{digits}f} ({len(found)})"


def labelled_means(found: Mapping[str, ArrayLike], *, digits: int = 2) -> str:
    """:func:`mean_and_std` of several lists of values, each after its label.

    >>> labelled_means({"RigL": [97.0, 98.0], "SET": [96.0, 96.0]})
    'RigL 97.50±0.50 (2), SET 96.00±0.00 (2)'
    """
    return ", ".join(f"{label} {mean_and_std(values, digits=digits)}" for label, values in found.items())


def _between(run: Run, values: pd.Series[float], first: float, last: float) -> pd.Series[float]:
    steps = np.asarray(values.index)
    return values[(steps >= at_paper_step(run.config, first)) & (steps <= at_paper_step(run.config, last))]


def _required(run: Run, values: pd.Series[float]) -> pd.Series[float]:
    if values.empty:
        raise NotEnoughRunsError(
            f"{run.config.name} measured no gradient norm in the part of training that is asked for: it logs every "
            f"{run.config.log_every} of {run.config.steps} steps. Run it at the paper's scale:\nsparseflow reproduce"
        )
    return values


def _mean_log(run: Run, norms: pd.Series[float]) -> float:
    return float(log_of(_required(run, norms)).mean())
