"""Made-up runs on CIFAR-10 with the names and configs of the real ones, and made-up tables of their tickets."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from sparseflow.lab.page.evidence import Evidence
from sparseflow.paper.claims import CIFAR_CLAIMS, CIFAR_LONG_CLAIMS, Judge, judge
from sparseflow.paper.claims.verdict import Verdict
from sparseflow.paper.matrix.cells import REPEATS
from sparseflow.paper.matrix.scale import Groups
from sparseflow.paper.matrix.scales import CIFAR, CIFAR_LONG
from sparseflow.training.images import ImageRun
from sparseflow.training.runs import Run
from synthetic_runs import ENV
from synthetic_tables import Rows, around

GROUPS, LONG = CIFAR.groups, CIFAR_LONG.groups
#: Settings of a group's runs, see :func:`image_runs`.
Settings = Mapping[str, Any]


def image_runs(
    group: str,
    *,
    planned: Groups = GROUPS,
    count: int | None = None,
    accuracy: float = 60.0,
    std: float = 0.1,
    stuck: int = 0,
    onset: int = 20,
    norm: float | Callable[[int], float] = 0.5,
    spread: float = 0.05,
    change: tuple[float, float] = (0.0, 0.0),
) -> list[Run]:
    """The runs of a group, with numbers spaced evenly around the given means: no chance, exact means.

    Args:
        group: Name of the group in the recipe.
        planned: The recipe.
        count: Number of its runs, from the first; default all.
        accuracy: Mean, in percent.
        std: Half the range of accuracies.
        stuck: Number of runs, from the first, that never learn.
        onset: First step with a low loss, a multiple of the steps between logs.
        norm: The gradient norm, or a function of the step.
        spread: Half the range over seeds of the log norms, and of the changes relative to their mean.
        change: Change of the norm at a mask update, in the first and in the second half of those.
    """
    configs = planned[group][:count]
    places = around(1.0, len(configs), spread=1.0)
    return [
        Run(
            config,
            Path(config.name),
            _metrics(config, onset if number >= stuck else None, norm, spread * (place - 1), change),
            {"test/accuracy": (accuracy + std * (place - 1)) / 100 if number >= stuck else 0.1, "test/loss": 1.0},
            ENV,
            1.0,
        )
        for number, (config, place) in enumerate(zip(configs, places, strict=True))
    ]


def _metrics(
    config: ImageRun,
    onset: int | None,
    norm: float | Callable[[int], float],
    shift: float,
    change: tuple[float, float],
) -> pd.DataFrame:
    rows: list[tuple[int, str, float]] = []
    moving = config.method in ("set", "rigl", "rigl_inverted")
    for step in range(0, config.steps, config.log_every):
        now = (norm(step) if callable(norm) else norm) * math.exp(shift)
        delta = 0.0
        if moving and 0 < step <= config.update_until and step % config.update_every == 0:
            delta = change[step > config.update_until / 2] * (1 + shift)
            rows += [(step, "update/before", now), (step, "update/after", now + delta), (step, "update/moved", 9.0)]
        learned = onset is not None and step >= onset
        rows += [(step, "train/loss", 1.5 if learned else 2.3), (step, "flow/norm", now + delta)]
    return pd.DataFrame(rows, columns=["step", "name", "value"])


def image_verdict(claim: str, groups: Mapping[str, Settings], **tables: pd.DataFrame) -> Verdict:
    """Verdict on a claim if these groups of narrow networks, with these settings, are the only runs."""
    return _verdict(claim, groups, tables, planned=GROUPS, claims=CIFAR_CLAIMS)


def long_verdict(claim: str, groups: Mapping[str, Settings], **tables: pd.DataFrame) -> Verdict:
    """The same of networks that learn."""
    return _verdict(claim, groups, tables, planned=LONG, claims=CIFAR_LONG_CLAIMS)


def _verdict(
    claim: str,
    groups: Mapping[str, Settings],
    tables: Mapping[str, pd.DataFrame],
    *,
    planned: Groups,
    claims: Mapping[str, Judge],
) -> Verdict:
    runs = {group: image_runs(group, planned=planned, **settings) for group, settings in groups.items()}
    (verdict,) = judge(Evidence(runs, tables), {claim: claims[claim]})
    return verdict


def ticket_rows(
    column: str,
    *,
    network: str = "resnet14",
    planned: Groups = GROUPS,
    masks: int = 3,
    spread: float = 0.02,
    others: Mapping[str, object] | None = None,
    **means: float,
) -> pd.DataFrame:
    """A measured table: ``column`` of the runs on each pruning run's masks, by kind (``_`` stands for ``-``).

    Values differ between pruning runs, not between runs on the same masks.
    """
    rows: Rows = []
    for kind, mean in means.items():
        name = kind.replace("_", "-")
        for mask, value in enumerate(around(mean, masks, spread=spread)):
            rows += [
                {"setting": network, "group": f"{network}/{name}", "prune_seed": mask, **(others or {}), column: value}
                | {"seed": run.seed}
                for run in planned[f"{network}/{name}/mask{mask}"]
            ]
    assert all(row["seed"] >= REPEATS for row in rows)
    return pd.DataFrame(rows)


def long_rows(column: str, **options: Any) -> pd.DataFrame:
    """:func:`ticket_rows` of networks that learn."""
    return ticket_rows(column, network="resnet20", planned=LONG, **options)


def returning(start: float = 12.0, end: float = 6.0, *, scratch: float = 30.0, spread: float = 0.02) -> pd.DataFrame:
    """Distances of tickets that start at ``start`` and end at ``end``, and of Scratch, which ends at ``scratch``."""
    others = {"control_init": 20.0, "cosine_init": 0.3}
    at_start, at_end = (
        long_rows(column, spread=spread, others=others, lottery=value, lottery_k0=1.2 * value, ticket_scratch=random)
        for column, value, random in (("init", start, 20.0), ("final", end, scratch))
    )
    return at_start.assign(final=at_end["final"])
