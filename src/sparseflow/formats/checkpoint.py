"""The tensors of a checkpoint, whoever wrote it: one file, or a folder as Hugging Face's libraries make it."""

from __future__ import annotations

import io
import json
import pickle
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sparseflow.disk import listed, read_bytes
from sparseflow.sealed import DamagedError

_CURE = "Save or download it again."
#: Index of a checkpoint in several files, else the files, first choice first.
_INDICES = "model.safetensors.index.json", "pytorch_model.bin.index.json"
_WEIGHTS = "*.safetensors", "pytorch_model*.bin", "*.pt", "*.pth", "*.ckpt"
_TORCH = ".bin", ".pt", ".pth", ".ckpt"
#: Where checkpoints of training keep the state of the model.
_OF_MODEL = "state_dict", "model_state_dict", "model", "module"


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """Every tensor of a checkpoint by its name there.

    Args:
        path: A ``.safetensors`` file; what ``torch.save`` wrote, of which the model's part is read; or a folder with
            either, in one file or in several with an index.

    Raises:
        FileNotFoundError: if there is nothing.
        ValueError: if a file is damaged or missing, holds no state dict, or two hold the same name.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     torch.save({"state_dict": {"weight": torch.ones(1)}, "epoch": 3}, f"{folder}/model.pt")
    ...     read_checkpoint(Path(folder))
    {'weight': tensor([1.])}
    """
    if path.is_file():
        return _read_file(path)
    if not path.is_dir():
        raise FileNotFoundError(f"there is no file and no folder {path}. Name a checkpoint (.safetensors, .pt, .bin).")
    state: dict[str, Tensor] = {}
    for file in weight_files(path):
        found = _read_file(file)
        if twice := state.keys() & found.keys():
            raise ValueError(f"{file} has {sorted(twice)[0]!r}, which another file of {path} has too. Name one file.")
        state |= found
    return state


def weight_files(folder: Path) -> list[Path]:
    """The files of a folder that hold its weights: those of the index, else the first kind that there is.

    Raises:
        FileNotFoundError: if there is none, or one of the index is missing.
        ValueError: if the index is damaged.
    """
    for index in (folder / name for name in _INDICES):
        if index.is_file():
            names = _files_of_index(index)
            if missing := [name for name in names if not (folder / name).is_file()]:
                raise FileNotFoundError(f"{folder} lacks {missing[0]}, which {index.name} names. Download it.")
            return [folder / name for name in names]
    there = listed(folder)
    for pattern in _WEIGHTS:
        if found := [file for file in there if file.match(pattern)]:
            return found
    raise FileNotFoundError(f"{folder} holds no weights: none of {', '.join(_WEIGHTS)}. Name the file.")


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file in the order in which they lie there.

    Raises:
        OSError: if it cannot be read.
        ValueError: if it is damaged.
        ModuleNotFoundError: if safetensors is not installed.
    """
    try:
        from safetensors.torch import load
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("files of tensors need safetensors: pip install safetensors") from error
    data = read_bytes(path)
    try:
        state: dict[str, Tensor] = load(data)  # whose order changes from call to call
        (length,) = struct.unpack("<Q", data[:8])
        header = json.loads(data[8 : 8 + length])
    except Exception as error:  # a damaged header ends in many kinds of errors
        raise DamagedError(path, str(error).splitlines()[0], cure=_CURE) from error
    return {name: state[name] for name in sorted(state, key=lambda name: (header[name]["data_offsets"][0], name))}


def read_saved(path: Path) -> Any:
    """What any program wrote with ``torch.save``, tensors and plain values alone, on the CPU.

    Raises:
        OSError: if it cannot be read.
        ValueError: if it is damaged, or holds other things.
    """
    data = io.BytesIO(read_bytes(path))
    try:
        # torch.load does not compare the checksums that torch.save wrote: a flipped bit would pass as a weight.
        with zipfile.ZipFile(data) as archive:
            damaged = archive.testzip()
        if damaged is not None:
            raise zipfile.BadZipFile(f"wrong checksum in {damaged}")
        data.seek(0)
        return torch.load(data, map_location="cpu", weights_only=True)
    except (zipfile.BadZipFile, RuntimeError, EOFError, LookupError, pickle.UnpicklingError) as error:
        raise DamagedError(path, str(error).splitlines()[0], cure="Save it again.") from error


def _read_file(path: Path) -> dict[str, Tensor]:
    if path.suffix == ".safetensors":
        return read_safetensors(path)
    if path.suffix not in _TORCH:
        raise ValueError(f"{path} is none of .safetensors, {', '.join(_TORCH)}. Name a checkpoint in one of these.")
    saved = read_saved(path)
    state = _state_of(saved)
    if state is None:
        held = f"with the keys {', '.join(map(str, saved))}" if isinstance(saved, dict) else "but something else"
        raise ValueError(f"{path} holds no state dict, {held}. Save it alone: torch.save(model.state_dict(), path)")
    return state


def _state_of(saved: Any) -> dict[str, Tensor] | None:
    """The model's tensors in what was saved, and the masks that SparseML keeps beside them."""
    if not isinstance(saved, Mapping):
        return None
    state = next((saved[key] for key in _OF_MODEL if isinstance(saved.get(key), Mapping)), saved)
    if not state or not all(isinstance(name, str) and isinstance(value, Tensor) for name, value in state.items()):
        return None
    masks = {
        name: mask
        for held in _values(saved.get("manager"))
        for name, mask in held.items()
        if str(name).endswith(".sparsity_mask") and isinstance(mask, Tensor)
    }
    return {**state, **masks}


def _values(manager: Any) -> list[Mapping[Any, Any]]:
    """The states of SparseML's modifiers."""
    return [held for held in manager.values() if isinstance(held, Mapping)] if isinstance(manager, Mapping) else []


def _files_of_index(index: Path) -> list[str]:
    try:
        files = sorted(set(json.loads(read_bytes(index))["weight_map"].values()))
        if not all(isinstance(name, str) and Path(name).name == name for name in files):
            raise ValueError("it names files outside its folder")
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise DamagedError(index, str(error).splitlines()[0], cure=_CURE) from error
    return files
