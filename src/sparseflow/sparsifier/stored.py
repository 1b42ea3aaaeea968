"""Weights stored as their active values alone: the interface of such a layer, its part in an update, and its moves."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple, Protocol, TypeGuard

import torch
from torch import Tensor, nn

from sparseflow._checks import check_finite
from sparseflow.masks.blocks import SINGLE, BlockGrid
from sparseflow.masks.fans import PLAIN, Layout
from sparseflow.masks.topk import topk_mask
from sparseflow.methods.base import Swap
from sparseflow.sharded import is_sharded
from sparseflow.sparsifier.optimizer_state import findings
from sparseflow.sparsifier.optimizers import switches_of, weight_states
from sparseflow.sparsifier.stored_blocks import StoredBlocks, positions_of, row_and_column_count
from sparseflow.sparsifier.tensors import name_of
from sparseflow.types import Masks

#: A layer's rows are looked at in this many parts, or in larger ones of at least this many entries.
_PARTS, _FEWEST = 16, 1 << 12


class StoredWeight(Protocol):
    """A module that stores active weights alone, such as ``sparseflow.engine.SparseLinear``."""

    values: nn.Parameter
    """``(active,)``, in the order of the flattened dense weight."""
    weight_suffix: str
    """What follows the module's path in the name of the dense weight, such as ``.weight``."""

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """Shape of the dense weight."""
        ...

    def positions(self) -> Tensor:
        """int64 ``(active,)``, ascending: where the values are in the flattened dense weight."""
        ...

    def mask(self) -> Tensor:
        """bool, of the dense weight's shape."""
        ...

    def move_(self, positions: Tensor) -> None:
        """Replace the positions; the caller must then set ``values`` to the same length."""
        ...

    def keep_gradients(self, keep: bool) -> None:
        """Whether backward passes from now on keep the parts of the dense gradient; ``False`` forgets them."""
        ...

    def gradient_rows(self) -> Callable[[int, int], Tensor] | None:
        """Dense gradient of the outputs [first, last) in the kept backward passes; ``None`` if there was none."""
        ...


#: The names of :class:`StoredWeight`.
_INTERFACE = (
    "values", "weight_suffix", "weight_shape", "positions", "mask", "move_", "keep_gradients", "gradient_rows",
)  # fmt: skip


def is_stored(module: nn.Module) -> TypeGuard[StoredWeight]:
    """Whether a module stores active weights alone.

    From Python 3.12 on ``isinstance`` with a protocol does not see ``values``, since a module keeps parameters apart.
    """
    return all(hasattr(module, name) for name in _INTERFACE)


def stored_weights(model: nn.Module) -> dict[str, StoredWeight]:
    """Name of the dense weight -> the module that stores its active values.

    Raises:
        ValueError: if ``fully_shard`` has cut such a module.

    >>> import sparseflow as sf
    >>> model = nn.Sequential(nn.Linear(4, 2))
    >>> list(stored_weights(sf.engine.convert(model, sf.random_masks(model, 0.5, seed=0))))
    ['0.weight']
    """
    found = {
        f"{path}{module.weight_suffix}".removeprefix("."): module
        for path, module in model.named_modules()
        if is_stored(module)
    }
    if cut := [name for name, weight in found.items() if is_sharded(weight.values)]:
        raise ValueError(f"fully_shard cannot cut {cut[0]!r}, which is stored as active values alone. Keep it masked.")
    return found


