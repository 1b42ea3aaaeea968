"""Forward and backward of one sparse 3x3 convolution over the dense one, in the faster of its two memory formats."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

import sparseflow as sf
from benchmarks import peers
from benchmarks.engine_linear import forward_backward, traffic
from benchmarks.engine_timing import compare
from benchmarks.result import Benchmark, Case, Failure


def batch_innermost(images: Tensor) -> Tensor:
    """A copy of the tensor with the batch innermost in memory."""
    return images.permute(1, 2, 3, 0).contiguous().permute(3, 0, 1, 2)


def channels_last(images: Tensor) -> Tensor:
    """A copy of the tensor with the channels innermost in memory."""
    return images.contiguous(memory_format=torch.channels_last)


def _run(sparsity: float, smoke: bool) -> Iterator[Case | Failure]:
    channels, pixels, batch = (4, 6, 8) if smoke else (64, 32, 32)
    torch.manual_seed(0)
    dense = nn.Conv2d(channels, channels, 3, padding=1)
    masks = sf.random_masks(dense, sparsity, seed=0)
    sf.apply_masks_(dense, masks)
    sparse = sf.engine.convert(dense, masks)
    dense_last = nn.Conv2d(channels, channels, 3, padding=1).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    x, gradient = torch.randn(2, batch, channels, pixels, pixels)
    rows, last = x.clone().requires_grad_(), channels_last(x).requires_grad_()
    gradient_last = channels_last(gradient)
    nonzeros = next(sparse.parameters()).numel()
    shape = {"channels": channels, "pixels": pixels, "batch": batch, "sparsity": sparsity}
    for layout, arrange in (("batch innermost", batch_innermost), ("contiguous", Tensor.contiguous)):
        own_x, own_gradient = arrange(x).requires_grad_(), arrange(gradient)
        yield from compare(
            f"{channels}->{channels} on {pixels}x{pixels}, {layout}",
            lambda: forward_backward(sparse, own_x, own_gradient),  # noqa: B023
            {
                "contiguous": lambda: forward_backward(dense, rows, gradient),
                "channels_last": lambda: forward_backward(dense_last, last, gradient_last),
            },
            {**shape, "layout": layout, "bias": True, "nonzeros": nonzeros, **traffic(pixels**2 * batch)},
            smoke=smoke, multiply_adds=3 * nonzeros * pixels**2 * batch, counts=layout == "batch innermost",
        )  # fmt: skip
    yield from peers.cases("conv", [shape], smoke=smoke)


BENCHMARKS = tuple(
    Benchmark(
        name=f"engine_conv_{sparsity:.0%}".rstrip("%"),
        what=f"convolution 3x3 {sparsity:.0%} sparse, 64->64 on 32x32, batch 32, forward + backward",
        reach=1 / reach,
        run=lambda smoke, sparsity=sparsity: _run(sparsity, smoke),  # type: ignore[misc]
        speedup=True,
    )
    for sparsity, reach in ((0.9, 1.5), (0.95, 3))
)
