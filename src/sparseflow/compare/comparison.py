"""A comparison: its cells, the runs of its search, what these choose, and the runs that are then compared."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from sparseflow.compare.budget import BUDGETS, Cost, affordable, flops_like, num_updates, seconds_like
from sparseflow.compare.flops import layer_flops, training_flops, update_flops
from sparseflow.compare.result import Result, result_of
from sparseflow.compare.search import Level, search_runs, with_levels
from sparseflow.compare.settings import SETTINGS, STATIC, Setting, chosen_names, compared_methods
from sparseflow.lab.page.words import DATASETS_IN_WORDS
from sparseflow.ranges import SPARSITIES
from sparseflow.training.config import RunConfig
from sparseflow.training.datasets import check_data
from sparseflow.training.names import METHODS
from sparseflow.training.setup import set_up
from sparseflow.training.trial import Trial

#: Static masks' steps, times this, are the most that a budget can give a method.
_MOST = 8


class Cell(NamedTuple):
    """A method on a network at a sparsity."""

    network: str
    sparsity: float
    method: str


class Candidate(NamedTuple):
    """A run of the search, and what came of it."""

    levels: dict[str, Level]
    result: Result


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Methods on networks at sparsities, on one or more budgets; every run is known from these and the search.

    Args:
        networks: Keys of :data:`.SETTINGS`.
        methods: Keys of ``METHODS``.
        sparsities: Zero fractions.
        budgets: Keys of :data:`.BUDGETS`.
        seeds: Runs of a cell; those of one seed see the same images in the same order.
        settings: What the networks are; default :data:`.SETTINGS`.
        skips: Whether a method that cannot be met is left out, with its reason, rather than an error.

    >>> comparison = Comparison(networks=("mlp",), methods=("scratch", "rigl"), sparsities=(0.9,), budgets=("steps",))
    >>> [len(runs) for runs in comparison.search().values()], comparison.cells[1]
    ([9, 9], Cell(network='mlp', sparsity=0.9, method='rigl'))
    """

    networks: tuple[str, ...]
    methods: tuple[str, ...]
    sparsities: tuple[float, ...]
    budgets: tuple[str, ...]
    seeds: int = 5
    settings: dict[str, Setting] = field(default_factory=lambda: dict(SETTINGS))
    skips: bool = False

    @cached_property
    def _met(self) -> tuple[list[Cell], dict[Cell, str]]:
        met, unmet = [], {}
        for cell in self._all_cells():
            if reason := _obstacle(self.settings[cell.network], cell):
                unmet[cell] = reason
            else:
                met.append(cell)
        return met, unmet

    def _all_cells(self) -> Iterator[Cell]:
        for network in self.networks:
            for sparsity in self.sparsities:
                for method in self.methods:
                    yield Cell(network, sparsity, method)

    @property
    def cells(self) -> list[Cell]:
        """The cells whose method can be met, in order."""
        return self._met[0]

    @property
    def unmet(self) -> dict[Cell, str]:
        """Cells whose method cannot be met on that network at that sparsity -> why."""
        return self._met[1]

    def check(self) -> None:
        """Look at everything that can be known before training.

        Raises:
            ValueError: if a method cannot be met and that is not allowed, or a budget is certain to be below one step.
        """
        if self.unmet and not self.skips:
            cell, reason = next(iter(self.unmet.items()))
            raise ValueError(f"{_in_words(cell)} cannot be compared: {reason}")
        if "flops" not in self.budgets:
            return
        for cell in self.cells:
            setting = self.settings[cell.network]
            static = setting.run(STATIC, cell.sparsity, steps=setting.steps, seed=0)
            allowed = _least_flops(static)
            if allowed < (one := _least_flops(setting.run(cell.method, cell.sparsity, steps=1, seed=0))):
                raise ValueError(
                    f"the budget of {_in_words(cell)} is below one step: static masks take {allowed:.3g} operations in "
                    f"{setting.steps} steps, and one step of it takes {one:.3g}. Give more --steps, or leave the "
                    "method out with --methods."
                )

    def search(self) -> dict[Cell, list[tuple[dict[str, Level], RunConfig]]]:
        """Cell -> levels and run of each candidate.

        Operations and seconds are budgeted by static masks, which are searched then in any case.
        """
        cells = dict.fromkeys(self.cells)
        if set(self.budgets) - {"steps"}:
            cells |= dict.fromkeys(cell._replace(method=STATIC) for cell in self.cells)
        return {cell: search_runs(self.settings[cell.network], cell.method, cell.sparsity) for cell in cells}

    def searched(self, root: Path) -> dict[Cell, list[Candidate]]:
        """The search as it came out.

        Args:
            root: Folder of all runs.

        Raises:
            FileNotFoundError: if a run of it is not done.
        """
        return {
            cell: [Candidate(levels, result_of(root, config)) for levels, config in found]
            for cell, found in self.search().items()
        }

    def compared(self, searched: dict[Cell, list[Candidate]]) -> dict[str, dict[Cell, list[RunConfig]]]:
        """Budget -> cell -> its runs by seed, with the settings that the search chose.

        Args:
            searched: Of :meth:`searched`.

        Raises:
            ValueError: if a budget is below one step of a method.
        """
        return {budget: {cell: self._runs(cell, budget, searched) for cell in self.cells} for budget in self.budgets}

    def _runs(self, cell: Cell, budget: str, searched: dict[Cell, list[Candidate]]) -> list[RunConfig]:
        setting, best = self.settings[cell.network], chosen(searched[cell])

        def make(steps: int, seed: int = 0) -> RunConfig:
            usual = setting.run(cell.method, cell.sparsity, steps=steps, seed=seed)
            return with_levels(usual, best.levels)

        steps = setting.steps
        # What a step costs is unknown where every run of the search diverged; others of it will too.
        if budget != "steps" and cell.method != STATIC and best.result.run is not None:
            of_static = chosen(searched[cell._replace(method=STATIC)])
            usual = setting.run(STATIC, cell.sparsity, steps=steps, seed=0)
            allowed = _cost(of_static, budget, cell._replace(method=STATIC))(with_levels(usual, of_static.levels))
            what = f"{_in_words(cell)} in {budget}"
            steps = affordable(make, _cost(best, budget, cell), allowed, most=_MOST * steps, what=what)
        return [make(steps, seed) for seed in range(self.seeds)]

    def seconds(self, root: Path, cost: Cost) -> Iterator[tuple[Cell, int, int, float]]:
        """Cell, its runs, how many of its search are done, and the core seconds of the others, as estimated.

        Args:
            root: Folder of all runs.
            cost: Estimated seconds of a run.

        What a budget of operations or seconds gives is not known before the search; it counts as static masks' steps,
        which cost the same.
        """
        search = self.search()
        counted = set[str]()
        for cell, found in search.items():
            setting = self.settings[cell.network]
            static = setting.run(STATIC, cell.sparsity, steps=setting.steps, seed=0)
            usual = setting.run(cell.method, cell.sparsity, steps=setting.steps, seed=0)
            runs = [config for _, config in found]
            seconds = sum(cost(config) for config in runs if not self._known(config, root, counted))
            done = sum(Trial(config).is_done(root) for config in runs)
            if cell in self.cells:
                for budget in self.budgets:
                    seconds += self.seeds * cost(usual if budget == "steps" else static)
            yield cell, len(runs) + (self.seeds * len(self.budgets) if cell in self.cells else 0), done, seconds

    @staticmethod
    def _known(config: RunConfig, root: Path, counted: set[str]) -> bool:
        """Whether a run is done, or was counted in another cell: one dense network stands beside all sparsities."""
        seen = config.name in counted
        counted.add(config.name)
        return seen or Trial(config).is_done(root)


