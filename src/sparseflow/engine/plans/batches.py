"""How a batch is worked on: in slices of programs, workspaces and gradients, by so many threads."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from sparseflow.engine.kernels.workspace import workspaces
from sparseflow.engine.layers.threads import is_worth_halving, threads_for
from sparseflow.engine.plans.builder import Program
from sparseflow.engine.plans.program import build_program, examples_that_fit
from sparseflow.engine.plans.statistics import Modes, Statistics

Integers = NDArray[np.int64]
#: Examples in a slice, at least and at most, unless the batch is smaller: fewer would make vectors and rows too short.
_FEWEST, MOST = 16, 128
#: Gradients that are summed at the end, at most: a batch has as many parts, and no more threads can share it.
_PARTS = 8


class Kind(NamedTuple):
    """What a program depends on besides the examples in a slice."""

    shape: tuple[int, ...]
    """Of one example."""
    modes: Modes
    training: bool

    @property
    def measures(self) -> bool:
        """Whether a norm needs the whole batch at once."""
        return any(self.modes)


class Batch(NamedTuple):
    """The arguments of :func:`sparseflow.engine.plans.slices.run_slices` for batches of one size."""

    size: int
    """Examples of a slice."""
    whole: int
    """Slices of that size."""
    program: Program
    rest: Program
    """Of the examples that are left."""
    shares: int
    """Of each slice, if threads share every operation; else 1."""
    bounds: Integers
    """Of each thread, among the shares of slices."""
    rooms: NDArray[Any]
    positions: NDArray[np.int8]
    room_of: Integers
    """Of each slice."""
    gradient_of: Integers
    """Of each share of a slice."""
    work: int
    """Multiply-adds that threads share before they wait for each other, forward."""

    @property
    def gradients(self) -> int:
        """How many there are, to be summed at the end."""
        return int(self.gradient_of[-1]) + 1


class Batches:
    """The batches of a network that were met so far.

    Args:
        begins: As :func:`build_program`.
        dtype: Of all numbers.
    """

    def __init__(self, statistics: Statistics, begins: list[int], dtype: np.dtype[Any]) -> None:
        self.dtype = dtype
        self._statistics = statistics
        self._begins = begins
        self._programs: dict[tuple[Kind, int], Program] = {}
        self._batches: dict[tuple[Kind, int, int], Batch] = {}

    def of(self, kind: Kind, size: int) -> Batch:
        """How a batch of ``size`` examples is worked on by ``torch.get_num_threads()`` threads."""
        key = (kind, size, torch.get_num_threads())
        if key not in self._batches:
            self._batches[key] = self._together(kind, size) if kind.measures else self._in_slices(kind, size)
        return self._batches[key]

    def _together(self, kind: Kind, size: int) -> Batch:
        """One slice, of which each thread does a share, operation by operation."""
        program = self._program(kind, size)
        work = program.work // len(self._begins)
        shares = threads_for(work, size)
        rooms, positions = self._rooms(1, program)
        edges = np.arange(shares + 1)
        # A share has parameters of its own, so the others' gradients of them are zero and their sum is exact.
        return Batch(size, 1, program, program, shares, edges, rooms, positions, edges[:1], edges[:-1], work)

    def _in_slices(self, kind: Kind, size: int) -> Batch:
        """Slices that fit in the cache, of which each thread has some."""
        work = self._program(kind, MOST).work * size // MOST
        length = min(size, self._slice_size(kind, size, work))
        whole, left = divmod(size, length)
        program = self._program(kind, length)
        rest = self._program(kind, left) if left else program
        # Parts depend on the batch alone, so that sums do not know threads; a thread has some of them.
        parts = _divide(whole + (left > 0), _PARTS)
        threads = threads_for(work, len(parts) - 1)
        bounds = parts[_divide(len(parts) - 1, threads)]
        room_of = np.repeat(np.arange(threads), np.diff(bounds))
        if left:
            room_of[-1] = threads  # the zeros of its borders lie elsewhere
        rooms, positions = self._rooms(int(room_of[-1]) + 1, program, rest)
        gradient_of = np.repeat(np.arange(len(parts) - 1), np.diff(parts))
        return Batch(length, whole, program, rest, 1, bounds, rooms, positions, room_of, gradient_of, work)

    def _slice_size(self, kind: Kind, size: int, work: int) -> int:
        """As many examples as fit in the cache, and two slices at least if each is worth a thread."""
        room = self._program(kind, MOST).workspace // MOST * self.dtype.itemsize
        fits = examples_that_fit(room, least=_FEWEST, most=MOST)
        return min(fits, -(-size // (2 * _FEWEST)) * _FEWEST) if is_worth_halving(work) else fits

    def _rooms(self, count: int, *programs: Program) -> tuple[NDArray[Any], NDArray[np.int8]]:
        size, positions = max(p.workspace for p in programs), max(p.positions for p in programs)
        return workspaces(count, size, self.dtype), np.zeros((count, positions), np.int8)

    def _program(self, kind: Kind, batch: int) -> Program:
        if (kind, batch) not in self._programs:
            self._programs[kind, batch] = build_program(
                self._statistics.tape(kind.modes), self._begins, kind.shape, batch=batch,
                itemsize=self.dtype.itemsize, training=kind.training,
            )  # fmt: skip
        return self._programs[kind, batch]


def _divide(count: int, most: int) -> Integers:
    """The edges of ``most`` equal parts of [0, count) at most, none of them empty."""
    parts = min(count, most)
    return np.arange(parts + 1) * count // parts
