"""One training on images, complete: the paper's ImageNet settings are the defaults and :func:`paper_run`."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any

from sparseflow.initialize import SCHEMES
from sparseflow.vision.networks import NETWORKS, STEMS
from sparseflow.vision.step import PRECISIONS

#: ``prune`` begins dense; ``dense`` stays so; the others begin with random masks.
METHODS = ("dense", "scratch", "set", "rigl", "rigl_inverted", "prune")
#: Who decides when masks change and whether that replaces a step (protocol C.3 and C.4).
UPDATE_VARIANTS = ("after_step", "authors")
_CHOICES: dict[str, Collection[str]] = {
    "network": NETWORKS,
    "stem": STEMS,
    "method": METHODS,
    "init": SCHEMES,
    "precision": PRECISIONS,
    "updates": UPDATE_VARIANTS,
}


@dataclass(frozen=True, kw_only=True)
class ImageRun:
    """What is trained, and how; the defaults are RigL on ResNet-50 and ImageNet (protocol 0).

    >>> ImageRun(batch_size=100, micro_batch=30)
    Traceback (most recent call last):
    ValueError: batch_size=100 does not divide into micro-batches of 30. For instance micro_batch=25 does.
    """

    network: str = "resnet50"
    """vgg16 or resnet50."""
    width: float = 1.0
    """Factor of all channels."""
    stem: str = "imagenet"
    """imagenet, or cifar for images of 32x32."""
    num_classes: int = 1000
    """Of the dataset."""
    method: str = "rigl"
    """dense, scratch, set, rigl, rigl_inverted or prune."""
    init: str = "sparse"
    """dense (Original), liu, sparse (Ours) or live."""
    sparsity: float = 0.8
    """Zero fraction of masked weights."""
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

    def __post_init__(self) -> None:
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} must be one of {', '.join(choices)}, got {getattr(self, name)!r}.")
        if not 0 <= self.sparsity < 1:
            raise ValueError(f"sparsity must be in [0, 1), got {self.sparsity!r}. For 80% zeros write 0.8, not 80.")
        for name in ("num_classes", "steps", "batch_size", "micro_batch", "update_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)!r}.")
        if self.batch_size % self.micro_batch:
            fitting = max(size for size in range(1, self.micro_batch + 1) if self.batch_size % size == 0)
            raise ValueError(
                f"batch_size={self.batch_size} does not divide into micro-batches of {self.micro_batch}. For instance "
                f"micro_batch={fitting} does."
            )

    @property
    def micro_batches(self) -> int:
        """In a step, on all processes together."""
        return self.batch_size // self.micro_batch

    @property
    def replaces_steps(self) -> bool:
        """Whether a mask update uses up a batch and takes no step."""
        return self.updates == "authors" and self.method in ("rigl", "rigl_inverted")

    def with_(self, **changes: Any) -> ImageRun:
        """A copy with some fields changed."""
        return replace(self, **changes)


#: Network -> what its runs have that differs from the defaults (protocol 0).
_PAPER: dict[str, dict[str, Any]] = {
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
    if network not in _PAPER:
        raise ValueError(f"network must be one of {', '.join(_PAPER)}, got {network!r}.")
    run = ImageRun(network=network, method=method, init=init, seed=seed, updates="authors", **_PAPER[network])
    share = run.steps // ImageRun().steps
    return run.with_(prune_begin=share * run.prune_begin, prune_end=share * run.prune_end)


def shortened(run: ImageRun, *, steps: int, batch_size: int) -> ImageRun:
    """The same run on fewer and smaller steps: everything that is counted in steps shrinks with them.

    The learning rate shrinks with the batch (the authors' rule, protocol G.6), and masks change as often a run.

    >>> run = shortened(paper_run("resnet50"), steps=320, batch_size=256)
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
