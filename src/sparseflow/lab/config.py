"""A run is a pure function of its frozen config; the config's hash is the run's name."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, fields, replace
from typing import Annotated, Any

import tyro

SCHEMES = ("dense", "liu", "sparse", "live")
METHODS = ("dense", "scratch", "set", "rigl", "rigl_inverted", "snfs", "prune")
#: Methods whose network is masked from the first step on.
SPARSE_METHODS = frozenset({"scratch", "set", "rigl", "rigl_inverted", "snfs"})


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """One training run, complete; the defaults are LeNet5 on MNIST as in Table 4 of the paper.

    Two configs that are equal name the same run, so a finished run is never trained twice.

    >>> RunConfig(seed=1) == RunConfig(seed=1), RunConfig(seed=1).hash == RunConfig(seed=2).hash
    (True, False)
    """

    dataset: str = "mnist"
    """Key of ``DATASETS``: mnist-5k, mnist or fashion-mnist."""
    model: str = "lenet5"
    """Key of ``MODELS``: lenet5, lenet5-small, mlp or mlp-small."""
    method: str = "scratch"
    """dense, scratch, set, rigl, rigl_inverted, snfs or prune (dense, then gradually pruned)."""
    init: str = "sparse"
    """Initialisation of masked layers: dense (the paper's Original), liu, sparse (Ours) or live."""
    init_base: str = "xavier_uniform"
    """Key of ``sparseflow.init.INITIALIZERS``; the paper's MNIST runs use scale 1, average of fans, uniform."""
    sparsity: float = 0.95
    """Fraction of the prunable weights that are zero, in [0, 1)."""
    allocation: str = "uniform"
    """How random masks spread the sparsity over layers: uniform, er or erk."""
    mask_from: Annotated[RunConfig | None, tyro.conf.Suppress] = None
    """The pruning run whose final masks this run starts from; None draws random masks."""
    seed: int = 0
    """Fixes initialisation, masks, data order and growth, each from its own stream."""
    steps: int = 11719
    """Optimizer steps."""
    batch_size: int = 128
    """Examples in a step."""
    learning_rate: float = 0.05
    """At step 0; falls to zero over ``steps`` along a cosine."""
    momentum: float = 0.9
    """Heavy-ball momentum."""
    weight_decay: float = 5e-4
    """L2 coefficient wd in wd * sum(w^2) over kernels: the gradient is 2 * wd * w."""
    drop_fraction: float = 0.3
    """Share of the active weights swapped at an update, at step 0; falls like the learning rate."""
    update_every: int = 500
    """Optimizer steps between two mask updates."""
    prune_begin: int = 3000
    """First step of gradual pruning (method prune)."""
    prune_end: int = 7000
    """Last step of gradual pruning (method prune)."""
    prune_every: int = 100
    """Optimizer steps between two prunings (method prune)."""
    log_every: int = 200
    """Optimizer steps between two measurements of loss and gradient norm."""
    eval_every: int = 1000
    """Optimizer steps between two evaluations on the test set."""
    checkpoint_every: int = 2000
    """Optimizer steps between two checkpoints."""

    def __post_init__(self) -> None:
        if not 0 <= self.sparsity < 1:
            raise ValueError(f"sparsity must be in [0, 1), got {self.sparsity!r}. For 95% zeros write 0.95, not 95.")
        if self.method not in METHODS:
            raise ValueError(f"method must be one of {', '.join(METHODS)}, got {self.method!r}.")
        if self.init not in SCHEMES:
            raise ValueError(f"init must be one of {', '.join(SCHEMES)}, got {self.init!r}.")
        for name in (
            "steps",
            "batch_size",
            "update_every",
            "prune_every",
            "log_every",
            "eval_every",
            "checkpoint_every",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)!r}.")
        if self.learning_rate <= 0 or self.weight_decay < 0 or not 0 <= self.momentum < 1:
            raise ValueError(
                "learning_rate must be positive, weight_decay not negative and momentum in [0, 1), got "
                f"{self.learning_rate!r}, {self.weight_decay!r}, {self.momentum!r}."
            )
        if not 0 <= self.drop_fraction <= 1:
            raise ValueError(f"drop_fraction must be in [0, 1], got {self.drop_fraction!r}.")
        if self.method == "prune" and not 0 <= self.prune_begin <= self.prune_end <= self.steps:
            raise ValueError(
                f"pruning must begin and end within the run: got begin {self.prune_begin}, end {self.prune_end}, "
                f"{self.steps} steps. Lower prune_begin and prune_end, or raise steps."
            )
        if self.mask_from is not None and self.mask_from.method != "prune":
            raise ValueError(f"mask_from must be a run of method 'prune', got {self.mask_from.method!r}.")

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
        known = {field.name for field in fields(cls)}
        if unknown := sorted(set(values) - known):
            raise ValueError(f"the config has fields this version does not know: {', '.join(unknown)}.")
        parent = values.get("mask_from")
        return cls(**{**values, "mask_from": None if parent is None else cls.from_dict(parent)})

    @property
    def hash(self) -> str:
        """First 12 hex digits of SHA-256 over the fields that differ from their defaults.

        A field added later with a default that keeps the old behaviour leaves the names of old runs as they were.
        """
        return hashlib.sha256(json.dumps(self.changed(), sort_keys=True).encode()).hexdigest()[:12]

    def changed(self) -> dict[str, Any]:
        """The fields that differ from their defaults, nested for ``mask_from``.

        >>> RunConfig(seed=3).changed()
        {'seed': 3}
        """
        values = {
            field.name: getattr(self, field.name)
            for field in fields(self)
            if getattr(self, field.name) != field.default
        }
        if self.mask_from is not None:
            values["mask_from"] = self.mask_from.changed()
        return values

    @property
    def name(self) -> str:
        """Folder name of the run: readable first, unique by its hash."""
        init = f"-{self.init}" if self.method in SPARSE_METHODS else ""
        return f"{self.method}{init}-{self.model}-s{self.seed}-{self.hash}"

    def with_(self, **changes: Any) -> RunConfig:
        """A copy with some fields changed."""
        return replace(self, **changes)


def pruning_parent(config: RunConfig) -> RunConfig:
    """The pruning run of the same seed and schedule, whose final masks a sparse run can start from.

    >>> pruning_parent(RunConfig(method="rigl", init="liu", seed=3)).changed()
    {'method': 'prune', 'seed': 3}
    """
    # What a pruning run does not look at stays at its default, so that all methods share one pruning run.
    ignored = ("init", "init_base", "allocation", "drop_fraction", "update_every", "mask_from")
    defaults = {field.name: field.default for field in fields(RunConfig) if field.name in ignored}
    return config.with_(method="prune", **defaults)
