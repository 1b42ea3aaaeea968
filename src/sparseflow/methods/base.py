"""The interface of a method: the layers that it looks at, and its requests for each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from sparseflow.masks.blocks import BlockGrid
from sparseflow.masks.fans import Layout
from sparseflow.methods.scores import ScoreFn


class Layer(Protocol):
    """A layer at a mask update, as a method sees it; the method changes nothing of it.

    A layer that stores its active weights alone makes its dense tensors anew each time they are asked for.
    """

    @property
    def name(self) -> str:
        """The weight's parameter name."""
        ...

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the weight."""
        ...

    @property
    def layout(self) -> Layout:
        """Which axes of the weight are units and inputs."""
        ...

    @property
    def num_active(self) -> int:
        """Number of active weights."""
        ...

    @property
    def budget(self) -> int:
        """Number of active weights that the training began with, which saved states keep."""
        ...

    @property
    def learning_rate_ratio(self) -> float:
        """Learning rate of this weight's group over the largest that it has had or announced."""
        ...

    @property
    def weight(self) -> Tensor:
        """The weight, zero where inactive."""
        ...

    @property
    def mask(self) -> Tensor:
        """bool, ``True`` where active."""
        ...

    @property
    def gradient(self) -> Tensor | None:
        """The dense gradient, if the method asked for it; that of active weights alone, if it asked for that."""
        ...

    @property
    def grid(self) -> BlockGrid | None:
        """The blocks that the method's ``block`` asks for; ``None`` where single weights move."""
        ...


class Swap(NamedTuple):
    """A request to exchange connections of a layer by :func:`sparseflow.drop_and_grow`.

    The Sparsifier carries it out, whether the layer is stored whole, in parts or as its active weights alone. Where the
    method has blocks, whole ones move: scores are summed over each, and counts rounded down.
    """

    num_drop: int
    """At most the active count."""
    num_grow: int
    """At most the number of candidates."""
    drop_score: ScoreFn
    """Among active weights those with the lowest scores go."""
    grow_score: ScoreFn
    """Among candidates those with the highest scores come."""
    regrow: bool = True
    """Whether just-dropped weights compete for growth."""


class Method(Protocol):
    """A rule by which masks change: the steps of its updates, the gradients it needs, and a request for each layer.

    It may also say what it knows of the run around it, see :mod:`sparseflow.methods.run`, and have a ``block``, as
    :func:`sparseflow.random_masks` takes it: its masks are then made of such blocks. One without ``needs_gradient``
    may set ``reads_active_gradient``: its scores are then given the gradient of active weights, which is there anyway.
    A class may inherit it, for the properties that are as they mostly are; any object with these names will do.
    """

    @property
    def needs_gradient(self) -> bool:
        """Whether an update looks at the dense gradient."""
        return False

    @property
    def gradient_decay(self) -> float:
        """Decay of the running mean of the dense gradient; 0 uses the current gradient alone."""
        return 0.0

    @property
    def replaces_step(self) -> bool:
        """Whether an update takes the place of the optimizer step instead of following it."""
        return False

    def due(self, step: int) -> bool:
        """Whether masks change once ``step`` optimizer steps are done."""
        ...

    def update(
        self, layers: Iterable[Layer], *, step: int, generator: torch.Generator
    ) -> Iterator[tuple[str, Swap | Tensor]]:
        """Yield for each layer, in turn, its name and a :class:`Swap` or its new mask.

        Args:
            layers: Made one by one as they are asked for, so that few of them are in memory at a time.
            step: Optimizer steps done.
            generator: For draws of the method's own; the scores of a :class:`Swap` are given the same one.
        """
        ...
