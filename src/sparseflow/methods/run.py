"""What a method knows of the run around it: whether it fits the weights, when it ends, and what it has not reached.

A method may have ``check_start(shapes, active)``, ``check_layers(layers)``, ``unfinished(step, shapes, active)``,
``until``, and ``resets_momentum(step)``, which says whether optimizers forget their momentum once masks have changed;
one that leaves them out is asked nothing. One with ``used(layer)`` and ``decay_of_unused(decay, share)`` trains weights
that the network does not use, see :class:`sparseflow.TopKAST`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from sparseflow.methods.base import Layer, Method

Shapes = Mapping[str, tuple[int, ...]]


def check_start(method: Method, shapes: Shapes, active: Mapping[str, int]) -> None:
    """Let a method look at the weights that it is given, when the Sparsifier is made.

    Args:
        shapes: Parameter name -> shape of the weight.
        active: Parameter name -> number of active weights.

    Raises:
        ValueError: if the method names other weights, or cannot do there what it promises.

    >>> from sparseflow.methods import GMP
    >>> check_start(GMP(sparsity={"wieght": 0.5}, begin=1, end=9), {"weight": (4, 4)}, {"weight": 16})
    Traceback (most recent call last):
    ValueError: sparsity has no entry for weight and has 'wieght', which is no masked weight; ...
    """
    if (check := getattr(method, "check_start", None)) is not None:
        check(shapes, active)


def check_layers(method: Method, layers: Iterable[Layer]) -> None:
    """Let a method look at the masks that it is given, when the Sparsifier is made.

    Args:
        layers: As an update shows them, without gradients; made as they are asked for.

    Raises:
        ValueError: if the method cannot do there what it promises.

    >>> from sparseflow.methods import RigL
    >>> check_layers(RigL(), [])
    """
    if (check := getattr(method, "check_layers", None)) is not None:
        check(layers)


def unfinished(method: Method, step: int, shapes: Shapes, active: Mapping[str, int]) -> str:
    """What a method has not reached, should the run end now; empty where nothing is left to do.

    The same text at every step before the end, so that Python shows a warning of it once.

    Args:
        step: Optimizer steps done.
        shapes, active: As :func:`check_start`.

    >>> from sparseflow.methods import GMP
    >>> unfinished(GMP(sparsity=0.75, begin=10, end=90), 5, {"weight": (4, 4)}, {"weight": 16})
    'pruning has not come to its end, at step 90, with sparsity 0.75. Train until then, or give begin= and ...'
    """
    say = getattr(method, "unfinished", None)
    return "" if say is None else str(say(step, shapes, active))


class UnfinishedWarning(UserWarning):
    """A method cannot change anything, or a run seems to end before it has done what was asked."""


class OpenEndWarning(UserWarning):
    """Masks change until the last step of a run, with weights that are never trained."""