class MasksOnDemand(Mapping[str, Tensor]):
    """Masks of which some are made from stored positions each time they are asked for.

    ``names`` gives the order of iteration, ``dense`` the masks that exist, ``stored`` the weights of the others.
    """

    def __init__(self, names: Iterable[str], dense: Mapping[str, Tensor], stored: Mapping[str, StoredWeight]) -> None:
        self._names, self._dense, self._stored = list(names), dense, stored

    def __getitem__(self, name: str) -> Tensor:
        return self._stored[name].mask() if name in self._stored else self._dense[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def row_parts(shape: tuple[int, ...], *, together: int = 1) -> Iterator[tuple[int, int]]:
    """Ranges of outputs that together are all, each small enough to be looked at densely.

    Args:
        shape: Of the weight.
        together: Outputs that must not be parted: those of a block.

    >>> list(row_parts((10, 1000)))
    [(0, 5), (5, 10)]
    >>> list(row_parts((12, 1000), together=4))
    [(0, 8), (8, 12)]
    """
    rows, row_size = shape[0], math.prod(shape[1:])
    step = max(1, -(-max(_FEWEST, rows * row_size // _PARTS) // row_size))
    step += -step % together
    return ((first, min(first + step, rows)) for first in range(0, rows, step))


class StoredLayer(NamedTuple):
    """A layer at a mask update that stores active weights alone; its dense tensors are made when asked for."""

    name: str
    shape: tuple[int, ...]
    """Shape of the dense weight."""
    positions: Tensor
    """int64 ``(active,)``, ascending: where the active weights are in the flattened dense weight."""
    values: Tensor
    """``(active,)``."""
    values_gradient: Tensor | None
    """``(active,)``: gradient of the values, if there is one."""
    gradient_rows: Callable[[int, int], Tensor] | None
    """Dense gradient of the outputs [first, last), if the method asked for it."""
    learning_rate_ratio: float
    """Learning rate of this weight's group over its initial one."""
    budget: int
    """Number of active weights that the training began with."""
    grid: BlockGrid | None = None
    """The blocks that move as a whole, if any do."""
    layout: Layout = PLAIN
    """Which axes of the weight are units and inputs."""

    @property
    def num_active(self) -> int:
        """Number of active weights."""
        return len(self.positions)

    @property
    def weight(self) -> Tensor:
        """The dense weight."""
        return self._dense_rows(0, self.shape[0])

    @property
    def mask(self) -> Tensor:
        """bool, of the dense weight's shape."""
        mask = torch.zeros(math.prod(self.shape), dtype=torch.bool)
        return mask.index_fill_(0, self.positions, True).view(self.shape)

    @property
    def gradient(self) -> Tensor | None:
        """The dense gradient, if the method asked for it."""
        return None if self.gradient_rows is None else self.gradient_rows(0, self.shape[0])

    def replace(self, mask: Tensor) -> Tensor:
        """The positions of a new mask."""
        return mask.view(-1).nonzero().squeeze(1)

    def begin(self, swap: Swap, *, generator: torch.Generator, gradient_name: str) -> Tensor:
        """Exchange as :func:`sparseflow.drop_and_grow` without dense scores: only the best candidates so far are kept.

        Ties and counts as there. The scores of about a sixteenth of the layer are in memory at a time; random ones are
        drawn in the same order as for the whole layer.

        Returns: the new positions, int64, ascending.

        Raises:
            ValueError: if a score that matters, or any gradient, is NaN or infinite.

        >>> from sparseflow.methods.scores import gradient_magnitude, magnitude
        >>> w, g = torch.tensor([3.0, 1.0, 2.0]), torch.tensor([[0.0, 0.2, 0.0, 0.1, 0.9]])
        >>> layer = StoredLayer("w", (1, 5), torch.tensor([0, 1, 2]), w, None, lambda a, b: g[a:b], 1.0, 3)
        >>> swap = Swap(1, 1, drop_score=magnitude, grow_score=gradient_magnitude)
        >>> layer.begin(swap, generator=torch.Generator(), gradient_name="the gradient")
        tensor([0, 2, 4])
        """
        if self.gradient_rows is not None and self.values_gradient is not None:
            check_finite(self.values_gradient, name=gradient_name)
        grid = self.grid or BlockGrid(SINGLE, self.shape)
        held, values_score = self.positions, swap.drop_score(self.values, self.values_gradient, generator=generator)
        if self.grid is not None:
            blocks = StoredBlocks(grid, self.positions)
            held, values_score = blocks.numbers, blocks.sums(values_score)
        num_drop, num_grow = swap.num_drop // grid.size, swap.num_grow // grid.size
        survivors = held[topk_mask(values_score, len(held) - num_drop)]
        excluded = survivors if swap.regrow else held
        outputs, (_, columns) = grid.block.outputs, row_and_column_count(grid)
        best, best_scores = held[:0], None
        for first, last in row_parts(self.shape, together=outputs):
            gradient = None
            if self.gradient_rows is not None:
                gradient = self.gradient_rows(first, last)
                check_finite(gradient, name=gradient_name)
            scores = swap.grow_score(self._dense_rows(first, last), gradient, generator=generator)
            if self.grid is not None:
                scores = BlockGrid(grid.block, (last - first, *self.shape[1:])).sums(scores)
            scores = scores.reshape(-1)
            begin = first // outputs * columns
            taken = excluded[_span(excluded, begin, begin + len(scores))]
            candidates = torch.ones(len(scores), dtype=torch.bool).index_fill_(0, taken - begin, False)
            found = topk_mask(scores, min(num_grow, len(scores) - len(taken)), among=candidates)
            found = found.nonzero().squeeze(1)
            best = torch.cat([best, found + begin])
            best_scores = scores[found] if best_scores is None else torch.cat([best_scores, scores[found]])
            if len(best) > num_grow:
                # Positions ascend, so ties still go to the lowest.
                winners = topk_mask(best_scores, num_grow)
                best, best_scores = best[winners], best_scores[winners]
        new = torch.cat([survivors, best]).sort().values
        return new if self.grid is None else positions_of(grid, new)

    def _dense_rows(self, first: int, last: int) -> Tensor:
        row_size = math.prod(self.shape[1:])
        held = _span(self.positions, first * row_size, last * row_size)
        weight = torch.zeros((last - first) * row_size, dtype=self.values.dtype)
        weight[self.positions[held] - first * row_size] = self.values[held]
        return weight.view(last - first, *self.shape[1:])


def _span(positions: Tensor, begin: int, end: int) -> slice:
    """The part of ascending positions that is in [begin, end)."""
    return slice(*(int(torch.searchsorted(positions, edge)) for edge in (begin, end)))


def check_positions(stored: Mapping[str, StoredWeight], masks: Masks) -> None:
    """Check that weights that are stored alone are where the masks say.

    Raises:
        ValueError: naming the first that is elsewhere.
    """
    for name, weight in stored.items():
        if not torch.equal(masks[name].cpu(), weight.mask()):
            raise ValueError(
                f"the mask of {name!r} is not where the sparse layer has its weights. Convert the model with these "
                "masks, or load the model's state before the Sparsifier's."
            )


def move_(weight: StoredWeight, positions: Tensor, optimizer: torch.optim.Optimizer | None) -> None:
    """Give a weight other positions: what stays keeps its value, gradient and state, what is new starts fresh.

    ``positions`` are int64, ascending; the parameter stays the same object. ``optimizer`` steps it, if one does.
    """
    before, parameter = weight.positions(), weight.values
    place = torch.searchsorted(before, positions).clamp_(max=max(0, len(before) - 1))
    stays = before[place] == positions if len(before) else torch.zeros(len(positions), dtype=torch.bool)
    source = place[stays]

    def moved(tensor: Tensor, fresh: float = 0) -> Tensor:
        return torch.full((len(positions),), fresh, dtype=tensor.dtype).masked_scatter_(stays, tensor[source])

    gradient, states = parameter.grad, [] if optimizer is None else weight_states(optimizer, parameter)
    values = moved(parameter.detach())
    if len(positions) == len(before):
        # In place: others, such as a reducer's buckets, may hold these tensors.
        if gradient is not None:
            gradient.copy_(moved(gradient))
        for state in states:
            state.tensor.copy_(moved(state.tensor, state.fresh))
        parameter.data.copy_(values)
    else:
        replace_values_(parameter, values)
        parameter.grad = None if gradient is None else moved(gradient)
        for state in states:
            state.tensor.data = moved(state.tensor, state.fresh)
    weight.move_(positions)


def replace_values_(parameter: nn.Parameter, values: Tensor) -> None:
    """Give a parameter a tensor of its dtype and of any length; its gradient goes, the object stays.

    As long as a loss of an earlier step lives, so does the node of its graph that takes this gradient, and the next
    graph would meet the old length there. torch drops that node where the dtype changes, but not where the shape does.

    >>> weight = nn.Parameter(torch.ones(3))
    >>> loss = weight.sum()
    >>> replace_values_(weight, torch.ones(2))
    >>> weight.sum().backward()
    >>> weight.grad
    tensor([1., 1.])
    """
    parameter.grad = None
    parameter.data = values.new_empty(0, dtype=torch.bfloat16 if values.dtype != torch.bfloat16 else torch.float32)
    parameter.data = values


def check_can_move(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Check that weights that are stored alone can change places.

    Raises:
        ValueError: under LBFGS, under an optimizer whose state depends on where values are stored, and under
            ``DistributedDataParallel``.
    """
    if isinstance(optimizer, torch.optim.LBFGS):
        raise ValueError(
            "LBFGS remembers directions over all weights together, and active weights that are stored alone move. "
            "Use Static() or another optimizer, or keep the model masked."
        )
    held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    for weight in stored_weights(model).values():
        found = findings(optimizer, weight.values, switches_of(optimizer, weight.values))
        if id(weight.values) in held and (found.error is not None or found.left_alone):
            what = f"({found.error})" if found.error else ", ".join(map(name_of, found.left_alone))
            raise ValueError(
                f"{type(optimizer).__name__} keeps state {what} that cannot follow active weights that are stored "
                "alone to other places. Use Static() or another optimizer, or keep the model masked."
            )
    if isinstance(model, nn.parallel.DistributedDataParallel):
        raise ValueError(
            "under DistributedDataParallel masks move on masked weights only: gradients that are reduced over all "
            "ranks decide what grows, and sparse layers have those of active weights. Keep the model masked, or use "
            "Static()."
        )
