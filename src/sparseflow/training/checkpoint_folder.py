"""The folder of a training's checkpoints: each is there whole or not at all, and its index knows every byte."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sparseflow.atomic import write_atomically
from sparseflow.disk import File, listed, make_folder, remove_folder, rename, sync_folder
from sparseflow.sealed import DamagedError, read_json, to_json

INDEX = "index.json"
#: Ends of the names of folders that are being written and being removed; no start reads them.
_NEW, _OLD = ".new", ".old"


def latest_checkpoint(folder: Path) -> Path | None:
    """The checkpoint of the most steps, if there is one.

    >>> latest_checkpoint(Path("nothing-here")) is None
    True
    """
    return max(_checkpoints(folder), key=lambda path: int(path.name), default=None)


def staging_of(path: Path) -> Path:
    """The folder in which the files of a checkpoint are written, until it is complete."""
    return path.with_name(path.name + _NEW)


def _checkpoints(folder: Path) -> list[Path]:
    return [path for path in listed(folder) if re.fullmatch(r"\d{6,}", path.name)]


def make_room(path: Path) -> None:
    """Remove the leftovers of a killed process beside a checkpoint that is going to be written.

    Raises:
        FileExistsError: if there is a checkpoint of this step or a later one.
    """
    folder = path.parent
    make_folder(folder)
    _remove_leftovers(folder)
    latest = latest_checkpoint(folder)
    if latest is not None and int(latest.name) >= int(path.name):
        raise FileExistsError(
            f"{folder} has a checkpoint of step {int(latest.name)}, and this training is at step {int(path.name)}. "
            "Load that one first, or give another folder."
        )


def complete(path: Path, content: Mapping[str, Any]) -> None:
    """Give the written files their index and the folder its name, then remove older checkpoints.

    Args:
        path: The checkpoint, whose files are in :func:`staging_of` it and on the disk.
        content: Plain values for the index, which gets the size and SHA-256 of each file too.
    """
    staging = staging_of(path)
    files = {file.name: [file.stat().st_size, _sha256(file)] for file in listed(staging)}
    whole = {**content, "files": files}
    write_atomically(staging / INDEX, to_json(whole))
    rename(staging, path, called=path)
    sync_folder(path.parent)
    remove_others(path)


def remove_others(path: Path) -> None:
    """Remove the checkpoints beside one, and what killed processes left of theirs."""
    _remove_leftovers(path.parent)
    for other in _checkpoints(path.parent):
        if other != path:
            # A folder that is removed file by file must not look like a checkpoint.
            removed = other.with_name(other.name + _OLD)
            rename(other, removed)
            remove_folder(removed)


def _remove_leftovers(folder: Path) -> None:
    for path in listed(folder):
        if re.fullmatch(rf"\d{{6,}}({re.escape(_NEW)}|{re.escape(_OLD)})", path.name):
            remove_folder(path)


def verified(path: Path) -> dict[str, Any]:
    """The content of the index, after the checksum of every byte was compared.

    Raises:
        ValueError: naming the file that is missing or damaged.
    """
    cure = f"Copy {path} again from where it is whole; or remove it, and the training starts from step 0."
    if not (path / INDEX).is_file():
        raise DamagedError(path / INDEX, "it is missing", cure=cure)
    content = read_json(path / INDEX, cure=cure)
    for name, (size, checksum) in content["files"].items():
        file = path / name
        if not file.is_file():
            raise DamagedError(file, "it is missing", cure=cure)
        if (found := file.stat().st_size) != size:
            raise DamagedError(file, f"it has {found:,} bytes instead of {size:,}", cure=cure)
        if _sha256(file) != checksum:
            raise DamagedError(file, "wrong checksum", cure=cure)
    if (step := content["sparsifier"]["step_count"]) != int(path.name):
        raise ValueError(
            f"the checkpoint {path} is under a name that is not its own: it is of step {step}. Rename it to "
            f"{step:06d}, or remove it; then type the same command again."
        )
    return content


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with File(path, "read") as file:
        for chunk in file.chunks():
            digest.update(chunk)
    return digest.hexdigest()
