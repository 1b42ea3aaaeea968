"""The Hessian's spectrum over training as a film, frames of one SVG that CSS shows in turn, and as stills."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sparseflow.lab.page.evidence import Evidence, NotEnoughRunsError
from sparseflow.lab.page.exhibit import Content, Drawing
from sparseflow.lab.page.panels import Curve, label_left, layout
from sparseflow.lab.page.svg import PALETTE
from sparseflow.lab.page.words import number
from sparseflow.paper.exhibits import densities
from sparseflow.paper.exhibits.densities import Floats, Spectra
from sparseflow.paper.exhibits.spectra import TRAINED, checkpoints, over_training
from sparseflow.paper.matrix.scale import Scale

#: How long a frame is shown.
SECONDS = 0.5
#: Points of a curve in a frame; the CSV has as many.
POINTS = 160
#: Frames among the stills.
STILLS = 8
#: Matplotlib works in points of 1/72 inch in an SVG.
SVG_DPI = 72
_DASHES = {"-": "", ":": "1.2 2", "--": "4.5 2", "-.": "6 2 1.2 2"}
#: Selectors are of the film alone; who asks for less motion sees the last frame.
_STYLE = """
.film-frame {{ opacity: 0; animation: film {length:g}s step-end infinite }}
@keyframes film {{ 0% {{ opacity: 1 }} {share:.4f}% {{ opacity: 0 }} }}
@media (prefers-reduced-motion: reduce) {{ .film-frame {{ animation: none }} .film-last {{ opacity: 1 }} }}
@media print {{ .film-frame {{ animation: none }} .film-last {{ opacity: 1 }} }}
"""

#: Step -> the spectra of that moment.
Frames = Mapping[int, Spectra]
#: Step -> for each panel the curves: positions and densities.
Screens = Mapping[int, Sequence[Sequence[tuple[Curve, Floats, Floats]]]]


def film(evidence: Evidence, scale: Scale) -> Content:
    """Every stored spectrum over training, as frames and as stills."""
    stored = densities.stored_spectra(evidence, list(TRAINED), ("at",))
    seed = densities.first_seed(stored)
    steps = sorted({key.step for key in stored} & {*checkpoints(scale)})
    frames, data = densities.chosen(stored, over_training(seed, steps), points=POINTS)
    if not frames:
        raise NotEnoughRunsError("eigenvalues has nothing over training. Make it:\nsparseflow reproduce spectra")
    sentences = [_widest(frames)]
    first, last = min(frames), max(frames)
    how = f"Each frame is one step of training, from {first} to {last}; seed {seed}. "
    return Content(
        shows=sentences,
        drawings=[
            Drawing(
                name="film",
                how=how + "Left (above) the whole spectrum, beside it (below) its negative side; axes are as in the "
                "densities before. The film repeats; where less motion is asked for it stands still at the last frame.",
                alt=f"Film of {len(frames)} frames: densities of Hessian eigenvalues over training. {sentences[0]}",
                draw=partial(draw_screen, frames),
                data=data,
                finish=partial(with_frames, _screens(frames)),
                animated=True,
            ),
            Drawing(
                name="film-stills",
                how=how + "The same as stills, the whole spectrum, evenly chosen.",
                alt=f"Stills of the film. {sentences[0]}",
                draw=partial(draw_stills, _stills(frames)),
                data=data[data["step"].isin(_stills(frames))],
            ),
        ],
    )


def _stills(frames: Frames) -> Frames:
    steps = list(frames)
    chosen = np.unique(np.linspace(0, len(steps) - 1, min(STILLS, len(steps))).round().astype(int))
    return {steps[i]: frames[steps[i]] for i in chosen}


def _widest(frames: Frames) -> str:
    parts = []
    for curve, _ in next(iter(frames.values())):
        of_curve = {step: values for step, spectra in frames.items() for other, values in spectra if other == curve}
        top = max(of_curve, key=lambda step: of_curve[step][-1])
        bottom = min(of_curve, key=lambda step: of_curve[step][0])
        parts.append(
            f"{curve.label} reaches up to {number(float(of_curve[top][-1]))} at step {top} and down to "
            f"{number(float(of_curve[bottom][0]))} at step {bottom}"
        )
    return "; ".join(parts) + "."


def _limits(frames: Frames) -> tuple[tuple[float, float], tuple[float, float]]:
    every = [values for spectra in frames.values() for _, values in spectra]
    return densities.ends(every), densities.negative_ends(every)


def draw_screen(frames: Frames, *, narrow: bool = False) -> Figure:
    """The axes that all frames share, with nothing in them."""
    figure, axes = layout(2, narrow=narrow, columns=2, height=3.4)
    for panel, limits, title in zip(axes, _limits(frames), ("All", "Negative side"), strict=True):
        densities.axes_of(panel, *limits)
        panel.set_title(title)
        panel.set_xlabel("Eigenvalue")
    label_left(axes, "Density (share per unit)")
    densities.legend(figure, frames.values(), narrow=narrow)
    return figure


def _screens(frames: Frames) -> Screens:
    """The densities that each frame draws."""
    limits = _limits(frames)
    return {
        step: [
            [(curve, *densities.drawn_density(values, low, high, points=POINTS)) for curve, values in spectra]
            for (low, high) in limits
        ]
        for step, spectra in frames.items()
    }


def with_frames(screens: Screens, svg: str, figure: Figure) -> str:
    """Put the frames into the SVG of their axes, each shown in its turn."""
    length = SECONDS * len(screens)
    layers = [f"<style>{_STYLE.format(length=length, share=100 / len(screens))}</style>"]
    for index, (step, screen) in enumerate(screens.items()):
        paths = [
            f'<path d="{path}" fill="none" stroke="{PALETTE[curve.look.colour]}" stroke-width="1.3" '
            f'stroke-dasharray="{_DASHES[curve.look.line]}" />'
            for axes, densities in zip(figure.axes, screen, strict=True)
            for curve, at, density in densities
            if (path := _path(axes, at, density))
        ]
        x, y = _place(figure.axes[0], np.array([[0.97, 0.9]]), of_axes=True)[0]
        label = f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="end" font-size="13" font-weight="bold">Step {step}</text>'
        last = " film-last" if index == len(screens) - 1 else ""
        layers.append(
            f'<g class="film-frame{last}" style="animation-delay: {index * SECONDS:g}s">{"".join(paths)}{label}</g>'
        )
    return svg.removesuffix("</svg>") + "".join(layers) + "</svg>"


def _place(axes: Axes, points: Floats, *, of_axes: bool = False) -> Floats:
    """Coordinates in the SVG of points of a panel, once the figure was drawn."""
    figure = axes.get_figure(root=True)
    assert figure is not None
    pixels = (axes.transAxes if of_axes else axes.transData).transform(points)
    scaled = np.asarray(pixels, dtype=float) * (SVG_DPI / figure.dpi)
    scaled[:, 1] = figure.get_figheight() * SVG_DPI - scaled[:, 1]
    return scaled


def _path(axes: Axes, at: Floats, density: Floats) -> str:
    """A path along the parts of a curve that are above the floor."""
    shown = density > densities.FLOOR
    shown |= np.append(shown[1:], False) | np.append(False, shown[:-1])
    places = _place(axes, np.column_stack([at, density.clip(min=densities.FLOOR)]))
    parts, pen = [], ""
    for (x, y), visible in zip(places, shown, strict=True):
        if visible:
            parts.append(f"{'L' if pen else 'M'}{x:.1f} {y:.1f}")
        pen = "down" if visible else ""
    return "".join(parts)


def draw_stills(frames: Frames, *, narrow: bool = False) -> Figure:
    """Small panels, one per step."""
    figure, axes = layout(
        len(frames), narrow=narrow, columns=4, narrow_columns=2, height=2.1, narrow_height=1.7, share=True
    )
    limits, _ = _limits(frames)
    for panel, (step, spectra) in zip(axes, frames.items(), strict=True):
        densities.draw(panel, spectra, limits)
        panel.set_title(f"Step {step}")
    label_left(axes, "Density")
    for panel in axes[-2 if narrow else -4 :]:
        panel.set_xlabel("Eigenvalue")
    densities.legend(figure, frames.values(), narrow=narrow)
    return figure
