"""Formulas as drawings: no script and no font has to be loaded, and they take the colour of the text."""

from __future__ import annotations

import html
import re
from functools import cache

import numpy as np
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import TextToPath

#: Height of a lower-case x in the text around, over the font size of the drawing.
_SIZE = 10.0
#: Commands that matplotlib's TeX does not have -> those that it has.
_SPELLED = {
    r"\lVert": r"\|",
    r"\rVert": r"\|",
    r"\tfrac": r"\frac",
    r"\top": r"\mathsf{T}",
    r"\le ": r"\leq ",
    r"\ge ": r"\geq ",
    r"\max": r"\operatorname{max}",
    r"\textstyle": "",
    **dict.fromkeys((r"\bigl", r"\bigr", r"\Bigl", r"\Bigr", r"\Big"), ""),
}

#: An argument of one character, without its braces.
_BARE = re.compile(r"(\\(?:sqrt|mathcal|mathsf|hat|bar))\s+(\w)")


@cache
def drawn(formula: str) -> str:
    """An SVG of a formula in TeX, on one line.

    Raises:
        ValueError: if it has a command that cannot be drawn.
    """
    text = " ".join(formula.split())
    for command, known in _SPELLED.items():
        text = text.replace(command, known)
    text = re.sub(r"\\frac(\w)(\w)", r"\\frac{\1}{\2}", text)
    text = _BARE.sub(r"\1{\2}", text)
    paths = TextToPath()
    font = FontProperties(size=_SIZE, math_fontfamily="dejavuserif")
    try:
        width, height, descent = paths.get_text_width_height_descent(f"${text}$", font, ismath=True)
        vertices, codes = paths.get_text_path(font, f"${text}$", ismath=True)
    except ValueError as error:
        raise ValueError(f"the formula {formula!r} cannot be drawn: {error}") from error
    points_of = np.asarray(vertices) * (_SIZE / paths.FONT_SCALE)
    parts, letters = [], {1: ("M", 1), 2: ("L", 1), 3: ("Q", 2), 4: ("C", 3), 79: ("Z", 0)}
    index = 0
    while index < len(codes):
        letter, points = letters[int(codes[index])]
        numbers = points_of[index : index + points].round(2)
        parts.append(letter + " ".join(f"{x:g} {-y:g}" for x, y in numbers))
        index += max(points, 1)
    box = f"0 {descent - height - 0.5:.2f} {width + 0.5:.2f} {height + 1:.2f}"
    style = f"height:{(height + 1) / _SIZE:.2f}em;vertical-align:{-(descent + 0.5) / _SIZE:.2f}em"
    label = html.escape(text, quote=True).replace("_", "&#95;").replace("*", "&#42;").replace("\\", "&#92;")
    return (
        f'<svg class="formula" role="img" aria-label="{label}" viewBox="{box}" style="{style}">'
        f'<path fill="currentColor" d="{"".join(parts)}"/></svg>'
    )
