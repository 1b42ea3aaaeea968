"""Sparse networks in PyTorch: how they start, how they train, and why they learn or do not."""

import importlib
from typing import TYPE_CHECKING, Any

from sparseflow import analysis, init, tickets
from sparseflow import methods as updaters
from sparseflow.analysis import gradient_flow
from sparseflow.init.live import live_inputs
from sparseflow.init.model import initialize_
from sparseflow.init.prune import grasp, snip, synflow_masks
from sparseflow.masks.files import load_masks, save_masks
from sparseflow.masks.imported import masks_of, remove_pruning, remove_pruning_
from sparseflow.masks.make import (
    apply_masks_,
    dense_masks,
    magnitude_masks,
    overlap,
    random_masks,
    score_masks,
    sparsity_of,
)
from sparseflow.masks.report import mask_statistics, sparsity_report
from sparseflow.masks.select import prunable
from sparseflow.methods import GMP, SET, SNFS, OneShot, RigL, RigLInverted, Static, drop_and_grow
from sparseflow.sparsifier.check import check
from sparseflow.sparsifier.sparsifier import Sparsifier
from sparseflow.types import BrokenPromiseError, Masks, MaskUpdate

if TYPE_CHECKING:
    from sparseflow import engine
    from sparseflow.engine import compile_sparse

__version__ = "0.1.0"

__all__ = [
    "GMP",
    "SET",
    "SNFS",
    "BrokenPromiseError",
    "MaskUpdate",
    "Masks",
    "OneShot",
    "RigL",
    "RigLInverted",
    "Sparsifier",
    "Static",
    "analysis",
    "apply_masks_",
    "check",
    "compile_sparse",
    "dense_masks",
    "drop_and_grow",
    "engine",
    "gradient_flow",
    "grasp",
    "init",
    "initialize_",
    "live_inputs",
    "load_masks",
    "magnitude_masks",
    "mask_statistics",
    "masks_of",
    "overlap",
    "prunable",
    "random_masks",
    "remove_pruning",
    "remove_pruning_",
    "save_masks",
    "score_masks",
    "snip",
    "sparsity_of",
    "sparsity_report",
    "synflow_masks",
    "tickets",
    "updaters",
]


def __getattr__(name: str) -> Any:
    # Loads NumPy and Numba, which only the engine needs.
    if name == "engine":
        return importlib.import_module("sparseflow.engine")
    if name == "compile_sparse":
        return importlib.import_module("sparseflow.engine").compile_sparse
    raise AttributeError(f"module 'sparseflow' has no attribute {name!r}")