def chosen(candidates: Sequence[Candidate]) -> Candidate:
    """The candidate with the best accuracy on the images that were held out; of equal ones that of the lowest loss.

    One that diverged is chosen only where all did.

    Args:
        candidates: Of one cell.
    """

    def merit(candidate: Candidate) -> tuple[bool, float, float]:
        result = candidate.result
        loss = result.final("holdout/loss")
        return not result.diverged, result.percent("holdout"), -loss if loss == loss else -float("inf")

    return max(candidates, key=merit)


def comparison(
    *,
    networks: str,
    methods: str,
    sparsity: str,
    budget: str,
    seeds: int,
    steps: int | None = None,
    dataset: str | None = None,
) -> Comparison:
    """A comparison as it is typed.

    Args:
        networks, methods, budget: Names with commas between them, or all.
        sparsity: Zero fractions with commas between them.
        seeds: Runs of a cell.
        steps: Of a run and of one of its search; default each network's own.
        dataset: Of the networks for digits; default mnist.

    Raises:
        ValueError: if a name is unknown or a number cannot be.
    """
    chosen_methods = chosen_names(methods, compared_methods(), what="method")
    settings = {name: _changed(setting, steps, dataset) for name, setting in SETTINGS.items()}
    return Comparison(
        networks=tuple(chosen_names(networks, list(SETTINGS), what="network")),
        methods=tuple(chosen_methods),
        sparsities=tuple(_sparsities(sparsity)),
        budgets=tuple(chosen_names(budget, list(BUDGETS), what="budget")),
        seeds=seeds,
        settings=settings,
        skips=methods.strip() == "all",
    )


