"""The files that torch.distributed.checkpoint writes and reads, through the one door to the disk."""

from __future__ import annotations

import io
import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch.distributed.checkpoint.filesystem import FileSystem, FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.metadata import Metadata

from sparseflow.disk import File, make_folder, remove, rename

#: Bytes of one write; torch.save makes hundreds of them for a few layers.
_BUFFER = 1 << 20


class Writer(FileSystemWriter):
    """Torch's writer of a share of the tensors.

    Args:
        folder: In which the shares are written.
        num_bytes: Of them, for the message about a full disk.
    """

    def __init__(self, folder: Path, *, num_bytes: int) -> None:
        super().__init__(folder, sync_files=False)  # the streams do
        self.fs = _Files(num_bytes)


class Reader(FileSystemReader):
    """Torch's reader; it has read the table of the tensors when it is made.

    Torch, which reads it later, takes an error there for an older format, prints that, and raises another one.

    Args:
        folder: A checkpoint.

    Raises:
        OSError: naming the file that cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.fs = _Files()
        self._metadata = super().read_metadata()

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        """The table of the tensors."""
        return self._metadata


class _Files(FileSystem):
    """Files that have reached the disk when their stream ends, and whose errors name them."""

    def __init__(self, num_bytes: int = 0) -> None:
        self._num_bytes = num_bytes

    @contextmanager
    def create_stream(self, path: str | os.PathLike[str], mode: str) -> Generator[io.IOBase, None, None]:
        """A stream to read or write a file."""
        if mode == "rb":
            with File(Path(path), "read") as file, io.BufferedReader(_Reading(file)) as stream:
                yield stream
            return
        with File(Path(path), "replace", num_bytes=self._num_bytes) as file:
            writing = _Writing(file)
            with io.BufferedWriter(writing, _BUFFER) as stream:  # type: ignore[type-var]
                yield stream
            if writing.error is not None:
                raise writing.error
            file.sync()

    def rename(self, path: str | os.PathLike[str], new_path: str | os.PathLike[str]) -> None:
        """Give a file another name."""
        rename(Path(path), Path(new_path))

    def mkdir(self, path: str | os.PathLike[str]) -> None:
        """Make a folder."""
        make_folder(Path(path))

    def rm_file(self, path: str | os.PathLike[str]) -> None:
        """Remove a file."""
        remove(Path(path))


class _Writing(io.RawIOBase):
    """A raw stream whose writes never fail: the first error is kept for the end.

    torch.save writes from C++, and where a write fails there its destructor prints lines of its own.
    """

    def __init__(self, file: File) -> None:
        self._file, self._place = file, 0
        self.error: OSError | None = None

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def write(self, data: memoryview) -> int:  # type: ignore[override]
        self._place += len(data)
        if self.error is None:
            try:
                self._file.write(data)
            except OSError as error:
                self.error = error
        return len(data)


class _Reading(io.RawIOBase):
    """A file as a raw stream."""

    def __init__(self, file: File) -> None:
        self._file, self._place = file, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: 0}[whence]
        self._place = (self._file.size() if whence == os.SEEK_END else start) + offset
        return self._place

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        found = self._file.read_at(self._place, len(buffer))
        buffer[: len(found)] = found
        self._place += len(found)
        return len(found)
