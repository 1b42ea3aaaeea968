"""Dead units: those that never fire, never get a gradient, or have no live path in or out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparseflow.analysis.layout import check_masked
from sparseflow.analysis.signal import by_unit, layer_modules, layer_outputs
from sparseflow.batches import Batch, each, forward, loss_of, map_tensors
from sparseflow.boundary import checked
from sparseflow.gradients import undisturbed
from sparseflow.init.live import positive_copy, positive_inputs
from sparseflow.masks.select import unwrap
from sparseflow.precision import in_widest_dtype
from sparseflow.rng import stream
from sparseflow.types import Batches, LossFn, Masks


@dataclass(frozen=True)
class DeadUnits:
    """The dead units of one layer, by their indices; one unit may be in several of the lists."""

    units: int
    """Units of the layer: its channels, or the last axis of its output."""
    never_fire: tuple[int, ...]
    """Hand on the same number whatever the example: their output is constant, or the activation behind them is shut."""
    no_gradient: tuple[int, ...]
    """The gradient of the loss at their output is zero for every example."""
    no_path_in: tuple[int, ...]
    """No path of active weights leads from an input that is not zero to them."""
    no_path_out: tuple[int, ...]
    """No path of active weights leads from them to the network's output."""

    @property
    def dead(self) -> tuple[int, ...]:
        """Units in any of the lists: they never learn, or nobody learns of them."""
        return tuple(sorted({*self.never_fire, *self.no_gradient, *self.no_path_in, *self.no_path_out}))


@checked()
def dead_units(
    model: nn.Module,
    batches: Batches,
    masks: Masks,
    *,
    loss_fn: LossFn | None = F.cross_entropy,
    training: bool | None = None,
) -> dict[str, DeadUnits]:
    """Find the units of each layer that never fire, never get a gradient, or have no live path in or out.

    Counted over all examples, positions and uses of a layer. A unit *fires* if a small change of its output changes
    what reaches the next layers, and its output is not the same for every example; so a ReLU that is shut for all of
    them silences the units in front of it, wherever it stands. One that outputs NaN does not fire, and NaN is no
    gradient. Paths are those of a copy with positive weights on the masks, as in :func:`sparseflow.live_inputs`.

    Args:
        model: The network, zero off the masks; left as it is.
        batches: Examples to look at, see :mod:`sparseflow.batches`. A unit that fires for a share ``p`` of all examples
            is missed by ``n`` of them with probability ``(1 - p)**n``.
        masks: Parameter name -> mask.
        loss_fn: Mean loss of a batch; ``None`` for the one that the model returns.
        training: Train or eval mode; ``None`` keeps the model's.

    Returns: module name -> :class:`DeadUnits`, in forward order, of modules that own prunable weights and are called.

    Raises:
        TypeError, ValueError: if a mask does not fit, the model is not zero off the masks, or a batch is none.

    Reference: Evci et al. (2022), section 3.1, on signal propagation; Maas et al. (2013) on units that never activate.

    >>> model = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2))
    >>> _ = model[0].weight.data.copy_(torch.tensor([[1.0, 0.5], [-1.0, 0.0]]))
    >>> _ = model[0].bias.data.zero_()
    >>> x = torch.rand(8, 2, generator=torch.Generator().manual_seed(0))  # positive, as pixels are
    >>> masks = {"0.weight": model[0].weight != 0}
    >>> dead_units(model, [(x, torch.tensor([0, 1] * 4))], masks)["0"]
    DeadUnits(units=2, never_fire=(1,), no_gradient=(1,), no_path_in=(), no_path_out=())
    """
    check_masked(model, masks)
    found = list(each(batches))
    fires = _live_units(model, found, loss_fn=loss_fn, training=training)
    paths = in_widest_dtype(model, partial(_paths, model, found, masks))
    return {
        name: DeadUnits(len(live.fires), *map(_indices, (live.fires, live.learns, *paths[name])))
        for name, live in fires.items()
    }


class _Live:
    """What has been seen of one layer's units so far."""

    def __init__(self, units: int) -> None:
        self.low = torch.full((units,), torch.inf, dtype=torch.float64)
        self.high = -self.low
        self.heard = torch.zeros(units, dtype=torch.bool)
        self.learns = torch.zeros(units, dtype=torch.bool)

    @property
    def fires(self) -> Tensor:
        return self.heard & (self.low < self.high)  # false of NaN, too


def _live_units(
    model: nn.Module, batches: list[Batch], *, loss_fn: LossFn | None, training: bool | None
) -> dict[str, _Live]:
    modules = layer_modules(model)
    live: dict[str, _Live] = {}
    with undisturbed(model, training=training), torch.enable_grad():
        for inputs, targets, _ in batches:
            with layer_outputs(model) as outputs:
                loss = loss_of(loss_fn, forward(unwrap(model), inputs), targets)
            slopes = _slopes(loss, outputs)
            with layer_outputs(model) as cut, _cut_inputs(model) as reached:
                reached.add(forward(unwrap(model), inputs))
            echoes = _slopes(reached.total, cut)
            for name, uses in outputs.items():
                for use, slope, echo in zip(uses, slopes[name], echoes[name], strict=True):
                    values = by_unit(use.detach(), modules[name]).double().cpu()
                    seen = live.setdefault(name, _Live(values.shape[1]))
                    seen.low = torch.minimum(seen.low, values.amin(0))
                    seen.high = torch.maximum(seen.high, values.amax(0))
                    seen.learns |= _is_any(slope.nan_to_num(nan=0.0), modules[name])
                    seen.heard |= _is_any(echo, modules[name])
        for name, seen in live.items():
            if not seen.heard.any() and any(_is_heard(model, batch.inputs, name) for batch in batches):
                seen.heard[:] = True  # something cuts the graph behind this layer, and the signal goes on
    return live


