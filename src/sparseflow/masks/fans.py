"""Fan-in and fan-out of every layer type, counted over the active weights only."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Layout:
    """The axes of a weight that are units, inputs and kernel positions.

    A weight is read as ``(blocks, units, inputs, *kernel)`` after splitting its first axis into ``blocks``, or as
    ``(blocks, inputs, units, *kernel)`` when ``transposed``.

    Args:
        transposed: Inputs come first, as in ``nn.ConvTranspose2d``.
        blocks: Independent matrices that share the first axis: groups of a convolution, the q/k/v of attention,
            the gates of an LSTM (4) or GRU (3).
        lookup: Rows are looked up one at a time, as in ``nn.Embedding``: a unit sees one input, not the sum over all.
        stacked: Independent matrices have a first axis of their own, as experts have: ``(experts, units, inputs)``, or
            ``(experts, inputs, units)`` when ``transposed``.

    Raises:
        ValueError: if the matrices are both stacked and in blocks.
    """

    transposed: bool = False
    blocks: int = 1
    lookup: bool = False
    stacked: bool = False

    def __post_init__(self) -> None:
        if self.stacked and self.blocks != 1:
            raise ValueError(
                f"a stacked layout has one matrix per entry of the first axis, and no blocks; got blocks={self.blocks}."
            )


#: ``nn.Linear`` and ungrouped convolutions.
PLAIN = Layout()


def _check_shape(shape: tuple[int, ...], layout: Layout) -> None:
    if layout.stacked and len(shape) < 3:
        raise ValueError(f"stacked matrices need at least three axes, (matrices, units, inputs), got {tuple(shape)}.")
    if len(shape) < 2 or shape[0] % layout.blocks:
        raise ValueError(
            f"a weight needs at least two axes and a first axis that divides into {layout.blocks} blocks, "
            f"got shape {tuple(shape)}."
        )


def _split(tensor: Tensor, layout: Layout) -> Tensor:
    """View as (blocks, units, inputs, *kernel)."""
    _check_shape(tensor.shape, layout)
    split = tensor if layout.stacked else tensor.reshape(layout.blocks, -1, *tensor.shape[1:])
    return split.transpose(1, 2) if layout.transposed or layout.lookup else split


def _merge(tensor: Tensor, layout: Layout) -> Tensor:
    """Inverse of :func:`_split`; broadcast axes stay broadcast."""
    if layout.transposed or layout.lookup:
        tensor = tensor.transpose(1, 2)
    return tensor if layout.stacked else tensor.flatten(0, 1)


def matrices(tensor: Tensor, layout: Layout = PLAIN) -> Tensor:
    """View as ``(matrices, outputs, columns)``, where a column is an input at a kernel position; else a copy.

    >>> matrices(torch.ones(6, 4, 3, 3), Layout(transposed=True, blocks=2)).shape
    torch.Size([2, 4, 27])
    """
    return _split(tensor, layout).flatten(2)


def matrices_shape(shape: tuple[int, ...], layout: Layout = PLAIN) -> tuple[int, int, int]:
    """Shape of :func:`matrices` for a weight of this shape.

    Raises:
        ValueError: as :func:`dense_fans`.

    >>> matrices_shape((6, 4, 3, 3), Layout(transposed=True, blocks=2))
    (2, 4, 27)
    """
    _check_shape(shape, layout)
    count, first, second, *kernel = shape if layout.stacked else (layout.blocks, shape[0] // layout.blocks, *shape[1:])
    outputs, inputs = (second, first) if layout.transposed or layout.lookup else (first, second)
    return count, outputs, inputs * math.prod(kernel)


def weight_of(matrix: Tensor, shape: tuple[int, ...], layout: Layout = PLAIN) -> Tensor:
    """Inverse of :func:`matrices`: contiguous, of the weight's shape."""
    kernel = shape[3:] if layout.stacked else shape[2:]
    return _merge(matrix.unflatten(2, (-1, *kernel)), layout).contiguous()


