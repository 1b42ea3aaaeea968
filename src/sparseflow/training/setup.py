"""A run at step 0: network, masks, start, optimizer and method, on one of several processes."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn

from sparseflow.masks.make import dense_masks
from sparseflow.networks import build_network, draw_sparse_, network_masks, networks_for
from sparseflow.rng import stream
from sparseflow.sparsifier.sparsifier import Sparsifier
from sparseflow.tickets import State, rewind_
from sparseflow.training.config import RunConfig
from sparseflow.training.images import ImageRun
from sparseflow.training.optimizer import StepSchedule, nesterov_sgd
from sparseflow.training.ranks import Ranks
from sparseflow.training.statistics import StepStatistics
from sparseflow.training.step import Trainer, check_shares, cut_, distributed
from sparseflow.types import Masks


def batches_of(run: ImageRun) -> int:
    """Global batches that a run uses: one a step, and one for each update that replaces a step.

    >>> run = ImageRun(steps=1000, update_every=100, update_until=700)
    >>> batches_of(run), batches_of(run.with_(updates="authors"))
    (1000, 1008)
    """
    if not run.replaces_steps:
        return run.steps
    updater = run.updater()
    return run.steps + sum(updater.due(step) for step in range(run.steps))


class Start(NamedTuple):
    """What a run takes from a pruning run."""

    masks: Masks
    weights: State | None
    """Of a ticket: all parameters and buffers; ``None`` where weights are drawn anew."""


def set_up_images(run: ImageRun, ranks: Ranks, *, start: Start | None = None, sharded: bool = False) -> Trainer:
    """Everything at step 0, the same on every process; all randomness is from named streams of the seed.

    Args:
        run: The run.
        ranks: This process among all.
        start: Masks, and a ticket's weights, if ``run.mask_from`` is given.
        sharded: Whether each process keeps only its part of weights, gradients, optimizer state and masks (FSDP2).

    Raises:
        ValueError: if the processes cannot share the micro-batches of a step, a start is missing, or ``channels_last``
            weights are sharded.
        RanksDisagreeError: if a process has other masks.
    """
    check_shares(run.micro_batches, ranks)
    if (run.mask_from is None) != (start is None):
        raise ValueError("a start goes with mask_from: give both or none.")
    model: nn.Module = dense_network(run)
    allocation = None if run.allocation == "paper" else run.allocation
    target = network_masks(run.network, model, run.sparsity, seed=run.seed, allocation=allocation)
    masks: Masks = target if start is None else start.masks
    shares = {name: 1 - float(mask.double().mean()) for name, mask in target.items()}
    if run.row.start == "dense":
        masks = {name: mask for name, mask in dense_masks(model).items() if name in target}
    elif start is not None and start.weights is not None:
        rewind_(model, start.weights, masks)
    else:
        draw_sparse_(model, masks, name=run.network, scheme=run.init, seed=run.seed, example_inputs=_example(run))
    if run.channels_last:
        model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    model = model.to(ranks.device).train()
    masks = {name: mask.to(ranks.device) for name, mask in masks.items()}
    if sharded:
        cut_(model, ranks)
    trained: nn.Module = torch.compile(model) if run.compiled else model  # type: ignore[assignment]
    if not sharded:
        trained = distributed(trained, ranks)
    optimizer = nesterov_sgd(
        model, learning_rate=run.learning_rate, momentum=run.momentum, weight_decay=run.weight_decay
    )
    return Trainer(
        model=trained,
        optimizer=optimizer,
        sparsifier=Sparsifier(trained, optimizer, masks, run.updater(sparsity=shares), seed=run.seed),
        schedule=StepSchedule.of_paper(peak=run.learning_rate, steps=run.steps),
        micro_batches=run.micro_batches,
        statistics=StepStatistics(model, micro_batches=run.micro_batches),
        ranks=ranks,
        label_smoothing=run.label_smoothing,
        precision=run.precision,
    )


def dense_network(config: RunConfig, *, num_classes: int | None = None) -> nn.Sequential:
    """The network as a dense run starts, on the CPU.

    Args:
        config: The run.
        num_classes: Number of logits; default the run's.

    Raises:
        ValueError: if there is no such network for the run's images.

    >>> from sparseflow.training.digits import DigitRun
    >>> a, b = (dense_network(DigitRun(seed=seed, init_seed=7)) for seed in (0, 1))
    >>> torch.equal(a.fc1.weight, b.fc1.weight)
    True
    """
    known = networks_for(config.image_shape[0])
    if config.architecture not in known:
        raise ValueError(f"there is no model {config.architecture!r}. Known: {', '.join(known)}.")
    return build_network(
        config.architecture,
        generator=stream(config.start_seed, "model"),
        num_classes=num_classes or config.num_classes,
        **config.size,
    )


def _example(run: ImageRun) -> torch.Tensor:
    size = 32 if run.stem == "cifar" else 64
    return torch.zeros(1, 3, size, size)
