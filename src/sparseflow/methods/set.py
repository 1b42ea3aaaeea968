"""SET: drop by magnitude, grow at random."""

from __future__ import annotations

from typing import Unpack

from sparseflow.methods.drop_grow import DropGrow, Options
from sparseflow.methods.scores import magnitude, uniform_random


def SET(**options: Unpack[Options]) -> DropGrow:  # noqa: N802 - the field's name
    """Sparse evolutionary training: the smallest weights go, random ones come.

    Arguments and errors as :func:`sparseflow.RigL`, but for ``replaces_step``. The authors' ImageNet code begins with
    ``first_update=1``; with ``regrow``, just-dropped weights may be drawn again at once.

    Reference: Mocanu et al. (2018), *Scalable training of artificial neural networks with adaptive sparse
    connectivity inspired by network science*.

    >>> SET(update_every=500).due(500)
    True
    """
    return DropGrow(drop_score=magnitude, grow_score=uniform_random, **options)
