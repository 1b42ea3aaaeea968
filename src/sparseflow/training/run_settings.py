"""The settings of a run: fields, constants of each kind of run, and what follows from them without a choice."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection
from typing import Any, ClassVar

import torch
from torch import nn

from sparseflow.networks.registry import NETWORKS
from sparseflow.training.names import METHODS, MethodRow
from sparseflow.training.optimizer import LearningRates, sgd


class RunSettings(ABC):
    """What every run is made of; digits and images each have a frozen dataclass of their own, a ``RunConfig``.

    Fields, their order and their defaults are the subclass's: they are in the files and names of stored runs.
    """

    dataset: str
    method: str
    init: str
    sparsity: float
    allocation: str
    mask_from: Any
    rewind_step: int
    seed: int
    steps: int
    batch_size: int
    learning_rate: float
    momentum: float
    weight_decay: float
    drop_fraction: float
    update_every: int
    prune_begin: int
    prune_end: int
    engine: str
    log_every: int
    eval_every: int
    checkpoint_every: int
    snapshots: tuple[int, ...]
    block: str

    #: Whether the run takes one process and one thread, so that the same config gives the same bits. Its checkpoints
    #: are files, those of others folders that any number of processes write, beside a snapshot of the last step.
    one_process: ClassVar[bool] = False
    #: Whether the gradient norm is logged by parameter too, and norm and accuracy at step 0 and at the end.
    measures_ends: ClassVar[bool] = False
    #: Whether the norm of the training gradient is logged, the authors' way on ImageNet (protocol A.0).
    logs_training_norm: ClassVar[bool] = False
    #: Whether a snapshot of a step with a mask update is kept as it was before the update too.
    keeps_before_updates: ClassVar[bool] = False
    #: Whether a loss that is not finite ends the run; else it counts among those that did not learn.
    stops_at_nan: ClassVar[bool] = True
    #: Whether pruning ends at the sparsities that random masks have in each layer; else at the run's in every layer.
    prunes_to_masks: ClassVar[bool] = False
    #: Whether the momentum is Nesterov's, or heavy-ball.
    nesterov: ClassVar[bool] = True
    #: Coefficient of a weight in the L2 gradient of kernels, per ``weight_decay``.
    l2_per_weight_decay: ClassVar[float] = 1.0
    #: Channels of an image.
    channels: ClassVar[int]

    # Settings of one kind of run alone, with the values that a run of the other kind shows.
    model: str = ""
    network: str = ""
    num_classes: int = 10
    image_size: int = 28
    stem: str = ""
    width: float = 1.0
    init_base: str | None = None
    init_seed: int | None = None
    control: str = "none"
    start_noise: float = 0.0
    avoid_dead: bool = False
    micro_batch: int | None = None
    label_smoothing: float = 0.0
    update_until: int | None = None
    prune_every: int | None = None
    updates: str = "after_step"
    precision: str = "float32"
    channels_last: bool = False
    compiled: bool = False

    #: Fields that a run shares with the pruning run that it starts from.
    shared_with_parent: ClassVar[Collection[str]]
    #: Fields that a pruning run does not look at.
    unused_by_pruning: ClassVar[Collection[str]]

    @property
    @abstractmethod
    def learning_rates(self) -> LearningRates:
        """The learning rate of every step."""

    @property
    @abstractmethod
    def command(self) -> str:
        """The command that makes this run, but for its masks."""

    @abstractmethod
    def choices(self) -> dict[str, Collection[str]]:
        """Field -> its possible values, beside ``method``, ``init`` and ``engine``; looked up anew for every run."""

    @property
    def architecture(self) -> str:
        """Key of :data:`~sparseflow.networks.registry.NETWORKS`."""
        return self.model or self.network

    @property
    def family(self) -> str:
        """The architecture, or the one whose Small Dense twin it is."""
        twins = {network.small_dense.get("model"): name for name, network in NETWORKS.items()}
        return twins.get(self.architecture, self.architecture)

    @property
    def is_small_dense(self) -> bool:
        """Whether it trains the dense twin that has as few weights as the paper's sparse network."""
        twin = NETWORKS[self.family].small_dense if self.family in NETWORKS else {}
        return self.method == "dense" and bool(twin) and all(getattr(self, name) == twin[name] for name in twin)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of an image."""
        return self.channels, self.image_size, self.image_size

    @property
    def micro_batches(self) -> int:
        """Parts that a step's batch is cut into, on all processes together."""
        return 1 if self.micro_batch is None else self.batch_size // self.micro_batch

    @property
    def start_seed(self) -> int:
        """Seed of everything at step 0: network, random masks, weights."""
        return self.seed if self.init_seed is None else self.init_seed

    @property
    def l2(self) -> float:
        """Coefficient of a weight in the L2 gradient of kernels."""
        return self.l2_per_weight_decay * self.weight_decay

    def optimizer(self, model: nn.Module) -> torch.optim.SGD:
        """SGD with the run's settings."""
        return sgd(model, learning_rate=self.learning_rate, momentum=self.momentum, l2=self.l2, nesterov=self.nesterov)

    @property
    def follows_authors(self) -> bool:
        """Whether masks change at the steps of the authors' ImageNet code (protocol C.3 and C.4)."""
        return self.updates == "authors"

    @property
    def replaces_steps(self) -> bool:
        """Whether a mask update uses up a batch and takes no step."""
        return self.follows_authors and bool(self.row.authors.get("replaces_step"))

    @property
    def row(self) -> MethodRow:
        """The method's row in :data:`~sparseflow.training.names.METHODS`."""
        return METHODS[self.method]
