"""Blocks: weights that are active together, a few neighbouring outputs times a few neighbouring inputs."""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from sparseflow._fast import count_true, row_sums
from sparseflow.masks.fans import PLAIN, Layout, matrices, matrices_shape, weight_of
from sparseflow.masks.select import maskable, prunable


class Block(NamedTuple):
    """The size of a block; ``(1, 1)`` are single weights."""

    outputs: int
    inputs: int


#: A block for all weights, or name pattern -> block, of which the first that matches counts.
BlockLike = tuple[int, int] | Mapping[str, tuple[int, int]]

SINGLE = Block(1, 1)


@dataclass(frozen=True)
class BlockGrid:
    r"""The blocks of one weight: each is active, or inactive, as a whole.

    The weight is seen as a matrix of outputs by everything else (inputs and kernel positions), or as several of them,
    as groups, experts and gates have; its blocks are R neighbouring outputs times C neighbouring columns. One entry
    for each block makes a tensor ``(matrices, outputs / R, columns / C)``, on which whatever chooses blocks works.

    Args:
        block: R and C.
        shape: Of the weight; both must divide it, see :func:`grids`.
        layout: Which of its axes are outputs and inputs.

    >>> grid = BlockGrid(Block(2, 1), (4, 2))
    >>> grid.sums(torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.0, 3.0], [0.0, 0.5]]))
    tensor([[[3.0000, 0.0000],
             [0.0000, 3.5000]]])
    """

    block: Block
    shape: tuple[int, ...]
    layout: Layout = PLAIN

    @property
    def size(self) -> int:
        """Weights of a block."""
        return math.prod(self.block)

    @property
    def grid_shape(self) -> tuple[int, int, int]:
        """Matrices, rows of blocks and columns of blocks."""
        count, outputs, columns = matrices_shape(self.shape, self.layout)
        return count, outputs // self.block.outputs, columns // self.block.inputs

    def sums(self, scores: Tensor, *, magnitude: bool = False) -> Tensor:
        """The score of each block: the sum of its weights' scores.

        Added up in one order on every device: over the outputs of a column, then over columns. Half precision is
        summed in float32, where fewer blocks tie.

        Args:
            scores: Of the weight's shape.
            magnitude: Sum absolute values.
        """
        outputs, inputs = self.block
        matrix = matrices(scores if scores.dtype.itemsize > 2 else scores.float(), self.layout)
        rows = row_sums(matrix, outputs, magnitude=magnitude)
        if rows is None:
            rows = _fold(matrix.unflatten(1, (-1, outputs)), axis=2, magnitude=magnitude)
        return rows if inputs == 1 else _fold(rows.unflatten(2, (-1, inputs)), axis=3)

    def of(self, mask: Tensor) -> Tensor:
        """Which blocks are active, of a mask that is made of them; a tensor of its own."""
        return self._tiles(mask)[:, :, 0, :, 0].clone(memory_format=torch.contiguous_format)

    def spread(self, blocks: Tensor) -> Tensor:
        """The mask of the weight's shape in which these blocks are active."""
        count, outputs, columns = matrices_shape(self.shape, self.layout)
        rows = blocks[..., None].expand(-1, -1, -1, self.block.inputs).reshape(count, -1, 1, columns)
        matrix = rows.expand(-1, -1, self.block.outputs, -1).reshape(count, outputs, columns)
        return weight_of(matrix, self.shape, self.layout)

    def fits(self, mask: Tensor) -> bool:
        """Whether a mask is made of these blocks.

        >>> grid = BlockGrid(Block(2, 1), (2, 2))
        >>> [grid.fits(torch.tensor(mask)) for mask in ([[True, False], [True, False]], [[True, False], [False, True]])]
        [True, False]
        """
        return not count_true(self.spread(self.of(mask)) ^ mask)  # torch.equal compares byte by byte

    def _tiles(self, tensor: Tensor) -> Tensor:
        """View as (matrices, block rows, R, block columns, C)."""
        outputs, inputs = self.block
        tiles: Tensor = matrices(tensor, self.layout).unflatten(2, (-1, inputs)).unflatten(1, (-1, outputs))
        return tiles


def _fold(tensor: Tensor, *, axis: int, magnitude: bool = False) -> Tensor:
    """Add up a short axis from its first entry to its last, without a copy of all absolute values."""
    first, *others = tensor.unbind(axis)
    total: Tensor = first.abs() if magnitude else first.clone()
    part = torch.empty_like(total)
    for other in others:
        total += torch.abs(other, out=part) if magnitude else other
    return total


