"""Crops, flips and normalisation against hand computations and stated bounds."""

from __future__ import annotations

import io
import math

import numpy as np
import pytest
import torch
from PIL import Image

from sparseflow.data import (
    CIFAR10,
    IMAGENET,
    BrokenImageError,
    CentreCrop,
    PadCropFlip,
    RandomResizedCrop,
    Unchanged,
    centre_crop_box,
    decode,
    normalise,
    random_resized_crop_box,
    uniforms,
)
from sparseflow.data.optional import optional


def picture(width: int, height: int, *, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def test_normalise_is_the_formula_in_float64_and_keeps_channels_last() -> None:
    images = torch.randint(0, 256, (2, 3, 4, 5), dtype=torch.uint8).to(memory_format=torch.channels_last)
    for statistics in (IMAGENET, CIFAR10):
        mean, std = (np.array(values).reshape(3, 1, 1) for values in statistics)
        expected = torch.from_numpy((images.numpy() / 255 - mean) / std)
        # One rounding each of x/255, the difference and the quotient, of numbers up to 3.
        torch.testing.assert_close(normalise(images, statistics).double(), expected, atol=2e-6, rtol=0)
    assert normalise(images, IMAGENET).is_contiguous(memory_format=torch.channels_last)
    assert images.dtype == torch.uint8
    with pytest.raises(TypeError, match=r"must be uint8 .* got torch.float32. Normalise them once"):
        normalise(images.float(), IMAGENET)


@pytest.mark.parametrize(
    ("size", "box"),
    [
        ((256, 256), (16, 16, 240, 240)),  # 224 of 256
        ((500, 375), (86, 24, 414, 352)),  # 375 * 0.875 = 328.1; (500 - 328 + 1) // 2 = 86
        ((3, 9), (1, 4, 3, 6)),  # 2.6 -> 2; (3 - 2 + 1) // 2 = 1, (9 - 2 + 1) // 2 = 4
        ((1, 5), (0, 2, 1, 3)),  # never empty
    ],
)
def test_centre_crop_by_hand(size: tuple[int, int], box: tuple[int, int, int, int]) -> None:
    assert centre_crop_box(*size) == box


def test_centre_crop_pixels_are_those_of_the_cut_alone() -> None:
    image = picture(256, 300)
    got = CentreCrop(size=224)(image, np.empty(0))
    assert (got == np.asarray(image)[38:262, 16:240]).all()  # 224 to 224: nothing to resize
    bright = np.asarray(image).copy()
    bright[:38] = 255  # outside of the box
    assert (CentreCrop(size=50)(Image.fromarray(bright), np.empty(0)) == CentreCrop(size=50)(image, np.empty(0))).all()


def test_crop_statistics() -> None:
    # In a square all boxes of at most half the area fit at once, so area, log aspect and place are uniform.
    # Each of 6 z-scores exceeds 5 with probability 6e-7.
    size, n = 2000, 4000
    draws = np.array([uniforms(1, 0, index, 22) for index in range(n)])
    boxes = np.array([random_resized_crop_box(size, size, row, area=(0.08, 0.5)) for row in draws], dtype=float)
    left, top, right, bottom = boxes.T
    width, height = right - left, bottom - top
    standard = {  # all uniform on [0, 1]
        "area": (width * height / size**2 - 0.08) / 0.42,
        "aspect": np.log(width / height) / (2 * math.log(4 / 3)) + 0.5,
        "left": left / (size - width),
        "top": top / (size - height),
    }
    for name, value in standard.items():
        assert abs(value.mean() - 0.5) / math.sqrt(1 / 12 / n) < 5, name
        assert -0.01 < value.min() < 0.01, name
        assert 0.99 < value.max() < 1.01, name
    for first, second in (("area", "aspect"), ("left", "top")):
        assert abs(np.corrcoef(standard[first], standard[second])[0, 1]) * math.sqrt(n) < 5


def test_boxes_are_inside_and_within_the_ranges() -> None:
    for index in range(500):
        width, height = 30 + index % 70, 20 + index % 45
        left, top, right, bottom = random_resized_crop_box(width, height, uniforms(0, 0, index, 22))
        assert 0 <= left < right <= width
        assert 0 <= top < bottom <= height
        # Rounding each side moves it by half a pixel.
        assert (right - left + 0.5) * (bottom - top + 0.5) >= 0.08 * width * height


def test_first_attempt_that_fits_else_the_centre() -> None:
    full = np.array([0.0, 0.0])  # place
    too_wide, fits = [0.999, 0.999], [0.0, 0.5]
    # 100 x 100: area 0.999, aspect 1.33: 115 wide. Then area 0.08, aspect 1: 28 x 28 at the corner.
    assert random_resized_crop_box(100, 100, np.array([*full, *too_wide, *fits])) == (0, 0, 28, 28)
    assert random_resized_crop_box(100, 100, np.array([*full, *too_wide])) == centre_crop_box(100, 100)
    # A panorama: no rectangle of 8 % of the area and aspect 4/3 is lower than it.
    for index in range(50):
        assert random_resized_crop_box(2000, 20, uniforms(0, 0, index, 22)) == centre_crop_box(2000, 20)


def test_flip_is_exact_and_every_second_time() -> None:
    image, crop = picture(60, 50), RandomResizedCrop(size=16)
    draws = uniforms(0, 0, 0, crop.num_draws)
    straight, flipped = (crop(image, np.array([u, *draws[1:]])) for u in (0.5, 0.49))
    assert (flipped == straight[:, ::-1]).all()
    assert not (flipped == straight).all()
    flips = sum(uniforms(0, 0, index, 1)[0] < 0.5 for index in range(10_000))
    assert abs(flips - 5000) < 5 * 50  # 5 standard deviations: false alarm 6e-7


def test_random_resized_crop_is_cut_then_bicubic() -> None:
    image, crop = picture(60, 50), RandomResizedCrop(size=16)
    draws = uniforms(0, 0, 3, crop.num_draws)
    draws[0] = 0.9
    left, top, right, bottom = random_resized_crop_box(60, 50, draws[1:])
    cut = Image.fromarray(np.asarray(image)[top:bottom, left:right].copy())
    assert (crop(image, draws) == np.asarray(cut.resize((16, 16), Image.Resampling.BICUBIC))).all()


def test_pad_crop_flip_one_by_one_and_as_a_batch() -> None:
    transform = PadCropFlip(size=8, padding=2)
    pixels = np.random.default_rng(0).integers(0, 256, (30, 8, 8, 3), dtype=np.uint8)
    draws = np.array([uniforms(0, 0, index, 3) for index in range(30)])
    batch = transform.batch(torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous(), draws)
    assert batch.shape == (30, 3, 8, 8)
    assert batch.is_contiguous(memory_format=torch.channels_last)
    for image, draw, got in zip(pixels, draws, batch, strict=True):
        padded = np.zeros((12, 12, 3), dtype=np.uint8)
        padded[2:10, 2:10] = image
        left, top = int(draw[1] * 5), int(draw[2] * 5)  # 5 places: -2 .. 2
        expected = padded[top : top + 8, left : left + 8]
        expected = expected[:, ::-1] if draw[0] < 0.5 else expected
        assert (transform(Image.fromarray(image), draw) == expected).all()
        assert (got.permute(1, 2, 0).numpy() == expected).all()


def test_unchanged_wants_one_size() -> None:
    assert (Unchanged(size=9)(picture(9, 9), np.empty(0)) == np.asarray(picture(9, 9))).all()
    with pytest.raises(ValueError, match=r"the image has 9 x 8 pixels, not 9 x 9. .* RandomResizedCrop"):
        Unchanged(size=9)(picture(9, 8), np.empty(0))


def encoded(image: Image.Image, kind: str) -> bytes:
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()


@pytest.mark.parametrize("mode", ["L", "CMYK", "RGBA", "1", "P"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    image = picture(5, 4).convert(mode)
    assert decode(encoded(image, "TIFF")).mode == "RGB"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it is empty"),
        (b"<html>404</html>", "it is no image; it starts with b'<html>40'"),
        (encoded(picture(40, 30), "JPEG")[:-300], "truncated"),
        (encoded(picture(40, 30), "JPEG")[:30], "Truncated"),
        (encoded(picture(40, 30), "PNG")[:200], "truncated|broken"),
    ],
    ids=["empty", "page", "truncated", "header", "png"],
)
def test_broken_files_are_one_kind_of_error(content: bytes, message: str) -> None:
    with pytest.raises(BrokenImageError, match=message):
        decode(content)


def test_a_bomb_is_a_broken_image(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(BrokenImageError, match="decompression bomb"):
        decode(encoded(picture(40, 30), "PNG"))


def test_a_missing_package_says_what_to_install() -> None:
    with pytest.raises(ModuleNotFoundError, match=r'package no_such_package: pip install "sparseflow\[vision\]"'):
        optional("no_such_package.part")


def test_a_package_that_lacks_another_says_so_itself(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "half_installed.py").write_text("import no_such_dependency")  # type: ignore[operator]
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ModuleNotFoundError, match=r"^No module named 'no_such_dependency'"):
        optional("half_installed")
