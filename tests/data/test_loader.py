"""The same pixels for any number of workers and ranks and after a resume; broken images counted, named and replaced."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from sparseflow.data import (
    CentreCrop,
    ImageBatches,
    PadCropFlip,
    RandomResizedCrop,
    Unchanged,
    UnreadableImageWarning,
    decode,
    decode_all,
    decoded_batches,
    evaluation_batches,
    global_batch,
    image_batches,
    uniforms,
)

SIZE = 20  # images in the dataset
CROP = RandomResizedCrop(size=12)


def png(number: int) -> bytes:
    pixels = np.random.default_rng(number).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


@dataclass
class Memory:
    """An image source of files in memory; the label of image i is i."""

    files: list[bytes]
    labels: Tensor = field(default_factory=lambda: torch.arange(SIZE))
    classes: tuple[str, ...] = tuple(map(str, range(SIZE)))

    def __len__(self) -> int:
        return len(self.files)

    def encoded(self, index: int) -> bytes:
        return self.files[index]

    def name(self, index: int) -> str:
        return f"image {index}"


@pytest.fixture
def source() -> Memory:
    return Memory([png(number) for number in range(SIZE)])


def training(source: Memory, **options: Any) -> ImageBatches:
    return image_batches(source, CROP, **{"batch_size": 8, "seed": 0, "steps": 5} | options)


def same(first: list[tuple[Tensor, Tensor]], second: list[tuple[Tensor, Tensor]]) -> bool:
    assert len(first) == len(second) > 0
    return all(torch.equal(a, c) and torch.equal(b, d) for (a, b), (c, d) in zip(first, second, strict=True))


def test_batches_are_the_order_and_the_transform_and_nothing_else(source: Memory) -> None:
    for step, (images, labels) in enumerate(training(source)):
        epochs, indices = global_batch(step, size=SIZE, batch_size=8, seed=0)
        assert images.dtype == torch.uint8
        assert images.shape == (8, 3, 12, 12)
        assert images.is_contiguous(memory_format=torch.channels_last)
        assert torch.equal(labels, indices)
        for image, epoch, index in zip(images, epochs.tolist(), indices.tolist(), strict=True):
            expected = CROP(decode(source.files[index]), uniforms(0, epoch, index, CROP.num_draws))
            assert (image.permute(1, 2, 0).numpy() == expected).all()


@pytest.mark.parametrize(("workers", "method"), [(1, "fork"), (2, "fork"), (1, "spawn")])
def test_any_number_of_workers_gives_the_same_pixels(source: Memory, workers: int, method: str) -> None:
    assert same(list(training(source)), list(training(source, workers=workers, start_method=method)))


def test_two_ranks_share_the_batch_of_one(source: Memory) -> None:
    halves = [list(training(source, rank=rank, world=2)) for rank in range(2)]
    joined = [(torch.cat([a, c]), torch.cat([b, d])) for (a, b), (c, d) in zip(*halves, strict=True)]
    assert same(list(training(source)), joined)
    quarters = list(training(source, accumulation=4))
    assert [len(labels) for _, labels in quarters] == [2] * 20
    assert len(training(source, accumulation=4)) == 20
    assert torch.equal(torch.cat([images for images, _ in quarters[:4]]), next(iter(training(source)))[0])


def test_resuming_goes_on_where_the_run_stopped(source: Memory) -> None:
    whole = list(training(source, workers=1))
    assert same(whole[3:], list(training(source, start_step=3)))
    assert list(training(source, start_step=5)) == []


def test_seed_and_epoch_change_pixels(source: Memory) -> None:
    first, other = list(training(source)), list(training(source, seed=1))
    assert not any(torch.equal(a, b) for (a, _), (b, _) in zip(first, other, strict=True))
    seen: dict[int, list[Tensor]] = {index: [] for index in range(SIZE)}
    for images, labels in first:
        for image, label in zip(images, labels.tolist(), strict=True):
            seen[label].append(image)
    # 40 images out of 20: each once in both epochs, cropped anew.
    assert all(len(pair) == 2 and not torch.equal(*pair) for pair in seen.values())


@pytest.mark.parametrize("workers", [0, 1])
def test_global_random_state_stays(source: Memory, workers: int) -> None:
    before, before_numpy = torch.get_rng_state(), np.random.get_state()[1].copy()  # type: ignore[index,union-attr]
    list(training(source, workers=workers))
    assert torch.equal(torch.get_rng_state(), before)
    assert (np.random.get_state()[1] == before_numpy).all()  # type: ignore[index]


def test_evaluation_sees_every_image_once_in_order(source: Memory) -> None:
    transform = CentreCrop(size=10)
    for world in (1, 2, 3):
        parts = [list(evaluation_batches(source, transform, batch_size=4, rank=r, world=world)) for r in range(world)]
        labels = torch.cat([labels for part in parts for _, labels in part])
        assert labels.tolist() == list(range(SIZE))
    images = torch.cat([images for images, _ in evaluation_batches(source, transform, batch_size=7, workers=1)])
    for image, content in zip(images, source.files, strict=True):
        assert (image.permute(1, 2, 0).numpy() == transform(decode(content), np.empty(0))).all()


def test_more_ranks_than_images(source: Memory) -> None:
    parts = [list(evaluation_batches(source, Unchanged(size=16), batch_size=4, rank=r, world=30)) for r in range(30)]
    assert sum(len(labels) for part in parts for _, labels in part) == SIZE


# Broken images


def broken_source(*broken: int) -> Memory:
    return Memory([png(number)[:60] if number in broken else png(number) for number in range(SIZE)])


@pytest.mark.parametrize("workers", [0, 2])
def test_broken_images_are_replaced_by_the_next_that_can_be_read(source: Memory, workers: int) -> None:
    batches = training(broken_source(4, 5, 19), workers=workers)
    stand_in = {4: 6, 5: 6, 19: 0}
    with pytest.warns(UnreadableImageWarning, match="the next image that can be read stands for it") as warned:
        replaced = [*batches, *batches][: len(batches)]  # each is named once
    named = sorted(str(one.message).split(" cannot be read (")[0] for one in warned)
    for step, ((images, labels), (whole, _)) in enumerate(zip(replaced, training(source), strict=True)):
        epochs, indices = global_batch(step, size=SIZE, batch_size=8, seed=0)
        for image, label, other, epoch, index in zip(
            images, labels.tolist(), whole, epochs.tolist(), indices.tolist(), strict=True
        ):
            assert label == stand_in.get(index, index)
            if index in stand_in:  # its content, with the draws of the place it takes
                draws = uniforms(0, epoch, index, CROP.num_draws)
                assert (image.permute(1, 2, 0).numpy() == CROP(decode(source.files[label]), draws)).all()
            else:
                assert torch.equal(image, other)
    assert sorted(batches.broken) == named == ["image 19", "image 4", "image 5"]
    assert all("truncated" in reason or "broken" in reason for reason in batches.broken.values())


@pytest.mark.filterwarnings("ignore::sparseflow.data.UnreadableImageWarning")
@pytest.mark.parametrize("workers", [0, 1])
def test_too_many_broken_images_are_one_error(workers: int) -> None:
    assert len(list(training(broken_source(1, 2, 3), max_broken=3, workers=workers))) == 5
    with pytest.raises(RuntimeError, match=r"images are broken, more than max_broken=2. The first: image \d+: .*Fetch"):
        list(training(broken_source(1, 2, 3), max_broken=2, workers=workers))
    with pytest.raises(RuntimeError, match="more than max_broken=10"):
        list(training(broken_source(*range(SIZE)), workers=workers))


@pytest.mark.filterwarnings("ignore::sparseflow.data.UnreadableImageWarning")
def test_nothing_readable_in_a_small_dataset() -> None:
    source = Memory([b"", b""], torch.arange(2))
    with pytest.raises(RuntimeError, match=r"cannot read image [01]: BrokenImageError: nor can the 1 images after it"):
        list(training(source))


def test_evaluation_leaves_broken_images_out() -> None:
    batches = evaluation_batches(broken_source(0, 1, 6), Unchanged(size=16), batch_size=2)
    with pytest.warns(UnreadableImageWarning, match=r"cannot be read \(.*\): it is left out. More than 10 are an"):
        assert [labels.tolist() for _, labels in batches][:3] == [[2, 3], [4, 5], [7]]
    assert list(batches.broken) == ["image 0", "image 1", "image 6"]


class Unreadable(Memory):
    def encoded(self, index: int) -> bytes:
        if index == 3:
            raise PermissionError(13, "Permission denied")
        return super().encoded(index)


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_in_a_worker_is_one_clear_error(source: Memory, workers: int) -> None:
    with pytest.raises(RuntimeError, match=r"^cannot read image 3: PermissionError: \[Errno 13\] Permission denied$"):
        list(training(Unreadable(source.files), workers=workers))
    with pytest.raises(
        RuntimeError, match=r"^cannot read image 0: ValueError: the image has 16 x 16 pixels, not 32 x 32"
    ):
        decode_all(source, workers=workers)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"start_step": 6}, r"start_step must be in \[0, steps\], got start_step=6 and steps=5"),
        ({"rank": 1}, "rank must be in"),
        ({"world": 3}, "does not divide"),
    ],
)
def test_wrong_numbers(source: Memory, options: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        training(source, **options)


def test_wrong_numbers_of_an_evaluation(source: Memory) -> None:
    with pytest.raises(ValueError, match=r"rank must be in \[0, world\) and batch_size at least 1; got rank=2"):
        evaluation_batches(source, CentreCrop(), batch_size=4, rank=2, world=2)


# In memory


def test_images_in_memory_give_the_same_batches_as_files() -> None:
    source = broken_source(7)
    transform = PadCropFlip(size=16, padding=4)
    with pytest.warns(UnreadableImageWarning, match="image 7 cannot be read"):
        decoded = decode_all(source, size=16)
    assert decoded.stand_ins == (7,)
    assert list(decoded.broken) == ["image 7"]
    assert decoded.labels[6:9].tolist() == [6, 8, 8]
    numbers: dict[str, Any] = {"batch_size": 8, "seed": 3, "steps": 6, "start_step": 1, "rank": 1, "world": 2}
    with pytest.warns(UnreadableImageWarning, match="image 7 cannot be read"):
        files = list(image_batches(source, transform, **numbers))
    assert same(files, list(decoded_batches(decoded, transform, **numbers)))
    assert all(a.is_contiguous(memory_format=torch.channels_last) for a, _ in files)
    accumulated = decoded_batches(decoded, transform, **numbers | {"accumulation": 2})
    with pytest.warns(UnreadableImageWarning, match="image 7 cannot be read"):
        assert same(list(image_batches(source, transform, **numbers | {"accumulation": 2})), list(accumulated))


def test_no_image_counts_twice_in_an_evaluation() -> None:
    source = broken_source(0, 7, 19)
    with pytest.warns(UnreadableImageWarning):
        training_images, test_images = (decode_all(source, size=16, replaces=replaces) for replaces in (True, False))
    kept = [number for number in range(SIZE) if number not in (0, 7, 19)]
    assert training_images.labels.tolist() == [1, *range(1, 7), 8, *range(8, 19), 1]
    assert test_images.labels.tolist() == training_images.of_their_own().labels.tolist() == kept
    assert torch.equal(test_images.images, training_images.of_their_own().images)
    assert (test_images.images[0].permute(1, 2, 0).numpy() == np.asarray(decode(source.files[1]))).all()
    assert sorted(test_images.broken) == ["image 0", "image 19", "image 7"]
    assert test_images.of_their_own() is test_images
