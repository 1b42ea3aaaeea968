"""SET: drop by magnitude, grow at random."""

from __future__ import annotations

from collections.abc import Callable

from sparseflow.methods.base import DropGrow
from sparseflow.methods.scores import magnitude, uniform_random


def SET(  # noqa: N802 - the field's name
    *,
    drop_fraction: float = 0.3,
    update_every: int = 100,
    update_until: int | None = None,
    first_update: int | None = None,
    schedule: str | Callable[..., float] = "learning_rate",
    regrow: bool = True,
) -> DropGrow:
    """Sparse evolutionary training: the smallest weights go, random ones come.

    Args:
        drop_fraction: Share of a layer's active weights swapped at an update, at step 0 (paper: 0.3).
        update_every: Optimizer steps between updates (paper: 500 in Table 4, 100 in the authors' configs).
        update_until: Last step of an update; ``None`` never stops, as on MNIST.
        first_update: Default ``update_every``; 1 as in the authors' ImageNet code.
        schedule: ``"learning_rate"`` (the paper's MNIST runs), ``"cosine"`` or ``"constant"``.
        regrow: Whether just-dropped weights may be drawn again at once.

    Reference: Mocanu et al. (2018), *Scalable training of artificial neural networks with adaptive sparse
    connectivity inspired by network science*.

    >>> SET(update_every=500).due(500)
    True
    """
    return DropGrow(
        drop_score=magnitude,
        grow_score=uniform_random,
        drop_fraction=drop_fraction,
        update_every=update_every,
        update_until=update_until,
        first_update=first_update,
        schedule=schedule,
        regrow=regrow,
    )
