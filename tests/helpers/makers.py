"""Every method that moves masks, and the two that no row of the table has, for the tests that run over all of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

import sparseflow as sf
from sparseflow.training.names import METHODS, MethodRow

#: Name -> function that makes the method; a row that is another one with blocks is the other's case in blocks.
MAKERS: dict[str, Callable[..., sf.updaters.Method]] = {
    "static": sf.Static,
    **{name: row.updater for name, row in METHODS.items() if row.moves != "never" and not row.block},
    "one_shot": sf.OneShot,
}
DROP_GROW = {"drop_fraction": 0.3, "update_every": 3}


def _last(row: MethodRow) -> dict[str, int]:
    """The last update, for schedules that need to know it."""
    return {"update_until": 12} if row.settings.get("schedule") == "stages" else {}


#: Updates fall at 3, 6, 9, 12; pruning's at 2, 5, 8 and, whatever the period, at its end 10; the phases of AC/DC begin
#: at 2 (sparse), 4 (dense), 6, 8 and 9.
SETTINGS: dict[str, dict[str, Any]] = {
    "static": {},
    **{
        name: {**DROP_GROW, **row.settings, **_last(row)}
        for name, row in METHODS.items()
        if row.moves == "swap" and not row.block
    },
    "prune": {"sparsity": 0.7, "begin": 2, "end": 10, "update_every": 3},
    "one_shot": {"sparsity": 0.7, "at": 4},
    "chts": {**DROP_GROW, "update_until": 12},
    "granet": {
        "sparsity": 0.7,
        "begin": 2,
        "end": 10,
        "drop_fraction": 0.3,
        "update_every": 3,
        "update_until": 12,
        "scope": "layer",  # in all layers together counts are those of test_granet.py
    },
    "srigl": {**DROP_GROW, "salient_share": 0.0},  # where units leave, counts are those of test_srigl.py
    "top_kast": {"sparsity": 0.7, "backward_sparsity": 0.5, "update_every": 3, "update_until": 12},
    "sr_ste": {"sparsity": 0.7, "update_until": 9},
    "n_of_m": {"sparsity": 0.7, "begin": 2, "end": 10, "update_every": 3},
    "acdc": {"sparsity": 0.7, "begin": 2, "phase_steps": 2, "end": 9},
}
#: Blocks that divide the layers of ``tiny_model``: of whole units, of several inputs, of one input.
BLOCKS = {"0.weight": (3, 1), "3.weight": (2, 4), "5.weight": (4, 1)}
_SUFFIX = " in blocks"
#: Methods that move single weights alone.
SINGLE = {name for name, row in METHODS.items() if not row.moves_blocks}
#: The settings of every method, and of every method on masks made of blocks.
CASES: dict[str, dict[str, Any]] = {
    **SETTINGS,
    **{
        name + _SUFFIX: {**given, "block": BLOCKS} if given else {}
        for name, given in SETTINGS.items()
        if name not in SINGLE
    },
}


def method_of(case: str, **changed: Any) -> sf.updaters.Method:
    return MAKERS[case.removesuffix(_SUFFIX)](**{**CASES[case], **changed})


def block_of(case: str) -> Any:
    """``block=`` for the masks of a case."""
    return BLOCKS if case.endswith(_SUFFIX) else (1, 1)


def block_size(case: str, name: str) -> int:
    outputs, inputs = BLOCKS[name] if case.endswith(_SUFFIX) else (1, 1)
    return outputs * inputs


def masks_of(case: str, model: nn.Module, *, sparsity: float = 0.7, seed: int = 0) -> sf.Masks:
    """The masks that a method begins with."""
    if case in PRUNING:
        return sf.dense_masks(model)
    make = METHODS[case].masks if case in SINGLE else sf.random_masks
    return make(model, sparsity, seed=seed, **({} if case in SINGLE else {"block": block_of(case)}))


#: Methods with a constant active count, and those that start from dense masks; with blocks and without.
MOVING = [case for case in CASES if (row := METHODS.get(case.removesuffix(_SUFFIX))) and row.moves == "swap"]
PRUNING = [
    case for case in CASES if case.startswith(("prune", "one_shot", "n_of_m", "sr_ste", "acdc", "top_kast", "granet"))
]
