"""Files that are either there whole or not there at all, whatever kills the writer."""

from __future__ import annotations

import re
import secrets
from pathlib import Path

from sparseflow.disk import File, listed, remove, rename, sync_folder, undoing

_LEFTOVER = re.compile(r"\.(?P<name>.+)\.[0-9a-f]{8}\.tmp")


def write_atomically(path: Path, data: bytes | memoryview) -> None:
    """Replace ``path`` by ``data``: a reader, or a restart after a crash, sees the old file or the new, never a part.

    The bytes go to a temporary file in the same folder, reach the disk (fsync), and take the name in one rename. What a
    killed process left of an earlier try is removed.

    The folder must exist.

    Raises:
        OSError: If the disk is full (or the write fails otherwise), naming the file; ``path`` is then as it was, or, if
            only the folder could not reach the disk, the new file.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     path = Path(folder) / "done.json"
    ...     write_atomically(path, b"{}")
    ...     path.read_bytes() == b"{}", [entry.name for entry in Path(folder).iterdir()]
    (True, ['done.json'])
    """
    remove_leftovers(path.parent, of=path.name)
    with _temporary(path, num_bytes=len(data)) as file, undoing(lambda: remove(file.path)):
        file.write(data)
        file.sync()
        rename(file.path, path, called=path)
        sync_folder(path.parent)


def remove_leftovers(folder: Path, *, of: str | None = None) -> None:
    """Delete the temporary files that killed processes left in a folder; those that are being written stay.

    Args:
        folder: Need not exist.
        of: Name of the file that they were to become; default any.
    """
    for path in listed(folder):
        found = _LEFTOVER.fullmatch(path.name)
        if found is None or of not in (None, found["name"]):
            continue
        try:
            with File(path, "existing") as file:
                if file.lock(needed=False):
                    remove(path)
        except FileNotFoundError:
            continue  # its writer has just renamed it


def _temporary(path: Path, *, num_bytes: int) -> File:
    """A new file beside ``path`` whose lock says that its writer lives."""
    while True:
        file = File(path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp"), "new", called=path, num_bytes=num_bytes)
        with undoing(file.close), undoing(lambda file=file: remove(file.path)):  # type: ignore[misc]
            file.lock(wait=True, needed=False)
            if file.has_name():  # else another process took it for a leftover before it was locked
                return file
        file.close()
