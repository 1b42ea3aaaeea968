"""The methods of runs, by name: each row has all that is said, made or drawn of its method."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from sparseflow.masks.constant_fan_in import constant_fan_in_masks
from sparseflow.masks.make import random_masks
from sparseflow.masks.receptive_field import receptive_field_masks
from sparseflow.methods import (
    ACDC,
    GMP,
    MEST,
    SET,
    SNFS,
    SRSTE,
    CHTs,
    GraNet,
    NOfM,
    RigL,
    RigLInverted,
    SRigL,
    Static,
    TopKAST,
)
from sparseflow.methods.base import Method
from sparseflow.types import Look, Masks


@dataclass(frozen=True, kw_only=True)
class MethodRow:
    """One method of training, complete: its names, its start, what moves its masks and how it is drawn.

    A new method is one such row in :data:`METHODS`.
    """

    label: str
    """In tables and legends."""
    meaning: str
    """For readers of a page, who have not read the paper."""
    paper: str = ""
    """The paper's label in its tables; "" where it has none."""
    start: Literal["dense", "masked", "ticket"]
    """``dense``: all weights; ``masked``: masks, and weights drawn for them; ``ticket``: masks and weights of a pruning
    run."""
    moves: Literal["never", "swap", "prune", "regenerate", "alternate", "use"] = "never"
    """How masks change. It decides which settings of a run the updater is given: for ``swap`` ``drop_fraction``,
    ``update_every``, ``update_until`` and ``schedule``; for ``prune`` ``sparsity``, ``begin``, ``end`` and
    ``update_every``; for ``regenerate`` all of these; for ``alternate`` ``sparsity`` and ``total_steps``; for ``use``
    ``sparsity``, ``update_every`` and ``update_until``."""
    updater: Callable[..., Method] = Static
    """Makes the updater from these settings."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """More arguments of the updater in every run; they replace those of the run."""
    ends: float = 1.0
    """Share of a run's steps in which masks change, where the run does not say: 1 for exchanges that fade away."""
    masks: Callable[..., Masks] = random_masks
    """Makes masks from a model, a sparsity, ``allocation``, ``exclude`` and ``seed``, for a ``masked`` start."""
    moves_blocks: bool = True
    """Whether the updater has ``block``."""
    authors: Mapping[str, Any] = field(default_factory=dict)
    """More arguments of the updater in runs that follow the authors' ImageNet code (protocol C.3 and C.4)."""
    block: str = ""
    """Blocks of its masks, outputs x inputs, where the run says none; "" are single weights."""
    look: Look


