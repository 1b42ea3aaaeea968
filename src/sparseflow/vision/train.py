"""The loop: batches in, steps taken, what is logged out; the same for one process and for many."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from sparseflow.analysis.flow import gradient_flow
from sparseflow.gradients import undisturbed
from sparseflow.masks import sparsity_of
from sparseflow.vision.config import ImageRun
from sparseflow.vision.data import (
    CIFAR10,
    IMAGENET,
    CentreCrop,
    ImageSource,
    PadCropFlip,
    RandomResizedCrop,
    Unchanged,
    evaluation_batches,
    image_batches,
    normalise,
)
from sparseflow.vision.ranks import Ranks
from sparseflow.vision.setup import batches_of, set_up_images
from sparseflow.vision.step import Trainer, training_norm

#: Called with the steps taken and what was measured then, on rank 0 alone.
Log = Callable[[int, Mapping[str, float]], None]


def train_images(
    run: ImageRun,
    training: ImageSource,
    test: ImageSource,
    *,
    trainer: Trainer | None = None,
    log: Log,
    image_size: int = 224,
    log_every: int = 100,
    eval_every: int | None = None,
    probe_images: int = 256,
    workers: int = 0,
) -> Trainer:
    """Train a run to its end.

    Logged every ``log_every`` steps, before the step: ``train/loss`` (smoothed, of the batch), ``gradient/training``
    (of the training batch with L2, the authors' way on ImageNet), ``gradient/clean`` (of fixed training images in plain
    cross-entropy, active weights only). At the end, and every ``eval_every`` steps: ``test/accuracy``, ``test/loss``.

    Args:
        run: What to train.
        training, test: Images, see :func:`sparseflow.vision.data.open_images`.
        trainer: The run at step 0, of :func:`.set_up_images`; default on this process alone.
        log: Where measurements go.
        image_size: Of the crops, in pixels; ignored with the CIFAR stem, which takes 32.
        log_every, eval_every: In steps; no evaluation before the end by default.
        probe_images: First training images that ``gradient/clean`` is about, not augmented (paper, on MNIST: 1000).
        workers: Processes that decode images, for each rank.

    Returns: the trainer, at the end.

    Raises:
        ValueError: if a dataset has other classes than the run.
        FloatingPointError: if the loss is no longer finite.
    """
    for source in (training, test):
        if (found := int(source.labels.max()) + 1) > run.num_classes:
            raise ValueError(f"the images have {found} classes, the run {run.num_classes}. Give num_classes={found}.")
    trainer = trainer or set_up_images(run, Ranks())
    ranks, cifar = trainer.ranks, run.stem == "cifar"
    augment = PadCropFlip() if cifar else RandomResizedCrop(size=image_size)
    plain = Unchanged() if cifar else CentreCrop(size=image_size)
    each = run.micro_batches // ranks.world
    prepare = _preparation(run, trainer)
    stream = image_batches(
        training,
        augment,
        batch_size=run.batch_size,
        seed=run.seed,
        steps=batches_of(run),
        rank=ranks.rank,
        world=ranks.world,
        accumulation=each,
        workers=workers,
    )
    probe = [prepare(batch) for batch in _first(evaluation_batches(training, plain, batch_size=64), probe_images)]
    model = trainer.sparsifier.model
    names = {parameter: name for name, parameter in model.named_parameters()}
    micro_batches = iter(stream)

    def tell(step: int, values: Mapping[str, float]) -> None:
        if ranks.is_first:
            log(step, values)

    while (step := trainer.sparsifier.step_count) < run.steps:
        local = [prepare(next(micro_batches)) for _ in range(each)]
        is_logged = step % log_every == 0
        if is_logged:
            clean = gradient_flow(model, F.cross_entropy, probe, trainer.sparsifier.masks)
            tell(step, {"gradient/clean": clean.norm})
        loss = trainer.backward(step, local)
        if is_logged:
            norm = training_norm(trainer.optimizer, names=names, masks=trainer.sparsifier.masks)
            tell(step, {"train/loss": loss, "gradient/training": norm})
        trainer.update()
        taken = trainer.sparsifier.step_count
        if taken == run.steps or (eval_every and taken % eval_every == 0 and taken > step):
            batches = evaluation_batches(test, plain, batch_size=run.micro_batch, rank=ranks.rank, world=ranks.world)
            tell(taken, evaluate(trainer, (prepare(batch) for batch in batches)))
    trainer.sparsifier.check()
    tell(run.steps, {"sparsity": sparsity_of(trainer.sparsifier.masks)})
    return trainer


def evaluate(trainer: Trainer, batches: Iterable[tuple[Tensor, Tensor]]) -> dict[str, float]:
    """Accuracy in [0, 1] and mean cross-entropy in nats over the batches of all ranks, in eval mode."""
    sums = torch.zeros(3, dtype=torch.float64, device=trainer.ranks.device)
    model = trainer.sparsifier.model
    together = _together(batches, trainer.ranks) if trainer.is_cut else ((*batch, True) for batch in batches)
    with torch.no_grad(), undisturbed(model, training=False):
        for images, labels, is_counted in together:
            logits = model(images).float()
            if is_counted:
                sums[0] += (logits.argmax(dim=1) == labels).sum()
                sums[1] += F.cross_entropy(logits, labels, reduction="sum")
                sums[2] += len(labels)
    trainer.ranks.sum_(sums)
    right, loss, count = sums.tolist()
    return {"test/accuracy": right / count, "test/loss": loss / count}


def _together(batches: Iterable[tuple[Tensor, Tensor]], ranks: Ranks) -> Iterator[tuple[Tensor, Tensor, bool]]:
    """As many batches on every rank as the one with the most has: its last one again, and whether one counts."""
    remaining = iter(batches)
    last = next(remaining, None)
    without = torch.tensor(int(last is None), device=ranks.device)
    ranks.sum_(without)
    if without or last is None:
        raise ValueError(f"{int(without)} of {ranks.world} processes have no test image; FSDP needs one for each.")
    batch: tuple[Tensor, Tensor] | None = last
    while True:
        with_more = torch.tensor(int(batch is not None), device=ranks.device)
        ranks.sum_(with_more)
        if not with_more:
            return
        last = batch or last
        yield *last, batch is not None
        batch = next(remaining, None)


def _preparation(run: ImageRun, trainer: Trainer) -> Callable[[tuple[Tensor, Tensor]], tuple[Tensor, Tensor]]:
    statistics = CIFAR10 if run.stem == "cifar" else IMAGENET
    device = trainer.ranks.device
    layout = torch.channels_last if run.channels_last else torch.contiguous_format

    def prepare(batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        images, labels = (tensor.to(device, non_blocking=True) for tensor in batch)
        return normalise(images, statistics).contiguous(memory_format=layout), labels

    return prepare


def _first(batches: Iterable[tuple[Tensor, Tensor]], count: int) -> Iterator[tuple[Tensor, Tensor]]:
    for images, labels in batches:
        if count <= 0:
            return
        yield images[:count], labels[:count]
        count -= len(labels)
