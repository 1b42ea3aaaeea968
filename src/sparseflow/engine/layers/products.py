"""The products of a sparse layer with activations, for one size of input: forward, and the two gradients."""

from __future__ import annotations

from functools import cache, cached_property
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from sparseflow.engine.kernels.sums import all_dots, all_sums, row_sums, vector_product
from sparseflow.engine.layers.geometry import CACHE, TILE, Frame, Loops, Window, forward_loops, forward_table
from sparseflow.engine.layers.gradient_geometry import GradientLoops, gradient_passes
from sparseflow.engine.layers.memory import shared_pool
from sparseflow.engine.layers.pattern import Pattern, Table
from sparseflow.engine.layers.threads import over_outputs

Floats = NDArray[Any]
_NO_FLOOR = float("-inf")


class Product:
    """The pattern of a layer at one input size: frames, tables and loops, made once and used at every step.

    Activations are flat tensors that hold ``(channels, height + border, width + border, batch)``: input and output in
    the frames ``x`` and ``y``, their gradients in ``gx`` and ``g``.

    Args:
        window: Of its convolution; a linear layer is a 1 x 1 convolution of one pixel.
        size: Height and width of the input.
        itemsize: Bytes of a number.

    >>> pattern = Pattern.of(torch.tensor([[True, False, True]]))
    >>> product = Product(pattern, Window(), (1, 1), batch=2, itemsize=4)
    >>> x = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])  # three inputs, two examples
    >>> product.forward(torch.tensor([10.0, 1.0]), None, x)
    tensor([15., 26.])
    """

    def __init__(self, pattern: Pattern, window: Window, size: tuple[int, int], batch: int, itemsize: int) -> None:
        self.pattern = pattern
        self.window = window
        self.itemsize = itemsize
        self.x = Frame(size, batch, window.padding)
        self.y = Frame(window.outputs(size), batch)
        self.g = Frame(self.y.size, batch, window.gradient_border(size))
        self.gx = Frame(size, batch)
        self.memory = shared_pool()
        self.work = pattern.num_active * self.y.pitch
        """Multiply-adds of one product."""
        # A stride beyond the kernel leaves inputs that nothing reads.
        self._reads_all = all(s <= k for s, k in zip(window.stride, window.kernel, strict=True))

    @cached_property
    def _forward(self) -> tuple[Table, Loops]:
        return forward_table(self.pattern, self.window, self.x, self.itemsize), forward_loops(
            self.window, self.x, self.y
        )

    @cached_property
    def _backward(self) -> list[tuple[Table, Loops]]:
        passes = gradient_passes(self.pattern, self.window, self.x, self.gx, self.g, self.itemsize)
        return [(table, self._sums_of(loops)) for table, loops in passes]

    def _sums_of(self, loops: GradientLoops) -> Loops:
        rows, gi, _, yi, parts, gj, _, yj, length = loops.moves
        return Loops(loops.g0, self.g.batch, loops.y0, self.gx.pitch, rows, gi, yi, parts, gj, yj, length)

    def _dots(self, g: Frame) -> tuple[tuple[Loops, ...], int]:
        """Loops of the weight gradient, and the rows to take at a time so that their input stays in the cache."""
        loops = forward_loops(self.window, self.x, g)
        room = max(1, CACHE // (self.pattern.inputs * self.itemsize))
        if loops.rows > 1:
            return (loops,), max(1, room // loops.xi)
        chunk = max(TILE, room // TILE * TILE)
        whole, rest = divmod(loops.length, chunk)
        if loops.parts > 1 or whole < 2:
            return (loops,), 1
        first = loops._replace(rows=whole, xi=chunk, yi=chunk, length=chunk)
        shift = whole * chunk
        last = loops._replace(x0=loops.x0 + shift, y0=loops.y0 + shift, length=rest)
        return ((first, last) if rest else (first,)), 1

    @cached_property
    def _gradient_loops(self) -> dict[Frame, tuple[tuple[tuple[Loops, ...], int], Loops]]:
        """For a gradient with and without a border: loops of the weights' and of the biases' gradient."""
        return {g: (self._dots(g), forward_loops(Window(), g, g)) for g in (self.y, self.g)}

    def forward(self, values: Tensor, bias: Tensor | None, x: Tensor, *, floor: float = _NO_FLOOR) -> Tensor:
        """``max(floor, W x + b)``, from frame ``x`` to frame ``y``; a ``floor`` of 0 is a ReLU."""
        y = self.memory.empty(self.pattern.outputs * self.y.pitch, values.dtype)
        numbers = values.detach().numpy()
        start = numbers[:0] if bias is None else bias.detach().numpy()
        table, loops = self._forward
        self._sum(table, loops, numbers, start, x.numpy(), y.numpy(), floor)
        return y

    def input_gradient(self, values: Tensor, g: Tensor) -> Tensor:
        """``W^T g``, from frame ``g`` to frame ``gx``."""
        gx = self.memory.empty(self.pattern.inputs * self.gx.pitch, values.dtype)
        if not self._reads_all:
            gx.zero_()
        numbers = values.detach().numpy()
        for table, loops in self._backward:
            self._sum(table, loops, numbers, numbers[:0], g.numpy(), gx.numpy(), _NO_FLOOR)
        return gx

    def weight_gradient(self, x: Tensor, g: Tensor, frame: Frame) -> Tensor:
        """The gradient of each active weight, ``(nonzeros,)``; ``frame`` is that of ``g``: ``y`` or ``g``."""
        out = torch.zeros(self.pattern.num_active, dtype=x.dtype)
        (table, _), ((loops, rows), _) = self._forward, self._gradient_loops[frame]
        gs, xs, outs = g.numpy(), x.numpy(), out.numpy()

        def run(first: int, last: int) -> None:
            all_dots(table.begins, table.ends, table.columns, gs, xs, outs, loops, rows, first, last)

        over_outputs(table, self.work, run)
        return out

    def bias_gradient(self, g: Tensor, frame: Frame) -> Tensor:
        """The sum of the gradient over pixels and examples, ``(outputs,)``; arguments as :meth:`weight_gradient`."""
        out = torch.zeros(self.pattern.outputs, dtype=g.dtype)
        _, loops = self._gradient_loops[frame]
        row_sums(
            g.numpy(), loops.x0, frame.pitch, out.numpy(), 0, self.pattern.outputs,
            loops.rows, loops.xi, loops.parts, loops.xj, loops.length,
        )  # fmt: skip
        return out

    def _sum(
        self, table: Table, loops: Loops, values: Floats, start: Floats, x: Floats, y: Floats, floor: float
    ) -> None:
        # One example of a linear layer: neighbours in memory are units, not examples.
        single = (
            loops.length == 1 and loops.rows == loops.parts == len(table.begins) == loops.pitch == loops.y_pitch == 1
        )

        ordered = table.values(values)

        def run(first: int, last: int) -> None:
            if single:
                columns, begins, ends = table.short_columns, table.begins[0], table.ends[0]
                vector_product(begins, ends, columns, ordered, start, x, y, first, last, floor)
            else:
                all_sums(table.begins, table.ends, table.columns, ordered, start, x, y, loops, first, last, floor)

        over_outputs(table, self.work, run)


@cache
def warm_up(dtype: torch.dtype) -> None:
    """Compile the kernels of a layer, or read them from disk: about four seconds for each dtype, the first time."""
    one = torch.ones(1, dtype=dtype)
    for batch in (1, 2):
        product = Product(Pattern.of(torch.ones(1, 1, dtype=torch.bool)), Window(), (1, 1), batch, dtype.itemsize)
        x = torch.ones(batch, dtype=dtype)
        product.input_gradient(one, product.forward(one, one, x))
        product.weight_gradient(x, x, product.y)
        product.bias_gradient(x, product.y)
