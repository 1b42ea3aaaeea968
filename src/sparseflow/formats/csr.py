"""Weights as matrices in compressed sparse rows, for SciPy and for whatever reads binsparse."""

from __future__ import annotations

import io
from pathlib import Path
from typing import NamedTuple, Protocol
from urllib.parse import quote

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sparseflow.atomic import write_atomically
from sparseflow.disk import make_folder
from sparseflow.formats.dense import state_bytes

#: File of the tensors without a mask, beside the matrices.
REST = "dense.safetensors"
#: NumPy has no bfloat16, and neither SciPy's sparse arrays nor binsparse have half precision.
_WIDENED = {torch.bfloat16: torch.float32, torch.float16: torch.float32}
_MOST = 2**31 - 1


class Rows(NamedTuple):
    """A matrix in compressed sparse rows."""

    shape: tuple[int, int]
    """Outputs, and inputs times the kernel's positions."""
    begins: NDArray[np.int32]
    """Where each row begins in the values, and the end of the last."""
    columns: NDArray[np.int32]
    """Of each value, in order within a row."""
    values: NDArray[np.floating]


class _Encode(Protocol):
    def __call__(self, rows: Rows) -> bytes: ...


def rows_of(weight: Tensor, mask: Tensor) -> Rows:
    """The active entries of a weight, also those that are zero, as a matrix of all its outputs and inputs.

    Args:
        weight: ``(out, in, *kernel)``; half precision becomes float32.
        mask: bool, of its shape.

    Raises:
        ValueError: if it has more entries than 32 bits can count.

    >>> rows_of(torch.tensor([[5.0, 0.0, 0.0]]), torch.tensor([[True, True, False]])).values
    array([5., 0.], dtype=float32)
    """
    if weight.numel() > _MOST:
        raise ValueError(f"the weight has {weight.numel()} entries, and indices of 32 bits count {_MOST}")
    active = mask.cpu().reshape(mask.shape[0], -1)
    plain = weight.detach().cpu().reshape(active.shape)
    counts = active.sum(1)
    begins = torch.cat([counts.new_zeros(1), counts.cumsum(0)]).to(torch.int32)
    columns = active.nonzero()[:, 1].to(torch.int32)
    values = plain[active].to(_WIDENED.get(plain.dtype, plain.dtype))
    return Rows((active.shape[0], active.shape[1]), begins.numpy(), columns.numpy(), values.numpy())


def write_scipy(state: dict[str, Tensor], masks: dict[str, Tensor], folder: Path) -> int:
    """Write each sparse weight to ``<name>.npz``, which ``scipy.sparse.load_npz`` reads as a ``csr_array``.

    Arguments and the rest of the folder as :func:`write_folder`.

    Raises:
        ModuleNotFoundError: if SciPy is not installed.
    """
    try:
        import scipy.sparse
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("matrices for SciPy need it: pip install scipy") from error

    def encoded(rows: Rows) -> bytes:
        file = io.BytesIO()
        # The shape is said: SciPy would end the matrix at the last column that has a value.
        matrix = scipy.sparse.csr_array((rows.values, rows.columns, rows.begins), shape=rows.shape)
        scipy.sparse.save_npz(file, matrix, compressed=False)
        return file.getvalue()

    return write_folder(state, masks, folder, encoded)


def write_binsparse(state: dict[str, Tensor], masks: dict[str, Tensor], folder: Path) -> int:
    """Write each sparse weight to ``<name>.npz``, which ``binsparse.load_binsparse`` reads as a ``CSRMatrix``.

    Arguments and the rest of the folder as :func:`write_folder`.

    Raises:
        ModuleNotFoundError: if binsparse is not installed.

    Reference: https://graphblas.org/binsparse-specification, format CSR.
    """
    try:
        import binsparse
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("binsparse files need it: pip install binsparse") from error

    def encoded(rows: Rows) -> bytes:
        arrays: dict[str, NDArray[np.generic]] = {}
        matrix = binsparse.CSRMatrix(
            rows.shape, len(rows.values), pointers_to_1=rows.begins, indices_1=rows.columns, values=rows.values
        )
        matrix.serialize(binsparse.NPZBinsparseContainer(arrays))
        file = io.BytesIO()
        np.savez(file, **arrays)  # type: ignore[arg-type]
        return file.getvalue()

    return write_folder(state, masks, folder, encoded)


def write_folder(state: dict[str, Tensor], masks: dict[str, Tensor], folder: Path, encode: _Encode) -> int:
    """Write one file for each sparse weight, and last, so that it says that all are there, one for all other tensors.

    Args:
        state: Of the dense model.
        masks: Of its sparse weights.
        folder: Made if need be.
        encode: The bytes of one file.

    Returns: bytes written.

    Raises:
        ValueError: naming the weight that the format cannot hold; nothing is written then.
    """
    files: dict[str, bytes] = {}
    for name, mask in masks.items():
        try:
            files[f"{quote(name, safe='')}.npz"] = encode(rows_of(state[name], mask))
        except ValueError as error:
            raise ValueError(f"{name!r}: {error}") from error
    files[REST] = state_bytes({name: tensor for name, tensor in state.items() if name not in masks})
    make_folder(folder)
    for file, data in files.items():
        write_atomically(folder / file, data)
    return sum(map(len, files.values()))
