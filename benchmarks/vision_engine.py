"""Time of a VGG16 step on images of 32x32 in the sparse engine over the same step in masked torch, and both losses."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.engine_timing import compare
from benchmarks.result import Benchmark, Case, Failure
from sparseflow.data import IMAGENET, RandomResizedCrop, image_batches, normalise, open_images
from sparseflow.training.images import ImageRun
from sparseflow.training.loop import stepper_of
from sparseflow.training.ranks import Ranks
from sparseflow.training.setup import set_up

SPARSITIES, WIDTHS = (0.8, 0.9, 0.95), (3 / 16, 1 / 4, 1 / 2)
BATCH, CLASSES, STEPS = 128, 10, 20
#: What the losses of 20 steps in float64 may differ by, as a share of themselves: the engine adds in another order. In
#: float32 training makes more of that.
TOLERANCE = 1e-12
Batch = tuple[Tensor, Tensor]
#: One step, by its number and its batch; the loss before it.
StepFn = Callable[[int, Batch], float]


def _run(data: Path, smoke: bool) -> Iterator[Case | Failure]:
    batch, steps = (8, 3) if smoke else (BATCH, STEPS)
    source, crop = open_images(data, "validation"), RandomResizedCrop(size=32)
    batches = [
        (normalise(images, IMAGENET).contiguous(), labels % CLASSES)
        for images, labels in image_batches(source, crop, batch_size=batch, seed=0, steps=steps)
    ]
    for sparsity in SPARSITIES[-1:] if smoke else SPARSITIES:
        for width in (1 / 16,) if smoke else WIDTHS:
            run = ImageRun(
                network="vgg16", stem="cifar", width=width, sparsity=sparsity, method="scratch", num_classes=CLASSES,
                image_size=32, batch_size=batch, micro_batch=batch, steps=10 * steps, learning_rate=0.04,
                label_smoothing=0.0,
            )  # fmt: skip
            yield from _compared(run, batches, smoke=smoke)


def _compared(run: ImageRun, batches: list[Batch], *, smoke: bool) -> Iterator[Case | Failure]:
    row = f"{run.sparsity:.0%}, width {run.width:g}"
    pair = run.with_(engine="sparse"), run
    exact, _ = _difference([stepper(one, dtype=torch.float64) for one in pair], [(x.double(), y) for x, y in batches])
    if not exact <= TOLERANCE:
        yield Failure(label=row, error=f"losses in float64 differ by {exact:.1e} of themselves", counts=True)
    sparse, masked = (stepper(one) for one in pair)
    difference, losses = _difference([sparse, masked], batches)
    (images, labels) = batch = batches[0]
    last = images.contiguous(memory_format=torch.channels_last), labels
    step = len(batches)
    baselines = {
        "contiguous": partial(masked, step, batch),
        "channels_last": partial(stepper(run.with_(channels_last=True)), step, last),
    }
    configuration = {
        "model": "VGG16", "width": run.width, "sparsity": run.sparsity, "allocation": "erk", "pixels": 32,
        "batch": run.batch_size, "optimizer": "SGD, Nesterov momentum 0.9, weight decay 1e-4", "steps": len(losses),
        "losses": {"sparse": [ours for ours, _ in losses], "masked": [theirs for _, theirs in losses]},
        "largest_relative_difference": {"float64": exact, "float32": difference}, "tolerance_float64": TOLERANCE,
    }  # fmt: skip
    yield from compare(row, partial(sparse, step, batch), baselines, configuration, smoke=smoke)


def _difference(steps: Sequence[StepFn], batches: list[Batch]) -> tuple[float, list[tuple[float, float]]]:
    """The largest relative difference between two runs' losses, and the losses."""
    first, second = steps
    losses = [(first(number, batch), second(number, batch)) for number, batch in enumerate(batches)]
    return max(abs(ours - theirs) / abs(theirs) for ours, theirs in losses), losses


def stepper(run: ImageRun, *, dtype: torch.dtype = torch.float32) -> StepFn:
    """A function that takes the first steps of a run as :func:`sparseflow.training.loop.train_images` does."""
    trainer = set_up(run, Ranks())
    trainer.sparsifier.model.to(dtype)
    engine = stepper_of(run, trainer)

    def step(number: int, batch: Batch) -> float:
        if not engine.is_sparse:
            return trainer.step(number, [batch])
        trainer.schedule.set_(trainer.optimizer, number)
        return engine.step(*batch, torch.arange(len(batch[1])))

    return step


def benchmark(data: Path) -> Benchmark:
    """The benchmark of the engine, on the images in a folder."""
    return Benchmark(
        name="vision_engine",
        what=f"training step with optimizer, VGG16 on 32x32, batch {BATCH}, 80 to 95% sparse: engine / masked torch",
        reach=1.0,
        run=partial(_run, data),
        speedup=True,
    )