def _count(split: Tensor, axes: tuple[int, ...]) -> Tensor:
    if split.dtype == torch.bool:  # added several times as slowly as bytes
        return split.view(torch.int8).sum(axes, keepdim=True, dtype=torch.int32).float()
    return split.sum(axes, keepdim=True, dtype=torch.float32)


def fan_in(mask: Tensor, layout: Layout = PLAIN) -> Tensor:
    r"""Active inputs of each unit, receptive field included.

    .. math:: n_i = \sum_{j,\,\mathrm{kernel}} m_{ij}

    For a lookup (``nn.Embedding``) a unit sees one row at a time, so ``n_i`` is the expected number of active inputs of
    one lookup: active rows of the column over all rows, at most 1. Strides are ignored.

    Args:
        mask: bool or 0/1, the weight's shape.
        layout: Which axis is which.

    Returns: float32, broadcastable to ``mask``; one value per unit, repeated over inputs only where groups of a
    transposed convolution have units of their own.

    Reference: Evci et al. (2022), Eqs. 1 and 12-14.

    >>> fan_in(torch.tensor([[True, True], [False, True]]))
    tensor([[2.],
            [1.]])
    """
    split = _split(mask, layout)
    counts = _count(split, tuple(range(2, split.dim())))
    if layout.lookup:
        counts = counts / mask.shape[0]
    inputs = split.shape[2] if layout.transposed and layout.blocks > 1 else 1
    return _merge(counts.expand(-1, -1, inputs, *[1] * (split.dim() - 3)), layout)


def fan_out(mask: Tensor, layout: Layout = PLAIN) -> Tensor:
    r"""Active outputs of each input channel, receptive field included.

    .. math:: n_j = \sum_{i,\,\mathrm{kernel}} m_{ij}

    Args:
        mask: bool or 0/1, the weight's shape.
        layout: Which axis is which; inputs are counted within their block.

    Returns: float32, broadcastable to ``mask`` after expansion over units (each block has its own inputs).

    Reference: Evci et al. (2022), Eqs. 24-26.

    >>> fan_out(torch.tensor([[True, True], [False, True]]))
    tensor([[1., 2.],
            [1., 2.]])
    """
    split = _split(mask, layout)
    counts = _count(split, (1, *range(3, split.dim())))
    return _merge(counts.expand(-1, split.shape[1], -1, *[1] * (split.dim() - 3)), layout)


def dense_fans(shape: torch.Size | tuple[int, ...], layout: Layout = PLAIN) -> tuple[float, float]:
    """Fan-in and fan-out of the unmasked weight; for the plain layout those of ``torch.nn.init``.

    Raises:
        ValueError: if the shape has fewer than two axes or does not divide into the layout's blocks.

    >>> dense_fans((16, 6, 5, 5)), dense_fans((6, 16, 5, 5), Layout(transposed=True))
    ((150.0, 400.0), (150.0, 400.0))
    >>> dense_fans((8, 64, 32), Layout(stacked=True))  # eight experts of 64 units with 32 inputs each
    (32.0, 64.0)
    """
    _check_shape(shape, layout)
    first, second, *kernel = shape[1:] if layout.stacked else shape
    first = first // layout.blocks
    receptive = 1
    for size in kernel:
        receptive *= size
    if layout.lookup:
        return 1.0, float(second)
    units, inputs = (second, first) if layout.transposed else (first, second)
    return float(inputs * receptive), float(units * receptive)


def unit_counts(mask: Tensor, layout: Layout = PLAIN) -> tuple[int, int]:
    """Units without any active input, and input channels without any active output.

    >>> unit_counts(torch.tensor([[True, False], [False, False]]))
    (1, 1)
    """
    split = _split(mask, layout)
    no_inputs = ~split.flatten(2).any(2)
    no_outputs = ~split.transpose(1, 2).flatten(2).any(2)
    return int(no_inputs.sum()), int(no_outputs.sum())
