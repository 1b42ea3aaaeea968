"""A folder of images that hold noise, with the names and the shape of CIFAR-10."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image


def noise_images(root: Path) -> Path:
    """CIFAR-10 in small: ten classes, four training images each and two to test."""
    noise = np.random.default_rng(0)
    for split, count in (("train", 4), ("test", 2)):
        for label in range(10):
            folder = root / split / f"class{label}"
            folder.mkdir(parents=True)
            for number in range(count):
                Image.fromarray(noise.integers(0, 255, (32, 32, 3), dtype=np.uint8)).save(folder / f"{number}.png")
    return root