def _is_heard(model: nn.Module, inputs: Any, name: str) -> bool:
    """Whether what reaches the next layers or leaves the network changes with a layer's output, graph or no graph."""
    still = _passing(model, inputs)
    handle = layer_modules(model)[name].register_forward_hook(_shake)
    try:
        shaken = _passing(model, inputs)
    finally:
        handle.remove()
    return not all(map(torch.equal, still, shaken))


def _shake(_: nn.Module, inputs: Any, output: Any) -> Any:
    """Change every number a little, and no sign: what is shut stays shut."""
    first, *rest = (output,) if isinstance(output, Tensor) else output
    if not isinstance(first, Tensor):
        return None
    first = first * (1 + 1e-3 * torch.rand_like(first))
    return first if isinstance(output, Tensor) else (first, *rest)


def _passing(model: nn.Module, inputs: Any) -> list[Tensor]:
    """Copies of the tensors that reach a layer or leave the network, in the same random state each time."""
    found: list[Tensor] = []

    def note(tensor: Tensor) -> Tensor:
        found.append(tensor.detach().clone())
        return tensor

    def see(_: nn.Module, args: Any, kwargs: Any) -> None:
        map_tensors(note, (args, kwargs))

    with undisturbed(model), torch.enable_grad(), _before_layers(model, see):
        map_tensors(note, forward(unwrap(model), inputs))
    return found


@contextmanager
def _before_layers(model: nn.Module, hook: Callable[..., Any]) -> Iterator[None]:
    handles = [module.register_forward_pre_hook(hook, with_kwargs=True) for module in layer_modules(model).values()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _slopes(total: Tensor, outputs: dict[str, list[Tensor]]) -> dict[str, list[Tensor]]:
    """The gradient of a number at each output, zero where it does not depend on it."""
    slopes = {name: [torch.zeros_like(output) for output in uses] for name, uses in outputs.items()}
    # Those made under torch.no_grad() have no graph.
    places = [(name, i) for name, uses in outputs.items() for i, use in enumerate(uses) if use.requires_grad]
    if places and total.requires_grad:
        flat = [outputs[name][i] for name, i in places]
        found = torch.autograd.grad(total, flat, allow_unused=True, materialize_grads=True)
        for (name, i), slope in zip(places, found, strict=True):
            slopes[name][i] = slope
    return slopes


class _Reached:
    """A random positive sum of everything that reaches a layer or leaves the network."""

    def __init__(self) -> None:
        self.total = torch.zeros(())
        self._generator = stream(0, "dead_units")

    def add(self, value: Any) -> Any:
        """Count the tensors in a value; what goes on from there is cut off from what was before."""
        return map_tensors(self._add, value)

    def _add(self, tensor: Tensor) -> Tensor:
        if not tensor.requires_grad:
            return tensor
        # Unequal factors: an equal sum over a softmax or a norm would not depend on what goes in.
        factors = torch.rand(tensor.shape, generator=self._generator, dtype=torch.float64) + 0.5
        part = (tensor.float() * factors.to(tensor.device, torch.float32)).sum()
        self.total = self.total.to(part.device) + part
        return tensor.detach().requires_grad_()


@contextmanager
def _cut_inputs(model: nn.Module) -> Iterator[_Reached]:
    """End each layer's gradient at the layers behind it, so that one dead layer does not silence those before it."""
    reached = _Reached()

    def cut(_: nn.Module, args: Any, kwargs: Any) -> Any:
        return tuple(map(reached.add, args)), {name: reached.add(value) for name, value in kwargs.items()}

    with _before_layers(model, cut):
        yield reached


def _paths(
    model: nn.Module, batches: list[Batch], masks: Masks, dtype: torch.dtype
) -> dict[str, tuple[Tensor, Tensor]]:
    """Module name -> which units have a path from the input, and to the output."""
    # Gradients on in both passes: without them torch runs encoder layers whole, past the hooks.
    probe = positive_copy(model, masks, dtype).requires_grad_()
    modules = layer_modules(probe)
    into: dict[str, Tensor] = {}
    out: dict[str, Tensor] = {}
    with undisturbed(probe, training=False), torch.enable_grad():
        for inputs, _, _ in batches:
            positive = positive_inputs(inputs, dtype)
            with layer_outputs(probe) as outputs:
                forward(probe, positive)
            for name, uses in outputs.items():
                into[name] = into.get(name, torch.tensor(False)) | _any_of(uses, modules[name])
            with _lifted(probe), layer_outputs(probe) as lifted:
                end = _Reached()
                end.add(forward(probe, positive))
            for name, uses in _slopes(end.total, lifted).items():
                out[name] = out.get(name, torch.tensor(False)) | _any_of(uses, modules[name])
    return {name: (into[name], out[name]) for name in into}


@contextmanager
def _lifted(model: nn.Module) -> Iterator[None]:
    """Add one to every layer's output: a gradient then passes activations that would be shut for want of an input."""
    handles = [module.register_forward_hook(_lift) for module in layer_modules(model).values()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _lift(_: nn.Module, inputs: tuple[Any, ...], output: Any) -> Any:
    if isinstance(output, Tensor):
        return output + 1
    first, *rest = output
    return (first + 1, *rest) if isinstance(first, Tensor) else output


def _any_of(uses: list[Tensor], module: nn.Module) -> Tensor:
    return torch.stack([_is_any(use, module) for use in uses]).any(0)


def _is_any(values: Tensor, module: nn.Module) -> Tensor:
    """Which units have a value that is not zero."""
    return (by_unit(values.detach(), module) != 0).any(0).cpu()


def _indices(live: Tensor) -> tuple[int, ...]:
    return tuple((~live).nonzero().flatten().tolist())
