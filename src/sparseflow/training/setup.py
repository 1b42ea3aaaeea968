"""A run at step 0: network, masks, start, optimizer and method, on one of several processes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparseflow import tickets
from sparseflow.gradients import loss_gradient
from sparseflow.init.firing import flip_silent_, silence_unit_
from sparseflow.masks.blocks import SINGLE
from sparseflow.masks.make import dense_masks
from sparseflow.networks import NETWORKS, build_network, draw_sparse_, network_masks, networks_for
from sparseflow.rng import stream
from sparseflow.sparsifier.sparsifier import Sparsifier
from sparseflow.suggest import did_you_mean
from sparseflow.training.config import RunConfig
from sparseflow.training.ranks import Ranks
from sparseflow.training.runs import final_state, read_snapshot
from sparseflow.training.statistics import StepStatistics
from sparseflow.training.step import Trainer, check_shares, cut_, distributed
from sparseflow.types import Masks


class Start(NamedTuple):
    """The part of a pruning run that another run starts from."""

    masks: Masks
    weights: tickets.State | None
    """Of a ticket: all parameters and buffers; ``None`` where weights are drawn anew."""


def start_of(config: RunConfig, *, root: Path) -> Start | None:
    """Masks, and a ticket's weights, from the pruning run that a run starts from.

    Args:
        config: The run.
        root: Folder of all runs.

    Raises:
        FileNotFoundError: if the pruning run is not finished, or did not keep what is needed.
    """
    parent = config.mask_from
    if parent is None:
        return None
    end = final_state(parent, root=root)
    if config.row.start != "ticket":
        return Start(end["masks"], None)
    if config.method == "restart":
        return Start(end["masks"], end["model"])
    if config.rewind_step:
        return Start(end["masks"], read_snapshot(parent, config.rewind_step, root=root)["model"])
    return Start(end["masks"], dense_network(parent).state_dict())


def set_up(
    config: RunConfig,
    ranks: Ranks | None = None,
    *,
    start: Start | None = None,
    growth: tuple[Tensor, Tensor] | None = None,
    sharded: bool = False,
) -> Trainer:
    """A run at step 0, the same on every process; all randomness is from named streams of the seed.

    Args:
        config: The run.
        ranks: This process among all; default alone.
        start: Of :func:`start_of`, if ``config.mask_from`` is given.
        growth: Images and labels whose dense gradient says where weights grow, default the training batch; and whose
            images ``config.avoid_dead`` looks at.
        sharded: Whether each process keeps only its part of weights, gradients, optimizer state and masks (FSDP2).

    Raises:
        ValueError: if the processes cannot share the micro-batches of a step, a start or the images of ``avoid_dead``
            are missing, or ``channels_last`` weights are sharded.
        RanksDisagreeError: if a process has other masks.
    """
    ranks = ranks or Ranks()
    check_shares(config.micro_batches, ranks)
    if (config.mask_from is None) != (start is None):
        raise ValueError("a start goes with mask_from: give both or none.")
    if config.avoid_dead and growth is None:
        raise ValueError("avoid_dead looks at training images: give growth=data.growth.")
    model: nn.Module = dense_network(config)
    masks = _begin_(model, config, start, images=None if growth is None else growth[0])
    shares = None
    if config.row.moves in ("prune", "alternate") and config.prunes_to_masks:
        shares = {name: 1 - float(mask.double().mean()) for name, mask in _random_masks(model, config).items()}
    if config.channels_last:
        model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    model = model.to(ranks.device).train()
    masks = {name: mask.to(ranks.device) for name, mask in masks.items()}
    if sharded:
        cut_(model, ranks)
    trained: nn.Module = torch.compile(model) if config.compiled else model  # type: ignore[assignment]
    if not sharded:
        trained = distributed(trained, ranks)
    optimizer, updater = config.optimizer(model), config.updater(sparsity=shares, blocks=config.blocks(model))
    gradient = None
    if growth is not None and updater.needs_gradient and not updater.gradient_decay:
        gradient = _growth_gradient(model, growth, l2=config.l2)
    return Trainer(
        model=trained,
        optimizer=optimizer,
        sparsifier=Sparsifier(trained, optimizer, masks, updater, seed=config.seed, gradient_fn=gradient),
        schedule=config.learning_rates,
        micro_batches=config.micro_batches,
        statistics=StepStatistics(model, micro_batches=config.micro_batches),
        ranks=ranks,
        label_smoothing=config.label_smoothing,
        precision=config.precision,
        stops_at_nan=config.stops_at_nan,
    )


def dense_network(config: RunConfig) -> nn.Sequential:
    """The network as a dense run starts, on the CPU.

    Raises:
        ValueError: if there is no such network for the run's images.

    >>> from sparseflow.training.digits import DigitRun
    >>> a, b = (dense_network(DigitRun(seed=seed, init_seed=7)) for seed in (0, 1))
    >>> torch.equal(a.fc1.weight, b.fc1.weight)
    True
    """
    known = networks_for(config.image_shape[0])
    if config.architecture not in known:
        raise ValueError(
            f"there is no model {config.architecture!r}. Known: {', '.join(known)}."
            f"{did_you_mean(config.architecture, known)}{_elsewhere(config.architecture)}"
        )
    return build_network(
        config.architecture,
        generator=stream(config.start_seed, "model"),
        num_classes=config.num_classes,
        **({"width": config.width, "stem": config.stem} if config.stem else {}),
    )


def _elsewhere(name: str) -> str:
    """What to type for a network of colour images that was asked for as one of digits."""
    is_for_images = name in NETWORKS and NETWORKS[name].channels != 1
    return f" For colour images type: sparseflow train images --network {name}" if is_for_images else ""


def _begin_(model: nn.Module, config: RunConfig, start: Start | None, *, images: Tensor | None) -> Masks:
    """Give the network the weights of the run's start, and return the masks."""
    if config.row.start == "dense":
        never = NETWORKS[config.architecture].dense
        return {name: mask for name, mask in dense_masks(model).items() if name not in never}
    masks = _random_masks(model, config) if start is None else start.masks
    if config.control == "shuffled_masks":
        masks = tickets.shuffle_masks(masks, seed=config.start_seed)
    if start is not None and start.weights is not None:
        tickets.rewind_(model, start.weights, masks)
    else:
        draw_sparse_(
            model, masks, name=config.architecture, scheme=config.init, seed=config.start_seed, base=config.init_base,
            avoid_dead=config.avoid_dead, example_inputs=images if config.avoid_dead else _example(config),
        )  # fmt: skip
    if config.control == "shuffled_weights":
        tickets.shuffle_weights_(model, masks, seed=config.start_seed)
    elif config.control == "signs":
        tickets.keep_signs_(model, masks)
    elif config.control in ("repaired", "killed"):
        _turn_first_(model, masks, config)
    if config.start_noise:
        tickets.perturb_(model, masks, relative_std=config.start_noise, seed=config.start_seed)
    return masks


