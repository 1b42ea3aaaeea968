"""The config of a run: frozen, checked once, stored as plain values and named by its hash."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from dataclasses import asdict, replace
from typing import Any, ClassVar, Self, TypeVar

import torch
from torch import nn

from sparseflow.init.schemes import SCHEMES
from sparseflow.masks.blocks import SINGLE, block_sizes, fitting
from sparseflow.methods.base import Method
from sparseflow.networks.registry import NETWORKS
from sparseflow.ranges import checked_fields
from sparseflow.suggest import did_you_mean
from sparseflow.training.names import METHODS, MethodRow
from sparseflow.training.naming import changed, defaults_of, hash_of
from sparseflow.training.optimizer import LearningRates, sgd

#: ``auto``: the sparse engine where it takes the network and the masks are sparse enough; ``masked``: never.
ENGINES = ("auto", "sparse", "masked")
Kind = TypeVar("Kind", bound="RunConfig")


class RunConfig(ABC):
    """One training run, complete; digits and images each have a frozen dataclass of their own.

    Two configs that are equal name the same run, so a finished run is never trained twice. Fields, their order and
    their defaults are the subclass's: they are in the files and names of stored runs.
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
    def num_batches(self) -> int:
        """Global batches that the run uses: one a step, and one for each update that replaces a step.

        >>> from sparseflow.training.images import ImageRun
        >>> run = ImageRun(steps=1000, update_every=100, update_until=700)
        >>> run.num_batches, run.with_(updates="authors").num_batches
        (1000, 1008)
        """
        if not self.replaces_steps:
            return self.steps
        updater = self.updater()
        return self.steps + sum(updater.due(step) for step in range(self.steps))

    def blocks(self, model: nn.Module) -> dict[str, tuple[int, int]]:
        """Parameter name -> block of its mask, of a network of this run; empty for single weights.

        >>> from sparseflow.training.digits import DigitRun
        >>> DigitRun(block="4").blocks(nn.Linear(3, 8)) == {"weight": (4, 1)}, DigitRun().blocks(nn.Linear(3, 8))
        (True, {})
        >>> DigitRun(method="rigl_blocks").blocks(nn.Linear(3, 8)) == {"weight": (4, 1)}
        True
        """
        block = block_sizes(self.block)
        if block == SINGLE and self.row.block:
            block = block_sizes(self.row.block)
        never = NETWORKS[self.architecture].dense
        return {} if block == SINGLE else fitting(block, model, exclude=never)

    def updater(
        self,
        *,
        sparsity: float | Mapping[str, float] | None = None,
        blocks: Mapping[str, tuple[int, int]] | None = None,
    ) -> Method:
        """The method with the settings of this run.

        Args:
            sparsity: Where pruning ends, also by parameter name; default the run's.
            blocks: Of :meth:`blocks`; default single weights.

        >>> from sparseflow.training.digits import DigitRun
        >>> DigitRun(method="rigl", update_every=10).updater().due(10)
        True
        """
        settings: dict[str, Any] = {}
        if self.row.moves in ("swap", "regenerate"):
            # The cosine over the whole run is the shape of the learning rate: the paper's "proportional to" it.
            settings = {
                "drop_fraction": self.drop_fraction,
                "update_every": self.update_every,
                "update_until": (
                    max(1, int(self.steps * self.row.ends)) if self.update_until is None else self.update_until
                ),
                "schedule": "cosine",
                **self.row.settings,
                **(self.row.authors if self.follows_authors else {}),
            }
        if self.row.moves in ("prune", "regenerate"):
            settings |= {
                "sparsity": self.sparsity if sparsity is None else sparsity,
                "begin": self.prune_begin,
                "end": self.prune_end,
                "update_every": self.prune_every or self.update_every,
            }
        if self.row.moves == "alternate":
            settings = {
                "sparsity": self.sparsity if sparsity is None else sparsity,
                "total_steps": self.steps,
            }
        elif self.row.moves == "use":
            settings = {
                "sparsity": self.sparsity,
                "update_every": self.update_every,
                "update_until": self.steps,
                **self.row.settings,
            }
        if settings and blocks:
            settings["block"] = blocks
        return self.row.updater(**settings)

    @property
    def row(self) -> MethodRow:
        """The method's row in :data:`~sparseflow.training.names.METHODS`."""
        return METHODS[self.method]

    @property
    def hash(self) -> str:
        """First 12 hex digits of SHA-256 over the fields that differ from their defaults.

        A field added later with a default that keeps the old behaviour leaves the names of old runs as they were.
        """
        return hash_of(self.changed())

    @property
    def name(self) -> str:
        """Folder name of the run: readable first, unique by its hash."""
        init = f"-{self.init}" if self.row.start == "masked" else ""
        return f"{self.method}{init}-{self.architecture}-s{self.seed}-{self.hash}"

    def changed(self) -> dict[str, Any]:
        """The fields that differ from their defaults, nested for ``mask_from``."""
        return changed(self)

    def with_(self, **changes: Any) -> Self:
        """A copy with some fields changed."""
        return replace(self, **changes)  # type: ignore[type-var]

    def to_dict(self) -> dict[str, Any]:
        """Plain nested dict, as stored in ``config.json``."""
        return asdict(self)  # type: ignore[call-overload, no-any-return]

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Inverse of :meth:`to_dict`.

        Raises:
            ValueError: if a field is unknown, or a value cannot be.
        """
        if unknown := sorted(set(values) - set(defaults_of(cls))):
            raise ValueError(f"the config has fields this version does not know: {', '.join(unknown)}.")
        parent = values.get("mask_from")
        nested = {
            "mask_from": None if parent is None else cls.from_dict(parent),
            "snapshots": tuple(values.get("snapshots", ())),
        }
        return cls(**{**values, **nested})

    def __post_init__(self) -> None:
        self._normalise()
        known: dict[str, Collection[str]] = {"method": METHODS, "init": SCHEMES, "engine": ENGINES, **self.choices()}
        for name, choices in known.items():
            if getattr(self, name) not in choices:
                value = getattr(self, name)
                suggestion = did_you_mean(value, choices)
                raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}.{suggestion}")
        if self.engine == "sparse" and hasattr(self.updater(), "used"):
            raise ValueError(
                f"{self.method} trains weights that the network does not use, and the sparse engine has no place for "
                "them. Leave engine at 'auto', or write engine='masked'."
            )
        if self.engine == "sparse" and self.updater().gradient_decay:
            raise ValueError(
                f"{self.method} looks at the dense gradient of every step, which the sparse engine does not compute. "
                "Leave engine at 'auto', or write engine='masked'."
            )
        if not self.row.moves_blocks and block_sizes(self.block) != SINGLE:
            raise ValueError(
                f"{self.method} moves single weights, not blocks of {self.block}. Leave block (--block) out."
            )
        if self.snapshots and not 0 <= self.snapshots[0] <= self.snapshots[-1] <= self.steps:
            raise ValueError(f"snapshots must be steps from 0 to {self.steps}, got {list(self.snapshots)}.")
        self._check_start()

    def _normalise(self) -> None:
        # 0 and 0.0 are equal and print differently: without this, equal configs could have two names.
        for name, value in checked_fields(self).items():
            object.__setattr__(self, name, value)
        object.__setattr__(self, "snapshots", tuple(sorted(set(self.snapshots))))
        object.__setattr__(self, "block", "x".join(map(str, block_sizes(self.block))))

    def _check_start(self) -> None:
        parent = self.mask_from
        if parent is None:
            if self.row.start == "ticket":
                raise ValueError(
                    f"{self.method} starts from a pruning run: give mask_from, or --pruned-mask on the command line."
                )
            return
        if not isinstance(parent, type(self)):
            raise TypeError(f"mask_from must be a {type(self).__name__}, got {type(parent).__name__}.")
        if parent.method != "prune":
            raise ValueError(f"mask_from must be a run of method 'prune', got {parent.method!r}.")
        if self.row.start == "dense":
            raise ValueError(f"method {self.method!r} starts from no mask. Leave mask_from (--pruned-mask) out.")
        for name in self.shared_with_parent:
            if (theirs := getattr(parent, name)) != (ours := getattr(self, name)):
                raise ValueError(f"mask_from must be a run of the same {name}: it has {theirs!r}, this run {ours!r}.")
        if self.rewind_step and self.rewind_step not in parent.snapshots:
            raise ValueError(
                f"rewind_step {self.rewind_step} was not kept by the pruning run: add it to its snapshots, which are "
                f"{list(parent.snapshots)}."
            )


def pruning_parent(config: Kind) -> Kind:
    """The pruning run of the same seed and schedule, whose final masks a sparse run can start from.

    What a pruning run does not look at stays at its default, so that all methods share one pruning run.

    >>> from sparseflow.training.digits import DigitRun
    >>> pruning_parent(DigitRun(method="rigl", init="liu", seed=3)).changed()
    {'method': 'prune', 'seed': 3}
    """
    defaults = defaults_of(type(config))
    kept = (config.rewind_step,) if config.rewind_step else ()
    unused = {name: defaults[name] for name in (*config.unused_by_pruning, "init", "mask_from", "rewind_step")}
    return config.with_(**unused, method="prune", snapshots=kept)
