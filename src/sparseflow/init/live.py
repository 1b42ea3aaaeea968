"""Live inputs: the inputs of each layer that a path of active weights joins to the network's own input."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from sparseflow._checks import check_masks
from sparseflow.batches import forward, map_tensors
from sparseflow.boundary import checked
from sparseflow.gradients import undisturbed
from sparseflow.masks.fans import PLAIN, Layout, fan_in
from sparseflow.masks.layers import row
from sparseflow.masks.select import Weight, maskable, unwrap
from sparseflow.precision import in_widest_dtype
from sparseflow.rng import stream
from sparseflow.types import Masks

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
#: They subtract a mean over units, so one live unit makes all its neighbours nonzero.
_CENTRING = (nn.LayerNorm, nn.GroupNorm)
#: Image and sequence lengths tried when no example is given, large ones first: borders kill nothing there.
_LENGTHS = (224, 96, 64, 48, 32, 28, 16, 8, 4, 1)


@checked()
def live_inputs(model: nn.Module, masks: Masks, *, example_inputs: Any = None) -> dict[str, Tensor]:
    r"""Mark the weights whose input can be nonzero.

    A unit without a path of active weights from the network's input outputs a constant zero (biases start at zero), so
    it adds nothing to the variance of the next layer although its outgoing weights are active. A copy of the model with
    positive weights on the mask and no biases, batch or instance norms is run once: without cancellation, an activation
    is zero if and only if no path reaches it.

    Args:
        model: Left as it is. Any architecture whose activations keep positive numbers positive.
        masks: Parameter name -> mask.
        example_inputs: One batch of what the model takes, see :mod:`sparseflow.batches`; features that are zero in all
            of it count as dead. ``None`` tries all-ones inputs of the usual sizes.

    Returns: parameter name -> bool tensor broadcastable to the weight, ``True`` where its input is live; only linear
    and convolution layers and experts, for the others every input counts, as for experts that the example misses.

    Raises:
        TypeError, ValueError: if a mask does not fit, or no example is given and none can be guessed.

    Warns:
        PrecisionWarning: if the model does not run in float64.

    >>> model = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1))
    >>> masks = {"0.weight": torch.tensor([[True, True], [False, False]]), "2.weight": torch.tensor([[True, True]])}
    >>> live_inputs(model, masks)["2.weight"]
    tensor([[ True, False]])
    """
    if any(parameter.is_meta for parameter in unwrap(model).parameters()):
        raise ValueError(
            "the model is on the meta device, where no input can be followed: call model.to_empty(device='cpu') first."
        )
    return in_widest_dtype(model, partial(_live_inputs, model, masks, example_inputs))


def positive_copy(model: nn.Module, masks: Masks, dtype: torch.dtype) -> nn.Module:
    """A copy on the CPU in which an activation is zero if and only if no path of active weights reaches it.

    Its weights are positive on the masks, and it has no biases; norms hand on what they are given, and those that
    centre hand on ones.

    Raises:
        TypeError, ValueError: if a mask does not fit.

    >>> layer = nn.Linear(2, 2)
    >>> probe = positive_copy(layer, {"weight": torch.tensor([[True, False], [False, False]])}, torch.float64)
    >>> probe(torch.ones(1, 2, dtype=torch.float64)) > 0
    tensor([[ True, False]])
    """
    probe = copy.deepcopy(unwrap(model)).cpu().to(dtype).requires_grad_(False)
    check_masks(masks, {name: weight.parameter for name, weight in maskable(probe).items()})
    _make_positive_(probe, {name: mask.cpu() for name, mask in masks.items()})
    for module in probe.modules():
        if isinstance(module, _CENTRING):
            module.register_forward_hook(_ones)
        elif isinstance(module, nn.modules.batchnorm._NormBase):
            module.forward = _first_argument
    return probe


def _live_inputs(model: nn.Module, masks: Masks, example_inputs: Any, dtype: torch.dtype) -> dict[str, Tensor]:
    probe = positive_copy(model, masks, dtype)
    weights = maskable(probe)
    live: dict[str, Tensor] = {}
    for module in probe.modules():
        if isinstance(module, (nn.Linear, *_CONVOLUTIONS)) or row(module) == "transformers.*.Conv1D":
            # A weight that several layers share is fed by all of them.
            for name, weight in ((name, weights[name]) for name in masks):
                if weight.parameter is module.weight:
                    module.register_forward_pre_hook(_recorder(live, name, weight.parameter.shape, _layout(weight)))
        else:
            stacked = [name for name in masks if weights[name].module is module and _layout(weights[name]).stacked]
            if stacked:
                module.register_forward_hook(_expert_recorder(live, stacked, weights), with_kwargs=True)
    with torch.no_grad(), undisturbed(probe, training=False):
        if example_inputs is None:
            _run_on_a_guess(probe, next(iter(weights.values())).module, dtype, forget=live.clear)
        else:
            forward(probe, positive_inputs(example_inputs, dtype))
    for name, mask in live.items():
        if _layout(weights[name]).stacked:  # experts that nothing was sent to
            mask |= ~mask.flatten(1).any(1).view(-1, 1, 1)
    return {name: mask.to(masks[name].device) for name, mask in live.items()}


def _ones(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
    """Ones that depend on every unit that is normalised, for those who follow paths back by a gradient."""
    axes = tuple(range(-len(module.normalized_shape), 0)) if isinstance(module, nn.LayerNorm) else (1,)
    mean: Tensor = inputs[0].mean(axes, keepdim=True)
    return torch.ones_like(output) + (mean - mean.detach())


def _first_argument(tensor: Tensor) -> Tensor:
    return tensor


def positive_inputs(inputs: Any, dtype: torch.dtype) -> Any:
    """Inputs with values as positive numbers, such as pixels; tokens, labels and attention masks as they are.

    >>> positive_inputs((torch.tensor([-1.5]), torch.tensor([3])), torch.float64)
    (tensor([1.5000], dtype=torch.float64), tensor([3]))
    """

    def positive(tensor: Tensor) -> Tensor:
        return tensor.detach().cpu().to(dtype).abs() if tensor.is_floating_point() else tensor.cpu()

    return map_tensors(positive, inputs)


def _make_positive_(model: nn.Module, masks: Masks) -> None:
    """Make weights positive on the masks, of a size that keeps activations near one, and biases zero."""
    weights = maskable(model)
    generator = stream(0, "live")
    for name, parameter in model.named_parameters():
        if name in weights:
            mask = masks.get(name, torch.ones_like(parameter, dtype=torch.bool))
            layout = _layout(weights[name])
            # Unequal weights, so that nothing cancels where a layer subtracts.
            draw = torch.rand(parameter.shape, generator=generator, dtype=torch.float64) + 0.5
            parameter.copy_(mask * draw / fan_in(mask, layout).clamp(min=1e-3))
        elif name.rsplit(".", 1)[-1].find("bias") >= 0:
            parameter.zero_()
        elif parameter.is_floating_point():
            parameter.abs_().clamp_(min=0.1)


def _recorder(
    live: dict[str, Tensor], name: str, shape: torch.Size, layout: Layout
) -> Callable[[nn.Module, tuple[Any, ...]], None]:
    def record(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        activations = inputs[0].detach() != 0
        if len(shape) == 2:  # a linear layer
            channels = activations.reshape(-1, activations.shape[-1]).any(0)
        else:
            batched = activations.dim() == len(shape)
            channels = (activations if batched else activations[None]).transpose(0, 1).flatten(1).any(1)
        seen = _over_units(channels, shape, layout)
        live[name] = live[name] | seen if name in live else seen

    return record


def _layout(weight: Weight) -> Layout:
    return weight.layout or PLAIN


def _expert_recorder(
    live: dict[str, Tensor], names: list[str], weights: dict[str, Weight]
) -> Callable[[nn.Module, tuple[Any, ...], dict[str, Any], Any], None]:
    """Record what reaches the matrices inside experts, which no hook sees: weights with an input have a gradient."""

    def record(module: nn.Module, inputs: tuple[Any, ...], options: dict[str, Any], output: Any) -> None:
        parameters = [weights[name].parameter.requires_grad_() for name in names]
        with torch.enable_grad():
            again = module.forward(*inputs, **options)
            total = (again if isinstance(again, Tensor) else again[0]).sum()
        gradients = torch.autograd.grad(total, parameters, materialize_grads=True)
        for name, parameter, gradient in zip(names, parameters, gradients, strict=True):
            parameter.requires_grad_(False)
            seen = (gradient != 0).any(2 if _layout(weights[name]).transposed else 1, keepdim=True)
            live[name] = live[name] | seen if name in live else seen

    return record


def _guesses(first: nn.Module) -> list[tuple[int, ...]]:
    """Possible shapes of one example, by the model's first layer."""
    if isinstance(first, nn.Linear):
        return [(1, first.in_features)]
    if isinstance(first, _CONVOLUTIONS):
        axes = len(first.kernel_size)
        return [(1, first.in_channels, *[length] * axes) for length in _LENGTHS if axes < 3 or length <= 32]
    return []


def _over_units(channels: Tensor, shape: torch.Size, layout: Layout) -> Tensor:
    """Live input channels ``(in,)`` as a mask broadcastable to the weight."""
    kernel = [1] * (len(shape) - 2)
    if layout.transposed:
        return channels.view(-1, 1, *kernel)
    per_block = channels.view(layout.blocks, 1, -1)
    return per_block.expand(-1, shape[0] // layout.blocks, -1).reshape(shape[0], -1, *kernel)


def _run_on_a_guess(model: nn.Module, first: nn.Module, dtype: torch.dtype, *, forget: Callable[[], None]) -> None:
    for shape in _guesses(first):
        forget()  # what a guess that failed has left
        try:
            model(torch.ones(shape, dtype=dtype))
        except (RuntimeError, ValueError, TypeError):
            continue
        return
    raise ValueError(
        f"no input could be guessed for {type(model).__name__}: give one batch, "
        "example_inputs=x (a tuple or a dict if the model takes several)."
    )
