"""One training on digits, complete: LeNet5 on MNIST as in Table 4 of the paper is the default."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Annotated, ClassVar

import tyro

from sparseflow.init.fill import INITIALIZERS
from sparseflow.init.schemes import SCHEMES
from sparseflow.masks.allocation import ALLOCATIONS
from sparseflow.networks.registry import networks_for
from sparseflow.ranges import Count, Fraction, FractionBelowOne, NotNegative, Positive, Seed, Sparsity, WholeNumber
from sparseflow.training.config import RunConfig
from sparseflow.training.names import METHODS
from sparseflow.training.naming import command, one_of
from sparseflow.training.optimizer import KerasSchedule

SCHEDULES = ("cosine", "step")
#: Changes to the start of a masked run, which show what of it matters.
CONTROLS = ("none", "shuffled_masks", "shuffled_weights", "signs", "repaired", "killed")


@dataclass(frozen=True, kw_only=True)
class DigitRun(RunConfig):
    """One training on images of 28x28 pixels.

    >>> DigitRun(seed=1) == DigitRun(seed=1), DigitRun(seed=1).hash == DigitRun(seed=2).hash
    (True, False)
    """

    shared_with_parent: ClassVar[Collection[str]] = ("model", "sparsity", "block")
    unused_by_pruning: ClassVar[Collection[str]] = (
        "init_base", "allocation", "drop_fraction", "update_every", "control", "start_noise", "init_seed",
        "avoid_dead",
    )  # fmt: skip
    one_process: ClassVar[bool] = True
    measures_ends: ClassVar[bool] = True
    keeps_before_updates: ClassVar[bool] = True
    stops_at_nan: ClassVar[bool] = False
    nesterov: ClassVar[bool] = False
    l2_per_weight_decay: ClassVar[float] = 2.0
    channels: ClassVar[int] = 1

    dataset: str = "mnist"
    """mnist-5k, mnist or fashion-mnist."""
    model: Annotated[str, one_of(networks_for(1))] = "lenet5"
    """Key of :data:`~sparseflow.networks.registry.NETWORKS`."""
    method: Annotated[str, one_of(METHODS)] = "scratch"
    """Key of :data:`~sparseflow.training.names.METHODS`."""
    init: Annotated[str, one_of(SCHEMES, labels=True)] = "sparse"
    """Key of :data:`~sparseflow.init.schemes.SCHEMES`."""
    init_base: str = "xavier_uniform"
    """xavier_uniform or _normal, kaiming_uniform, _normal or _truncated_normal."""
    sparsity: Sparsity = 0.95
    """Zero fraction of prunable weights."""
    allocation: str = "uniform"
    """uniform, er or erk over layers."""
    mask_from: Annotated[DigitRun | None, tyro.conf.Suppress] = None
    """The pruning run whose final masks this run starts from; None draws random masks."""
    rewind_step: WholeNumber = 0
    """Step of the pruning run whose weights a ticket takes."""
    control: tyro.conf.Suppress[str] = "none"
    """none, shuffled_masks, shuffled_weights, signs, repaired or killed: what is done to the start."""
    start_noise: tyro.conf.Suppress[NotNegative] = 0.0
    """Std of noise on start weights, per std of the layer's."""
    seed: Seed = 0
    """Of everything random."""
    init_seed: tyro.conf.Suppress[Seed | None] = None
    """Of the start alone; None: seed."""
    steps: Count = 11719
    """Optimizer steps."""
    batch_size: Count = 128
    """Examples in a step."""
    learning_rate: Positive = 0.05
    """At step 0."""
    schedule: str = "cosine"
    """cosine to 0, or step: a tenth at 30, 70, 90 %."""
    momentum: FractionBelowOne = 0.9
    """Heavy-ball momentum, in [0, 1)."""
    weight_decay: NotNegative = 5e-4
    """Twice its value times w is the gradient on kernels: the penalty is wd * sum(w^2)."""
    drop_fraction: Fraction = 0.3
    """Share of active weights swapped at an update, at step 0; cosine to 0."""
    update_every: Count = 500
    """Steps between mask updates."""
    prune_begin: WholeNumber = 3000
    """First step that prunes (prune)."""
    prune_end: WholeNumber = 7000
    """Last step that prunes (prune)."""
    prune_every: Count = 100
    """Steps between prunings (prune)."""
    log_every: Count = 200
    """Steps between gradient norms."""
    eval_every: Count = 1000
    """Steps between test evaluations."""
    checkpoint_every: Count = 2000
    """Steps between checkpoints."""
    snapshots: tyro.conf.Suppress[tuple[WholeNumber, ...]] = ()
    """Steps whose weights and masks are kept."""
    holdout: tyro.conf.Suppress[WholeNumber] = 0
    """Training images kept out of training, to select by."""
    engine: str = "auto"
    """auto, sparse or masked: bits differ, results only by rounding."""
    block: str = "1x1"
    """Outputs x inputs of the masks' blocks, in layers that it divides; 4 is 4x1."""
    avoid_dead: bool = False
    """Negate the drawn weights of units that fire for no training image."""

    def __post_init__(self) -> None:
        super().__post_init__()
        within = 0 <= self.prune_begin <= self.prune_end <= self.steps and self.prune_end
        if self.row.moves in ("prune", "regenerate") and not within:
            raise ValueError(
                f"pruning must begin and end within the run: got begin {self.prune_begin}, end {self.prune_end}, "
                f"{self.steps} steps. Lower prune_begin and prune_end, or raise steps."
            )
        if (self.control != "none" or self.start_noise) and self.row.start == "dense":
            raise ValueError(
                f"control and start_noise change a masked start; {self.method!r} has none. Leave them out."
            )
        if self.avoid_dead and self.row.start != "masked":
            raise ValueError(f"avoid_dead is for weights that are drawn for masks; {self.method!r} draws none.")

    def choices(self) -> dict[str, Collection[str]]:
        """Field -> its possible values; datasets and networks are checked when loaded, so that all runs can be read."""
        return {"init_base": INITIALIZERS, "allocation": ALLOCATIONS, "control": CONTROLS, "schedule": SCHEDULES}

    @property
    def learning_rates(self) -> KerasSchedule:
        """The learning rate of every step."""
        return KerasSchedule(self.learning_rate, self.steps, self.momentum, self.schedule)

    @property
    def command(self) -> str:
        """The command that makes this run, but for its masks.

        >>> DigitRun(method="rigl", dataset="mnist-5k", steps=900).command
        'sparseflow train --dataset mnist-5k --method rigl --steps 900'
        """
        return command("sparseflow train", self, DigitRun())
