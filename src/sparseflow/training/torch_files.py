"""The files that torch.distributed.checkpoint writes and reads, through the one door to the disk."""

from __future__ import annotations

import io
import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from torch.distributed.checkpoint.filesystem import FileSystem

from sparseflow.disk import File, make_folder, remove, rename


class TorchFiles(FileSystem):
    """The ``fs`` of torch's ``FileSystemWriter`` or ``FileSystemReader``.

    A file has reached the disk when its stream ends, and errors name it.

    Args:
        num_bytes: That will be written, for the message about a full disk.
    """

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
            yield writing
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


class _Writing(io.IOBase):
    """A stream whose writes never fail: the first error is kept for the end.

    torch.save writes from C++, and where a write fails there its destructor prints lines of its own.
    """

    def __init__(self, file: File) -> None:
        self._file, self._place = file, 0
        self.error: OSError | None = None

    def write(self, data: bytes | memoryview) -> int:
        size = memoryview(data).nbytes
        self._place += size
        if self.error is None:
            try:
                self._file.write(data)
            except OSError as error:
                self.error = error
        return size

    def tell(self) -> int:
        return self._place

    def writable(self) -> bool:
        return True


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
