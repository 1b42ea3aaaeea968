"""One training on images, complete: the paper's ImageNet settings are the defaults and :func:`paper_run`."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import tyro

from sparseflow.init.schemes import SCHEMES
from sparseflow.masks.allocation import ALLOCATIONS
from sparseflow.networks import STEMS, networks_for
from sparseflow.ranges import Count, Fraction, FractionBelowOne, NotNegative, Positive, Seed, Sparsity, WholeNumber
from sparseflow.suggest import did_you_mean
from sparseflow.training.config import RunConfig
from sparseflow.training.names import METHODS
from sparseflow.training.naming import command, one_of
from sparseflow.training.optimizer import StepSchedule
from sparseflow.training.step import PRECISIONS

#: The rule for when masks change and whether that replaces a step (protocol C.3 and C.4).
UPDATE_VARIANTS = ("after_step", "authors")
#: Shares of zeros by layer; ``paper``: ERK for VGG16, uniform for ResNet-50 (protocol F).
MASK_ALLOCATIONS = ("paper", *ALLOCATIONS)


@dataclass(frozen=True, kw_only=True)
class ImageRun(RunConfig):
    """One training on colour images; the defaults are RigL on ResNet-50 and ImageNet (protocol 0).

    >>> ImageRun(batch_size=100, micro_batch=30)
    Traceback (most recent call last):
    ValueError: batch_size=100 does not divide into micro-batches of 30. For instance micro_batch=25 does.
    """

    logs_training_norm: ClassVar[bool] = True
    prunes_to_masks: ClassVar[bool] = True
    channels: ClassVar[int] = 3
    shared_with_parent: ClassVar[Collection[str]] = (
        "network", "width", "stem", "num_classes", "sparsity", "allocation", "block",
    )  # fmt: skip
    unused_by_pruning: ClassVar[Collection[str]] = ("drop_fraction", "update_until", "updates")

    dataset: str = "imagenet"
    """imagenet, imagenet-sample or cifar10."""
    image_size: Count = 224
    """Side of the crops, in pixels; 32 with the stem for CIFAR."""
    network: Annotated[str, one_of(networks_for(3))] = "resnet50"
    """Key of :data:`~sparseflow.networks.NETWORKS`."""
    width: Positive = 1.0
    """Factor of all channels."""
    stem: str = "imagenet"
    """imagenet, or cifar for images of 32x32."""
    num_classes: Count = 1000
    """Of the dataset."""
    method: Annotated[str, one_of(METHODS)] = "rigl"
    """Key of :data:`~sparseflow.training.names.METHODS`."""
    init: Annotated[str, one_of(SCHEMES, labels=True)] = "sparse"
    """Key of :data:`~sparseflow.init.schemes.SCHEMES`."""
    sparsity: Sparsity = 0.8
    """Zero fraction of masked weights."""
    allocation: str = "paper"
    """paper (VGG16: erk, ResNet-50: uniform), uniform, er or erk."""
    mask_from: Annotated[ImageRun | None, tyro.conf.Suppress] = None
    """The pruning run whose final masks this run starts from; None draws random masks."""
    rewind_step: WholeNumber = 0
    """Step of the pruning run whose weights a ticket takes."""
    seed: Seed = 0
    """Of everything random."""
    steps: Count = 32_000
    """Optimizer steps."""
    batch_size: Count = 4096
    """Images in a step, on all processes together."""
    micro_batch: Count = 128
    """Images that go through the network, and its batch norms, at once; the paper's TPU cores had 128."""
    learning_rate: Positive = 1.6
    """At the end of the warm-up."""
    momentum: FractionBelowOne = 0.9
    """Nesterov's."""
    weight_decay: NotNegative = 1e-4
    """Its value times w is the gradient on kernels: the penalty is wd * sum(w^2) / 2."""
    label_smoothing: FractionBelowOne = 0.1
    """Probability spread over all classes."""
    drop_fraction: Fraction = 0.3
    """Share of active weights swapped at an update, at step 0; cosine to 0 at the last."""
    update_every: Count = 100
    """Steps between mask updates; between prunings, for prune."""
    update_until: WholeNumber = 25_000
    """Last step of a mask update."""
    prune_begin: WholeNumber = 5000
    """First step that prunes (prune); the last is prune_end."""
    prune_end: WholeNumber = 8000
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
    log_every: Count = 100
    """Steps between gradient norms."""
    probe_images: Count = 256
    """First training images that gradient norms are of."""
    eval_every: Count = 2000
    """Steps between test evaluations."""
    checkpoint_every: Count = 1000
    """Steps between checkpoints."""
    snapshots: tyro.conf.Suppress[tuple[WholeNumber, ...]] = ()
    """Steps whose weights and masks are kept, beside the last."""
    block: str = "1x1"
    """Outputs x inputs of the masks' blocks, in layers that it divides; 4 is 4x1."""
    holdout: tyro.conf.Suppress[WholeNumber] = 0
    """Training images of 32x32 kept out of training, to select by."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.holdout and self.stem != "cifar":
            raise ValueError(f"holdout is for images of 32x32, which are in memory; stem is {self.stem!r}. Give 0.")
        if self.batch_size % self.micro_batch:
            fitting = max(size for size in range(1, self.micro_batch + 1) if self.batch_size % size == 0)
            raise ValueError(
                f"batch_size={self.batch_size} does not divide into micro-batches of {self.micro_batch}. For instance "
                f"micro_batch={fitting} does."
            )

    def choices(self) -> dict[str, Collection[str]]:
        """Field -> its possible values."""
        return {
            "network": networks_for(3),
            "stem": STEMS,
            "precision": PRECISIONS,
            "updates": UPDATE_VARIANTS,
            "allocation": MASK_ALLOCATIONS,
        }

    @property
    def command(self) -> str:
        """The command that makes this run, but for its masks; the command's defaults are those of the paper.

        >>> paper_run("vgg16").with_(channels_last=True, seed=2).command
        'sparseflow train images --network vgg16 --seed 2 --channels-last'
        """
        return command("sparseflow train images", self, usual_run(self.network), always=("network",))

    @property
    def learning_rates(self) -> StepSchedule:
        """The learning rate of every step."""
        return StepSchedule.of_paper(peak=self.learning_rate, steps=self.steps)


#: Network -> the settings of its runs that differ from the defaults (protocol 0).
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

    Args:
        network: ``"resnet50"`` or ``"vgg16"``.
        method, init: Keys of ``METHODS`` and ``SCHEMES``.
        seed: Of everything random.

    Raises:
        ValueError: if there is no such network or method.

    Reference: protocol 0, C.4 and D.4.

    >>> run = paper_run("vgg16", method="set", init="liu")
    >>> run.steps * run.batch_size == ImageRun().steps * ImageRun().batch_size, run.learning_rate
    (True, 0.04)
    """
    if network not in PAPER:
        raise ValueError(f"network must be one of {', '.join(PAPER)}, got {network!r}.{did_you_mean(network, PAPER)}")
    run = ImageRun(network=network, method=method, init=init, seed=seed, updates="authors", **PAPER[network])
    share = run.steps // ImageRun().steps
    return run.with_(prune_begin=share * run.prune_begin, prune_end=share * run.prune_end)


