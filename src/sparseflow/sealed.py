"""Files that prove themselves whole: each carries a SHA-256 of its content, and damage is refused by name.

The digest is a key of a JSON object, an entry of safetensors' metadata, the comment of a zip archive such as torch
writes, or, for formats without a place for it, a file beside it that ``sha256sum --check`` reads too.
"""

from __future__ import annotations

import hashlib
import io
import json
import struct
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from sparseflow.atomic import write_atomically
from sparseflow.disk import read_bytes

#: Key of the digest in JSON objects and metadata, and ending of the files that hold one for others.
KEY = "sha256"
#: File of a folder with the digests of the others.
SUMS = "SHA256SUMS"
_COMMENT = b"sha256:"
_HEX = 64


class DamagedError(ValueError):
    """A file that is not what was written."""

    def __init__(self, path: Path | str, reason: str, *, cure: str) -> None:
        super().__init__(f"{path} is damaged ({reason}). {cure}")


_WRONG = "its content does not match its SHA-256"
_NONE = "it carries no SHA-256, as files of earlier versions do"

# -- JSON -----------------------------------------------------------------------------------------------------------


def to_json(values: Mapping[str, Any], *, indent: int | None = None) -> bytes:
    """A JSON object with the SHA-256 of its values as its last key.

    Args:
        values: Plain values; the order of keys counts.
        indent: As for ``json.dumps``.

    >>> to_json({"a": 1})[:22]
    b'{"a": 1, "sha256": "f9'
    """
    whole = {**values, KEY: _of_values(values)}
    return f"{json.dumps(whole, indent=indent)}\n".encode()


def read_json(path: Path, *, cure: str) -> dict[str, Any]:
    """The values of :func:`to_json` in a file, without the digest.

    Args:
        path: The file.
        cure: Ends the text of an error: what to type.

    Raises:
        OSError: if it cannot be read.
        DamagedError: if a value, a key or their order is another, or there is no digest.
    """
    data = read_bytes(path)
    try:
        values = json.loads(data)
        if not isinstance(values, dict):
            raise ValueError("it holds no object")
    except ValueError as error:
        raise DamagedError(path, str(error), cure=cure) from error
    if (digest := values.pop(KEY, None)) is None:
        raise DamagedError(path, _NONE, cure=cure)
    if digest != _of_values(values):
        raise DamagedError(path, _WRONG, cure=cure)
    return values


def _of_values(values: Mapping[str, Any]) -> str:
    # Keys that are no text become text in the file, as in what is read from it.
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()


# -- tensors --------------------------------------------------------------------------------------------------------


def tensor_bytes(tensors: Mapping[str, Tensor], *, format: str, version: str, header: str = "") -> bytes:
    """A safetensors file with the digest of every tensor's name, dtype, shape and bytes in its metadata.

    Args:
        tensors: On the CPU; views of one storage are copied.
        format, version: Its kind, which :func:`read_tensors` compares.
        header: Text that the digest covers too.

    Raises:
        ModuleNotFoundError: if safetensors is not installed.
    """
    whole = {name: _alone(tensor.contiguous()) for name, tensor in tensors.items()}
    metadata = {"format": format, "version": version, "header": header, KEY: _of_tensors(whole, header)}
    return _ordered(_safetensors().torch.save(whole, metadata=metadata))


def _ordered(data: bytes) -> bytes:
    """The same file with its metadata in order: safetensors writes them in another order each time."""
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # tensors stay aligned
    return struct.pack("<Q", len(text)) + text + data[8 + length :]


def read_tensors(path: Path, *, format: str, version: str, cure: str) -> tuple[dict[str, Tensor], str]:
    """The tensors and the header of a file of :func:`tensor_bytes`.

    Args:
        path: The file.
        format, version: What it must be.
        cure: Ends the text of an error: what to type.

    Raises:
        OSError: if it cannot be read.
        DamagedError: if anything in it is not what was written, or there is no digest.
        ValueError: if it is another kind of file, or of another version.
    """
    data, load = read_bytes(path), _safetensors().torch.load
    try:
        tensors: dict[str, Tensor] = dict(sorted(load(data).items()))  # whose order changes from call to call
        (length,) = struct.unpack("<Q", data[:8])
        metadata = json.loads(data[8 : 8 + length]).get("__metadata__", {})
    except Exception as error:  # a damaged header ends in many kinds of errors
        raise DamagedError(path, str(error).splitlines()[0], cure=cure) from error
    if metadata.get("format") != format:
        raise ValueError(f"{path} is another kind of safetensors file, not {format!r}. {cure}")
    if not metadata.keys() & {"version", KEY}:
        raise DamagedError(path, _NONE, cure=cure)
    if (there := metadata.get("version")) != version:
        raise ValueError(f"{path} has version {there} of the format, this sparseflow reads {version}. Update it.")
    if metadata.get(KEY) != _of_tensors(tensors, metadata.get("header", "")):
        raise DamagedError(path, _WRONG, cure=cure)
    return tensors, metadata.get("header", "")


