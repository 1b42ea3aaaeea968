"""Dense against sparse at several batch sizes, in one call."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from sparseflow.boundary import checked
from sparseflow.engine.speed import rivals
from sparseflow.engine.speed.auto import choose
from sparseflow.engine.speed.comparison import BatchSpeed, Comparison
from sparseflow.engine.speed.example import checked_size, resized
from sparseflow.engine.speed.progress import Progress
from sparseflow.engine.speed.steps import model_step
from sparseflow.engine.speed.subject import Subject, check_that_it_runs, subject_of
from sparseflow.engine.speed.timing import Step, times_as_fast, turns
from sparseflow.ranges import Range
from sparseflow.types import Masks


@checked(seconds=Range(0))
def benchmark(
    model: nn.Module,
    example: Any,
    batches: Sequence[int] = (1, 8, 64),
    *,
    masks: Masks | None = None,
    training: bool | None = None,
    seconds: float = 0.5,
) -> Comparison:
    """Time a sparse model against its dense form at several batch sizes, on this machine, with this many threads.

    Each row runs in turns: the dense model in the precision of its weights, in bfloat16, and for inference with
    torch's dynamic int8 layers, where it runs so with close results, see :mod:`sparseflow.engine.speed.rivals`; the
    model that :func:`sparseflow.engine.convert` makes; and the mix of :func:`sparseflow.engine.compile_sparse`, where
    that is another. What takes longer than two seconds says on a terminal how far it is.

    Args:
        model: On the CPU: masked, held by a Sparsifier, converted, or dense if ``masks`` are given. Not changed: not
            its weights, gradients, statistics, modes, or the random state.
        example: An input such as the model will meet: a tensor, a tuple of several, or a mapping, see
            :mod:`sparseflow.batches`. Its first axis is the batch, which is repeated and cut to each size.
        batches: Numbers of examples.
        masks: Parameter name -> bool tensor; default as for :func:`sparseflow.engine.compile_sparse`.
        training: Time training steps in train mode, or inference in eval mode; ``None`` for both.
        seconds: To spend on each row, and as much to choose its mix.

    Raises:
        TypeError, ValueError: if a batch size is no positive whole number, a mask does not fit, the example holds no
            batch that the model takes, no layer can be sparse, or model or example are on another device or in half
            precision.

    >>> import sparseflow as sf
    >>> model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    >>> masks = sf.random_masks(model, 0.9, seed=0)
    >>> found = benchmark(model, torch.randn(16, 64), (1, 4), masks=masks, training=False, seconds=0.0)
    >>> [(row.batch, row.seconds["sparse"] > 0) for row in found.rows]
    [(1, True), (4, True)]
    """
    sizes = _checked_sizes(batches)
    checked_size(example)
    subject = subject_of(model, masks, example)
    if not subject.candidates:
        raise ValueError(_nothing_sparse(subject))
    check_that_it_runs(subject, example, (min(sizes), min(sizes) + 1))
    modes = [True, False] if training is None else [training]
    rows = []
    progress = Progress(2 * len(modes) * len(sizes))
    try:
        with torch.random.fork_rng(devices=[]):
            for mode in modes:
                for size in sizes:
                    inputs = resized(example, size)
                    rows.append(_row(subject, inputs, size, training=mode, seconds=seconds, progress=progress))
    finally:
        progress.close()
    return Comparison(
        rows=tuple(rows),
        num_convertible=len(subject.candidates),
        num_active=sum(int(mask.sum()) for mask in subject.masks.values()),
        num_weights=sum(mask.numel() for mask in subject.masks.values()),
        threads=torch.get_num_threads(),
        dtype=subject.dtype,
    )


def _row(subject: Subject, inputs: Any, size: int, *, training: bool, seconds: float, progress: Progress) -> BatchSpeed:
    where = f"{'training' if training else 'inference'} at batch {size}"
    progress.next(f"choosing layers for {where}")
    dense = subject.form((), training=training)
    steps: dict[str, Step] = {subject.dtype: model_step(dense, inputs, training=training)}
    try:
        steps[subject.dtype]()
    except (RuntimeError, ValueError) as error:  # such as batch norm of a single example
        progress.next(where)
        reasons = {"times": str(error).splitlines()[0]}
        return BatchSpeed(batch=size, training=training, seconds={}, speedups={}, reasons=reasons, choice=None)
    others = {"bfloat16": rivals.bfloat16(lambda: subject.form((), training=training), inputs, training=training)}
    if not training:
        others["int8"] = rivals.int8(lambda: subject.form((), training=False), inputs)
    steps |= {name: rival.step for name, rival in others.items() if rival.step is not None}
    dense_names = list(steps)
    share = seconds / (len(subject.candidates) + 2)  # of each layer, of the whole and of the last comparison
    table = choose(subject, inputs, batch=size, training=training, bfloat16=False, seconds=share)
    progress.next(f"timing {where}")
    mixes = {"sparse": subject.candidates, "chosen": table.chosen}
    if set(table.chosen) in (set(), set(subject.candidates)):
        del mixes["chosen"]
    for name, mix in mixes.items():
        steps[name] = model_step(subject.form(mix, training=training), inputs, training=training)
    times = dict(zip(steps, turns(list(steps.values()), seconds=seconds), strict=True))
    sparse = times["chosen" if "chosen" in times else "sparse"]
    return BatchSpeed(
        batch=size,
        training=training,
        seconds={name: statistics.median(each) for name, each in times.items()},
        speedups={name: times_as_fast(sparse, times[name]) for name in dense_names},
        reasons={name: rival.reason for name, rival in others.items() if rival.reason is not None},
        choice=table,
    )


def _checked_sizes(batches: Any) -> list[int]:
    """The batch sizes, each once.

    Raises:
        TypeError, ValueError: if they are no sequence of positive whole numbers, or there are none.
    """
    if not isinstance(batches, tuple | list | range):
        raise TypeError(f"batches must be a sequence of whole numbers, such as (1, 8, 64), got {batches!r}.")
    if not batches:
        raise ValueError("batches is empty; give at least one number of examples, such as (1, 8, 64).")
    for size in batches:
        if isinstance(size, float):
            raise TypeError(f"batches must be whole numbers, such as (1, 8, 64), got {size!r}.")
        Range(1).check(size, name="each of batches", whole=True)
    return list(dict.fromkeys(batches))


def _nothing_sparse(subject: Subject) -> str:
    reasons = ", ".join(f"{name} ({reason})" for name, reason in subject.reasons.items())
    return (
        f"no layer of the model can be sparse: {reasons}. Give masks, such as masks=sparseflow.random_masks(model, "
        "0.95)."
    )
