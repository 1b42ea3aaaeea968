"""A page: an HTML file, with its figures and tables as files beside it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib import rc_context

from sparseflow.atomic import remove_leftovers, write_atomically
from sparseflow.disk import listed, make_folder, remove
from sparseflow.lab.page.evidence import Evidence, NotEnoughRunsError
from sparseflow.lab.page.exhibit import Content, Drawing, Exhibit
from sparseflow.lab.page.panels import WIDE
from sparseflow.lab.page.svg import STYLE, svg_file, svg_text
from sparseflow.sealed import SUMS, sums
from sparseflow.training.runs import Run

_NUMBER = re.compile(r"-?\d+\.\d{3,}")
_PATH = re.compile(r' d="[^"]*"')
#: Iterates over named exhibits; the command line shows its progress with it.
Watched = Callable[[Sequence[tuple[str, Exhibit]]], Iterable[tuple[str, Exhibit]]]


@dataclass(frozen=True)
class Picture:
    """A drawing in both widths, as files that the page shows."""

    drawing: Drawing
    wide: bytes
    narrow: bytes
    share: float
    """Fraction of the page's width that the wide one takes, so that all are drawn at one scale."""
    aspect: tuple[float, float]
    """Width and height of the wide one: the page keeps its place free before it is loaded."""

    @property
    def files(self) -> dict[str, bytes]:
        """File name below ``figures/`` -> SVG."""
        return {f"{self.drawing.name}.svg": self.wide, f"{self.drawing.name}-narrow.svg": self.narrow}


@dataclass(frozen=True)
class Missing:
    """One thing that is not there, and the command that makes it."""

    text: str
    command: str


@dataclass(frozen=True)
class Shown:
    """One exhibit as it stands on the page."""

    name: str
    """Anchor on the page."""
    exhibit: Exhibit
    content: Content | None = None
    """None where nothing of it can be shown."""
    pictures: Sequence[Picture] = ()
    missing: Sequence[Missing] = ()


def show_all(
    exhibits: Mapping[str, Exhibit], evidence: Evidence, scale: Any, *, watched: Watched = iter
) -> list[Shown]:
    """Build every exhibit, by name; one that lacks everything says what to type."""
    return [_show(name, exhibit, evidence, scale) for name, exhibit in watched(list(exhibits.items()))]


def _show(name: str, exhibit: Exhibit, evidence: Evidence, scale: Any) -> Shown:
    if exhibit.build is None:
        return Shown(name, exhibit)
    try:
        content = exhibit.build(evidence, scale)
    except NotEnoughRunsError as error:
        return Shown(name, exhibit, missing=missing_of([str(error)]))
    pictures = [_picture(drawing) for drawing in content.drawings]
    return Shown(name, exhibit, content, pictures, missing_of(content.missing))


def missing_of(messages: Sequence[str]) -> list[Missing]:
    r"""The texts of :class:`NotEnoughRunsError`, taken apart: a line of text, then a line to type.

    >>> missing_of(["mds was not measured. Make it:\nsparseflow reproduce mds"])
    [Missing(text='mds was not measured. Make it:', command='sparseflow reproduce mds')]
    """
    lines = [line for message in messages for line in message.splitlines()]
    pairs = zip(lines[::2], lines[1::2], strict=True)
    return list(dict.fromkeys(Missing(text, command) for text, command in pairs))


def _picture(drawing: Drawing) -> Picture:
    with rc_context(STYLE):
        wide, narrow = drawing.draw(narrow=False), drawing.draw(narrow=True)
    files = []
    for figure in (wide, narrow):
        text = compact(svg_text(figure, name=drawing.name, alt=drawing.alt))
        files.append(svg_file(text if drawing.finish is None else drawing.finish(text, figure)))
    width, height = wide.get_size_inches()
    aspect = round(100 * width), round(100 * height)
    return Picture(drawing, files[0], files[1], share=min(1.0, width / WIDE), aspect=aspect)


