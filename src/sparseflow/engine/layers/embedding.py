"""An embedding whose rows have active values only."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sparseflow.engine.kernels.compiling import kernel, said_aloud
from sparseflow.engine.layers.active import ActiveWeight
from sparseflow.engine.layers.functions import check_first_order
from sparseflow.engine.layers.pattern import Indices, Pattern

Floats = NDArray[Any]
Rows = NDArray[np.int64]


@kernel
def _look_up(rows: Rows, begins: Indices, columns: Indices, block: int, values: Floats, out: Floats) -> None:
    for n in range(rows.shape[0]):
        group, place = divmod(rows[n], block)
        begin, size = begins[group], begins[group + 1] - begins[group]
        first = block * np.int64(begin) + place * size
        out[n] = 0
        for k in range(size):
            out[n, columns[begin + k]] = values[first + k]


@kernel
def _add_up(
    rows: Rows, begins: Indices, columns: Indices, block: int, gradient: Floats, scale: Floats, out: Floats
) -> None:
    # In the order of the lookups: sums of rows looked up more than once are made in one order.
    for n in range(rows.shape[0]):
        group, place = divmod(rows[n], block)
        begin, size = begins[group], begins[group + 1] - begins[group]
        first = block * np.int64(begin) + place * size
        for k in range(size):
            out[first + k] += scale[n] * gradient[n, columns[begin + k]]


class _Lookup(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, rows: Tensor, layer: SparseEmbedding) -> Tensor:
        pattern = layer.pattern
        out = torch.empty(rows.numel(), pattern.inputs, dtype=values.dtype)
        flat = rows.detach().reshape(-1).contiguous().numpy()
        _look_up(flat, pattern.begins, pattern.indices, pattern.block, values.detach().numpy(), out.numpy())
        ctx.rows, ctx.layer, ctx.pattern = flat, layer, pattern
        return out.view(*rows.shape, pattern.inputs)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        check_first_order()
        pattern, layer = ctx.pattern, ctx.layer
        g = gradients[0].reshape(len(ctx.rows), pattern.inputs).contiguous()
        scale = torch.from_numpy(layer.scales(ctx.rows)).to(g.dtype)
        if layer.keeps_gradients:
            layer._record(torch.from_numpy(ctx.rows), g * scale.unsqueeze(1))
        out = torch.zeros(pattern.num_active, dtype=g.dtype)
        _add_up(ctx.rows, pattern.begins, pattern.indices, pattern.block, g.numpy(), scale.numpy(), out.numpy())
        return out, None, None


class SparseEmbedding(ActiveWeight):
    r"""Rows of a sparse matrix by their numbers: ``y_n = W[x_n]``, with zeros where there are no weights.

    Input ``(...)``, integers in [0, num_embeddings); output ``(..., embedding_dim)``. A gradient takes as much memory
    as the active values, not as the matrix.

    >>> layer = SparseEmbedding.of(nn.Embedding(3, 2), torch.tensor([[True, True], [True, False], [False, False]]))
    >>> layer(torch.tensor([[0, 2]])).shape, layer(torch.tensor(2))
    (torch.Size([1, 2, 2]), tensor([0., 0.], grad_fn=<_LookupBackward>))
    """

    dense_kind = nn.Embedding
    # Of the dense layer.
    num_embeddings: int
    padding_idx: int | None
    scale_grad_by_freq: bool

    @classmethod
    def bare(cls, layer: nn.Embedding, mask: Tensor) -> Self:
        """The sparse form with the layer's parameters alone."""
        pattern = Pattern.of(mask)
        sparse = cls(pattern, pattern.gather(layer.weight.detach()))
        sparse.values.requires_grad_(layer.weight.requires_grad)
        return sparse

    def forward(self, input: Tensor) -> Tensor:
        """The rows of these numbers.

        Raises:
            TypeError: if they are no integers, or anything is on another device than the CPU.
            IndexError: if one is outside the matrix.
        """
        if input.dtype not in (torch.int64, torch.int32) or input.device.type != "cpu" or self.values.is_cuda:
            raise TypeError(f"an embedding takes int64 or int32 on the CPU, got {input.dtype} on {input.device}.")
        rows, count = input.long(), self.pattern.outputs
        if rows.numel() and (int(rows.min()) < 0 or int(rows.max()) >= count):
            raise IndexError(
                f"this embedding has rows 0 to {count - 1}, got {int(rows.min())} to {int(rows.max())}. "
                "Check the vocabulary that made the input."
            )
        with said_aloud():
            out: Tensor = _Lookup.apply(self.values, rows, self)  # type: ignore[no-untyped-call]
        return out

    def scales(self, rows: Rows) -> NDArray[np.float64]:
        """What the gradient of each lookup is multiplied by: 0 for padding, and 1 over its number of lookups if asked.

        >>> layer = SparseEmbedding.of(nn.Embedding(3, 2, 0, scale_grad_by_freq=True), torch.ones(3, 2).bool())
        >>> layer.scales(np.array([0, 1, 2, 1])).tolist()
        [0.0, 0.5, 1.0, 0.5]
        """
        found = np.ones(len(rows))
        if self.scale_grad_by_freq:
            found /= np.bincount(rows, minlength=self.num_embeddings)[rows]
        if self.padding_idx is not None:
            found[rows == self.padding_idx] = 0
        return found

    def _gradient_rows(self, *arguments: Any) -> Tensor:
        rows, gradient, first, last = arguments
        chosen = (rows >= first) & (rows < last)
        dense = gradient.new_zeros(last - first, self.pattern.inputs)
        return dense.index_add_(0, rows[chosen] - first, gradient[chosen])  # type: ignore[no-any-return]
