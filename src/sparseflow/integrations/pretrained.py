"""A sparse model in the folder that ``from_pretrained`` reads: whole or not at all, zeros where no weights are."""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import Any

from torch import Tensor, distributed, nn

from sparseflow.disk import File, make_folder, remove_folder, rename, sync_folder
from sparseflow.masks.select import unwrap
from sparseflow.sharded import full, is_sharded


def save_pretrained(model: nn.Module, folder: str | os.PathLike[str], **options: Any) -> None:
    """Save a sparse model as its dense class reads it, ``from_pretrained``: zeros where no weights are.

    A model of :func:`sparseflow.engine.convert` is made dense first. The folder is written whole beside its place and
    takes its name by one rename; one that is there before is put aside until then. Of several processes the first one
    writes; all must call it where weights are in parts (FSDP2).

    Args:
        model: With a ``save_pretrained`` of its own; masked, or of :func:`sparseflow.engine.convert`.
        folder: Made, or replaced.
        options: Of the model's own ``save_pretrained``.

    Raises:
        TypeError: if the model has no ``save_pretrained``.
        OSError: if the disk is full; a folder of before stays.

    ``sparseflow.masks_of(model)`` gives the masks of what ``from_pretrained`` has read.
    """
    model, folder = unwrap(model), Path(os.path.abspath(folder))
    if not hasattr(model, "save_pretrained"):
        raise TypeError(
            f"{type(model).__name__} has no save_pretrained, as models of transformers have. Write "
            "torch.save(model.state_dict(), path), or sparseflow.engine.save(model, path)."
        )
    if "save_pretrained" in vars(model):  # which the engine gives to what it converts
        from sparseflow.engine.convert import to_dense

        model = to_dense(model)
    is_first = not (distributed.is_available() and distributed.is_initialized()) or distributed.get_rank() == 0
    if any(map(is_sharded, model.parameters())):
        options = {"state_dict": _gathered(model, keep=is_first), **options}
    if not is_first:
        return  # the model's own save_pretrained writes nothing here, and an empty folder would take the place
    make_folder(folder.parent)
    beside = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.tmp")
    aside = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.old")
    try:
        model.save_pretrained(beside, **options)  # type: ignore[operator]
        for file in beside.rglob("*"):
            if file.is_file():
                with File(file, "existing") as opened:
                    opened.sync()
        if folder.exists():
            rename(folder, aside)
        rename(beside, folder)
        sync_folder(folder.parent)
    except BaseException:
        if aside.exists() and not folder.exists():
            rename(aside, folder)
        raise
    finally:
        remove_folder(beside)
    remove_folder(aside)


def _gathered(model: nn.Module, *, keep: bool) -> dict[str, Tensor]:
    """What all processes hold together, tied weights tied, on the CPU; nothing where it is not kept."""
    whole: dict[str, Tensor] = {}
    first: dict[int, str] = {}
    for name, part in model.state_dict(keep_vars=True).items():
        if id(part) not in first:
            first[id(part)] = name
            tensor = full(part.detach())  # by all processes
            if keep:
                whole[name] = tensor.cpu()
        elif keep:
            whole[name] = whole[first[id(part)]]
    return whole
