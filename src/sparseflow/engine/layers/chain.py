"""A chain of sparse layers as one autograd function: between its layers there is no Python."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from itertools import pairwise
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook

from sparseflow.engine.kernels.compiling import said_aloud
from sparseflow.engine.kernels.vectors import PIECE
from sparseflow.engine.kernels.workspace import workspaces
from sparseflow.engine.layers.cover import Cover, Covers
from sparseflow.engine.layers.functions import check_first_order, to_images, to_storage
from sparseflow.engine.layers.geometry import Frame, pool_divisor, pool_window
from sparseflow.engine.layers.modules import SparseLayer
from sparseflow.engine.layers.norms import BatchNorm2d
from sparseflow.engine.layers.pools import AvgPool2d, MaxPool2d
from sparseflow.engine.layers.products import NO_FLOOR
from sparseflow.engine.layers.threads import over_ranges, threads_for
from sparseflow.engine.plans.builder import Image, Program
from sparseflow.engine.plans.covering import covered
from sparseflow.engine.plans.fusing import fused
from sparseflow.engine.plans.program import build_halves, examples_that_fit
from sparseflow.engine.plans.slices import run_slices
from sparseflow.engine.plans.stages import AveragePool, Flatten, MaxPool, Rectify, Stage, Tape, Weighted, in_line

Floats = NDArray[Any]
#: Examples that are worked on at a time, at most, and images at least: each slice has a gradient of its own.
_SLICE, _FEWEST = 128, 32
#: Input sizes whose programs are kept.
_KEPT = 4
_DTYPES = (torch.float32, torch.float64)
_NO_LABELS, _NO_NUMBERS = np.zeros(0, np.int64), np.zeros(0)


class _Slices(NamedTuple):
    """The slices of a batch of one size: equal ones, and one with the rest."""

    programs: list[tuple[int, Program, Program]]
    """First example, forward and backward pass of each slice."""
    shares: list[int]
    """Which of the gradients that are summed at the end each slice adds to."""
    output: Image
    size: tuple[int, int]
    rows: NDArray[np.int64]
    """All examples: 0, 1, ..., batch - 1."""
    work: int
    """Multiply-adds of a forward pass."""
    covers: Covers
    """Of the layers' parameters."""
    free: list[tuple[Floats, NDArray[np.int8]]]
    """Workspaces that no graph holds: a row for each slice."""

    def run(
        self, which: int, rooms: tuple[Floats, NDArray[np.int8]], values: Floats, gradients: Floats,
        given: Floats, out: Floats, given_inner: bool, out_inner: bool,
    ) -> None:  # fmt: skip
        """The forward pass (1) or the backward pass (2) of all slices; see :func:`run_slices`."""
        count = len(self.programs)
        (_, *first), (begin, *last) = self.programs[0], self.programs[-1]
        program, rest = first[which - 1], last[which - 1]
        whole = count if rest is program else count - 1
        bounds = np.arange(count + 1) if threads_for(self.work, count) > 1 else np.array([0, count])
        gradient_of = np.array(self.shares if len(gradients) > 1 else [0] * count)
        together = max(len(program.operations), len(rest.operations))
        over_ranges(
            run_slices, bounds, self.work, together, program.operations, rest.operations, program.tables, rest.tables,
            *rooms, np.arange(count), values, gradients, gradient_of, _NO_NUMBERS, given, _NO_LABELS, self.rows,
            begin // max(1, count - 1), whole, 1.0, np.zeros(count), out, given_inner, out_inner, 1,
        )  # fmt: skip


class _Held:
    """Workspaces of one forward pass, given back when its graph is gone."""

    def __init__(self, slices: _Slices, dtype: Any) -> None:
        self._free = slices.free
        self.workspaces = slices.free.pop() if slices.free else self._made(slices.programs, np.dtype(dtype))

    @staticmethod
    def _made(programs: list[tuple[int, Program, Program]], dtype: np.dtype[Any]) -> tuple[Floats, NDArray[np.int8]]:
        size, positions = max(p.workspace for _, p, _ in programs), max(p.positions for _, p, _ in programs)
        return workspaces(len(programs), size, dtype), np.zeros((len(programs), positions), np.int8)

    def __del__(self) -> None:
        self._free.append(self.workspaces)


