"""What was cut off the masks when they were put on, kept until the first step: the saved state may yet be loaded."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from sparseflow.sharded import local
from sparseflow.sparsifier.tensors import WeightState


class _Kept(NamedTuple):
    given: Tensor
    """The tensor itself; what writes to one in parts counts there, not at the part."""
    tensor: Tensor
    """This process's part of it."""
    before: Tensor
    is_whole: bool
    """Whether to give back all of it, not only where it is zero now."""
    versions: tuple[int, int] = (0, 0)

    @property
    def versions_now(self) -> tuple[int, int]:
        return self.given._version, self.tensor._version


class Cut:
    """Copies of tensors that lost values off a mask.

    A Sparsifier that is made after a checkpoint was loaded is given some masks and cuts the weights to them; the
    masks that the weights were trained with come with the Sparsifier's own state, which is loaded last.

    >>> weight, cut = torch.tensor([1.0, 2.0]), Cut()
    >>> cut.keep([(weight, torch.tensor([True, False]))])
    [True]
    >>> weight[1] = 0.0
    >>> cut.done(), cut.restore_(), weight
    (None, None, tensor([1., 2.]))
    """

    def __init__(self) -> None:
        self._waiting: list[_Kept] = []
        self._kept: list[_Kept] = []

    def keep(self, tensors: Iterable[tuple[Tensor, Tensor]]) -> list[bool]:
        """Copy the tensors that are not zero off their mask; call :meth:`done` when they are cut.

        Args:
            tensors: Pairs of a tensor and its mask, of the same shape.

        Returns: which of them are not zero there.
        """
        nonzero = []
        for given, mask in tensors:
            tensor = local(given.detach())
            nonzero.append(bool(((tensor != 0) & ~local(mask)).any()))
            if nonzero[-1]:
                self._waiting.append(_Kept(given, tensor, tensor.clone(), is_whole=False))
        return nonzero

    def done(self) -> None:
        """The tensors are cut: what is written to them from now on stays."""
        self._kept += [kept._replace(versions=kept.versions_now) for kept in self._waiting]
        self._waiting.clear()

    def keep_states(self, states: Iterable[tuple[WeightState, Tensor]]) -> None:
        """Copy other optimizer state that is not fresh off its mask."""
        for state, mask in states:
            if state.num_stale(~mask):
                tensor = local(state.tensor)
                self._waiting.append(_Kept(state.tensor, tensor, tensor.clone(), is_whole=True))

    def restore_(self) -> None:
        """Give back what was cut from tensors that nothing has written since, and forget it."""
        with torch.no_grad():
            for kept in self._kept:
                if kept.versions == kept.versions_now:
                    tensor, before = kept.tensor, kept.before
                    tensor.data.copy_(before if kept.is_whole else torch.where(tensor == 0, before, tensor))
        self.forget()

    def forget(self) -> None:
        """Let go of the copies."""
        self._kept.clear()
