"""``sparse-bitmask`` and ``sparse-24-bitmask`` of compressed-tensors, which it wrote until 0.14 and reads no longer.

A weight ``fc.weight`` is stored as ``fc.compressed``, its active values in order; ``fc.bitmask``, a bit for each
entry; ``fc.shape``; and in ``sparse-bitmask`` ``fc.row_offsets``, how many values come before a row. A row of bits
begins at a byte, its first bit is the lowest.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import torch
from torch import Tensor

from sparseflow.formats.stored import Stored, Taken, check_float, shape_of, without

_PARTS = "compressed", "bitmask", "shape"
_OFFSETS = "row_offsets"


def sparse_bitmask(state: Mapping[str, Tensor]) -> Taken:
    """Take the weights of ``sparse-bitmask``: of any number of axes, active where the weight was not zero.

    Args:
        state: Tensors by name.

    Raises:
        ValueError: if the parts of a weight contradict each other, or it is quantised.

    Reference: compressed-tensors 0.14.0, ``compressors/sparse_compressors/sparse_bitmask.py``.

    >>> bits = torch.tensor([[0b101], [0b010]], dtype=torch.uint8)
    >>> parts = {"fc.compressed": torch.tensor([1.0, 2.0, 3.0]), "fc.bitmask": bits}
    >>> parts |= {"fc.shape": torch.tensor([2, 3]), "fc.row_offsets": torch.tensor([0, 2])}
    >>> sparse_bitmask(parts).weights["fc.weight"].weight
    tensor([[1., 0., 2.],
            [0., 3., 0.]])
    """
    return _take(state, with_offsets=True)


def sparse_24_bitmask(state: Mapping[str, Tensor]) -> Taken:
    """Take the weights of ``sparse-24-bitmask``: matrices with two values of every four, which may be zero.

    Arguments and errors as :func:`sparse_bitmask`.

    Reference: compressed-tensors 0.14.0, ``compressors/sparse_compressors/sparse_24_bitmask.py``.
    """
    return _take(state, with_offsets=False)


def unpacked(bitmask: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The mask whose bits are packed along its last axis, lowest bit first.

    Args:
        bitmask: uint8, ``(*shape[:-1], ceil(shape[-1] / 8))``.
        shape: Of the mask.

    Raises:
        ValueError: if it has another shape or dtype, or bits beyond the end of a row.

    >>> unpacked(torch.tensor([3, 1], dtype=torch.uint8), (9,)).int().tolist()
    [1, 1, 0, 0, 0, 0, 0, 0, 1]
    """
    packed = (*shape[:-1], -(-shape[-1] // 8))
    if bitmask.dtype != torch.uint8 or tuple(bitmask.shape) != packed:
        got = f"{str(bitmask.dtype).removeprefix('torch.')} of shape {tuple(bitmask.shape)}"
        raise ValueError(f"its bitmask is {got}, and a weight of shape {shape} needs uint8 of shape {packed}")
    bits = np.unpackbits(bitmask.numpy(), axis=-1, bitorder="little")
    if bits[..., shape[-1] :].any():
        raise ValueError(f"its bitmask has bits beyond the {shape[-1]} entries of a row")
    return torch.from_numpy(bits[..., : shape[-1]].astype(bool))


def _take(state: Mapping[str, Tensor], *, with_offsets: bool) -> Taken:
    weights: dict[str, Stored] = {}
    used: list[str] = []
    for prefix in _prefixes(state):
        if (f"{prefix}.{_OFFSETS}" in state) != with_offsets:
            continue
        parts = (*_PARTS, _OFFSETS) if with_offsets else _PARTS
        if missing := [part for part in parts if f"{prefix}.{part}" not in state]:
            raise ValueError(f"{prefix!r} has no {' and no '.join(missing)} beside its bitmask")
        # The first versions kept ``weight`` in the names.
        weight = prefix if prefix.rpartition(".")[2] == "weight" else f"{prefix}.weight"
        try:
            weights[weight] = _decompressed(*(state[f"{prefix}.{part}"] for part in parts))
        except ValueError as error:
            raise ValueError(f"of {weight!r}: {error}") from error
        used += [f"{prefix}.{part}" for part in parts]
    return Taken(weights, without(state, used))


def _prefixes(state: Mapping[str, Tensor]) -> Iterator[str]:
    return (name.removesuffix(".bitmask") for name in state if name.endswith(".bitmask"))


def _decompressed(compressed: Tensor, bitmask: Tensor, shape: Tensor, row_offsets: Tensor | None = None) -> Stored:
    check_float("compressed", compressed)
    mask = unpacked(bitmask, shape_of("shape", shape))
    if (active := int(mask.sum())) != compressed.numel():
        raise ValueError(f"its bitmask has {active} bits that are set, for {compressed.numel()} values")
    if row_offsets is not None:
        if row_offsets.dtype not in (torch.int64, torch.int32):
            raise ValueError(f"its row offsets are {row_offsets.dtype}, and must be int64")
        counts = mask.sum(-1)
        # Of three axes and more the writer adds up along the first alone.
        expected = counts.cumsum(0) - counts if counts.dim() else counts - counts
        if row_offsets.shape != expected.shape or not torch.equal(row_offsets.to(torch.int64), expected):
            raise ValueError("its row offsets are not those of its bitmask")
    elif int(mask.numel()) != 2 * active:
        raise ValueError(f"it has {active} values of {mask.numel()}, which are not two of every four")
    weight = torch.zeros(mask.shape, dtype=compressed.dtype)
    weight[mask] = compressed.reshape(-1)
    return Stored(weight, mask)