class Chain:
    """The programs of a chain of sparse layers for the input sizes met so far."""

    def __init__(self, members: list[nn.Module | None], tape: Tape, layers: list[SparseLayer]) -> None:
        self.members = [member for member in members if member is not None]
        self.tape = tape
        self.layers = layers
        self.patterns = [layer.pattern for layer in layers]
        self.parameters = [p for layer in layers for p in (layer.values, layer.bias) if p is not None]
        self.has_run = False
        ends = [layer.pattern.inputs for layer in layers[1:]] + [layers[-1].pattern.outputs]
        self.is_linear = all(isinstance(stage, Weighted) and stage.spatial == 0 for stage, _ in tape) and all(
            layer.pattern.outputs == size for layer, size in zip(layers, ends, strict=True)
        )
        self._slices: dict[tuple[Any, ...], _Slices] = {}

    def _covered(self, examples: int, itemsize: int) -> tuple[Tape, Covers, list[int]]:
        """The tape to compute with, its covers, and where the values of each layer begin."""
        tape, of_nodes = covered(self.tape, examples, itemsize)
        of_layers = [each for (stage, _), each in zip(tape, of_nodes, strict=True) if isinstance(stage, Weighted)]
        covers: list[Cover | None] = []
        firsts: list[int] = []
        for layer, cover in zip(self.layers, of_layers, strict=True):
            firsts.append(len(covers))
            covers += [cover] if layer.bias is None else [cover, None]
        found = Covers.of(covers, [parameter.numel() for parameter in self.parameters])
        return tape, found, [found.begins[first] for first in firsts]

    def is_current(self) -> bool:
        """Whether the layers still have the patterns that the programs were made for."""
        return all(layer.pattern is pattern for layer, pattern in zip(self.layers, self.patterns, strict=True))

    def is_free(self) -> bool:
        """Whether no layer has hooks or keeps its gradients."""
        return not any(map(is_watched, self.members)) and not any(layer.keeps_gradients for layer in self.layers)

    def one_example(self, x: Tensor) -> Tensor:
        """The output of linear layers for ``(1, inputs)``, without gradients, by kernels for a single example."""
        numbers = x.detach().reshape(-1).contiguous()
        for layer, stage in zip(self.layers, (stage for stage, _ in self.tape), strict=True):
            assert isinstance(stage, Weighted)
            product = layer.product(layer.pattern, (1, 1), 1, x.dtype)
            floor = 0.0 if stage.relu else NO_FLOOR
            numbers = product.forward(layer.values, layer.bias, numbers, floor=floor)
        return numbers.view(1, -1)

    def slices(self, shape: tuple[int, ...], itemsize: int, *, input_gradient: bool) -> _Slices:
        """The programs for inputs of shape ``(batch, ...)``; arguments as :func:`build_halves`.

        Raises:
            ValueError: if the shape does not fit the chain.
        """
        key = (shape, itemsize, input_gradient, torch.get_num_threads() > 1)
        if key not in self._slices:
            if len(self._slices) >= _KEPT:
                self._slices.pop(next(iter(self._slices)))

            tape, covers, begins = self._covered(min(shape[0], _SLICE), itemsize)

            def halves(batch: int) -> tuple[Program, Program, Image]:
                return build_halves(
                    tape, begins, shape[1:], batch=batch, itemsize=itemsize, input_gradient=input_gradient
                )

            if math.prod(shape[2:]) > 1:  # images
                room = halves(_FEWEST)[0].workspace // _FEWEST * itemsize
                size = examples_that_fit(room, least=_FEWEST, most=_SLICE)
            else:
                size = self._slice_size(tape, shape[0], itemsize)
            edges = [*range(0, shape[0], size), shape[0]]
            made = {batch: halves(batch) for batch in {b - a for a, b in pairwise(edges)}}
            programs = [(a, *made[b - a][:2]) for a, b in pairwise(edges)]
            # Where one thread has slices of a single sum each, they add to one gradient: the bits are the same.
            alone = torch.get_num_threads() == 1 and itemsize == 4 and size == PIECE and math.prod(shape[2:]) == 1
            last = len(programs) - 1 if shape[0] % size else len(programs)
            shares = [int(number >= last > 0) if alone else number for number in range(len(programs))]
            output = made[edges[1]][2]
            pixels = (*(1,) * (4 - len(shape)), *shape[2:])[-2:]
            work = sum(program.work for _, program, _ in programs)
            rows = np.arange(shape[0])
            self._slices[key] = _Slices(programs, shares, output, (pixels[0], pixels[1]), rows, work, covers, [])
        return self._slices[key]

    @staticmethod
    def _slice_size(tape: Tape, batch: int, itemsize: int) -> int:
        """Examples of a slice where there are no images."""
        in_blocks = [stage.pattern.block > 1 for stage, _ in tape if isinstance(stage, Weighted)]
        # In float64 the tiles of blocks are smaller than a piece.
        if all(in_blocks) or (any(in_blocks) and itemsize > 4):
            return PIECE
        # Kernels sum over pieces, so two threads that take half of a slice each give the bits of one.
        shared = batch < _SLICE or (batch == _SLICE and torch.get_num_threads() > 1)
        return PIECE if shared else _SLICE