def checked_block(block: BlockLike) -> Block | dict[str, Block]:
    """A block, or one for each name pattern, of whole numbers from 1 on.

    Raises:
        TypeError: if it is no pair of whole numbers, nor a mapping of such.
        ValueError: if one is below 1.

    >>> checked_block((4, 1))
    Block(outputs=4, inputs=1)
    >>> checked_block(4)
    Traceback (most recent call last):
    TypeError: block must be two whole numbers, outputs and inputs, such as (4, 1), got 4.
    """
    if isinstance(block, Mapping):
        if odd := [pattern for pattern in block if not isinstance(pattern, str)]:
            raise TypeError(f"the keys of block must be names of weights or patterns of them, got {odd[0]!r}.")
        return {pattern: _pair(each, name=f"block[{pattern!r}]") for pattern, each in block.items()}
    return _pair(block, name="block")


def block_sizes(text: str) -> Block:
    """A block as it is typed: outputs and inputs, or outputs alone.

    Raises:
        ValueError: if they are no positive whole numbers.

    >>> block_sizes("4x1"), block_sizes("4")
    (Block(outputs=4, inputs=1), Block(outputs=4, inputs=1))
    """
    parts = text.split("x")
    if len(parts) not in (1, 2) or not all(part.isdecimal() and int(part) for part in parts):
        raise ValueError(f"block must be outputs x inputs, such as 4x1, got {text!r}.")
    return Block(int(parts[0]), int(parts[-1]) if len(parts) == 2 else 1)


def fitting(block: tuple[int, int], model: nn.Module, *, exclude: Iterable[str] = ()) -> dict[str, tuple[int, int]]:
    """Name of each prunable weight -> the block where it divides the weight, else single weights.

    Args:
        block: Outputs and inputs.
        model: The network.
        exclude: Names of weights that have no mask.

    >>> fitting((4, 1), nn.Sequential(nn.Linear(3, 8), nn.Linear(8, 10)))
    {'0.weight': (4, 1), '1.weight': (1, 1)}
    """
    found = {}
    for name in prunable(model, exclude=exclude):
        try:
            grids_of(model, block, [name])
            found[name] = block
        except ValueError:
            found[name] = (1, 1)
    return found


def _pair(block: object, *, name: str) -> Block:
    needed = "two whole numbers, outputs and inputs, such as (4, 1)"
    if (
        not isinstance(block, tuple | list)
        or len(block) != 2
        or not all(isinstance(size, int) and not isinstance(size, bool) for size in block)
    ):
        raise TypeError(f"{name} must be {needed}, got {block!r}.")
    if min(block) < 1:
        raise ValueError(f"{name} must be {needed}, each at least 1, got {block!r}. (1, 1) are single weights.")
    return Block(*block)


def block_of(block: BlockLike, name: str) -> Block:
    """The block of one weight.

    >>> block_of({"head.*": (1, 1), "*": (4, 1)}, "head.weight")
    Block(outputs=1, inputs=1)
    """
    found = checked_block(block)
    if isinstance(found, Block):
        return found
    return next((each for pattern, each in found.items() if fnmatch.fnmatchcase(name, pattern)), SINGLE)


def grids(
    block: BlockLike, shapes: Mapping[str, tuple[int, ...]], layouts: Mapping[str, Layout]
) -> dict[str, BlockGrid]:
    """The grid of each weight whose connections are no single weights.

    Args:
        block: As given by a user.
        shapes: Parameter name -> shape of the weight.
        layouts: Parameter name -> its axes.

    Raises:
        TypeError, ValueError: if a block does not divide its weight, a pattern matches none, or ``block`` is no block.

    >>> grids((4, 1), {"head": (10, 64)}, {"head": PLAIN})
    Traceback (most recent call last):
    ValueError: blocks of 4 outputs x 1 inputs do not divide 'head' of shape (10, 64), which has 10 outputs x 64 ...
    """
    found = checked_block(block)
    if not isinstance(found, Block):
        for pattern in found:
            if not fnmatch.filter(shapes, pattern):
                raise ValueError(f"block has {pattern!r}, which matches no weight. They are: {', '.join(shapes)}.")
    made: dict[str, BlockGrid] = {}
    unfit: dict[str, Block] = {}
    for name, shape in shapes.items():
        if (own := block_of(found, name)) == SINGLE:
            continue
        _, outputs, columns = matrices_shape(shape, layouts[name])
        if outputs % own.outputs or columns % own.inputs:
            unfit[name] = own
        made[name] = BlockGrid(own, tuple(shape), layouts[name])
    if unfit:
        raise ValueError(_does_not_divide(unfit, found, shapes, layouts))
    return made