#: Key of ``--method``; the order is that of every table and legend. Keys are parts of run names: they never change.
METHODS: dict[str, MethodRow] = {
    "dense": MethodRow(
        label="Dense",
        meaning="every connection exists.",
        paper="Baseline (dense)",
        start="dense",
        look=Look("grey", "-", ""),
    ),
    "prune": MethodRow(
        label="Pruned",
        meaning="starts dense; its smallest weights are removed step by step while it learns.",
        start="dense",
        moves="prune",
        updater=GMP,
        look=Look("grey", ":", ""),
    ),
    "lottery": MethodRow(
        label="Lottery",
        meaning="has a pruned network's mask, and the weights that this network had before or early in its training.",
        paper="Lottery",
        start="ticket",
        look=Look("blue", "-", "D"),
    ),
    "restart": MethodRow(
        label="Prune Restart",
        meaning="has a pruned network's mask and its final weights, and is trained all over again.",
        start="ticket",
        look=Look("sky", "--", "P"),
    ),
    "scratch": MethodRow(
        label="Scratch",
        meaning="sparse from the first step on, with connections that stay where they are and random weights.",
        paper="Scratch",
        start="masked",
        look=Look("green", "-", "o"),
    ),
    "set": MethodRow(
        label="SET",
        meaning="like Scratch, but now and then the smallest weights are dropped and as many others grow at random.",
        paper="SET",
        start="masked",
        moves="swap",
        updater=SET,
        authors={"first_update": 1},
        look=Look("purple", "--", "s"),
    ),
    "rigl": MethodRow(
        label="RigL",
        meaning="like SET, but new connections grow where the gradient is largest.",
        paper="RigL",
        start="masked",
        moves="swap",
        updater=RigL,
        authors={"first_update": 0, "replaces_step": True},
        look=Look("orange", "-.", "^"),
    ),
    "rigl_inverted": MethodRow(
        label="RigL-Inverted",
        meaning="like RigL, but new connections grow where the gradient is smallest: a control.",
        paper="RigL-Inverted",
        start="masked",
        moves="swap",
        updater=RigLInverted,
        authors={"first_update": 0, "replaces_step": True},
        look=Look("ink", ":", "v"),
    ),
    "snfs": MethodRow(
        label="SNFS",
        meaning="like RigL, but new connections grow where the running mean of the gradient is largest.",
        start="masked",
        moves="swap",
        updater=SNFS,
        look=Look("vermillion", "-.", "D"),
    ),
    "rigl_blocks": MethodRow(
        label="RigL 4x1",
        meaning="like RigL, but four weights of neighbouring outputs come and go together, which trains faster.",
        start="masked",
        moves="swap",
        updater=RigL,
        block="4x1",
        authors={"first_update": 0, "replaces_step": True},
        look=Look("orange", ":", "p"),
    ),
    "sr_ste": MethodRow(
        label="SR-STE",
        meaning="always computes with the same number of weights in each group of inputs, and trains all of them.",
        start="dense",
        moves="use",
        updater=SRSTE,
        settings={"update_every": 1},
        moves_blocks=False,
        look=Look("sky", "-.", "h"),
    ),
    "acdc": MethodRow(
        label="AC/DC",
        meaning="starts dense; phases with its largest weights alone take turns with dense ones; the last is sparse.",
        start="dense",
        moves="alternate",
        updater=ACDC,
        look=Look("grey", "-.", "X"),
    ),
    "mest": MethodRow(
        label="MEST",
        meaning="like SET, but small weights with a large gradient stay, and the exchange ends in two stages.",
        start="masked",
        moves="swap",
        updater=MEST,
        settings={"schedule": "stages"},
        ends=0.75,
        look=Look("green", "--", "^"),
    ),
    "mest_soft": MethodRow(
        label="MEST soft",
        meaning="like MEST, but new connections are trained beside the old ones before the weakest of all are dropped.",
        start="masked",
        moves="swap",
        updater=MEST,
        settings={"schedule": "stages", "soft": True},
        ends=0.75,
        look=Look("green", "-.", "v"),
    ),
    "granet": MethodRow(
        label="GraNet",
        meaning="like Pruned, but at each step some small weights are dropped and others grow by their gradient.",
        start="dense",
        moves="regenerate",
        updater=GraNet,
        look=Look("grey", "--", "o"),
    ),
    "srigl": MethodRow(
        label="SRigL",
        meaning="like RigL, but all units of a layer have as many inputs; units without enough important ones leave.",
        start="masked",
        moves="swap",
        updater=SRigL,
        ends=0.75,
        masks=constant_fan_in_masks,
        moves_blocks=False,
        look=Look("orange", "--", "D"),
    ),
    "chts": MethodRow(
        label="CHTs",
        meaning="small weights are likely to go, and connections to grow where others close a path of three.",
        start="masked",
        moves="swap",
        updater=CHTs,
        masks=receptive_field_masks,
        moves_blocks=False,
        look=Look("purple", "-.", "s"),
    ),
    "top_kast": MethodRow(
        label="Top-KAST",
        meaning="always computes with its largest weights, and trains as many others beside them.",
        start="dense",
        moves="use",
        updater=TopKAST,
        look=Look("green", ":", "d"),
    ),
    "n_of_m": MethodRow(
        label="N:M",
        meaning="like Pruned, but every unit keeps the same number of weights in each group of its inputs.",
        start="dense",
        moves="prune",
        updater=NOfM,
        moves_blocks=False,
        look=Look("sky", ":", "h"),
    ),
}
#: ``dense`` on the narrow twin of a network: no method of its own, but a row of every table.
SMALL_DENSE = MethodRow(
    label="Small Dense",
    meaning="every connection exists, but the layers are narrower: about as many weights as the sparse networks have.",
    paper="Small Dense",
    start="dense",
    look=Look("grey", "--", ""),
)


def shown_methods() -> dict[str, MethodRow]:
    """The rows of every table and legend, in order: the methods, with ``small_dense`` behind ``dense``.

    >>> list(shown_methods())[:3]
    ['dense', 'small_dense', 'prune']
    """
    return {"dense": METHODS["dense"], "small_dense": SMALL_DENSE, **METHODS}
