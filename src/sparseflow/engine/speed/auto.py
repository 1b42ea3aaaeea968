"""The choice of layers that are faster sparse on this machine, by measurement."""

from __future__ import annotations

import statistics
from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import nn

from sparseflow.batches import map_tensors
from sparseflow.boundary import checked
from sparseflow.engine.convert import convert, sparse_layers
from sparseflow.engine.layers.chain import rectified
from sparseflow.engine.layers.modules import SparseLayer
from sparseflow.engine.speed import rivals
from sparseflow.engine.speed.example import checked_size
from sparseflow.engine.speed.layers import layer_costs, watch
from sparseflow.engine.speed.mix import Costs, best_mix, settled
from sparseflow.engine.speed.steps import model_step
from sparseflow.engine.speed.subject import Subject, check_that_it_runs, subject_of
from sparseflow.engine.speed.table import Conditions, LastComparison, LayerSpeed, SpeedTable
from sparseflow.engine.speed.timing import Step, medians, times_as_fast, turns
from sparseflow.ranges import Range
from sparseflow.types import Masks

#: How often the last comparison is gone on with while it is open: a mix that is no faster than dense is then taken in
#: at most 3 x 2.5 of 100 cases.
_ROUNDS = 3


@checked(seconds=Range(0))
def compile_sparse(
    model: nn.Module,
    example: Any,
    *,
    masks: Masks | None = None,
    training: bool = True,
    bfloat16: bool = False,
    seconds: float = 0.2,
) -> tuple[nn.Module, SpeedTable]:
    """Convert the layers that are faster sparse, at this input, on this machine, with this many threads.

    What will be run is timed: training steps in train mode, or inference in eval mode under ``no_grad``. Each masked
    layer is timed dense and sparse, on inputs in the layout that it meets behind dense and behind sparse layers. The
    mix with the least sum is timed as a whole, see :func:`sparseflow.engine.speed.mix.best_mix`.

    It never makes a model slower: the best mix is timed once more against the dense model, in turns, and taken only if
    it is faster by more than the noise, so that the 95 % interval of the median ratio lies above 1, see
    :func:`sparseflow.engine.speed.timing.times_as_fast`. Else the model stays dense. That is in the precision of its
    weights; bfloat16 gives other results, so the table tells its time, and ``bfloat16=True`` makes it a rival.

    Expect a second or two for a small model, and once the time to compile the kernels. The model's hooks, if it has
    any, see these steps.

    Args:
        model: On the CPU, masked or converted. Not changed: not its weights, gradients, statistics, modes, or the
            random state.
        example: An input such as the model will meet: a tensor, a tuple of several, or a mapping, see
            :mod:`sparseflow.batches`; the batch is its first axis.
        masks: Parameter name -> bool tensor. Default: those of the Sparsifier that holds the weights, else the nonzero
            pattern of every prunable weight. Weights off the mask are dropped.
        training: Time training steps; ``False`` for inference.
        bfloat16: You would compute the dense model in bfloat16 where that is faster: the mix must beat it too.
        seconds: To spend on each layer, on the whole, and on the last comparison.

    Returns:
        A copy of the model, converted as :func:`sparseflow.engine.convert` does it, in the mode that the model is in,
        and the table.

    Raises:
        TypeError, ValueError: if a mask does not fit, the example holds no batch, or model or example are on another
            device or in half precision.

    >>> import sparseflow as sf
    >>> model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    >>> model = sf.apply_masks_(model, sf.random_masks(model, 0.9, seed=0))
    >>> x = torch.randn(16, 64)
    >>> fast, table = compile_sparse(model, x, seconds=0.0)
    >>> torch.allclose(fast(x), model(x), atol=1e-6), [layer.num_active for layer in table.layers]
    (True, [205, 32])
    """
    batch = checked_size(example)
    inputs = map_tensors(lambda tensor: tensor.detach().clone(), example)  # a model may write into its input
    subject = subject_of(model, masks, inputs)
    with torch.random.fork_rng(devices=[]):
        check_that_it_runs(subject, inputs, (batch,))
        table = choose(subject, inputs, batch=batch, training=training, bfloat16=bfloat16, seconds=seconds)
    return convert(subject.model, subject.masks, only=table.chosen), table


