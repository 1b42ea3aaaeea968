"""Allocations: the sparsity of each layer, given the sparsity of all layers together."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Protocol

from sparseflow._checks import check_sparsity

Shapes = Mapping[str, Sequence[int]]


class Allocation(Protocol):
    """A function that gives each layer a sparsity, from the shapes of all and their sparsity together."""

    def __call__(
        self, shapes: Shapes, sparsity: float, *, overrides: Mapping[str, float] | None = None
    ) -> dict[str, float]:
        """Sparsity of each layer, by name."""
        ...


def uniform(shapes: Shapes, sparsity: float, *, overrides: Mapping[str, float] | None = None) -> dict[str, float]:
    r"""Every layer gets the same sparsity: :math:`S_l = S`.

    Args:
        shapes: Layer name -> weight shape.
        sparsity: ``S``, fraction of zeros in [0, 1).
        overrides: Layers with a sparsity of their own; the others keep ``S``.

    Raises:
        ValueError: if ``sparsity`` leaves less than one weight per layer, or an override names no layer.

    Reference: Evci et al. (2022), ResNet-50 and MNIST experiments.

    >>> uniform({"a": (4, 4), "b": (2, 2)}, 0.5, overrides={"b": 0.0})
    {'a': 0.5, 'b': 0.0}
    """
    overrides = _checked(shapes, sparsity, overrides)
    return {name: overrides.get(name, sparsity) for name in shapes}


def er(
    shapes: Shapes, sparsity: float, *, power: float = 1.0, overrides: Mapping[str, float] | None = None
) -> dict[str, float]:
    r"""Erdős-Rényi: density grows with units over connections, kernel ignored.

    .. math:: 1 - S_l = \epsilon \left(\frac{n_{in} + n_{out}}{n_{in}\, n_{out}}\right)^{p}

    Arguments and errors as :func:`erk`.

    Reference: Mocanu et al. (2018), *Scalable training of artificial neural networks with adaptive sparse
    connectivity*.

    >>> {k: round(v, 3) for k, v in er({"a": (10, 10), "b": (100, 100)}, 0.9).items()}
    {'a': 0.082, 'b': 0.908}
    """
    raw = {name: (sum(shape[:2]) / math.prod(shape[:2])) ** power for name, shape in shapes.items()}
    return _solve(shapes, sparsity, raw, _checked(shapes, sparsity, overrides))


def erk(
    shapes: Shapes, sparsity: float, *, power: float = 1.0, overrides: Mapping[str, float] | None = None
) -> dict[str, float]:
    r"""Erdős-Rényi with kernels: small layers and large kernels stay denser.

    .. math:: 1 - S_l = \epsilon \left(\frac{\sum_d \mathrm{shape}_{l,d}}{\prod_d \mathrm{shape}_{l,d}}\right)^{p}

    with :math:`\epsilon` such that the active weights of all layers together are :math:`(1 - S)` of them. Where a
    density would pass 1, all layers that attain the largest one become dense and :math:`\epsilon` is solved again.

    Args:
        shapes: Layer name -> weight shape.
        sparsity: ``S``, fraction of zeros over the layers without override, in [0, 1).
        power: ``p``; 1 as in the paper's code.
        overrides: Layers with a sparsity of their own; they are left out of the sums.

    Raises:
        ValueError: if ``sparsity`` leaves less than one weight per layer, or an override names no layer.

    Reference: Evci et al. (2020), *Rigging the Lottery*.

    >>> {k: round(v, 3) for k, v in erk({"a": (8, 3, 3, 3), "b": (64, 64, 3, 3)}, 0.9).items()}
    {'a': 0.0, 'b': 0.905}
    """
    raw = {name: (sum(shape) / math.prod(shape)) ** power for name, shape in shapes.items()}
    return _solve(shapes, sparsity, raw, _checked(shapes, sparsity, overrides))


#: Name -> allocation, for ``allocation=`` arguments.
ALLOCATIONS: dict[str, Allocation] = {"uniform": uniform, "er": er, "erk": erk}


def _checked(shapes: Shapes, sparsity: float, overrides: Mapping[str, float] | None) -> Mapping[str, float]:
    check_sparsity(sparsity)
    overrides = overrides or {}
    for name, value in overrides.items():
        check_sparsity(value, name=f"overrides[{name!r}]")
        if name not in shapes:
            raise ValueError(f"overrides has {name!r}, which is no layer. Layers: {', '.join(shapes)}.")
    free = [math.prod(shape) for name, shape in shapes.items() if name not in overrides]
    total = sum(free)
    if free and round(total * (1 - sparsity), 6) < len(free):
        digits = 10 ** (len(str(total)) + 1)  # a tenth of a weight; rounded down, so that what is printed is feasible
        feasible = (total - len(free)) * digits // total / digits
        raise ValueError(
            f"sparsity {sparsity} leaves {total * (1 - sparsity):.3g} of {total} weights for {len(free)} layers, and "
            f"each needs at least one. The largest feasible sparsity is {feasible}."
        )
    return overrides


def _solve(
    shapes: Shapes, sparsity: float, raw: Mapping[str, float], overrides: Mapping[str, float]
) -> dict[str, float]:
    if not all(0 < share < math.inf for share in raw.values()):
        raise ValueError("power= is too large, or no number: the layers' shares must be positive and finite.")
    sizes = {name: math.prod(shape) for name, shape in shapes.items() if name not in overrides}
    dense: set[str] = set()
    epsilon = 0.0
    while len(dense) < len(sizes):
        budget = sum(n * ((0 if name in dense else 1) - sparsity) for name, n in sizes.items())
        epsilon = budget / sum(raw[name] * n for name, n in sizes.items() if name not in dense)
        largest = max(raw[name] for name in sizes if name not in dense)
        # The slack keeps a density of exactly 1 (sparsity 0) from being chased by rounding.
        if epsilon * largest <= 1 + 1e-12:
            break
        dense |= {name for name in sizes if name not in dense and raw[name] == largest}
    solved = {name: 0.0 if name in dense else max(0.0, 1 - epsilon * raw[name]) for name in sizes}
    return {name: overrides[name] if name in overrides else solved[name] for name in shapes}
