"""What a run starts from: its network, masks, optimizer and the method that moves the masks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import sparseflow as sf
from sparseflow import tickets
from sparseflow.data.digits import Dataset
from sparseflow.gradients import loss_gradient
from sparseflow.training.digit_optimizer import make_optimizer
from sparseflow.training.digits import DigitRun
from sparseflow.training.runs import final_state, read_snapshot
from sparseflow.training.setup import dense_network


@dataclass(frozen=True)
class Setup:
    """A run at step 0."""

    model: nn.Sequential
    optimizer: torch.optim.SGD
    sparsifier: sf.Sparsifier


def set_up(config: DigitRun, data: Dataset, *, root: Path) -> Setup:
    """Build what the config describes; everything random comes from named streams of its seed.

    Args:
        config: The run.
        data: Its dataset.
        root: Folder of all runs, where ``config.mask_from`` is looked up.

    Raises:
        FileNotFoundError: if the pruning run that the masks come from is not finished.
    """
    model = dense_network(config, num_classes=data.num_classes)
    masks = starting_masks(model, config, root=root)
    if config.row.start == "masked":
        sf.initialize_(model, masks, scheme=config.init, seed=config.start_seed, base=config.init_base)
    elif config.row.start == "ticket":
        tickets.rewind_(model, _ticket(config, root=root), masks)
    if config.control == "shuffled_weights":
        tickets.shuffle_weights_(model, masks, seed=config.start_seed)
    elif config.control == "signs":
        tickets.keep_signs_(model, masks)
    if config.start_noise:
        tickets.perturb_(model, masks, relative_std=config.start_noise, seed=config.start_seed)
    optimizer = make_optimizer(model, config)
    updater = config.updater()
    grows_by_one_gradient = updater.needs_gradient and not updater.gradient_decay
    sparsifier = sf.Sparsifier(
        model,
        optimizer,
        masks,
        updater,
        seed=config.seed,
        gradient_fn=_growth_gradient(model, data, config) if grows_by_one_gradient else None,
    )
    return Setup(model, optimizer, sparsifier)


def _ticket(config: DigitRun, *, root: Path) -> dict[str, Tensor]:
    """The weights that a ticket starts from, dense."""
    parent = config.mask_from
    assert parent is not None
    if config.method == "restart":
        kept: dict[str, Tensor] = final_state(parent, root=root)["model"]
    elif config.rewind_step:
        kept = read_snapshot(parent, config.rewind_step, root=root)["model"]
    else:
        kept = dense_network(parent).state_dict()
    return kept


def starting_masks(model: nn.Module, config: DigitRun, *, root: Path) -> dict[str, Tensor]:
    """All ones for dense and pruning runs, the pruned masks of ``mask_from``, else random ones.

    Raises:
        FileNotFoundError: if the pruning run is not finished.
    """
    if config.row.start == "dense":
        return sf.dense_masks(model)
    if config.mask_from is None:
        masks = sf.random_masks(model, config.sparsity, allocation=config.allocation, seed=config.start_seed)
    else:
        masks = final_state(config.mask_from, root=root)["masks"]
    return tickets.shuffle_masks(masks, seed=config.start_seed) if config.control == "shuffled_masks" else masks


def _growth_gradient(model: nn.Module, data: Dataset, config: DigitRun) -> Callable[[], dict[str, Tensor]]:
    """Dense gradient of cross-entropy plus L2 on val-2, at the weights after the step (protocol C.3)."""
    batch = data.validation(2)
    parameters = dict(model.named_parameters())

    def gradient() -> dict[str, Tensor]:
        _, gradients = loss_gradient(model, F.cross_entropy, [batch])
        return {
            name: g.add(parameters[name].detach(), alpha=2 * config.weight_decay) if g.dim() > 1 else g
            for name, g in gradients.items()
        }

    return gradient
