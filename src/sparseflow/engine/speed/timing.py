"""The cost of dense and sparse on this machine: steps of layers and models, timed in turns, and the cheapest mix."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sparseflow.batches import arguments
from sparseflow.engine.layers.modules import SparseLayer

#: ``costs[before][own]``: seconds of a layer in form ``own`` behind a layer in form ``before``; 0 is dense, 1 sparse.
Costs = tuple[tuple[float, float], tuple[float, float]]

_WARMUP = 2
_LEAST, _MOST = 5, 1000


def medians(steps: Sequence[Callable[[], object]], *, seconds: float) -> list[float]:
    """Median seconds of each step, taken in turns so that a load on the machine slows all alike.

    Args:
        steps: Called 2 times uncounted, then each at least 5 and at most 1000 times.
        seconds: To spend on all of them, beyond that minimum.

    >>> quick, slow = medians([lambda: None, lambda: time.sleep(1e-3)], seconds=0.01)
    >>> quick < 1e-3 <= slow
    True
    """
    for step in [*steps] * _WARMUP:
        step()
    times: list[list[float]] = [[] for _ in steps]
    numbered = list(enumerate(steps))
    end = time.perf_counter() + seconds
    for turn in range(_MOST):
        for index, step in reversed(numbered) if turn % 2 else numbered:
            began = time.perf_counter()
            step()
            times[index].append(time.perf_counter() - began)
        if turn + 1 >= _LEAST and time.perf_counter() >= end:
            break
    return [statistics.median(each) for each in times]


def model_step(model: nn.Module, inputs: Any, *, backward: bool) -> Callable[[], None]:
    """A function that runs one step of a model, with ``backward`` up to the gradient of every parameter."""
    positional, named = arguments(model, inputs)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]

    def run() -> None:
        with torch.set_grad_enabled(backward):
            outputs = [tensor for tensor in _tensors(model(*positional, **named)) if tensor.requires_grad]
        if outputs:
            # In the ordinary layout, as a loss would give it.
            start = [torch.ones(output.shape, dtype=output.dtype, device=output.device) for output in outputs]
            torch.autograd.grad(outputs, parameters, start, allow_unused=True)

    return run


def _tensors(value: object) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _tensors(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _tensors(item)


@dataclass
class Call:
    """Input of a layer and gradient of its output in one run of its model, with the strides they had."""

    x: Tensor
    needs_gradient: bool
    """Whether the layers before want the gradient of ``x``."""
    gradient: Tensor | None = None
    count: int = 1
    """Number of calls of the layer; only the first is kept."""


def watch(step: Callable[[], None], layers: Mapping[str, nn.Module]) -> dict[str, Call]:
    """Run a step and record the first call of each of these layers that it calls, in the order of execution."""
    calls: dict[str, Call] = {}

    def note(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], dict[str, Tensor], Tensor], None]:
        def hook(_: nn.Module, inputs: tuple[Tensor, ...], named: dict[str, Tensor], output: Tensor) -> None:
            if name in calls:
                calls[name].count += 1
                return
            x = inputs[0] if inputs else named["input"]
            call = calls[name] = Call(x.detach(), x.requires_grad)
            if output.requires_grad:
                output.register_hook(lambda gradient: setattr(call, "gradient", gradient.detach()))

        return hook

    handles = [layer.register_forward_hook(note(name), with_kwargs=True) for name, layer in layers.items()]
    try:
        step()
    finally:
        for handle in handles:
            handle.remove()
    return calls


def layer_step(layer: nn.Module, met: Call, gradient: Tensor | None, *, backward: bool) -> Callable[[], None]:
    """A function that runs one step of a layer on the input it met, with ``backward`` up to all gradients.

    The gradient of the input is given back in the layout in which the input came, so a layer that changes the layout
    pays for it.
    """
    x = met.x.detach().requires_grad_(backward and met.needs_gradient)
    wanted: list[Tensor] = [parameter for parameter in layer.parameters() if parameter.requires_grad]
    wanted += [x] if x.requires_grad else []

    def run() -> None:
        with torch.set_grad_enabled(backward):
            y = layer(x)
        if gradient is None or not wanted:
            return
        last = torch.autograd.grad(y, wanted, gradient)[-1]
        if x.requires_grad and last.stride() != x.stride():
            torch.empty_like(x).copy_(last)

    return run


def layer_costs(
    dense: Mapping[str, nn.Module], sparse: Mapping[str, SparseLayer], met: tuple[dict[str, Call], dict[str, Call]],
    *, rectified: Collection[nn.Module], backward: bool, seconds: float,
) -> dict[str, Costs]:  # fmt: skip
    """Time each layer dense and sparse, on the input as it comes from dense and from sparse layers.

    Args:
        dense, sparse: Name -> layer, the same names.
        rectified: The sparse layers that compute the ReLU behind them; so the dense ones are timed with it.
        met: Calls of the layers in a run of the dense and of the sparse model.
    """
    costs = {}
    for name in met[0]:
        forms: list[nn.Module] = [dense[name], sparse[name]]
        if sparse[name] in rectified:
            forms = [nn.Sequential(dense[name], nn.ReLU()), _Rectified(sparse[name])]
        inputs = [met[0][name], met[1][name]]
        if inputs[0].x.stride() == inputs[1].x.stride():
            del inputs[1]
        steps = [
            layer_step(form, x, calls[name].gradient, backward=backward)
            for x in inputs
            for form, calls in zip(forms, met, strict=True)
        ]
        times = [met[0][name].count * each for each in medians(steps, seconds=seconds)]
        behind_dense, behind_sparse = (times[0], times[1]), (times[-2], times[-1])
        costs[name] = behind_dense, behind_sparse
    return costs


class _Rectified(nn.Module):
    """A sparse layer that computes the ReLU behind it."""

    def __init__(self, layer: SparseLayer) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer.forward(x, floor=0.0)


def cheapest(costs: Sequence[Costs]) -> list[bool]:
    """The choice of sparse layers in a chain for which the sum of seconds is least; ties stay dense.

    The chain begins in the ordinary layout, as behind a dense layer.

    >>> change_of_layout = 2.0
    >>> alone = ((3.0, 1.0 + change_of_layout), (3.0 + change_of_layout, 1.0))
    >>> cheapest([alone]), cheapest([alone, alone])
    ([False], [True, True])
    """
    best: list[tuple[float, list[bool]]] = [(0.0, []), (float("inf"), [])]
    for cost in costs:
        best = [
            min(
                ((spent + cost[before][own], [*path, bool(own)]) for before, (spent, path) in enumerate(best)),
                key=lambda way: way[0],
            )
            for own in (0, 1)
        ]
    return min(best, key=lambda way: way[0])[1]


def settled(costs: Sequence[Costs], is_sparse: Sequence[bool]) -> list[tuple[float, float]]:
    """Seconds of each layer of a chain: dense in the dense model, and sparse in the mix."""
    before = itertools.chain([False], is_sparse)
    return [(cost[0][0], cost[previous][1]) for cost, previous in zip(costs, before, strict=False)]
