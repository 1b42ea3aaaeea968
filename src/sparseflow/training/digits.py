"""A run is a pure function of its frozen config; the config's hash is the run's name."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import asdict, dataclass, replace
from typing import Annotated, Any, ClassVar

import tyro

from sparseflow.init.fill import INITIALIZERS
from sparseflow.masks.allocation import ALLOCATIONS
from sparseflow.training.naming import changed, command, defaults_of, hash_of

SCHEMES = ("dense", "liu", "sparse", "live")
ENGINES = ("auto", "sparse", "masked")
SCHEDULES = ("cosine", "step")
METHODS = ("dense", "scratch", "set", "rigl", "rigl_inverted", "snfs", "prune", "lottery", "restart")
#: Methods whose network is masked and drawn anew at the first step.
SPARSE_METHODS = frozenset({"scratch", "set", "rigl", "rigl_inverted", "snfs"})
#: Methods that start from masks *and* weights of a pruning run.
TICKET_METHODS = frozenset({"lottery", "restart"})
#: What is done to the start of a masked run, to learn what of it matters.
CONTROLS = ("none", "shuffled_masks", "shuffled_weights", "signs")
#: Field -> what it may be. Datasets and models are checked before training, so that runs of others' can be read.
_CHOICES: dict[str, Collection[str]] = {
    "method": METHODS,
    "init": SCHEMES,
    "init_base": INITIALIZERS,
    "allocation": ALLOCATIONS,
    "engine": ENGINES,
    "control": CONTROLS,
    "schedule": SCHEDULES,
}


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """One training run, complete; the defaults are LeNet5 on MNIST as in Table 4 of the paper.

    Two configs that are equal name the same run, so a finished run is never trained twice.

    >>> RunConfig(seed=1) == RunConfig(seed=1), RunConfig(seed=1).hash == RunConfig(seed=2).hash
    (True, False)
    """

    num_classes: ClassVar[int] = 10
    image_shape: ClassVar[tuple[int, int, int]] = (1, 28, 28)

    dataset: str = "mnist"
    """mnist-5k, mnist or fashion-mnist."""
    model: str = "lenet5"
    """lenet5[-small] or mlp[-small]."""
    method: str = "scratch"
    """dense, scratch, set, rigl, rigl_inverted, snfs, prune, lottery or restart."""
    init: str = "sparse"
    """dense (Original), liu, sparse (Ours) or live."""
    init_base: str = "xavier_uniform"
    """xavier_uniform or _normal, kaiming_uniform, _normal or _truncated_normal."""
    sparsity: float = 0.95
    """Zero fraction of prunable weights."""
    allocation: str = "uniform"
    """uniform, er or erk over layers."""
    mask_from: Annotated[RunConfig | None, tyro.conf.Suppress] = None
    """The pruning run whose final masks this run starts from; None draws random masks."""
    rewind_step: int = 0
    """Step of the pruning run whose weights a ticket takes."""
    control: tyro.conf.Suppress[str] = "none"
    """none, shuffled_masks, shuffled_weights or signs: what is done to the start."""
    start_noise: tyro.conf.Suppress[float] = 0.0
    """Std of noise on start weights, per std of the layer's."""
    seed: int = 0
    """Of everything random."""
    init_seed: tyro.conf.Suppress[int | None] = None
    """Of the start alone; None: seed."""
    steps: int = 11719
    """Optimizer steps."""
    batch_size: int = 128
    """Examples in a step."""
    learning_rate: float = 0.05
    """At step 0."""
    schedule: str = "cosine"
    """cosine to 0, or step: a tenth at 30, 70, 90 %."""
    momentum: float = 0.9
    """Heavy-ball momentum, in [0, 1)."""
    weight_decay: float = 5e-4
    """L2 penalty wd * sum(w^2) of kernels; the gradient is 2 * wd * w."""
    drop_fraction: float = 0.3
    """Share of active weights swapped at an update, at step 0; cosine to 0."""
    update_every: int = 500
    """Steps between mask updates."""
    prune_begin: int = 3000
    """First step that prunes (prune)."""
    prune_end: int = 7000
    """Last step that prunes (prune)."""
    prune_every: int = 100
    """Steps between prunings (prune)."""
    log_every: int = 200
    """Steps between gradient norms."""
    eval_every: int = 1000
    """Steps between test evaluations."""
    checkpoint_every: int = 2000
    """Steps between checkpoints."""
    snapshots: tyro.conf.Suppress[tuple[int, ...]] = ()
    """Steps whose weights and masks are kept."""
    holdout: tyro.conf.Suppress[int] = 0
    """Training images kept out of training, to select by."""
    engine: str = "auto"
    """auto, sparse or masked: bits differ, results only by rounding."""

    def __post_init__(self) -> None:
        self._normalise_numbers()
        if not 0 <= self.sparsity < 1:
            raise ValueError(f"sparsity must be in [0, 1), got {self.sparsity!r}. For 95% zeros write 0.95, not 95.")
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} must be one of {', '.join(choices)}, got {getattr(self, name)!r}.")
        for name in ("steps", "batch_size", *(name for name in defaults_of(RunConfig) if name.endswith("_every"))):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)!r}.")
        if not (0 < self.learning_rate < math.inf and 0 <= self.weight_decay < math.inf and 0 <= self.momentum < 1):
            raise ValueError(
                "learning_rate must be positive, weight_decay not negative and momentum in [0, 1), got "
                f"{self.learning_rate!r}, {self.weight_decay!r}, {self.momentum!r}."
            )
        if not 0 <= self.drop_fraction <= 1:
            raise ValueError(f"drop_fraction must be in [0, 1], got {self.drop_fraction!r}.")
        if self.method == "prune" and not (0 <= self.prune_begin <= self.prune_end <= self.steps and self.prune_end):
            raise ValueError(
                f"pruning must begin and end within the run: got begin {self.prune_begin}, end {self.prune_end}, "
                f"{self.steps} steps. Lower prune_begin and prune_end, or raise steps."
            )
        if self.method == "snfs" and self.engine == "sparse":
            raise ValueError(
                "snfs looks at the dense gradient of every step, which the sparse engine does not compute. Leave "
                "engine at 'auto', or write engine='masked'."
            )
        if self.start_noise < 0 or self.holdout < 0:
            raise ValueError(
                f"start_noise and holdout must not be negative, got {self.start_noise!r} and {self.holdout!r}."
            )
        object.__setattr__(self, "snapshots", tuple(sorted(set(self.snapshots))))
        if self.snapshots and not 0 <= self.snapshots[0] <= self.snapshots[-1] <= self.steps:
            raise ValueError(f"snapshots must be steps from 0 to {self.steps}, got {list(self.snapshots)}.")
        if self.method in TICKET_METHODS and self.mask_from is None:
            raise ValueError(
                f"{self.method} starts from a pruning run: give mask_from, or --pruned-mask on the command line."
            )
        if (self.control != "none" or self.start_noise) and self.method not in SPARSE_METHODS | TICKET_METHODS:
            raise ValueError(
                f"control and start_noise change a masked start; {self.method!r} has none. Leave them out."
            )
        if self.mask_from is not None:
            self._check_parent(self.mask_from)

    def _normalise_numbers(self) -> None:
        # 0 and 0.0 are equal and print differently: without this, equal configs could have two names.
        for name, default in defaults_of(RunConfig).items():
            if isinstance(default, int | float):
                given = getattr(self, name)
                value = type(default)(given)
                if value != given and given == given:
                    raise ValueError(f"{name} must be a whole number, got {given!r}.")
                object.__setattr__(self, name, value + 0)  # -0.0 + 0 is 0.0

    def _check_parent(self, parent: RunConfig) -> None:
        if parent.method != "prune":
            raise ValueError(f"mask_from must be a run of method 'prune', got {parent.method!r}.")
        if self.method not in SPARSE_METHODS | TICKET_METHODS:
            raise ValueError(f"method {self.method!r} starts from no mask. Leave mask_from (--pruned-mask) out.")
        for name in ("model", "sparsity"):
            if (theirs := getattr(parent, name)) != (ours := getattr(self, name)):
                raise ValueError(f"mask_from must be a run of the same {name}: it has {theirs!r}, this run {ours!r}.")
        if self.method == "lottery" and self.rewind_step and self.rewind_step not in parent.snapshots:
            raise ValueError(
                f"rewind_step {self.rewind_step} was not kept by the pruning run: add it to its snapshots, which are "
                f"{list(parent.snapshots)}."
            )

    def to_dict(self) -> dict[str, Any]:
        """Plain nested dict, as stored in ``config.json``."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> RunConfig:
        """Inverse of :meth:`to_dict`.

        >>> config = RunConfig(method="set", mask_from=RunConfig(method="prune"))
        >>> RunConfig.from_dict(config.to_dict()) == config
        True
        """
        if unknown := sorted(set(values) - set(defaults_of(RunConfig))):
            raise ValueError(f"the config has fields this version does not know: {', '.join(unknown)}.")
        parent = values.get("mask_from")
        nested = {
            "mask_from": None if parent is None else cls.from_dict(parent),
            "snapshots": tuple(values.get("snapshots", ())),
        }
        return cls(**{**values, **nested})

    @property
    def hash(self) -> str:
        """First 12 hex digits of SHA-256 over the fields that differ from their defaults.

        A field added later with a default that keeps the old behaviour leaves the names of old runs as they were.
        """
        return hash_of(self.changed())

    def changed(self) -> dict[str, Any]:
        """The fields that differ from their defaults, nested for ``mask_from``.

        >>> RunConfig(seed=3).changed()
        {'seed': 3}
        """
        return changed(self)

    @property
    def name(self) -> str:
        """Folder name of the run: readable first, unique by its hash."""
        init = f"-{self.init}" if self.method in SPARSE_METHODS else ""
        return f"{self.method}{init}-{self.model}-s{self.seed}-{self.hash}"

    @property
    def family(self) -> str:
        """The network, whose Small Dense twin counts as the same."""
        return self.model.removesuffix("-small")

    @property
    def is_small_dense(self) -> bool:
        """Whether it trains the dense twin that has as few weights as a sparse network."""
        return self.method == "dense" and self.model != self.family

    @property
    def command(self) -> str:
        """What to type to make this run, but for its masks.

        >>> RunConfig(method="rigl", dataset="mnist-5k", steps=900).command
        'sparseflow train --dataset mnist-5k --method rigl --steps 900'
        """
        return command("sparseflow train", self, RunConfig())

    @property
    def start_seed(self) -> int:
        """Seed of everything at step 0: network, random masks, weights."""
        return self.seed if self.init_seed is None else self.init_seed

    def with_(self, **changes: Any) -> RunConfig:
        """A copy with some fields changed."""
        return replace(self, **changes)


def pruning_parent(config: RunConfig) -> RunConfig:
    """The pruning run of the same seed and schedule, whose final masks a sparse run can start from.

    >>> pruning_parent(RunConfig(method="rigl", init="liu", seed=3)).changed()
    {'method': 'prune', 'seed': 3}
    """
    # What a pruning run does not look at stays at its default, so that all methods share one pruning run.
    ignored = (
        "init", "init_base", "allocation", "drop_fraction", "update_every", "mask_from", "rewind_step", "control",
        "start_noise", "init_seed",
    )  # fmt: skip
    defaults = defaults_of(RunConfig)
    kept = (config.rewind_step,) if config.method == "lottery" and config.rewind_step else ()
    return config.with_(method="prune", snapshots=kept, **{name: defaults[name] for name in ignored})