class _ChainFunction(torch.autograd.Function):
    """The layout of the output is that of the input, except that images have the batch innermost."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, chain: Chain, slices: _Slices, *parameters: Tensor) -> Tensor:
        values = slices.covers.spread(parameters).numpy()
        batch, output = len(slices.rows), slices.output
        frame = Frame(output.frame.size, batch)
        inner, flat = not x.is_contiguous(), _ends_flat(chain.tape, x.dim())
        source = to_storage(x, Frame(slices.size, batch)) if inner else x.detach().view(-1)
        y = torch.empty(output.channels * frame.pitch, dtype=x.dtype)
        held = _Held(slices, values.dtype)
        given, out, out_inner = source.numpy(), y.numpy(), inner or not flat

        slices.run(1, held.workspaces, values, values[:0].reshape(1, 0), given, out, inner, out_inner)
        ctx.slices, ctx.values, ctx.held, ctx.frame = slices, values, held, frame
        ctx.x_shape, ctx.inner = tuple(x.shape), inner
        if not out_inner:
            return y.view(batch, output.channels).data  # no view, so that activations may write into it
        return to_images(y, output.channels, frame, dims=2 if flat else x.dim())

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        check_first_order()
        slices, values, held = ctx.slices, ctx.values, ctx.held
        gradient, batch, shape = gradients[0], len(slices.rows), ctx.x_shape
        given_inner = not gradient.is_contiguous()
        given = (to_storage(gradient, ctx.frame) if given_inner else gradient.reshape(-1)).numpy()
        shares = np.zeros((max(slices.shares) + 1, len(values)), values.dtype)
        frame, inner = Frame(slices.size, batch), ctx.inner
        gx = torch.empty(shape[1] * frame.pitch if ctx.needs_input_grad[0] else 0, dtype=gradient.dtype)
        out = gx.numpy()

        slices.run(2, held.workspaces, values, shares, given, out, given_inner, inner)
        # Share by share in order, whatever the threads did.
        total = shares[0]
        for share in shares[1:]:
            total += share
        found = slices.covers.gathered(torch.from_numpy(total))
        of_x = None
        if ctx.needs_input_grad[0]:
            of_x = to_images(gx, shape[1], frame, dims=len(shape)) if inner else gx.view(shape)
        return of_x, None, None, *found


def _ends_flat(tape: Tape, dims: int) -> bool:
    return dims == 2 or any(isinstance(node.stage, Flatten) for node in tape)


#: ``nn.Sequential`` -> the layers in it when it was read, and the chain of them, if they are one.
_chains: WeakKeyDictionary[nn.Module, tuple[list[nn.Module | None], Chain | None]] = WeakKeyDictionary()


def _chain_of(owner: nn.Sequential) -> Chain | None:
    members, chain = _chains.get(owner, (None, None))
    now = _members(owner)
    if members != now or (chain is not None and not chain.is_current()):
        read = read_stages(owner)
        chain = None if read is None else Chain(now, *read)
        _chains[owner] = now, chain
    return chain


class SparseSequential(nn.Sequential):
    """A ``nn.Sequential`` of sparse and other layers; parameters, names and results are the same.

    A ReLU behind a sparse layer is computed by that layer, or by the pool that follows. A chain of nothing but sparse
    layers, ReLUs and pools runs as one function, except where its dense gradient is wanted or where the engine cannot
    take the input. A layer with hooks always runs by itself.
    """

    def forward(self, x: Tensor) -> Tensor:
        """The last layer's output."""
        chain = _chain_of(self)
        if chain is None:
            return _one_by_one(self, x)
        fits = x.dim() in (2, 3, 4) and x.dtype in _DTYPES and x.device.type == "cpu" and x.shape[0] > 0
        if not (fits and chain.is_free() and all(p.dtype == x.dtype for p in chain.parameters)):
            return _one_by_one(self, x)
        if chain.is_linear and not torch.is_grad_enabled() and x.shape == (1, chain.layers[0].pattern.inputs):
            return chain.one_example(x)
        wanted = x.requires_grad and torch.is_grad_enabled()
        try:
            slices = chain.slices(tuple(x.shape), x.element_size(), input_gradient=wanted)
        except ValueError:
            return _one_by_one(self, x)  # whose errors name the layer
        arguments = (x, chain, slices, *chain.parameters)
        with nullcontext() if chain.has_run else said_aloud():
            out: Tensor = _ChainFunction.apply(*arguments)  # type: ignore[no-untyped-call]
        chain.has_run = True
        return out

    def rectified_sum(self, x: Tensor, other: Tensor, relu: nn.Module) -> Tensor:
        """``relu(other + self(x))``, in one pass if the last layer is a norm and no hook wants to see the parts."""
        last = self[-1] if len(self) else None
        if not isinstance(last, BatchNorm2d) or type(relu) is not nn.ReLU or any(map(is_watched, (self, last, relu))):
            out: Tensor = relu(other + self(x))
            return out
        return last.forward(_one_by_one(list(self)[:-1], x), plus=other, floor=0.0)


