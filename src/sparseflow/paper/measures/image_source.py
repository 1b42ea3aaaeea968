"""Where measurements find weights, networks and batches of image runs."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from sparseflow.data import DecodedImages
from sparseflow.gradients import trainable
from sparseflow.networks import NETWORKS
from sparseflow.rng import stream
from sparseflow.training.datasets import load_images
from sparseflow.training.images import ImageRun
from sparseflow.training.ranks import Ranks
from sparseflow.training.runs import read_snapshot
from sparseflow.training.setup import dense_network, set_up, start_of
from sparseflow.training.streams import Batch, first_images, plain_batches, preparation

_CPU = torch.device("cpu")


def image_start(run: ImageRun, *, root: Path) -> dict[str, Tensor]:
    """Weights and buffers of a run at step 0, on the CPU, zero off its masks."""
    trainer = set_up(run, Ranks(), start=start_of(run, root=root))
    return {name: value.cpu() for name, value in trainer.sparsifier.model.state_dict().items()}


def image_end(run: ImageRun, *, root: Path) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Weights and buffers of a finished run, zero off its masks, and the masks."""
    kept = read_snapshot(run, run.steps, root=root)
    return kept["model"], kept["masks"]


def image_network(run: ImageRun) -> nn.Sequential:
    """The run's network, in its memory format; with whatever weights."""
    model = dense_network(run)
    if run.channels_last:
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return model


def parameter_names(run: ImageRun) -> list[str]:
    """What of a run's state is trained: not the running statistics of batch norms.

    >>> parameter_names(ImageRun(network="resnet14", width=1 / 16))[:3]
    ['conv1.weight', 'norm1.weight', 'norm1.bias']
    """
    with torch.device("meta"):
        model = NETWORKS[run.network].build(run.num_classes, width=run.width, stem=run.stem)
    return list(trainable(model))


def image_training_batches(run: ImageRun, examples: int | None, *, data_root: Path | None) -> list[Batch]:
    """So many fixed training images, the same for every run, or all; normalised and not augmented."""
    images = load_images(run, root=data_root)[0]
    count = len(images.labels) if examples is None else examples
    if isinstance(images, DecodedImages) and count < len(images.labels):
        chosen = torch.randperm(len(images.labels), generator=stream(0, "measured images"))[:count]
        images = images._replace(images=images.images[chosen], labels=images.labels[chosen])
    return list(map(preparation(run, _CPU), first_images(plain_batches(images, run), count)))


def image_test_batches(run: ImageRun, *, data_root: Path | None) -> list[Batch]:
    """All test images, normalised."""
    return list(map(preparation(run, _CPU), plain_batches(load_images(run, root=data_root)[1], run)))
