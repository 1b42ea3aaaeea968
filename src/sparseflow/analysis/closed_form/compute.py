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

from sparseflow._fast import on_threads
from sparseflow.analysis.closed_form import sums
from sparseflow.analysis.closed_form.alive import AliveUnits, reduced
from sparseflow.analysis.closed_form.chain import Chain
from sparseflow.analysis.closed_form.layers import layer_of
from sparseflow.analysis.closed_form.segments import linearise
from sparseflow.analysis.layout import ActiveLayout

Batch = tuple[Tensor, Tensor]
#: Memory for a set of sums per thread; where they would take more, threads share the work of each operation.
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
    """The Hessian, ``(P, P)``, in float64 and in the order of the layout.

    Arguments as :func:`sparseflow.analysis.hessian`.
    """
    layers = [layer_of(stage, layout, dtype) for stage in chain.stages]
    total = sum(len(targets) for _, targets in batches)

    def begin(inputs: Tensor) -> Tensor:
        return linearise(chain.before, inputs.to(dtype).movedim(0, -1).contiguous())[0]

    chunks = -(-total // sums.CHUNK)
    threads = min(torch.get_num_threads(), chunks) if batches[0][0].device.type == "cpu" else 1
    alive = [AliveUnits(layers) for _ in range(threads)]

    def look(thread: int) -> None:
        for inputs, _ in _share(batches, sums.CHUNK, thread, threads):
            alive[thread].add(begin(inputs))

    # Here and below through Python: torch's own products, some seconds of them a hand-over.
    on_threads(threads, torch.no_grad()(look))
    layers, kept = reduced(layers, *AliveUnits.merged(alive))

    def nothing() -> sums.Sums:
        return sums.Sums(layers[: len(chain.convolutions)], layers[len(chain.convolutions) :], layers[0].weight)

    found, done = [nothing()], [0] * threads
    if threads * found[0].gauss_newton.nbytes > SUMS_BYTES:
        threads = 1
    found += [nothing() for _ in range(threads - 1)]

    def add(thread: int) -> None:
        for inputs, targets in _share(batches, found[0].chunk_size(), thread, threads):
            found[thread].add(begin(inputs)[kept], targets, total)
            done[thread] += len(targets)
            if progress is not None and not thread:
                progress(sum(done), total)

    on_threads(threads, torch.no_grad()(add))
    for other in found[1:]:
        found[0].merge(other)
    if progress is not None and threads > 1:
        progress(total, total)
    return found[0].hessian(layout.size)


def _share(batches: Sequence[Batch], size: int, thread: int, threads: int) -> Iterator[Batch]:
    """Batches of ``size`` examples, every ``threads``-th of them from number ``thread`` on."""
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
