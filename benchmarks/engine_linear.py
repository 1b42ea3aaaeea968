"""Forward and backward of one sparse linear layer over the dense one, and its forward pass for a single example.

A layer inside a network gets activations and gradients with the batch innermost in memory; those cases are judged.
The same layer with plain row-major tensors, and other libraries (`peers.py`), are measured beside them.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

import sparseflow as sf
from benchmarks import peers
from benchmarks.engine_timing import compare
from benchmarks.result import Benchmark, Case, Failure

BATCH = 128
#: (outputs, inputs)
SHAPES = ((1024, 1024), (4096, 1024))


def sparse_and_dense(shape: tuple[int, int], sparsity: float) -> tuple[nn.Module, nn.Linear]:
    """Two layers that compute the same; the dense one has zeros where the sparse one stores nothing."""
    torch.manual_seed(0)
    dense = nn.Linear(shape[1], shape[0])
    masks = sf.random_masks(dense, sparsity, seed=0)
    sf.apply_masks_(dense, masks)
    return sf.engine.convert(dense, masks), dense


def batch_innermost(tensor: Tensor) -> Tensor:
    """A copy of the tensor with the first axis innermost in memory."""
    return tensor.t().contiguous().t()


def forward_backward(layer: nn.Module, x: Tensor, gradient: Tensor) -> tuple[Tensor, ...]:
    """Run the layer, then compute the gradients of its input and of all parameters."""
    return torch.autograd.grad(layer(x), [x, *layer.parameters()], gradient)


def _run(sparsity: float, smoke: bool) -> Iterator[Case | Failure]:
    shapes = ((32, 48),) if smoke else SHAPES
    batch = 16 if smoke else BATCH
    for shape in shapes:
        sparse, dense = sparse_and_dense(shape, sparsity)
        x, gradient = torch.randn(batch, shape[1]), torch.randn(batch, shape[0])
        rows = x.clone().requires_grad_()
        for layout, arrange in (("batch innermost", batch_innermost), ("row-major", Tensor.contiguous)):
            own_x, own_gradient = arrange(x).requires_grad_(), arrange(gradient)
            nonzeros = next(sparse.parameters()).numel()
            configuration = {
                "shape": shape, "sparsity": sparsity, "batch": batch, "layout": layout, "bias": True,
                "nonzeros": nonzeros, **traffic(batch),
            }  # fmt: skip
            yield from compare(
                f"{shape[0]}x{shape[1]}, {layout}",
                lambda: forward_backward(sparse, own_x, own_gradient),  # noqa: B023
                {"row-major": lambda: forward_backward(dense, rows, gradient)},  # noqa: B023
                configuration, smoke=smoke, multiply_adds=3 * nonzeros * batch, counts=layout == "batch innermost",
            )  # fmt: skip
    yield from peers.cases("linear", [{"shape": s, "sparsity": sparsity, "batch": batch} for s in shapes], smoke=smoke)


def traffic(batch: int, *, itemsize: int = 4) -> dict[str, int]:
    """Bytes that one nonzero moves in a forward and backward pass, from memory and from the cache.

    Forward and input gradient read its value and column and one row of activations each, and the gradient for the input
    brings the value into its order first (read order, read and write value). The weight gradient reads a column and a
    row and writes one number over a zero.

    >>> traffic(128)
    {'bytes_per_nonzero_memory': 44, 'bytes_per_nonzero_cache': 1536}
    """
    forward = itemsize + 4
    backward = itemsize + 4 + (4 + 2 * itemsize)
    weights = 4 + 3 * itemsize
    return {"bytes_per_nonzero_memory": forward + backward + weights, "bytes_per_nonzero_cache": 3 * itemsize * batch}


def _single(smoke: bool) -> Iterator[Case | Failure]:
    shape, batches = ((48, 32), (1, 2)) if smoke else ((4096, 4096), (1, 2, 4, 8))
    sparse, dense = sparse_and_dense(shape, 0.95)
    for batch in batches:
        x = torch.randn(batch, shape[1])
        nonzeros = next(sparse.parameters()).numel()
        # For one example the engine reads 16-bit columns.
        moved = {"bytes_per_nonzero_memory": 6 if batch == 1 else 8, "bytes_per_nonzero_cache": 4 * batch}
        with torch.inference_mode():
            yield from compare(
                f"batch {batch}", lambda: sparse(x), {"row-major": lambda: dense(x)},  # noqa: B023
                {"shape": shape, "sparsity": 0.95, "batch": batch, "bias": True, "nonzeros": nonzeros, **moved},
                smoke=smoke, multiply_adds=nonzeros * batch, counts=batch == 1,
            )  # fmt: skip
    requests = [{"shape": shape, "sparsity": 0.95, "batch": batch} for batch in batches]
    yield from peers.cases("forward", requests, smoke=smoke)


BENCHMARKS = (
    *(
        Benchmark(
            name=f"engine_linear_{sparsity:.0%}".rstrip("%"),
            what=f"linear layer {sparsity:.0%} sparse, forward + backward, batch {BATCH}",
            reach=1 / reach,
            run=lambda smoke, sparsity=sparsity: _run(sparsity, smoke),  # type: ignore[misc]
            speedup=True,
        )
        for sparsity, reach in ((0.9, 3), (0.95, 6.5), (0.98, 14))
    ),
    Benchmark(
        name="engine_batch_1",
        what="linear layer 4096x4096, 95% sparse, forward, one example",
        reach=1 / 5,
        run=_single,
        speedup=True,
    ),
)
