"""The parts of a split: files that belong together, a column of images, a label for each, and their classes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

SUFFIXES = (".parquet", ".arrow")
IMAGE_COLUMNS = ("image", "img")
LABEL_COLUMN = "label"


def find_tables(where: Path, split: str, *, suffixes: Sequence[str] = SUFFIXES) -> tuple[Path, ...]:
    """The parquet or Arrow files of a split, sorted by name; see :func:`parquet_source`.

    Raises:
        FileNotFoundError: if there are none, or some of those that the names count are missing.
        ValueError: if they lie in more than one folder, or are of both kinds.
    """
    if where.is_file():
        return (where,)
    tables = [path for depth in ("*", "*/*", "*/*/*") for path in sorted(where.glob(depth)) if path.suffix in suffixes]
    names = "|".join(synonyms(split))
    stem = re.compile(rf"({names})([-_.]\d.*)?")
    found = [path for path in tables if stem.fullmatch(path.stem) or path.parent.name in synonyms(split)]
    if not found:
        raise FileNotFoundError(
            f"{where} has no split {split!r}: needed {split}.parquet, {split}-*.parquet, {split}/*.parquet, or images "
            f"in {split}/<class>/. Found: {listing(where)}. Give the folder that holds the splits."
        )
    places = sorted({(path.parent / f"*{path.suffix}").as_posix() for path in found})
    if len(places) > 1:
        raise ValueError(f"the split {split!r} is in {' and in '.join(places)}. Give a folder that has it once.")
    counts = {int(match[1]) for path in found if (match := re.search(r"-of-(\d+)$", path.stem))}
    if counts and counts != {len(found)}:
        raise FileNotFoundError(
            f"{places[0]} are {len(found)} files of the split {split!r}, but their names count "
            f"{' and '.join(map(str, sorted(counts)))}. Fetch those that are missing, or remove what belongs to "
            "another download."
        )
    return tuple(found)


def synonyms(split: str) -> tuple[str, ...]:
    """Names under which a split may be stored: ImageNet's validation folder is called ``val`` as often.

    >>> synonyms("validation"), synonyms("train")
    (('validation', 'val'), ('train',))
    """
    return ("validation", "val") if split in ("validation", "val") else (split,)


def listing(folder: Path) -> str:
    """The first names in a folder, for messages.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     listing(Path(folder))
    'nothing'
    """
    names = sorted(path.name + "/" * path.is_dir() for path in folder.iterdir())
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "") if names else "nothing"


def image_column(names: Sequence[str], where: object) -> str:
    """Which of a table's columns has the images.

    Raises:
        ValueError: if there is none, or no column of labels.

    >>> image_column(["img", "label"], "train.parquet")
    'img'
    """
    column = next((name for name in IMAGE_COLUMNS if name in names), None)
    if column is None or LABEL_COLUMN not in names:
        raise ValueError(
            f"{where} has the columns {', '.join(names)}; needed image (or img) and label. Rename its columns."
        )
    return column


def checked_labels(
    labels: Sequence[int | None], classes: Sequence[str] | None, *, where: str
) -> tuple[Tensor, tuple[str, ...]]:
    """Labels as a tensor, and the names of their classes; without names, the numbers up to the largest label.

    Raises:
        ValueError: if there are no rows, or a label is missing, negative or beyond the names.

    >>> checked_labels([0, 2], None, where="train.parquet")
    (tensor([0, 2]), ('0', '1', '2'))
    """
    if not labels:
        raise ValueError(f"{where} has no rows.")
    missing = sum(label is None or label < 0 for label in labels)
    if missing:
        raise ValueError(
            f"{where} has {missing} of {len(labels)} images without a label. ImageNet's test split has none: use "
            "'validation'."
        )
    tensor = torch.tensor(labels, dtype=torch.int64)
    largest = int(tensor.max())
    if classes is not None and largest >= len(classes):
        raise ValueError(f"{where} has the label {largest}, but names {len(classes)} classes.")
    return tensor, tuple(classes or map(str, range(largest + 1)))
