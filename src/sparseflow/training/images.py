"""One training on images, complete: the paper's ImageNet settings are the defaults and :func:`paper_run`."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import asdict, dataclass, replace
from typing import Annotated, Any

import tyro

from sparseflow.init.schemes import SCHEMES
from sparseflow.masks.allocation import ALLOCATIONS
from sparseflow.networks import NETWORKS, STEMS
from sparseflow.training.naming import changed, command, defaults_of, hash_of
from sparseflow.training.step import PRECISIONS

#: ``prune`` begins dense; ``dense`` stays so; the others begin with random masks, or those of a pruning run.
METHODS = ("dense", "scratch", "set", "rigl", "rigl_inverted", "prune", "lottery", "restart")
#: Methods that start from masks *and* weights of a pruning run.
TICKET_METHODS = frozenset({"lottery", "restart"})
#: Methods that begin dense: no mask is drawn.
DENSE_METHODS = frozenset({"dense", "prune"})
#: ``auto``: the sparse engine where it takes the network and the masks are sparse enough; ``masked``: never.
ENGINES = ("auto", "sparse", "masked")
#: Who decides when masks change and whether that replaces a step (protocol C.3 and C.4).
UPDATE_VARIANTS = ("after_step", "authors")
#: Of zeros over layers; ``paper``: ERK for VGG16, uniform for ResNet-50 (protocol F).
MASK_ALLOCATIONS = ("paper", *ALLOCATIONS)
_CHOICES: dict[str, Collection[str]] = {
    "network": NETWORKS,
    "stem": STEMS,
    "method": METHODS,
    "init": SCHEMES,
    "precision": PRECISIONS,
    "updates": UPDATE_VARIANTS,
    "allocation": MASK_ALLOCATIONS,
    "engine": ENGINES,
}


@dataclass(frozen=True, kw_only=True)
class ImageRun:
    """What is trained, and how; the defaults are RigL on ResNet-50 and ImageNet (protocol 0).

    >>> ImageRun(batch_size=100, micro_batch=30)
    Traceback (most recent call last):
    ValueError: batch_size=100 does not divide into micro-batches of 30. For instance micro_batch=25 does.
    """

    dataset: str = "imagenet"
    """imagenet, imagenet-sample or cifar10."""
    image_size: int = 224
    """Side of the crops, in pixels; 32 with the stem for CIFAR."""
    network: str = "resnet50"
    """vgg16, resnet50, or resnet14: one block a group."""
    width: float = 1.0
    """Factor of all channels."""
    stem: str = "imagenet"
    """imagenet, or cifar for images of 32x32."""
    num_classes: int = 1000
    """Of the dataset."""
    method: str = "rigl"
    """dense, scratch, set, rigl, rigl_inverted, prune, lottery or restart."""
    init: str = "sparse"
    """dense (Original), liu, sparse (Ours) or live."""
    sparsity: float = 0.8
    """Zero fraction of masked weights."""
    allocation: str = "paper"
    """paper (VGG16: erk, ResNet-50: uniform), uniform, er or erk."""
    mask_from: Annotated[ImageRun | None, tyro.conf.Suppress] = None
    """The pruning run whose final masks this run starts from; None draws random masks."""
    rewind_step: int = 0
    """Step of the pruning run whose weights a ticket takes."""
    seed: int = 0
    """Of everything random."""
    steps: int = 32_000
    """Optimizer steps."""
    batch_size: int = 4096
    """Images in a step, on all processes together."""
    micro_batch: int = 128
    """Images that go through the network, and its batch norms, at once; the paper's TPU cores had 128."""
    learning_rate: float = 1.6
    """At the end of the warm-up."""
    momentum: float = 0.9
    """Nesterov's."""
    weight_decay: float = 1e-4
    """The gradient is weight_decay * w, of kernels."""
    label_smoothing: float = 0.1
    """Probability spread over all classes."""
    drop_fraction: float = 0.3
    """Share of active weights swapped at an update, at step 0; cosine to 0 at the last."""
    update_every: int = 100
    """Steps between mask updates; between prunings, for prune."""
    update_until: int = 25_000
    """Last step of a mask update."""
    prune_begin: int = 5000
    """First step that prunes (prune); the last is prune_end."""
    prune_end: int = 8000
    """Last step that prunes (prune)."""
    updates: str = "after_step"
    """after_step, or authors: RigL's replace a step and begin at step 0, SET's begin at step 1."""
    precision: str = "float32"
    """float32 or bfloat16 (autocast)."""
    channels_last: bool = False
    """Memory format of images and kernels."""
    compiled: bool = False
    """Whether torch.compile makes the network faster."""
    engine: str = "masked"
    """auto, sparse or masked: bits differ, results only by rounding."""
    log_every: int = 100
    """Steps between gradient norms."""
    probe_images: int = 256
    """First training images that gradient norms are of."""
    eval_every: int = 2000
    """Steps between test evaluations."""
    checkpoint_every: int = 1000
    """Steps between checkpoints."""
    snapshots: tyro.conf.Suppress[tuple[int, ...]] = ()
    """Steps whose weights and masks are kept, beside the last."""

    def __post_init__(self) -> None:
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} must be one of {', '.join(choices)}, got {getattr(self, name)!r}.")
        if not 0 <= self.sparsity < 1:
            raise ValueError(f"sparsity must be in [0, 1), got {self.sparsity!r}. For 80% zeros write 0.8, not 80.")
        counted = ("num_classes", "image_size", "steps", "batch_size", "micro_batch", "probe_images")
        for name in (*counted, *(name for name in defaults_of(ImageRun) if name.endswith("_every"))):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)!r}.")
        if self.batch_size % self.micro_batch:
            fitting = max(size for size in range(1, self.micro_batch + 1) if self.batch_size % size == 0)
            raise ValueError(
                f"batch_size={self.batch_size} does not divide into micro-batches of {self.micro_batch}. For instance "
                f"micro_batch={fitting} does."
            )
        object.__setattr__(self, "snapshots", tuple(sorted(set(self.snapshots))))
        if self.snapshots and not 0 <= self.snapshots[0] <= self.snapshots[-1] <= self.steps:
            raise ValueError(f"snapshots must be steps from 0 to {self.steps}, got {list(self.snapshots)}.")
        self._check_start()

    def _check_start(self) -> None:
        parent = self.mask_from
        if parent is None:
            if self.method in TICKET_METHODS:
                raise ValueError(
                    f"{self.method} starts from a pruning run: give mask_from, or --pruned-mask on the command line."
                )
            return
        if parent.method != "prune":
            raise ValueError(f"mask_from must be a run of method 'prune', got {parent.method!r}.")
        if self.method in DENSE_METHODS:
            raise ValueError(f"method {self.method!r} starts from no mask. Leave mask_from (--pruned-mask) out.")
        for name in ("network", "width", "stem", "num_classes", "sparsity", "allocation"):
            if (theirs := getattr(parent, name)) != (ours := getattr(self, name)):
                raise ValueError(f"mask_from must be a run of the same {name}: it has {theirs!r}, this run {ours!r}.")
        if self.rewind_step and self.rewind_step not in parent.snapshots:
            raise ValueError(
                f"rewind_step {self.rewind_step} was not kept by the pruning run: add it to its snapshots, which are "
                f"{list(parent.snapshots)}."
            )

    @property
    def micro_batches(self) -> int:
        """In a step, on all processes together."""
        return self.batch_size // self.micro_batch

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of an image."""
        return 3, self.image_size, self.image_size

    @property
    def family(self) -> str:
        """The network; narrower ones count as the same."""
        return self.network

    @property
    def is_small_dense(self) -> bool:
        """Whether it trains the dense twin that has as few weights as the paper's sparse network."""
        return self.method == "dense" and self.width == NETWORKS[self.network].small_dense_width

    @property
    def command(self) -> str:
        """What to type to make this run, but for its masks; the command's defaults are those of the paper.

        >>> paper_run("vgg16").with_(channels_last=True, seed=2).command
        'sparseflow train images --network vgg16 --seed 2 --channels-last'
        """
        network = self.network if self.network in PAPER else "resnet50"
        return command("sparseflow train images", self, paper_run(network), always=("network",))

    @property
    def replaces_steps(self) -> bool:
        """Whether a mask update uses up a batch and takes no step."""
        return self.updates == "authors" and self.method in ("rigl", "rigl_inverted")

    @property
    def hash(self) -> str:
        """First 12 hex digits of SHA-256 over the fields that differ from their defaults.

        >>> ImageRun(seed=1).hash == ImageRun(seed=1).hash, ImageRun(seed=1).hash == ImageRun(seed=2).hash
        (True, False)
        """
        return hash_of(changed(self))

    @property
    def name(self) -> str:
        """Folder name of the run: readable first, unique by its hash."""
        init = f"-{self.init}" if self.method not in DENSE_METHODS | TICKET_METHODS else ""
        return f"{self.method}{init}-{self.network}-s{self.seed}-{self.hash}"

    def with_(self, **changes: Any) -> ImageRun:
        """A copy with some fields changed."""
        return replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """Plain nested dict, as stored in ``config.json``."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ImageRun:
        """Inverse of :meth:`to_dict`.

        >>> run = ImageRun(mask_from=ImageRun(method="prune", snapshots=(5,)))
        >>> ImageRun.from_dict(run.to_dict()) == run
        True
        """
        if unknown := sorted(set(values) - set(defaults_of(cls))):
            raise ValueError(f"the config has fields this version does not know: {', '.join(unknown)}.")
        parent = values.get("mask_from")
        nested = {
            "mask_from": None if parent is None else cls.from_dict(parent),
            "snapshots": tuple(values.get("snapshots", ())),
        }
        return cls(**{**values, **nested})


def pruning_parent(run: ImageRun) -> ImageRun:
    """The pruning run of the same seed and schedule, whose final masks a sparse run can start from.

    >>> parent = pruning_parent(ImageRun(method="rigl", init="liu", seed=3, drop_fraction=0.1))
    >>> changed(parent)
    {'method': 'prune', 'seed': 3}
    """
    # What a pruning run does not look at stays at its default, so that all methods share one pruning run.
    ignored = ("init", "drop_fraction", "update_until", "updates", "mask_from", "rewind_step")
    defaults = defaults_of(ImageRun)
    kept = (run.rewind_step,) if run.rewind_step else ()
    return run.with_(method="prune", snapshots=kept, **{name: defaults[name] for name in ignored})


#: Network -> what its runs have that differs from the defaults (protocol 0).
PAPER: dict[str, dict[str, Any]] = {
    "resnet50": {},
    "vgg16": {
        "steps": 128_000,
        "batch_size": 1024,
        "learning_rate": 0.04,
        "drop_fraction": 0.1,
        "update_every": 500,
    },
}


def paper_run(network: str, *, method: str = "rigl", init: str = "sparse", seed: int = 0) -> ImageRun:
    """A run of the paper on ImageNet.

    SET and RigL move masks as the authors' ImageNet code does; a pruning run prunes ResNet-50 from step 5000 to 8000,
    every 100 steps, since the printed period of 2000 cannot reach the sparsity (protocol D.4), and VGG16 in the same
    part of its training, which the paper does not print.

    Raises:
        ValueError: if there is no such network or method.

    Reference: protocol 0, C.4 and D.4.

    >>> run = paper_run("vgg16", method="set", init="liu")
    >>> run.steps * run.batch_size == ImageRun().steps * ImageRun().batch_size, run.learning_rate
    (True, 0.04)
    """
    if network not in PAPER:
        raise ValueError(f"network must be one of {', '.join(PAPER)}, got {network!r}.")
    run = ImageRun(network=network, method=method, init=init, seed=seed, updates="authors", **PAPER[network])
    share = run.steps // ImageRun().steps
    return run.with_(prune_begin=share * run.prune_begin, prune_end=share * run.prune_end)


def rescaled(run: ImageRun, *, steps: int, batch_size: int) -> ImageRun:
    """The same run on other steps, such as fewer and smaller: everything that is counted in steps goes with them.

    The learning rate goes with the batch (the authors' rule, protocol G.6), and masks change as often a run.

    >>> run = rescaled(paper_run("resnet50"), steps=320, batch_size=256)
    >>> run.learning_rate, run.update_every, run.update_until, run.prune_end
    (0.1, 1, 250, 80)
    """
    factor = steps / run.steps
    counted = ("update_until", "prune_begin", "prune_end")
    return run.with_(
        steps=steps,
        batch_size=batch_size,
        micro_batch=math.gcd(batch_size, run.micro_batch),
        learning_rate=run.learning_rate * batch_size / run.batch_size,
        update_every=max(1, round(run.update_every * factor)),
        **{name: round(getattr(run, name) * factor) for name in counted},
    )
