"""The loop: batches in, steps taken, measurements out; the same for digits and images, for one process and for many."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping

from torch.nn.modules.batchnorm import _BatchNorm

from sparseflow.engine.stepper import Stepper
from sparseflow.methods.run import UnfinishedWarning
from sparseflow.networks import NETWORKS
from sparseflow.sharded import full
from sparseflow.training.clock import Clock
from sparseflow.training.config import RunConfig
from sparseflow.training.images import ImageRun
from sparseflow.training.probes import Log, Probes
from sparseflow.training.resume import Checkpoints
from sparseflow.training.setup import set_up
from sparseflow.training.step import PRECISIONS, Trainer, training_norm
from sparseflow.training.streams import ImageData, Images, RunData, StepBatch

#: Called as ``keep(step, {"model": ..., "masks": ...}, before_update=...)`` with whole tensors, on rank 0 alone.
Keep = Callable[..., None]


def run_steps(
    config: RunConfig,
    data: RunData,
    *,
    trainer: Trainer,
    stepper: Stepper,
    log: Log,
    keep: Keep | None = None,
    progress: Callable[[int], None] | None = None,
    checkpoints: Checkpoints | None = None,
    first: int = 0,
    clock: Clock | None = None,
) -> dict[str, float]:
    """Train a run to its end.

    Logged every ``config.log_every`` steps, before the step: ``train/loss`` (smoothed, of the batch) and ``flow/norm``
    (of fixed training images that are not augmented, in plain cross-entropy, active weights only), which is also logged
    right before and right after every mask update; of images ``gradient/training`` too (of the training batch with L2,
    the authors' way on ImageNet). Every ``config.eval_every`` steps and at the end: ``test/accuracy``, ``test/loss``.
    At the start and at the end: how many units of each layer are alive, and why others are not, see
    :func:`.unit_counts`. At the start and where a mask update changes it: ``density/<weight>``, the share of active
    weights.

    Args:
        config: The run.
        data: Its images.
        trainer: The run at step 0, of :func:`.set_up`.
        stepper: Of :func:`.stepper_of`.
        log: Gets measurements, on rank 0.
        keep: Gets weights and masks of ``config.snapshots``, and of the end where checkpoints hold it in parts.
        progress: Called after every step with the steps taken.
        checkpoints: Saves the run every ``config.checkpoint_every`` steps and at the end; not by default.
        first: Batches used before, of :meth:`.Checkpoints.resume`.
        clock: Tells what is measured from what is trained.

    Returns: the results at the end, by metric name.

    Raises:
        FloatingPointError: if the loss of an image run is no longer finite.
    """
    ranks, sparsifier = trainer.ranks, trainer.sparsifier

    def log_on_first(step: int, values: Mapping[str, float]) -> None:
        if ranks.is_first:
            log(step, values)

    def snapshot(step: int, *, before_update: bool = False) -> None:
        # The checkpoint of one process holds its end whole.
        is_end = step == config.steps and not config.one_process
        if keep is None or not (step in config.snapshots or is_end):
            return
        stepper.settle()
        # All ranks gather the parts of sharded weights, one tensor at a time.
        state = {"model": sparsifier.model.state_dict(), "masks": sparsifier.masks}
        whole = {part: {name: full(tensor) for name, tensor in tensors.items()} for part, tensors in state.items()}
        if ranks.is_first:
            keep(step, whole, before_update=before_update)

    if config.keeps_before_updates:
        sparsifier.before_update.append(lambda step: snapshot(step, before_update=True))
    probes = Probes(config, trainer, stepper, data, log=log_on_first, clock=clock or Clock())
    stepper.reload()
    if first == 0:
        snapshot(0)
        probes.begin()
    used, batches = first, data.training(first)
    while (step := sparsifier.step_count) < config.steps:
        batch = next(batches)
        probes.before_step(step)
        is_logged = step % config.log_every == 0
        found = _step(trainer, stepper, batch, with_norm=is_logged and config.logs_training_norm)
        if is_logged:
            log_on_first(step, found)
        probes.log_updates()
        used += 1
        if (taken := sparsifier.step_count) == step:
            continue  # the update has taken the place of the step
        snapshot(taken)
        probes.after_step(taken)
        if progress is not None:
            progress(taken)
        if checkpoints is not None and (taken % config.checkpoint_every == 0 or taken == config.steps):
            stepper.settle()
            checkpoints.save(trainer, batches=used)
    # After the last checkpoint, so that a run continued from there logs the end once.
    stepper.settle()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnfinishedWarning)  # on MNIST the paper's never stop
        sparsifier.check()
    return probes.end(config.steps)


def train_images(
    run: ImageRun,
    training: Images,
    test: Images,
    *,
    trainer: Trainer | None = None,
    log: Log,
    progress: Callable[[int], None] | None = None,
    workers: int = 0,
    checkpoints: Checkpoints | None = None,
) -> Trainer:
    """Train on given images without a folder of runs; :func:`.train` keeps one.

    Args:
        run: The run.
        training, test: Images, see :func:`sparseflow.data.open_images` and ``decode_all``.
        trainer: The run at step 0, of :func:`.set_up`; default on this process alone.
        log, progress: See :func:`run_steps`.
        checkpoints: Where the run goes on from and what it leaves; none by default. What was logged after the last one
            is logged again, the same.
        workers: Processes that decode images, for each rank.

    Returns: the trainer, at the end.

    Raises:
        ValueError: if a dataset has other classes than the run, the checkpoint is of another run or damaged, or the
            sparse engine is asked for where it cannot be.
        FloatingPointError: if the loss is no longer finite.
    """
    trainer = trainer or set_up(run)
    data = ImageData(run, training, test, trainer.ranks, workers=workers)
    stepper = stepper_of(run, trainer)
    first = 0 if checkpoints is None else checkpoints.resume(trainer)
    run_steps(
        run, data, trainer=trainer, stepper=stepper, log=log, progress=progress, checkpoints=checkpoints, first=first
    )
    return trainer


def _step(trainer: Trainer, stepper: Stepper, batch: StepBatch, *, with_norm: bool) -> dict[str, float]:
    """Take one step on this process's part of the batch, by the sparse engine where it can; the measurements."""
    step, is_sparse = trainer.sparsifier.step_count, stepper.is_sparse
    if is_sparse and not (with_norm or stepper.moves_next):
        trainer.schedule.set_(trainer.optimizer, step)
        return {"train/loss": stepper.step(*batch.whole()), "train/is_sparse": 1.0}
    stepper.settle()
    trainer.statistics.read()  # plans move them too
    found = {"train/loss": trainer.backward(step, batch.parts())}
    if with_norm:
        names = {parameter: name for name, parameter in trainer.sparsifier.model.named_parameters()}
        found["gradient/training"] = training_norm(trainer.optimizer, names=names, masks=trainer.sparsifier.masks)
    else:
        found["train/is_sparse"] = float(is_sparse)
    trainer.update()
    stepper.reload()
    return found


def stepper_of(config: RunConfig, trainer: Trainer) -> Stepper:
    """The way to compute a run's steps: the sparse engine between mask updates where it can, else torch.

    Args:
        config: The run.
        trainer: The run at step 0.

    Raises:
        TypeError, ValueError: with ``engine="sparse"``, if the run has what the engine does not compute.
        ModuleNotFoundError: with ``engine="sparse"``, if Numba is not installed.
    """
    against = {
        "several processes": trainer.ranks.world > 1,
        "a GPU": trainer.ranks.device.type != "cpu",
        "autocast (give precision='float32')": PRECISIONS[config.precision] is not None,
        "smoothed labels (give label_smoothing=0)": config.label_smoothing > 0,
        "updates that replace a step (give updates='after_step')": config.replaces_steps,
        "torch.compile (give compiled=False)": config.compiled,
        "batch norm over micro-batches (give micro_batch=batch_size)": config.micro_batches > 1
        and any(isinstance(module, _BatchNorm) for module in trainer.sparsifier.model.modules()),
    }
    found = [reason for reason, holds in against.items() if holds]
    if found and config.engine == "sparse":
        raise ValueError(f"the sparse engine does not go with {', '.join(found)}. Or give engine='masked'.")
    kind = "masked" if found else config.engine
    return Stepper(trainer.sparsifier, kind, most_active=NETWORKS[config.architecture].sparse_up_to)
