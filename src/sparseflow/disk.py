"""The one door to the disk: every call that can fail there names the file, and an error in clean-up hides no other."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

#: A full disk, a quota, or a limit on the size of one file.
NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
#: What helps against other errors; the rest say enough by themselves.
_ADVICE = {
    errno.EIO: ". The disk, or the way to it, failed: see dmesg, mend it or choose a folder on another disk; then type "
    "the same command again",
    errno.EACCES: ". Choose a folder that you may write to, or change its permissions",
    errno.EROFS: ". Choose a folder on a disk that can be written to",
}
#: File systems without locks.
_NO_LOCKS = frozenset({errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS})
_MODES = {
    "read": os.O_RDONLY,
    "new": os.O_RDWR | os.O_CREAT | os.O_EXCL,
    "replace": os.O_RDWR | os.O_CREAT | os.O_TRUNC,
    "append": os.O_RDWR | os.O_CREAT | os.O_APPEND,
    "existing": os.O_RDWR,
}
_READ_AT_ONCE = 1 << 24


@contextmanager
def naming(path: Path, verb: str, *, num_bytes: int = 0) -> Iterator[None]:
    """Re-raise an ``OSError`` of the block as one of the same kind that names a file and says what helps.

    Args:
        path: The file, or folder.
        verb: What the block does with it.
        num_bytes: To be written, for the message about a full disk.

    Raises:
        OSError: of the same ``errno``; one of an inner block, or without a number, passes unchanged.

    >>> with naming(Path("runs/done.json"), "write"):
    ...     raise OSError(errno.EIO, os.strerror(errno.EIO))
    Traceback (most recent call last):
    OSError: [Errno 5] cannot write done.json in runs: Input/output error. The disk, or the way to it, failed: ...
    """
    try:
        yield
    except OSError as error:
        if error.errno is None or str(error.strerror).startswith("cannot "):
            raise
        reason = f"{error.strerror}{_ADVICE.get(error.errno, '')}"
        if error.errno in NO_ROOM:
            needed = f"{num_bytes:,} bytes to write, " if num_bytes else ""
            reason = (
                f"{error.strerror} ({needed}{_free(path)} free). Free space there, raise your quota or file size "
                "limit, or choose a folder on another disk; then type the same command again. Nothing half-written has "
                "taken its name"
            )
        raise OSError(error.errno, f"cannot {verb} {path.name} in {path.parent}: {reason}") from error


@contextmanager
def undoing(undo: Callable[[], object]) -> Iterator[None]:
    """Call ``undo`` if the block fails; if that fails as well, the first error gets a note about the second.

    >>> def undo():
    ...     raise OSError("the disk is gone")
    >>> try:
    ...     with undoing(undo):
    ...         raise ValueError("the first error")
    ... except ValueError as error:
    ...     print(error, error.__notes__)
    the first error ['Cleaning up failed too: the disk is gone']
    """
    try:
        yield
    except BaseException as error:
        try:
            undo()
        except OSError as second:
            error.add_note(f"Cleaning up failed too: {second}")
        raise


class File:
    """An open file, each of whose errors names it; a context manager.

    Args:
        path: Of the file.
        mode: ``"read"``, ``"new"`` (it must not exist), ``"replace"``, ``"append"`` (made if need be) or
            ``"existing"`` (read and written).
        called: Its name in errors, where it is to get another one; default ``path``.
        num_bytes: That will be written, for the message about a full disk; default those of each write.

    Raises:
        OSError: as every method, naming the file.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder, File(Path(folder) / "log", "append") as file:
    ...     file.write(b"one line")
    ...     file.size(), file.read()
    (8, b'one line')
    """

    def __init__(
        self,
        path: Path,
        mode: Literal["read", "new", "replace", "append", "existing"],
        *,
        called: Path | None = None,
        num_bytes: int = 0,
    ) -> None:
        self.path, self.called, self._num_bytes = path, called or path, num_bytes
        with naming(self.called, "read" if mode == "read" else "write"):
            self.descriptor = os.open(path, _MODES[mode] | os.O_CLOEXEC, 0o666)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
            return
        try:
            self.close()
        except OSError as second:
            error.add_note(f"Cleaning up failed too: {second}")

    def close(self) -> None:
        """Close it; a second time does nothing."""
        descriptor, self.descriptor = self.descriptor, -1
        if descriptor >= 0:
            with naming(self.called, "close"):
                os.close(descriptor)

    def write(self, data: bytes | memoryview) -> None:
        """Write all of the bytes, however many calls that takes."""
        left = memoryview(data).cast("B")
        with naming(self.called, "write", num_bytes=self._num_bytes or len(left)):
            while left:
                left = left[os.write(self.descriptor, left) :]

    def chunks(self) -> Iterator[bytes]:
        """All bytes from the beginning, part by part."""
        with naming(self.called, "read"):
            os.lseek(self.descriptor, 0, os.SEEK_SET)
            yield from iter(lambda: os.read(self.descriptor, _READ_AT_ONCE), b"")

    def read(self) -> bytes:
        """All bytes."""
        return b"".join(self.chunks())

    def read_at(self, place: int, most: int) -> bytes:
        """At least one byte from a place on, and at most so many; none at the end."""
        with naming(self.called, "read"):
            return os.pread(self.descriptor, most, place)

    def size(self) -> int:
        """Its length in bytes."""
        with naming(self.called, "read"):
            return os.fstat(self.descriptor).st_size

    def truncate(self, size: int) -> None:
        """Cut it to a length in bytes."""
        with naming(self.called, "shorten"):
            os.ftruncate(self.descriptor, size)

    def sync(self) -> None:
        """Make what was written survive a power cut."""
        with naming(self.called, "write", num_bytes=self._num_bytes):
            os.fsync(self.descriptor)

    def lock(self, *, wait: bool = False, needed: bool = True) -> bool:
        """Take the lock of the file, which the kernel releases however the process ends.

        Args:
            wait: Until another process releases it.
            needed: Whether a file system without locks is an error.

        Returns: whether this process has it now.
        """
        with naming(self.called, "lock"):
            try:
                fcntl.flock(self.descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError:
                return False
            except OSError as error:
                if needed or error.errno not in _NO_LOCKS:
                    raise
                return False
        return True

    def has_name(self) -> bool:
        """Whether it is still in a folder, and was not removed meanwhile."""
        with naming(self.called, "read"):
            return os.fstat(self.descriptor).st_nlink > 0


def read_bytes(path: Path) -> bytes:
    """The content of a file.

    Raises:
        OSError: naming the file.
    """
    with File(path, "read") as file:
        return file.read()


def listed(folder: Path) -> list[Path]:
    """What is in a folder, by name; nothing if there is no such folder."""
    with naming(folder, "read"):
        try:
            return [folder / name for name in sorted(os.listdir(folder))]
        except FileNotFoundError:
            return []


def make_folder(folder: Path) -> None:
    """Make a folder and those above it, where they are not there yet."""
    with naming(folder, "make"):
        if not folder.is_dir():  # mkdir would take every error for that
            folder.mkdir(parents=True, exist_ok=True)


def rename(old: Path, new: Path, *, called: Path | None = None) -> None:
    """Give a file or folder another name, which a file must not lose to a power cut: see :func:`sync_folder`."""
    with naming(called or old, "write" if called else f"rename to {new.name}"):
        os.replace(old, new)


def remove(path: Path) -> None:
    """Remove a file, if it is there."""
    with naming(path, "remove"):
        try:
            os.unlink(path)
        except FileNotFoundError:
            return


def remove_folder(folder: Path) -> None:
    """Remove a folder, if it is there, and all that is in it; what links in it name stays."""
    with naming(folder, "remove"):
        try:
            entries = list(os.scandir(folder))
        except FileNotFoundError:
            return
        folders = [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
    for entry in entries:
        if entry.path in folders:
            remove_folder(Path(entry.path))
        else:
            remove(Path(entry.path))
    with naming(folder, "remove"):
        os.rmdir(folder)


def sync_folder(folder: Path) -> None:
    """Make the names in ``folder`` (a rename, a new file) survive a power cut."""
    with File(folder, "read") as opened:
        opened.sync()


def _free(path: Path) -> str:
    try:
        return f"{shutil.disk_usage(next(folder for folder in path.absolute().parents if folder.is_dir())).free:,}"
    except OSError:
        return "an unknown number"
