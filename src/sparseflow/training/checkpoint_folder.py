"""The folder of a training's checkpoints: each is there whole or not at all, and its index knows every byte."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sparseflow.atomic import write_atomically
from sparseflow.disk import File, listed, make_folder, read_bytes, remove_folder, rename, sync_folder

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
    files = {file.name: [file.stat().st_size, _sha256(file)] for file in sorted(staging.iterdir())}
    whole = {**content, "files": files}
    index = {"content": whole, "sha256": _digest(whole)}
    write_atomically(staging / INDEX, json.dumps(index).encode())
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
    try:
        index = json.loads(read_bytes(path / INDEX))
        content: dict[str, Any] = index["content"]
        if index["sha256"] != _digest(content):
            raise ValueError("wrong checksum")
    except (FileNotFoundError, ValueError, LookupError, TypeError) as error:
        raise _damaged(path, INDEX, str(error)) from error
    for name, (size, checksum) in content["files"].items():
        file = path / name
        if not file.is_file():
            raise _damaged(path, name, "it is missing")
        if (found := file.stat().st_size) != size:
            raise _damaged(path, name, f"it has {found:,} bytes instead of {size:,}")
        if _sha256(file) != checksum:
            raise _damaged(path, name, "wrong checksum")
    if (step := content["sparsifier"]["step_count"]) != int(path.name):
        raise ValueError(
            f"the checkpoint {path} is under a name that is not its own: it is of step {step}. Rename it to "
            f"{step:06d}, or remove it; then type the same command again."
        )
    return content


def _damaged(path: Path, name: str, reason: str) -> ValueError:
    return ValueError(
        f"{path / name} is damaged ({reason}). Copy {path} again from where it is whole; or remove it, and the "
        "training starts from step 0."
    )


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with File(path, "read") as file:
        for chunk in file.chunks():
            digest.update(chunk)
    return digest.hexdigest()


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
