"""The networks that methods are compared on, with the usual run of each at any number of steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sparseflow.suggest import did_you_mean
from sparseflow.training.config import RunConfig
from sparseflow.training.digits import DigitRun
from sparseflow.training.images import rescaled, usual_run
from sparseflow.training.names import METHODS

#: What static masks are called among methods: budgets and differences are counted from them.
STATIC = "scratch"
#: Shares of a training where pruning begins and ends, and between two mask updates, where nothing else is said. Those
#: of pruning are the paper's on MNIST (protocol D), the period gives 40 updates.
PRUNE_BEGIN, PRUNE_END, PERIOD = 0.25, 0.6, 0.025


@dataclass(frozen=True, kw_only=True)
class Setting:
    """A network with its data, and how long it is trained."""

    name: str
    label: str
    usual: Any
    """Its run with the usual settings; ``method``, ``sparsity`` and ``seed`` are replaced."""
    steps: int
    """Optimizer steps of a run."""
    search_steps: int
    """Of a run of the search."""
    holdout: int
    """Training images that the search keeps out of training, to choose by."""

    def run(self, method: str, sparsity: float, *, steps: int, seed: int, **changes: Any) -> RunConfig:
        """A run; everything that is counted in steps is a share of its training, and little is measured on the way.

        >>> run = SETTINGS["mlp"].run("rigl", 0.9, steps=800, seed=3)
        >>> run.update_every, run.prune_end, run.eval_every
        (20, 480, 800)
        """
        counted = {
            "update_every": max(1, round(PERIOD * steps)),
            "prune_begin": round(PRUNE_BEGIN * steps),
            "prune_end": max(1, round(PRUNE_END * steps)),
            "log_every": steps,
            "eval_every": steps,
            "checkpoint_every": steps,
        }
        usual = self.usual
        if usual.channels == 1:
            counted |= {"steps": steps, "prune_every": max(1, round(PERIOD * steps))}
        else:
            usual = rescaled(usual, steps=steps, batch_size=usual.batch_size)
        # One dense network stands beside all sparsities.
        row = METHODS[method]
        zeros = {} if row.start == "dense" and row.moves == "never" else {"sparsity": sparsity}
        made: RunConfig = usual.with_(**counted, **zeros, method=method, seed=seed).with_(**changes)
        return made


def _settings() -> dict[str, Setting]:
    lenet5 = Setting(
        name="lenet5", label="LeNet5 on MNIST", usual=DigitRun(), steps=2000, search_steps=2000, holdout=10_000
    )
    return {
        "lenet5": lenet5,
        "mlp": replace(lenet5, name="mlp", label="MLP on MNIST", usual=DigitRun(model="mlp")),
        "resnet20": Setting(
            name="resnet20",
            label="ResNet-20 on CIFAR-10",
            usual=usual_run("resnet20"),
            steps=1560,
            search_steps=390,
            holdout=10_000,
        ),
    }


#: Name of a network -> its setting: MNIST for four epochs; CIFAR-10 for four, its search for one.
SETTINGS: Mapping[str, Setting] = _settings()


def compared_methods() -> list[str]:
    """The methods that ``all`` stands for: those that start sparse or prune, and the dense network.

    Tickets are none of them: they start from another run's end.

    >>> compared_methods()[:4]
    ['dense', 'prune', 'scratch', 'set']
    """
    return [name for name, row in METHODS.items() if row.start != "ticket"]


def chosen_names(text: str, known: Sequence[str], *, what: str) -> list[str]:
    """The names in a list with commas, ``all`` for every one, each once.

    Args:
        text: As typed.
        known: The names that there are.
        what: A word for one of them, in the error.

    Raises:
        ValueError: if one is unknown, or there is none.

    >>> chosen_names("set,rigl,set", ["set", "rigl"], what="method")
    ['set', 'rigl']
    """
    names = list(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    if names == ["all"]:
        return list(known)
    for name in names:
        if name not in known:
            raise ValueError(
                f"there is no {what} {name!r} to compare. Known: all, {', '.join(known)}.{did_you_mean(name, known)}"
            )
    if not names:
        raise ValueError(f"no {what} is named. Known: all, {', '.join(known)}.")
    return names
