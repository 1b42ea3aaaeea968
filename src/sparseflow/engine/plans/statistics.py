"""Means and variances that a network's norms measure and remember, apart from the modules until they are written."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from sparseflow.engine.layers.norms import track_
from sparseflow.engine.plans.stages import Node, Norm, Tape

Modes = tuple[bool, ...]


class Statistics:
    """The statistics of the norms of a tape.

    Attributes:
        numbers: float64, for the interpreter: for each norm its epsilon, the means of its channels and their biased
            variances, at ``Norm.begin``.
    """

    def __init__(self, model: nn.Module, tape: Tape) -> None:
        self._tape: Tape = []
        self._norms: list[tuple[Norm, nn.BatchNorm1d | nn.BatchNorm2d]] = []
        end = 0
        for stage, inputs in tape:
            if isinstance(stage, Norm):
                stage = replace(stage, begin=end)
                end += 1 + 2 * stage.channels
                module = model.get_submodule(stage.name)
                assert isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d)
                self._norms.append((stage, module))
            self._tape.append(Node(stage, inputs))
        self.numbers = np.zeros(end)
        for norm, module in self._norms:
            self.numbers[norm.begin] = module.eps
        self._kept: list[dict[str, Tensor]] = []

    def read(self) -> None:
        """Take running statistics from the modules."""
        self._kept = [{name: buffer.clone() for name, buffer in m.named_buffers()} for _, m in self._norms]

    @torch.no_grad()
    def write(self) -> None:
        """Give running statistics to the modules."""
        for (_, module), kept in zip(self._norms, self._kept, strict=True):
            for name, buffer in module.named_buffers():
                buffer.copy_(kept[name])

    @property
    def modes(self) -> Modes:
        """Whether each norm measures now: in train mode, or because it remembers nothing."""
        return tuple(m.training or m.running_mean is None for _, m in self._norms)

    def tape(self, modes: Modes) -> Tape:
        """The tape in these modes."""
        left = iter(modes)
        return [
            Node(replace(stage, measures=next(left)), inputs) if isinstance(stage, Norm) else Node(stage, inputs)
            for stage, inputs in self._tape
        ]

    def prepare(self, modes: Modes) -> None:
        """Let the norms that do not measure normalise by what they remember."""
        for (norm, _), kept, measures in zip(self._norms, self._kept, modes, strict=True):
            if not measures:
                self._moments(norm)[:] = torch.stack((kept["running_mean"], kept["running_var"])).numpy()

    def track(self, counts: dict[int, int]) -> None:
        """Remember what was measured, as ``nn.BatchNorm2d`` does.

        Args:
            counts: Where a norm's numbers begin -> numbers of a channel: pixels times batch.
        """
        for (norm, module), kept in zip(self._norms, self._kept, strict=True):
            if module.training and module.track_running_stats and kept:
                moments = torch.from_numpy(self._moments(norm))
                track_(kept, moments, momentum=module.momentum, count=counts[norm.begin])

    def _moments(self, norm: Norm) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
        return self.numbers[norm.begin + 1 : norm.begin + 1 + 2 * norm.channels].reshape(2, -1)
