"""``sf.diagnose``: look at a sparse network, and at the run around it, for what keeps it from learning."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import nn

from sparseflow._checks import check_masks
from sparseflow.analysis.dead_units import dead_units
from sparseflow.attached import holder_of, is_start_of
from sparseflow.batches import Batch, each
from sparseflow.boundary import checked
from sparseflow.doctor.causes import CAUSES
from sparseflow.doctor.finding import Diagnosis, Finding
from sparseflow.doctor.optimizers import optimizer_caveats
from sparseflow.doctor.schedule import Course, masks_never_moved, schedule
from sparseflow.doctor.start import not_finite, weak_start
from sparseflow.doctor.units import silent, without_inputs
from sparseflow.masks.select import maskable
from sparseflow.ranges import Range
from sparseflow.sharded import num_true
from sparseflow.sparsifier.optimizers import is_scheduled
from sparseflow.sparsifier.sparsifier import Sparsifier
from sparseflow.types import Batches, LossFn, Masks


@checked(total_steps=Range(1))
def diagnose(
    model: nn.Module,
    masks: Masks,
    batches: Batches,
    *,
    loss_fn: LossFn | None = F.cross_entropy,
    sparsifier: Sparsifier | None = None,
    optimizer: torch.optim.Optimizer | Sequence[torch.optim.Optimizer] | None = None,
    total_steps: int | None = None,
    start_masks: Masks | None = None,
    training: bool | None = None,
) -> Diagnosis:
    """Say why a sparse network does not learn: each cause with its number, its threshold's source, and what to type.

    Looks for numbers that are not finite, units without inputs, layers that pass no signal or no gradient, dead units,
    weights that are too small for their units' active inputs, updates of masks that never come, exchange nothing, too
    much or until the end, masks that have not moved, and optimizers with a caveat: :data:`sparseflow.doctor.CAUSES`.
    What another cause explains is not named. The model, its gradients and its optimizer stay as they are.

    Args:
        model: The network, before or after training.
        masks: Its masks, or those that its Sparsifier was made from.
        batches: Some hundred examples, see :mod:`sparseflow.batches`; of few, units that rarely fire look dead.
        loss_fn: Mean loss of a batch; ``None`` for the one that the model returns.
        sparsifier: Of the run; default the one that holds the model's weights.
        optimizer: One or several; default those of the Sparsifier.
        total_steps: Optimizer steps of the whole run; default the method's ``total_steps``.
        start_masks: The masks that the run began with; default ``masks``, if the Sparsifier was made from them.
        training: Train or eval mode; ``None`` keeps the model's.

    Returns: the :class:`~sparseflow.doctor.Diagnosis`; ``print`` it.

    Raises:
        TypeError, ValueError: if a mask does not fit, the model is not zero off the masks, a batch is none, or there
            are fewer than two examples.

    >>> import sparseflow as sf
    >>> model = nn.Sequential(nn.Linear(20, 30), nn.ReLU(), nn.Linear(30, 2))
    >>> masks = sf.random_masks(model, 0.5, seed=0)
    >>> model = sf.initialize_(sf.apply_masks_(model, masks), masks, seed=0)
    >>> x = torch.rand(64, 20, generator=torch.Generator().manual_seed(0))
    >>> _ = model[0].bias.data.fill_(-100)
    >>> diagnosis = diagnose(model, masks, [(x, (x[:, 0] > 0.5).long())])
    >>> [(finding.cause, finding.where) for finding in diagnosis]
    [('no_signal', '0')]
    """
    weights = {name: weight.parameter for name, weight in maskable(model).items()}
    check_masks(masks, weights)
    if not masks:
        raise ValueError("there are no masks; make some, such as sparseflow.random_masks(model, 0.9, seed=0).")
    if sparsifier is None:
        holders = (holder_of(weights[name]) for name in masks)
        sparsifier = cast("Sparsifier | None", next((found for found in holders if found is not None), None))
    if sparsifier is not None:
        start_masks = masks if start_masks is None and is_start_of(sparsifier, masks) else start_masks
        masks = sparsifier.masks
    found = list(each(batches))
    examples = sum(batch.size for batch in found)
    if examples < 2:
        raise ValueError("one example does not tell a dead unit from a live one; give some hundred.")
    findings = list(_of_network(model, masks, found, loss_fn=loss_fn, training=training))
    optimizers: Sequence[torch.optim.Optimizer] = sparsifier.optimizers if sparsifier is not None else ()
    if optimizer is not None:
        optimizers = optimizer if isinstance(optimizer, list | tuple) else [cast(torch.optim.Optimizer, optimizer)]
    left_out = [] if optimizers else ["the optimizer (give optimizer=)."]
    if sparsifier is None:
        left_out.append("the method and its schedule (give sparsifier=).")
    else:
        course = _course(sparsifier, masks, total_steps)
        planned = list(schedule(course))
        findings += planned
        if course.steps is None and hasattr(course.method, "drop_fraction"):
            left_out.append("the schedule against the run's length (give total_steps=).")
        if start_masks is not None:
            findings += [] if planned else masks_never_moved(course, masks, start_masks)
        elif hasattr(course.method, "drop_fraction"):
            left_out.append("whether masks moved (give start_masks=).")
    findings += optimizer_caveats(optimizers)
    order = list(CAUSES)
    return Diagnosis(tuple(sorted(findings, key=lambda one: order.index(one.cause))), examples, tuple(left_out))


def _of_network(
    model: nn.Module, masks: Masks, batches: list[Batch], *, loss_fn: LossFn | None, training: bool | None
) -> Iterator[Finding]:
    """Findings about masks, weights and signals."""
    broken = list(not_finite(model, batches, training=training))
    yield from broken
    empty = list(without_inputs(model, masks))
    yield from empty
    if broken:
        return
    units = dead_units(model, batches, masks, loss_fn=loss_fn, training=training)
    yield from silent(model, masks, units, reported=frozenset(finding.where for finding in empty))
    yield from weak_start(model, masks, batches, training=training)


def _course(sparsifier: Sparsifier, masks: Masks, total_steps: int | None) -> Course:
    steps = getattr(sparsifier.method, "total_steps", None) if total_steps is None else total_steps
    return Course(
        method=sparsifier.method,
        steps=steps,
        step=sparsifier.step_count,
        active={name: num_true(mask) for name, mask in masks.items()},
        rate_falls=any(map(is_scheduled, sparsifier.optimizers)),
    )
