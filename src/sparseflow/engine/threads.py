"""Work spread over Python threads: the kernels run without the interpreter's lock."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray

#: Multiply-adds below which handing work to another thread costs more than it saves (about 50 microseconds).
_WORTH_IT = 2_000_000

_pools: dict[int, ThreadPoolExecutor] = {}
# Threads do not survive a fork; a pool that seems to have them would wait for ever.
os.register_at_fork(after_in_child=_pools.clear)


def over_parts(parts: int, run: Callable[[int], None]) -> None:
    """Call ``run(0)``, ..., ``run(parts - 1)`` on ``torch.get_num_threads()`` threads."""
    threads = min(torch.get_num_threads(), parts)
    if threads <= 1:
        for part in range(parts):
            run(part)
        return

    def run_all(share: range) -> None:
        for part in share:
            run(part)

    mine, *others = [range(thread, parts, threads) for thread in range(threads)]
    waiting = [_pool(threads).submit(run_all, share) for share in others]
    run_all(mine)
    for done in waiting:
        done.result()


def over_outputs(edges: NDArray[np.int64], work: int, run: Callable[[int, int], None]) -> None:
    """Call ``run(first, last)`` on ranges of outputs with about the same number of nonzeros each.

    An output is computed whole by one thread, so the result does not depend on their number, which is
    ``torch.get_num_threads()``.

    Args:
        edges: ``(outputs + 1,)``: nonzeros before each output.
        work: Multiply-adds in all.
        run: Computes the outputs [first, last).
    """
    outputs = len(edges) - 1
    threads = 1 if work < 2 * _WORTH_IT else min(torch.get_num_threads(), work // _WORTH_IT, outputs)
    if threads <= 1:
        run(0, outputs)
        return
    # An output without nonzeros is work too: it is written.
    load = edges + np.arange(outputs + 1)
    cuts = np.searchsorted(load, load[-1] * np.arange(1, threads) / threads)
    bounds = [0, *(int(cut) for cut in cuts), outputs]
    waiting = [_pool(threads).submit(run, a, b) for a, b in pairwise(bounds[1:]) if a < b]
    run(0, bounds[1])
    for done in waiting:
        done.result()


def _pool(threads: int) -> ThreadPoolExecutor:
    if threads not in _pools:
        _pools[threads] = ThreadPoolExecutor(threads - 1, thread_name_prefix="sparseflow")
    return _pools[threads]
