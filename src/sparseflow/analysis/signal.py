"""Signal propagation: the output of each layer on the way forward, and its gradient on the way back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from sparseflow.analysis.layout import check_masked
from sparseflow.batches import forward, loss_of
from sparseflow.boundary import checked
from sparseflow.gradients import undisturbed
from sparseflow.masks.select import maskable, unwrap
from sparseflow.types import LossFn, Masks


@dataclass(frozen=True)
class LayerSignal:
    """Statistics of one layer's output over all examples, units and positions."""

    mean: float
    std: float
    """Population standard deviation."""
    dead_fraction: float
    """Share of units whose output is the same for every example and position: they carry no signal."""
    gradient_mean: float | None
    """Mean gradient of the loss with respect to the output; ``None`` without a loss, like the next two."""
    gradient_std: float | None
    gradient_dead_fraction: float | None
    """Share of units that receive no gradient at all."""


@checked()
def signal(
    model: nn.Module,
    inputs: Any,
    *,
    masks: Masks | None = None,
    loss_fn: LossFn | None = None,
    targets: Any = None,
    training: bool | None = None,
) -> dict[str, LayerSignal]:
    """Mean, standard deviation and dead fraction of each layer's output, and of the gradient there; no side effects.

    Layers are the modules that own prunable weights, before their nonlinearity. A layer used several times in a forward
    pass is described by its last use.

    Args:
        model: The network; inactive weights must already be zero (they are, under a ``Sparsifier``).
        inputs: One batch of what the model takes, see :mod:`sparseflow.batches`; the first dimension is examples.
        masks: If given, it is checked that the model really is zero off them.
        loss_fn: With ``targets``, also measures gradients with respect to each output.
        targets: Targets of the batch; default: its ``labels``, if it is a mapping.
        training: Train or eval mode; ``None`` keeps the model's.

    Returns: module name -> :class:`LayerSignal`, in forward order.

    Raises:
        ValueError: if a loss comes without targets, or the model is not zero off the masks.

    Reference: Evci et al. (2022), Figure 1c and section 3.1.

    >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> x = torch.randn(64, 4, generator=torch.Generator().manual_seed(0))
    >>> found = signal(model, x)
    >>> list(found), bool(abs(found["2"].std - model(x).std(correction=0)) < 1e-6)
    (['0', '2'], True)
    """
    if loss_fn is not None and targets is None and isinstance(inputs, Mapping):
        targets = inputs.get("labels")
    if (loss_fn is None) != (targets is None):
        raise ValueError("loss_fn and targets belong together: give both, or neither.")
    check_masked(model, masks or {})
    gradients: dict[str, Tensor | None] = {}
    with undisturbed(model, training=training), torch.set_grad_enabled(loss_fn is not None):
        with layer_outputs(model) as found:
            result = forward(unwrap(model), inputs)
        outputs = {name: uses[-1] for name, uses in found.items()}
        if loss_fn is not None:
            loss = loss_of(loss_fn, result, targets)
            slopes = torch.autograd.grad(loss, list(outputs.values()), allow_unused=True)
            gradients = dict(zip(outputs, slopes, strict=True))
    modules = layer_modules(model)
    return {
        name: _describe(output.detach(), gradients.get(name), modules[name], measured=loss_fn is not None)
        for name, output in outputs.items()
    }


def layer_modules(model: nn.Module) -> dict[str, nn.Module]:
    """Module name -> module, of those that own prunable weights.

    >>> list(layer_modules(nn.Sequential(nn.Linear(2, 2), nn.ReLU())))
    ['0']
    """
    return {weight.module_name: weight.module for weight in maskable(model).values()}


@contextmanager
def layer_outputs(model: nn.Module) -> Iterator[dict[str, list[Tensor]]]:
    """Collect the output of each layer, in forward order, once for each time that it is used.

    Before the output of a recurrent layer comes its last state, as another use.

    >>> with layer_outputs(model := nn.Sequential(nn.Linear(2, 3), nn.ReLU())) as outputs:
    ...     _ = model(torch.ones(4, 2))
    >>> [(name, [tuple(output.shape) for output in uses]) for name, uses in outputs.items()]
    [('0', [(4, 3)])]
    """
    outputs: dict[str, list[Tensor]] = {}
    handles = [module.register_forward_hook(_keep(outputs, name)) for name, module in layer_modules(model).items()]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()


def _keep(outputs: dict[str, list[Tensor]], name: str) -> Callable[[nn.Module, tuple[Any, ...], Any], Any]:
    def hook(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> Any:
        # Attention and recurrent layers return tuples, the output first.
        first, *rest = (output,) if isinstance(output, Tensor) else output
        if isinstance(module, nn.RNNBase):
            rest = [_keep_state(outputs.setdefault(name, []), module, rest[0])]
        if isinstance(first, PackedSequence):
            outputs.setdefault(name, []).append(first.data)
            data = first.data.clone()
            return PackedSequence(data, first.batch_sizes, first.sorted_indices, first.unsorted_indices), *rest
        if torch.is_grad_enabled() and not first.requires_grad:  # behind frozen layers only
            first.requires_grad_()
        outputs.setdefault(name, []).append(first)
        # Pass on a copy, so that an in-place activation behind this layer does not overwrite the measured output.
        return first.clone() if isinstance(output, Tensor) else (first.clone(), *rest)

    return hook


def _keep_state(uses: list[Tensor], module: nn.RNNBase, state: Any) -> Any:
    """Keep the last layer's state, which many models read instead of the output, with its directions side by side."""
    hidden, *cell = state if isinstance(state, tuple) else (state,)
    directions = 2 if module.bidirectional else 1
    last = torch.cat(hidden[-directions:].unbind(0), -1)
    uses.append(last)
    hidden = torch.cat([hidden[:-directions], torch.stack(last.chunk(directions, -1))])
    return (hidden, *cell) if isinstance(state, tuple) else hidden


def _describe(output: Tensor, gradient: Tensor | None, module: nn.Module, *, measured: bool) -> LayerSignal:
    values = output.double()
    units = by_unit(values, module)
    dead = float((units.amax(0) == units.amin(0)).double().mean())
    gradient_mean = gradient_std = gradient_dead = None
    if measured:
        slope = torch.zeros_like(values) if gradient is None else gradient.double()
        gradient_mean, gradient_std = float(slope.mean()), float(slope.std(correction=0))
        gradient_dead = float((by_unit(slope, module) == 0).all(0).double().mean())
    return LayerSignal(
        float(values.mean()), float(values.std(correction=0)), dead, gradient_mean, gradient_std, gradient_dead
    )


def by_unit(values: Tensor, module: nn.Module) -> Tensor:
    """Values as ``(examples and positions, units)``.

    >>> by_unit(torch.ones(2, 3, 4, 4), nn.Conv2d(1, 3, 1)).shape
    torch.Size([32, 3])
    """
    # Channels of a convolution are axis 1, units of all others the last.
    channels_first = isinstance(module, nn.modules.conv._ConvNd)
    moved = values.movedim(1, -1) if channels_first else values
    return moved.reshape(-1, moved.shape[-1])
