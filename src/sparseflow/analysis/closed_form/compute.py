r"""The exact Hessian of a piecewise-linear chain under the mean cross-entropy, example by example in closed form.

.. math:: H = \frac{1}{N} \sum_n J_n^\top (\mathrm{diag}(p_n) - p_n p_n^\top) J_n + \text{mixed terms},

wherever the network is differentiable: the first part is the Gauss-Newton matrix; the mixed terms couple weights of two
layers, since the logits are linear in those of one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice

import torch
from torch import Tensor

from sparseflow._fast.threads import on_threads
from sparseflow.analysis.closed_form import sums as closed_form_sums
from sparseflow.analysis.closed_form.chain import Chain
from sparseflow.analysis.closed_form.layers import layer_of
from sparseflow.analysis.closed_form.live import Liveness, reduced
from sparseflow.analysis.closed_form.segments import linearise
from sparseflow.analysis.closed_form.sums import Sums
from sparseflow.analysis.layout import ActiveLayout

Batch = tuple[Tensor, Tensor]
#: So much memory for sums of every thread's own; where they take more, threads share the work of each operation.
SUMS_BYTES = 2**30


@torch.no_grad()
def closed_form(
    chain: Chain,
    layout: ActiveLayout,
    batches: Sequence[Batch],
    *,
    dtype: torch.dtype,
    progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """``(P, P)`` in float64 and the order of the layout.

    Args:
        chain: The network.
        layout: Its active parameters.
        batches: Inputs and class labels.
        dtype: To compute in.
        progress: Called with examples done and their total.
    """
    layers = [layer_of(stage, layout, dtype) for stage in chain.stages]
    total = sum(len(targets) for _, targets in batches)

    def begin(inputs: Tensor) -> Tensor:
        return linearise(chain.before, inputs.to(dtype).movedim(0, -1).contiguous())[0]

    chunks = -(-total // closed_form_sums.CHUNK)
    threads = min(torch.get_num_threads(), chunks) if batches[0][0].device.type == "cpu" else 1
    found = [Liveness(layers) for _ in range(threads)]

    def look(thread: int) -> None:
        for inputs, _ in _share(batches, closed_form_sums.CHUNK, thread, threads):
            found[thread].add(begin(inputs))

    on_threads(threads, torch.no_grad()(look))
    layers, kept = reduced(layers, *Liveness.merged(found))

    def nothing() -> Sums:
        return Sums(layers[: len(chain.convolutions)], layers[len(chain.convolutions) :], layers[0].weight)

    sums, done = [nothing()], [0] * threads
    if threads * sums[0].gauss_newton.nbytes > SUMS_BYTES:
        threads = 1
    sums += [nothing() for _ in range(threads - 1)]

    def add(thread: int) -> None:
        for inputs, targets in _share(batches, sums[0].chunk_size(), thread, threads):
            sums[thread].add(begin(inputs)[kept], targets, total)
            done[thread] += len(targets)
            if progress is not None and not thread:
                progress(sum(done), total)

    on_threads(threads, torch.no_grad()(add))
    for other in sums[1:]:
        sums[0].merge(other)
    if progress is not None and threads > 1:
        progress(total, total)
    return sums[0].hessian(layout.size)


def _share(batches: Sequence[Batch], size: int, thread: int, threads: int) -> Iterator[Batch]:
    """One thread's part of the same examples, so many at a time."""
    for parts in islice(_chunks(batches, size), thread, None, threads):
        inputs, targets = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
        yield inputs, targets


def _chunks(batches: Sequence[Batch], size: int) -> Iterator[list[Batch]]:
    parts: list[Batch] = []
    missing = size
    for inputs, targets in batches:
        while len(targets):
            parts.append((inputs[:missing], targets[:missing]))
            inputs, targets = inputs[missing:], targets[missing:]
            missing = size - sum(len(part) for _, part in parts)
            if not missing:
                yield parts
                parts, missing = [], size
    if parts:
        yield parts