def _one_by_one(layers: Iterable[nn.Module], x: Tensor) -> Tensor:
    for layer, *after in _groups(layers):
        if after and isinstance(after[-1], MaxPool2d):
            x = after[-1].forward(layer(x), floor=0.0)  # its backward pass is the cheapest
        elif after and isinstance(layer, SparseLayer | BatchNorm2d):
            x = layer.forward(x, floor=0.0)
        else:
            x = layer(x)
    return x


def is_joined(chain: nn.Sequential) -> bool:
    """Whether layers of a chain are computed together."""
    return read_stages(chain) is not None or any(len(group) > 1 for group in _groups(chain))


def _groups(chain: Iterable[nn.Module]) -> Iterator[list[nn.Module]]:
    """The layers of a chain in order: a sparse layer or norm, the ReLU behind it and a pool behind that; others alone.

    The last of a group computes the ReLU, unless that is the ReLU itself; none that does so has hooks.
    """
    rest = list(chain)
    while rest:
        group = [rest.pop(0)]
        if (
            isinstance(group[0], SparseLayer | BatchNorm2d)
            and rest
            and type(rest[0]) is nn.ReLU
            and not is_watched(rest[0])
        ):
            if len(rest) > 1 and isinstance(rest[1], MaxPool2d) and not is_watched(rest[1]):
                group += [rest.pop(0), rest.pop(0)]
            elif not is_watched(group[0]):
                group.append(rest.pop(0))
        yield group


def rectified(model: nn.Module) -> Iterator[SparseLayer]:
    """The sparse layers that compute the ReLU behind them."""
    chains = [module for module in model.modules() if isinstance(module, SparseSequential)]
    pairs = (group for chain in chains for group in _groups(chain) if len(group) == 2)
    yield from (layer for layer, _ in pairs if isinstance(layer, SparseLayer))


def is_watched(module: nn.Module) -> bool:
    """Whether a hook wants to see this layer: then it must run by itself."""
    hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    return any(hooks) or _has_any_global_hook()


def _members(chain: nn.Module) -> list[nn.Module | None]:
    """The layers of a chain and of the chains in it."""
    own = list(chain._modules.values())
    return own + [each for inner in own if isinstance(inner, nn.Sequential) for each in _members(inner)]


def read_stages(chain: nn.Sequential) -> tuple[Tape, list[SparseLayer]] | None:
    """The stages of a chain as a tape, and its sparse layers.

    ``None`` if it has another kind of layer, no sparse one or one twice.
    """
    stages: list[Stage] = []
    layers: list[SparseLayer] = []
    for name, module in leaves(chain, chains=(nn.Sequential, SparseSequential)):
        stage = _stage(name, module)
        if stage is None:
            if type(module) is nn.Identity:
                continue
            return None
        stages.append(stage)
        if isinstance(module, SparseLayer):
            layers.append(module)
    return (fused(in_line(stages)), layers) if layers and len(set(map(id, layers))) == len(layers) else None


def leaves(
    module: nn.Module, name: str = "", *, chains: tuple[type[nn.Module], ...] = (nn.Sequential,)
) -> Iterator[tuple[str, nn.Module]]:
    """Name and layer of each layer of a chain, in order.

    ``chains`` are the types that are chains in turn; a subclass may compute something else.
    """
    if type(module) in chains:
        for key, child in module._modules.items():
            if child is not None:
                yield from leaves(child, f"{name}.{key}" if name else key, chains=chains)
    else:
        yield name, module


def _stage(name: str, module: nn.Module) -> Stage | None:
    if isinstance(module, SparseLayer):
        return Weighted(name, module.pattern, module.window, module.axes, module.bias is not None)
    if isinstance(module, MaxPool2d):
        return MaxPool(name, pool_window(module))
    if isinstance(module, AvgPool2d):
        return AveragePool(name, pool_window(module), pool_divisor(module))
    if type(module) is nn.ReLU:
        return Rectify(name)
    if type(module) is nn.Flatten and (module.start_dim, module.end_dim) == (1, -1):
        return Flatten(name)
    return None
