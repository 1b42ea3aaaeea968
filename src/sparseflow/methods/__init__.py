"""The methods, one file each; a new one is a file and a row here."""

from __future__ import annotations

from collections.abc import Callable

from sparseflow.methods.base import DropGrow, LayerState, MaskUpdater, drop_and_grow
from sparseflow.methods.pruning import GMP, GradualPruning, OneShot
from sparseflow.methods.rigl import RigL, RigLInverted
from sparseflow.methods.set import SET
from sparseflow.methods.snfs import SNFS
from sparseflow.methods.static import Static

#: Name -> what makes the updater. The contract tests run over every row.
UPDATERS: dict[str, Callable[..., MaskUpdater]] = {
    "static": Static,
    "set": SET,
    "rigl": RigL,
    "rigl_inverted": RigLInverted,
    "snfs": SNFS,
    "gmp": GMP,
    "one_shot": OneShot,
}

__all__ = [
    "GMP",
    "SET",
    "SNFS",
    "UPDATERS",
    "DropGrow",
    "GradualPruning",
    "LayerState",
    "MaskUpdater",
    "OneShot",
    "RigL",
    "RigLInverted",
    "Static",
    "drop_and_grow",
]
