"""AC/DC: phases of sparse and of dense training in turn; the last one is sparse."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sparseflow._checks import check_steps
from sparseflow.masks.blocks import SINGLE, BlockLike
from sparseflow.methods.base import Layer, Method
from sparseflow.methods.pruning import GMP, OneShot


@dataclass(frozen=True, kw_only=True)
class ACDC(Method):
    """Alternating compressed and decompressed training: start from :func:`sparseflow.dense_masks`, end sparse.

    After a dense start the weights of largest magnitude are kept for a phase of sparse training, then all are trained
    again, those that had been away from zero, and so on. At ``end`` the last sparse phase begins, which lasts until the
    run ends; a sparse phase that would run into it is left out, so that the last dense phase is the longest. A dense
    phase begins without momentum, of all parameters that the optimizers hold: it would be that of another network.

    Args:
        sparsity: Fraction of zeros of the sparse phases, for every layer or by parameter name.
        total_steps: Optimizer steps of the whole run. ``begin``, ``phase_steps`` and ``end`` are then 10 %, 5 % and
            85 % of them, as in the authors' ImageNet runs (10, 5 and 85 of 100 epochs).
        begin: First compression, in optimizer steps (authors: 10 epochs).
        phase_steps: Steps of a phase (CIFAR: 20 of 200 epochs).
        end: Last compression (CIFAR: 170 of 200 epochs).
        scope: ``"layer"`` gives each layer its sparsity, ``"global"`` ranks all weights together; the authors report
            both for ResNet-50.
        block: As :class:`sparseflow.GMP`.
        reset_momentum: Whether a dense phase begins without momentum: ``momentum_buffer`` of SGD, ``exp_avg`` of Adam
            and its kin become zero, as all training scripts of the authors ask for.

    Raises:
        ValueError: as :class:`sparseflow.GMP`; if there are neither ``total_steps`` nor all of ``begin``,
            ``phase_steps`` and ``end``, or these are out of order.

    Reference: Peste et al. (2021), *AC/DC: Alternating Compressed/DeCompressed Training of Deep Neural Networks*.

    >>> acdc = ACDC(sparsity=0.9, total_steps=100)  # epochs of the authors' ResNet-50
    >>> [step for step in range(101) if acdc.due(step)]
    [10, 15, 20, 25, 30, 35, 40, 45, 50, 55, 60, 65, 70, 75, 85]
    """

    sparsity: float | Mapping[str, float]
    total_steps: int | None = None
    begin: int | None = None
    phase_steps: int | None = None
    end: int | None = None
    scope: str = "layer"
    block: BlockLike = SINGLE
    reset_momentum: bool = True

    def __post_init__(self) -> None:
        if self.total_steps is not None:
            check_steps(self.total_steps, name="total_steps", least=1)
        for name, steps in self._phases()._asdict().items():
            if steps is None:
                raise ValueError(
                    f"{name} is missing: give total_steps=, the optimizer steps of the run, or all of begin=, "
                    "phase_steps= and end=."
                )
            check_steps(steps, name=name, least=1)
        begin, _, end = self._phases()
        if begin > end:
            raise ValueError(f"the first compression, begin={begin}, comes after the last, end={end}.")
        if self.total_steps is not None and end > self.total_steps:
            raise ValueError(f"the last compression, end={end}, comes after total_steps={self.total_steps}.")
        self._pruning()

    def due(self, step: int) -> bool:
        """Whether a phase begins once ``step`` optimizer steps are done."""
        return self._compresses(step) or self._decompresses(step)

    def resets_momentum(self, step: int) -> bool:
        """Whether the momentum is forgotten once masks have changed at ``step``: where a dense phase begins."""
        return self.reset_momentum and self._decompresses(step)

    def check_start(self, shapes: Mapping[str, tuple[int, ...]], active: Mapping[str, int]) -> None:
        """Check that the sparsity can be reached; see :func:`sparseflow.methods.run.check_start`.

        Raises:
            ValueError: as :meth:`sparseflow.GMP.check_start`.
        """
        self._pruning().check_start(shapes, active)

    def unfinished(self, step: int, shapes: Mapping[str, tuple[int, ...]], active: Mapping[str, int]) -> str:
        """Whether the last compression is to come; see :func:`sparseflow.methods.run.unfinished`."""
        return self._pruning().unfinished(step, shapes, active)

    def update(self, layers: Iterable[Layer], *, step: int, generator: torch.Generator) -> Iterator[tuple[str, Tensor]]:
        """Yield masks of the largest weights, or of all; see :meth:`Method.update`."""
        if self._decompresses(step):
            for layer in layers:
                yield layer.name, torch.ones_like(layer.mask)
        else:
            yield from self._pruning().update(layers, step=self._phases().end, generator=generator)

    def _compresses(self, step: int) -> bool:
        begin, phase_steps, end = self._phases()
        number, into = divmod(step - begin, phase_steps)
        return step == end or (step >= begin and number % 2 == into == 0 and step + phase_steps < end)

    def _decompresses(self, step: int) -> bool:
        _, phase_steps, end = self._phases()
        return step < end and self._compresses(step - phase_steps)

    def _phases(self) -> _Phases:
        def of(given: int | None, share: float) -> Any:
            return given if given is not None or self.total_steps is None else max(1, round(share * self.total_steps))

        return _Phases(of(self.begin, 0.1), of(self.phase_steps, 0.05), of(self.end, 0.85))

    def _pruning(self) -> GMP:
        """A compression: what pruning at the last step does."""
        return OneShot(sparsity=self.sparsity, at=self._phases().end, scope=self.scope, block=self.block)


class _Phases(NamedTuple):
    begin: int
    phase_steps: int
    end: int
