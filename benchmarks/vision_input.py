"""Images per second on one core: a training run's input over a bare Pillow loop that makes the same pixels.

The time is the process's own CPU time, since reading waits for nothing: other load on the machine hardly changes it.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from benchmarks.engine_timing import torch_threads
from benchmarks.result import Benchmark, Case, Failure
from benchmarks.timing import Timings, alternate
from sparseflow.data import (
    ImageSource,
    RandomResizedCrop,
    global_batch,
    image_batches,
    open_images,
    random_resized_crop_box,
    uniforms,
)

#: The most frequent size in ImageNet's training set, and the encoding of most of its photographs.
WIDTH, HEIGHT, QUALITY = 500, 375, 90
SIZE, BATCH, SEED = 224, 50, 0


@dataclass(frozen=True)
class Enlarged:
    """A source's images at ImageNet's size, encoded in memory."""

    labels: Tensor
    classes: tuple[str, ...]
    files: tuple[bytes, ...]

    def __len__(self) -> int:
        return len(self.files)

    def encoded(self, index: int) -> bytes:
        """Bytes of the file."""
        return self.files[index]

    def name(self, index: int) -> str:
        """Number of the image, as text."""
        return str(index)


def enlarged(source: ImageSource, count: int) -> Enlarged:
    """The first images, resized and encoded as JPEG again."""
    return Enlarged(source.labels[:count], source.classes, tuple(_larger(source.encoded(i)) for i in range(count)))


def _larger(encoded: bytes) -> bytes:
    file = io.BytesIO()
    image = Image.open(io.BytesIO(encoded)).convert("RGB").resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)
    image.save(file, "JPEG", quality=QUALITY)
    return file.getvalue()


def bare(files: list[bytes], boxes: list[tuple[int, int, int, int]], flips: list[bool]) -> list[NDArray[np.uint8]]:
    """The same images by a plain loop with all crop boxes given: Pillow's fastest way to these pixels."""
    found = []
    for encoded, box, flip in zip(files, boxes, flips, strict=True):
        image = Image.open(io.BytesIO(encoded)).convert("RGB").crop(box).resize((SIZE, SIZE), Image.Resampling.BICUBIC)
        if flip:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        found.append(np.asarray(image))
    return found


def _run(data: Path, smoke: bool) -> Iterator[Case | Failure]:
    sample = open_images(data, "validation")
    count = min(100 if smoke else 500, len(sample))
    yield from _compared(f"JPEGs of {WIDTH}x{HEIGHT}", enlarged(sample, count), smoke=smoke)
    yield from _compared("JPEGs of the sample", sample, smoke=smoke, counts=False)


def _compared(label: str, source: ImageSource, *, smoke: bool, counts: bool = True) -> Iterator[Case | Failure]:
    """Times of both ways in turns of one batch, on the same images; the pixels are compared too."""
    repeats, transform = 2 if smoke else 25, RandomResizedCrop(size=SIZE)
    batches = iter(image_batches(source, transform, batch_size=BATCH, seed=SEED, steps=10 * repeats))
    next(batches)  # files are opened
    ours: list[Any] = []

    def subject() -> float:
        return _core_seconds(lambda: ours.append(next(batches)[0]))

    bare_turns = iter(range(1, 10 * repeats))
    theirs: list[Any] = []

    def baseline() -> float:
        positions = global_batch(next(bare_turns), size=len(source), batch_size=BATCH, seed=SEED)
        pairs = zip(positions.epochs.tolist(), positions.indices.tolist(), strict=True)
        draws = [uniforms(SEED, epoch, index, transform.num_draws) for epoch, index in pairs]
        files = [source.encoded(index) for index in positions.indices.tolist()]
        sizes = [Image.open(io.BytesIO(encoded)).size for encoded in files]
        boxes = [random_resized_crop_box(*size, draw[1:]) for size, draw in zip(sizes, draws, strict=True)]
        flips = [bool(draw[0] < 0.5) for draw in draws]
        return _core_seconds(lambda: theirs.append(bare(files, boxes, flips)))

    with torch_threads(1):
        timings = alternate(subject, baseline, repeats=repeats, tolerance=0.02)
    same = all(
        np.array_equal(np.stack(bare_pixels), pixels.permute(0, 2, 3, 1).numpy())
        for pixels, bare_pixels in zip(ours, theirs, strict=True)
    )
    if not same:
        yield Failure(label=label, error="the bare loop makes other pixels", counts=True)
    per_image = Timings([s / BATCH for s in timings.subject], [s / BATCH for s in timings.baseline])
    configuration = {
        "images": len(source), "batch": BATCH, "crop": SIZE, "workers": 0, "threads": 1, "same_pixels": same,
        "filter": "bicubic, as the paper's", "bytes": sum(len(source.encoded(i)) for i in range(BATCH)) / BATCH,
        "made": f"enlarged in memory, JPEG quality {QUALITY}" if counts else "as they are",
    }  # fmt: skip
    yield Case(label=label, configuration=configuration, timings=per_image, counts=counts, unit="seconds_per_image")


def _core_seconds(run: Callable[[], object]) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start


def benchmark(data: Path) -> Benchmark:
    """The benchmark of the input, on the images in a folder."""
    return Benchmark(
        name="vision_input",
        what="input on one core: images a second of decode + random crop 224 / a bare Pillow loop",
        reach=1 / 0.9,
        run=partial(_run, data),
        speedup=True,
    )
