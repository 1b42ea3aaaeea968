"""Matplotlib figures as SVG that takes its ink from the page: readable on light and on dark."""

from __future__ import annotations

import io
import re
from typing import Any
from xml.etree import ElementTree

import matplotlib
from matplotlib.figure import Figure

#: Stands for the text colour while Matplotlib draws; becomes ``currentColor`` in the SVG.
INK = "#010203"
#: The colours of every look. Okabe and Ito's, told apart under the common colour vision deficiencies; for their black
#: the page's ink.
PALETTE = {
    "orange": "#E69F00",
    "sky": "#56B4E9",
    "green": "#009E73",
    "blue": "#0072B2",
    "vermillion": "#D55E00",
    "purple": "#CC79A7",
    "grey": "#8C8C8C",
    "ink": INK,
}

#: Matplotlib settings to draw under. Sizes are points; a page shows a wide figure 1.4 times as large, a narrow one 1.1.
STYLE: Any = {
    "font.size": 9,
    "font.family": "sans-serif",
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.facecolor": "none",
    "axes.linewidth": 0.7,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": INK,
    "grid.alpha": 0.13,
    "grid.linewidth": 0.6,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "text.color": INK,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "legend.handlelength": 2.8,
    "figure.facecolor": "none",
    "lines.linewidth": 1.7,
    "lines.markersize": 4.5,
}

_SVG = "{http://www.w3.org/2000/svg}"
_HREF = "{http://www.w3.org/1999/xlink}href"
_FONT_FAMILY = re.compile(r"font-family: [^;]*(; |$)")
_DAY_AND_NIGHT = "svg { color: #1b1f24 } @media (prefers-color-scheme: dark) { svg { color: #e6e8eb } }"


def svg_text(figure: Figure, *, name: str, alt: str) -> str:
    """The figure as an ``<svg>`` element.

    Text stays text in the reader's font, ``INK`` becomes ``currentColor``, every id is prefixed with ``name``, and
    nothing in it refers to another file.

    Args:
        figure: drawn under ``STYLE``, colours from ``PALETTE`` and ``INK``.
        name: unique on the page.
        alt: what is seen, in words and numbers; becomes ``aria-label``.

    >>> text = svg_text(Figure(figsize=(1, 1), facecolor="none"), name="empty", alt="nothing at all")
    >>> text.startswith("<svg"), 'aria-label="nothing at all"' in text, "http" in text
    (True, True, False)
    """
    root = _drawn(figure, name=name)
    referenced = set(re.findall(r'(?:href="#|url\(#)([^")]+)', ElementTree.tostring(root, encoding="unicode")))
    for element in root.iter():
        element.tag = element.tag.removeprefix(_SVG)
        _localise(element.attrib, referenced, name)
    for size in ("width", "height"):
        root.attrib.pop(size, None)
    root.set("role", "img")
    root.set("aria-label", alt)
    root.set("fill", "currentColor")
    root.set("style", "stroke-linejoin: round; stroke-linecap: butt; font-family: system-ui, sans-serif")
    return ElementTree.tostring(root, encoding="unicode")


def svg_file(text: str) -> bytes:
    """The SVG of :func:`svg_text` as a file: with a title, and with light and dark ink, whichever its reader has."""
    root = ElementTree.fromstring(text)
    root.set("xmlns", "http://www.w3.org/2000/svg")
    title, style = ElementTree.Element("title"), ElementTree.Element("style")
    title.text, style.text = root.get("aria-label"), _DAY_AND_NIGHT
    root[:0] = [title, style]
    written: bytes = ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
    return written


def _drawn(figure: Figure, *, name: str) -> ElementTree.Element:
    buffer = io.BytesIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    root = ElementTree.fromstring(buffer.getvalue())
    # The <defs> with a <style> is a rule for every element, so for the whole page; the other <defs> are in use.
    for unwanted in [*root.findall(f"{_SVG}metadata"), *root.findall(f"{_SVG}defs[{_SVG}style]")]:
        root.remove(unwanted)
    return root


def _localise(attributes: dict[str, str], referenced: set[str], name: str) -> None:
    if (target := attributes.pop(_HREF, None)) is not None:
        attributes["href"] = f"#{name}-{target.removeprefix('#')}"
    if (identifier := attributes.pop("id", None)) in referenced:
        attributes["id"] = f"{name}-{identifier}"
    for key, value in attributes.items():
        text = value.replace("url(#", f"url(#{name}-")
        if key in ("style", "fill", "stroke"):
            text = _FONT_FAMILY.sub("", text.replace(INK, "currentColor"))
        attributes[key] = text