def _turn_first_(model: nn.Module, masks: Masks, config: RunConfig) -> None:
    """Wake the first layer's units without a positive weight, or silence one that has some; pixels are not negative."""
    weight = model.get_parameter(next(iter(masks))).detach()
    if config.control == "repaired":
        flip_silent_(weight, weight.flatten(1).T)  # what single pixels of size one give
    else:
        silence_unit_(weight, generator=stream(config.start_seed, "silence"))


def _random_masks(model: nn.Module, config: RunConfig) -> Masks:
    allocation = None if config.allocation == "paper" else config.allocation
    return network_masks(
        config.architecture, model, config.sparsity, seed=config.start_seed, allocation=allocation,
        block=config.blocks(model) or SINGLE, make=config.row.masks,
    )  # fmt: skip


def _example(config: RunConfig) -> Tensor | None:
    """An image for starts that ask which inputs have a path; a chain without a stem needs none."""
    side = {"cifar": 32, "imagenet": 64}.get(config.stem)
    return None if side is None else torch.zeros(1, 3, side, side)


def _growth_gradient(model: nn.Module, batch: tuple[Tensor, Tensor], *, l2: float) -> Callable[[], dict[str, Tensor]]:
    """Dense gradient of cross-entropy plus L2 on fixed images, at the weights after the step (protocol C.3)."""
    parameters = dict(model.named_parameters())

    def gradient() -> dict[str, Tensor]:
        _, gradients = loss_gradient(model, F.cross_entropy, [batch])
        return {name: g.add(parameters[name].detach(), alpha=l2) if g.dim() > 1 else g for name, g in gradients.items()}

    return gradient
