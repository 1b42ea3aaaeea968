"""Forward and backward of a transformer block whose linear layers are sparse, over the dense block."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

import sparseflow as sf
from benchmarks.engine_linear import forward_backward, traffic
from benchmarks.engine_timing import compare
from benchmarks.result import Benchmark, Case, Failure

SPARSITY = 0.95


class Block(nn.Module):
    """A pre-norm transformer block: attention and two layers with GELU, each around a shortcut.

    Attention is written with four separate linear layers, so that any method can make each of them sparse.
    """

    def __init__(self, width: int, hidden: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.widen, self.narrow = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(batch, tokens, width)`` to the same shape."""
        x = x + self._attention(self.norm1(x))
        hidden: Tensor = self.narrow(nn.functional.gelu(self.widen(self.norm2(x))))
        return x + hidden

    def _attention(self, x: Tensor) -> Tensor:
        projected = (layer(x) for layer in (self.query, self.key, self.value))
        q, k, v = (tokens.unflatten(-1, (self.heads, -1)).transpose(1, 2) for tokens in projected)
        mixed = nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        out: Tensor = self.out(mixed)
        return out


def _run(smoke: bool) -> Iterator[Case | Failure]:
    width, hidden, heads, batch, tokens = (16, 32, 2, 2, 4) if smoke else (512, 2048, 8, 4, 128)
    torch.manual_seed(0)
    dense = Block(width, hidden, heads)
    masks = sf.random_masks(dense, SPARSITY, seed=0)
    sf.apply_masks_(dense, masks)
    sparse = sf.engine.convert(dense, masks)
    nonzeros = sum(int(mask.sum()) for mask in masks.values())
    x = torch.randn(batch, tokens, width, requires_grad=True)
    gradient = torch.randn(batch, tokens, width)
    configuration = {
        "width": width, "hidden": hidden, "heads": heads, "batch": batch, "tokens": tokens, "sparsity": SPARSITY,
        "nonzeros": nonzeros, **traffic(batch * tokens),
    }  # fmt: skip
    yield from compare(
        f"{batch} x {tokens} tokens",
        lambda: forward_backward(sparse, x, gradient),
        {"row-major": lambda: forward_backward(dense, x, gradient)},
        configuration, smoke=smoke, multiply_adds=3 * nonzeros * batch * tokens,
    )  # fmt: skip


BENCHMARKS = (
    Benchmark(
        name="engine_transformer",
        what="transformer block (d 512, ffn 2048, 512 tokens), linear layers 95% sparse, forward + backward",
        reach=1 / 3,
        run=_run,
        speedup=True,
    ),
)