#: Network that the paper does not have -> the settings of its usual run: on CIFAR-10, 20 epochs of 128 images. Masks
#: move, and pruning begins, in the paper's shares of training; it ends later, at about half of it.
OWN: dict[str, dict[str, Any]] = {
    "resnet20": {
        "dataset": "cifar10",
        "image_size": 32,
        "stem": "cifar",
        "num_classes": 10,
        "sparsity": 0.9,
        "steps": 7800,
        "batch_size": 128,
        "micro_batch": 128,
        "learning_rate": 0.1,
        "label_smoothing": 0.0,
        "update_every": 100,
        "update_until": 6100,
        "prune_begin": 1200,
        "prune_end": 3700,
        "engine": "auto",
        "log_every": 50,
        "probe_images": 128,
        "eval_every": 780,
        "checkpoint_every": 390,
    },
}


def usual_run(network: str) -> ImageRun:
    """The run that ``sparseflow train images --network`` makes where nothing else is given.

    Args:
        network: Key of :data:`~sparseflow.networks.NETWORKS`; one that has no settings takes those of ResNet-50.

    >>> usual_run("resnet20").dataset, usual_run("vgg16") == paper_run("vgg16")
    ('cifar10', True)
    """
    if network in PAPER:
        return paper_run(network)
    return ImageRun(network=network, **OWN[network]) if network in OWN else paper_run("resnet50")


def rescaled(run: ImageRun, *, steps: int, batch_size: int) -> ImageRun:
    """The same run with another number and size of steps; everything that is counted in steps is scaled.

    The learning rate is scaled with the batch (the authors' rule, protocol G.6); the number of mask updates stays.

    Args:
        run: The run.
        steps: Optimizer steps of the new one.
        batch_size: Images in each.

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
