"""Sources of images: one interface for image folders, parquet files and the Hugging Face hub."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from sparseflow.data.hub import hub_source
from sparseflow.data.splits import listing, synonyms
from sparseflow.data.tables import parquet_source

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")


class ImageSource(Protocol):
    """Image files by their number, and their labels. It pickles, so that worker processes can have it."""

    @property
    def labels(self) -> Tensor:
        """int64, ``(len(source),)``."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Name of each class, by label; the number itself where the dataset has no names."""

    def __len__(self) -> int: ...

    def encoded(self, index: int) -> bytes:
        """Content of the file, as it was encoded."""

    def name(self, index: int) -> str:
        """Name of the image for messages."""


@dataclass(frozen=True, eq=False)
class FolderImages:
    """Files in one folder for each class; see :func:`folder_source`."""

    folder: Path
    files: tuple[str, ...]
    """``<class>/<file>``, sorted."""
    labels: Tensor
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.files)

    def encoded(self, index: int) -> bytes:
        """Content of the file."""
        return (self.folder / self.files[index]).read_bytes()

    def name(self, index: int) -> str:
        """Split, class and file."""
        return f"{self.folder.name}/{self.files[index]}"


def folder_source(root: Path | str, split: str) -> FolderImages:
    """The images in ``root/split/<class>/*.jpg`` (or ``.jpeg``, ``.png``, ``.bmp``, ``.webp``).

    Labels number the sorted names of the class folders, as for ImageNet's synsets.

    Args:
        root: Folder of the splits.
        split: Name of a folder in it; ``"validation"`` finds ``val`` too.

    Raises:
        FileNotFoundError: if the split has no class folders, or one of them no images.
        ValueError: if its class folders are not those of ``root/train``, so that labels would mean other classes.
    """
    folder = split_folder(Path(root), split)
    if folder is None:
        raise FileNotFoundError(
            f"{root} has no class folders for the split {split!r}: needed {split}/<class>/*.jpg; "
            f"found: {listing(Path(root))}. Give the folder that holds the splits, and sort images into class folders."
        )
    classes = _class_folders(folder)
    training = split_folder(Path(root), "train") or folder
    expected = _class_folders(training)
    if classes != expected:
        different = sorted(set(classes) ^ set(expected))
        raise ValueError(
            f"{folder} has {len(classes)} classes, {training} {len(expected)}: {', '.join(map(repr, different[:5]))} "
            f"{'is' if len(different) == 1 else 'are'} in one only. Labels would not agree; complete the folders."
        )
    files: list[str] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        found = sorted(entry.name for entry in os.scandir(folder / name) if entry.name.lower().endswith(IMAGE_SUFFIXES))
        if not found:
            raise FileNotFoundError(
                f"{folder / name} has no images ({', '.join(IMAGE_SUFFIXES)}). Complete or delete it."
            )
        files += [f"{name}/{file}" for file in found]
        labels += [label] * len(found)
    return FolderImages(folder, tuple(files), torch.tensor(labels, dtype=torch.int64), classes)


def open_images(where: Path | str, split: str, *, num_classes: int | None = None) -> ImageSource:
    """The images of one split, wherever they are: an image folder, parquet files, or the Hugging Face hub.

    Args:
        where: A folder of :func:`folder_source`; a file or folder of :func:`parquet_source`; or the name of a dataset
            on the hub, ``owner/name``, for :func:`hub_source`. What exists on this machine comes first.
        split: ``"train"``, ``"validation"`` or ``"test"``.
        num_classes: How many classes there must be; ``None`` takes any number.

    Raises:
        FileNotFoundError: if there is no such folder, or no such split in it.
        ValueError: if the dataset is damaged or has another number of classes.

    >>> open_images("no/such/folder", "train")
    Traceback (most recent call last):
    FileNotFoundError: there is no file or folder no/such/folder, and it is no owner/name of the Hugging Face hub...
    """
    path = Path(where).expanduser()
    source: ImageSource
    if path.is_dir():
        source = folder_source(path, split) if split_folder(path, split) else parquet_source(path, split)
    elif path.is_file():
        source = parquet_source(path, split)
    elif re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", str(where)):
        source = hub_source(str(where), split)
    else:
        raise FileNotFoundError(
            f"there is no file or folder {where}, and it is no owner/name of the Hugging Face hub such as "
            "ILSVRC/imagenet-1k. Give the folder that holds the splits."
        )
    if num_classes is not None and len(source.classes) != num_classes:
        raise ValueError(
            f"the split {split!r} of {where} has {len(source.classes)} classes, needed {num_classes}. "
            "Give another dataset, or the network as many outputs."
        )
    return source


def split_folder(root: Path, split: str) -> Path | None:
    """The folder of a split that has class folders, or ``None``."""
    for name in synonyms(split):
        if (root / name).is_dir() and _class_folders(root / name):
            return root / name
    return None


def _class_folders(folder: Path) -> tuple[str, ...]:
    return tuple(sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and entry.name[0] != "."))
