"""The methods, one file each: when masks change, how many connections move, and by which score.

A new method is a file here and a row in ``sparseflow.training.names``.
"""

from sparseflow.methods.acdc import ACDC
from sparseflow.methods.base import Layer, Method, Swap
from sparseflow.methods.chts import CHTs
from sparseflow.methods.chtss import CHTss
from sparseflow.methods.drop_grow import DropGrow, UpdateSchedule, drop_and_grow
from sparseflow.methods.granet import GraNet
from sparseflow.methods.mest import MEST
from sparseflow.methods.n_of_m import NOfM
from sparseflow.methods.prune_and_exchange import PruneAndExchange
from sparseflow.methods.pruning import GMP, OneShot
from sparseflow.methods.rigl import RigL, RigLInverted
from sparseflow.methods.set import SET
from sparseflow.methods.snfs import SNFS
from sparseflow.methods.sr_ste import SRSTE
from sparseflow.methods.srigl import SRigL
from sparseflow.methods.static import Static
from sparseflow.methods.top_kast import TopKAST

__all__ = [
    "ACDC",
    "GMP",
    "MEST",
    "SET",
    "SNFS",
    "SRSTE",
    "CHTs",
    "CHTss",
    "DropGrow",
    "GraNet",
    "Layer",
    "Method",
    "NOfM",
    "OneShot",
    "PruneAndExchange",
    "RigL",
    "RigLInverted",
    "SRigL",
    "Static",
    "Swap",
    "TopKAST",
    "UpdateSchedule",
    "drop_and_grow",
]
