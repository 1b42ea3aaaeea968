"""Batch-norm statistics of a step that is computed in several micro-batches, on any number of processes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from sparseflow.training.ranks import Ranks


class StepStatistics:
    r"""One update of the running statistics per step, by the mean over all its micro-batches.

    Each micro-batch is normalised by its own mean and variance, as on the paper's TPU cores. torch would also move the
    running statistics once for each of them, in an order that depends on who computed which. Here they move once a
    step, by the mean over micro-batches :math:`b` of all processes, so that they do not depend on how many there are:

    .. math:: \mu \leftarrow (1 - \alpha)\, \mu + \alpha \frac{1}{B} \sum_b \mu_b

    Args:
        model: In train mode while steps are computed. Its batch norms must keep running statistics.
        micro_batches: :math:`B`, of a step, on all processes together.

    >>> norm = nn.BatchNorm1d(1, momentum=0.1)
    >>> statistics = StepStatistics(norm, micro_batches=2)
    >>> for value in (1.0, 3.0):
    ...     with statistics.micro_batch():
    ...         _ = norm(torch.full((4, 1), value))
    >>> statistics.step(Ranks())
    >>> round(norm.running_mean.item(), 6)  # 0.9 * 0 + 0.1 * (1 + 3) / 2
    0.2
    """

    def __init__(self, model: nn.Module, *, micro_batches: int) -> None:
        self._norms = [(norm, norm.momentum) for norm in model.modules() if isinstance(norm, _BatchNorm)]
        self._micro_batches = micro_batches
        if cumulative := [norm for norm, momentum in self._norms if momentum is None or norm.running_mean is None]:
            raise ValueError(
                f"{type(cumulative[0]).__name__} keeps no running statistics with a momentum. Make it with "
                "track_running_stats=True and a momentum such as 0.1."
            )
        self._kept = [buffer.clone() for buffer in self._buffers()]
        self._sums = [torch.zeros_like(buffer, dtype=torch.float64) for buffer in self._kept]

    def _buffers(self) -> list[Tensor]:
        found = [buffer for norm, _ in self._norms for buffer in (norm.running_mean, norm.running_var)]
        return [buffer for buffer in found if buffer is not None]

    @contextmanager
    def micro_batch(self) -> Iterator[None]:
        """A context for the forward pass of one micro-batch, in train mode."""
        for norm, _ in self._norms:
            norm.momentum = 1.0  # it then writes the statistics of this micro-batch alone
        try:
            yield
        finally:
            for norm, momentum in self._norms:
                norm.momentum = momentum
        with torch.no_grad():
            for total, buffer, kept in zip(self._sums, self._buffers(), self._kept, strict=True):
                total.add_(buffer)
                buffer.copy_(kept)
            for norm, _ in self._norms:
                if norm.num_batches_tracked is not None:
                    norm.num_batches_tracked -= 1

    @torch.no_grad()
    def step(self, ranks: Ranks) -> None:
        """Move the running statistics by the mean over all micro-batches of all ranks."""
        ranks.sum_(*self._sums)
        momenta = [momentum for _, momentum in self._norms for _ in range(2)]
        for total, buffer, kept, momentum in zip(self._sums, self._buffers(), self._kept, momenta, strict=True):
            assert momentum is not None
            kept.lerp_((total / self._micro_batches).to(kept.dtype), momentum)
            buffer.copy_(kept)
            total.zero_()
        for norm, _ in self._norms:
            if norm.num_batches_tracked is not None:
                norm.num_batches_tracked += 1

    def read(self) -> None:
        """Take the running statistics over from the model, after they were loaded into it."""
        with torch.no_grad():
            for kept, buffer in zip(self._kept, self._buffers(), strict=True):
                kept.copy_(buffer)
