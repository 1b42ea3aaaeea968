"""Masks in a file that proves itself whole."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from sparseflow._checks import is_binary
from sparseflow.atomic import write_atomically
from sparseflow.attached import check_not_outdated
from sparseflow.masks.blocks import SINGLE, BlockLike, block_of
from sparseflow.sealed import DamagedError, read_tensors, tensor_bytes
from sparseflow.sharded import full
from sparseflow.types import Masks

_FORMAT, _VERSION = "sparseflow masks", "1"
_CURE = "Save the masks again."


class HasMasks(Protocol):
    """What has masks now, such as a :class:`sparseflow.Sparsifier`."""

    @property
    def masks(self) -> Masks:
        """Parameter name -> mask."""
        ...

    @property
    def block(self) -> Mapping[str, tuple[int, int]]:
        """Parameter name -> block, of those whose connections move in blocks."""
        ...


def save_masks(masks: Masks | HasMasks, path: str | os.PathLike[str], *, block: BlockLike | None = None) -> None:
    """Write masks to a safetensors file with a SHA-256 over all of them, whole or not at all.

    Args:
        masks: A :class:`sparseflow.Sparsifier`, whose masks of this moment are written, or parameter name -> mask. All
            processes must call it together where masks are in parts (FSDP2).
        path: In a folder that exists.
        block: What the masks were made with, if they are made of blocks; a Sparsifier says it itself. It is kept for
            :func:`load_block`.

    Raises:
        TypeError: if one is no bool tensor, or ``block`` no block.
        ValueError: if a byte is neither 0 nor 1, a count is no multiple of its block, or the masks are those that a
            Sparsifier was made from and has moved since.
        ModuleNotFoundError: if safetensors is not installed.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     save_masks({"weight": torch.tensor([[True, False]])}, f"{folder}/masks.safetensors")
    ...     load_masks(f"{folder}/masks.safetensors")
    {'weight': tensor([[ True, False]])}
    """
    if isinstance(masks, str | os.PathLike):
        raise TypeError("save_masks takes the masks first, then the path: sparseflow.save_masks(masks, path).")
    held = masks if isinstance(masks, Mapping) else masks.masks
    for name, mask in held.items():
        if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
            kind = mask.dtype if isinstance(mask, Tensor) else type(mask).__name__
            raise TypeError(f"the mask of {name!r} must be a bool tensor, got {kind}. Write mask.bool() or mask != 0.")
        if not is_binary(mask):
            raise ValueError(f"the mask of {name!r} has bytes that are neither 0 nor 1. Load or make the masks again.")
    check_not_outdated(held)
    if block is None:
        block = {} if isinstance(masks, Mapping) else masks.block
    blocks = {name: own for name in held if (own := block_of(block, name)) != SINGLE}
    tensors = {name: full(mask.detach()).cpu() for name, mask in held.items()}
    for name, (outputs, inputs) in blocks.items():
        if (count := int(tensors[name].sum())) % (outputs * inputs):
            raise ValueError(
                f"the mask of {name!r} is not made of blocks of {outputs} x {inputs}: it has {count} active weights. "
                "Give the block= that it was made with."
            )
    header = json.dumps({"order": list(tensors), "block": blocks} if blocks else list(tensors))
    write_atomically(Path(path), tensor_bytes(tensors, format=_FORMAT, version=_VERSION, header=header))


def load_masks(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Read masks that :func:`save_masks` wrote, in their order.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if anything in it is not what was written, or it holds something else.
    """
    masks, header = _read(Path(path))
    for name, mask in masks.items():
        if mask.dtype != torch.bool or not is_binary(mask):
            raise DamagedError(Path(path), f"{name} is no mask: masks are bool, of bytes 0 and 1", cure=_CURE)
    return {name: masks[name] for name in _order_and_block(header)[0]}


def load_block(path: str | os.PathLike[str]) -> dict[str, tuple[int, int]]:
    """Read which blocks the masks in a file are made of; give it to the method that is to move them.

    Returns: parameter name -> outputs and inputs of a block, without the names of those of single weights.

    Raises:
        FileNotFoundError, ValueError: as :func:`load_masks`.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     save_masks({"fc": torch.tensor([[True, False]] * 4)}, f"{folder}/masks.safetensors", block=(4, 1))
    ...     load_block(f"{folder}/masks.safetensors")
    {'fc': (4, 1)}
    """
    return _order_and_block(_read(Path(path))[1])[1]


def _read(path: Path) -> tuple[dict[str, Tensor], str]:
    return read_tensors(path, format=_FORMAT, version=_VERSION, cure=_CURE)


def _order_and_block(header: str) -> tuple[list[str], dict[str, tuple[int, int]]]:
    """The names of the masks in order, and their blocks; files of single weights have the names alone."""
    found = json.loads(header)
    if isinstance(found, list):
        return found, {}
    return found["order"], {name: tuple(block) for name, block in found["block"].items()}
