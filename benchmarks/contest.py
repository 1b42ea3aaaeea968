"""Sparse computations and their dense rivals take turns in one process: float32, bfloat16 autocast, dynamic int8."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

import sparseflow as sf
from benchmarks.engine_timing import gflops, on_threads, torch_threads
from benchmarks.result import Benchmark, Case
from benchmarks.timing import Step, Timings, shortest, take_turns
from sparseflow.types import Masks

#: Name of a memory layout -> a copy of the tensor in it.
LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "contiguous": torch.clone,
    "channels_last": lambda x: x.clone(memory_format=torch.channels_last),
    "batch innermost": lambda x: x.permute(*range(1, x.dim()), 0).contiguous().permute(-1, *range(x.dim() - 1)),
}
UNSTRUCTURED, BLOCKS = "unstructured", "4x1 blocks"
BLOCK = (4, 1)
FLOAT32, BF16, INT8 = "float32", "bf16 autocast", "dynamic int8"


Arrange = Callable[[Tensor], Tensor]
Precision = Callable[[], AbstractContextManager[Any]]
#: Makes the function that is timed from a model, the layout of its input and the precision of its forward pass.
StepOf = Callable[[nn.Module, Arrange, Precision], Step]


@dataclass(frozen=True, kw_only=True)
class Problem:
    """What is computed: a dense model, and the function to time on it and on its sparse forms.

    Args:
        label: Of its cases.
        model: Dense; every contestant gets a copy.
        step: What is timed.
        sparse_step: Of the model with masks; default ``step`` of the converted model.
        dense_layouts: Keys of :data:`LAYOUTS`; the faster one is the rival.
        sparse_layout: Key of the layout of the sparse forms' input.
        rivals: Of :data:`FLOAT32`, :data:`BF16` and :data:`INT8`.
        allocation: How the layers share the sparsity.
        work: Multiply-adds of each nonzero in one step, where that is one number.
        settings: More to record with the cases.
    """

    label: str
    model: nn.Module
    step: StepOf
    sparse_step: Callable[[nn.Module, Masks], Step] | None = None
    dense_layouts: tuple[str, ...] = ("contiguous",)
    sparse_layout: str = "contiguous"
    rivals: tuple[str, ...] = (FLOAT32, BF16)
    allocation: str = "uniform"
    work: int | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)


class Entry(NamedTuple):
    """One sparse form, and how many times faster than each rival it should be; those without a number are reported."""

    pattern: str
    sparsity: float
    reach: Mapping[str, float]

    @property
    def label(self) -> str:
        """Pattern and sparsity."""
        return f"{self.pattern} {self.sparsity:.0%}"


class Trial(NamedTuple):
    """A problem, as a function of whether it should be tiny, and the sparse forms that are measured on it."""

    problem: Callable[[bool], Problem]
    entries: tuple[Entry, ...]
    threads: int = 1


def entries(pattern: str, **reach_at: float | tuple[float, ...]) -> tuple[Entry, ...]:
    """Forms of one pattern: sparsity in percent -> numbers to reach over float32, bf16 and int8, 0 for none.

    >>> entries("4x1 blocks", at_80=(4, 2.2), at_98=19)
    (Entry(pattern='4x1 blocks', sparsity=0.8, reach={'float32': 4, 'bf16 autocast': 2.2}),
     Entry(pattern='4x1 blocks', sparsity=0.98, reach={'float32': 19}))
    """
    found = []
    for name, given in reach_at.items():
        numbers = given if isinstance(given, tuple) else (given,)
        reach = {rival: number for rival, number in zip((FLOAT32, BF16, INT8), numbers, strict=False) if number}
        found.append(Entry(pattern, int(name.removeprefix("at_")) / 100, reach))
    return tuple(found)


def masks_of(model: nn.Module, entry: Entry, *, allocation: str = "uniform") -> dict[str, Tensor]:
    """Random masks of a form. Layers that blocks do not divide, such as the logits, get masks of single weights."""
    block: dict[str, Any] = {}
    if entry.pattern == BLOCKS:
        odd = [name for name, weight in sf.prunable(model).items() if weight.parameter.shape[0] % BLOCK[0]]
        block = {"block": {**dict.fromkeys(odd, (1, 1)), "*": BLOCK}}
    return sf.random_masks(model, entry.sparsity, allocation=allocation, seed=0, **block)


def row(name: str, what: str, *trials: Trial) -> Benchmark:
    """A benchmark of contests; every case has numbers of its own to reach."""
    return Benchmark(name=name, what=what, reach=None, run=partial(_run, trials), speedup=True)


def _run(trials: Iterable[Trial], smoke: bool) -> Iterator[Case]:
    for trial in trials:
        with torch_threads(trial.threads):
            yield from contest(trial.problem(smoke), trial.entries, threads=trial.threads, smoke=smoke)


def contest(problem: Problem, forms: Sequence[Entry], *, threads: int, smoke: bool) -> Iterator[Case]:
    """One case for each sparse form and rival, all from the same turns."""
    steps: dict[str, Step] = {}
    nonzeros: dict[str, int] = {}
    for entry in forms:
        model = copy.deepcopy(problem.model)
        masks = masks_of(model, entry, allocation=problem.allocation)
        sf.apply_masks_(model, masks)
        nonzeros[entry.label] = sum(int(mask.sum()) for mask in masks.values())
        steps[entry.label] = sparse(problem, model, masks)
    fastest = {}
    for rival in problem.rivals:
        fastest[rival], steps[rival] = fastest_of(dense(problem, rival), smoke=smoke)
    seconds = take_turns(steps, smoke=smoke)
    for entry in forms:
        for rival in problem.rivals:
            reach = entry.reach.get(rival)
            configuration: dict[str, Any] = {
                "row": problem.label, "pattern": entry.pattern, "sparsity": entry.sparsity, "threads": threads,
                "rival": rival, "baseline": fastest[rival], "layout": problem.sparse_layout,
                "allocation": problem.allocation, "nonzeros": nonzeros[entry.label], **problem.settings,
            }  # fmt: skip
            if problem.work:
                configuration["gflops"] = gflops(problem.work * nonzeros[entry.label], seconds[entry.label])
                configuration["gflops_rival"] = gflops(
                    problem.work * nonzeros[entry.label] / (1 - entry.sparsity), seconds[rival]
                )
            yield Case(
                label=f"{problem.label}, {entry.label}, {on_threads(threads)}, against {rival}",
                configuration=configuration,
                timings=Timings(seconds[entry.label], seconds[rival]),
                counts=reach is not None,
                reach=None if reach is None else 1 / reach,
            )


def sparse(problem: Problem, model: nn.Module, masks: Masks) -> Step:
    """The step of a sparse form."""
    if problem.sparse_step is not None:
        return problem.sparse_step(model, masks)
    return problem.step(sf.engine.convert(model, masks), LAYOUTS[problem.sparse_layout], nullcontext)


def dense(problem: Problem, rival: str) -> dict[str, Step]:
    """The step of a rival, in each layout that it may choose."""
    found = {}
    for layout in problem.dense_layouts:
        model = copy.deepcopy(problem.model)
        if layout == "channels_last":
            model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        precision: Precision = nullcontext
        if rival == BF16:
            precision = partial(torch.autocast, "cpu", torch.bfloat16)
        elif rival == INT8:
            model = torch.ao.quantization.quantize_dynamic(model.eval(), {nn.Linear}, dtype=torch.qint8)
            precision = _without_fast_path
        found[layout] = problem.step(model, LAYOUTS[layout], precision)
    return found


@contextmanager
def _without_fast_path() -> Iterator[None]:
    # torch's fast path of a TransformerEncoder looks for the weights of layers that quantize_dynamic has replaced.
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(True)


def fastest_of(steps: Mapping[str, Step], *, smoke: bool) -> tuple[str, Step]:
    """The fastest of several ways to compute the same, and its name."""
    if smoke or len(steps) == 1:
        return next(iter(steps.items()))
    return min(steps.items(), key=lambda way: shortest(way[1]))
