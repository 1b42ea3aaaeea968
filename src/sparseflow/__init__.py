"""Sparse networks in PyTorch: how they start, how they train, and why they learn or do not."""

import importlib
from typing import TYPE_CHECKING, Any

from sparseflow import init, tickets
from sparseflow import methods as updaters
from sparseflow.init.live import live_inputs
from sparseflow.init.model import initialize_
from sparseflow.init.prune import grasp, snip, synflow_masks
from sparseflow.masks.edges import masks_from_edges
from sparseflow.masks.files import load_block, load_masks, save_masks
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
from sparseflow.record import record
from sparseflow.sparsifier.check import check
from sparseflow.sparsifier.sparsifier import Sparsifier
from sparseflow.types import BrokenPromiseError, Masks, MaskUpdate

if TYPE_CHECKING:
    from sparseflow import analysis, doctor, engine, formats
    from sparseflow.analysis import gradient_flow
    from sparseflow.doctor import diagnose
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
    "diagnose",
    "doctor",
    "drop_and_grow",
    "engine",
    "formats",
    "gradient_flow",
    "grasp",
    "init",
    "initialize_",
    "live_inputs",
    "load_block",
    "load_masks",
    "magnitude_masks",
    "mask_statistics",
    "masks_from_edges",
    "masks_of",
    "overlap",
    "prunable",
    "random_masks",
    "record",
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


#: Loaded when first asked for: Numba is needed by the engine alone, and a training loop measures nothing at its start.
_LAZY = {
    "analysis": "sparseflow.analysis",
    "diagnose": "sparseflow.doctor",
    "doctor": "sparseflow.doctor",
    "gradient_flow": "sparseflow.analysis",
    "engine": "sparseflow.engine",
    "formats": "sparseflow.formats",
    "compile_sparse": "sparseflow.engine",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'sparseflow' has no attribute {name!r}")
    module = importlib.import_module(_LAZY[name])
    return module if module.__name__ == f"sparseflow.{name}" else getattr(module, name)