def choose(subject: Subject, inputs: Any, *, batch: int, training: bool, bfloat16: bool, seconds: float) -> SpeedTable:
    """The table of :func:`compile_sparse`, with the choice in it; draws random numbers."""
    units = subject.units()
    costs, covered = _layer_costs(subject, units, inputs, training=training, seconds=seconds)

    def weights(paths: Collection[str]) -> list[str]:
        return [name for path in paths for name in units[path]]

    def whole(paths: Collection[str]) -> tuple[float, float]:
        forms = [subject.form(names, training=training) for names in ((), weights(paths))]
        dense, sparse = medians([model_step(form, inputs, training=training) for form in forms], seconds=seconds)
        return dense, sparse

    mix, _ = best_mix(costs, whole)
    last = LastComparison()
    if mix:
        last = _last_comparison(subject, inputs, weights(mix), training=training, seconds=seconds)
    chosen = weights(mix) if last.is_faster(bfloat16=bfloat16) else []
    times = dict(zip(costs, settled(list(costs.values()), [path in mix for path in costs]), strict=True))
    timed = {units[path][0]: each for path, each in times.items()}
    leaders = {name: units[path][0] for path in times for name in units[path]}
    return SpeedTable(
        layers=tuple(
            _layer(subject, name, timed, leaders.get(name), chosen, has_cover=name in covered) for name in subject.masks
        ),
        last=last,
        bfloat16_counts=bfloat16,
        conditions=Conditions(batch=batch, threads=torch.get_num_threads(), training=training, dtype=subject.dtype),
    )


def _layer_costs(
    subject: Subject, paths: Collection[str], inputs: Any, *, training: bool, seconds: float
) -> tuple[dict[str, Costs], set[str]]:
    """Costs of each module that can be sparse and is reached, in the order of execution, and who has covers.

    Those are names of weights.
    """
    if not paths:
        return {}, set()
    forms = subject.form((), training=training), subject.form(subject.candidates, training=training)
    dense, sparse = ({path: form.get_submodule(path) for path in paths} for form in forms)
    met = (
        watch(model_step(forms[0], inputs, training=training), dense),
        watch(model_step(forms[1], inputs, training=training), sparse),
    )
    relus = set(rectified(forms[1]))
    costs = layer_costs(dense, sparse, met, rectified=relus, training=training, seconds=seconds)
    covered = {n for n, layer in sparse_layers(forms[1]).items() if isinstance(layer, SparseLayer) and layer.has_cover}
    return costs, covered


def _last_comparison(
    subject: Subject, inputs: Any, mix: Collection[str], *, training: bool, seconds: float
) -> LastComparison:
    """The mix against the dense model and its bfloat16 form, in turns, after the choice and apart from it."""
    dense, mixed = (subject.form(names, training=training) for names in ((), mix))
    rival = rivals.bfloat16(lambda: subject.form((), training=training), inputs, training=training)
    steps: list[Step] = [model_step(form, inputs, training=training) for form in (mixed, dense)]
    steps += [] if rival.step is None else [rival.step]
    times: list[list[float]] = [[] for _ in steps]
    for _ in range(_ROUNDS):
        for known, new in zip(times, turns(steps, seconds=seconds), strict=True):
            known.extend(new)
        ratio = times_as_fast(times[0], times[1])
        if not ratio.low <= 1 <= ratio.high:
            break
    sparse, *others = times
    seconds_of = [statistics.median(each) for each in others]
    ratios = [times_as_fast(sparse, each) for each in others]
    return LastComparison(
        sparse_seconds=statistics.median(sparse),
        dense_seconds=seconds_of[0],
        speedup=ratios[0],
        bfloat16_seconds=seconds_of[1] if others[1:] else None,
        bfloat16_speedup=ratios[1] if others[1:] else None,
        bfloat16_reason=rival.reason,
    )


def _layer(
    subject: Subject,
    name: str,
    timed: Mapping[str, tuple[float, float]],
    leader: str | None,
    chosen: Collection[str],
    *,
    has_cover: bool,
) -> LayerSpeed:
    """One row; ``leader`` is the weight that has the times of the module, ``None`` if that was not timed."""
    mask, is_sparse = subject.masks[name], name in chosen
    dense, sparse = timed.get(name, (None, None))
    reason: str | None
    if leader is None:
        reason = subject.reasons[name] or "the example does not reach it"
    elif dense is None or sparse is None:
        reason = f"timed with {leader.rpartition('.')[2]}"
    else:
        reason = _reason(dense, sparse, is_sparse=is_sparse, falls_back=not chosen, has_cover=has_cover)
    return LayerSpeed(
        name=name,
        shape=tuple(mask.shape),
        num_active=int(mask.sum()),
        dense_seconds=dense,
        sparse_seconds=sparse,
        is_sparse=is_sparse,
        reason=reason,
    )


def _reason(dense: float, sparse: float, *, is_sparse: bool, falls_back: bool, has_cover: bool) -> str | None:
    """Why a layer that was timed has its form, where its own times do not say it, or how it is computed."""
    if is_sparse:
        how = "computed in 4x1 blocks that hold its weights" if has_cover else None
        return how if sparse < dense else "its neighbours gain"
    if sparse >= dense:
        return "slower sparse here"
    return "the whole gains nothing" if falls_back else "its neighbours lose more"
