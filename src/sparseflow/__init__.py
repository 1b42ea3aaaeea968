"""Sparse networks in PyTorch: how they start, how they train, and why they learn or do not."""

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sparseflow import analysis, doctor, engine, formats, init, rules, tickets
    from sparseflow import methods as updaters
    from sparseflow.analysis import gradient_flow
    from sparseflow.doctor import diagnose
    from sparseflow.engine import compile_sparse
    from sparseflow.init.live import live_inputs
    from sparseflow.init.model import initialize_
    from sparseflow.init.obd import fisher_obd, hutchinson_obd
    from sparseflow.init.prune import grasp, snip, synflow_masks
    from sparseflow.masks.constant_fan_in import constant_fan_in_masks
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
    from sparseflow.masks.n_of_m import check_n_of_m, n_of_m_masks
    from sparseflow.masks.receptive_field import receptive_field_masks
    from sparseflow.masks.report import mask_statistics, sparsity_report
    from sparseflow.masks.select import prunable
    from sparseflow.methods import (
        ACDC,
        GMP,
        MEST,
        SET,
        SNFS,
        SRSTE,
        CHTs,
        CHTss,
        GraNet,
        NOfM,
        OneShot,
        RigL,
        RigLInverted,
        SRigL,
        Static,
        TopKAST,
        drop_and_grow,
    )
    from sparseflow.record import record
    from sparseflow.sparsifier.check import check
    from sparseflow.sparsifier.sparsifier import Sparsifier
    from sparseflow.types import BrokenPromiseError, Masks, MaskUpdate

__version__ = "0.1.0"

__all__ = [
    "ACDC",
    "GMP",
    "MEST",
    "SET",
    "SNFS",
    "SRSTE",
    "BrokenPromiseError",
    "CHTs",
    "CHTss",
    "GraNet",
    "MaskUpdate",
    "Masks",
    "NOfM",
    "OneShot",
    "RigL",
    "RigLInverted",
    "SRigL",
    "Sparsifier",
    "Static",
    "TopKAST",
    "analysis",
    "apply_masks_",
    "check",
    "check_n_of_m",
    "compile_sparse",
    "constant_fan_in_masks",
    "dense_masks",
    "diagnose",
    "doctor",
    "drop_and_grow",
    "engine",
    "fisher_obd",
    "formats",
    "gradient_flow",
    "grasp",
    "hutchinson_obd",
    "init",
    "initialize_",
    "live_inputs",
    "load_block",
    "load_masks",
    "magnitude_masks",
    "mask_statistics",
    "masks_from_edges",
    "masks_of",
    "n_of_m_masks",
    "overlap",
    "prunable",
    "random_masks",
    "receptive_field_masks",
    "record",
    "remove_pruning",
    "remove_pruning_",
    "rules",
    "save_masks",
    "score_masks",
    "snip",
    "sparsity_of",
    "sparsity_report",
    "synflow_masks",
    "tickets",
    "updaters",
]

#: Public name -> its module, loaded when first asked for: so the command line answers before torch is loaded.
_HOMES = {
    "ACDC": "sparseflow.methods",
    "GMP": "sparseflow.methods",
    "MEST": "sparseflow.methods",
    "SET": "sparseflow.methods",
    "SNFS": "sparseflow.methods",
    "SRSTE": "sparseflow.methods",
    "BrokenPromiseError": "sparseflow.types",
    "CHTs": "sparseflow.methods",
    "CHTss": "sparseflow.methods",
    "GraNet": "sparseflow.methods",
    "MaskUpdate": "sparseflow.types",
    "Masks": "sparseflow.types",
    "NOfM": "sparseflow.methods",
    "OneShot": "sparseflow.methods",
    "RigL": "sparseflow.methods",
    "RigLInverted": "sparseflow.methods",
    "SRigL": "sparseflow.methods",
    "Sparsifier": "sparseflow.sparsifier.sparsifier",
    "Static": "sparseflow.methods",
    "TopKAST": "sparseflow.methods",
    "analysis": "sparseflow.analysis",
    "apply_masks_": "sparseflow.masks.make",
    "check": "sparseflow.sparsifier.check",
    "check_n_of_m": "sparseflow.masks.n_of_m",
    "compile_sparse": "sparseflow.engine",
    "constant_fan_in_masks": "sparseflow.masks.constant_fan_in",
    "dense_masks": "sparseflow.masks.make",
    "diagnose": "sparseflow.doctor",
    "doctor": "sparseflow.doctor",
    "drop_and_grow": "sparseflow.methods",
    "engine": "sparseflow.engine",
    "fisher_obd": "sparseflow.init.obd",
    "formats": "sparseflow.formats",
    "gradient_flow": "sparseflow.analysis",
    "grasp": "sparseflow.init.prune",
    "hutchinson_obd": "sparseflow.init.obd",
    "init": "sparseflow.init",
    "initialize_": "sparseflow.init.model",
    "live_inputs": "sparseflow.init.live",
    "load_block": "sparseflow.masks.files",
    "load_masks": "sparseflow.masks.files",
    "magnitude_masks": "sparseflow.masks.make",
    "mask_statistics": "sparseflow.masks.report",
    "masks_from_edges": "sparseflow.masks.edges",
    "masks_of": "sparseflow.masks.imported",
    "n_of_m_masks": "sparseflow.masks.n_of_m",
    "overlap": "sparseflow.masks.make",
    "prunable": "sparseflow.masks.select",
    "random_masks": "sparseflow.masks.make",
    "receptive_field_masks": "sparseflow.masks.receptive_field",
    "record": "sparseflow.record",
    "remove_pruning": "sparseflow.masks.imported",
    "remove_pruning_": "sparseflow.masks.imported",
    "rules": "sparseflow.rules",
    "save_masks": "sparseflow.masks.files",
    "score_masks": "sparseflow.masks.make",
    "snip": "sparseflow.init.prune",
    "sparsity_of": "sparseflow.masks.make",
    "sparsity_report": "sparseflow.masks.report",
    "synflow_masks": "sparseflow.init.prune",
    "tickets": "sparseflow.tickets",
    "updaters": "sparseflow.methods",
}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name, f"sparseflow.{name}")
    try:
        module = importlib.import_module(home) if name[0] != "_" else None
    except ModuleNotFoundError as error:
        if error.name != home:
            raise
        module = None
    if module is None:
        raise AttributeError(
            f"module 'sparseflow' has no attribute {name!r}", name=name, obj=sys.modules[__name__]
        ) from None
    return getattr(module, name) if name in _HOMES and name not in _MODULES else module


def __dir__() -> list[str]:
    return [*__all__, *(name for name in globals() if name.startswith("__"))]


_MODULES = {"analysis", "doctor", "engine", "formats", "init", "rules", "tickets", "updaters"}


class _Package(ModuleType):
    def __setattr__(self, name: str, value: Any) -> None:
        """Keep a function whose module has its name, which the import of that module would hide."""
        hidden = isinstance(value, ModuleType) and name in _HOMES and name not in _MODULES
        super().__setattr__(name, getattr(value, name) if hidden else value)


sys.modules[__name__].__class__ = _Package
