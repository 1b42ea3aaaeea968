"""Files that are either there whole or not there at all, whatever kills the writer."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

#: A full disk, a quota, or a limit on the size of one file.
NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


def write_atomically(path: Path, data: bytes) -> None:
    """Replace ``path`` by ``data``: a reader, or a restart after a crash, sees the old file or the new, never a part.

    The bytes go to a temporary file in the same folder, reach the disk (fsync), and take the name in one rename.

    The folder must exist.

    Raises:
        OSError: If the disk is full (or the write fails otherwise); ``path`` is then as it was.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     path = Path(folder) / "done.json"
    ...     write_atomically(path, b"{}")
    ...     path.read_bytes() == b"{}", [entry.name for entry in Path(folder).iterdir()]
    (True, ['done.json'])
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with explain_full_disk(path, num_bytes=len(data)):
            with temporary.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
            sync_folder(path.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def sync_folder(folder: Path) -> None:
    """Make the names in ``folder`` (a rename, a new file) survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_leftovers(folder: Path) -> None:
    """Delete the temporary files that a killed :func:`write_atomically` left in ``folder``."""
    for path in folder.glob(".*.tmp"):
        path.unlink(missing_ok=True)


@contextmanager
def explain_full_disk(path: Path, *, num_bytes: int) -> Iterator[None]:
    """Re-raise a full disk inside the block as an ``OSError`` that says what to free.

    Raises:
        OSError: with the space needed and left; any other error passes unchanged.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        free = shutil.disk_usage(next(folder for folder in path.absolute().parents if folder.is_dir())).free
        raise OSError(
            error.errno,
            f"cannot write {path.name} in {path.parent}: {os.strerror(error.errno or 0)} "
            f"({num_bytes:,} bytes to write, {free:,} free). Free space there, raise your quota or file size limit, or "
            "choose a folder on another disk; then type the same command again. Nothing half-written was left behind",
        ) from error
