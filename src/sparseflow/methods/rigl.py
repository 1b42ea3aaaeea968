"""RigL and its inverted control: drop by magnitude, grow by the dense gradient."""

from __future__ import annotations

from dataclasses import replace
from typing import Unpack

from sparseflow.methods.drop_grow import DropGrow, Options
from sparseflow.methods.scores import gradient_magnitude, magnitude, negative_gradient_magnitude


def RigL(*, replaces_step: bool = False, **options: Unpack[Options]) -> DropGrow:  # noqa: N802 - the field's name
    """The rigged lottery: the smallest weights go, those with the largest dense gradient come.

    The gradient is that of the optimizer step just taken: accumulated over micro-batches, reduced over processes. Give
    ``Sparsifier(..., gradient_fn=...)`` to take it elsewhere, on held-out examples and after the step as the paper's
    MNIST code does.

    Args:
        drop_fraction: Share of a layer's active weights swapped at an update, at step 0; default 0.3 as in the paper
            (VGG16: 0.1).
        update_every: Optimizer steps between updates; default 100 as in the authors' configs (paper: 500 in Table 4).
        total_steps: Optimizer steps of the whole run: masks then change in the first 75 % of them, as in the paper, and
            what grew last is trained.
        update_until: Last step of an update, instead (ImageNet: 25,000 of 32,000). Without either updates never stop,
            as on MNIST, where the learning rate ends them; where nothing does there is a warning.
        first_update: Default ``update_every``; 0 as in the authors' ImageNet code, which needs ``replaces_step``.
        schedule: ``"learning_rate"``, the default (the paper's MNIST runs), ``"cosine"`` (ImageNet) or ``"constant"``.
        regrow: Whether just-dropped weights compete on equal terms; default ``True``.
        block: Blocks that move as a whole, such as ``(4, 1)``, as :func:`sparseflow.random_masks` made them; the
            smallest sums of magnitudes go, the largest sums of gradient magnitudes come. Default: single weights.
        replaces_step: Change masks instead of taking the optimizer step (the authors' ImageNet code).

    Raises:
        ValueError: as :class:`sparseflow.methods.DropGrow`.

    Reference: Evci et al. (2020), *Rigging the Lottery: Making All Tickets Winners*.

    >>> [step for step in range(601) if RigL(update_every=100, total_steps=600).due(step)]
    [100, 200, 300, 400]
    """
    return DropGrow(
        drop_score=magnitude, grow_score=gradient_magnitude, needs_gradient=True, replaces_step=replaces_step, **options
    )


def RigLInverted(*, replaces_step: bool = False, **options: Unpack[Options]) -> DropGrow:  # noqa: N802
    """RigL with its growth criterion reversed: the smallest gradients come. A control, not a method to use.

    Arguments and errors as :func:`RigL`.

    Reference: Evci et al. (2022), *Gradient Flow in Sparse Neural Networks and How Lottery Tickets Win*, section 4.2.

    >>> RigLInverted().grow_score is negative_gradient_magnitude
    True
    """
    return replace(RigL(replaces_step=replaces_step, **options), grow_score=negative_gradient_magnitude)
