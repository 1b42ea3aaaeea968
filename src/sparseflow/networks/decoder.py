"""A small decoder: a transformer that predicts the next byte, of which every part that a circuit names is a module."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparseflow.masks.topk import active_count


def top_activations(x: Tensor, share: float) -> Tensor:
    """Keep the largest entries of the last axis by absolute value, and set the others to zero (AbsTopK).

    Args:
        x: ``(..., units)``.
        share: Of units that are kept, in (0, 1]; the count is that of :func:`sparseflow.masks.topk.active_count`.

    Reference: Gao et al. (2025), arXiv 2511.13653, section 2 and appendix A.2.

    >>> top_activations(torch.tensor([3.0, -4.0, 1.0, 0.5]), 0.5).tolist()
    [3.0, -4.0, 0.0, 0.0]
    """
    count = active_count(x.shape[-1], 1 - share)
    if count == x.shape[-1]:
        return x
    kept = x.detach().abs().topk(count, sorted=False).indices
    return torch.zeros_like(x).scatter(-1, kept, x.gather(-1, kept))


class Units(nn.Module):
    """The units at one place of a decoder, of which the largest stay: what a circuit keeps or takes out.

    A forward hook sees the activations of every unit there, and may replace them.
    """

    def __init__(self, count: int, share: float = 1.0) -> None:
        super().__init__()
        self.count, self.share = count, share

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(batch, tokens, count)`` to the same shape."""
        return top_activations(x, self.share)

    def extra_repr(self) -> str:
        """Number of units, and the share of them that stays."""
        return f"{self.count}, share={self.share:g}"


class DecoderBlock(nn.Module):
    """Causal attention and an MLP with GELU, each between a norm and the residual stream."""

    def __init__(self, width: int, heads: int, share: float) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm, self.mlp_norm = nn.RMSNorm(width), nn.RMSNorm(width)
        self.project, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.widen, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        sizes = dict.fromkeys(("attention_input", "query", "key", "value", "attention_output"), width)
        sizes |= {"mlp_input": width, "neuron": 4 * width, "mlp_output": width}
        self.units = nn.ModuleDict({name: Units(size, share) for name, size in sizes.items()})

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(batch, tokens, width)`` to the same shape."""
        x = x + self.units["attention_output"](self._attention(self.units["attention_input"](self.attention_norm(x))))
        hidden = self.units["neuron"](F.gelu(self.widen(self.units["mlp_input"](self.mlp_norm(x)))))
        out: Tensor = x + self.units["mlp_output"](self.narrow(hidden))
        return out

    def _attention(self, x: Tensor) -> Tensor:
        projected = zip(("query", "key", "value"), self.project(x).chunk(3, dim=-1), strict=True)
        q, k, v = (self.units[name](each).unflatten(-1, (self.heads, -1)).transpose(1, 2) for name, each in projected)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        out: Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return out


class Decoder(nn.Module):
    r"""A decoder without positions: it tells places apart by what its causal attention has seen.

    .. math:: z_t = W_{head}\, \mathrm{norm}(x_t) + B_{c_t}

    where :math:`c_t` is the symbol at place *t* and *B* the bigram table, which stays dense so that sparse weights need
    not learn which symbol follows which.

    Args:
        symbols: Different values of a token.
        width: Of the residual stream.
        depth: Blocks.
        heads: Of attention; they divide the width.
        share: Of the units at each place that stay active, see :func:`top_activations`.

    Raises:
        ValueError: if the heads do not divide the width.

    Reference: Gao et al. (2025), arXiv 2511.13653, section 2: GPT-2 with RMSNorm, without positions, with an output
    layer of its own and a bigram table.

    >>> model = Decoder(symbols=256, width=32, depth=2, heads=4)
    >>> model(torch.zeros(3, 7, dtype=torch.int64)).shape
    torch.Size([3, 7, 256])
    """

    def __init__(self, *, symbols: int, width: int, depth: int, heads: int, share: float = 1.0) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"heads must divide the width, got {heads} heads for {width}.")
        self.embedding, self.bigram = nn.Embedding(symbols, width), nn.Embedding(symbols, symbols)
        self.blocks = nn.ModuleList(DecoderBlock(width, heads, share) for _ in range(depth))
        self.norm = nn.RMSNorm(width)
        self.head = nn.Linear(width, symbols, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits ``(batch, tokens, symbols)`` of the next token after each of ``(batch, tokens)``."""
        x = self.embedding(tokens)
        for block in self.blocks:
            x = block(x)
        logits: Tensor = self.head(self.norm(x)) + self.bigram(tokens)
        return logits