def _of_tensors(tensors: Mapping[str, Tensor], header: str) -> str:
    digest = hashlib.sha256(header.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _alone(tensor: Tensor) -> Tensor:
    # Safetensors refuses tensors that share a storage.
    return tensor if tensor.untyped_storage().nbytes() == tensor.nbytes else tensor.clone()


def _safetensors() -> ModuleType:
    try:
        import safetensors.torch
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("files of tensors need safetensors: pip install safetensors") from error
    return safetensors


# -- archives of torch.save -----------------------------------------------------------------------------------------


def seal_archive_(archive: io.BytesIO) -> None:
    """Give a zip archive, such as ``torch.save`` writes, the digest of all its bytes as its comment, in place.

    Args:
        archive: Without a comment.
    """
    archive.seek(-2, io.SEEK_END)  # the length of the comment ends an archive without one
    archive.write(struct.pack("<H", len(_COMMENT) + _HEX))
    digest = hashlib.sha256(archive.getbuffer()).hexdigest()
    archive.write(_COMMENT + digest.encode())


def read_archive(path: Path, *, cure: str) -> bytes:
    """The bytes of an archive of :func:`seal_archive_` in a file, which ``torch.load`` takes.

    Args:
        path: The file.
        cure: Ends the text of an error: what to type.

    Raises:
        OSError: if it cannot be read.
        DamagedError: if a byte is another, or there is no digest.
    """
    data = read_bytes(path)
    end = len(data) - _HEX - len(_COMMENT)
    if end < 0 or data[end:-_HEX] != _COMMENT:
        raise DamagedError(path, _NONE, cure=cure)
    if hashlib.sha256(memoryview(data)[:end]).hexdigest().encode() != data[-_HEX:]:
        raise DamagedError(path, _WRONG, cure=cure)
    return data


# -- digests beside files -------------------------------------------------------------------------------------------


def sums(files: Mapping[str, bytes]) -> bytes:
    r"""The digests of files by name, one a line, as ``sha256sum`` writes them.

    >>> sums({"a.csv": b""})
    b'e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855  a.csv\n'
    """
    return "".join(f"{hashlib.sha256(files[name]).hexdigest()}  {name}\n" for name in sorted(files)).encode()


def check_sum(name: str, data: bytes, listed: bytes, *, source: str, cure: str) -> None:
    """Check that a file is the one that a list of digests names.

    Args:
        name: Of the file, as listed.
        data: Its bytes.
        listed: Of :func:`sums`.
        source: Name of the file that holds the list.
        cure: Ends the text of an error: what to type.

    Raises:
        DamagedError: if its digest is another or not listed.
    """
    lines = listed.decode(errors="replace").splitlines()
    found = [line[:_HEX] for line in lines if line[_HEX:] == f"  {name}"]
    if not found:
        raise DamagedError(name, f"{source} does not name it", cure=cure)
    if hashlib.sha256(data).hexdigest() not in found:
        raise DamagedError(name, f"its content does not match its SHA-256 in {source}", cure=cure)


def beside(path: Path) -> Path:
    """The file that holds the digest of another one, whose format has no place for it.

    >>> beside(Path("signal.csv")).name
    'signal.csv.sha256'
    """
    return path.with_name(f"{path.name}.{KEY}")


def write_with_digest(path: Path, data: bytes) -> None:
    """Write a file atomically, and its digest :func:`beside` it.

    Until the file has its name, the digests of the old one and of the new are both there: whatever is killed whenever,
    :func:`read_with_digest` reads one of the two.

    Raises:
        OSError: if either cannot be written.
    """
    digest = sums({path.name: data})
    if path.is_file():
        write_atomically(beside(path), sums({path.name: read_bytes(path)}) + digest)
    write_atomically(path, data)
    write_atomically(beside(path), digest)


def read_with_digest(path: Path, *, cure: str) -> bytes:
    """The bytes that :func:`write_with_digest` wrote.

    Args:
        path: The file.
        cure: Ends the text of an error: what to type.

    Raises:
        OSError: if it cannot be read.
        DamagedError: if a byte is another, or its digest is missing.
    """
    data, digest = read_bytes(path), beside(path)
    if not digest.is_file():
        raise DamagedError(path, f"there is no {digest.name}, as of files of earlier versions", cure=cure)
    check_sum(path.name, data, read_bytes(digest), source=str(digest), cure=cure)
    return data