def _does_not_divide(
    unfit: Mapping[str, Block],
    given: Block | Mapping[str, Block],
    shapes: Mapping[str, tuple[int, ...]],
    layouts: Mapping[str, Layout],
) -> str:
    name, block = next(iter(unfit.items()))
    count, outputs, columns = matrices_shape(shapes[name], layouts[name])
    each = f" in each of {count} groups" if count > 1 else ""
    more = f" (nor {', '.join(list(unfit)[1:])})" if len(unfit) > 1 else ""
    others = {"*": given} if isinstance(given, Block) else given
    single = {**dict.fromkeys(unfit, SINGLE), **{pattern: b for pattern, b in others.items() if pattern not in unfit}}
    written = ", ".join(f"{pattern!r}: {tuple(b)}" for pattern, b in single.items())
    return (
        f"blocks of {block.outputs} outputs x {block.inputs} inputs do not divide {name!r} of shape "
        f"{tuple(shapes[name])}, which has {outputs} outputs x {columns} inputs{each}{more}. To mask single weights "
        f"there write block={{{written}}}, to leave layers dense exclude={list(unfit)}."
    )


def grids_of(model: nn.Module, block: BlockLike, names: Iterable[str]) -> dict[str, BlockGrid]:
    """As :func:`grids`, of these weights of a model."""
    if checked_block(block) == SINGLE:
        return {}
    known = maskable(model)
    if strange := [name for name in names if name not in known]:
        raise ValueError(f"{strange[0]!r} is no weight of the model that can be masked. They are: {', '.join(known)}.")
    chosen = {name: known[name] for name in names}
    shapes = {name: tuple(weight.parameter.shape) for name, weight in chosen.items()}
    return grids(block, shapes, {name: weight.layout or PLAIN for name, weight in chosen.items()})


def grids_for(block: BlockLike, model: nn.Module | None, names: Iterable[str]) -> dict[str, BlockGrid]:
    """As :func:`grids_of`, where the model is only needed for blocks.

    Raises:
        ValueError: if it is needed and not there.
    """
    if checked_block(block) == SINGLE:
        return {}
    if model is None:
        raise ValueError("block= needs model=, whose layers say which axis of a weight holds the outputs.")
    return grids_of(model, block, names)


def check_one_each(sizes: Mapping[str, int], sparsities: Mapping[str, float], block_sizes: Mapping[str, int]) -> None:
    """Check that sparsities leave one block for each layer.

    Args:
        sizes: Layer name -> number of weights.
        sparsities: Layer name -> its fraction of zeros.
        block_sizes: Layer name -> weights of a block.

    Raises:
        ValueError: if they leave less.
    """
    left, least = sum(size * (1 - sparsities[name]) for name, size in sizes.items()), sum(block_sizes.values())
    if least > len(sizes) and round(left, 6) < least:
        raise ValueError(
            f"the sparsity leaves {left:.3g} of {sum(sizes.values())} weights for {len(sizes)} layers, and each needs "
            f"at least one block, {least} weights together. Lower it, or take smaller blocks."
        )


class LostBlocksWarning(UserWarning):
    """A method is about to move single weights of masks that are made of blocks."""


def lost_blocks(masks: Mapping[str, Tensor], layouts: Mapping[str, Layout]) -> list[str]:
    """Names of the masks, whole ones, that are made of blocks of four outputs; none where all or nothing is active.

    >>> mask = torch.rand(3, 100) < 0.2
    >>> lost_blocks({"a": mask.repeat_interleave(4, 0), "b": torch.rand(12, 100) < 0.2}, {"a": PLAIN, "b": PLAIN})
    ['a']
    """
    found = []
    for name, mask in masks.items():
        _, outputs, _ = matrices_shape(tuple(mask.shape), layouts[name])
        if outputs % 4 or outputs == 4 or mask.is_meta:  # with one row of blocks a few weights may be alike by chance
            continue
        if 0 < count_true(mask) < mask.numel() and BlockGrid(Block(4, 1), tuple(mask.shape), layouts[name]).fits(mask):
            found.append(name)
    return found


def check_made_of(grids: Mapping[str, BlockGrid], masks: Mapping[str, Tensor]) -> None:
    """Check that masks, whole ones, are made of blocks.

    Raises:
        ValueError: naming the first that is not.
    """
    for name, grid in grids.items():
        if not masks[name].is_meta and not grid.fits(masks[name]):
            outputs, inputs = grid.block
            raise ValueError(
                f"the mask of {name!r} is not made of blocks of {outputs} outputs x {inputs} inputs. Make masks with "
                f"the method's block=: sparseflow.random_masks(model, 0.95, block=({outputs}, {inputs}), seed=0), "
                f"or give the method block={{{name!r}: (1, 1), ...}}, which moves single weights there."
            )
