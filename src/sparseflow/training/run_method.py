"""The method of a run, made with the run's settings: its schedule, where it ends, its blocks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from sparseflow.masks.blocks import SINGLE, block_sizes, fitting
from sparseflow.methods.base import Method
from sparseflow.networks.registry import NETWORKS
from sparseflow.training.run_settings import RunSettings


def blocks_of(run: RunSettings, model: nn.Module) -> dict[str, tuple[int, int]]:
    """Parameter name -> block of its mask, of a network of this run; empty for single weights.

    >>> from sparseflow.training.digits import DigitRun
    >>> blocks_of(DigitRun(block="4"), nn.Linear(3, 8)) == {"weight": (4, 1)}, blocks_of(DigitRun(), nn.Linear(3, 8))
    (True, {})
    >>> blocks_of(DigitRun(method="rigl_blocks"), nn.Linear(3, 8)) == {"weight": (4, 1)}
    True
    """
    block = block_sizes(run.block)
    if block == SINGLE and run.row.block:
        block = block_sizes(run.row.block)
    never = NETWORKS[run.architecture].dense
    return {} if block == SINGLE else fitting(block, model, exclude=never)


def updater_of(
    run: RunSettings,
    *,
    sparsity: float | Mapping[str, float] | None = None,
    blocks: Mapping[str, tuple[int, int]] | None = None,
) -> Method:
    """The method with the settings of this run.

    Args:
        run: Names the method.
        sparsity: Where pruning ends, also by parameter name; default the run's.
        blocks: Of :func:`blocks_of`; default single weights.

    >>> from sparseflow.training.digits import DigitRun
    >>> updater_of(DigitRun(method="rigl", update_every=10)).due(10)
    True
    """
    settings: dict[str, Any] = {}
    if run.row.moves in ("swap", "regenerate"):
        # The cosine over the whole run is the shape of the learning rate: the paper's "proportional to" it.
        settings = {
            "drop_fraction": run.drop_fraction,
            "update_every": run.update_every,
            "update_until": max(1, int(run.steps * run.row.ends)) if run.update_until is None else run.update_until,
            "schedule": "cosine",
            **run.row.settings,
            **(run.row.authors if run.follows_authors else {}),
        }
    if run.row.moves in ("prune", "regenerate"):
        settings |= {
            "sparsity": run.sparsity if sparsity is None else sparsity,
            "begin": run.prune_begin,
            "end": run.prune_end,
            "update_every": run.prune_every or run.update_every,
        }
    if run.row.moves == "alternate":
        settings = {
            "sparsity": run.sparsity if sparsity is None else sparsity,
            "total_steps": run.steps,
        }
    elif run.row.moves == "use":
        settings = {
            "sparsity": run.sparsity,
            "update_every": run.update_every,
            "update_until": run.steps,
            **run.row.settings,
        }
    if settings and blocks:
        settings["block"] = blocks
    return run.row.updater(**settings)
