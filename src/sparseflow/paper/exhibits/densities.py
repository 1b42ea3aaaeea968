"""Smoothed densities of stored eigenvalues, thin enough for a page."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator

from sparseflow.analysis.smoothing import spectral_density
from sparseflow.lab.page.evidence import Evidence, NotEnoughRunsError
from sparseflow.lab.page.panels import Curve, curve_legend, line_style, log_scale

#: Where a density is computed: closer than the kernels are wide.
GRID = 4000
#: Points that a density is drawn with.
POINTS = 500
#: The lowest density that is shown; the paper's axis ends there too.
FLOOR = 1e-6
#: Above the highest: all eigenvalues in one kernel of the smallest width give 126.
TOP = 500.0

#: How to read a density.
WHAT = (
    "The Hessian says how the loss bends: an eigenvalue is the curvature in one direction of weight space. A large "
    "positive one is a steep wall, a negative one a way down. A density says how many eigenvalues lie near each value; "
    "each is smoothed by a narrow bell. The vertical axis is logarithmic. "
)

Floats = npt.NDArray[np.float64]
#: Eigenvalues, ascending, each with the curve that their density is drawn as.
Spectra = Sequence[tuple[Curve, Floats]]


class Moment(NamedTuple):
    """The network that eigenvalues are of, and the moment."""

    group: str
    seed: int
    step: int
    moment: str
    """``at`` a step, or right ``before`` or ``after`` its mask update."""


def stored_spectra(evidence: Evidence, groups: Sequence[str], moments: Sequence[str]) -> dict[Moment, Floats]:
    """Eigenvalues of some groups, ascending; where a network has several, those from the most training images."""
    table = evidence.table("eigenvalues")
    rows = table[table["group"].isin(groups) & table["moment"].isin(moments)]
    if rows.empty:
        raise NotEnoughRunsError(
            f"eigenvalues has nothing of {', '.join(groups)}. Make it:\nsparseflow reproduce spectra"
        )
    found = {}
    for key, values in rows.groupby([*Moment._fields, "examples"], sort=True)["eigenvalue"]:
        assert isinstance(key, tuple)
        group, seed, step, moment, _ = key
        found[Moment(str(group), int(str(seed)), int(str(step)), str(moment))] = np.sort(values.to_numpy(dtype=float))
    return found


def chosen(
    stored: Mapping[Moment, Floats], wanted: Iterable[tuple[Any, str, Curve, Moment]], *, points: int = POINTS
) -> tuple[dict[Any, list[tuple[Curve, Floats]]], pd.DataFrame]:
    """The wanted spectra that are stored, by panel, and the table of their densities.

    Args:
        stored: All spectra.
        wanted: Panel, label in the table, curve and moment of each.
        points: Of each density in the table.
    """
    found: dict[Any, list[tuple[Curve, Floats]]] = {}
    tables = []
    for panel, label, curve, key in wanted:
        if key in stored:
            found.setdefault(panel, []).append((curve, stored[key]))
            tables.append(density_table(label, key, stored[key], points=points))
    return found, pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()


def first_seed(spectra: Iterable[Moment]) -> int:
    """The lowest seed that every group has.

    >>> first_seed([Moment("a", 0, 9, "at"), Moment("a", 1, 9, "at"), Moment("b", 1, 9, "at")])
    1
    """
    seeds: dict[str, set[int]] = {}
    for key in spectra:
        seeds.setdefault(key.group, set()).add(key.seed)
    return min(set.intersection(*seeds.values()) or set.union(*seeds.values()))


def chosen_steps(steps: Sequence[int], *, often: int) -> list[int]:
    """The paper's four checkpoints where they are there (``often`` is 100), else up to four, evenly chosen.

    >>> chosen_steps([100, 200, 500, 2000, 9000, 10000], often=100), chosen_steps([7, 9], often=100)
    ([200, 500, 2000, 10000], [7, 9])
    """
    wanted = [often * k for k in (2, 5, 20, 100)]
    if set(wanted) <= set(steps):
        return wanted
    return [steps[i] for i in np.unique(np.linspace(0, len(steps) - 1, min(4, len(steps))).round().astype(int))]


def drawn_density(eigenvalues: Floats, low: float, high: float, *, points: int = POINTS) -> tuple[Floats, Floats]:
    """Positions and densities on ``[low, high]``, at most ``points`` of them.

    The density is computed on a fine grid; of each stretch its lowest and its highest point are kept, so that no peak
    is lost.

    >>> at, density = drawn_density(np.array([0.0, 1.0]), -1.0, 2.0)
    >>> peak = float(at[density.argmax()])
    >>> len(at) <= POINTS, min(abs(peak), abs(peak - 1)) < 0.01
    (True, True)
    """
    grid = torch.linspace(low, high, GRID, dtype=torch.float64)
    density = spectral_density(torch.from_numpy(eigenvalues), grid=grid).density.numpy()
    places = grid.numpy()
    kept = []
    for stretch in np.array_split(np.arange(GRID), points // 2):
        kept += sorted({int(stretch[density[stretch].argmin()]), int(stretch[density[stretch].argmax()])})
    return places[kept], density[kept]


def ends(spectra: Sequence[Floats]) -> tuple[float, float]:
    """A little beyond the smallest and the largest of all eigenvalues."""
    low, high = min(values[0] for values in spectra), max(values[-1] for values in spectra)
    margin = 0.03 * (high - low)
    return float(low - margin), float(high + margin)


def negative_ends(spectra: Sequence[Floats]) -> tuple[float, float]:
    """The negative side, and half as much of the positive one."""
    low = min(-1e-3, *(float(values[0]) for values in spectra))
    return 1.1 * low, -0.5 * low


def axes_of(axes: Axes, low: float, high: float) -> None:
    """Eigenvalues across, their density on a logarithmic axis."""
    log_scale(axes)
    axes.yaxis.set_minor_locator(NullLocator())
    axes.set_ylim(FLOOR, TOP)
    axes.set_xlim(low, high)
    axes.xaxis.set_major_locator(MaxNLocator(4))


def draw(axes: Axes, spectra: Spectra, limits: tuple[float, float]) -> None:
    """One line per spectrum."""
    axes_of(axes, *limits)
    for curve, values in spectra:
        at, density = drawn_density(values, *limits)
        axes.plot(at, density.clip(min=FLOOR / 10), linewidth=1.2, **line_style(without_marker(curve).look))


def without_marker(curve: Curve) -> Curve:
    """The curve as a density is drawn, which has no room for markers."""
    return curve._replace(look=curve.look._replace(marker=""))


def legend(figure: Figure, spectra: Iterable[Spectra], *, narrow: bool) -> None:
    """The name of each density, on top of the figure."""
    curve_legend(figure, [without_marker(curve) for of_one in spectra for curve, _ in of_one], narrow=narrow)


def density_table(label: str, key: Moment, values: Floats, *, points: int = POINTS) -> pd.DataFrame:
    """The points of a drawn density, tidy."""
    at, density = drawn_density(values, *ends([values]), points=points)
    return pd.DataFrame({"label": label, **key._asdict(), "eigenvalue": at, "density": density})
