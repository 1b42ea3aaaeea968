"""One door to files for other tools."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from sparseflow._checks import check_choice, check_masks
from sparseflow.atomic import write_atomically
from sparseflow.attached import check_current
from sparseflow.formats.csr import write_binsparse, write_scipy
from sparseflow.formats.dense import state_bytes
from sparseflow.masks.imported import masks_of_model, masks_of_state, plain_name, remove_pruning
from sparseflow.types import Masks

_Write = Callable[[dict[str, Tensor], dict[str, Tensor], Path], int]


@dataclass(frozen=True)
class Format:
    """A format of numbers and names: what writes it, and what it is."""

    write: _Write
    """Of a dense state, its masks, and a path: bytes written."""
    meaning: str


def _write_engine(state: dict[str, Tensor], masks: dict[str, Tensor], path: Path) -> int:
    from sparseflow.engine.files.export import save

    return save(state, path, masks=masks)[1]


def _write_safetensors(state: dict[str, Tensor], masks: dict[str, Tensor], path: Path) -> int:
    data = state_bytes(state)
    write_atomically(path, data)
    return len(data)


#: Name of a format -> what it is. Graphs are written by :func:`sparseflow.engine.to_onnx`: they need an example.
FORMATS: dict[str, Format] = {
    "engine": Format(_write_engine, "one file, active values and gaps; read by sparseflow.engine.load"),
    "safetensors": Format(_write_safetensors, "one file, dense weights with zeros; read by everything"),
    "scipy": Format(write_scipy, "a folder, a csr_array for each sparse weight; read by scipy.sparse.load_npz"),
    "binsparse": Format(write_binsparse, "a folder, a CSR matrix for each sparse weight; read by load_binsparse"),
}


def write(
    model: nn.Module | Mapping[str, Tensor],
    path: str | os.PathLike[str],
    *,
    format: str,
    masks: Masks | None = None,
) -> int:
    """Write a sparse model for another tool.

    ``"engine"``: active values and gaps, 5 bytes for an active float32. ``"safetensors"``: dense with zeros, as a
    checkpoint of Hugging Face's libraries; masks go beside it by :func:`sparseflow.save_masks`. ``"scipy"`` and
    ``"binsparse"``: a folder with one matrix in compressed sparse rows, ``(out, in * kernel)`` with int32 indices, for
    each sparse weight, and ``dense.safetensors`` for all other tensors; active weights that are zero are kept, half
    precision becomes float32. For a graph see :func:`sparseflow.engine.to_onnx`.

    Args:
        model: Converted, held by a Sparsifier, or dense with zeros; or a state dict.
        path: A file or a folder, by the format.
        format: A key of ``FORMATS``.
        masks: Parameter name -> bool tensor; entries off them are dropped. Default: those of converted layers, and of
            :func:`sparseflow.masks_of`.

    Returns: bytes written.

    Raises:
        TypeError, ValueError: if the format is unknown, or a mask does not fit or is of an earlier time.
        ModuleNotFoundError: if the package of the format is not installed.

    >>> from tempfile import TemporaryDirectory
    >>> import scipy.sparse
    >>> with TemporaryDirectory() as folder:
    ...     _ = write({"fc.weight": torch.tensor([[1.0, 0.0], [0.0, 2.0]])}, folder, format="scipy")
    ...     scipy.sparse.load_npz(f"{folder}/fc.weight.npz").toarray()
    array([[1., 0.],
           [0., 2.]], dtype=float32)
    """
    check_choice(format, FORMATS, name="format")
    state, own = dense_and_masks(model, masks)
    return FORMATS[format].write(state, own, Path(path))


def dense_and_masks(
    model: nn.Module | Mapping[str, Tensor], masks: Masks | None = None
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The dense state of a model with zeros off its masks, and the masks.

    Arguments and errors as :func:`write`.
    """
    if isinstance(model, nn.Module):
        from sparseflow.engine.convert import dense_state_dict
        from sparseflow.engine.convert import masks_of as masks_of_converted

        state, parameters = dense_state_dict(model), dict(model.named_parameters())
        found = {**masks_of_model(model), **masks_of_converted(model)}
    else:
        state, parameters = {plain_name(name): tensor for name, tensor in model.items()}, {}
        found = masks_of_state(state)
    state = remove_pruning(state)
    if masks is not None:
        check_masks(masks, state)
        check_current(masks, {**state, **parameters})
        found = dict(masks)
    if not found:
        raise ValueError(
            "nothing in the model is sparse: no weight has a mask, or a hundredth of zeros. Give masks=, or make it "
            "sparse: sparseflow.magnitude_masks(model, sparsity)"
        )
    zeroed = {name: torch.where(found[name].to(state[name].device), state[name].detach(), 0) for name in found}
    return {name: zeroed.get(name, tensor) for name, tensor in state.items()}, found
