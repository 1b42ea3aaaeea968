"""One search of equal size for every method: nine runs in an orthogonal array over the settings that it reads."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from sparseflow.compare.settings import Setting
from sparseflow.training.config import RunConfig
from sparseflow.training.names import METHODS

#: A value of a factor.
Level = float | str
#: Of the runs of the search, which no compared run has.
SEARCH_SEED = 1000
#: Taguchi's array L9: nine runs, up to four factors of three levels; each pair of levels of two factors meets once, so
#: that the mean over a level is free of what the other factors do.
L9 = (
    (0, 0, 0, 0), (0, 1, 1, 1), (0, 2, 2, 2),
    (1, 0, 1, 2), (1, 1, 2, 0), (1, 2, 0, 1),
    (2, 0, 2, 1), (2, 1, 0, 2), (2, 2, 1, 0),
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Factor:
    """A setting that the search varies."""

    label: str
    levels: tuple[Level, Level, Level]
    changes: Callable[[RunConfig, Any], dict[str, Any]]
    """Takes a run with its usual settings and a level; the fields that it changes."""


def _period(run: RunConfig, share: float) -> dict[str, Any]:
    every = max(1, round(share * run.steps))
    return {"update_every": every} | ({"prune_every": every} if run.channels == 1 else {})


def _prune_end(run: RunConfig, share: float) -> dict[str, Any]:
    end = max(1, round(share * run.steps))
    if run.row.moves != "regenerate" or run.update_until is None:
        return {"prune_end": end}
    # GraNet exchanges weights as long as it prunes.
    return {"prune_end": end, "update_until": max(end, run.update_until)}


#: Name -> factor, in the order of the array's columns; a method has the first four of those that it reads.
FACTORS: Mapping[str, Factor] = {
    "learning_rate": Factor(
        label="Learning rate, times the usual one",
        levels=(0.4, 1.0, 2.5),
        changes=lambda run, times: {"learning_rate": times * run.learning_rate},
    ),
    "init": Factor(
        label="Initialisation", levels=("dense", "liu", "sparse"), changes=lambda run, scheme: {"init": scheme}
    ),
    "weight_decay": Factor(
        label="Weight decay, times the usual one",
        levels=(0.0, 1.0, 4.0),
        changes=lambda run, times: {"weight_decay": times * run.weight_decay},
    ),
    "drop_fraction": Factor(
        label="Drop fraction", levels=(0.1, 0.3, 0.5), changes=lambda run, share: {"drop_fraction": share}
    ),
    "prune_end": Factor(
        label="Share of training where pruning ends",
        levels=(0.45, 0.6, 0.8),
        changes=_prune_end,
    ),
    "period": Factor(label="Share of training between two mask updates", levels=(0.01, 0.025, 0.1), changes=_period),
}


def factors_of(run: RunConfig) -> list[str]:
    """The factors that a run's method reads, at most four.

    A start that is not sparse has weight decay in the place of the initialisation.

    >>> from sparseflow.compare.settings import SETTINGS
    >>> of = lambda method: factors_of(SETTINGS["lenet5"].run(method, 0.9, steps=2000, seed=0))
    >>> of("rigl"), of("scratch")
    (['learning_rate', 'init', 'drop_fraction', 'period'], ['learning_rate', 'init'])
    >>> of("prune")
    ['learning_rate', 'weight_decay', 'prune_end', 'period']
    """
    start = "init" if METHODS[run.method].start == "masked" else "weight_decay"
    moving = [name for name in ("drop_fraction", "prune_end", "period") if _is_read(run, FACTORS[name])]
    return ["learning_rate", start, *moving][:4]


def _is_read(run: RunConfig, factor: Factor) -> bool:
    made = {repr(run.with_(**factor.changes(run, level)).updater()) for level in factor.levels}
    return len(made) > 1


def candidates(run: RunConfig) -> list[dict[str, Level]]:
    """The nine settings of the search, each by the names of its factors.

    Args:
        run: Of the method, with the usual settings.

    >>> from sparseflow.compare.settings import SETTINGS
    >>> found = candidates(SETTINGS["lenet5"].run("dense", 0.9, steps=2000, seed=0))
    >>> len(found), found[3]
    (9, {'learning_rate': 1.0, 'weight_decay': 0.0})
    """
    names = factors_of(run)
    return [{name: FACTORS[name].levels[index] for name, index in zip(names, row, strict=False)} for row in L9]


def with_levels(run: RunConfig, levels: Mapping[str, Level]) -> RunConfig:
    """A run with the levels of a candidate.

    Args:
        run: With the usual settings; shares of a training are of its steps.
        levels: Of :func:`candidates`.
    """
    changes: dict[str, Any] = {}
    for name, level in levels.items():
        changes |= FACTORS[name].changes(run, level)
    return run.with_(**changes)


def search_runs(setting: Setting, method: str, sparsity: float) -> list[tuple[dict[str, Level], RunConfig]]:
    """Levels and run of each candidate, with images held out to choose by.

    Args:
        setting: The network.
        method: Key of ``METHODS``.
        sparsity: Zero fraction.
    """
    usual = setting.run(method, sparsity, steps=setting.search_steps, seed=SEARCH_SEED, holdout=setting.holdout)
    return [(levels, with_levels(usual, levels)) for levels in candidates(usual)]
