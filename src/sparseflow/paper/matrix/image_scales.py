"""The scales of the paper's ImageNet half: on ImageNet itself, on CIFAR-10 with narrow networks, and a few steps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

from sparseflow.paper.matrix.cifar import ImageGroups, image_groups
from sparseflow.paper.matrix.imagenet import imagenet_groups
from sparseflow.paper.matrix.smoke import smoke_groups


@dataclass(frozen=True, kw_only=True)
class ImageScale:
    """Which groups of image runs there are, and what they are trained on."""

    name: str
    dataset: str
    """Key of :data:`~sparseflow.training.datasets.IMAGE_DATASETS`."""
    in_words: str
    """The dataset, and how much of it is trained on."""
    make: Callable[..., ImageGroups]
    """Takes ``seeds``."""
    machine: Literal["core", "device"]
    """What the cost is told of: one processor core, or one GPU."""
    collapse_percent: float
    """A run that ends below this test accuracy did not learn; a little above guessing."""
    is_judged: bool = True
    """Whether claims are judged from it."""
    seeds: int | None = None
    """Repetitions; ``None``: the recipe's own."""

    @cached_property
    def groups(self) -> ImageGroups:
        """Name of a group -> its runs.

        >>> len(IMAGE_SCALES["cifar"].with_seeds(2).groups["resnet14/prune"])
        2
        """
        return self.make() if self.seeds is None else self.make(seeds=self.seeds)

    def with_seeds(self, seeds: int) -> ImageScale:
        """As many repetitions of every cell.

        Raises:
            ValueError: if it is none.
        """
        if seeds < 1:
            raise ValueError(f"seeds must be at least 1, got {seeds}.")
        return replace(self, seeds=seeds)


IMAGE_SCALES = {
    scale.name: scale
    for scale in (
        ImageScale(
            name="smoke",
            dataset="imagenet-sample",
            in_words="a thousand images of ImageNet, 64 pixels wide",
            make=smoke_groups,
            machine="core",
            collapse_percent=0.0,
            is_judged=False,
        ),
        ImageScale(
            name="cifar",
            dataset="cifar10",
            in_words="CIFAR-10, 50,000 training and 10,000 test images",
            make=image_groups,
            machine="core",
            collapse_percent=12.0,
        ),
        ImageScale(
            name="imagenet",
            dataset="imagenet",
            in_words="ImageNet, 1.28 million training and 50,000 validation images",
            make=imagenet_groups,
            machine="device",
            collapse_percent=1.0,
        ),
    )
}
