"""The loop: batches in, steps taken, what is logged out; the same for one process and for many."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from sparseflow.engine.stepper import Stepper
from sparseflow.masks.make import sparsity_of
from sparseflow.networks import NETWORKS
from sparseflow.sharded import full
from sparseflow.training.images import ImageRun
from sparseflow.training.probes import Batch, Flow, Log, evaluate
from sparseflow.training.ranks import Ranks
from sparseflow.training.resume import Checkpoints
from sparseflow.training.setup import set_up_images
from sparseflow.training.step import PRECISIONS, Trainer, training_norm
from sparseflow.training.streams import (
    Images,
    check_classes,
    first_images,
    plain_batches,
    preparation,
    training_batches,
)

#: Called with the steps taken and what is kept of them, ``{"model": ..., "masks": ...}`` whole, on rank 0 alone.
Keep = Callable[[int, Mapping[str, Any]], None]


def train_images(
    run: ImageRun,
    training: Images,
    test: Images,
    *,
    trainer: Trainer | None = None,
    log: Log,
    keep: Keep | None = None,
    progress: Callable[[int], None] | None = None,
    workers: int = 0,
    checkpoints: Checkpoints | None = None,
) -> Trainer:
    """Train a run to its end, from its last checkpoint if there is one.

    Logged every ``run.log_every`` steps, before the step: ``train/loss`` (smoothed, of the batch),
    ``gradient/training`` (of the training batch with L2, the authors' way on ImageNet) and ``flow/norm`` (of
    ``run.probe_images`` training images that are not augmented, in plain cross-entropy, active weights only), which is
    also logged right before and right after every mask update. At the end, and every ``run.eval_every`` steps:
    ``test/accuracy``, ``test/loss``.

    Args:
        run: What to train.
        training, test: Images, see :func:`sparseflow.data.open_images` and ``decode_all``.
        trainer: The run at step 0, of :func:`.set_up_images`; default on this process alone.
        log: Where measurements go, on rank 0.
        keep: Where weights and masks of ``run.snapshots`` and of the end go.
        progress: Told about every step.
        workers: Processes that decode images, for each rank.
        checkpoints: Where the run goes on from and what it leaves; none by default. What was logged after the last one
            is logged again, the same.

    Returns: the trainer, at the end.

    Raises:
        ValueError: if a dataset has other classes than the run, the checkpoint is of another run or damaged, or the
            sparse engine is asked for where it cannot be.
        FloatingPointError: if the loss is no longer finite.
    """
    for split in (training, test):
        check_classes(split, run)
    trainer = trainer or set_up_images(run, Ranks())
    ranks, sparsifier = trainer.ranks, trainer.sparsifier
    used = checkpoints.resume(trainer) if checkpoints is not None else 0
    stepper = planned(run, trainer)
    prepare = preparation(run, ranks.device)
    each = run.micro_batches // ranks.world
    micro_batches = training_batches(training, run, ranks, first=used, workers=workers)

    def tell(step: int, values: Mapping[str, float]) -> None:
        if ranks.is_first:
            log(step, values)

    def test_now(step: int) -> None:
        batches = (prepare(batch) for batch in plain_batches(test, run, ranks, workers=workers))
        tell(step, evaluate(trainer, batches, logits=None if stepper is None else stepper.logits))

    probe = [prepare(batch) for batch in first_images(plain_batches(training, run), run.probe_images)]
    flow = Flow(trainer, stepper, probe, log=tell)
    if used == 0:
        _keep(0, run, trainer, stepper, keep)
    while (step := sparsifier.step_count) < run.steps:
        local = [prepare(next(micro_batches)) for _ in range(each)]
        if is_logged := step % run.log_every == 0:
            flow.log(step)
        found = _step(trainer, stepper, local, is_logged=is_logged)
        if is_logged:
            tell(step, found)
        flow.log_updates()
        taken = sparsifier.step_count
        if taken > step:
            _keep(taken, run, trainer, stepper, keep)
            if taken < run.steps and taken % run.eval_every == 0:
                test_now(taken)
            if progress is not None:
                progress(taken)
        used += 1
        if checkpoints is not None and checkpoints.is_due(trainer, before=step):
            _settle(stepper)
            checkpoints.save(trainer, batches=used)
    # After the last checkpoint, so that a run continued from there is tested too.
    test_now(run.steps)
    _settle(stepper)
    sparsifier.check()
    tell(run.steps, {"sparsity": sparsity_of(sparsifier.masks)})
    return trainer


def _step(trainer: Trainer, stepper: Stepper | None, local: Sequence[Batch], *, is_logged: bool) -> dict[str, float]:
    """One step on this process's micro-batches, by the sparse engine where it can; what was measured."""
    step = trainer.sparsifier.step_count
    if stepper is not None and stepper.is_sparse and not (is_logged or stepper.moves_next):
        trainer.schedule.set_(trainer.optimizer, step)
        images, labels = (torch.cat(parts) for parts in zip(*local, strict=True))
        stepper.step(images, labels, torch.arange(len(labels)))
        return {}
    _settle(stepper)
    found = {"train/loss": trainer.backward(step, local)}
    if is_logged:
        names = {parameter: name for name, parameter in trainer.sparsifier.model.named_parameters()}
        norm = training_norm(trainer.optimizer, names=names, masks=trainer.sparsifier.masks)
        found["gradient/training"] = norm
    trainer.update()
    if stepper is not None:
        stepper.reload()
    return found


def _keep(step: int, run: ImageRun, trainer: Trainer, stepper: Stepper | None, keep: Keep | None) -> None:
    """Hand weights and masks over, if they are wanted at this step."""
    if keep is None or step not in (*run.snapshots, run.steps):
        return
    _settle(stepper)
    # All ranks gather what is cut, one tensor at a time.
    state = {"model": trainer.sparsifier.model.state_dict(), "masks": trainer.sparsifier.masks}
    whole = {part: {name: full(tensor) for name, tensor in tensors.items()} for part, tensors in state.items()}
    if trainer.ranks.is_first:
        keep(step, whole)


def _settle(stepper: Stepper | None) -> None:
    """Bring torch's weights up to the engine's."""
    if stepper is not None:
        stepper.settle()


def planned(run: ImageRun, trainer: Trainer) -> Stepper | None:
    """The sparse engine for a run, which computes steps between mask updates; ``None`` where torch takes all.

    Raises:
        ValueError: with ``engine="sparse"``, if the run has what the engine does not compute.
    """
    if run.engine == "masked":
        return None
    against = {
        "several processes": trainer.ranks.world > 1,
        "a GPU": trainer.ranks.device.type != "cpu",
        "autocast (give precision='float32')": PRECISIONS[run.precision] is not None,
        "smoothed labels (give label_smoothing=0)": run.label_smoothing > 0,
        "updates that replace a step (give updates='after_step')": run.replaces_steps,
        "torch.compile (give compiled=False)": run.compiled,
    }
    if found := [reason for reason, holds in against.items() if holds]:
        if run.engine == "sparse":
            raise ValueError(f"the sparse engine does not go with {', '.join(found)}. Or give engine='masked'.")
        return None
    return Stepper(trainer.sparsifier, run.engine, most_active=NETWORKS[run.architecture].sparse_up_to)
