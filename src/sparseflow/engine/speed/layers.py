"""The cost of single layers, dense and sparse, on the inputs that they meet in their model."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from sparseflow.batches import map_tensors
from sparseflow.engine.speed.mix import Costs
from sparseflow.engine.speed.steps import tensors_of
from sparseflow.engine.speed.timing import medians


@dataclass
class Call:
    """What a layer took in one run of its model, and the gradients of what it gave, with the strides they had."""

    positional: tuple[Any, ...]
    """Tensors are detached, and require a gradient where the layers before want one."""
    named: dict[str, Any]
    gradients: dict[int, Tensor] = field(default_factory=dict)
    """Number of an output -> its gradient."""
    count: int = 1
    """Number of calls of the layer; only the first is kept."""

    @property
    def strides(self) -> list[tuple[int, ...]]:
        """The strides of the inputs."""
        return [tensor.stride() for tensor in tensors_of((self.positional, self.named))]


def watch(step: Callable[[], None], layers: Mapping[str, nn.Module]) -> dict[str, Call]:
    """Run a step and record the first call of each of these layers that it calls, in the order of execution."""
    calls: dict[str, Call] = {}

    def note(name: str) -> Callable[[nn.Module, tuple[Any, ...], dict[str, Any], Any], None]:
        def hook(_: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any], output: Any) -> None:
            if name in calls:
                calls[name].count += 1
                return
            call = calls[name] = Call(*_detached((inputs, named)))
            for number, tensor in enumerate(tensors_of(output)):
                if tensor.requires_grad:
                    tensor.register_hook(lambda g, number=number: call.gradients.update({number: g.detach()}))

        return hook

    handles = [layer.register_forward_hook(note(name), with_kwargs=True) for name, layer in layers.items()]
    try:
        step()
    finally:
        for handle in handles:
            handle.remove()
    return calls


def layer_step(layer: nn.Module, met: Call, gradients: Mapping[int, Tensor], *, training: bool) -> Callable[[], None]:
    """A function that runs one step of a layer on the inputs it met, with ``training`` up to all gradients.

    The gradient of an input is given back in the layout in which the input came, so a layer that changes the layout
    pays for it.
    """
    positional, named = _detached((met.positional, met.named))
    given = {id(tensor): tensor for tensor in tensors_of((positional, named))}
    inputs = [tensor for tensor in given.values() if tensor.requires_grad]
    parameters = [parameter for parameter in layer.parameters() if parameter.requires_grad]
    has_gradients = training and bool(gradients) and bool(parameters or inputs)

    def run() -> None:
        with torch.set_grad_enabled(training):
            y = layer(*positional, **named)
        if not has_gradients:
            return
        outputs = list(tensors_of(y))
        found = torch.autograd.grad(
            [outputs[number] for number in gradients], [*parameters, *inputs], list(gradients.values()),
            allow_unused=True,
        )  # fmt: skip
        for x, gradient in zip(inputs, found[len(parameters) :], strict=True):
            if gradient is not None and gradient.stride() != x.stride():
                torch.empty_like(x).copy_(gradient)

    return run


def layer_costs(
    dense: Mapping[str, nn.Module], sparse: Mapping[str, nn.Module], met: tuple[dict[str, Call], dict[str, Call]],
    *, rectified: Collection[nn.Module], training: bool, seconds: float,
) -> dict[str, Costs]:  # fmt: skip
    """Time each layer dense and sparse, on the input as it comes from dense and from sparse layers.

    Args:
        dense, sparse: Name -> layer, the same names.
        rectified: The sparse layers that compute the ReLU behind them; so the dense ones are timed with it.
        met: Calls of the layers in a run of the dense and of the sparse model.
        training: Whether to time gradients too.
        seconds: To spend on each layer.
    """
    costs = {}
    for name in met[0]:
        if name not in met[1]:  # its model computes it without calling it
            continue
        forms = [dense[name], sparse[name]]
        if sparse[name] in rectified:
            forms = [nn.Sequential(dense[name], nn.ReLU()), _Rectified(sparse[name])]
        inputs = [met[0][name], met[1][name]]
        if inputs[0].strides == inputs[1].strides:
            del inputs[1]
        steps = [
            layer_step(form, each, calls[name].gradients, training=training)
            for each in inputs
            for form, calls in zip(forms, met, strict=True)
        ]
        times = [met[0][name].count * each for each in medians(steps, seconds=seconds)]
        behind_dense, behind_sparse = (times[0], times[1]), (times[-2], times[-1])
        costs[name] = behind_dense, behind_sparse
    return costs


def _detached(value: Any) -> Any:
    """The same arguments, tensors detached; what is one tensor twice stays one."""
    made: dict[int, Tensor] = {}

    def detached(tensor: Tensor) -> Tensor:
        if id(tensor) not in made:
            made[id(tensor)] = tensor.detach().requires_grad_(tensor.requires_grad)
        return made[id(tensor)]

    return map_tensors(detached, value)


class _Rectified(nn.Module):
    """A sparse layer that computes the ReLU behind it."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layer.forward(x, floor=0.0)
        return y
