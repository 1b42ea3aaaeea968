"""torch's transformer layers around sparse ones: feed-forward in pieces that fit the cache, padding as torch has it."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparseflow.engine.layers.chain import is_watched
from sparseflow.engine.layers.modules import SparseLayer

#: Tokens at a time in inference: what lies between the two layers then stays in the second-level cache.
_TOKENS = 256


class _FeedForward(nn.Module):
    """The two linear layers of a transformer layer; the first computes a ReLU behind it."""

    def _ff_block(self, x: Tensor) -> Tensor:
        layer: Any = self
        first, second, last = layer.linear1, layer.linear2, layer.dropout2
        if isinstance(self, nn.TransformerDecoderLayer):
            last = layer.dropout3
        if not isinstance(first, SparseLayer) or not isinstance(second, SparseLayer) or self._is_watched():
            block: Tensor = super()._ff_block(x)  # type: ignore[misc]
            return block
        if self.training or torch.is_grad_enabled() or x.numel() <= _TOKENS * x.shape[-1]:
            whole: Tensor = last(second(layer.dropout(self._hidden(x))))
            return whole
        rows = x.reshape(-1, x.shape[-1])
        out = torch.empty(len(rows), second.pattern.outputs, dtype=rows.dtype)
        for tokens, place in zip(rows.split(_TOKENS), out.split(_TOKENS), strict=True):
            place.copy_(second(self._hidden(tokens)))
        return out.view(*x.shape[:-1], -1)

    def _hidden(self, x: Tensor) -> Tensor:
        layer: Any = self
        if layer.activation in (F.relu, torch.relu) or type(layer.activation) is nn.ReLU:
            hidden: Tensor = layer.linear1.forward(x, floor=0.0)
        else:
            hidden = layer.activation(layer.linear1(x))
        return hidden

    def _is_watched(self) -> bool:
        layer: Any = self
        parts = (layer.linear1, layer.linear2, layer.dropout, layer.activation)
        return any(isinstance(part, nn.Module) and is_watched(part) for part in parts)


class TransformerEncoderLayer(_FeedForward, nn.TransformerEncoderLayer):
    """torch's layer with a :class:`_FeedForward`."""


class TransformerDecoderLayer(_FeedForward, nn.TransformerDecoderLayer):
    """torch's layer with a :class:`_FeedForward`."""


class TransformerEncoder(nn.TransformerEncoder):
    """torch's encoder without nested tensors, which only its own kernels of dense layers take.

    Where torch would use them, in eval mode without gradients, they leave zeros in the place of padding; so does this.
    """

    use_nested_tensor = property(lambda self: False)

    def forward(
        self, src: Tensor, mask: Tensor | None = None, src_key_padding_mask: Tensor | None = None,
        is_causal: bool | None = None,
    ) -> Tensor:  # fmt: skip
        """As :class:`torch.nn.TransformerEncoder`."""
        out: Tensor = super().forward(src, mask, src_key_padding_mask, is_causal)
        if mask is not None or src_key_padding_mask is None:
            return out
        padding = src_key_padding_mask
        if padding.dtype != torch.bool:
            padding = padding == -math.inf
            if bool((src_key_padding_mask != 0).ne(padding).any()):
                return out  # numbers that are added to the scores
        if not self._would_nest(src, padding):
            return out
        zero = src.new_zeros(1, 1, src.shape[-1])
        empty: Tensor = zero if self.norm is None else self.norm(zero)
        return torch.where(padding.unsqueeze(-1), empty, out)

    def _would_nest(self, src: Tensor, padding: Tensor) -> bool:
        """Whether torch's encoder would compute with nested tensors; it looks at its first layer."""
        first = self.layers[0]
        return (
            vars(self)["use_nested_tensor"]
            and torch.backends.mha.get_fastpath_enabled()
            and not first.training
            and src.dim() == 3
            and not torch.is_autocast_enabled()
            and not (torch.is_grad_enabled() and any(each.requires_grad for each in (src, *first.parameters())))
            and not (self.mask_check and bool((padding.int().diff(dim=1) < 0).any()))
        )


#: torch's module -> the one that takes its place around sparse layers.
AROUND_SPARSE: dict[type[nn.Module], type[nn.Module]] = {
    nn.TransformerEncoderLayer: TransformerEncoderLayer,
    nn.TransformerDecoderLayer: TransformerDecoderLayer,
    nn.TransformerEncoder: TransformerEncoder,
}
AROUND_DENSE = {form: plain for plain, form in AROUND_SPARSE.items()}