def compact(svg: str) -> str:
    """Coordinates of paths to a hundredth of a point, which no screen shows.

    >>> compact('<path d="M 1.23456 2&#10;L -0.001 7.5" />')
    '<path d="M 1.23 2 L 0 7.5" />'
    """

    def shorter(path: re.Match[str]) -> str:
        text = re.sub(r"\s*&#10;\s*", " ", path.group())
        return _NUMBER.sub(lambda number: f"{round(float(number.group()), 2) + 0.0:g}", text)

    return _PATH.sub(shorter, svg)


def write_page(
    out: Path,
    template: str,
    shown: Sequence[Shown],
    *,
    files: Mapping[str, bytes],
    digits: int | None = 7,
    **values: Any,
) -> Path:
    """Write ``index.html`` and everything beside it under ``out``; return the page's path.

    The page needs no network and nothing but its folder. Every file is written whole or not at all, the page last;
    figures and tables of an earlier page that are not on this one are removed. ``SHA256SUMS`` has the digests of all
    files, for ``sha256sum --check``.

    Args:
        out: Folder; made where it does not exist.
        template: File name among the templates.
        shown: Exhibits; their drawings go to ``figures/``, their tables to ``tables/``.
        files: More files, by path below ``out``.
        digits: Significant digits of numbers in the CSVs of exhibits; None for all.
        values: What the template is given beside ``shown``.
    """
    page = _environment().get_template(template).render(shown=shown, **values).encode()
    written = {**files, **_files_of(shown, digits=digits)}
    for folder in (out / "figures", out / "tables"):
        remove_leftovers(folder)
        for old in listed(folder):
            if old.relative_to(out).as_posix() not in written and old.suffix in (".svg", ".csv"):
                remove(old)
    for name, content in {**written, SUMS: sums({**written, "index.html": page}), "index.html": page}.items():
        make_folder((out / name).parent)
        write_atomically(out / name, content)
    return out / "index.html"


def _files_of(shown: Sequence[Shown], *, digits: int | None) -> dict[str, bytes]:
    files: dict[str, bytes] = {}
    for each in shown:
        for picture in each.pictures:
            files |= {f"figures/{name}": svg for name, svg in picture.files.items()}
            files[f"figures/{picture.drawing.name}.csv"] = as_csv(picture.drawing.data, digits=digits)
        for table in each.content.tables if each.content else ():
            files[f"tables/{table.name}.csv"] = as_csv(table.data, digits=digits)
    return files


def as_csv(table: pd.DataFrame, *, digits: int | None = 7) -> bytes:
    """A table as a file, its numbers to ``digits`` significant digits, or all where that is None."""
    return table.to_csv(index=False, float_format=None if digits is None else f"%.{digits}g").encode()


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("sparseflow.lab"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    # A percent sign stays on the line of its number.
    environment.filters["tied"] = lambda sentence: sentence.replace(" %", "\N{NO-BREAK SPACE}%")
    return environment


def hardware(runs: Sequence[Run]) -> dict[str, str]:
    """Machine and versions as stored with the runs, nested keys joined by dots; several values where runs differ.

    >>> env = {"torch": "2.13.0", "cpu": {"cores": 2}}
    >>> hardware([Run(None, Path("run"), pd.DataFrame(), {}, env, 1.0)])
    {'torch': '2.13.0', 'cpu.cores': '2'}
    """
    values: dict[str, dict[str, None]] = {}
    for run in runs:
        for key, value in _flat(run.env):
            values.setdefault(key, {})[str(value)] = None
    return {key: " / ".join(distinct) for key, distinct in values.items()}


def _flat(nested: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    pairs: list[tuple[str, Any]] = []
    for key, value in nested.items():
        pairs.extend(_flat(value, f"{prefix}{key}.") if isinstance(value, dict) else [(prefix + key, value)])
    return pairs
