"""A run at step 0: network, masks, start, optimizer and method, on one of several processes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import nn

from sparseflow.masks.make import dense_masks
from sparseflow.methods import GMP, SET, RigL, RigLInverted, Static
from sparseflow.methods.base import Method
from sparseflow.networks import build_network, draw_sparse_, network_masks
from sparseflow.rng import stream
from sparseflow.sparsifier.sparsifier import Sparsifier
from sparseflow.tickets import State, rewind_
from sparseflow.training.images import DENSE_METHODS, ImageRun
from sparseflow.training.optimizer import StepSchedule, nesterov_sgd
from sparseflow.training.ranks import Ranks
from sparseflow.training.statistics import StepStatistics
from sparseflow.training.step import Trainer, check_shares, cut_, distributed
from sparseflow.types import Masks


def updater_of(run: ImageRun, target: Masks) -> Method:
    """The method of a run.

    Args:
        run: The run.
        target: Masks at the run's sparsity, layer by layer; what pruning ends with.

    >>> updater_of(ImageRun(method="set", updates="authors"), {}).due(1)
    True
    """
    moving: dict[str, Any] = {
        "drop_fraction": run.drop_fraction,
        "update_every": run.update_every,
        "update_until": run.update_until,
        "schedule": "cosine",
    }
    authors = run.updates == "authors"
    first: dict[str, Any] = {"first_update": 1} if authors else {}
    replacing: dict[str, Any] = {"first_update": 0, "replaces_step": True} if authors else {}
    make: dict[str, Callable[[], Method]] = {
        "dense": Static,
        "scratch": Static,
        "lottery": Static,
        "restart": Static,
        "set": lambda: SET(**moving, **first),
        "rigl": lambda: RigL(**moving, **replacing),
        "rigl_inverted": lambda: RigLInverted(**moving, **replacing),
        "prune": lambda: GMP(
            sparsity={name: 1 - float(mask.double().mean()) for name, mask in target.items()},
            begin=run.prune_begin,
            end=run.prune_end,
            update_every=run.update_every,
        ),
    }
    return make[run.method]()


def batches_of(run: ImageRun) -> int:
    """Global batches that a run uses: one a step, and one for each update that replaces a step.

    >>> run = ImageRun(steps=1000, update_every=100, update_until=700)
    >>> batches_of(run), batches_of(run.with_(updates="authors"))
    (1000, 1008)
    """
    if not run.replaces_steps:
        return run.steps
    updater = updater_of(run, {})
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
    if run.method in DENSE_METHODS:
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
        sparsifier=Sparsifier(trained, optimizer, masks, updater_of(run, target), seed=run.seed),
        schedule=StepSchedule.of_paper(peak=run.learning_rate, steps=run.steps),
        micro_batches=run.micro_batches,
        statistics=StepStatistics(model, micro_batches=run.micro_batches),
        ranks=ranks,
        label_smoothing=run.label_smoothing,
        precision=run.precision,
    )


def dense_network(run: ImageRun) -> nn.Sequential:
    """The network as a dense run starts, on the CPU.

    >>> run = ImageRun(network="vgg16", width=1 / 16, num_classes=3)
    >>> one, other = (dense_network(run.with_(method=method)).fc8.weight for method in ("dense", "rigl"))
    >>> torch.equal(one, other)
    True
    """
    return build_network(
        run.network,
        generator=stream(run.seed, "model"),
        num_classes=run.num_classes,
        width=run.width,
        stem=run.stem,
    )


def _example(run: ImageRun) -> torch.Tensor:
    size = 32 if run.stem == "cifar" else 64
    return torch.zeros(1, 3, size, size)
