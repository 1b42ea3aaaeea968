"""Snapshots of a model, and ways back to them under masks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from sparseflow._checks import check_choice, check_masks
from sparseflow.boundary import checked
from sparseflow.masks.make import apply_masks_
from sparseflow.masks.select import maskable, unwrap
from sparseflow.sparsifier.kinds import initial_rate
from sparseflow.sparsifier.tensors import chain
from sparseflow.sparsifier.wrappers import stepping
from sparseflow.types import Masks

#: Names as in ``model.state_dict()`` -> tensors: parameters and buffers.
State = Mapping[str, Tensor]


@checked()
def snapshot(model: nn.Module) -> dict[str, Tensor]:
    """A copy of every parameter and buffer at this moment, to :func:`rewind_` to later.

    Args:
        model: Also inside ``torch.compile`` or ``DistributedDataParallel``; names are those of the model inside.

    >>> layer = nn.Linear(2, 1)
    >>> start = snapshot(layer)
    >>> _ = layer.weight.data.zero_()
    >>> list(start), bool(start["weight"].any())
    (['weight', 'bias'], True)
    """
    return {name: value.detach().clone() for name, value in _tensors(unwrap(model).state_dict()).items()}


@checked()
def rewind_(
    model: nn.Module,
    state: State,
    masks: Masks,
    *,
    running_statistics: str = "reset",
    optimizer: torch.optim.Optimizer | None = None,
) -> nn.Module:
    r"""Give a model the parameters of another moment, times the masks, in place: :math:`w \leftarrow w_K \odot M`.

    Biases, norm parameters and weights without a mask become those of the state; inactive weights are exactly +0.0.

    Args:
        model: The model to overwrite.
        state: Of this model at step 0 (lottery ticket), at step K (late rewinding) or at the end (prune restart), from
            :func:`snapshot`; or of a newly built model (scratch). A copy, not the live ``model.state_dict()``.
        masks: Parameter name -> mask.
        running_statistics: Of batch norm. ``"reset"`` starts them anew, as the paper's code does: those of the state
            belong to the dense network. ``"load"`` takes them too, for a backbone whose batch norm stays frozen.
            All other buffers always come from the state.
        optimizer: If it is to be used on, what it remembers is cleared, see :func:`reset_optimizer_`. A new optimizer
            needs nothing.

    Returns: ``model``.

    Raises:
        TypeError, ValueError: if a mask does not fit, or the state is of another model; nothing has changed then.

    Reference: protocol E; Frankle et al. (2020), *Linear Mode Connectivity and the Lottery Ticket Hypothesis*, for
    K > 0.

    >>> layer = nn.Linear(2, 1)
    >>> start = snapshot(layer)
    >>> _ = layer.weight.data.fill_(7.0)
    >>> weight = rewind_(layer, start, {"weight": torch.tensor([[True, False]])}).weight
    >>> bool(weight[0, 0] == start["weight"][0, 0]), weight[0, 1].item()
    (True, 0.0)
    """
    check_choice(running_statistics, ("reset", "load"), name="running_statistics")
    inner = unwrap(model)
    check_masks(masks, {name: weight.parameter for name, weight in maskable(inner).items()})
    _check_state(state, _tensors(inner.state_dict()))
    inner.load_state_dict(state, strict=False)
    apply_masks_(inner, masks)
    if running_statistics == "reset":
        for module in inner.modules():
            if isinstance(module, nn.modules.batchnorm._NormBase):
                module.reset_running_stats()
    if optimizer is not None:
        reset_optimizer_(optimizer)
    return model


@checked()
def reset_optimizer_(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """Make an optimizer as good as new, in place: no momentum, no gradients, the learning rates of its beginning.

    Those are what a scheduler remembers as ``initial_lr``; without them a new cosine would go on from the 0 where the
    old one ended. Where there never was a scheduler, learning rates stay. Make the scheduler anew after this, and the
    ``Sparsifier`` too (``remove()`` the old one, which listens to this optimizer).

    Args:
        optimizer: Any of ``torch.optim``, or one that fills its state lazily, at its steps.

    Returns: ``optimizer``.

    >>> layer = nn.Linear(2, 1)
    >>> optimizer = torch.optim.SGD(layer.parameters(), lr=0.1, momentum=0.9)
    >>> layer(torch.ones(1, 2)).sum().backward(); optimizer.step()
    >>> len(optimizer.state), len(reset_optimizer_(optimizer).state)
    (2, 0)
    """
    held = chain(stepping(optimizer))
    inner = held[-1]
    inner.zero_grad(set_to_none=True)
    for each in held:
        each.state.clear()
    for group in inner.param_groups:
        if isinstance(group["lr"], Tensor):  # others hold the tensor itself: a captured graph does
            group["lr"].fill_(initial_rate(group))
        else:
            group["lr"] = initial_rate(group)
    if isinstance(inner, torch.optim.Adagrad):  # the only one that fills its state when it is made
        value = inner.defaults["initial_accumulator_value"]
        inner.state.update(torch.optim.Adagrad(inner.param_groups, initial_accumulator_value=value).state)
    return optimizer


def _tensors(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors of a state dict, without the extra state that modules may add."""
    return {name: value for name, value in state.items() if isinstance(value, Tensor)}


def _check_state(state: Mapping[str, Any], own: State) -> None:
    given = _tensors(state)
    if missing := [name for name in own if name not in given]:
        raise ValueError(
            f"the state lacks {', '.join(missing)}, which the model has. Take it with "
            "sparseflow.tickets.snapshot(model), or give the model's entry of a checkpoint."
        )
    if unknown := [name for name in given if name not in own]:
        raise ValueError(f"the state has {', '.join(unknown)}, which the model has not: it is of another model.")
    for name, value in own.items():
        if given[name].shape != value.shape:
            raise ValueError(
                f"the state has {name!r} of shape {tuple(given[name].shape)}, the model {tuple(value.shape)}. Build "
                "the model as it was when the state was taken."
            )
        if value.numel() and given[name].data_ptr() == value.data_ptr():
            raise ValueError(
                f"the state's {name!r} is the model's own tensor, which changes as the model trains. Keep a copy, with "
                "sparseflow.tickets.snapshot(model)."
            )
