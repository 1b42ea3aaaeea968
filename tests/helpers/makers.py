"""Every method that moves masks, and the two that no row of the table has, for the tests that run over all of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import sparseflow as sf
from sparseflow.training.names import METHODS

#: Name -> function that makes the method.
MAKERS: dict[str, Callable[..., sf.updaters.Method]] = {
    "static": sf.Static,
    **{name: row.updater for name, row in METHODS.items() if row.moves != "never"},
    "one_shot": sf.OneShot,
}
DROP_GROW = {"drop_fraction": 0.3, "update_every": 3}
#: Updates fall at 3, 6, 9, 12; pruning's at 2, 5, 8 and, whatever the period, at its end 10.
SETTINGS: dict[str, dict[str, Any]] = {
    "static": {},
    **{name: DROP_GROW for name, row in METHODS.items() if row.moves == "swap"},
    "prune": {"sparsity": 0.7, "begin": 2, "end": 10, "update_every": 3},
    "one_shot": {"sparsity": 0.7, "at": 4},
}
#: Methods with a constant active count, and those that start from dense masks.
MOVING = [name for name, row in METHODS.items() if row.moves == "swap"]
PRUNING = ["prune", "one_shot"]
