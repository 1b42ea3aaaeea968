"""The tables of a comparison: a row for each run of the search, and for each run that is compared."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from sparseflow.compare.budget import training_seconds
from sparseflow.compare.comparison import Candidate, Cell, Comparison, chosen
from sparseflow.compare.flops import densities, layer_flops, training_flops
from sparseflow.compare.result import Result, result_of
from sparseflow.compare.search import FACTORS, Level
from sparseflow.lab.page.summary import COLLAPSE_PERCENT
from sparseflow.training.config import RunConfig

#: Columns that say which cell a row is about.
CELL = list(Cell._fields)
_OUTCOME = ("accuracy", "loss", "learned", "diverged", "steps", "flops", "seconds", "density", "sparsity_at_end")
#: Columns of ``runs.csv``. ``accuracy`` is percent of test images; ``flops`` are those of :func:`.training_flops`,
#: ``seconds`` those of training alone; ``density`` is the mean over training, by operations.
RUN_COLUMNS = [*CELL, "budget", "seed", *_OUTCOME, *FACTORS, "config"]
#: Columns of ``search.csv``; ``accuracy`` and ``loss`` are those on the images that were held out.
SEARCH_COLUMNS = [*CELL, "candidate", "chosen", *_OUTCOME, *FACTORS, "config"]


def search_table(searched: Mapping[Cell, Sequence[Candidate]]) -> pd.DataFrame:
    """A row for each run of the search.

    Args:
        searched: Of :meth:`.Comparison.searched`.
    """

    def rows() -> Iterator[dict[str, object]]:
        for cell, candidates in searched.items():
            best = chosen(candidates)
            for number, candidate in enumerate(candidates):
                row = {**cell._asdict(), "candidate": number, "chosen": candidate is best}
                yield row | _row(candidate.result, candidate.levels, part="holdout")

    return _table(rows(), SEARCH_COLUMNS)


def run_table(
    comparison: Comparison, compared: Mapping[str, Mapping[Cell, Sequence[RunConfig]]],
    searched: Mapping[Cell, Sequence[Candidate]], *, root: Path,
) -> pd.DataFrame:  # fmt: skip
    """A row for each run that is compared; one that two budgets share has two.

    Args:
        comparison: The comparison.
        compared: Of :meth:`.Comparison.compared`.
        searched: Of :meth:`.Comparison.searched`.
        root: Folder of all runs.
    """

    def rows() -> Iterator[dict[str, object]]:
        results: dict[str, dict[str, object]] = {}
        for budget, cells in compared.items():
            for cell, configs in cells.items():
                levels = chosen(searched[cell]).levels
                for config in configs:
                    if config.name not in results:
                        results[config.name] = _row(result_of(root, config), levels, part="test")
                    named = {**cell._asdict(), "budget": budget, "seed": config.seed}
                    yield named | results[config.name]

    return _table(rows(), RUN_COLUMNS)


def _row(result: Result, levels: Mapping[str, Level], *, part: str) -> dict[str, object]:
    run, config = result.run, result.config
    accuracy = result.percent(part)
    return {
        "accuracy": accuracy,
        "loss": result.final(f"{part}/loss"),
        "learned": not result.diverged and accuracy >= _collapse_percent(config),
        "diverged": result.diverged,
        "steps": config.steps,
        "flops": np.nan if run is None else training_flops(config, run.metrics),
        "seconds": np.nan if run is None else training_seconds(run),
        "density": np.nan if run is None else mean_density(config, run.metrics),
        "sparsity_at_end": result.final("sparsity"),
        **levels,
        "config": config.hash,
    }


def _collapse_percent(config: RunConfig) -> float:
    """Accuracy below which a run did not learn, for as many classes as it has."""
    return COLLAPSE_PERCENT * 10 / config.num_classes


def mean_density(config: RunConfig, metrics: pd.DataFrame) -> float:
    """Share of the dense network's operations that a step takes, as a mean over the training.

    Args:
        config, metrics: Of :func:`.training_flops`.
    """
    flops, table = layer_flops(config), densities(config, metrics)
    active = sum(count * table.get(name, 1.0) for name, count in flops.items())
    return float((active * table["steps"]).sum() / (config.steps * sum(flops.values())))


def _table(rows: Iterable[dict[str, object]], columns: list[str]) -> pd.DataFrame:
    return pd.DataFrame(list(rows), columns=columns)


def read_tables(folder: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The runs and the search of a page's folder.

    Raises:
        ValueError: if it has none.
    """
    names = ("runs.csv", "search.csv")
    if missing := [name for name in names if not (folder / name).is_file()]:
        raise ValueError(
            f"{folder} has no {' and no '.join(missing)}. Name the folder of a page of sparseflow compare."
        )
    runs, search = (pd.read_csv(folder / name, dtype={"config": str}) for name in names)
    return runs, search