def _changed(setting: Setting, steps: int | None, dataset: str | None) -> Setting:
    if steps is not None:
        setting = replace(setting, steps=steps, search_steps=max(1, steps * setting.search_steps // setting.steps))
    if dataset is not None and setting.usual.channels == 1:
        usual = setting.usual.with_(dataset=dataset)
        check_data(usual)
        images = DATASETS_IN_WORDS[dataset][1]
        label = setting.label.replace("MNIST", dataset)
        setting = replace(setting, usual=usual, label=label, holdout=min(setting.holdout, images // 8))
    return setting


def _sparsities(text: str) -> list[float]:
    found = []
    for part in text.split(","):
        try:
            value = float(part)
        except ValueError:
            raise ValueError(f"--sparsity takes numbers with commas between, such as 0.9,0.95, got {text!r}.") from None
        SPARSITIES.check(value, name="sparsity")
        found.append(value)
    return list(dict.fromkeys(found))


def _obstacle(setting: Setting, cell: Cell) -> str:
    """Why a method cannot be met on a network at a sparsity; "" where it can."""
    try:
        set_up(setting.run(cell.method, cell.sparsity, steps=setting.steps, seed=0))
    except (TypeError, ValueError) as error:
        return str(error)
    return ""


def _in_words(cell: Cell) -> str:
    return f"{METHODS[cell.method].label} on {cell.network} at sparsity {cell.sparsity:g}"


def _least_flops(run: RunConfig) -> float:
    """Operations of a training at the densities of its start, which are dense where a method starts so."""
    whole = sum(layer_flops(run).values())
    active = whole if run.row.start == "dense" else (1 - run.sparsity) * whole
    updates = num_updates(run) if run.updater().needs_gradient else 0
    return 3 * run.batch_size * run.steps * active + updates * update_flops(run, active, whole)


def _cost(candidate: Candidate, budget: str, cell: Cell) -> Cost:
    """What trainings cost, from a run of the search."""
    if (run := candidate.result.run) is None:
        raise ValueError(
            f"every run of the search for {_in_words(cell)} diverged, so what a step of it takes in {budget} is "
            "unknown. Give --budget steps."
        )
    if budget == "seconds":
        return seconds_like(run)
    return flops_like(run.config, training_flops(run.config, run.metrics))
