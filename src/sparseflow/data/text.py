"""The bytes of Python sources that an installed package ships, the same everywhere: pinned by version and digest."""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import torch
from torch import Tensor

from sparseflow.disk import read_bytes
from sparseflow.suggest import did_you_mean

#: Different values of a byte.
BYTES = 256
#: Stands before every file, and in none of them.
FILE_BEGINS = 0
#: Part of the text -> the residues of its files' digests modulo 20; all others are trained on. Settings are chosen by
#: the validation files, and what is chosen is judged by the test files.
HELD_OUT = {"validation": 0, "test": 1}
_PARTS = 20


@dataclass(frozen=True)
class Sources:
    """Files of one version of a package."""

    version: str
    digest: str
    """Of :func:`digest_of`."""
    without: tuple[str, ...]
    """Parts of paths that leave a file out."""


#: Distribution -> the version that is read. torch needs sympy, so it is there wherever torch is; what a tool wrote
#: (``_antlr``) is no text of people, and tests and benchmarks are lists of numbers and calls.
SOURCES = {
    "sympy": Sources(
        version="1.14.0",
        digest="e85d7ac34b96600dead2026ebc734d55c73cf35c37675a00f259a7ab18f8bf9f",
        without=("/tests/", "/benchmarks/", "/_antlr/"),
    ),
}


@dataclass(frozen=True)
class Text:
    """Files as bytes, each after the byte ``FILE_BEGINS``; uint8."""

    training: Tensor
    validation: Tensor
    """What settings are chosen by."""
    test: Tensor
    """What nothing is chosen by."""


def load_text(package: str) -> Text:
    """The Python sources of an installed package; one file in twenty is for validation, and one for the test.

    Args:
        package: Key of ``SOURCES``.

    Raises:
        ValueError: if the package is not known, or a file is not the one that was published.
        ModuleNotFoundError: if this version of the package is not installed, with what to type.

    >>> text = load_text("sympy")
    >>> text.training.dtype, len(text.training), len(text.validation), len(text.test)
    (torch.uint8, 14465498, 564666, 824774)
    """
    if package not in SOURCES:
        raise ValueError(
            f"package must be one of {', '.join(SOURCES)}, got {package!r}.{did_you_mean(package, SOURCES)}"
        )
    sources = SOURCES[package]
    try:
        found = metadata.version(package)
    except metadata.PackageNotFoundError:
        found = None
    if found != sources.version:
        raise ModuleNotFoundError(
            f"the text is the sources of {package} {sources.version}, here is {found or 'none'}. Type: pip install "
            f"{package}=={sources.version}"
        )
    files = dict(_files(package, sources))
    if digest_of(files) != sources.digest:
        raise ValueError(
            f"the files of {package} {sources.version} are others than those of its release. Type: pip install "
            f"--force-reinstall {package}=={sources.version}"
        )
    parts = ("training", *HELD_OUT)
    return Text(**{part: joined(data for name, data in files.items() if part_of(name) == part) for part in parts})


def _files(package: str, sources: Sources) -> Iterator[tuple[str, bytes]]:
    """Name and content of the files, in the order of their names, each compared with the digest of its installation."""
    for file in sorted(metadata.files(package) or (), key=str):
        name = str(file)
        if not name.startswith(f"{package}/") or file.suffix != ".py" or any(part in name for part in sources.without):
            continue
        data = read_bytes(Path(str(file.locate())))
        written = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode().rstrip("=")
        if file.hash is not None and file.hash.value != written:
            raise ValueError(
                f"{name} was changed after {package} {sources.version} was installed. Type: pip install "
                f"--force-reinstall {package}=={sources.version}"
            )
        yield name, data


def digest_of(files: dict[str, bytes]) -> str:
    """SHA-256 over the names and digests of files, as hex digits.

    >>> digest_of({"a.py": b"x = 1"})[:12]
    '1c1dc54c6a93'
    """
    lines = [f"{name} {hashlib.sha256(data).hexdigest()}\n" for name, data in sorted(files.items())]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def part_of(name: str) -> str:
    """The part of the text that a file is in, by the digest of its path, so that a new file moves no other.

    >>> [part_of(f"sympy/core/{name}.py") for name in ("add", "logic", "sympify")]
    ['training', 'validation', 'test']
    """
    residue = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") % _PARTS
    return next((part for part, own in HELD_OUT.items() if own == residue), "training")


def joined(files: Iterator[bytes]) -> Tensor:
    """Files as one tensor, each after the byte ``FILE_BEGINS``.

    >>> joined(iter([b"a", b"b"])).tolist()
    [0, 97, 0, 98]
    """
    data = b"".join(bytes([FILE_BEGINS]) + file for file in files)
    return torch.frombuffer(bytearray(data), dtype=torch.uint8)


def drawn_windows(text: Tensor, *, size: int, count: int, generator: torch.Generator) -> Tensor:
    """``count`` windows of neighbouring bytes, each from a place that is drawn uniformly: ``(count, size)``, int64.

    Raises:
        ValueError: if the text is shorter than a window.

    >>> drawn_windows(torch.arange(5), size=4, count=3, generator=torch.Generator().manual_seed(0)).diff().unique()
    tensor([1])
    """
    if size > len(text):
        raise ValueError(f"a window of {size} bytes is longer than the text, {len(text)} bytes. Lower the context.")
    starts = torch.randint(len(text) - size + 1, (count, 1), generator=generator)
    return text[starts + torch.arange(size)].long()


def every_window(text: Tensor, *, context: int, most: int | None = None) -> Tensor:
    """The text cut into windows of ``context + 1`` bytes, so that each byte but the first is the next one once.

    The bytes of a rest shorter than a window are left out.

    Args:
        text: uint8.
        context: Bytes before the one that is predicted, at most.
        most: Number of windows, evenly spaced; default all.

    Raises:
        ValueError: if the text is shorter than a window.

    >>> every_window(torch.arange(8), context=3).tolist()
    [[0, 1, 2, 3], [3, 4, 5, 6]]
    """
    count = (len(text) - 1) // context
    if count < 1:
        raise ValueError(f"a window of {context + 1} bytes is longer than the text, {len(text)}. Lower the context.")
    kept = range(count) if most is None or most >= count else [n * count // most for n in range(most)]
    starts = context * torch.tensor(list(kept)).unsqueeze(1)
    return text[starts + torch.arange(context + 1)].long()


def bits(nats: float) -> float:
    """A cross-entropy in bits.

    >>> bits(math.log(256))
    8.0
    """
    return nats / math.log(2)
