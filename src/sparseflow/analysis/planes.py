"""The loss on the plane through three solutions."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparseflow.analysis.at_weights import Progress, Recalibration, measure_at, weights_of
from sparseflow.analysis.distances import named_parameters
from sparseflow.boundary import checked
from sparseflow.types import Batches, LossFn


@dataclass(frozen=True)
class Plane:
    """Two orthonormal directions in weight space and their origin; all float64."""

    origin: Mapping[str, Tensor]
    """Parameter name -> values, those of the first solution."""
    x_axis: Mapping[str, Tensor]
    """Unit vector from the origin towards the second solution."""
    y_axis: Mapping[str, Tensor]
    """Unit vector orthogonal to it, on the side of the third."""
    points: tuple[tuple[float, float], ...]
    """Coordinates of the three solutions; the first is (0, 0)."""

    def at(self, x: float, y: float) -> dict[str, Tensor]:
        r"""The weights at the point ``(x, y)``: :math:`o + x\,u + y\,v`, in float64.

        >>> o, a, b = ({"w": torch.tensor(values)} for values in ([0.0, 0.0], [2.0, 0.0], [1.0, 1.0]))
        >>> plane(o, a, b).at(0.5, 2.0)["w"]
        tensor([0.5000, 2.0000], dtype=torch.float64)
        """
        return {name: o + x * self.x_axis[name] + y * self.y_axis[name] for name, o in self.origin.items()}


@dataclass(frozen=True)
class PlaneLosses:
    """Loss and accuracy on a grid of a plane."""

    xs: tuple[float, ...]
    ys: tuple[float, ...]
    losses: Tensor
    """``(len(ys), len(xs))``, float64."""
    accuracies: Tensor
    """``(len(ys), len(xs))``, in [0, 1]; NaN where the targets are no classes."""


@checked()
def plane(
    origin: Mapping[str, Tensor],
    a: Mapping[str, Tensor],
    b: Mapping[str, Tensor],
    *,
    names: Sequence[str] | None = None,
) -> Plane:
    r"""The plane through three solutions, with an orthonormal basis by Gram-Schmidt.

    .. math:: u = \frac{a - o}{\|a - o\|}, \qquad
              v \propto (b - o) - \langle b - o, u \rangle u, \qquad \|v\| = 1

    The solutions are then at :math:`(0, 0)`, :math:`(\|a - o\|, 0)` and
    :math:`(\langle b - o, u \rangle, \langle b - o, v \rangle)`: distances on the plane are distances in weight space.
    Solutions on one mask span a plane on that mask.

    Args:
        origin: Parameter name -> tensor, such as a state dict without buffers.
        a: A second solution.
        b: A third.
        names: The entries that count; default all. ``list(sparseflow.gradients.trainable(model))`` leaves out buffers.

    Raises:
        ValueError: if the solutions have different entries or shapes, an entry is no parameter, or they are on a line.

    Reference: Garipov et al. (2018), *Loss Surfaces, Mode Connectivity, and Fast Ensembling of DNNs*, appendix A.1.

    >>> o, a, b = ({"w": torch.tensor(values)} for values in ([0.0, 0.0], [2.0, 0.0], [1.0, 1.0]))
    >>> plane(o, a, b).points
    ((0.0, 0.0), (2.0, 0.0), (1.0, 1.0))
    """
    o, to_a, to_b = ({n: v.double() for n, v in named_parameters(state, names).items()} for state in (origin, a, b))
    for label, other in (("a", to_a), ("b", to_b)):
        if {name: value.shape for name, value in other.items()} != {name: value.shape for name, value in o.items()}:
            raise ValueError(f"{label} has other entries or shapes than origin; give three states of one model.")
    u = {name: to_a[name] - value for name, value in o.items()}
    w = {name: to_b[name] - value for name, value in o.items()}
    length, reach = math.sqrt(_dot(u, u)), math.sqrt(_dot(w, w))
    if length:
        u = {name: value / length for name, value in u.items()}
    across = _dot(w, u)
    v = {name: value - across * u[name] for name, value in w.items()}
    # Once more, for what rounding left of u.
    rest = _dot(v, u)
    v = {name: value - rest * u[name] for name, value in v.items()}
    height = math.sqrt(_dot(v, v))
    if not height > 1e-12 * reach or not length:
        raise ValueError("origin, a and b lie on one line and span no plane; use linear_path() for a line.")
    v = {name: value / height for name, value in v.items()}
    return Plane(o, u, v, ((0.0, 0.0), (length, 0.0), (across, height)))


def _dot(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> float:
    return sum(float((value * b[name]).sum()) for name, value in a.items())


def plane_losses(
    model: nn.Module,
    plane: Plane,
    xs: Sequence[float],
    ys: Sequence[float],
    batches: Batches,
    *,
    loss_fn: LossFn | None = F.cross_entropy,
    recalibrate: Recalibration = None,
    evaluate: Callable[[nn.Module], float] | None = None,
    progress: Progress | None = None,
) -> PlaneLosses:
    """Loss and accuracy at every point of a grid on a plane, in eval mode and without side effects.

    Args:
        model: The network; it comes back bit for bit.
        plane: From :func:`plane`, over states of this model.
        xs: Coordinates along the first direction.
        ys: Coordinates along the second.

    The others as :func:`sparseflow.analysis.linear_path`.

    Raises:
        ValueError: as :func:`sparseflow.analysis.landscape.linear_path`.

    >>> layer = nn.Linear(2, 1, bias=False)
    >>> o, a, b = ({"weight": torch.tensor([w])} for w in ([0.0, 0.0], [1.0, 0.0], [0.0, 1.0]))
    >>> data = [(torch.ones(1, 2), torch.zeros(1))]
    >>> plane_losses(layer, plane(o, a, b), [0, 1], [0, 5], data, loss_fn=lambda y, t: y.sum()).losses.tolist()
    [[0.0, 1.0], [5.0, 6.0]]
    """
    weights_of(model, plane.origin, name="plane.origin")
    grid = [(float(x), float(y)) for y in ys for x in xs]
    found = measure_at(
        model, lambda point: plane.at(*point), grid, batches,
        loss_fn=loss_fn, recalibrate=recalibrate, evaluate=evaluate, progress=progress,
    )  # fmt: skip
    table = torch.tensor(found, dtype=torch.float64).reshape(len(ys), len(xs), 2)
    return PlaneLosses(tuple(map(float, xs)), tuple(map(float, ys)), table[..., 0], table[..., 1])
