"""The file of a sparse model: active values, the gaps between them, and a checksum over everything."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sparseflow.engine.layers.pattern import Pattern
from sparseflow.sealed import read_tensors, tensor_bytes

#: A tensor of the state as it is, or a sparse weight: where its active entries are, and what they are.
Entry = Tensor | tuple[Pattern, Tensor]

_FORMAT, _VERSION = "sparseflow sparse model", "1"
# A colon cannot come from a parameter's name made of identifiers and dots.
_VALUES, _GAPS = ":values", ":gaps"


def pack(positions: NDArray[np.int64]) -> NDArray[Any]:
    """Ascending positions as the gaps between them, in 8 or 16 bits, whichever takes less room.

    The largest number of the type means "this far, and on": a gap g is g // 255 times 255, then g % 255. At density d a
    gap is 1 / d on average, so a position takes 1 byte down to a density of about 0.003, and 2 bytes below.

    >>> pack(np.array([3, 4, 300])).tolist()
    [3, 1, 255, 41]
    """
    gaps = np.diff(positions, prepend=0)
    escapes = {dtype: int(np.iinfo(dtype).max) for dtype in (np.uint8, np.uint16)}
    dtype = min(escapes, key=lambda kind: (len(gaps) + int((gaps // escapes[kind]).sum())) * np.dtype(kind).itemsize)
    further, rest = np.divmod(gaps, escapes[dtype])
    ends = np.cumsum(further + 1) - 1
    codes = np.full(int(ends[-1]) + 1 if len(ends) else 0, escapes[dtype], dtype)
    codes[ends] = rest
    return codes


def unpack(codes: NDArray[Any]) -> NDArray[np.int64]:
    """The positions that :func:`pack` was given.

    >>> unpack(np.array([3, 1, 255, 41], np.uint8)).tolist()
    [3, 4, 300]
    """
    reached: NDArray[np.int64] = np.cumsum(codes, dtype=np.int64)
    ends: NDArray[np.bool_] = codes != np.iinfo(codes.dtype).max
    return reached[ends]


@dataclass(frozen=True)
class Content:
    """The content of a file."""

    entries: dict[str, Entry]
    """All names of the dense state; tied names have the same entry."""
    groups: dict[str, int]
    """Groups of the weights, where the model was known."""


def dense_tensor(entry: Entry) -> Tensor:
    """The dense tensor of an entry, with its zeros."""
    return entry[0].scatter(entry[1]) if isinstance(entry, tuple) else entry


def dense_bytes(entry: Entry) -> int:
    """Bytes of the dense tensor of an entry."""
    if isinstance(entry, tuple):
        return math.prod(entry[0].shape) * entry[1].element_size()
    return entry.numel() * entry.element_size()


def to_bytes(content: Content) -> bytes:
    """The bytes of a file."""
    tensors: dict[str, Tensor] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    blocks: dict[str, int] = {}
    tied: dict[str, str] = {}
    first: dict[int, str] = {}
    for name, entry in content.entries.items():
        if first.setdefault(id(entry), name) != name:
            tied[name] = first[id(entry)]
        elif isinstance(entry, tuple):
            pattern, values = entry
            shapes[name] = pattern.shape
            if pattern.block > 1:
                blocks[name] = pattern.block
            tensors[name + _VALUES] = values.detach()
            tensors[name + _GAPS] = torch.from_numpy(pack(pattern.places().numpy()))
        else:
            tensors[name] = entry
    header = {"shapes": shapes, "groups": content.groups, "tied": tied} | ({"blocks": blocks} if blocks else {})
    return tensor_bytes(tensors, format=_FORMAT, version=_VERSION, header=json.dumps(header))


def read(path: Path) -> Content:
    """The content of a file, checked.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is damaged, of another kind or version, or not consistent: places that repeat or are
            outside the weight, other numbers of values than of places, values that are no floating point numbers.
    """
    cure = f"Export the model again; a dense state dict becomes a sparse file by: sparseflow export {path} OUT"
    tensors, text = read_tensors(path, format=_FORMAT, version=_VERSION, cure=cure)
    header = json.loads(text)
    groups, blocks = header["groups"], header.get("blocks", {})
    entries: dict[str, Entry] = {name: t for name, t in tensors.items() if not name.endswith((_VALUES, _GAPS))}
    for name, shape in header["shapes"].items():
        try:
            entries[name] = _sparse_entry(tensors, name, tuple(shape), groups.get(name, 1), blocks.get(name, 1))
        except ValueError as error:
            raise ValueError(f"{path} is not valid at {name!r}: {error}") from error
    entries |= {name: entries[first] for name, first in header["tied"].items()}
    return Content(entries, groups)


def _sparse_entry(
    tensors: Mapping[str, Tensor], name: str, shape: tuple[int, ...], groups: int, block: int
) -> tuple[Pattern, Tensor]:
    values, gaps = tensors.get(name + _VALUES), tensors.get(name + _GAPS)
    if values is None or gaps is None:
        raise ValueError(f"it has a shape, but not both of {name}{_VALUES} and {name}{_GAPS}.")
    if not values.is_floating_point() or gaps.dtype not in (torch.uint8, torch.uint16) or gaps.dim() != 1:
        raise ValueError(
            f"values must be floating point and gaps a row of uint8 or uint16, got {values.dtype} and {gaps.dtype}."
        )
    codes = gaps.numpy()
    places = unpack(codes)
    if values.shape != (len(places) * block,) or (len(codes) and codes[-1] == np.iinfo(codes.dtype).max):
        raise ValueError(f"it has {values.numel()} values for {len(places)} places" + f" of {block}." * (block > 1))
    return Pattern.at(torch.from_numpy(places), shape, groups=groups, block=block), values
