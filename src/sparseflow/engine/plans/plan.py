"""A plan: forward, loss and backward of a network in one compiled call, and the optimizer step in another."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sparseflow._fast import team
from sparseflow.attached import check_current
from sparseflow.boundary import checked
from sparseflow.engine.kernels.compiling import said_aloud
from sparseflow.engine.layers.cover import Cover, Covers
from sparseflow.engine.layers.pattern import Pattern
from sparseflow.engine.layers.threads import over_ranges
from sparseflow.engine.plans.batches import MOST, Batch, Batches, Kind
from sparseflow.engine.plans.covering import covered
from sparseflow.engine.plans.reading import read_tape
from sparseflow.engine.plans.slices import run_slices
from sparseflow.engine.plans.stages import Norm, Stage, Weighted, has_parameters
from sparseflow.engine.plans.state import Part, State
from sparseflow.engine.plans.statistics import Modes, Statistics

Floats = NDArray[Any]
Integers = NDArray[np.int64]


class Plan:
    """Trains and evaluates a sparse network on flat vectors; made by :func:`plan`.

    A plan holds copies of the active weights, biases, running statistics and optimizer state. :meth:`read` takes them
    from the model and the optimizer, :meth:`write` gives them back. Hooks of modules and of the optimizer are not
    called.

    Norms are in the mode of the model's, one by one, at each call. Only :meth:`step` moves running statistics.

    A batch is worked on in slices that fit in the cache, by ``torch.get_num_threads()`` threads. A norm that measures
    needs the whole batch, so threads then share every operation. The same input gives the same bits each time, on any
    number of threads.
    """

    def __init__(
        self, model: nn.Module, masks: Mapping[str, Tensor], optimizer: torch.optim.Optimizer | None = None
    ) -> None:
        self._model = model
        self._optimizer = optimizer
        self._dtype = _dtype_of(model)
        self._itemsize = self._dtype.itemsize
        self._has_run = False
        self._take(masks)
        self.read()

    def read(self, masks: Mapping[str, Tensor] | None = None) -> None:
        """Take values, running statistics and optimizer state from the model and the optimizer.

        ``masks`` are given where they changed; ``None`` keeps the plan's.

        Raises:
            ValueError: if they are not those of the Sparsifier that holds the weights.
        """
        if masks is not None and not self._has(masks):
            self._take(masks)
        self._check_current()
        self._state.read()
        self._statistics.read()

    def write(self) -> None:
        """Give values, running statistics and optimizer state to the model and the optimizer.

        Inactive entries become exactly zero.

        Raises:
            ValueError: if the masks have moved since they were read.
        """
        self._check_current()
        self._state.write()
        self._statistics.write()

    def step(self, images: Tensor, labels: Tensor, chosen: Tensor | None = None) -> float:
        """One training step with the optimizer's present settings; the loss before it.

        Args:
            images: ``(examples, ...)``, of the model's dtype.
            labels: int64 ``(examples,)``.
            chosen: int64: the rows of ``images`` and ``labels`` that make the batch; ``None`` takes all.

        Raises:
            TypeError, ValueError: if shapes, dtypes or labels do not fit, or the plan has no optimizer.
        """
        loss, gradient, counts = self._loss(images, labels, chosen)
        self._state.step(gradient)
        self._statistics.track(counts)
        return loss

    def loss_and_gradients(
        self, images: Tensor, labels: Tensor, chosen: Tensor | None = None, *, dense: bool = False
    ) -> tuple[float, dict[str, Tensor]]:
        """Mean cross-entropy and its gradient by parameter name.

        Args:
            images, labels, chosen: As :meth:`step`.
            dense: Gradients of the parameters' shapes with zeros, instead of those of the active weights, in the order
                of the flattened weight.
        """
        loss, gradient, _ = self._loss(images, labels, chosen)
        flat = torch.from_numpy(gradient)
        return loss, {
            part.name: part.scatter(flat[part.where]) if dense else flat[part.where].clone()
            for part in self._state.parts
        }

    def logits(self, images: Tensor, chosen: Tensor | None = None) -> Tensor:
        """The logits, ``(batch, classes)``; arguments as :meth:`step`."""
        numbers, rows = self._check_images(images, chosen)
        kind = Kind(tuple(images.shape[1:]), self._modes(), training=False)
        batch = self._batches.of(kind, len(rows))
        out = np.empty(len(rows) * batch.program.classes, numbers.dtype)
        self._run(batch, numbers, np.zeros(0, np.int64), rows, np.zeros((batch.gradients, 0), numbers.dtype), out)
        return torch.from_numpy(out).view(len(rows), -1)

    def _has(self, masks: Mapping[str, Tensor]) -> bool:
        return self._masks.keys() == masks.keys() and all(torch.equal(self._masks[name], masks[name]) for name in masks)

    def _check_current(self) -> None:
        check_current(self._masks, dict(self._model.named_parameters()))

    def _take(self, masks: Mapping[str, Tensor]) -> None:
        """Make tables for other masks; the vectors are empty until they are read."""
        tape = read_tape(self._model, masks)
        parameters = dict(self._model.named_parameters())
        computed, covers = covered(tape, MOST, self._itemsize)
        parts: list[Part] = []
        of_parts: list[Cover | None] = []
        firsts: list[int] = []
        end = 0
        for (stage, _), cover in zip(tape, covers, strict=True):
            if has_parameters(stage):
                firsts.append(len(parts))
                for kind, pattern in _parameters(stage):
                    name = f"{stage.name}.{kind}" if stage.name else kind
                    parts.append(Part(name, parameters[name], end, pattern))
                    of_parts.append(None if pattern is None else cover)
                    end = parts[-1].where.stop
        if not parts:
            raise ValueError("the network has no layer with weights, so there is nothing to plan.")
        self._covers = Covers.of(of_parts, [part.where.stop - part.where.start for part in parts])
        begins = [self._covers.begins[first] for first in firsts]
        self._statistics = Statistics(self._model, computed)
        self._state = State(parts, self._optimizer, self._dtype)
        self._batches = Batches(self._statistics, begins, np.dtype(np.float32 if self._itemsize == 4 else np.float64))
        self._gradients = np.zeros((0, self._covers.begins[-1]), self._batches.dtype)
        self._masks = {name: mask.clone() for name, mask in masks.items()}

    def _loss(self, images: Tensor, labels: Tensor, chosen: Tensor | None) -> tuple[float, Floats, dict[int, int]]:
        """The loss, its gradient, and the numbers of a channel of each norm."""
        numbers, rows = self._check_images(images, chosen)
        if labels.dtype != torch.int64 or labels.shape != images.shape[:1]:
            raise TypeError(
                f"labels must be int64 of shape ({len(images)},), got {labels.dtype} {tuple(labels.shape)}."
            )
        targets = labels.detach().contiguous().numpy()
        kind = Kind(tuple(images.shape[1:]), self._modes(), training=True)
        batch, wanted = self._batches.of(kind, len(rows)), targets[rows]
        if wanted.min() < 0 or wanted.max() >= batch.program.classes:
            raise ValueError(f"labels must be in [0, {batch.program.classes}), got {wanted.min()} to {wanted.max()}.")
        if len(self._gradients) < batch.gradients:
            self._gradients = np.zeros((batch.gradients, self._gradients.shape[1]), self._gradients.dtype)
        gradients = self._gradients[: batch.gradients]
        gradients[:] = 0
        loss = self._run(batch, numbers, targets, rows, gradients, gradients[0, :0])
        for other in gradients[1:]:
            gradients[0] += other
        return loss, self._stored(gradients[0]), batch.program.counts

    def _values(self) -> Floats:
        """What a program computes with: the values of covers, where there are some."""
        state = self._state
        spread = self._covers.spread(state.values[part.where] for part in state.parts) if self._covers.any else None
        return (state.values if spread is None else spread).numpy()

    def _stored(self, gradient: Floats) -> Floats:
        """The gradient of the state's values, from that of a program's."""
        if not self._covers.any:
            return gradient
        return torch.cat(self._covers.gathered(torch.from_numpy(gradient))).numpy()

    def _run(
        self, batch: Batch, images: Floats, labels: Integers, rows: Integers, gradients: Floats, out: Floats
    ) -> float:
        """The mean loss; what ``batch.gradient_of`` names is added to."""
        operations, rest = batch.program.operations, batch.rest.operations
        at_once, together = [slice(None)], max(len(operations), len(rest))
        if batch.shares > 1:
            # Only compiled code can let threads wait for each other within a call.
            at_once, together = at_once if team() else [slice(k, k + 1) for k in range(len(operations))], 1
        losses, values = np.zeros(int(batch.bounds[-1])), self._values()
        with self._said_aloud():
            for which in at_once:
                over_ranges(
                    run_slices, batch.bounds, batch.work, together, operations[which], rest[which],
                    batch.program.tables, batch.rest.tables, batch.rooms, batch.positions, batch.room_of,
                    values, gradients, batch.gradient_of, self._statistics.numbers, images, labels,
                    rows, batch.size, batch.whole, 1 / len(rows), losses, out, False, False, batch.shares,
                )  # fmt: skip
        # In their order, which NumPy's sum does not keep.
        return sum(losses.tolist()) / len(rows)

    def _modes(self) -> Modes:
        """Of the norms; those that do not measure get the numbers that they remember."""
        modes = self._statistics.modes
        self._statistics.prepare(modes)
        return modes

    def _check_images(self, images: Tensor, chosen: Tensor | None) -> tuple[Floats, Integers]:
        if images.dtype != self._dtype or images.device.type != "cpu" or images.dim() < 2 or not len(images):
            raise TypeError(
                f"images must be {self._dtype} on the CPU, (examples, ...), got {images.dtype} {tuple(images.shape)} "
                f"on {images.device}."
            )
        numbers = images.detach().contiguous().view(-1).numpy()
        if chosen is None:
            return numbers, np.arange(len(images))
        if chosen.dtype != torch.int64 or chosen.dim() != 1 or not len(chosen):
            raise TypeError(f"chosen must be int64 of shape (batch,), got {chosen.dtype} {tuple(chosen.shape)}.")
        rows = chosen.contiguous().numpy()
        if rows.min() < 0 or rows.max() >= len(images):
            raise ValueError(f"chosen must be in [0, {len(images)}), got {rows.min()} to {rows.max()}.")
        return numbers, rows

    def _said_aloud(self) -> AbstractContextManager[None]:
        first, self._has_run = not self._has_run, True
        return said_aloud() if first else nullcontext()


def _parameters(stage: Stage) -> list[tuple[str, Pattern | None]]:
    """The parameters of a stage: the last part of their names, and their patterns."""
    if isinstance(stage, Weighted):
        return [("weight", stage.pattern), *[("bias", None)] * stage.bias]
    assert isinstance(stage, Norm)
    return [*[("weight", None)] * stage.weight, *[("bias", None)] * stage.bias]


@checked()
def plan(model: nn.Module, masks: Mapping[str, Tensor], optimizer: torch.optim.Optimizer | None = None) -> Plan:
    """A plan that trains or evaluates a masked network without computing what is zero.

    The loss is softmax cross-entropy, averaged over the batch. Layers: Linear, Conv1d and Conv2d (any stride, padding
    with zeros, dilation, groups), BatchNorm1d and BatchNorm2d, ReLU, MaxPool2d, AvgPool2d, AdaptiveAvgPool2d (to a size
    that divides its input's), Flatten and Identity, or their functions; and sums of two images, such as those of
    residual blocks. The network is read once by ``torch.fx``: what its ``forward`` decides in Python is decided then.

    Args:
        model: The network, float32 or float64, on the CPU. It stays as it is until :meth:`Plan.write`.
        masks: Parameter name -> bool mask; a weight without one is dense.
        optimizer: SGD, Adam or AdamW over the model's parameters, for :meth:`Plan.step`. Its settings are read at every
            step, so learning-rate schedulers work.

    Raises:
        TypeError: if ``torch.fx`` cannot follow the network, or an operation, layer, dtype or optimizer is not
            supported; ``engine.convert`` takes any network.
        ValueError: if an option of one is not, or a mask does not fit.

    >>> import sparseflow as sf
    >>> model = nn.Sequential(nn.Linear(20, 50), nn.ReLU(), nn.Linear(50, 2))
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    >>> masks = sf.random_masks(model, 0.9, seed=0)
    >>> fast = plan(sf.apply_masks_(model, masks), masks, optimizer)
    >>> x, y = torch.randn(16, 20), torch.zeros(16, dtype=torch.int64)
    >>> expected = nn.functional.cross_entropy(model(x), y).item()
    >>> losses = [fast.step(x, y) for _ in range(10)]
    >>> abs(losses[0] - expected) < 1e-6, losses[-1] < losses[0]
    (True, True)
    >>> fast.write()
    >>> print(sf.check(model, optimizer, masks))
    2 weights, 2 optimizer state tensors, 1 rank(s): all hold
    """
    return Plan(model, masks, optimizer)


def _dtype_of(model: nn.Module) -> torch.dtype:
    kinds = {(parameter.dtype, parameter.device.type) for parameter in model.parameters()}
    if kinds not in ({(torch.float32, "cpu")}, {(torch.float64, "cpu")}):
        found = ", ".join(sorted(f"{dtype} on {device}" for dtype, device in kinds)) or "no parameters"
        raise TypeError(f"a plan needs all parameters float32, or all float64, on the CPU; got {found}.")
    return next(iter(kinds))[0]
