"""What was imported as plain files: dense weights with zeros, masks, and whatever else a model's folder holds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from torch import Tensor

from sparseflow.atomic import write_atomically
from sparseflow.disk import listed, make_folder, read_bytes
from sparseflow.formats.read import Imported
from sparseflow.masks.files import save_masks
from sparseflow.sealed import DamagedError

#: Names of the two files.
STATE, MASKS = "model.safetensors", "masks.safetensors"
_CONFIG = "config.json"
#: Entries of a ``config.json`` that tell a loader to decompress.
_COMPRESSION = "quantization_config", "compression_config", "sparsity_config"
#: Files beside the weights that belong to the model: its tokenizer, its generation settings.
_KEPT = ".json", ".txt", ".jinja", ".model"


def write_dense(found: Imported, folder: Path, *, source: Path | None = None) -> list[Path]:
    """Write an imported network to a folder that everybody reads: ``model.safetensors`` and ``masks.safetensors``.

    If the source is a folder of a Hugging Face model, its configuration and tokenizer are copied, the configuration
    without the entries that ask for decompression, so that ``from_pretrained(folder)`` loads the weights.

    Args:
        found: What :func:`sparseflow.formats.read` found.
        folder: Made if need be.
        source: Where it was read from.

    Returns: the files written. The model comes last: where it is, the others are.

    Raises:
        ValueError: if the folder is the source.
        ModuleNotFoundError: if safetensors is not installed.
    """
    if source is not None and folder.exists() and source.is_dir() and folder.samefile(source):
        raise ValueError(f"{folder} is what is read. Name another folder with --out.")
    copied = {} if source is None or not source.is_dir() else _beside_weights(source)
    data = state_bytes(found.state)
    make_folder(folder)
    save_masks(found.masks, folder / MASKS)
    for name, text in copied.items():
        write_atomically(folder / name, text)
    write_atomically(folder / STATE, data)
    return [folder / name for name in (MASKS, *copied, STATE)]


def state_bytes(state: dict[str, Tensor]) -> bytes:
    """A state dict as a plain safetensors file that Hugging Face's libraries read too.

    Raises:
        ModuleNotFoundError: if safetensors is not installed.
    """
    try:
        from safetensors.torch import save
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("files of tensors need safetensors: pip install safetensors") from error
    # Tied weights share memory, which the format has no place for: each gets its own.
    alone = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in state.items()}
    written: bytes = save(alone, metadata={"format": "pt"})  # one entry: the bytes are the same each time
    return written


def _beside_weights(source: Path) -> dict[str, bytes]:
    files = [path for path in listed(source) if path.suffix in _KEPT and not path.name.endswith(".index.json")]
    found = {path.name: read_bytes(path) for path in files if path.is_file()}
    if _CONFIG in found:
        found[_CONFIG] = _plain_config(source / _CONFIG, found[_CONFIG])
    return found


def _plain_config(path: Path, data: bytes) -> bytes:
    try:
        config: Any = json.loads(data)
        if not isinstance(config, dict):
            raise ValueError("it holds no object")
    except ValueError as error:
        raise DamagedError(path, str(error), cure="Download it again.") from error
    plain = {name: value for name, value in config.items() if name not in _COMPRESSION}
    return f"{json.dumps(plain, indent=2)}\n".encode()
